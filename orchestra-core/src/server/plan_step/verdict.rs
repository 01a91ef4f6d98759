//! What is said of an operation of a step that is not committed.

use serde_json::Value;

use crate::{
    api::{
        plan_step::{EVICT, Operation},
        pod::is_final,
    },
    scheduler::Refusal,
    server::object::{Object, is_terminating, meta},
};

/// Why an operation is not committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// For programs, such as `PodBound`.
    pub(super) reason: &'static str,
    /// For people.
    pub(super) message: String,
    /// Whether it is the node that is in the way, not the pod.
    pub(super) is_of_node: bool,
}

impl Refused {
    fn pod(reason: &'static str, operation: &Operation, why: &str) -> Self {
        Self { reason, message: format!("pod {} {why}", name(operation)), is_of_node: false }
    }

    /// The node is not there.
    pub(super) fn no_node(operation: &Operation) -> Self {
        let message = format!("pod {}: node \"{}\" not found", name(operation), operation.node);
        Self { reason: "NodeGone", message, is_of_node: true }
    }

    /// What the scheduler's own judge says.
    pub(super) fn judged(operation: &Operation, refusal: &Refusal) -> Self {
        let of_node = |reason, why: &str| {
            let message = format!("pod {} on node \"{}\": {why}", name(operation), operation.node);
            Self { reason, message, is_of_node: true }
        };
        match refusal {
            Refusal::Changed(_) => of_node("NodeChanged", "the node has changed since it was read"),
            Refusal::NoRoom(reason) => of_node("Unfit", &reason.text),
            Refusal::Placed => Self::pod("PodBound", operation, "has a node already"),
        }
    }
}

/// Whether a pod, as it is now, is the one that an operation is about, and in a state for it.
pub(super) fn check_pod(operation: &Operation, pod: Option<&Object>) -> Result<(), Refused> {
    let refuse = |reason, why: &str| Err(Refused::pod(reason, operation, why));
    let Some(pod) = pod else { return refuse("PodGone", "is not there") };
    let meant = &operation.pod;
    if !meant.uid.is_empty() && meant.uid != meta(pod, "uid") {
        return refuse("PodGone", &format!("is another one by now, of the uid {}", meta(pod, "uid")));
    }
    if !meant.resource_version.is_empty() && meant.resource_version != meta(pod, "resourceVersion") {
        return refuse("PodChanged", &format!("has changed: it is at version {}", meta(pod, "resourceVersion")));
    }
    if operation.type_ == EVICT {
        return Ok(());
    }
    if is_terminating(pod) {
        return refuse("PodGone", "is being deleted");
    }
    let text = |part: &str, field: &str| {
        pod.get(part).and_then(|part| part.get(field)).and_then(Value::as_str).unwrap_or_default()
    };
    if is_final(text("status", "phase")) {
        return refuse("PodGone", "has ended");
    }
    match text("spec", "nodeName") {
        "" => {}
        node => return refuse("PodBound", &format!("is already assigned to node \"{node}\"")),
    }
    let gates = pod.get("spec").and_then(|spec| spec.get("schedulingGates")).and_then(Value::as_array);
    if gates.is_some_and(|gates| !gates.is_empty()) {
        return refuse("PodHeld", "has non-empty .spec.schedulingGates");
    }
    Ok(())
}

fn name(operation: &Operation) -> String {
    format!("{}/{}", operation.pod.namespace, operation.pod.name)
}
