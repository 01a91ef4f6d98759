//! Stores: where a cluster remembers.
//!
//! Each implements [`orchestra_core::store::Store`] and passes its conformance suite.
//!
//! | store | keeps its data | for |
//! |---|---|---|
//! | [`MemoryStore`] | in this process | tests, simulations, throw-away clusters |
//! | [`DurableStore`] | in a directory of files, and in this process | clusters that survive a crash |
//! | `EtcdStore`, behind the feature `etcd` | in etcd | clusters with several API servers |
//!
//! Over any of them, and over one another, go the wrappers of [`wrap`]: [`Prefixed`], [`Encrypted`], [`Counted`], [`Slow`]
//! and [`Faulty`].

mod state;
mod view;

pub mod durable;
mod memory;
mod retain;

#[cfg(feature = "etcd")]
pub mod etcd;

pub mod wrap;

#[cfg(feature = "etcd")]
pub use etcd::{EtcdOptions, EtcdStore};

pub use durable::{DurableError, DurableOptions, DurableStore};
pub use memory::MemoryStore;
pub use retain::{Retain, retain};
pub use state::HistoryLimits;
pub use wrap::{Counted, Encrypted, Faulty, Prefixed, Slow};

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
