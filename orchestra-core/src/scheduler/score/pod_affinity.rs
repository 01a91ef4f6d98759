//! Preferred affinity and anti-affinity between pods (Kubernetes' `InterPodAffinity`, as a score).

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, PodAffinityTerm, WeightedPodAffinityTerm};

use crate::scheduler::{NodeId, NodeView, PodId, PodView, RelationScore, Scale, Snapshot, Trial, relation::Peers};

/// Prefers nodes near pods that the pod likes, or that like it, and far from those that either doesn't: the sum of the weights of
/// the terms that match, over all pods of the node's topologies.
#[derive(Clone, Copy, Debug)]
pub struct PreferredPodAffinity {
    /// What a required term of a pod that is there counts for, if it selects the one that comes: 0 to 100
    /// (`hardPodAffinityWeight`).
    pub required_weight: i64,
    /// Whether what pods that are there prefer counts, too (the contrary of `ignorePreferredTermsOfExistingPods`).
    pub heeds_those_there: bool,
}

impl Default for PreferredPodAffinity {
    /// As kube-scheduler's defaults have it: 1, and it does.
    fn default() -> Self {
        Self { required_weight: 1, heeds_those_there: true }
    }
}

/// A term by which one pod likes others near it, or not.
struct Leaning {
    key: Box<str>,
    peers: Peers,
    weight: i64,
}

impl RelationScore for PreferredPodAffinity {
    fn name(&self) -> &str {
        "pod-affinity"
    }

    fn concerns(&self, pod: PodId, trial: &Trial<'_>) -> bool {
        let snapshot = trial.snapshot();
        snapshot.leans() || own_leanings(snapshot.pod(pod), snapshot).next().is_some()
    }

    fn points(&self, pod: PodId, trial: &Trial<'_>, admitted: &[NodeId]) -> Vec<i64> {
        let (snapshot, view) = (trial.snapshot(), trial.snapshot().pod(pod));
        let own: Vec<Leaning> = own_leanings(view, snapshot).collect();
        let mut sums: BTreeMap<(Box<str>, Box<str>), i64> = BTreeMap::new();
        let mut add = |leaning: &Leaning, node: &NodeView| {
            if let Some(value) = node.labels.get(&*leaning.key) {
                *sums.entry((leaning.key.clone(), value.as_str().into())).or_insert(0) += leaning.weight;
            }
        };
        for (other, node) in trial.placed() {
            let (other, node) = (snapshot.pod(other), snapshot.node(node));
            own.iter().filter(|leaning| leaning.peers.include(other)).for_each(|leaning| add(leaning, node));
            if leans(other) {
                let preferred = self.heeds_those_there.then(|| own_leanings(other, snapshot));
                let required = required_of(other, self.required_weight, snapshot);
                let theirs = preferred.into_iter().flatten().chain(required);
                theirs.filter(|leaning| leaning.peers.include(view)).for_each(|leaning| add(&leaning, node));
            }
        }
        let sum = |node: &NodeView| {
            let of_label = |((key, value), sum): (&(Box<str>, Box<str>), &i64)| {
                node.labels.get(&**key).is_some_and(|own| **own == **value).then_some(*sum)
            };
            sums.iter().filter_map(of_label).sum::<i64>()
        };
        let raw: Vec<i64> = admitted.iter().map(|node| sum(snapshot.node(*node))).collect();
        let range = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
        raw.into_iter().map(|raw| Scale::Span.points(raw, range)).collect()
    }
}

/// Whether a pod has a say about those that come near it.
pub(in crate::scheduler) fn leans(pod: &PodView) -> bool {
    pod.affinity.as_ref().is_some_and(|affinity| {
        let near = affinity.pod_affinity.as_ref();
        let far = affinity.pod_anti_affinity.as_ref();
        near.is_some_and(|near| {
            near.preferred_during_scheduling_ignored_during_execution.is_some()
                || near.required_during_scheduling_ignored_during_execution.is_some()
        }) || far.is_some_and(|far| far.preferred_during_scheduling_ignored_during_execution.is_some())
    })
}

/// What a pod prefers.
fn own_leanings<'a>(pod: &'a PodView, snapshot: &'a Snapshot) -> impl Iterator<Item = Leaning> + use<'a> {
    let near = |affinity: &'a Affinity| {
        affinity.pod_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_ref()
    };
    let far = |affinity: &'a Affinity| {
        affinity.pod_anti_affinity.as_ref()?.preferred_during_scheduling_ignored_during_execution.as_ref()
    };
    let affinity = pod.affinity.as_ref();
    let leaning = move |(sign, term): (i64, &'a WeightedPodAffinityTerm)| {
        leaning(&term.pod_affinity_term, sign * i64::from(term.weight), pod, snapshot)
    };
    let near = affinity.and_then(near).into_iter().flatten().map(|term| (1, term));
    let far = affinity.and_then(far).into_iter().flatten().map(|term| (-1, term));
    near.chain(far).map(leaning)
}

/// What a pod requires to be near of, as it likes it when more of these come.
fn required_of<'a>(pod: &'a PodView, weight: i64, snapshot: &'a Snapshot) -> impl Iterator<Item = Leaning> + use<'a> {
    let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.pod_affinity.as_ref());
    let required = affinity.and_then(|near| near.required_during_scheduling_ignored_during_execution.as_ref());
    required.into_iter().flatten().map(move |term| leaning(term, weight, pod, snapshot))
}

fn leaning(term: &PodAffinityTerm, weight: i64, owner: &PodView, snapshot: &Snapshot) -> Leaning {
    Leaning { key: term.topology_key.as_str().into(), peers: Peers::of_term(term, owner, snapshot), weight }
}
