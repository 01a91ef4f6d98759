//! What the API is told of a pod: a pure function from what is seen to a `PodStatus`.

use k8s_openapi::{
    api::core::v1::{
        Container, ContainerState as ApiState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus as ApiStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use orchestra_core::api::pod::{has_ended, is_final, quality_of_service};
use orchestra_core::clock::Timestamp;
use orchestra_core::runtime::{ContainerId, ContainerState, ContainerStatus, ExitReason, Labels, SandboxId};

use super::admission::Rejection;
use super::decide::{Role, Unstarted, View, containers, is_over, is_overdue, next_start, restarts};

/// What is said of a pod that took longer than it may.
const OVERDUE: &str = "Pod was active on the node longer than the specified deadline";

/// Why a container waits that ends again and again.
pub(super) const CRASH_LOOP: &str = "CrashLoopBackOff";
/// Why an attempt ended that could not be started.
const START_ERROR: &str = "StartError";

/// What the node adds to a pod's status.
#[derive(Clone, Copy, Debug)]
pub(super) struct NodeFacts<'a> {
    /// The scheme of container ids: the runtime's name.
    pub(super) runtime: &'a str,
    /// The node's own address.
    pub(super) address: &'a str,
}

/// What is seen of a pod, as the API tells it. Conditions of others, and times of what hasn't changed, are kept.
pub(super) fn pod_status(view: &View<'_>, node: NodeFacts<'_>) -> PodStatus {
    let Some(spec) = &view.pod.spec else { return PodStatus::default() };
    let before = view.pod.status.clone().unwrap_or_default();
    if view.sandbox.is_none() && has_ended(view.pod) {
        // It was turned away, or nothing is left to see.
        return before;
    }
    let overdue = is_overdue(view) && !has_ended(view.pod);
    let phase = phase(view, spec, before.phase.as_deref());
    let has_ended_now = is_final(phase);
    let report = |wanted: fn(Role) -> bool| -> Vec<ApiStatus> {
        let wanted = containers(spec).filter(|(role, _)| wanted(*role));
        wanted.map(|(role, container)| container_status(view, spec, role, container, node.runtime)).collect()
    };
    let mains = report(|role| role == Role::Main);
    let inits = report(|role| role != Role::Main);
    let address = view.sandbox.filter(|sandbox| sandbox.ready).and_then(|sandbox| sandbox.address);
    let address = address.map(|address| address.to_string());
    let own_network = !spec.host_network.unwrap_or(false);
    let address = if own_network { address } else { view.sandbox.map(|_| node.address.into()) };
    let address = address.or_else(|| before.pod_ip.clone());
    let conditions = conditions(view, spec, has_ended_now, &inits, &mains);
    PodStatus {
        phase: Some(phase.into()),
        conditions: Some(conditions),
        pod_ips: address.clone().map(|ip| vec![PodIP { ip }]),
        pod_ip: address,
        host_ip: Some(node.address.into()),
        host_ips: Some(vec![HostIP { ip: node.address.into() }]),
        start_time: before.start_time.or(Some(Time(view.now))),
        reason: if overdue { Some("DeadlineExceeded".into()) } else { before.reason.clone() },
        message: if overdue { Some(OVERDUE.into()) } else { before.message.clone() },
        qos_class: Some(quality_of_service(spec).into()),
        container_statuses: Some(mains),
        init_container_statuses: (!inits.is_empty()).then_some(inits),
        observed_generation: view.pod.metadata.generation,
        ..before
    }
}

/// The status of a pod that the node does not take on.
pub(super) fn rejected(view: &View<'_>, rejection: &Rejection, node: NodeFacts<'_>) -> PodStatus {
    PodStatus {
        phase: Some("Failed".into()),
        reason: Some(rejection.reason.clone()),
        message: Some(rejection.message.clone()),
        start_time: Some(Time(view.now)),
        host_ip: Some(node.address.into()),
        host_ips: Some(vec![HostIP { ip: node.address.into() }]),
        qos_class: view.pod.spec.as_ref().map(|spec| quality_of_service(spec).into()),
        observed_generation: view.pod.metadata.generation,
        ..view.pod.status.clone().unwrap_or_default()
    }
}

/// SEMANTICS 52: a final phase stays.
fn phase(view: &View<'_>, spec: &PodSpec, before: Option<&str>) -> &'static str {
    match before {
        Some("Succeeded") => return "Succeeded",
        Some("Failed") => return "Failed",
        _ => {}
    }
    if is_overdue(view) {
        return "Failed";
    }
    let runs = containers(spec)
        .any(|(_, container)| view.latest(&container.name).is_some_and(|status| status.state.exit_code().is_none()));
    let codes =
        spec.containers.iter().map(|container| view.latest(&container.name).map(|status| status.state.exit_code()));
    let codes: Vec<_> = codes.collect();
    if is_over(view) && !runs {
        let succeeded = codes.iter().all(|code| *code == Some(Some(0)));
        return if succeeded { "Succeeded" } else { "Failed" };
    }
    if codes.iter().all(Option::is_some) { "Running" } else { "Pending" }
}

fn container_status(view: &View<'_>, spec: &PodSpec, role: Role, container: &Container, runtime: &str) -> ApiStatus {
    let last = view.latest(&container.name);
    let failure = view.memory.failures.get(container.name.as_str());
    let mut state = ApiState::default();
    let mut last_state = previous(view, last, runtime);
    match last.map(|status| (status, &status.state)) {
        Some((_, ContainerState::Created | ContainerState::Running { .. })) => {
            state.running = last.and_then(running);
        }
        Some((status, ContainerState::Exited { code, .. })) => {
            let again = !view.ending && restarts(spec, role, *code) && !is_over(view);
            let waits = again && next_start(status, container).0 > view.now;
            let unstarted = view.memory.unstarted(&status.id);
            match (failure.filter(|_| again), unstarted.filter(|_| again)) {
                (Some(failure), _) => state.waiting = Some(waiting(failure.reason, failure.message.clone())),
                (None, _) if waits => state.waiting = Some(crash_loop(view, status)),
                (None, Some(failed)) => state.waiting = Some(waiting("RunContainerError", failed.message.clone())),
                (None, None) => state.terminated = terminated(view, status, runtime),
            }
            if state.waiting.is_some() {
                last_state = Some(ApiState { terminated: terminated(view, status, runtime), ..ApiState::default() });
            }
        }
        None => {
            let failure = failure.or_else(|| view.memory.failures.get(""));
            let initializing = role == Role::Main && spec.init_containers.iter().flatten().next().is_some();
            let reason = if initializing { "PodInitializing" } else { "ContainerCreating" };
            state.waiting = Some(match failure {
                Some(failure) => waiting(failure.reason, failure.message.clone()),
                None => ContainerStateWaiting { reason: Some(reason.into()), message: None },
            });
        }
    }
    let (started, ready) = readiness(view, role, container, last);
    ApiStatus {
        name: container.name.clone(),
        image: last.map_or_else(|| container.image.clone().unwrap_or_default(), |last| last.image.to_string()),
        image_id: last.map(|status| status.image_id.to_string()).unwrap_or_default(),
        container_id: last.map(|status| container_id(status, runtime)),
        restart_count: last.map_or(0, |status| i32::try_from(status.id.attempt).unwrap_or(i32::MAX)),
        started: Some(started),
        ready,
        state: Some(state),
        last_state,
        ..ApiStatus::default()
    }
}

/// Whether a container has started up, and whether it is ready; nothing of an ending pod is (SEMANTICS 52).
fn readiness(view: &View<'_>, role: Role, container: &Container, last: Option<&ContainerStatus>) -> (bool, bool) {
    let Some(last) = last else { return (false, false) };
    if last.state.exit_code().is_some() {
        return (false, role == Role::Init && last.state.exit_code() == Some(0));
    }
    let probed = view.memory.probed(&last.id);
    let started = container.startup_probe.is_none() || probed.started == Some(true);
    let ready = container.readiness_probe.is_none() || probed.ready == Some(true);
    (started, started && ready && role != Role::Init && !view.ending)
}

fn previous(view: &View<'_>, last: Option<&ContainerStatus>, runtime: &str) -> Option<ApiState> {
    let last = last?;
    let before = view.attempts(&last.id.name).filter(|status| status.id.attempt < last.id.attempt);
    let before = before.max_by_key(|status| status.id.attempt)?;
    Some(ApiState { terminated: terminated(view, before, runtime), ..ApiState::default() })
}

fn running(status: &ContainerStatus) -> Option<ContainerStateRunning> {
    match status.state {
        ContainerState::Running { started_at, .. } => {
            Some(ContainerStateRunning { started_at: Some(Time(started_at)) })
        }
        _ => None,
    }
}

fn terminated(view: &View<'_>, status: &ContainerStatus, runtime: &str) -> Option<ContainerStateTerminated> {
    let ContainerState::Exited { code, reason, started_at, finished_at } = status.state else { return None };
    let unstarted = view.memory.unstarted(&status.id);
    let reason = match (reason, code) {
        _ if unstarted.is_some() => START_ERROR,
        (ExitReason::OutOfMemory, _) => "OOMKilled",
        (ExitReason::Lost, _) => "ContainerStatusUnknown",
        (_, 0) => "Completed",
        _ => "Error",
    };
    Some(ContainerStateTerminated {
        container_id: Some(container_id(status, runtime)),
        exit_code: code,
        reason: Some(reason.into()),
        started_at: Some(Time(if unstarted.is_some() { Timestamp::UNIX_EPOCH } else { started_at })),
        finished_at: Some(Time(finished_at)),
        message: match unstarted {
            Some(unstarted) => Some(unstarted.message.clone()),
            None => view.memory.messages.get(&status.id).cloned(),
        },
        ..ContainerStateTerminated::default()
    })
}

fn waiting(reason: &str, message: String) -> ContainerStateWaiting {
    ContainerStateWaiting { reason: Some(reason.into()), message: Some(message) }
}

fn crash_loop(view: &View<'_>, status: &ContainerStatus) -> ContainerStateWaiting {
    let backoff = status.labels.get(super::decide::BACKOFF_LABEL).map_or("0", |text| text);
    let (name, pod) = (&status.id.name, full_name(view.pod));
    waiting(CRASH_LOOP, format!("back-off {backoff}s restarting failed container={name} pod={pod}"))
}

/// A pod as Kubernetes' messages call it: `name_namespace(uid)`.
pub(super) fn full_name(pod: &Pod) -> String {
    let metadata = &pod.metadata;
    let part = |part: &Option<String>| part.as_deref().unwrap_or_default().to_owned();
    format!("{}_{}({})", part(&metadata.name), part(&metadata.namespace), part(&metadata.uid))
}

/// The id of a container as the API shows it.
pub(super) fn container_id(status: &ContainerStatus, runtime: &str) -> String {
    format!("{runtime}://{}", status.id)
}

/// The last attempt of a container that could not be started, if the API shows one.
pub(super) fn told_unstarted(sandbox: &SandboxId, told: &ApiStatus) -> Option<Unstarted> {
    let (state, last_state) = (told.state.as_ref()?, told.last_state.as_ref());
    let ended = state.terminated.as_ref().or_else(|| last_state?.terminated.as_ref())?;
    if ended.reason.as_deref() != Some(START_ERROR) {
        return None;
    }
    let attempt = u32::try_from(told.restart_count).ok()?.checked_sub(state.running.is_some().into())?;
    let id = ContainerId { sandbox: sandbox.clone(), name: told.name.as_str().into(), attempt };
    let message = ended.message.clone().unwrap_or_default();
    // Without its backoff, which starts over, as with Kubernetes' own kubelet.
    Some(Unstarted::new(id, Labels::new(), &told.image, ended.finished_at.as_ref()?.0, message))
}

/// The pod's conditions: the kubelet's own, and those of others as they were.
fn conditions(
    view: &View<'_>,
    spec: &PodSpec,
    is_final: bool,
    inits: &[ApiStatus],
    mains: &[ApiStatus],
) -> Vec<PodCondition> {
    let completed = is_final.then_some("PodCompleted");
    let sandbox = view.sandbox.is_some_and(|sandbox| sandbox.ready) && !is_final;
    let begun = mains.iter().any(|status| status.container_id.is_some());
    let waiting_inits = containers(spec).filter(|(role, _)| *role != Role::Main).zip(inits);
    let initialized = begun
        || waiting_inits.fold(true, |all, ((role, _), status)| {
            all && if role == Role::Sidecar { status.started == Some(true) } else { status.ready }
        });
    let unready: Vec<_> = mains.iter().filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
    let containers_ready = unready.is_empty() && !is_final && !view.ending;
    let message = (!unready.is_empty()).then(|| format!("containers with unready status: [{}]", unready.join(" ")));
    let before = view.pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let gates = spec.readiness_gates.iter().flatten().all(|gate| {
        before.iter().any(|condition| condition.type_ == gate.condition_type && condition.status == "True")
    });
    let incomplete: Vec<_> = inits.iter().filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
    let uninitialized =
        (!initialized).then(|| format!("containers with incomplete status: [{}]", incomplete.join(" ")));
    let not_ready = completed.unwrap_or("ContainersNotReady");
    let ungated = (!gates).then_some("ReadinessGatesNotReady");
    let unready_reason = if containers_ready { ungated } else { Some(not_ready) };
    let own = [
        ("PodReadyToStartContainers", sandbox, None, None),
        ("Initialized", initialized, completed.or((!initialized).then_some("ContainersNotInitialized")), uninitialized),
        ("Ready", containers_ready && gates, unready_reason, message.clone()),
        ("ContainersReady", containers_ready, (!containers_ready).then_some(not_ready), message),
        ("PodScheduled", true, None, None),
    ];
    let mut all: Vec<_> = own
        .into_iter()
        .map(|(type_, holds, reason, message)| {
            let status = if holds { "True" } else { "False" };
            let old = before.iter().find(|condition| condition.type_ == type_);
            let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
            PodCondition {
                type_: type_.into(),
                status: status.into(),
                reason: reason.map(Into::into),
                message,
                last_transition_time: since.or(Some(Time(view.now))),
                observed_generation: view.pod.metadata.generation,
                ..PodCondition::default()
            }
        })
        .collect();
    let is_own = |condition: &PodCondition| all.iter().any(|own| own.type_ == condition.type_);
    let others: Vec<_> = before.iter().filter(|condition| !is_own(condition)).cloned().collect();
    all.extend(others);
    all
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
    use orchestra_core::clock::Timestamp;

    use super::{NodeFacts, pod_status};
    use crate::kubelet::decide::{Failure, Memory, View};

    const NODE: NodeFacts<'static> = NodeFacts { runtime: "memory", address: "10.0.0.1" };

    fn pod(phase: Option<&str>) -> Pod {
        let container = Container { name: "web".into(), ..Container::default() };
        Pod {
            spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
            status: Some(PodStatus { phase: phase.map(Into::into), ..PodStatus::default() }),
            ..Pod::default()
        }
    }

    #[test]
    fn a_pod_whose_image_cannot_be_had_says_so() {
        let failure = Failure {
            reason: "ImagePullBackOff",
            message: "Back-off pulling image".into(),
            count: 1,
            retry_at: Timestamp::UNIX_EPOCH,
            image: "".into(),
        };
        let memory = Memory { failures: [("web".into(), failure)].into(), ..Memory::default() };
        let pod = pod(None);
        let view = View { pod: &pod, ending: false, sandbox: None, memory: &memory, now: Timestamp::UNIX_EPOCH };
        let status = pod_status(&view, NODE);
        assert_eq!(status.phase.as_deref(), Some("Pending"));
        let waiting = status.container_statuses.expect("one container")[0].state.clone().and_then(|s| s.waiting);
        assert_eq!(waiting.and_then(|waiting| waiting.reason).as_deref(), Some("ImagePullBackOff"));
    }

    /// SEMANTICS 52.
    #[test]
    fn a_final_phase_stays() {
        for phase in ["Succeeded", "Failed"] {
            let (pod, memory) = (pod(Some(phase)), Memory::default());
            let view = View { pod: &pod, ending: false, sandbox: None, memory: &memory, now: Timestamp::UNIX_EPOCH };
            assert_eq!(pod_status(&view, NODE).phase.as_deref(), Some(phase));
        }
    }
}
