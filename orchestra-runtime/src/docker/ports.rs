//! Ports of sandboxes: those of the addresses that the engine gave them, which its machine reaches.

use std::net::{IpAddr, Ipv4Addr};

use async_trait::async_trait;
use orchestra_core::runtime::{BoxIo, Error, Result, SandboxId, SandboxPorts};
use tokio::net::TcpStream;

use super::{
    DockerRuntime,
    convert::{Made, made, sandbox_name},
};

#[async_trait]
impl SandboxPorts for DockerRuntime {
    async fn connect(&self, id: &SandboxId, port: u16) -> Result<BoxIo> {
        let inspected = self.inspect(&sandbox_name(&self.node, id)).await?;
        let Some(Made::Sandbox(sandbox)) = inspected.as_ref().and_then(made) else {
            return Err(Error::NoSandbox(id.clone()));
        };
        // One with the node's network has no address of its own.
        let address = sandbox.address.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let stream = TcpStream::connect((address, port)).await.map_err(Error::unavailable)?;
        Ok(Box::new(stream))
    }
}
