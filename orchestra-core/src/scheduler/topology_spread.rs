//! Pods spread evenly over topologies (Kubernetes' `PodTopologySpread`, KEP-895), as far as it is required.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::TopologySpreadConstraint;

use super::{
    Filter, NodeAffinityMatches, NodeId, NodeView, PodId, PodView, Reason, Relation, Shape, Surroundings,
    TaintsTolerated, Trial,
    relation::{Peers, Tally},
};

const NAME: &str = "PodTopologySpread";

/// With the pod, no topology has more of its peers than `maxSkew` above the least (`PodTopologySpread`).
#[derive(Clone, Copy, Debug)]
pub struct TopologySpreads;

/// One constraint, and the peers that each of its topologies has.
#[derive(Debug)]
struct Spread {
    skew_max: i64,
    /// What the pod itself adds where it goes: 1 if it is a peer, else 0.
    own: i64,
    wanted: Peers,
    peers: Tally,
    /// Which nodes count.
    is_counted: Vec<bool>,
    /// How many topologies have so many peers.
    sizes: BTreeMap<i64, usize>,
    /// Whether there are fewer topologies than `minDomains`.
    are_few: bool,
}

#[derive(Debug)]
struct Spreads(Vec<Spread>);

impl Relation for TopologySpreads {
    fn name(&self) -> &str {
        NAME
    }

    fn around(&self, pod: PodId, trial: &Trial<'_>) -> Option<Box<dyn Surroundings>> {
        let view = trial.snapshot().pod(pod);
        if view.spread.is_empty() {
            return None;
        }
        Some(Box::new(Spreads(view.spread.iter().map(|constraint| Spread::new(constraint, view, trial)).collect())))
    }
}

impl Spread {
    fn new(constraint: &TopologySpreadConstraint, pod: &PodView, trial: &Trial<'_>) -> Self {
        let nodes = trial.snapshot().nodes();
        // A node counts only where all constraints have a topology for it.
        let has_labels = |node: &NodeView| pod.spread.iter().all(|other| node.labels.contains_key(&other.topology_key));
        let counts = |node: &NodeView| has_labels(node) && is_considered(constraint, pod, node);
        let is_counted: Vec<bool> = nodes.iter().map(counts).collect();
        let counted = nodes.iter().zip(&is_counted).filter(|(_, is_counted)| **is_counted);
        let topologies: BTreeSet<&String> =
            counted.filter_map(|(node, _)| node.labels.get(&constraint.topology_key)).collect();
        let domains_min = usize::try_from(constraint.min_domains.unwrap_or(1)).unwrap_or(1);
        let wanted = Peers::of_spread(constraint, pod);
        let mut spread = Self {
            skew_max: constraint.max_skew.into(),
            own: i64::from(wanted.include(pod)),
            wanted,
            peers: Tally::new(&constraint.topology_key, trial),
            is_counted,
            sizes: [(0, topologies.len())].into(),
            are_few: topologies.len() < domains_min,
        };
        trial.snapshot().node_ids().for_each(|node| spread.look_again(node, trial));
        spread
    }

    fn look_again(&mut self, id: NodeId, trial: &Trial<'_>) {
        if !self.is_counted.get(id.0 as usize).is_some_and(|is_counted| *is_counted) {
            return;
        }
        let Self { wanted, peers, sizes, .. } = self;
        let more = peers.look_again(id, trial, |other| !other.terminating, |other| wanted.include(other));
        if let Some(now) = peers.count(trial.snapshot().node(id)).filter(|_| more != 0) {
            if let Some(as_before) = sizes.get_mut(&(now - more)) {
                *as_before -= 1;
                if *as_before == 0 {
                    sizes.remove(&(now - more));
                }
            }
            *sizes.entry(now).or_insert(0) += 1;
        }
    }

    /// The peers of the topology that has least; 0 if there are too few topologies.
    fn least(&self) -> i64 {
        let least = self.sizes.iter().find(|(_, topologies)| **topologies > 0);
        least.filter(|_| !self.are_few).map_or(0, |(size, _)| *size)
    }
}

impl Surroundings for Spreads {
    fn look_again(&mut self, node: NodeId, trial: &Trial<'_>) -> bool {
        self.0.iter_mut().for_each(|spread| spread.look_again(node, trial));
        true
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
        for spread in &self.0 {
            let Some(there) = spread.peers.count(node) else {
                let text = "node(s) didn't match pod topology spread constraints (missing required label)";
                return Err(Reason::fixed(text));
            };
            if there + spread.own - spread.least() > spread.skew_max {
                return Err(Reason::crowded("node(s) didn't match pod topology spread constraints"));
            }
        }
        Ok(())
    }
}
