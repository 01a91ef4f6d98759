//! Constraints between pods: what rules a node out because of where other pods are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use k8s_openapi::{
    api::core::v1::{PodAffinityTerm, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::{LabelSelector as ApiLabelSelector, LabelSelectorRequirement},
};

use super::{Filter, NodeId, NodeView, PodId, PodView, Shape, Snapshot, Trial};
use crate::api::selector::LabelSelector;

/// Rules nodes out by where other pods are.
///
/// It looks around once for a pod; what it finds is a [`Filter`], which then looks at one node at a time, and which a pipeline keeps
/// for pods of the same shape as long as it is told of each node whose pods have changed.
pub trait Relation: fmt::Debug + Send + Sync + 'static {
    /// A short name, such as `PodTopologySpread`.
    fn name(&self) -> &str;

    /// The filter for `pod`, in the trial so far; `None` if neither it nor another pod asks for anything.
    fn around(&self, pod: PodId, trial: &Trial<'_>) -> Option<Box<dyn Surroundings>>;
}

/// What a pod finds around it.
pub trait Surroundings: Filter {
    /// Looks at a node again whose pods have changed, so that it admits what one would that looks around in `trial`; `false` if one
    /// has to look around anew, as always for those that don't say otherwise.
    fn look_again(&mut self, _node: NodeId, _trial: &Trial<'_>) -> bool {
        false
    }

    /// A number that is another one once a look at one node has changed what it says of others. `None` if any look may do so: then
    /// nothing is remembered of what it says.
    fn version(&self) -> Option<u64> {
        None
    }
}

/// Prefers some of the nodes that take a pod to others, by where other pods are.
pub trait RelationScore: fmt::Debug + Send + Sync + 'static {
    /// A short name, such as `pod-affinity`.
    fn name(&self) -> &str;

    /// Whether it has a say about `pod`: if not, all nodes are alike to it.
    fn concerns(&self, pod: PodId, trial: &Trial<'_>) -> bool;

    /// What it gives each of the nodes that take `pod`, in their order: 0 to 100, in the trial so far.
    fn points(&self, pod: PodId, trial: &Trial<'_>, admitted: &[NodeId]) -> Vec<i64>;
}

/// The pods that a constraint is about: those that a selector selects, in some namespaces.
#[derive(Debug)]
pub(super) struct Peers {
    /// Selects no pod if there is none.
    selector: Option<LabelSelector>,
    namespaces: Namespaces,
}

#[derive(Debug)]
enum Namespaces {
    All,
    Named(BTreeSet<Box<str>>),
    /// Those of a selector, where the snapshot knows of no namespaces to select from.
    Unknown,
}

impl Peers {
    /// Those of a term of `owner`: in the namespaces that it names, and in those that it selects.
    pub(super) fn of_term(term: &PodAffinityTerm, owner: &PodView, snapshot: &Snapshot) -> Self {
        let keys = (term.match_label_keys.as_deref(), term.mismatch_label_keys.as_deref());
        let named = term.namespaces.as_deref().unwrap_or_default();
        let named = named.iter().map(|name| Box::from(name.as_str()));
        let namespaces = match (&term.namespace_selector, snapshot.namespaces()) {
            (Some(selector), _) if *selector == ApiLabelSelector::default() => Namespaces::All,
            (Some(_), None) => Namespaces::Unknown,
            (Some(given), Some(all)) => {
                let selector = LabelSelector::try_from(given).ok();
                let selected =
                    all.iter().filter(|(_, labels)| selector.as_ref().is_some_and(|selector| selector.matches(labels)));
                Namespaces::Named(named.chain(selected.map(|(name, _)| name.clone())).collect())
            }
            (None, _) if named.len() == 0 => Namespaces::Named([owner.namespace.clone()].into()),
            (None, _) => Namespaces::Named(named.collect()),
        };
        Self { selector: selector(term.label_selector.as_ref(), keys, owner), namespaces }
    }

    /// Those that a constraint of `owner` spreads.
    pub(super) fn of_spread(constraint: &TopologySpreadConstraint, owner: &PodView) -> Self {
        let keys = (constraint.match_label_keys.as_deref(), None);
        let namespaces = Namespaces::Named([owner.namespace.clone()].into());
        Self { selector: selector(constraint.label_selector.as_ref(), keys, owner), namespaces }
    }

    /// Whether it is not known in which namespaces they are.
    pub(super) fn are_unknown(&self) -> bool {
        matches!(self.namespaces, Namespaces::Unknown)
    }

    /// Whether a pod is one of them; where its namespace would decide and isn't known to, it is.
    pub(super) fn include(&self, pod: &Shape) -> bool {
        let is_near = match &self.namespaces {
            Namespaces::All | Namespaces::Unknown => true,
            Namespaces::Named(names) => names.contains(&pod.namespace),
        };
        is_near && self.selector.as_ref().is_some_and(|selector| selector.matches(&pod.labels))
    }
}

/// How many pods of a kind there are, by the value of a label of their nodes; kept up node by node.
#[derive(Debug)]
pub(super) struct Tally {
    key: Box<str>,
    counts: BTreeMap<Box<str>, i64>,
    /// How many there are on nodes that have the label.
    all: i64,
    /// How many there were on each node when it was looked at last.
    on: Vec<u32>,
    /// Whether pods of a shape are of the kind, by the shape.
    known: Vec<Option<bool>>,
}

impl Tally {
    /// A tally by the label `key`, with nobody in it.
    pub(super) fn new(key: &str, trial: &Trial<'_>) -> Self {
        let on = vec![0; trial.snapshot().nodes().len()];
        Self { key: key.into(), counts: BTreeMap::new(), all: 0, on, known: Vec::new() }
    }

    /// Counts the pods of a node again, those for which `counts` and, by their shape, `is_peer` say so; tells how many more or fewer
    /// there are now. Nobody counts on a node without the label.
    pub(super) fn look_again(
        &mut self,
        node: NodeId,
        trial: &Trial<'_>,
        counts: impl Fn(&PodView) -> bool,
        is_peer: impl Fn(&PodView) -> bool,
    ) -> i64 {
        let snapshot = trial.snapshot();
        let Some(value) = snapshot.node(node).labels.get(&*self.key) else { return 0 };
        self.known.resize(snapshot.shapes_len(), None);
        let mut now = 0;
        for pod in trial.pods_on(node) {
            let (view, shape) = (snapshot.pod(pod), snapshot.shape_of(pod).0 as usize);
            let Some(known) = self.known.get_mut(shape) else { continue };
            now += u32::from(counts(view) && *known.get_or_insert_with(|| is_peer(view)));
        }
        let Some(was) = self.on.get_mut(node.0 as usize) else { return 0 };
        let more = i64::from(now) - i64::from(std::mem::replace(was, now));
        if more != 0 {
            self.all += more;
            match self.counts.get_mut(value.as_str()) {
                Some(count) => *count += more,
                None => drop(self.counts.insert(value.as_str().into(), more)),
            }
        }
        more
    }

    /// By which label.
    pub(super) fn key(&self) -> &str {
        &self.key
    }

    /// How many there are where a node is; `None` if it lacks the label.
    pub(super) fn count(&self, node: &NodeView) -> Option<i64> {
        Some(self.counts.get(node.labels.get(&*self.key)?.as_str()).copied().unwrap_or(0))
    }

    /// How many there are anywhere.
    pub(super) fn all(&self) -> i64 {
        self.all
    }
}

/// A selector with what its keys add to it: the labels of `owner` under these keys, or all but them.
fn selector(
    given: Option<&ApiLabelSelector>,
    (same, other): (Option<&[String]>, Option<&[String]>),
    owner: &PodView,
) -> Option<LabelSelector> {
    let mut selector = given?.clone();
    for (operator, keys) in [("In", same), ("NotIn", other)] {
        for key in keys.unwrap_or_default() {
            let Some(value) = owner.labels.get(key) else { continue };
            let (key, values) = (key.clone(), Some(vec![value.clone()]));
            let requirement = LabelSelectorRequirement { key, operator: operator.into(), values };
            selector.match_expressions.get_or_insert_default().push(requirement);
        }
    }
    // What is no selector selects nothing; the API server lets none in.
    LabelSelector::try_from(&selector).ok()
}
