//! Ports of pretended sandboxes: what answers probes.

use async_trait::async_trait;
use orchestra_core::runtime::{BoxIo, Error, Result, SandboxId, SandboxPorts};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, DuplexStream};

use crate::memory::MemoryRuntime;

/// How much a connection holds each way, in bytes.
const CONNECTION_BYTES: usize = 16_384;

#[async_trait]
impl SandboxPorts for MemoryRuntime {
    async fn connect(&self, id: &SandboxId, _port: u16) -> Result<BoxIo> {
        let state = self.answer()?;
        let sandbox = state.sandboxes.get(id).ok_or_else(|| Error::NoSandbox(id.clone()))?;
        let listens = sandbox.ready && state.runs(id);
        let status = sandbox.response.filter(|_| listens);
        let status =
            status.ok_or_else(|| Error::unavailable(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)))?;
        drop(state);
        let (ours, theirs) = tokio::io::duplex(CONNECTION_BYTES);
        tokio::spawn(answer(theirs, status, id.clone()));
        Ok(Box::new(ours))
    }
}

/// Answers requests without bodies, until the other end hangs up.
async fn answer(io: DuplexStream, status: u16, id: SandboxId) {
    let mut io = BufReader::new(io);
    let mut line = String::new();
    while let Ok(1..) = io.read_line(&mut line).await {
        if line == "\r\n" {
            let body = format!("{id}\n");
            let head = format!("HTTP/1.1 {status} Pretended\r\ncontent-length: {}\r\n\r\n", body.len());
            if io.write_all(format!("{head}{body}").as_bytes()).await.is_err() {
                return;
            }
        }
        line.clear();
    }
}
