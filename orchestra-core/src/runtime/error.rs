//! What can go wrong on a node.

use super::{ContainerId, SandboxId};
use crate::store::BoxError;

/// Why a runtime did not do as asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no such sandbox: create it first.
    #[error("no sandbox {0}")]
    NoSandbox(SandboxId),
    /// There is no such container, or it doesn't run.
    #[error("no running container {0}")]
    NoContainer(ContainerId),
    /// The container hasn't exited: stop it first.
    #[error("container {0} is running")]
    Running(ContainerId),
    /// The image can't be had; retry with a long backoff.
    #[error("image {image} is unavailable")]
    Image {
        /// The reference as given.
        image: Box<str>,
        /// What the registry or runtime said.
        #[source]
        source: BoxError,
    },
    /// The container's program can't be run; retry as if it had crashed.
    #[error("can't run {program}")]
    Start {
        /// The program as given.
        program: Box<str>,
        /// What the system said.
        #[source]
        source: BoxError,
    },
    /// The container may not run as root, and would, or nobody can tell: don't retry.
    #[error("the container may not run as root, and would run as {user:?}")]
    AsRoot {
        /// Whom it would run as: the number of root, or the name that its image has, empty if it has none.
        user: Box<str>,
    },
    /// The spec can't be had here: don't retry.
    #[error("invalid spec: {0}")]
    Invalid(Box<str>),
    /// The runtime can't be reached: retry.
    #[error("container runtime unavailable")]
    Unavailable(#[source] BoxError),
}

impl Error {
    /// Wraps a failure of what the runtime stands on.
    pub fn unavailable(source: impl Into<BoxError>) -> Self {
        Self::Unavailable(source.into())
    }
}

/// A result of a [`ContainerRuntime`](super::ContainerRuntime).
pub type Result<T, E = Error> = std::result::Result<T, E>;
