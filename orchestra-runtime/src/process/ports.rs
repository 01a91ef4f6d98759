//! Ports of sandboxes: those of their addresses on this machine.

use std::net::Ipv4Addr;

use async_trait::async_trait;
use orchestra_core::runtime::{BoxIo, Error, Result, SandboxId, SandboxPorts};
use tokio::net::TcpStream;

use super::ProcessRuntime;

#[async_trait]
impl SandboxPorts for ProcessRuntime {
    async fn connect(&self, id: &SandboxId, port: u16) -> Result<BoxIo> {
        let sandbox = self.sandbox(id).ok_or_else(|| Error::NoSandbox(id.clone()))?;
        let address = sandbox.record.address.unwrap_or(Ipv4Addr::LOCALHOST);
        let stream = TcpStream::connect((address, port)).await.map_err(Error::unavailable)?;
        Ok(Box::new(stream))
    }
}
