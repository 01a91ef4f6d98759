//! Required affinity and anti-affinity between pods (Kubernetes' `InterPodAffinity`).

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::PodAffinityTerm;

use super::{Filter, NodeView, PodId, PodView, Reason, Relation, Shape, Snapshot, Trial, relation::Peers};

const NAME: &str = "InterPodAffinity";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// The pod is near the pods that it requires, and far from those that it, or they, can't bear (`InterPodAffinity`).
#[derive(Clone, Copy, Debug)]
pub struct PodAffinityMatches;

/// One of a pod's requirements: the topology is the set of nodes with one value of the label `key`.
#[derive(Debug)]
struct Term {
    key: Box<str>,
    peers: Peers,
}

/// A label that all nodes of one topology have.
type Topology = (Box<str>, Box<str>);

/// What one pod finds around it.
#[derive(Debug, Default)]
struct Surroundings {
    /// The labels that a node needs, for each term of affinity.
    wanted: Vec<Box<str>>,
    /// Where there is a pod that all terms of affinity select.
    near: BTreeSet<Topology>,
    /// Whether the pod is one that its own terms select, so that the first of a group finds a place.
    selects_itself: bool,
    /// Where there is a pod that it keeps away from.
    avoided: BTreeSet<Topology>,
    /// Where there is a pod that keeps it away.
    repelled: BTreeSet<Topology>,
}

/// A pod that asks for what can't be told by a snapshot without namespaces.
#[derive(Debug)]
struct Unjudged(String);

impl Relation for PodAffinityMatches {
    fn name(&self) -> &str {
        NAME
    }

    fn around(&self, pod: PodId, trial: &Trial<'_>) -> Option<Box<dyn Filter>> {
        let (snapshot, view) = (trial.snapshot(), trial.snapshot().pod(pod));
        if view.affinity.is_none() && !snapshot.repels() {
            return None;
        }
        let (wanted, avoided) = (attracting(view, snapshot), repelling(view, snapshot));
        if wanted.is_empty() && avoided.is_empty() && !snapshot.repels() {
            return None;
        }
        for (field, terms) in [("podAffinity", &wanted), ("podAntiAffinity", &avoided)] {
            if let Some(at) = terms.iter().position(|term| term.peers.are_unknown()) {
                let path = format!("spec.affinity.{field}.{REQUIRED}[{at}].namespaceSelector");
                return Some(Box::new(Unjudged(path)));
            }
        }
        let mut found = Surroundings {
            wanted: wanted.iter().map(|term| term.key.clone()).collect(),
            selects_itself: wanted.iter().all(|term| term.peers.include(view)),
            ..Surroundings::default()
        };
        for (other, node) in trial.placed() {
            let (other, node) = (snapshot.pod(other), snapshot.node(node));
            if wanted.iter().all(|term| term.peers.include(other)) {
                found.near.extend(wanted.iter().filter_map(|term| topology(term, node)));
            }
            let bothers = avoided.iter().filter(|term| term.peers.include(other));
            found.avoided.extend(bothers.filter_map(|term| topology(term, node)));
            if repels(other) {
                let repelling = repelling(other, snapshot);
                let bothered = repelling.iter().filter(|term| term.peers.include(view));
                found.repelled.extend(bothered.filter_map(|term| topology(term, node)));
            }
        }
        Some(Box::new(found))
    }
}

impl Surroundings {
    /// Whether a node is near a pod that each term selects, or there is none anywhere and the pod is the first of them.
    fn attracts(&self, node: &NodeView) -> bool {
        let near = self.near.iter().filter(|topology| is_of(node, topology));
        let near: BTreeSet<&str> = near.map(|(key, _)| &**key).collect();
        self.wanted.iter().all(|key| node.labels.contains_key(&**key))
            && (self.wanted.iter().all(|key| near.contains(&**key)) || self.near.is_empty() && self.selects_itself)
    }
}

impl Filter for Surroundings {
    fn name(&self) -> &str {
        NAME
    }

    fn admit(&self, _: &Shape, node: &NodeView) -> Result<(), Reason> {
        let within = |topologies: &BTreeSet<Topology>| topologies.iter().any(|topology| is_of(node, topology));
        if !self.attracts(node) {
            Err(Reason::fixed("node(s) didn't match pod affinity rules"))
        } else if within(&self.avoided) {
            Err(Reason::crowded("node(s) didn't match pod anti-affinity rules"))
        } else if within(&self.repelled) {
            Err(Reason::crowded("node(s) didn't satisfy existing pods anti-affinity rules"))
        } else {
            Ok(())
        }
    }
}

impl Filter for Unjudged {
    fn name(&self) -> &str {
        NAME
    }

    fn admit(&self, _: &Shape, _: &NodeView) -> Result<(), Reason> {
        Err(Reason::fixed(format!("node(s) can't be judged by {}, as the namespaces are not known", self.0)))
    }
}

/// Where a node is, by a term; nowhere if it lacks the label.
fn topology(term: &Term, node: &NodeView) -> Option<Topology> {
    Some((term.key.clone(), node.labels.get(&*term.key)?.as_str().into()))
}

fn is_of(node: &NodeView, (key, value): &Topology) -> bool {
    node.labels.get(&**key).is_some_and(|label| **label == **value)
}

/// What a pod has to be near of.
fn attracting(pod: &PodView, snapshot: &Snapshot) -> Vec<Term> {
    let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.pod_affinity.as_ref());
    let required = affinity.and_then(|near| near.required_during_scheduling_ignored_during_execution.as_ref());
    terms(required, pod, snapshot)
}

/// What a pod has to be far from.
fn repelling(pod: &PodView, snapshot: &Snapshot) -> Vec<Term> {
    terms(required_anti_affinity(pod), pod, snapshot)
}

/// Whether a pod keeps any others away.
pub(super) fn repels(pod: &PodView) -> bool {
    required_anti_affinity(pod).is_some_and(|terms| !terms.is_empty())
}

fn required_anti_affinity(pod: &PodView) -> Option<&Vec<PodAffinityTerm>> {
    let affinity = pod.affinity.as_ref()?.pod_anti_affinity.as_ref()?;
    affinity.required_during_scheduling_ignored_during_execution.as_ref()
}

fn terms(given: Option<&Vec<PodAffinityTerm>>, owner: &PodView, snapshot: &Snapshot) -> Vec<Term> {
    let term = |term: &PodAffinityTerm| Term {
        key: term.topology_key.as_str().into(),
        peers: Peers::of_term(term, owner, snapshot),
    };
    given.into_iter().flatten().map(term).collect()
}
