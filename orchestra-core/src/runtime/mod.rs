//! Contract: how a node runs containers.
//!
//! Few verbs, all idempotent, all named by the caller; `list` is the truth. The kubelet owns pod semantics (order of
//! init containers, restarts, backoff, probes, hooks, volumes); a runtime never does. What some runtimes lack is an
//! ability that may be absent ([`ContainerLogs`], [`ContainerExec`], [`SandboxPorts`]) or a [`Capabilities`] field that says so, and the
//! kubelet refuses or reports what its runtime can't do.

use std::{fmt, time::Duration};

use async_trait::async_trait;
use futures::stream::BoxStream;

mod error;
mod exec;
mod logs;
mod ports;
mod spec;
mod status;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use error::{Error, Result};
pub use exec::{ContainerExec, ExecControl, ExecSession, ExecSpec, TerminalSize};
pub use logs::{ContainerLogs, LOG_LINE_BYTES_MAX, LogLine, LogOptions, LogStream};
pub use ports::{BoxIo, Io, SandboxPorts};
pub use spec::{ContainerId, ContainerSpec, EnvVar, Labels, Mount, Resources, SandboxId, SandboxSpec, User};
pub use status::{Capabilities, ContainerState, ContainerStatus, ExitReason, SandboxStatus};

/// Runs containers in sandboxes on one node.
///
/// A sandbox is what a pod's containers share: an address, a host name, a life. The caller names everything, and every
/// call is idempotent, so that a kubelet that crashed need only [`list`](Self::list) and carry on.
///
/// # Laws
///
/// 1. **Idempotent.** A call whose effect already holds succeeds and changes nothing. A container that was started
///    once, and has exited since, is not started again: another start is another attempt, with another id.
/// 2. **Truthful.** After a call returns, `list` shows its effect.
/// 3. **Evidence stays.** An exited container is listed, with its code, its times and its logs, until removed.
/// 4. **Events are hints.** One may be late, repeated or lost; `list` is the truth.
/// 5. **Survives.** Dropping the runtime ends no container; opened again on the same node, it lists what it made, with
///    the exit codes of what ended meanwhile.
/// 6. **Ends.** What was stopped, or was in a removed sandbox, is gone with everything it started when the call
///    returns, and no later than the grace allows (SEMANTICS 53); addresses are not used twice at a time.
/// 7. **Honest.** What can't be done is an error or a capability, never ignored.
///
/// # Cancellation
///
/// Dropping the future of any call leaves a state in which the same call, made again, succeeds.
#[async_trait]
pub trait ContainerRuntime: fmt::Debug + Send + Sync + 'static {
    /// What this runtime is, and what it can't do.
    fn capabilities(&self) -> Capabilities;

    /// Makes `image` present on the node, as fresh as its source has it, and returns its id.
    ///
    /// # Errors
    ///
    /// [`Error::Image`] if its source hasn't got it or can't be reached.
    async fn pull_image(&self, image: &str) -> Result<Box<str>>;

    /// Returns the id of `image` if it is on the node already.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`].
    async fn image_id(&self, image: &str) -> Result<Option<Box<str>>>;

    /// Makes a sandbox exist and be ready.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if this runtime can't make such a sandbox.
    async fn create_sandbox(&self, id: &SandboxId, spec: &SandboxSpec) -> Result<()>;

    /// Kills and forgets a sandbox and all in it; an absent one is a success.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`].
    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()>;

    /// Starts a container, whose image is present.
    ///
    /// # Errors
    ///
    /// [`Error::NoSandbox`]; [`Error::Image`] if the image is absent; [`Error::Start`] if its program can't be run;
    /// [`Error::AsRoot`] if it may not run as root and would; [`Error::Invalid`] if this runtime can't do what `spec` asks.
    async fn start_container(&self, id: &ContainerId, spec: &ContainerSpec) -> Result<()>;

    /// Asks a container to end, and kills it after `grace`; returns once it has exited. An absent one is a success.
    ///
    /// A second call with a shorter grace shortens the first one's.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`].
    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()>;

    /// Forgets an exited container, its logs too; an absent one is a success.
    ///
    /// # Errors
    ///
    /// [`Error::Running`] if it hasn't exited.
    async fn remove_container(&self, id: &ContainerId) -> Result<()>;

    /// Every sandbox this runtime made, by id, with its containers, by id.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`].
    async fn list(&self) -> Result<Vec<SandboxStatus>>;

    /// Names sandboxes that may have changed, from now on, whoever changed them.
    ///
    /// The stream ends when the runtime does. It holds a bounded number of names; more are dropped (law 4).
    fn events(&self) -> BoxStream<'static, SandboxId>;

    /// What containers wrote, if this runtime keeps it.
    fn logs(&self) -> Option<&dyn ContainerLogs> {
        None
    }

    /// Commands run inside containers, if this runtime can.
    fn exec(&self) -> Option<&dyn ContainerExec> {
        None
    }

    /// Connections to ports of sandboxes, if this runtime can; for port-forwarding and for probes.
    fn ports(&self) -> Option<&dyn SandboxPorts> {
        None
    }
}
