//! The suite on trial: a runtime that breaks a law fails a case of it.

use std::{
    net::Ipv4Addr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt as _};
use orchestra_core::{
    clock::TokioClock,
    runtime::{
        Capabilities, ContainerExec, ContainerId, ContainerLogs, ContainerRuntime, ContainerSpec, Result, SandboxId,
        SandboxSpec, SandboxStatus,
        conformance::{CASES, Fixture, Time, run},
    },
};

use crate::memory::MemoryRuntime;

/// How a runtime breaks a law.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It breaks none.
    None,
    /// An exited container is started again: law 1.
    StartsAgain,
    /// Containers show only once they have exited: law 2.
    ListsLate,
    /// What has exited is forgotten: law 3.
    ForgetsExits,
    /// Nobody is told anything: law 4.
    TellsNothing,
    /// A node opened again is an empty one: law 5.
    ForgetsAll,
    /// Nobody is asked before being killed: law 6.
    KillsAtOnce,
    /// What was stopped goes on: law 6.
    StopsNothing,
    /// All sandboxes have one address: law 6.
    SharesAddresses,
    /// What was not started is said to be: law 7.
    StartsNothing,
    /// Every image is said to be there: law 7.
    HasEveryImage,
    /// It can't do what it does: law 7.
    IsModest,
}

#[derive(Debug)]
struct Faulty {
    inner: MemoryRuntime,
    fault: Fault,
}

impl Faulty {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }
}

#[async_trait]
impl ContainerRuntime for Faulty {
    fn capabilities(&self) -> Capabilities {
        let able = !self.is(Fault::IsModest);
        Capabilities { users: able, tty: able, ..self.inner.capabilities() }
    }

    async fn pull_image(&self, image: &str) -> Result<Box<str>> {
        self.inner.pull_image(image).await
    }

    async fn image_id(&self, image: &str) -> Result<Option<Box<str>>> {
        let image = if self.is(Fault::HasEveryImage) { "web:1" } else { image };
        self.inner.image_id(image).await
    }

    async fn create_sandbox(&self, id: &SandboxId, spec: &SandboxSpec) -> Result<()> {
        self.inner.create_sandbox(id, spec).await
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        self.inner.remove_sandbox(id).await
    }

    async fn start_container(&self, id: &ContainerId, spec: &ContainerSpec) -> Result<()> {
        if self.is(Fault::StartsNothing) {
            return Ok(());
        }
        if self.is(Fault::StartsAgain) {
            // A running one is refused, and stays.
            let _running = self.inner.remove_container(id).await;
        }
        self.inner.start_container(id, spec).await
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        if self.is(Fault::StopsNothing) {
            return Ok(());
        }
        let grace = if self.is(Fault::KillsAtOnce) { Duration::ZERO } else { grace };
        self.inner.stop_container(id, grace).await
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        self.inner.remove_container(id).await
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>> {
        let mut list = self.inner.list().await?;
        for sandbox in &mut list {
            if self.is(Fault::SharesAddresses) {
                sandbox.address = Some(Ipv4Addr::LOCALHOST.into());
            }
            sandbox.containers.retain(|container| match self.fault {
                Fault::ListsLate => !container.state.is_running(),
                Fault::ForgetsExits => container.state.is_running(),
                _ => true,
            });
        }
        Ok(list)
    }

    fn events(&self) -> BoxStream<'static, SandboxId> {
        if self.is(Fault::TellsNothing) { stream::pending().boxed() } else { self.inner.events() }
    }

    fn logs(&self) -> Option<&dyn ContainerLogs> {
        ContainerRuntime::logs(&self.inner)
    }

    fn exec(&self) -> Option<&dyn ContainerExec> {
        ContainerRuntime::exec(&self.inner)
    }
}

struct Node(Fault, OnceLock<MemoryRuntime>);

#[async_trait]
impl Fixture for Node {
    async fn open(&self) -> Arc<dyn ContainerRuntime> {
        let new = || MemoryRuntime::new(Arc::new(TokioClock::default()));
        let inner = if self.0 == Fault::ForgetsAll { new() } else { self.1.get_or_init(new).clone() };
        Arc::new(Faulty { inner, fault: self.0 })
    }

    fn image(&self) -> Box<str> {
        "web:1".into()
    }

    fn missing_image(&self) -> Box<str> {
        "missing/web:1".into()
    }

    async fn close(&self) {}
}

#[test]
fn a_broken_law_fails_its_case() {
    for (fault, case) in [
        (Fault::StartsAgain, "an_exited_attempt_is_not_started_again"),
        (Fault::ListsLate, "starting_twice_starts_once"),
        (Fault::ForgetsExits, "evidence_stays_until_removed"),
        (Fault::ForgetsExits, "the_exit_code_is_listed"),
        (Fault::TellsNothing, "an_exit_is_hinted"),
        (Fault::ForgetsAll, "a_running_container_outlives_its_runtime"),
        (Fault::KillsAtOnce, "stopping_asks_first"),
        (Fault::KillsAtOnce, "what_ignores_the_request_is_killed_after_the_grace"),
        (Fault::StopsNothing, "without_grace_it_is_killed_at_once"),
        (Fault::StopsNothing, "stopping_asks_first"),
        (Fault::SharesAddresses, "sandboxes_have_addresses_of_their_own"),
        (Fault::StartsNothing, "a_container_needs_a_sandbox"),
        (Fault::StartsNothing, "an_id_that_is_no_name_is_refused"),
        (Fault::HasEveryImage, "a_missing_image_is_an_error"),
        (Fault::IsModest, "what_is_no_capability_is_refused"),
    ] {
        let node = Node(fault, OnceLock::new());
        let outcome = catch_unwind(AssertUnwindSafe(|| run(case, Time::Paused, &node)));
        assert!(outcome.is_err(), "{fault:?} passes {case}");
    }
}

/// Each law has a fault here, and the runtime under the faults has none.
#[test]
fn the_suite_passes_the_runtime_under_the_faults() {
    for case in CASES {
        run(case.name, Time::Paused, &Node(Fault::None, OnceLock::new()));
    }
}
