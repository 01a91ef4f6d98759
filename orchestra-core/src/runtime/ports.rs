//! Connections to ports of sandboxes.

use async_trait::async_trait;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Result, SandboxId};

/// A stream of bytes both ways.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A stream of bytes both ways, whatever it is made of.
pub type BoxIo = Box<dyn Io>;

/// An optional ability of a [`ContainerRuntime`](super::ContainerRuntime): to reach a sandbox's ports from the node.
///
/// Probes and port-forwarding go this way, so that they work where a sandbox's address can't be reached, and in memory.
#[async_trait]
pub trait SandboxPorts: Send + Sync {
    /// Connects to a TCP port of a sandbox, at its own address.
    ///
    /// # Errors
    ///
    /// [`NoSandbox`](super::Error::NoSandbox); [`Unavailable`](super::Error::Unavailable) with the
    /// [`std::io::Error`] as its source, if nothing listens there.
    async fn connect(&self, id: &SandboxId, port: u16) -> Result<BoxIo>;
}
