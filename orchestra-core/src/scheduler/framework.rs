//! The Kubernetes way to schedule: rule nodes out, score the rest, take the best; a pod at a time.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::{
    Ask, BalancedAllocation, Commit, HostPortsFree, ImageLocality, LeastAllocated, Left, NodeAffinityMatches, NodeId,
    NodeNameMatches, NodeSchedulable, NodeView, Op, Plan, PodId, PodView, PreferredNodeAffinity, PreferredTaints,
    ResourcesFit, Scheduler, Snapshot, Step, TaintsTolerated, Trial, Unit,
};

/// Why a node can't take a pod, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason(pub Box<str>);

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<&str> for Reason {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

/// Rules a node out. The first filter that rejects it gives the reason.
pub trait Filter: fmt::Debug + Send + Sync + 'static {
    /// `Ok` if `pod` may run on `node`, in the trial so far.
    ///
    /// # Errors
    ///
    /// The [`Reason`] why it may not.
    fn admit(&self, pod: &PodView, node: &NodeView) -> Result<(), Reason>;
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
    scores: Vec<(i64, Box<dyn Score>)>,
    ties: Ties,
    look: Look,
}

/// How one node fared, to explain a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// The node.
    pub node: Box<str>,
    /// Its weighted score, or the reason that rules it out.
    pub outcome: Result<i64, Reason>,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.outcome {
            Ok(score) => write!(f, "{}: {score}", self.node),
            Err(reason) => write!(f, "{}: {reason}", self.node),
        }
    }
}

impl Pipeline {
    /// A pipeline that takes the first node, until it is given filters and scores.
    pub fn new(name: impl Into<Box<str>>) -> Self {
        Self { name: name.into(), filters: Vec::new(), scores: Vec::new(), ties: Ties::First, look: Look::All }
    }

    /// kube-scheduler's defaults, as far as they need no other pods and no volumes, with its weights.
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

    /// Adds every filter that a node's own constraints need.
    #[must_use]
    pub fn required(self) -> Self {
        self.filter(NodeSchedulable)
            .filter(NodeNameMatches)
            .filter(TaintsTolerated)
            .filter(NodeAffinityMatches)
            .filter(HostPortsFree)
            .filter(ResourcesFit)
    }

    /// Adds a filter, after those there are.
    #[must_use]
    pub fn filter(mut self, filter: impl Filter) -> Self {
        self.filters.push(Box::new(filter));
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

    /// Tells how each node fares for a pod, in the order of names.
    #[must_use]
    pub fn explain(&self, snapshot: &Snapshot, pod: PodId) -> Vec<Explained> {
        let trial = Trial::new(snapshot);
        let nodes: Vec<_> = snapshot.node_ids().collect();
        let (admitted, _) = self.admit(&trial, pod, &nodes);
        let scores: BTreeMap<NodeId, i64> = self.weigh(&trial, pod, &admitted).into_iter().collect();
        let explain = |node: NodeId| Explained {
            node: snapshot.node(node).name.clone(),
            outcome: match scores.get(&node) {
                Some(score) => Ok(*score),
                None => self.admits(snapshot.pod(pod), snapshot.node(node)).map(|()| 0),
            },
        };
        nodes.into_iter().map(explain).collect()
    }

    fn admits(&self, pod: &PodView, node: &NodeView) -> Result<(), Reason> {
        self.filters.iter().try_for_each(|filter| filter.admit(pod, node))
    }

    /// The nodes that take a pod, as many as the pipeline looks for, and how many each reason rules out.
    fn admit(&self, trial: &Trial<'_>, pod: PodId, nodes: &[NodeId]) -> (Vec<NodeId>, BTreeMap<Reason, usize>) {
        let enough = match self.look {
            Look::All => usize::MAX,
            Look::Until(count) => count.get() as usize,
        };
        let (mut admitted, mut why) = (Vec::new(), BTreeMap::new());
        for &node in nodes {
            match self.admits(trial.snapshot().pod(pod), trial.node(node)) {
                Ok(()) => admitted.push(node),
                Err(reason) => *why.entry(reason).or_insert(0) += 1,
            }
            if admitted.len() >= enough {
                break;
            }
        }
        (admitted, why)
    }

    fn weigh(&self, trial: &Trial<'_>, pod: PodId, admitted: &[NodeId]) -> Vec<(NodeId, i64)> {
        let mut totals: Vec<(NodeId, i64)> = admitted.iter().map(|&node| (node, 0)).collect();
        for (weight, score) in &self.scores {
            let view = trial.snapshot().pod(pod);
            let raw: Vec<i64> = admitted.iter().map(|&node| score.score(view, trial.node(node))).collect();
            let highest = raw.iter().copied().max().unwrap_or(0);
            for ((_, total), raw) in totals.iter_mut().zip(raw) {
                *total += weight * score.normalize(raw, highest);
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
    ) -> Result<Step, BTreeMap<Reason, usize>> {
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

/// A draw that depends on both numbers (SplitMix64: Steele, Lea, Flood, OOPSLA 2014).
fn mixed(seed: u64, salt: u64) -> u64 {
    let mut mixed = seed.wrapping_add(salt.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
