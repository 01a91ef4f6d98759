//! The suite on the memory runtime, and what only it can do.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use orchestra_core::{
    clock::TokioClock,
    runtime::{
        ContainerId, ContainerRuntime, ContainerSpec, ContainerState, Error, ExitReason, SandboxId, SandboxPorts as _,
        SandboxSpec,
        conformance::{Fixture, Time},
    },
    runtime_conformance,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::MemoryRuntime;

struct Node(std::sync::OnceLock<MemoryRuntime>);

#[async_trait]
impl Fixture for Node {
    async fn open(&self) -> Arc<dyn ContainerRuntime> {
        Arc::new(self.0.get_or_init(node).clone())
    }

    fn image(&self) -> Box<str> {
        "web:1".into()
    }

    fn missing_image(&self) -> Box<str> {
        "missing/web:1".into()
    }

    async fn close(&self) {}
}

runtime_conformance!(Time::Paused, Node(std::sync::OnceLock::new()));

fn node() -> MemoryRuntime {
    MemoryRuntime::new(Arc::new(TokioClock::default()))
}

/// A node with a server in a sandbox.
async fn server() -> (MemoryRuntime, ContainerId) {
    let node = node();
    let sandbox = SandboxId("a".into());
    node.create_sandbox(&sandbox, &SandboxSpec::default()).await.unwrap();
    let id = ContainerId { sandbox, name: "main".into(), attempt: 0 };
    let spec = ContainerSpec { image: "web".into(), command: vec!["nginx".into()], ..ContainerSpec::default() };
    node.start_container(&id, &spec).await.unwrap();
    (node, id)
}

async fn state(node: &MemoryRuntime) -> ContainerState {
    node.list().await.unwrap()[0].containers[0].state.clone()
}

#[tokio::test(start_paused = true)]
async fn an_unknown_program_runs_until_it_is_stopped() {
    let (node, id) = server().await;
    tokio::time::sleep(Duration::from_hours(24 * 365)).await;
    assert!(state(&node).await.is_running());
    node.stop_container(&id, Duration::from_secs(30)).await.unwrap();
    assert_eq!(state(&node).await.exit_code(), Some(143));
}

#[tokio::test(start_paused = true)]
async fn a_crash_ends_a_container_with_the_code_asked_for() {
    let (node, id) = server().await;
    assert!(node.crash(&id, 139));
    assert_eq!(state(&node).await.exit_code(), Some(139));
    assert!(!node.crash(&id, 1));
}

#[tokio::test(start_paused = true)]
async fn a_reboot_loses_containers_and_keeps_the_evidence() {
    let (node, id) = server().await;
    node.reboot();
    assert!(matches!(state(&node).await, ContainerState::Exited { reason: ExitReason::Lost, .. }));
    assert!(!node.list().await.unwrap()[0].ready);
    let next = ContainerId { attempt: 1, ..id.clone() };
    assert!(matches!(node.start_container(&next, &ContainerSpec::default()).await, Err(Error::NoSandbox(_))));
    node.create_sandbox(&id.sandbox, &SandboxSpec::default()).await.unwrap();
    assert!(node.list().await.unwrap()[0].ready);
}

#[tokio::test(start_paused = true)]
async fn an_unavailable_node_answers_nothing_and_loses_nothing() {
    let (node, _) = server().await;
    node.set_available(false);
    assert!(matches!(node.list().await, Err(Error::Unavailable(_))));
    node.set_available(true);
    assert!(state(&node).await.is_running());
}

#[tokio::test(start_paused = true)]
async fn a_port_answers_as_told() {
    let (node, id) = server().await;
    for status in [200, 503] {
        node.set_response(&id.sandbox, Some(status));
        let mut io = node.connect(&id.sandbox, 80).await.unwrap();
        io.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut head = [0; 12];
        io.read_exact(&mut head).await.unwrap();
        assert_eq!(head, *format!("HTTP/1.1 {status}").as_bytes());
    }
    node.set_response(&id.sandbox, None);
    assert!(node.connect(&id.sandbox, 80).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_programs_of_a_dropped_node_end() {
    let (node, id) = server().await;
    let mut events = node.events();
    drop(node);
    assert_eq!(futures::StreamExt::next(&mut events).await, None, "nothing keeps {id} alive");
}
