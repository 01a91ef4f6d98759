//! Whether the node takes a pod that was bound to it: the checks of the scheduler once more, for whoever bound it may not
//! have made them, and two may have at the same time. Pure.

use orchestra_core::scheduler::{
    Filter as _, HostPortsFree, NodeAffinityMatches, NodeNameMatches, NodeView, PodView, Reason,
};

/// Why a pod is not taken: it fails, with these words in its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) reason: String,
    pub(super) message: String,
}

/// Says whether `pod` fits on `node`, on which the other pods are placed already.
pub(super) fn admit(pod: &PodView, node: &NodeView) -> Result<(), Rejection> {
    let failed = |predicate: &str| {
        let reason = predicate.to_owned();
        move |why: Reason| Rejection {
            message: format!("Pod was rejected: Predicate {reason} failed: {}", why.text),
            reason,
        }
    };
    for (resource, wanted) in pod.requests.iter().filter(|(_, wanted)| *wanted > 0) {
        let (used, capacity) = (node.requested.amount(resource), node.allocatable.amount(resource));
        if used.saturating_add(wanted) > capacity {
            let message = format!(
                "Pod was rejected: Node didn't have enough resource: {resource}, requested: {wanted}, used: {used}, \
                 capacity: {capacity}"
            );
            return Err(Rejection { reason: format!("OutOf{resource}"), message });
        }
    }
    NodeNameMatches.admit(pod, node).map_err(failed("NodeName"))?;
    HostPortsFree.admit(pod, node).map_err(failed("NodePorts"))?;
    NodeAffinityMatches.admit(pod, node).map_err(failed("NodeAffinity"))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Pod;
    use orchestra_core::scheduler::{DeviceSet, NodeInfo, NodeView, PodView, Resources};
    use proptest::prelude::{prop, prop_assert, proptest};
    use serde_json::{Value, json};

    use super::admit;

    fn pod(spec: &Value) -> PodView {
        let pod: Pod = serde_json::from_value(json!({"spec": spec})).expect("a pod");
        PodView::of(&pod)
    }

    fn node() -> NodeView {
        let allocatable = Resources { cpu: 1_000, pods: 3, ..Resources::default() };
        NodeInfo { name: "n1".into(), allocatable, ..NodeInfo::default() }.into()
    }

    fn asks(millis: i64) -> Value {
        json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": format!("{millis}m")}}}]})
    }

    #[test]
    fn each_reason_is_kubernetes_own() {
        let mut node = node();
        node.place(
            &pod(&json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "hostPort": 80}]}]})),
            DeviceSet::EMPTY,
        );
        for (spec, reason) in [
            (asks(1_001), "OutOfcpu"),
            (json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), "NodeAffinity"),
            (json!({"containers": [{"name": "a", "ports": [{"containerPort": 8, "hostPort": 80}]}]}), "NodePorts"),
            (json!({"containers": [], "nodeName": "n2"}), "NodeName"),
        ] {
            assert_eq!(admit(&pod(&spec), &node).expect_err("no place").reason, reason);
        }
        assert_eq!(admit(&pod(&asks(1_000)), &node), Ok(()));
    }

    proptest! {
        #[test]
        fn a_node_is_never_overcommitted(wants in prop::collection::vec(0_i64..700, 0..12)) {
            let mut node = node();
            for millis in wants {
                let pod = pod(&asks(millis));
                if admit(&pod, &node).is_ok() {
                    node.place(&pod, DeviceSet::EMPTY);
                }
            }
            for resource in ["cpu", "pods"] {
                prop_assert!(node.requested.amount(resource) <= node.allocatable.amount(resource));
            }
        }
    }
}
