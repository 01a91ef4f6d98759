use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use orchestra_core::{
    clock::Timestamp,
    runtime::{ContainerId, ContainerState, ContainerStatus, ExitReason, Labels, SandboxId, SandboxStatus},
};
use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

use super::{Action, BACKOFF_LABEL, Failure, IMAGE_LABEL, Memory, Unstarted, View, decide, is_over};
use crate::kubelet::image;

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
    memory: Memory,
    /// Whether programs can't be run.
    broken: bool,
    now: Timestamp,
}

impl World {
    fn new(pod: Pod) -> Self {
        let (memory, now) = (Memory::default(), Timestamp::UNIX_EPOCH);
        Self { pod, ending: false, sandbox: None, memory, broken: false, now }
    }

    fn view(&self) -> View<'_> {
        let (pod, ending, now) = (&self.pod, self.ending, self.now);
        View { pod, ending, sandbox: self.sandbox.as_ref(), memory: &self.memory, now }
    }

    fn plan(&self) -> super::Plan {
        decide(&self.view())
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
                let id = ContainerId { sandbox: id, name, attempt };
                let image = image::of(&self.pod, &id.name).into();
                let backoff = backoff_seconds.to_string().into();
                let labels = Labels::from([(BACKOFF_LABEL.into(), backoff), (IMAGE_LABEL.into(), image)]);
                if self.broken {
                    let unstarted = Unstarted::new(id, labels, "", self.now, "no such program".into());
                    self.memory.unstarted.insert(unstarted.status.id.name.clone(), unstarted);
                    return;
                }
                sandbox.containers.push(ContainerStatus {
                    id,
                    labels,
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

    /// Changes the image of all containers.
    fn change_image(&mut self, image: &str) {
        let spec = self.pod.spec.as_mut().expect("a spec");
        let all = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
        all.for_each(|container| container.image = Some(image.into()));
    }

    /// Whether all that runs, but for init containers, is of the image that it is to be.
    fn is_up_to_date(&self) -> bool {
        let running = self.sandbox.iter().flat_map(|sandbox| &sandbox.containers);
        let mut running = running.filter(|status| status.state.is_running() && &*status.id.name != "init-0");
        running.all(|status| *status.labels[IMAGE_LABEL] == *image::of(&self.pod, &status.id.name))
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

/// A start that fails is an attempt like one that ends at once: it counts, and the next one waits as long.
#[test]
fn a_container_that_cannot_be_started_is_tried_again_after_longer_and_longer_waits() {
    let mut world = World::new(pod("Always", &[], 1));
    world.broken = true;
    let mut tries = Vec::new();
    for _ in 0..8 {
        assert!(world.settle());
        let attempt = world.view().latest("main-0").expect("it was tried").id.attempt;
        let wake = world.plan().wake_at.expect("it is tried again");
        tries.push((attempt, world.now.duration_until(wake).as_secs()));
        world.now = wake;
    }
    let waits = [10, 20, 40, 80, 160, 300, 300, 300];
    assert_eq!(tries, Vec::from_iter((1..).zip(waits)), "the first one again at once");
    world.broken = false;
    assert!(world.settle());
    assert_eq!(world.running("main-0"), 1);
    world.exit("main-0", 9, 1);
    assert!(world.settle());
    assert_eq!(world.plan().backing_off.len(), 1, "its backoff goes on");
}

#[test]
fn a_pod_that_does_not_restart_is_over_once_its_container_cannot_be_started() {
    for (policy, over) in [("Never", true), ("OnFailure", false), ("Always", false)] {
        let mut world = World::new(pod(policy, &[None], 1));
        world.broken = true;
        assert!(world.settle());
        assert_eq!(is_over(&world.view()), over, "{policy}");
        assert_eq!(world.plan().wake_at.is_some(), !over, "{policy}");
    }
}

/// As Kubernetes' kubelet does, whatever the restart policy says of containers that end.
#[test]
fn a_container_whose_image_changes_is_replaced_at_once() {
    for policy in ["Never", "OnFailure", "Always"] {
        let mut world = World::new(pod(policy, &[Some("Always")], 1));
        for (image, attempt) in [("web:1", 0), ("web:2", 1), ("web:3", 2)] {
            world.change_image(image);
            assert!(world.settle());
            assert_eq!((world.running("main-0"), world.running("init-0")), (1, 1), "{policy}");
            assert_eq!(world.view().latest("main-0").expect("it runs").id.attempt, attempt, "{policy}");
            assert!(world.is_up_to_date());
        }
    }
}

#[test]
fn a_container_that_has_done_its_work_is_not_started_again_for_another_image() {
    let mut world = World::new(pod("Never", &[], 2));
    assert!(world.settle());
    world.exit("main-0", 0, 0);
    world.change_image("web:2");
    assert!(world.settle());
    assert_eq!((world.running("main-0"), world.running("main-1")), (0, 1));
}

/// Whoever mends the image does not have to wait for what the broken one was worth.
#[test]
fn another_image_does_not_wait_for_the_backoff_of_the_one_before() {
    let mut world = World::new(pod("Always", &[], 1));
    world.broken = true;
    assert!(world.settle());
    assert_eq!((world.running("main-0"), world.plan().backing_off.len()), (0, 1));
    world.broken = false;
    world.change_image("web:2");
    assert!(world.settle());
    assert_eq!(world.running("main-0"), 1);

    let mut world = World::new(pod("Always", &[], 1));
    let (reason, message, retry_at) = ("ErrImagePull", String::new(), Timestamp::MAX);
    let failure = Failure { reason, message, count: 1, retry_at, image: "".into() };
    world.memory.failures.insert("main-0".into(), failure);
    assert!(world.settle());
    assert_eq!(world.running("main-0"), 0);
    world.change_image("web:2");
    assert!(world.settle());
    assert_eq!(world.running("main-0"), 1);
}

proptest! {
    /// SEMANTICS 51, 52.
    #[test]
    fn at_most_one_attempt_runs_and_none_starts_once_the_pod_ends(
        crashes in prop::collection::vec((0_usize..4, any::<bool>(), 0_u64..400, any::<bool>()), 0..24),
        never in any::<bool>(),
    ) {
        let mut world = World::new(pod(if never { "Never" } else { "Always" }, &[None, Some("Always")], 2));
        let names = ["init-0", "init-1", "main-0", "main-1"];
        for (which, fails, seconds, broken) in crashes {
            world.broken = broken;
            world.change_image(if seconds % 3 == 0 { "web:1" } else { "web:2" });
            prop_assert!(world.settle(), "converges");
            prop_assert!(world.is_up_to_date());
            for name in names {
                prop_assert!(world.running(name) <= 1);
            }
            if let Some(attempt) = world.view().latest(names[which]).map(|status| status.id.attempt) {
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
