//! Stores: where a cluster remembers.
//!
//! Each implements [`orchestra_core::store::Store`] and passes its conformance suite.
//!
//! | store | keeps its data | for |
//! |---|---|---|
//! | [`MemoryStore`] | in this process | tests, simulations, throw-away clusters |
//! | [`DurableStore`] | in a directory of files, and in this process | clusters that survive a crash |
//! | `EtcdStore`, behind the feature `etcd` | in etcd | clusters with several API servers |

mod state;
mod view;

mod durable;
mod memory;

#[cfg(feature = "etcd")]
pub mod etcd;

#[cfg(feature = "etcd")]
pub use etcd::{EtcdOptions, EtcdStore};

pub use durable::{DurableOptions, DurableStore, OpenError};
pub use memory::MemoryStore;
pub use state::HistoryLimits;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
