//! The Kubernetes way to schedule: rule nodes out, score the rest, take the best; a pod at a time.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    Ask, BalancedAllocation, Commit, Explanation, HostPortsFree, ImageLocality, LeastAllocated, Left,
    NodeAffinityMatches, NodeId, NodeNameMatches, NodeSchedulable, NodeView, Op, Plan, PodAffinityMatches, PodId,
    PodView, Points, PreferredNodeAffinity, PreferredTaints, Relation, ResourcesFit, Scheduler, Snapshot, Step,
    TaintsTolerated, TopologySpreads, Trial, Unit, Verdict,
};

/// Why a node can't take a pod, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason {
    /// The words.
    pub text: Box<str>,
    /// Whether it would help if pods left the node.
    pub crowded: bool,
}

impl Reason {
    /// A reason that stands whoever leaves the node.
    pub fn fixed(text: impl Into<Box<str>>) -> Self {
        Self { text: text.into(), crowded: false }
    }

    /// A reason that falls if the right pods leave.
    pub fn crowded(text: impl Into<Box<str>>) -> Self {
        Self { text: text.into(), crowded: true }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Rules a node out. The first filter that rejects it gives the reasons.
pub trait Filter: fmt::Debug + Send + Sync + 'static {
    /// A short name, such as `NodeResourcesFit`.
    fn name(&self) -> &str;

    /// `Ok` if `pod` may run on `node`, in the trial so far.
    ///
    /// # Errors
    ///
    /// The [`Reason`] why it may not.
    fn admit(&self, pod: &PodView, node: &NodeView) -> Result<(), Reason>;

    /// Every reason why it may not; none if it may. For filters that can tell of more than one.
    fn reasons(&self, pod: &PodView, node: &NodeView) -> Vec<Reason> {
        self.admit(pod, node).err().into_iter().collect()
    }
}

/// Prefers some nodes to others.
pub trait Score: fmt::Debug + Send + Sync + 'static {
    /// A short name, such as `least-allocated`.
    fn name(&self) -> &str;

    /// How much `pod` likes `node`: any number, more is better; 0 to 100 after [`normalize`](Self::normalize).
    fn score(&self, pod: &PodView, node: &NodeView) -> i64;

    /// Brings the scores of all admitted nodes into 0 to 100, given the highest of them.
    fn normalize(&self, score: i64, highest: i64) -> i64;
}

/// Brings scores of any size into 0 to 100: the highest is 100, or, turned round, 0 (Kubernetes'
/// `DefaultNormalizeScore`).
pub(super) fn normalized(score: i64, highest: i64, reverse: bool) -> i64 {
    if highest <= 0 {
        return if reverse { 100 } else { 0 };
    }
    let scaled = score.saturating_mul(100) / highest;
    if reverse { 100 - scaled } else { scaled }
}

/// How the pipeline breaks equal scores. Part of an algorithm, and reported with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ties {
    /// The first in the order of names.
    First,
    /// Any, by the ask's seed, as in Kubernetes.
    Random,
}

/// How many nodes the pipeline looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// All.
    All,
    /// Until so many are feasible, from a start that the seed draws.
    Until(std::num::NonZeroU32),
}

/// Filters, weighted scores, ties: the scheduling framework, as plain data.
#[derive(Debug)]
pub struct Pipeline {
    name: Box<str>,
    filters: Vec<Box<dyn Filter>>,
    relations: Vec<Box<dyn Relation>>,
    scores: Vec<(i64, Box<dyn Score>)>,
    ties: Ties,
    look: Look,
}

impl Pipeline {
    /// A pipeline that takes the first node, until it is given filters and scores.
    pub fn new(name: impl Into<Box<str>>) -> Self {
        Self {
            name: name.into(),
            filters: Vec::new(),
            relations: Vec::new(),
            scores: Vec::new(),
            ties: Ties::First,
            look: Look::All,
        }
    }

    /// kube-scheduler's defaults with its weights, but for what concerns volumes, and for scores that need other pods.
    #[must_use]
    pub fn kubernetes_default() -> Self {
        Self::new("default-scheduler")
            .required()
            .score(1, LeastAllocated)
            .score(1, BalancedAllocation)
            .score(3, PreferredTaints)
            .score(2, PreferredNodeAffinity)
            .score(1, ImageLocality)
            .ties(Ties::Random)
    }

    /// Adds every filter that the constraints of nodes and pods need.
    #[must_use]
    pub fn required(self) -> Self {
        self.filter(NodeSchedulable)
            .filter(NodeNameMatches)
            .filter(TaintsTolerated)
            .filter(NodeAffinityMatches)
            .filter(HostPortsFree)
            .filter(ResourcesFit)
            .relation(TopologySpreads)
            .relation(PodAffinityMatches)
    }

    /// Adds a filter, after those there are.
    #[must_use]
    pub fn filter(mut self, filter: impl Filter) -> Self {
        self.filters.push(Box::new(filter));
        self
    }

    /// Adds what rules nodes out by where other pods are, after all filters.
    #[must_use]
    pub fn relation(mut self, relation: impl Relation) -> Self {
        self.relations.push(Box::new(relation));
        self
    }

    /// Adds a score with its weight.
    #[must_use]
    pub fn score(mut self, weight: i64, score: impl Score) -> Self {
        self.scores.push((weight, Box::new(score)));
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
        let scored = (0..admitted.len()).map(|at| {
            let points = self.scores.iter().map(|(weight, score)| Points {
                score: score.name().into(),
                weight: *weight,
                points: points(&**score, &trial, view, &admitted).get(at).copied().unwrap_or(0),
            });
            (admitted[at], Verdict::Scored(points.collect()))
        });
        let verdicts: BTreeMap<NodeId, Verdict> = out.chain(scored).collect();
        let explanation = |(node, verdict)| Explanation { node: snapshot.node(node).name.clone(), verdict };
        verdicts.into_iter().map(explanation).collect()
    }

    /// What rules nodes out for a pod by where others are.
    fn around(&self, trial: &Trial<'_>, pod: PodId) -> Vec<Box<dyn Filter>> {
        self.relations.iter().filter_map(|relation| relation.around(pod, trial)).collect()
    }

    /// The first filter that rejects a node, by name, and its reasons; `around` come after its own.
    fn against<'a>(
        &'a self,
        around: &'a [Box<dyn Filter>],
        pod: &PodView,
        node: &NodeView,
    ) -> Option<(&'a str, Vec<Reason>)> {
        self.filters.iter().chain(around).find_map(|filter| {
            let reasons = filter.reasons(pod, node);
            (!reasons.is_empty()).then(|| (filter.name(), reasons))
        })
    }

    /// The nodes that take a pod, as many as the pipeline looks for, and how many are ruled out for what reasons.
    fn admit(&self, trial: &Trial<'_>, pod: PodId, nodes: &[NodeId]) -> (Vec<NodeId>, BTreeMap<Vec<Reason>, usize>) {
        let enough = match self.look {
            Look::All => usize::MAX,
            Look::Until(count) => count.get() as usize,
        };
        let (mut admitted, mut why) = (Vec::new(), BTreeMap::new());
        let around = self.around(trial, pod);
        for &node in nodes {
            match self.against(&around, trial.snapshot().pod(pod), trial.node(node)) {
                None => admitted.push(node),
                Some((_, reasons)) => *why.entry(reasons).or_insert(0) += 1,
            }
            if admitted.len() >= enough {
                break;
            }
        }
        (admitted, why)
    }

    fn weigh(&self, trial: &Trial<'_>, pod: PodId, admitted: &[NodeId]) -> Vec<(NodeId, i64)> {
        let mut totals: Vec<(NodeId, i64)> = admitted.iter().map(|&node| (node, 0)).collect();
        let view = trial.snapshot().pod(pod);
        for (weight, score) in &self.scores {
            for ((_, total), points) in totals.iter_mut().zip(points(&**score, trial, view, admitted)) {
                *total += weight * points;
            }
        }
        totals
    }

    fn choose(&self, totals: &[(NodeId, i64)], draw: u64) -> Option<NodeId> {
        let best = totals.iter().map(|(_, total)| *total).max()?;
        let tied: Vec<NodeId> = totals.iter().filter(|(_, total)| *total == best).map(|(node, _)| *node).collect();
        let at = match self.ties {
            Ties::First => 0,
            Ties::Random => usize::try_from(draw % tied.len() as u64).unwrap_or(0),
        };
        tied.get(at).copied()
    }

    /// Places a unit's pods in the trial, and says what that takes; or why it can't be, with no trace left.
    fn place(
        &self,
        trial: &mut Trial<'_>,
        unit: &Unit,
        nodes: &[NodeId],
        seed: u64,
    ) -> Result<Step, BTreeMap<Vec<Reason>, usize>> {
        let mark = trial.mark();
        let (mut ops, mut reads, mut reasons) = (Vec::new(), Vec::new(), None);
        for &pod in &unit.pods {
            let (admitted, why) = self.admit(trial, pod, nodes);
            let draw = mixed(seed, u64::from(pod.0));
            match self.choose(&self.weigh(trial, pod, &admitted), draw) {
                Some(node) => {
                    reads.push((node, trial.node(node).version));
                    trial.place(pod, node);
                    ops.push(Op::Place { pod, node });
                }
                None => {
                    reasons.get_or_insert(why);
                }
            }
        }
        if ops.len() < unit.pods_min.max(1) {
            trial.roll_back(mark);
            return Err(reasons.unwrap_or_default());
        }
        Ok(Step { unit: unit.id, ops, reads, commit: Commit::Whole, cost: Duration::ZERO })
    }
}

impl Scheduler for Pipeline {
    fn name(&self) -> &str {
        &self.name
    }

    fn plan(&mut self, ask: &Ask<'_>) -> Plan {
        let mut nodes: Vec<NodeId> = match ask.scope {
            Some(scope) => scope.to_vec(),
            None => ask.snapshot.node_ids().collect(),
        };
        if let (Look::Until(_), count @ 1..) = (self.look, nodes.len()) {
            nodes.rotate_left(usize::try_from(mixed(ask.seed, 0) % count as u64).unwrap_or(0));
        }
        let mut trial = Trial::new(ask.snapshot);
        let mut plan = Plan::default();
        for unit in ask.pending {
            match self.place(&mut trial, unit, &nodes, ask.seed) {
                Ok(step) => plan.steps.push(step),
                Err(why) => plan.left.push(Left { unit: unit.id, why }),
            }
        }
        plan
    }
}

/// What one score gives each admitted node: 0 to 100.
fn points(score: &dyn Score, trial: &Trial<'_>, pod: &PodView, admitted: &[NodeId]) -> Vec<i64> {
    let raw: Vec<i64> = admitted.iter().map(|&node| score.score(pod, trial.node(node))).collect();
    let highest = raw.iter().copied().max().unwrap_or(0);
    raw.into_iter().map(|raw| score.normalize(raw, highest)).collect()
}

/// A draw that depends on both numbers (SplitMix64: Steele, Lea, Flood, OOPSLA 2014).
fn mixed(seed: u64, salt: u64) -> u64 {
    let mut mixed = seed.wrapping_add(salt.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
