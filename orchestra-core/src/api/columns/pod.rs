//! The columns of pods, whose status sums up what their containers do.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus};
use serde_json::Value;

use super::{
    AGE, Column, Columns, Completed, Description, NAME, Row, string,
    text::{age, name, or_none, since},
    wide,
};
use crate::{api::pod::has_ended, clock::Timestamp};

const SPEC: &str = "io.k8s.api.core.v1.PodSpec";
const STATUS: &str = "io.k8s.api.core.v1.PodStatus";
/// The reason of a pod's status once its node is lost.
const NODE_LOST: &str = "NodeLost";

/// The columns of pods.
pub const POD: Columns<Pod> = Columns {
    definitions: &[
        NAME,
        string("Ready", Description::Text("The aggregate readiness state of this pod for accepting traffic.")),
        string("Status", Description::Text("The aggregate status of the containers in this pod.")),
        RESTARTS,
        AGE,
        wide(string("IP", Description::Field(STATUS, "podIP"))),
        wide(string("Node", Description::Field(SPEC, "nodeName"))),
        wide(string("Nominated Node", Description::Field(STATUS, "nominatedNodeName"))),
        wide(string("Readiness Gates", Description::Field(SPEC, "readinessGates"))),
    ],
    row,
};

const RESTARTS: Column = string(
    "Restarts",
    Description::Text(
        "The number of times the containers in this pod have been restarted and when the last container in this pod has \
         restarted.",
    ),
);

fn row(pod: &Pod, now: Timestamp) -> Row {
    let (no_spec, no_status) = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&no_spec);
    let status = pod.status.as_ref().unwrap_or(&no_status);
    let summary = summarize(spec, status);
    let reason = ending(pod, status).unwrap_or(summary.reason);
    let restarts = match summary.restarts.last {
        Some(last) if summary.restarts.count != 0 => {
            format!("{} ({} ago)", summary.restarts.count, since(Some(last), now))
        }
        _ => summary.restarts.count.to_string(),
    };
    let total = spec.containers.len() + sidecars(spec).count();
    let ip = status.pod_ips.iter().flatten().next().map(|ip| ip.ip.as_str());
    let cells = vec![
        name(&pod.metadata),
        format!("{}/{total}", summary.ready).into(),
        reason.into(),
        restarts.into(),
        age(&pod.metadata, now),
        or_none(ip),
        or_none(spec.node_name.as_deref()),
        or_none(status.nominated_node_name.as_deref()),
        readiness_gates(spec, status),
    ];
    Row { cells, completed: completed(status) }
}

/// What a pod's containers come to.
#[derive(Debug, Default)]
struct Summary {
    reason: String,
    ready: usize,
    restarts: Restarts,
}

/// How often containers were restarted, and when the last of them ended before.
#[derive(Clone, Copy, Debug, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus) {
        self.count += i64::from(container.restart_count);
        let ended = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
        self.last = self.last.max(ended.and_then(|ended| ended.finished_at.as_ref()).map(|time| time.0));
    }
}

fn summarize(spec: &PodSpec, status: &PodStatus) -> Summary {
    let mut summary = Summary { reason: phase(status), ..Summary::default() };
    let initializing = init_containers(spec, status, &mut summary);
    if !initializing || has_condition(status, "Initialized") {
        // From here on the restarts of what has run and ended before don't count.
        summary.restarts = Restarts::default();
        for container in status.init_container_statuses.iter().flatten() {
            if sidecars(spec).any(|sidecar| sidecar == container.name) {
                summary.restarts.add(container);
            }
        }
        containers(status, &mut summary);
    }
    summary
}

/// What the pod itself says before its containers are looked at.
fn phase(status: &PodStatus) -> String {
    let is_gated = |condition: &k8s_openapi::api::core::v1::PodCondition| {
        condition.type_ == "PodScheduled" && condition.reason.as_deref() == Some("SchedulingGated")
    };
    if status.conditions.iter().flatten().any(is_gated) {
        return "SchedulingGated".into();
    }
    let reason = status.reason.as_deref().filter(|reason| !reason.is_empty());
    reason.or(status.phase.as_deref()).unwrap_or_default().into()
}

/// Goes through the init containers up to the one that holds the pod up; returns whether there is one.
fn init_containers(spec: &PodSpec, status: &PodStatus, summary: &mut Summary) -> bool {
    let total = spec.init_containers.as_ref().map_or(0, Vec::len);
    for (at, container) in status.init_container_statuses.iter().flatten().enumerate() {
        summary.restarts.add(container);
        let state = container.state.clone().unwrap_or_default();
        let is_sidecar = sidecars(spec).any(|sidecar| sidecar == container.name);
        let waits_for = state.waiting.and_then(|waiting| waiting.reason).filter(|reason| !reason.is_empty());
        match (state.terminated, waits_for) {
            (Some(ended), _) if ended.exit_code == 0 => continue,
            _ if is_sidecar && container.started == Some(true) => {
                summary.ready += usize::from(container.ready);
                continue;
            }
            (Some(ended), _) => summary.reason = format!("Init:{}", how_ended(&ended)),
            (None, Some(reason)) if reason != "PodInitializing" => summary.reason = format!("Init:{reason}"),
            (None, _) => summary.reason = format!("Init:{at}/{total}"),
        }
        return true;
    }
    false
}

/// Goes through the containers; the reason of the first one counts.
fn containers(status: &PodStatus, summary: &mut Summary) {
    let mut any_runs = false;
    for container in status.container_statuses.iter().flatten().rev() {
        summary.restarts.add(container);
        let state = container.state.clone().unwrap_or_default();
        let waits_for = state.waiting.and_then(|waiting| waiting.reason).filter(|reason| !reason.is_empty());
        match (waits_for, state.terminated, state.running) {
            (Some(reason), ..) => summary.reason = reason,
            (None, Some(ended), _) => summary.reason = how_ended(&ended),
            (None, None, Some(_)) if container.ready => {
                any_runs = true;
                summary.ready += 1;
            }
            _ => {}
        }
    }
    // One that has completed beside one that runs is no end of the pod.
    if summary.reason == "Completed" && any_runs {
        summary.reason = if has_condition(status, "Ready") { "Running" } else { "NotReady" }.into();
    }
}

fn how_ended(ended: &ContainerStateTerminated) -> String {
    match (ended.reason.as_deref().unwrap_or_default(), ended.signal.unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", ended.exit_code),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.into(),
    }
}

/// What is said of a pod that is to go, whatever its containers do.
fn ending(pod: &Pod, status: &PodStatus) -> Option<String> {
    pod.metadata.deletion_timestamp.as_ref()?;
    match status.reason.as_deref() {
        Some(NODE_LOST) => Some("Unknown".into()),
        _ if has_ended(pod) => None,
        _ => Some("Terminating".into()),
    }
}

fn readiness_gates(spec: &PodSpec, status: &PodStatus) -> Value {
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    if gates.is_empty() {
        return or_none(None);
    }
    let open = gates.iter().filter(|gate| has_condition(status, &gate.condition_type)).count();
    format!("{open}/{}", gates.len()).into()
}

/// Whether the first condition of this type is true.
fn has_condition(status: &PodStatus, condition_type: &str) -> bool {
    let found = status.conditions.iter().flatten().find(|condition| condition.type_ == condition_type);
    found.is_some_and(|condition| condition.status == "True")
}

/// The names of the init containers that go on to run beside the others.
fn sidecars(spec: &PodSpec) -> impl Iterator<Item = &str> {
    let init = spec.init_containers.iter().flatten();
    init.filter(|container| container.restart_policy.as_deref() == Some("Always")).map(|container| &*container.name)
}

fn completed(status: &PodStatus) -> Option<Completed> {
    match status.phase.as_deref()? {
        "Succeeded" => Some(Completed { reason: "Succeeded", message: "The pod has completed successfully." }),
        "Failed" => Some(Completed { reason: "Failed", message: "The pod failed." }),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
