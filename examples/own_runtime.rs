//! A container runtime of your own: this one stands before another, runs only images it trusts, and passes the suite.
//!
//!     cargo run --example own_runtime
//!
//! prints `44 laws hold for Trusting`.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use orchestra_core::clock::TokioClock;
use orchestra_core::runtime::{
    Capabilities, ContainerExec, ContainerId, ContainerLogs, ContainerRuntime, ContainerSpec, Error, Result, SandboxId,
    SandboxPorts, SandboxSpec, SandboxStatus, conformance,
};
use orchestra_runtime::MemoryRuntime;

/// Runs what `inner` runs, if its image is of a registry that is trusted.
#[derive(Debug)]
struct Trusting {
    inner: Arc<dyn ContainerRuntime>,
    registry: &'static str,
}

impl Trusting {
    fn trusts(&self, image: &str) -> Result<()> {
        let refused = || Error::Image { image: image.into(), source: format!("not of {}", self.registry).into() };
        image.starts_with(self.registry).then_some(()).ok_or_else(refused)
    }
}

#[async_trait]
impl ContainerRuntime for Trusting {
    fn capabilities(&self) -> Capabilities {
        Capabilities { images: format!("those of {}", self.registry).into(), ..self.inner.capabilities() }
    }

    async fn pull_image(&self, image: &str) -> Result<Box<str>> {
        self.trusts(image)?;
        self.inner.pull_image(image).await
    }

    async fn image_id(&self, image: &str) -> Result<Option<Box<str>>> {
        if self.trusts(image).is_ok() { self.inner.image_id(image).await } else { Ok(None) }
    }

    async fn create_sandbox(&self, id: &SandboxId, spec: &SandboxSpec) -> Result<()> {
        self.inner.create_sandbox(id, spec).await
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        self.inner.remove_sandbox(id).await
    }

    async fn start_container(&self, id: &ContainerId, spec: &ContainerSpec) -> Result<()> {
        self.trusts(&spec.image)?;
        self.inner.start_container(id, spec).await
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        self.inner.stop_container(id, grace).await
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        self.inner.remove_container(id).await
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>> {
        self.inner.list().await
    }

    fn events(&self) -> BoxStream<'static, SandboxId> {
        self.inner.events()
    }

    fn logs(&self) -> Option<&dyn ContainerLogs> {
        self.inner.logs()
    }

    fn exec(&self) -> Option<&dyn ContainerExec> {
        self.inner.exec()
    }

    fn ports(&self) -> Option<&dyn SandboxPorts> {
        self.inner.ports()
    }
}

/// What the suite needs to know: one node, opened again and again, and which images to try.
struct Node(OnceLock<MemoryRuntime>);

#[async_trait]
impl conformance::Fixture for Node {
    async fn open(&self) -> Arc<dyn ContainerRuntime> {
        let memory = self.0.get_or_init(|| MemoryRuntime::new(Arc::new(TokioClock::default())));
        Arc::new(Trusting { inner: Arc::new(memory.clone()), registry: "registry.example/" })
    }

    fn image(&self) -> Box<str> {
        "registry.example/web:1".into()
    }

    fn missing_image(&self) -> Box<str> {
        "elsewhere.example/web:1".into()
    }

    async fn close(&self) {}
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    tokio::time::pause(); // Nothing here is real, the seconds neither.
    let laws = conformance::check(async || Node(OnceLock::new())).await;
    println!("{laws} laws hold for Trusting");
}
