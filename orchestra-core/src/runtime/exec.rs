//! Commands run inside a running container.

use std::{fmt, pin::Pin};

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{ContainerId, Result};

/// An optional ability of a [`ContainerRuntime`](super::ContainerRuntime): to run a command in a container.
#[async_trait]
pub trait ContainerExec: Send + Sync {
    /// Starts a command in a running container, with the container's own environment and working directory.
    ///
    /// # Errors
    ///
    /// [`NoContainer`](super::Error::NoContainer) if it doesn't run; [`Start`](super::Error::Start) if the command can't.
    async fn exec(&self, id: &ContainerId, spec: &ExecSpec) -> Result<ExecSession>;
}

/// What to run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// The program and its arguments; not empty.
    pub command: Vec<Box<str>>,
    /// Whether the caller will send input; otherwise the command reads the end of file.
    pub stdin: bool,
    /// Whether the command gets a terminal, to which both its outputs go.
    pub tty: bool,
}

/// A command in progress. Dropping it whole ends the command.
pub struct ExecSession {
    /// What the command reads, if asked for; dropping it is the end of file.
    pub stdin: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    /// What the command writes; with a terminal, all of it.
    pub stdout: Pin<Box<dyn AsyncRead + Send>>,
    /// What the command complains; absent with a terminal.
    pub stderr: Option<Pin<Box<dyn AsyncRead + Send>>>,
    /// Ends, sizes and outlives the streams.
    pub control: Box<dyn ExecControl>,
}

impl fmt::Debug for ExecSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecSession").finish_non_exhaustive()
    }
}

/// The handle on a command in progress; dropping it ends the command.
#[async_trait]
pub trait ExecControl: Send + Sync {
    /// Tells the command how large its terminal is; nothing without one.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](super::Error::Unavailable).
    async fn resize(&self, size: TerminalSize) -> Result<()>;

    /// Waits for the command to end; returns its exit status, 128 + n if ended by signal n, each time it is asked.
    ///
    /// The outputs may hold more to read after that.
    ///
    /// # Cancellation
    ///
    /// The command goes on.
    ///
    /// # Errors
    ///
    /// [`Unavailable`](super::Error::Unavailable).
    async fn wait(&self) -> Result<i32>;
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}
