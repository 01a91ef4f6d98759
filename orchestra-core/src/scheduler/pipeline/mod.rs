//! The Kubernetes way to schedule: rule nodes out, score the rest, take the best; a pod at a time.

mod block;
mod column;
mod group;
mod index;
mod look;
mod outlook;
mod plugin;
mod preemption;
#[cfg(test)]
mod preemption_tests;
mod search;
#[cfg(test)]
mod search_tests;
#[cfg(test)]
mod tests;
mod tree;
mod turn;

use std::{cell::OnceCell, collections::BTreeMap};

use self::index::Index;
use self::preemption::Preempted;
pub(super) use self::turn::Turn;
pub use self::{
    block::{Block, Demand, LANES, Lanes, POINT_BITS},
    look::Look,
    plugin::{Filter, FullestDevices, PickDevices, RandomDevices, Reads, Reason, Scale, Score},
};
use super::{
    Ask, BalancedAllocation, DevicesFit, DevicesMatch, Explanation, HostPortsFree, ImageLocality, LeastAllocated, Left,
    NodeAffinityMatches, NodeId, NodeNameMatches, NodeSchedulable, NodeView, Plan, PodAffinityMatches, PodId, Points,
    PreferredNodeAffinity, PreferredPodAffinity, PreferredSpread, PreferredTaints, Relation, RelationScore,
    ResourcesFit, Scheduler, Shape, Snapshot, Surroundings, TaintsTolerated, TopologySpreads, Trial, Verdict,
};

/// How many nodes are ruled out, by the reasons.
type Why = BTreeMap<Vec<Reason>, usize>;

/// The nodes that take a pod, in the order they were looked at, each with its points.
type Scored = Vec<(NodeId, i64)>;

/// How the pipeline breaks equal scores. Part of an algorithm, and reported with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ties {
    /// The first in the order of names.
    First,
    /// Any, by the ask's seed, as in Kubernetes.
    Random,
}

/// A score with its weight, and what it says of itself.
#[derive(Debug)]
struct Weighed {
    weight: i64,
    scale: Scale,
    reads: Reads,
    score: Box<dyn Score>,
}

/// So heavy that twenty scores' points still add up in 32 bits, ties being broken by another.
const WEIGHT_MAX: i64 = 10_000;

/// How much more a point weighs than any number of the score that breaks ties.
const POINT_OVER_TIE: i64 = 101;

impl Weighed {
    /// The weighed points for a number between the lowest and the highest.
    fn points(&self, number: i64, range: (i64, i64)) -> i64 {
        self.weight * self.scale.points(number, range)
    }
}

/// Filters, weighted scores, ties: the scheduling framework, as plain data.
#[derive(Debug)]
pub struct Pipeline {
    name: Box<str>,
    /// Those that read nodes alone, and the others.
    filters: [Vec<Box<dyn Filter>>; 2],
    relations: Vec<Box<dyn Relation>>,
    scores: Vec<Weighed>,
    /// Those that look at other pods, each with its weight.
    relation_scores: Vec<(i64, Box<dyn RelationScore>)>,
    pub(super) devices: Box<dyn PickDevices>,
    tie_breaker: Option<Box<dyn Score>>,
    ties: Ties,
    look: Look,
    preempts: bool,
    remembers: bool,
    index: Option<Box<Index>>,
}

impl Pipeline {
    /// A pipeline that takes the first node, until it is given filters and scores.
    pub fn new(name: impl Into<Box<str>>) -> Self {
        Self {
            name: name.into(),
            filters: [Vec::new(), Vec::new()],
            relations: Vec::new(),
            scores: Vec::new(),
            relation_scores: Vec::new(),
            devices: Box::new(FullestDevices),
            tie_breaker: None,
            ties: Ties::First,
            look: Look::All,
            preempts: false,
            remembers: true,
            index: None,
        }
    }

    /// kube-scheduler's defaults with its weights, but for what concerns volumes.
    #[must_use]
    pub fn kubernetes_default() -> Self {
        Self::new("default-scheduler")
            .required()
            .score(1, LeastAllocated)
            .score(1, BalancedAllocation)
            .score(3, PreferredTaints)
            .score(2, PreferredNodeAffinity)
            .score(1, ImageLocality)
            .relation_score(2, PreferredSpread)
            .relation_score(2, PreferredPodAffinity::default())
            .ties(Ties::Random)
            .preempting()
    }

    /// Adds every filter that the constraints of nodes and pods need.
    #[must_use]
    pub fn required(self) -> Self {
        self.filter(NodeSchedulable)
            .filter(NodeNameMatches)
            .filter(TaintsTolerated)
            .filter(NodeAffinityMatches)
            .filter(DevicesMatch)
            .filter(HostPortsFree)
            .filter(ResourcesFit)
            .filter(DevicesFit)
            .relation(TopologySpreads)
            .relation(PodAffinityMatches)
    }

    /// Adds a filter, after those there are that read no more than it does.
    #[must_use]
    pub fn filter(mut self, filter: impl Filter) -> Self {
        let [of_nodes, of_usage] = &mut self.filters;
        let filters = if filter.reads() == Reads::Node { of_nodes } else { of_usage };
        filters.push(Box::new(filter));
        self
    }

    /// Adds what rules nodes out by where other pods are, after all filters.
    #[must_use]
    pub fn relation(mut self, relation: impl Relation) -> Self {
        self.relations.push(Box::new(relation));
        self
    }

    /// Adds a score with its weight: up to 10,000, as what is more is cut; no more than twenty of them should be as heavy.
    #[must_use]
    pub fn score(mut self, weight: i64, score: impl Score) -> Self {
        let weight = weight.clamp(0, WEIGHT_MAX);
        self.scores.push(Weighed { weight, scale: score.scale(), reads: score.reads(), score: Box::new(score) });
        self
    }

    /// Adds a score that looks at other pods, with its weight as in [`score`](Self::score).
    #[must_use]
    pub fn relation_score(mut self, weight: i64, score: impl RelationScore) -> Self {
        self.relation_scores.push((weight.clamp(0, WEIGHT_MAX), Box::new(score)));
        self
    }

    /// Prefers, of equally good nodes, those that `score` gives a higher number, cut to 0 to 100; only those that it finds equal,
    /// too, are [`ties`](Self::ties).
    #[must_use]
    pub fn then(mut self, score: impl Score) -> Self {
        self.tie_breaker = Some(Box::new(score));
        self
    }

    /// Breaks ties so.
    #[must_use]
    pub fn ties(mut self, ties: Ties) -> Self {
        self.ties = ties;
        self
    }

    /// Looks at so many nodes.
    #[must_use]
    pub fn look(mut self, look: Look) -> Self {
        self.look = look;
        self
    }

    /// Takes the places of less important pods for what finds none, as kube-scheduler does: on the node where that costs least, by
    /// the budgets that are violated, then the victims' priorities, number and time of running. A gang gets its room anywhere.
    ///
    /// A step that does so evicts and nominates; the pod is placed by a later plan, once its victims have left
    /// ([`Op::Nominate`](super::Op::Nominate)). Room for pods that wait so is left to them by all that are no more important.
    #[must_use]
    pub fn preempting(mut self) -> Self {
        self.preempts = true;
        self
    }

    /// Chooses devices so; [`FullestDevices`] unless it is told otherwise.
    #[must_use]
    pub fn devices(mut self, devices: impl PickDevices) -> Self {
        self.devices = Box::new(devices);
        self
    }

    /// Remembers nothing from one pod to the next: each decision looks at every node anew. The plans are the same, which is
    /// what this is for.
    #[must_use]
    pub fn forgetful(mut self) -> Self {
        self.remembers = false;
        self
    }

    /// Tells how each node fares for a pod, in the order of names: what rules it out, or what its score is made of.
    ///
    /// Pure: it asks nothing but `snapshot`, which may be one of a live cluster ([`Snapshot::of`]).
    #[must_use]
    pub fn explain(&self, snapshot: &Snapshot, pod: PodId) -> Vec<Explanation> {
        let (trial, view) = (Trial::new(snapshot), snapshot.pod(pod));
        let around = self.around(&trial, pod);
        let ruled_out = |node: &NodeId| {
            let (filter, reasons) = self.against(&around, view, snapshot.node(*node))?;
            Some(Verdict::RuledOut { filter: filter.into(), reasons })
        };
        let (out, admitted): (Vec<NodeId>, Vec<NodeId>) =
            snapshot.node_ids().partition(|node| ruled_out(node).is_some());
        let out = out.iter().filter_map(|node| Some((*node, ruled_out(node)?)));
        let own = self.scores.iter().map(|one| (one.score.name(), one.weight, points(one, &trial, view, &admitted)));
        let concerning = self.relation_scores.iter().filter(|(_, score)| score.concerns(pod, &trial));
        let by_others = concerning.map(|(weight, score)| (score.name(), *weight, score.points(pod, &trial, &admitted)));
        let columns: Vec<(&str, i64, Vec<i64>)> = own.chain(by_others).collect();
        let scored = admitted.iter().enumerate().map(|(at, node)| {
            let points = columns.iter().map(|(score, weight, points)| Points {
                score: (*score).into(),
                weight: *weight,
                points: points.get(at).copied().unwrap_or(0),
            });
            (*node, Verdict::Scored(points.collect()))
        });
        let verdicts: BTreeMap<NodeId, Verdict> = out.chain(scored).collect();
        let explanation = |(node, verdict)| Explanation { node: snapshot.node(node).name.clone(), verdict };
        verdicts.into_iter().map(explanation).collect()
    }

    /// Begins to decide on an ask, with nothing remembered.
    pub(super) fn turn<'a>(&'a self, ask: &'a Ask<'a>) -> Turn<'a> {
        let trial = Trial::new(ask.snapshot);
        let preempted = Preempted::of(&trial);
        Turn {
            pipeline: self,
            ask,
            trial,
            index: None,
            order: OnceCell::new(),
            preempted,
            doomed: Vec::new(),
            is_last: false,
        }
    }

    /// What rules nodes out for a pod by where others are.
    pub(super) fn around(&self, trial: &Trial<'_>, pod: PodId) -> Vec<Box<dyn Surroundings>> {
        self.relations.iter().filter_map(|relation| relation.around(pod, trial)).collect()
    }

    /// The first filter that rejects a node, by name, and its reasons; `around` come after its own.
    pub(super) fn against<'a>(
        &'a self,
        around: &'a [Box<dyn Surroundings>],
        pod: &Shape,
        node: &NodeView,
    ) -> Option<(&'a str, Vec<Reason>)> {
        let own = self.filters.iter().flatten().map(|filter| &**filter);
        own.chain(around.iter().map(|found| &**found as &dyn Filter)).find_map(|filter| {
            let reasons = filter.reasons(pod, node);
            (!reasons.is_empty()).then(|| (filter.name(), reasons))
        })
    }

    /// Its own filters of one kind.
    fn filters_by(&self, reads: Reads) -> &[Box<dyn Filter>] {
        let [of_nodes, of_usage] = &self.filters;
        if reads == Reads::Node { of_nodes } else { of_usage }
    }

    /// Which of its own filters of one kind concern a shape.
    fn concerning(&self, reads: Reads, pod: &Shape) -> Vec<usize> {
        let filters = self.filters_by(reads).iter().enumerate();
        filters.filter(|(_, filter)| filter.concerns(pod)).map(|(at, _)| at).collect()
    }

    /// The first reasons of some of its own filters of one kind against a node.
    fn reasons_by(&self, reads: Reads, some: &[usize], pod: &Shape, node: &NodeView) -> Option<Vec<Reason>> {
        let filters = some.iter().filter_map(|at| self.filters_by(reads).get(*at));
        filters.map(|filter| filter.reasons(pod, node)).find(|reasons| !reasons.is_empty())
    }

    /// Whether some of those filters that read what is on a node let it take the pod.
    fn admits_by(&self, some: &[usize], pod: &Shape, node: &NodeView) -> bool {
        let filters = self.filters_by(Reads::Usage);
        some.iter().filter_map(|at| filters.get(*at)).all(|filter| filter.admit(pod, node).is_ok())
    }

    /// Which of the scores need no other node's numbers, of those that read so much.
    pub(super) fn points_reading(&self, reads: Reads) -> Vec<usize> {
        let scores = self.scores.iter().enumerate();
        scores.filter(|(_, one)| one.scale == Scale::Points && one.reads == reads).map(|(at, _)| at).collect()
    }

    /// The points of some scores.
    pub(super) fn points_by(&self, some: &[usize], pod: &Shape, node: &NodeView) -> i32 {
        let scores = some.iter().filter_map(|at| self.scores.get(*at));
        scores.map(|one| one.points(one.score.score(pod, node), (0, 100)) as i32).sum()
    }

    /// The scores that other nodes' numbers are needed for.
    fn relative(&self) -> impl Iterator<Item = &Weighed> {
        self.scores.iter().filter(|one| one.scale != Scale::Points)
    }

    /// The nodes that take a pod, as many as the pipeline looks for, and how many are ruled out for what reasons.
    fn admit(
        &self,
        around: &[Box<dyn Surroundings>],
        trial: &Trial<'_>,
        pod: PodId,
        (nodes, draw): (&[NodeId], u64),
    ) -> (Vec<NodeId>, Why) {
        let enough = self.look.enough(nodes.len());
        let (mut admitted, mut why) = (Vec::new(), Why::new());
        for node in self.look.order(nodes, draw) {
            match self.against(around, trial.snapshot().pod(pod), trial.node(node)) {
                None => admitted.push(node),
                Some((_, reasons)) => *why.entry(reasons).or_insert(0) += 1,
            }
            if admitted.len() >= enough {
                break;
            }
        }
        (admitted, why)
    }

    /// What each of the nodes that take a pod is worth to it.
    pub(super) fn weigh(&self, trial: &Trial<'_>, pod: PodId, admitted: &[NodeId]) -> Scored {
        let mut totals: Scored = admitted.iter().map(|&node| (node, 0)).collect();
        let view = trial.snapshot().pod(pod);
        for one in &self.scores {
            for ((_, total), points) in totals.iter_mut().zip(points(one, trial, view, admitted)) {
                *total += one.weight * points;
            }
        }
        for (weight, score) in self.relation_scores.iter().filter(|(_, score)| score.concerns(pod, trial)) {
            for ((_, total), points) in totals.iter_mut().zip(score.points(pod, trial, admitted)) {
                *total += weight * points.clamp(0, 100);
            }
        }
        for (node, total) in &mut totals {
            *total = self.with_tie_breaker(*total, view, trial.node(*node));
        }
        totals
    }

    /// The most that a node can be worth.
    pub(super) fn most(&self) -> i64 {
        let points: i64 = self.scores.iter().map(|one| one.weight * 100).sum();
        points * self.point() + POINT_OVER_TIE - 1
    }

    /// What a point counts for in a total.
    pub(super) fn point(&self) -> i64 {
        if self.tie_breaker.is_some() { POINT_OVER_TIE } else { 1 }
    }

    /// A total that tells equally good nodes apart, if there is a score to do so.
    fn with_tie_breaker(&self, total: i64, pod: &Shape, node: &NodeView) -> i64 {
        let Some(score) = &self.tie_breaker else { return total };
        total * POINT_OVER_TIE + score.score(pod, node).clamp(0, 100)
    }

    fn choose(&self, totals: &[(NodeId, i64)], draw: u64) -> Option<NodeId> {
        let best = totals.iter().map(|(_, total)| *total).max()?;
        let tied = || totals.iter().filter(|(_, total)| *total == best);
        tied().nth(self.tie(tied().count(), draw)?).map(|(node, _)| *node)
    }

    /// Which of so many equal ones.
    fn tie(&self, count: usize, draw: u64) -> Option<usize> {
        match self.ties {
            _ if count == 0 => None,
            Ties::First => Some(0),
            Ties::Random => usize::try_from(draw % count as u64).ok(),
        }
    }
}

impl Scheduler for Pipeline {
    fn name(&self) -> &str {
        &self.name
    }

    fn plan(&mut self, ask: &Ask<'_>) -> Plan {
        let whole = ask.scope.is_none() && self.look == Look::All;
        let remembered = self.index.take();
        let index = (self.remembers && whole).then(|| Index::for_snapshot(remembered, ask.snapshot));
        let mut turn = Turn { index, ..self.turn(ask) };
        let mut plan = Plan::default();
        for (at, unit) in ask.pending.iter().enumerate() {
            turn.is_last = at + 1 == ask.pending.len();
            match turn.serve(unit) {
                Ok(step) => plan.steps.push(step),
                Err(why) => plan.left.push(Left { unit: unit.id, why, expected: None }),
            }
        }
        self.index = turn.end();
        plan
    }
}

/// What one score gives each admitted node: 0 to 100.
fn points(one: &Weighed, trial: &Trial<'_>, pod: &Shape, admitted: &[NodeId]) -> Vec<i64> {
    let raw: Vec<i64> = admitted.iter().map(|&node| one.score.score(pod, trial.node(node))).collect();
    let range = (raw.iter().copied().min().unwrap_or(0), raw.iter().copied().max().unwrap_or(0));
    raw.into_iter().map(|raw| one.scale.points(raw, range)).collect()
}
