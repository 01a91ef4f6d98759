//! Required affinity and anti-affinity between pods (Kubernetes' `InterPodAffinity`).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::PodAffinityTerm;

use super::{
    Filter, NodeId, NodeView, PodId, PodView, Reason, Relation, Shape, Snapshot, Surroundings, Trial,
    relation::{Peers, Tally},
};

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

/// What one pod finds around it.
#[derive(Debug)]
struct Neighbors {
    /// The pod.
    own: Arc<Shape>,
    /// Its terms of affinity, each with the pods that all of them select.
    wanted: Vec<(Term, Tally)>,
    /// Whether the pod is one that its own terms select, so that the first of a group finds a place.
    selects_itself: bool,
    /// Its terms of anti-affinity, each with the pods that it keeps away from.
    avoided: Vec<(Term, Tally)>,
    /// Those that keep it away, by the label that says how far.
    repelling: Vec<Tally>,
    /// How many shapes that keep others away there were when it looked around.
    repelling_shapes: usize,
    version: u64,
    /// By label, which nodes have a value of it that no other has; of those labels that this was asked of.
    alone: BTreeMap<Box<str>, Vec<bool>>,
}

/// A pod that asks for what can't be told by a snapshot without namespaces.
#[derive(Debug)]
struct Unjudged(String);

impl Relation for PodAffinityMatches {
    fn name(&self) -> &str {
        NAME
    }

    fn around(&self, pod: PodId, trial: &Trial<'_>) -> Option<Box<dyn Surroundings>> {
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
        let shapes = snapshot.repelling_shapes();
        let terms = shapes.iter().flat_map(|shape| required_anti_affinity(shape).into_iter().flatten());
        let keys: BTreeSet<&str> = terms.map(|term| term.topology_key.as_str()).collect();
        let tallied = |term: Term| {
            let tally = Tally::new(&term.key, trial);
            (term, tally)
        };
        let mut found = Neighbors {
            own: Arc::clone(&view.shape),
            selects_itself: wanted.iter().all(|term| term.peers.include(view)),
            wanted: wanted.into_iter().map(tallied).collect(),
            avoided: avoided.into_iter().map(tallied).collect(),
            repelling: keys.into_iter().map(|key| Tally::new(key, trial)).collect(),
            repelling_shapes: shapes.len(),
            version: 0,
            alone: BTreeMap::new(),
        };
        snapshot.node_ids().for_each(|node| drop(found.count(node, trial)));
        Some(Box::new(found))
    }
}

impl Neighbors {
    /// Counts the pods of a node. Tells by which labels it is near the first of a kind of pods now, or no longer near any.
    fn count(&mut self, node: NodeId, trial: &Trial<'_>) -> Vec<Box<str>> {
        let Self { own, wanted, avoided, repelling: repelled, .. } = self;
        let mut turned = Vec::new();
        let mut look = |tally: &mut Tally, is_peer: &dyn Fn(&PodView) -> bool| {
            let more = tally.look_again(node, trial, |_| true, is_peer);
            let count = tally.count(trial.snapshot().node(node)).unwrap_or(0);
            if (count > 0) != (count - more > 0) {
                turned.push(tally.key().into());
            }
        };
        let (terms, tallies): (Vec<&Term>, Vec<&mut Tally>) =
            wanted.iter_mut().map(|(term, near)| (&*term, near)).unzip();
        for tally in tallies {
            look(tally, &|other| terms.iter().all(|term| term.peers.include(other)));
        }
        for (term, tally) in avoided {
            look(tally, &|other| term.peers.include(other));
        }
        for tally in repelled {
            let key: Box<str> = tally.key().into();
            let keeps_away = |term: &Term| term.key == key && term.peers.include(own);
            look(tally, &|other| repelling(other, trial.snapshot()).iter().any(keeps_away));
        }
        turned
    }

    /// Whether a node has a value of a label that no other node has.
    fn is_alone(&mut self, key: Box<str>, node: NodeId, snapshot: &Snapshot) -> bool {
        let alone = self.alone.entry(key).or_insert_with_key(|key| {
            let value = |node: &NodeView| node.labels.get(&**key).cloned();
            let mut nodes_by_value: BTreeMap<String, usize> = BTreeMap::new();
            snapshot.nodes().iter().filter_map(value).for_each(|value| *nodes_by_value.entry(value).or_insert(0) += 1);
            let is_alone = |node: &NodeView| value(node).is_none_or(|value| nodes_by_value.get(&value) == Some(&1));
            snapshot.nodes().iter().map(is_alone).collect()
        });
        alone.get(node.0 as usize).copied().unwrap_or(false)
    }

    /// Whether there is no pod anywhere that all terms of affinity select.
    fn are_none_near(&self) -> bool {
        self.wanted.iter().all(|(_, near)| near.all() == 0)
    }

    /// Whether a node is near a pod that each term selects, or there is none anywhere and the pod is the first of them.
    fn attracts(&self, node: &NodeView) -> bool {
        let is_first = self.selects_itself && self.are_none_near();
        self.wanted.iter().all(|(_, near)| near.count(node).is_some_and(|count| count > 0 || is_first))
    }
}

impl Surroundings for Neighbors {
    fn look_again(&mut self, node: NodeId, trial: &Trial<'_>) -> bool {
        if trial.snapshot().repelling_shapes().len() != self.repelling_shapes {
            return false;
        }
        let were_none = self.are_none_near();
        let turned = self.count(node, trial);
        let mut concerns_others = were_none != self.are_none_near();
        for key in turned {
            concerns_others = !self.is_alone(key, node, trial.snapshot()) || concerns_others;
        }
        self.version += u64::from(concerns_others);
        true
    }

    fn version(&self) -> Option<u64> {
        Some(self.version)
    }
}

impl Filter for Neighbors {
    fn name(&self) -> &str {
        NAME
    }

    fn admit(&self, _: &Shape, node: &NodeView) -> Result<(), Reason> {
        let is_near = |tally: &Tally| tally.count(node).is_some_and(|count| count > 0);
        if !self.attracts(node) {
            Err(Reason::fixed("node(s) didn't match pod affinity rules"))
        } else if self.avoided.iter().any(|(_, tally)| is_near(tally)) {
            Err(Reason::crowded("node(s) didn't match pod anti-affinity rules"))
        } else if self.repelling.iter().any(is_near) {
            Err(Reason::crowded("node(s) didn't satisfy existing pods anti-affinity rules"))
        } else {
            Ok(())
        }
    }
}

// It stands whatever changes, but is told so seldom that it may be told anew.
impl Surroundings for Unjudged {}

impl Filter for Unjudged {
    fn name(&self) -> &str {
        NAME
    }

    fn admit(&self, _: &Shape, _: &NodeView) -> Result<(), Reason> {
        Err(Reason::fixed(format!("node(s) can't be judged by {}, as the namespaces are not known", self.0)))
    }
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

/// Whether a pod of this shape keeps any others away.
pub(super) fn repels(pod: &Shape) -> bool {
    required_anti_affinity(pod).is_some_and(|terms| !terms.is_empty())
}

fn required_anti_affinity(pod: &Shape) -> Option<&Vec<PodAffinityTerm>> {
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
