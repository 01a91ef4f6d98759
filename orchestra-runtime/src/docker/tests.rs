//! The suite on the machine's Docker Engine; without one, a printed line, and a failure where `CI` is set.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveImageOptions};
use orchestra_core::runtime::{
    ContainerRuntime, Error, SandboxId, SandboxPorts as _, SandboxSpec,
    conformance::{CASES, Fixture, Time, run},
};

use tempfile::TempDir;

use super::{DockerRuntime, convert::NODE_LABEL, pause::PAUSE_IMAGE};

const IMAGE: &str = "orchestra/conformance:1";

/// A node by its name on the engine, and a directory of the machine that containers are shown.
struct Node(String, TempDir);

impl Node {
    async fn connect(&self) -> DockerRuntime {
        let runtime = DockerRuntime::connect(&self.0).await.unwrap();
        if runtime.image_id(IMAGE).await.unwrap().is_none() {
            runtime.import(IMAGE, shell_rootfs()).await.unwrap();
        }
        runtime
    }
}

#[async_trait]
impl Fixture for Node {
    async fn open(&self) -> Arc<dyn ContainerRuntime> {
        Arc::new(self.connect().await)
    }

    fn image(&self) -> Box<str> {
        IMAGE.into()
    }

    fn missing_image(&self) -> Box<str> {
        "127.0.0.1:1/none:1".into()
    }

    fn shared_dir(&self) -> Option<PathBuf> {
        Some(self.1.path().into())
    }

    async fn close(&self) {
        let runtime = self.connect().await;
        for sandbox in runtime.list().await.unwrap() {
            runtime.remove_sandbox(&sandbox.id).await.unwrap();
        }
    }
}

/// The machine's own shell and the few programs that the suite's scripts call, with their libraries.
fn shell_rootfs() -> Vec<u8> {
    let mut files = BTreeSet::new();
    for program in ["/bin/sh", "/bin/sleep", "/bin/cat"] {
        let linked = Command::new("ldd").arg(program).output().unwrap().stdout;
        let linked = String::from_utf8(linked).unwrap();
        files.insert(PathBuf::from(program));
        files.extend(linked.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
    }
    let mut tar = tar::Builder::new(Vec::new());
    for file in files {
        let mut content = std::fs::File::open(&file).unwrap();
        tar.append_file(file.strip_prefix("/").unwrap(), &mut content).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Runs a test on the engine, one at a time, and leaves nothing behind.
#[allow(clippy::print_stdout, reason = "a skipped test says so")]
fn on_the_engine(test: impl FnOnce(&tokio::runtime::Runtime)) {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if let Err(error) = runtime.block_on(DockerRuntime::connect("probe")) {
        assert!(std::env::var_os("CI").is_none(), "there was to be an engine: {error}");
        println!("skipped: no Docker Engine here");
        return;
    }
    test(&runtime);
    runtime.block_on(leave_nothing_behind());
}

#[test]
#[allow(clippy::print_stdout, reason = "a test of a minute shows how far it is")]
fn every_law_holds_on_the_engine() {
    on_the_engine(|_| {
        for (number, case) in CASES.iter().enumerate() {
            println!("{}", case.name);
            let name = format!("test-{}-{number}", std::process::id());
            run(case.name, Time::Real, &Node(name, TempDir::new().unwrap()));
        }
    });
}

#[test]
fn a_port_of_a_sandbox_is_reached_from_the_node() {
    on_the_engine(|tokio| {
        tokio.block_on(async {
            let node = Node(format!("test-{}-ports", std::process::id()), TempDir::new().unwrap());
            let runtime = node.connect().await;
            let id = SandboxId("a".into());
            runtime.create_sandbox(&id, &SandboxSpec::default()).await.unwrap();
            // Nothing listens there, and the sandbox says so itself.
            let refused = runtime.connect(&id, 9).await.err().unwrap();
            assert!(matches!(refused, Error::Unavailable(_)), "{refused:?}");
            runtime.remove_sandbox(&id).await.unwrap();
            let gone = runtime.connect(&id, 9).await.err().unwrap();
            assert!(matches!(gone, Error::NoSandbox(_)), "{gone:?}");
        });
    });
}

/// Removes the images that the suite brought; containers of the suite would show here.
async fn leave_nothing_behind() {
    let engine = DockerRuntime::connect("probe").await.unwrap().engine;
    let ours = format!("test-{}-", std::process::id());
    let all = ListContainersOptionsBuilder::default().all(true).build();
    for container in engine.list_containers(Some(all)).await.unwrap() {
        let node = container.labels.unwrap_or_default().remove(NODE_LABEL).unwrap_or_default();
        assert!(!node.starts_with(&ours), "{node} left a container behind");
    }
    for image in [IMAGE, PAUSE_IMAGE] {
        // Another run of the tests may use it at this moment.
        let _in_use = engine.remove_image(image, None::<RemoveImageOptions>, None).await;
    }
}
