//! Which of two pods goes first when there are too many, as Kubernetes' `ActivePodsWithRanks` has it.

use std::{cmp::Ordering, collections::BTreeMap};

use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt as _;

use crate::{
    api::pod::{phase, ready_since},
    clock::Timestamp,
};

const DELETION_COST_ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";

/// Compares two active pods; the lesser goes first.
///
/// Those go first that are not placed, that don't run, that aren't ready; that say it costs less; that share their node
/// with more siblings; that became ready later, that restarted more, that are younger. Times that are of one magnitude
/// count as equal, so that not every pod of the last rollout goes before any of the one before.
pub(super) fn goes_first(a: &Pod, b: &Pod, crowding: &BTreeMap<String, usize>, now: Timestamp) -> Ordering {
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).filter(|name| !name.is_empty());
    let siblings = |pod: &Pod| node(pod).and_then(|node| crowding.get(&node).copied()).unwrap_or(0);
    let phase_rank = |pod: &Pod| match phase(pod) {
        "Running" => 2,
        "Unknown" => 1,
        _ => 0,
    };
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0);
    node(a)
        .is_some()
        .cmp(&node(b).is_some())
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| ready_since(a).is_some().cmp(&ready_since(b).is_some()))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| siblings(b).cmp(&siblings(a)))
        .then_with(|| magnitude(ready_since(a), now).cmp(&magnitude(ready_since(b), now)))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| magnitude(created(a), now).cmp(&magnitude(created(b), now)))
        .then_with(|| a.uid().cmp(&b.uid()))
        .then_with(|| a.name_any().cmp(&b.name_any()))
}

fn cost(pod: &Pod) -> i32 {
    pod.annotations().get(DELETION_COST_ANNOTATION).and_then(|cost| cost.parse().ok()).unwrap_or(0)
}

/// The binary logarithm of an age; no time is younger than any.
fn magnitude(since: Option<Timestamp>, now: Timestamp) -> Option<u32> {
    let age = now.duration_since(since?).as_nanos();
    Some(u128::try_from(age).unwrap_or(0).checked_ilog2().unwrap_or(0))
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::{cmp::Ordering, collections::BTreeMap};

    use k8s_openapi::api::core::v1::Pod;
    use proptest::prelude::*;
    use serde_json::json;

    use super::{Timestamp, goes_first};

    fn at(seconds: i64) -> String {
        Timestamp::from_second(1_000_000 + seconds).expect("in range").to_string()
    }

    fn pod(name: &str, node: &str, cost: i32, ready_at: i64, restarts: i32) -> Pod {
        serde_json::from_value(json!({
            "metadata": { "name": name, "uid": name, "creationTimestamp": at(0),
                "annotations": { "controller.kubernetes.io/pod-deletion-cost": cost.to_string() } },
            "spec": { "containers": [], "nodeName": node },
            "status": { "phase": "Running",
                "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": at(ready_at) }],
                "containerStatuses": [{ "name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": restarts }] } }))
        .expect("a pod")
    }

    #[test]
    fn cost_then_crowding_then_readiness_then_restarts_decide() {
        let now = at(1_000).parse().expect("a time");
        let crowding = BTreeMap::from([("n1".to_owned(), 2), ("n2".to_owned(), 1)]);
        let base = pod("b", "n2", 0, 10, 0);
        for first in
            [pod("z", "n2", -1, 10, 0), pod("z", "n1", 0, 10, 0), pod("z", "n2", 0, 900, 0), pod("z", "n2", 0, 10, 3)]
        {
            assert_eq!(goes_first(&first, &base, &crowding, now), Ordering::Less, "{first:?}");
        }
        assert_eq!(goes_first(&pod("a", "n2", 0, 11, 0), &base, &crowding, now), Ordering::Less, "a tie goes by uid");
    }

    proptest! {
        #[test]
        fn the_order_is_total(pods in proptest::collection::vec((0..2_u8, 0..3_i32, 0..900_i64, 0..3_i32), 3)) {
            let now = at(1_000).parse().expect("a time");
            let crowding = BTreeMap::from([("n1".to_owned(), 2)]);
            let pods: Vec<_> = pods.iter().enumerate()
                .map(|(n, (node, cost, ready, restarts))| pod(&n.to_string(), &format!("n{node}"), *cost, *ready, *restarts))
                .collect();
            let order = |a: usize, b: usize| goes_first(&pods[a], &pods[b], &crowding, now);
            for (a, b, c) in [(0, 1, 2), (1, 2, 0), (2, 0, 1)] {
                prop_assert_eq!(order(a, b), order(b, a).reverse());
                prop_assert!(!(order(a, b).is_lt() && order(b, c).is_lt() && order(a, c).is_gt()));
            }
        }
    }
}
