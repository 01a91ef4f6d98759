//! What pods of one outline find of what nodes are, whatever is on them.

use super::{
    super::{NodeId, NodeView, Reads, Scale, Shape, Trial},
    Pipeline,
};

/// How each node fares for shapes of one outline, by what the node is.
#[derive(Debug)]
pub(super) struct Outlook {
    /// The points of those scores that read no more, for each node that may take such a pod.
    points: Vec<Option<i32>>,
    /// The most of them.
    pub(super) most: i32,
    /// Whether all of these nodes are alike to the scores that need other nodes' numbers: then these don't matter.
    pub(super) is_even: bool,
}

impl Outlook {
    pub(super) fn new(pipeline: &Pipeline, pod: &Shape, trial: &Trial<'_>) -> Self {
        let (filters, scores) = (pipeline.concerning(Reads::Node, pod), pipeline.points_reading(Reads::Node));
        let (mut points, mut is_even) = (Vec::with_capacity(trial.snapshot().nodes().len()), true);
        let mut common: Option<Vec<i64>> = None;
        for node in trial.snapshot().node_ids().map(|id| trial.node(id)) {
            if pipeline.reasons_by(Reads::Node, &filters, pod, node).is_some() {
                points.push(None);
                continue;
            }
            points.push(Some(pipeline.points_by(&scores, pod, node)));
            let numbers = pipeline.relative().map(|one| one.score.score(pod, node));
            match &common {
                Some(common) => is_even = is_even && numbers.eq(common.iter().copied()),
                None => common = Some(numbers.collect()),
            }
        }
        let most = points.iter().copied().flatten().max().unwrap_or(0);
        Self { points, most, is_even }
    }

    /// The points of a node, if it may take such a pod.
    pub(super) fn points(&self, node: NodeId) -> Option<i32> {
        self.points.get(node.0 as usize).copied().flatten()
    }
}

/// The sum of weights for which a total of points fits into the numbers of a block.
const WEIGHTS_MAX: i64 = 300;

impl Pipeline {
    /// Whether the best node may be searched for by bounds: there is a filter that needs room, and what other nodes' numbers are
    /// needed for rests on what nodes are.
    pub(super) fn searches(&self) -> bool {
        let weights: i64 = self.scores.iter().map(|one| one.weight).sum();
        self.filters_by(Reads::Usage).iter().any(|filter| filter.needs_room())
            && self.scores.iter().all(|one| one.scale == Scale::Points || one.reads == Reads::Node)
            && weights <= WEIGHTS_MAX
    }

    /// The points of a node by those scores that read what is on it, if it takes the pod by such filters.
    pub(super) fn points_on(&self, pod: &Shape, node: &NodeView) -> Option<i64> {
        if !self.filters_by(Reads::Usage).iter().all(|filter| filter.admit(pod, node).is_ok()) {
            return None;
        }
        let scores = self.scores.iter().filter(|one| one.scale == Scale::Points && one.reads == Reads::Usage);
        Some(scores.map(|one| one.points(one.score.score(pod, node), (0, 100))).sum())
    }
}
