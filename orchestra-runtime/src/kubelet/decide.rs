//! What a pod needs next: a pure function from its spec and what is seen of it to a plan.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use orchestra_core::{
    api::pod::has_ended,
    clock::Timestamp,
    runtime::{ContainerId, ContainerState, ContainerStatus, ExitReason, Labels, SandboxStatus},
};

/// The label of a container that says how long to wait, in seconds, before it is started again.
pub(super) const BACKOFF_LABEL: &str = "orchestra/backoff-seconds";
/// The label of a container that says of which image it was to be: the runtime may know that by another name.
pub(super) const IMAGE_LABEL: &str = "orchestra/image";
/// The exit code of a container whose program could not be run, as Kubernetes has it.
const UNSTARTED_CODE: i32 = 128;
/// The wait after the second crash in a row; each further one doubles it. The first restart is immediate.
const BACKOFF_SECONDS_MIN: u64 = 10;
/// The longest wait between two starts.
const BACKOFF_SECONDS_MAX: u64 = 300;
/// A container that ran this long starts over with its backoff.
const BACKOFF_RESET_SECONDS: i64 = 600;

/// What the kubelet knows of a pod beside what its runtime lists; lost in a restart, and found out again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Memory {
    /// Why containers could not be started, by name; of the sandbox and volumes by the empty name.
    pub(super) failures: BTreeMap<Box<str>, Failure>,
    /// What probes found, by the container's name.
    pub(super) probes: BTreeMap<Box<str>, Probed>,
    /// The last words of attempts that have exited.
    pub(super) messages: BTreeMap<ContainerId, String>,
    /// The last attempt of each container that could not be started, by name.
    pub(super) unstarted: BTreeMap<Box<str>, Unstarted>,
}

impl Memory {
    /// What probes found out about one attempt; nothing of an earlier one counts.
    pub(super) fn probed(&self, id: &ContainerId) -> Probed {
        self.probes.get(&id.name).copied().filter(|probed| probed.attempt == id.attempt).unwrap_or_default()
    }

    /// What is known of an attempt that could not be started.
    pub(super) fn unstarted(&self, id: &ContainerId) -> Option<&Unstarted> {
        self.unstarted.get(&id.name).filter(|unstarted| unstarted.status.id == *id)
    }
}

/// An attempt whose program could not be run: it counts as one that ended at once, though no runtime lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unstarted {
    /// As a runtime would list it.
    pub(super) status: ContainerStatus,
    /// What went wrong, for people.
    pub(super) message: String,
}

impl Unstarted {
    /// The attempt `id` of a container with `labels` and `image`, which failed at `at`.
    pub(super) fn new(id: ContainerId, labels: Labels, image: &str, at: Timestamp, message: String) -> Self {
        let (code, reason) = (UNSTARTED_CODE, ExitReason::Ended);
        let state = ContainerState::Exited { code, reason, started_at: at, finished_at: at };
        Self { status: ContainerStatus { id, labels, image: image.into(), image_id: "".into(), state }, message }
    }
}

/// Why something could not be started, and when to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// Kubernetes' word for it, such as `ErrImagePull`.
    pub(super) reason: &'static str,
    /// What went wrong, for people.
    pub(super) message: String,
    /// How often in a row.
    pub(super) count: u32,
    /// Not before this moment, unless of another image.
    pub(super) retry_at: Timestamp,
    /// The image it was to be started with; none for the sandbox and volumes.
    pub(super) image: Box<str>,
}

/// What probes found out about a container; absent while they don't know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Probed {
    /// Which attempt.
    pub(super) attempt: u32,
    /// The startup probe.
    pub(super) started: Option<bool>,
    /// The readiness probe.
    pub(super) ready: Option<bool>,
    /// The liveness probe.
    pub(super) alive: Option<bool>,
}

/// A pod as it is seen now.
#[derive(Clone, Copy, Debug)]
pub(super) struct View<'a> {
    pub(super) pod: &'a Pod,
    /// Whether the pod is to end: it was marked for deletion, or is gone from the API.
    pub(super) ending: bool,
    pub(super) sandbox: Option<&'a SandboxStatus>,
    pub(super) memory: &'a Memory,
    pub(super) now: Timestamp,
}

impl<'a> View<'a> {
    /// The attempts of a container, in no order: those that are listed, and the last one that could not be started.
    pub(super) fn attempts(&self, name: &str) -> impl Iterator<Item = &'a ContainerStatus> {
        let unstarted = self.memory.unstarted.get(name).map(|unstarted| &unstarted.status);
        // What is listed was started after all, and comes last to win.
        unstarted.into_iter().chain(listed(self.sandbox, name))
    }

    /// The last attempt of a container, if there was one.
    pub(super) fn latest(&self, name: &str) -> Option<&'a ContainerStatus> {
        self.attempts(name).max_by_key(|status| status.id.attempt)
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Makes the sandbox and the volumes.
    CreateSandbox,
    /// Starts the attempt of a container, with the backoff that follows it.
    Start { name: Box<str>, attempt: u32, backoff_seconds: u64 },
    /// Ends containers, side by side, within the pod's grace.
    Stop { attempts: Vec<(Box<str>, u32)>, why: Why },
    /// Forgets an old attempt.
    Forget { name: Box<str>, attempt: u32 },
}

/// Why containers are ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Their pod ends.
    PodEnds,
    /// One doesn't start up.
    StartupProbe,
    /// One doesn't live up to it.
    LivenessProbe,
    /// One is to be of another image.
    Changed,
}

/// What a pod needs next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// In this order; after each, look again.
    pub(super) actions: Vec<Action>,
    /// Containers that have exited, and wait for their backoff to be over.
    pub(super) backing_off: Vec<ContainerId>,
    /// When to look again if nothing happens before.
    pub(super) wake_at: Option<Timestamp>,
    /// Whether an ending pod has nothing left that runs.
    pub(super) ended: bool,
}

/// How a container takes part in its pod's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Runs to its end before the next is started.
    Init,
    /// Runs beside all that come after it, and restarts always.
    Sidecar,
    /// What the pod is for.
    Main,
}

/// The containers of a pod in their order, each with its role.
pub(super) fn containers(spec: &PodSpec) -> impl Iterator<Item = (Role, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|container| {
        let sidecar = container.restart_policy.as_deref() == Some("Always");
        (if sidecar { Role::Sidecar } else { Role::Init }, container)
    });
    init.chain(spec.containers.iter().map(|container| (Role::Main, container)))
}

/// The attempts of a container that the runtime lists.
pub(super) fn listed<'a>(sandbox: Option<&'a SandboxStatus>, name: &str) -> impl Iterator<Item = &'a ContainerStatus> {
    sandbox.into_iter().flat_map(|sandbox| &sandbox.containers).filter(move |status| &*status.id.name == name)
}

/// Whether an exited container is to be started again.
pub(super) fn restarts(spec: &PodSpec, role: Role, code: i32) -> bool {
    match (role, spec.restart_policy.as_deref()) {
        (Role::Sidecar, _) => true,
        (_, Some("Never")) => false,
        (Role::Main, Some("OnFailure")) | (Role::Init, _) => code != 0,
        (Role::Main, _) => true,
    }
}

/// Whether an attempt is of another image than its container is to be now.
fn is_outdated(status: &ContainerStatus, container: &Container) -> bool {
    let wanted = container.image.as_deref().unwrap_or_default();
    status.labels.get(IMAGE_LABEL).is_some_and(|image| **image != *wanted)
}

/// When an exited container may be started again, and the backoff that follows; that of another image is no concern.
pub(super) fn next_start(status: &ContainerStatus, container: &Container) -> (Timestamp, u64) {
    let ContainerState::Exited { started_at, finished_at, .. } = status.state else {
        return (Timestamp::MIN, 0);
    };
    if is_outdated(status, container) {
        return (Timestamp::MIN, 0);
    }
    let ran = started_at.duration_until(finished_at);
    let backoff = status.labels.get(BACKOFF_LABEL).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    if ran.as_secs() >= BACKOFF_RESET_SECONDS {
        return (finished_at, BACKOFF_SECONDS_MIN);
    }
    let at = finished_at.saturating_add(std::time::Duration::from_secs(backoff)).unwrap_or(Timestamp::MAX);
    (at, (backoff * 2).clamp(BACKOFF_SECONDS_MIN, BACKOFF_SECONDS_MAX))
}

/// How long to wait after a failure that is the `count`th in a row, in seconds.
pub(super) fn failure_backoff_seconds(count: u32) -> u64 {
    BACKOFF_SECONDS_MIN.saturating_mul(1 << count.saturating_sub(1).min(5)).min(BACKOFF_SECONDS_MAX)
}

/// When an active pod has to have ended, if it says so.
pub(super) fn deadline(view: &View<'_>) -> Option<Timestamp> {
    let seconds = view.pod.spec.as_ref()?.active_deadline_seconds?;
    let started =
        view.pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map_or(view.now, |time| time.0);
    let within = std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    Some(started.saturating_add(within).unwrap_or(Timestamp::MAX))
}

/// Whether an active pod has had its time.
pub(super) fn is_overdue(view: &View<'_>) -> bool {
    deadline(view).is_some_and(|deadline| deadline <= view.now)
}

/// Whether all main containers have ended for good.
pub(super) fn is_over(view: &View<'_>) -> bool {
    let Some(spec) = &view.pod.spec else { return true };
    let over = |role, name: &str| {
        let code = view.latest(name).and_then(|status| status.state.exit_code());
        code.is_some_and(|code| view.ending || !restarts(spec, role, code))
    };
    let failed_init = containers(spec).any(|(role, container)| {
        let code = view.latest(&container.name).and_then(|status| status.state.exit_code());
        role == Role::Init && code.is_some_and(|code| code != 0 && !restarts(spec, role, code))
    });
    failed_init || spec.containers.iter().all(|container| over(Role::Main, &container.name))
}

/// Decides what a pod needs next.
pub(super) fn decide(view: &View<'_>) -> Plan {
    let Some(spec) = &view.pod.spec else { return Plan::default() };
    if view.ending || has_ended(view.pod) || is_over(view) || is_overdue(view) {
        return end(view, spec);
    }
    let mut plan = Plan { wake_at: deadline(view), ..Plan::default() };
    if !view.sandbox.is_some_and(|sandbox| sandbox.ready) {
        if plan.may_retry(view, "", None) {
            plan.actions.push(Action::CreateSandbox);
        }
        return plan;
    }
    let begun = spec.containers.iter().any(|container| view.latest(&container.name).is_some());
    for (role, container) in containers(spec) {
        let done = plan.consider(view, spec, role, container);
        if !done && role != Role::Main && !begun {
            break;
        }
    }
    plan.forget_old(view, spec);
    plan
}

/// Ends what runs: main and init containers first, then sidecars in reverse order.
fn end(view: &View<'_>, spec: &PodSpec) -> Plan {
    let running = |wanted: fn(Role) -> bool| -> Vec<(Box<str>, u32)> {
        let names = containers(spec).filter(|(role, _)| wanted(*role));
        let ids = names.filter_map(|(_, container)| view.latest(&container.name));
        let ids = ids.filter(|status| status.state.exit_code().is_none());
        ids.map(|status| (status.id.name.clone(), status.id.attempt)).collect()
    };
    let mut attempts = running(|role| role != Role::Sidecar);
    if attempts.is_empty() {
        attempts = running(|role| role == Role::Sidecar).pop().into_iter().collect();
    }
    let ended = attempts.is_empty() && view.ending;
    let actions = if attempts.is_empty() { Vec::new() } else { vec![Action::Stop { attempts, why: Why::PodEnds }] };
    Plan { actions, ended, ..Plan::default() }
}

impl Plan {
    /// Adds what one container needs; returns whether those after it may be started.
    fn consider(&mut self, view: &View<'_>, spec: &PodSpec, role: Role, container: &Container) -> bool {
        let name: Box<str> = container.name.as_str().into();
        let Some(status) = view.latest(&name) else {
            if self.may_retry(view, &name, container.image.as_deref()) {
                self.actions.push(Action::Start { name, attempt: 0, backoff_seconds: 0 });
            }
            return false;
        };
        let Some(code) = status.state.exit_code() else {
            if role != Role::Init && is_outdated(status, container) {
                // Both at once: whatever the restart policy says of one that has ended, this one is restarted.
                let (attempts, attempt) = (vec![(name.clone(), status.id.attempt)], status.id.attempt + 1);
                self.actions.push(Action::Stop { attempts, why: Why::Changed });
                self.actions.push(Action::Start { name, attempt, backoff_seconds: 0 });
                return false;
            }
            let probed = view.memory.probed(&status.id);
            if probed.alive == Some(false) || probed.started == Some(false) {
                let attempts = vec![(name, status.id.attempt)];
                let why = if probed.alive == Some(false) { Why::LivenessProbe } else { Why::StartupProbe };
                self.actions.push(Action::Stop { attempts, why });
                return false;
            }
            return role == Role::Sidecar && (container.startup_probe.is_none() || probed.started == Some(true));
        };
        if !restarts(spec, role, code) {
            return true;
        }
        let (at, backoff_seconds) = next_start(status, container);
        if at > view.now {
            self.backing_off.push(status.id.clone());
            self.wake(at);
        } else if self.may_retry(view, &name, container.image.as_deref()) {
            self.actions.push(Action::Start { name, attempt: status.id.attempt + 1, backoff_seconds });
        }
        false
    }

    fn may_retry(&mut self, view: &View<'_>, name: &str, image: Option<&str>) -> bool {
        let failure = view.memory.failures.get(name).filter(|failure| *failure.image == *image.unwrap_or_default());
        match failure {
            Some(failure) if failure.retry_at > view.now => {
                self.wake(failure.retry_at);
                false
            }
            _ => true,
        }
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }

    /// Keeps of each container the last attempt and the one before it, whose log is still asked for.
    fn forget_old(&mut self, view: &View<'_>, spec: &PodSpec) {
        for (_, container) in containers(spec) {
            let Some(last) = view.latest(&container.name).map(|status| status.id.attempt) else { continue };
            let old = listed(view.sandbox, &container.name).filter(|status| status.id.attempt + 1 < last);
            let old = old.filter(|status| status.state.exit_code().is_some());
            self.actions
                .extend(old.map(|status| Action::Forget { name: status.id.name.clone(), attempt: status.id.attempt }));
        }
    }
}

#[cfg(test)]
#[path = "decide_tests.rs"]
mod tests;
