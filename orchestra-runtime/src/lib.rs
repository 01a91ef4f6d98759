//! What runs containers on a node.
//!
//! A [`ContainerRuntime`](orchestra_core::runtime::ContainerRuntime) runs them: [`MemoryRuntime`] pretends to, for tests
//! and simulations; [`ProcessRuntime`] makes each a group of plain processes, without root; `DockerRuntime` (feature
//! `docker`) hands them to a Docker Engine. A [`Kubelet`] runs the pods of its node on any of them, and [`remove_all`]
//! leaves nothing of one behind.

pub mod address;
mod causes;
mod hints;

#[cfg(feature = "docker")]
pub mod docker;

pub mod memory;

#[cfg(target_os = "linux")]
pub mod process;

pub mod kubelet;

mod removal;

#[cfg(feature = "docker")]
pub use docker::DockerRuntime;
pub use kubelet::Kubelet;
pub use memory::MemoryRuntime;
#[cfg(target_os = "linux")]
pub use process::ProcessRuntime;
pub use removal::{remove_all, stop_all};

/// The examples of the README.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
mod readme {}
