//! Pods spread evenly over topologies where that is only preferred (Kubernetes' `PodTopologySpread`, as a score).

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use crate::scheduler::{
    NodeId, NodeView, PodId, PodView, RelationScore, Trial, relation::Peers, topology_spread::is_considered,
};

/// The label of a single node: each node is a topology of its own.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Prefers topologies with few peers of the pod, by those of its constraints that are only preferred (`ScheduleAnyway`).
#[derive(Clone, Copy, Debug)]
pub struct PreferredSpread;

impl RelationScore for PreferredSpread {
    fn name(&self) -> &str {
        "topology-spread"
    }

    fn concerns(&self, pod: PodId, trial: &Trial<'_>) -> bool {
        !trial.snapshot().pod(pod).preferred_spread.is_empty()
    }

    fn points(&self, pod: PodId, trial: &Trial<'_>, admitted: &[NodeId]) -> Vec<i64> {
        let (snapshot, view) = (trial.snapshot(), trial.snapshot().pod(pod));
        let has_labels =
            |node: &NodeView| view.preferred_spread.iter().all(|one| node.labels.contains_key(&one.topology_key));
        let counted: Vec<&NodeView> =
            admitted.iter().map(|node| snapshot.node(*node)).filter(|node| has_labels(node)).collect();
        let mut numbers: BTreeMap<&str, f64> = BTreeMap::new();
        for constraint in &view.preferred_spread {
            let peers = peers(constraint, view, trial, has_labels);
            let topologies: BTreeSet<&str> = counted.iter().filter_map(|node| topology(constraint, node)).collect();
            // The more topologies there are, the less each peer in one of them says.
            let size = if constraint.topology_key == HOSTNAME { counted.len() } else { topologies.len() };
            let weight = ((size + 2) as f64).ln();
            for node in &counted {
                let count = topology(constraint, node).and_then(|topology| peers.get(topology)).copied().unwrap_or(0);
                let number = numbers.entry(&node.name).or_insert(0.0);
                *number += count as f64 * weight + f64::from(constraint.max_skew - 1);
            }
        }
        let numbers: BTreeMap<&str, i64> =
            numbers.into_iter().map(|(node, number)| (node, number.round() as i64)).collect();
        let (least, most) =
            (numbers.values().copied().min().unwrap_or(0), numbers.values().copied().max().unwrap_or(0));
        let points = |node: &NodeId| match numbers.get(&*snapshot.node(*node).name) {
            None => 0,
            Some(_) if most == 0 => 100,
            Some(number) => 100 * (most + least - number) / most,
        };
        admitted.iter().map(points).collect()
    }
}

fn topology<'a>(constraint: &TopologySpreadConstraint, node: &'a NodeView) -> Option<&'a str> {
    node.labels.get(&constraint.topology_key).map(String::as_str)
}

/// How many peers a pod has in each topology.
fn peers<'a>(
    constraint: &TopologySpreadConstraint,
    pod: &PodView,
    trial: &Trial<'a>,
    has_labels: impl Fn(&NodeView) -> bool,
) -> BTreeMap<&'a str, i64> {
    let (snapshot, wanted) = (trial.snapshot(), Peers::of_spread(constraint, pod));
    let mut peers = BTreeMap::new();
    for (other, node) in trial.placed() {
        let (other, node) = (snapshot.pod(other), snapshot.node(node));
        let counts = || has_labels(node) && is_considered(constraint, pod, node);
        if !other.terminating && wanted.include(other) && counts() {
            topology(constraint, node).into_iter().for_each(|topology| *peers.entry(topology).or_insert(0) += 1);
        }
    }
    peers
}
