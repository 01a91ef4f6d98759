//! What a runtime tells.

use std::net::IpAddr;

use super::{ContainerId, Labels, SandboxId};
use crate::clock::Timestamp;

/// What a runtime is, and what it can't do. Whoever uses one refuses or reports what is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// What it is called, for people: `memory`, `process`, `docker`.
    pub name: Box<str>,
    /// Its version, or that of the engine behind it.
    pub version: Box<str>,
    /// Which image references it takes, in words, for messages.
    pub images: Box<str>,
    /// Whether [`Resources`](super::Resources) are enforced.
    pub limits: bool,
    /// Whether a mount appears at exactly its path; otherwise below a directory named by the variable
    /// `CONTAINER_SANDBOX_MOUNT_POINT`, as in the HostProcess containers of Windows nodes.
    pub exact_mounts: bool,
    /// Whether a container can run as another user than the runtime's.
    pub users: bool,
    /// Whether each sandbox has ports of its own; otherwise all share the node's, and only addresses are their own.
    pub own_network: bool,
    /// Whether a container can have a terminal.
    pub tty: bool,
}

/// A sandbox as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SandboxStatus {
    /// Which sandbox.
    pub id: SandboxId,
    /// As given when it was made.
    pub labels: Labels,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether containers can be started in it; if not, say after a reboot, creating it again makes it so.
    pub ready: bool,
    /// Its address on the pod network; absent with the node's network.
    pub address: Option<IpAddr>,
    /// Its containers, whatever their state, by id.
    pub containers: Vec<ContainerStatus>,
}

/// A container as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerStatus {
    /// Which attempt.
    pub id: ContainerId,
    /// As given when it was started.
    pub labels: Labels,
    /// The image, as given.
    pub image: Box<str>,
    /// The id of the image it runs.
    pub image_id: Box<str>,
    /// What it does.
    pub state: ContainerState,
}

/// What a container does. States only move down this list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, not yet started.
    Created,
    /// Running.
    Running {
        /// Since when.
        started_at: Timestamp,
        /// Its first process, if it has one that the node can name.
        pid: Option<u32>,
    },
    /// Ended by itself or by a signal.
    Exited {
        /// The exit status; 128 + n if ended by signal n.
        code: i32,
        /// Why it ended.
        reason: ExitReason,
        /// When it was started.
        started_at: Timestamp,
        /// When it ended, or was first seen to have.
        finished_at: Timestamp,
    },
}

impl ContainerState {
    /// Whether it runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self, Self::Running { .. })
    }

    /// The exit status, if it has ended.
    #[must_use]
    pub fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Exited { code, .. } => Some(*code),
            Self::Created | Self::Running { .. } => None,
        }
    }
}

/// Why a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitReason {
    /// It returned, or a signal ended it.
    Ended,
    /// It used more memory than it may.
    OutOfMemory,
    /// It is gone and nobody saw how; the code is [`LOST_CODE`](Self::LOST_CODE).
    Lost,
}

impl ExitReason {
    /// The code of a container whose own is not known: that of a killed one.
    pub const LOST_CODE: i32 = 137;
}
