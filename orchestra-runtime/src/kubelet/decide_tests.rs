use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use orchestra_core::{
    clock::Timestamp,
    runtime::{ContainerId, ContainerState, ContainerStatus, ExitReason, SandboxId, SandboxStatus},
};
use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::{Action, BACKOFF_LABEL, Memory, View, decide, latest};

fn pod(policy: &str, init: &[Option<&str>], mains: usize) -> Pod {
    let init = init.iter().enumerate().map(|(i, restart)| Container {
        name: format!("init-{i}"),
        restart_policy: restart.map(Into::into),
        ..Container::default()
    });
    let mains = (0..mains).map(|i| Container { name: format!("main-{i}"), ..Container::default() });
    let spec = PodSpec {
        init_containers: Some(init.collect()),
        containers: mains.collect(),
        restart_policy: Some(policy.into()),
        ..PodSpec::default()
    };
    Pod { spec: Some(spec), ..Pod::default() }
}

/// A node of one pod, on which an action is done at once.
struct World {
    pod: Pod,
    ending: bool,
    sandbox: Option<SandboxStatus>,
    now: Timestamp,
}

impl World {
    fn new(pod: Pod) -> Self {
        Self { pod, ending: false, sandbox: None, now: Timestamp::UNIX_EPOCH }
    }

    fn plan(&self) -> super::Plan {
        let (pod, ending, now) = (&self.pod, self.ending, self.now);
        decide(&View { pod, ending, sandbox: self.sandbox.as_ref(), memory: &Memory::default(), now })
    }

    fn exit(&mut self, name: &str, attempt: u32, exit_code: i32) {
        let now = self.now;
        let containers = self.sandbox.iter_mut().flat_map(|sandbox| &mut sandbox.containers);
        for status in containers.filter(|status| &*status.id.name == name && status.id.attempt == attempt) {
            if let ContainerState::Running { started_at, .. } = status.state {
                let (code, reason) = (exit_code, ExitReason::Ended);
                status.state = ContainerState::Exited { code, reason, started_at, finished_at: now };
            }
        }
    }

    fn act(&mut self, action: Action) {
        let id = SandboxId("uid".into());
        match action {
            Action::CreateSandbox => {
                let (labels, created_at, containers) = (Default::default(), self.now, Vec::new());
                self.sandbox = Some(SandboxStatus { id, labels, created_at, ready: true, address: None, containers });
            }
            Action::Start { name, attempt, backoff_seconds } => {
                let sandbox = self.sandbox.as_mut().expect("a sandbox comes first");
                sandbox.containers.push(ContainerStatus {
                    id: ContainerId { sandbox: id, name, attempt },
                    labels: [(BACKOFF_LABEL.into(), backoff_seconds.to_string().into())].into(),
                    image: "".into(),
                    image_id: "".into(),
                    state: ContainerState::Running { started_at: self.now, pid: None },
                });
            }
            Action::Stop { attempts, .. } => {
                attempts.into_iter().for_each(|(name, attempt)| self.exit(&name, attempt, 143));
            }
            Action::Forget { name, attempt } => {
                let sandbox = self.sandbox.as_mut().expect("a sandbox comes first");
                sandbox.containers.retain(|status| status.id.name != name || status.id.attempt != attempt);
            }
        }
    }

    /// Acts until there is nothing to do; false if there always is.
    fn settle(&mut self) -> bool {
        for _ in 0..100 {
            let actions = self.plan().actions;
            if actions.is_empty() {
                return true;
            }
            actions.into_iter().for_each(|action| self.act(action));
        }
        false
    }

    fn running(&self, name: &str) -> usize {
        let containers = self.sandbox.iter().flat_map(|sandbox| &sandbox.containers);
        containers.filter(|status| &*status.id.name == name && status.state.is_running()).count()
    }
}

#[test]
fn init_containers_run_one_after_the_other_before_the_main_ones() {
    let mut world = World::new(pod("Always", &[None, None], 2));
    assert!(world.settle());
    assert_eq!((world.running("init-0"), world.running("init-1"), world.running("main-0")), (1, 0, 0));
    world.exit("init-0", 0, 0);
    assert!(world.settle());
    assert_eq!((world.running("init-1"), world.running("main-0")), (1, 0));
    world.exit("init-1", 0, 0);
    assert!(world.settle());
    assert_eq!((world.running("main-0"), world.running("main-1")), (1, 1));
}

#[test]
fn a_sidecar_runs_beside_the_main_containers_and_ends_after_them() {
    let mut world = World::new(pod("Never", &[Some("Always")], 1));
    assert!(world.settle());
    assert_eq!((world.running("init-0"), world.running("main-0")), (1, 1));
    world.exit("main-0", 0, 0);
    assert!(world.settle());
    assert_eq!(world.running("init-0"), 0);
}

#[test]
fn the_first_restart_is_immediate_and_the_next_ones_wait_longer_and_longer() {
    let mut world = World::new(pod("Always", &[], 1));
    assert!(world.settle());
    let mut waits = Vec::new();
    for attempt in 0..8 {
        world.exit("main-0", attempt, 1);
        let wake = world.plan().wake_at;
        waits.push(wake.map_or(0, |at| world.now.duration_until(at).as_secs()));
        world.now = wake.unwrap_or(world.now);
        assert!(world.settle());
    }
    assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300]);
    world.now = world.now.saturating_add(Duration::from_secs(600)).expect("in range");
    world.exit("main-0", 8, 1);
    assert!(world.settle());
    assert_eq!(world.running("main-0"), 1, "after ten good minutes the backoff starts over");
}

#[test]
fn a_container_that_has_done_its_work_is_not_started_again() {
    for (policy, code, again) in [("Never", 1, 0), ("OnFailure", 0, 0), ("OnFailure", 1, 1), ("Always", 0, 1)] {
        let mut world = World::new(pod(policy, &[], 1));
        assert!(world.settle());
        world.exit("main-0", 0, code);
        assert!(world.settle());
        assert_eq!(world.running("main-0"), again, "{policy} {code}");
    }
}

proptest! {
    /// SEMANTICS 51, 52.
    #[test]
    fn at_most_one_attempt_runs_and_none_starts_once_the_pod_ends(
        crashes in prop::collection::vec((0_usize..4, any::<bool>(), 0_u64..400), 0..24),
        never in any::<bool>(),
    ) {
        let mut world = World::new(pod(if never { "Never" } else { "Always" }, &[None, Some("Always")], 2));
        let names = ["init-0", "init-1", "main-0", "main-1"];
        for (which, fails, seconds) in crashes {
            prop_assert!(world.settle(), "converges");
            for name in names {
                prop_assert!(world.running(name) <= 1);
            }
            if let Some(attempt) = latest(world.sandbox.as_ref(), names[which]).map(|status| status.id.attempt) {
                world.exit(names[which], attempt, fails.into());
            }
            world.now = world.now.saturating_add(Duration::from_secs(seconds)).expect("in range");
        }
        world.ending = true;
        while let Some(action) = world.plan().actions.into_iter().next() {
            let starts = matches!(action, Action::Start { .. } | Action::CreateSandbox);
            prop_assert!(!starts, "nothing starts after deletion was seen");
            world.act(action);
        }
        prop_assert!(world.plan().ended);
        prop_assert_eq!(names.iter().map(|name| world.running(name)).sum::<usize>(), 0);
    }
}
