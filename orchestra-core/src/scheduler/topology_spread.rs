//! Pods spread evenly over topologies (Kubernetes' `PodTopologySpread`, KEP-895), as far as it is required.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::{
    Filter, NodeAffinityMatches, NodeView, PodId, PodView, Reason, Relation, Shape, TaintsTolerated, Trial,
    relation::Peers,
};

const NAME: &str = "PodTopologySpread";

/// With the pod, no topology has more of its peers than `maxSkew` above the least (`PodTopologySpread`).
#[derive(Clone, Copy, Debug)]
pub struct TopologySpreads;

/// One constraint, and the peers that each of its topologies has.
#[derive(Debug)]
struct Spread {
    key: Box<str>,
    skew_max: i64,
    /// What the pod itself adds where it goes: 1 if it is a peer, else 0.
    own: i64,
    /// How many peers there are, by the value of the label `key`.
    peers: BTreeMap<Box<str>, i64>,
    /// The least of them; 0 if there are fewer topologies than `minDomains`.
    least: i64,
}

#[derive(Debug)]
struct Spreads(Vec<Spread>);

impl Relation for TopologySpreads {
    fn name(&self) -> &str {
        NAME
    }

    fn around(&self, pod: PodId, trial: &Trial<'_>) -> Option<Box<dyn Filter>> {
        let view = trial.snapshot().pod(pod);
        if view.spread.is_empty() {
            return None;
        }
        Some(Box::new(Spreads(view.spread.iter().map(|constraint| spread(constraint, view, trial)).collect())))
    }
}

fn spread(constraint: &TopologySpreadConstraint, pod: &PodView, trial: &Trial<'_>) -> Spread {
    let snapshot = trial.snapshot();
    // A node counts only where all constraints have a topology for it.
    let has_labels = |node: &NodeView| pod.spread.iter().all(|other| node.labels.contains_key(&other.topology_key));
    let counts = |node: &NodeView| has_labels(node) && is_considered(constraint, pod, node);
    let topology = |node: &NodeView| node.labels.get(&constraint.topology_key).map(|value| Box::from(value.as_str()));
    let topologies = snapshot.nodes().iter().filter(|node| counts(node)).filter_map(topology);
    let mut peers: BTreeMap<Box<str>, i64> = topologies.map(|topology| (topology, 0)).collect();
    let wanted = Peers::of_spread(constraint, pod);
    for (other, node) in trial.placed() {
        let (other, node) = (snapshot.pod(other), snapshot.node(node));
        if !other.terminating && counts(node) && wanted.include(other) {
            let count = topology(node).and_then(|topology| peers.get_mut(&topology));
            count.into_iter().for_each(|count| *count += 1);
        }
    }
    let domains_min = usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1);
    let least = if peers.len() < domains_min { 0 } else { peers.values().copied().min().unwrap_or(0) };
    Spread {
        key: constraint.topology_key.as_str().into(),
        skew_max: constraint.max_skew.into(),
        own: i64::from(wanted.include(pod)),
        peers,
        least,
    }
}

/// Whether a node is one of those to spread over, by the policies of the constraint; unless it says otherwise, those that
/// the pod selects, whatever their taints.
pub(super) fn is_considered(constraint: &TopologySpreadConstraint, pod: &PodView, node: &NodeView) -> bool {
    let selected = constraint.node_affinity_policy.as_deref() == Some("Ignore");
    let tolerated = constraint.node_taints_policy.as_deref() != Some("Honor");
    (selected || NodeAffinityMatches.admit(pod, node).is_ok())
        && (tolerated || TaintsTolerated.admit(pod, node).is_ok())
}

impl Filter for Spreads {
    fn name(&self) -> &str {
        NAME
    }

    fn admit(&self, _: &Shape, node: &NodeView) -> Result<(), Reason> {
        for Spread { key, skew_max, own, peers, least } in &self.0 {
            let Some(topology) = node.labels.get(&**key) else {
                let text = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Reason::fixed(text));
            };
            let there = peers.get(topology.as_str()).copied().unwrap_or(0);
            if there + own - least > *skew_max {
                return Err(Reason::crowded("node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }
}
