//! What is often asked of a pod, and has one answer.

use k8s_openapi::api::core::v1::{Pod, PodSpec};

use crate::clock::Timestamp;

/// The phase that a pod's status tells; empty before anyone has looked at it.
#[must_use]
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether a pod's containers have run for the last time. It takes nothing of its node then, and never runs again.
#[must_use]
pub fn has_ended(pod: &Pod) -> bool {
    is_final(phase(pod))
}

/// Whether a phase is one that a pod ends in, and never leaves.
#[must_use]
pub fn is_final(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// Whether a pod counts for its controller: it has not ended, and is not on its way out.
#[must_use]
pub fn is_active(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !has_ended(pod)
}

/// Whether a pod takes requests, as its kubelet last told; a pod that is on its way out may still.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// Since when a pod is ready; `None` if it isn't, the epoch if its status doesn't tell.
#[must_use]
pub fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

/// The quality-of-service class, by processor time and memory of all containers: `Guaranteed` if each has limits that
/// are also its requests, `BestEffort` if none asks for anything, else `Burstable`.
#[must_use]
pub fn quality_of_service(spec: &PodSpec) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
        let resources = container.resources.as_ref();
        for name in ["cpu", "memory"] {
            let request = resources.and_then(|resources| resources.requests.as_ref()?.get(name));
            let limit = resources.and_then(|resources| resources.limits.as_ref()?.get(name));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && (request.is_none() || request == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{from_value, json};

    use super::quality_of_service;

    #[test]
    fn a_pod_is_guaranteed_only_if_each_of_its_containers_is() {
        let all = json!({ "limits": { "cpu": "1", "memory": "1Gi" } });
        let class = |init: serde_json::Value, main: serde_json::Value| {
            let init = json!([{ "name": "init", "resources": init }]);
            let spec = json!({ "initContainers": init, "containers": [{ "name": "main", "resources": main }] });
            quality_of_service(&from_value(spec).expect("a pod spec"))
        };
        assert_eq!(class(json!({}), json!({})), "BestEffort");
        assert_eq!(class(json!({}), all.clone()), "Burstable");
        assert_eq!(class(all.clone(), json!({ "limits": { "cpu": "1" } })), "Burstable");
        assert_eq!(class(all.clone(), json!({ "requests": { "cpu": "1" } })), "Burstable");
        assert_eq!(class(all.clone(), all), "Guaranteed");
    }
}
