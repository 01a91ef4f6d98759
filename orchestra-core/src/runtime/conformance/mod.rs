//! The laws of [`ContainerRuntime`] as tests, for anybody's implementation.
//!
//! [`runtime_conformance!`](crate::runtime_conformance) makes one `#[test]` of each case; [`check`] runs them all in one
//! call. What to run in the containers is told by a [`Fixture`]; cases need only a POSIX shell in the image.

#![allow(clippy::needless_pass_by_value, reason = "a case owns its lab, so that it can close it and open another")]

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::{StreamExt as _, future::BoxFuture, stream::BoxStream};

use super::{
    ContainerId, ContainerRuntime, ContainerSpec, ContainerState, ContainerStatus, EnvVar, SandboxId, SandboxSpec,
    SandboxStatus,
};

mod exec;
mod lifecycle;
mod logs;
mod restart;

/// How long a case waits for what is to happen, before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the suite needs to know about an implementation.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// Opens the runtime; again on the same state when the one before was dropped, as a restarted kubelet does.
    async fn open(&self) -> Arc<dyn ContainerRuntime>;

    /// An image that is there, or can be pulled, with a POSIX shell as `sh` in its path.
    fn image(&self) -> Box<str>;

    /// An image that can't be had.
    fn missing_image(&self) -> Box<str>;

    /// A program that the image hasn't got.
    fn missing_program(&self) -> Box<str> {
        "/no/such/program".into()
    }

    /// A directory of the node that containers can be shown and may write to, if they can touch files at all.
    fn shared_dir(&self) -> Option<PathBuf> {
        None
    }

    /// Ends whatever a case left behind.
    async fn close(&self);
}

/// Which time a suite runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// Tokio's paused time, for runtimes that run nothing real.
    Paused,
    /// The machine's.
    Real,
}

/// One test of the suite.
#[derive(Clone, Copy)]
pub struct Case {
    /// What it shows, as a sentence.
    pub name: &'static str,
    run: for<'a> fn(Lab<'a>) -> BoxFuture<'a, ()>,
}

impl std::fmt::Debug for Case {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! cases {
    ($($module:ident { $($name:ident)* })*) => {
        /// Every case of the suite.
        pub const CASES: &[Case] = &[
            $($(Case { name: stringify!($name), run: |lab| Box::pin($module::$name(lab)) }),*),*
        ];

        /// Makes a `#[test]` of each law case for an implementation.
        ///
        /// Takes a [`Time`] and an expression that makes a [`Fixture`] on fresh state.
        #[macro_export]
        macro_rules! runtime_conformance {
            ($time:expr, $fixture:expr) => {
                $($(
                    #[test]
                    fn $name() {
                        $crate::runtime::conformance::run(stringify!($name), $time, &$fixture);
                    }
                )*)*
            };
        }
    };
}

cases! {
    lifecycle {
        creating_a_sandbox_twice_changes_nothing
        removing_what_is_absent_succeeds
        a_container_needs_a_sandbox
        an_id_that_is_no_name_is_refused
        starting_twice_starts_once
        starting_at_the_same_time_starts_once
        an_exited_attempt_is_not_started_again
        the_exit_code_is_listed
        evidence_stays_until_removed
        a_running_container_cannot_be_removed
        stopping_asks_first
        what_ignores_the_request_is_killed_after_the_grace
        without_grace_it_is_killed_at_once
        a_shorter_grace_overrides_a_longer_one
        stopping_an_exited_container_keeps_its_code
        removing_a_sandbox_ends_all_in_it
        what_a_container_started_ends_with_it
        removing_at_the_same_time_succeeds
        sandboxes_have_addresses_of_their_own
        labels_come_back
        a_missing_image_is_an_error
        a_missing_program_is_an_error_or_an_exit
        what_is_no_capability_is_refused
        an_exit_is_hinted
        a_dropped_call_can_be_made_again
    }
    restart {
        a_running_container_outlives_its_runtime
        an_exit_that_nobody_saw_is_known_later
        a_container_of_before_can_be_stopped
        an_address_outlives_the_runtime
        two_handles_see_one_truth
    }
    logs {
        arguments_and_environment_arrive
        lines_come_in_order_with_their_stream
        a_tail_is_the_last_lines
        a_log_since_a_moment_leaves_out_the_older
        an_unfinished_line_is_not_lost
        a_followed_log_ends_with_the_container
        a_followed_log_shows_what_comes
        the_log_of_a_previous_attempt_stays
        the_log_of_nothing_is_an_error
    }
    exec {
        a_command_returns_its_code
        a_command_reads_and_writes
        a_command_has_the_container_s_environment
        a_command_needs_a_running_container
        a_dropped_session_leaves_the_container_alone
    }
}

/// Runs one case by its name, on a tokio runtime of its own.
///
/// # Panics
///
/// If the implementation breaks the law; if there is no such case.
pub fn run(name: &str, time: Time, fixture: &dyn Fixture) {
    let case = CASES.iter().find(|case| case.name == name).expect("the macro and the list are made of the same names");
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(time == Time::Paused)
        .build()
        .expect("a test can make a tokio runtime")
        .block_on(run_case(case, fixture));
}

/// Runs all cases, each on a fixture of its own, and returns how many there were.
///
/// # Panics
///
/// If the implementation breaks a law.
pub async fn check<F: Fixture, M: Future<Output = F>>(make: impl Fn() -> M) -> usize {
    for case in CASES {
        run_case(case, &make().await).await;
    }
    CASES.len()
}

async fn run_case(case: &Case, fixture: &dyn Fixture) {
    let runtime = fixture.open().await;
    if runtime.image_id(&fixture.image()).await.expect("a runtime answers").is_none() {
        runtime.pull_image(&fixture.image()).await.expect("the fixture's image can be had");
    }
    (case.run)(Lab { runtime, fixture }).await;
    fixture.close().await;
}

/// What a case works with: a runtime, and short words for what cases do often.
struct Lab<'a> {
    runtime: Arc<dyn ContainerRuntime>,
    fixture: &'a dyn Fixture,
}

impl Lab<'_> {
    /// A sandbox that is there.
    async fn sandbox(&self, name: &str) -> SandboxId {
        let id = SandboxId(name.into());
        self.runtime.create_sandbox(&id, &sandbox_spec()).await.expect("a sandbox can be made");
        id
    }

    /// A container that runs `script` in a sandbox that is there.
    async fn start(&self, sandbox: &SandboxId, attempt: u32, script: &str) -> ContainerId {
        let id = container_id(sandbox, attempt);
        self.runtime.start_container(&id, &self.script(script)).await.expect("a shell can be started");
        id
    }

    /// What runs `script` in a shell.
    fn script(&self, script: &str) -> ContainerSpec {
        ContainerSpec {
            image: self.fixture.image(),
            command: ["sh", "-c", script].map(Into::into).into(),
            env: vec![EnvVar { name: "GREETING".into(), value: "hello world".into() }],
            ..ContainerSpec::default()
        }
    }

    async fn sandbox_status(&self, id: &SandboxId) -> Option<SandboxStatus> {
        let list = self.runtime.list().await.expect("a runtime lists");
        list.into_iter().find(|status| status.id == *id)
    }

    async fn status(&self, id: &ContainerId) -> Option<ContainerStatus> {
        let sandbox = self.sandbox_status(&id.sandbox).await?;
        sandbox.containers.into_iter().find(|status| status.id == *id)
    }

    async fn state(&self, id: &ContainerId) -> ContainerState {
        self.status(id).await.expect("the container is listed").state
    }

    /// Waits for a container to exit, by hints and by looking, as a kubelet does; returns its code.
    async fn exit_code(&self, id: &ContainerId) -> i32 {
        const LOOK_AGAIN: Duration = Duration::from_millis(50);
        let mut events = self.runtime.events();
        let wait = async {
            loop {
                if let Some(code) = self.state(id).await.exit_code() {
                    return code;
                }
                let _hint_or_time = tokio::time::timeout(LOOK_AGAIN, events.next()).await;
            }
        };
        patience(wait, "a container exits").await
    }
}

/// What every sandbox of the suite is made of.
fn sandbox_spec() -> SandboxSpec {
    SandboxSpec {
        hostname: "conformance".into(),
        labels: [("pod".into(), "web-0".into()), ("uid".into(), "1/2=3 é".into())].into(),
        host_network: false,
    }
}

fn container_id(sandbox: &SandboxId, attempt: u32) -> ContainerId {
    ContainerId { sandbox: sandbox.clone(), name: "main".into(), attempt }
}

/// Waits for what is to happen, with an end.
async fn patience<T>(future: impl Future<Output = T>, what: &str) -> T {
    let outcome = tokio::time::timeout(PATIENCE, future).await;
    outcome.unwrap_or_else(|_| panic!("in {PATIENCE:?}: {what}"))
}

/// Reads a whole log as text, a line each, with a mark for what went to standard error.
async fn read_lines(log: BoxStream<'static, super::Result<super::LogLine>>) -> Vec<String> {
    let lines = log.map(|line| {
        let line = line.expect("a log can be read");
        let mark = if line.stream == super::LogStream::Stderr { "! " } else { "" };
        format!("{mark}{}", String::from_utf8_lossy(&line.text))
    });
    patience(lines.collect(), "a log ends").await
}
