//! What a pipeline remembers of one shape, node by node.

use super::{
    super::{NodeId, NodeView, Reads, Reason, Shape, Trial},
    Pipeline, Scored, Ties, Why,
    block::{Demand, Lanes, RULED_OUT as BOUND_OF_NOBODY},
    group::{Groups, Tier},
    index::Found,
    outlook::Outlook,
    tree::Tournament,
};

/// What takes a pod, in [`Column::verdicts`], or may; lower numbers say which reasons rule a node out.
const ADMITTED: u32 = u32::MAX;

/// What is ruled out for reasons that nobody has asked for.
const RULED_OUT: u32 = u32::MAX - 1;

/// What is known of a shape's pods, and of the nodes.
#[derive(Clone, Copy)]
pub(super) struct Sight<'a> {
    pub(super) pipeline: &'a Pipeline,
    pub(super) trial: &'a Trial<'a>,
    pub(super) pod: &'a Shape,
    pub(super) outlook: &'a Outlook,
    /// What the pod finds around it, by each relation that concerns it.
    pub(super) around: &'a [Option<Found>],
}

/// How each node fares for one shape.
///
/// Where there are bounds, a node's total is one until it matters: the best node is looked at, and if it is worth less than its bound
/// says, the next one is. So a look at a node is rare, and what is chosen is exact.
#[derive(Debug)]
pub(super) struct Column {
    /// Up to where in the index's journal it has looked, and when it was asked last.
    pub(super) seen: u64,
    pub(super) asked: u64,
    /// How often its shape was searched for instead since it has looked.
    pub(super) searches: u64,
    /// With bounds: what its pods need by the size of each group, and up to where in the group's changes it has looked.
    bounded: Option<Vec<(Demand, u64)>>,
    /// The versions of what its pods found around them.
    versions: Vec<Option<(u64, Option<u64>)>>,
    /// Whether bounds are told from exact totals by their last binary digit.
    marks_bounds: bool,
    /// Which of the filters that read what is on a node concern the shape.
    filters: Vec<usize>,
    /// Which of the scores are points, and read what is on a node.
    scores: Vec<usize>,
    verdicts: Vec<u32>,
    /// The points of all scores that are points already, for those nodes that take the pod.
    totals: Tournament,
    /// Which of them are no more than bounds.
    is_bound: Vec<bool>,
    /// How many other scores there are.
    width: usize,
    /// Their numbers, node by node.
    relative: Vec<i64>,
    /// Those of the first node that was found to take the pod.
    common: Option<Box<[i64]>>,
    /// Whether a node that took the pod had others: then they decide, too.
    differ: bool,
    /// All reasons there have been, each with the number of nodes that it rules out, but for those of the `unasked` nodes.
    reasons: Vec<(Vec<Reason>, usize)>,
    /// The nodes that have been ruled out since the reasons were asked for; by now they may be another's.
    unasked: Vec<NodeId>,
}

impl Column {
    /// A column of exact totals.
    pub(super) fn exact(sight: Sight<'_>) -> Self {
        let mut column = Self::empty(sight, sight.pipeline.relative().count());
        let nodes = sight.trial.snapshot().node_ids();
        let totals: Vec<_> = nodes.map(|id| column.judge(sight, id)).collect();
        column.totals = Tournament::new(totals.into_iter(), sight.pipeline.ties == Ties::Random);
        column
    }

    /// A column of bounds; `None` if a score has none. All changes of nodes have to be settled.
    pub(super) fn bounded(sight: Sight<'_>, groups: &Groups) -> Option<Self> {
        let mut column = Self { marks_bounds: sight.pipeline.ties == Ties::Random, ..Self::empty(sight, 0) };
        let mut totals = vec![None; column.verdicts.len()];
        let mut bounded = Vec::new();
        for group in groups.iter() {
            let demand = Demand::of(sight.pod, group.size);
            for tier in group.all() {
                let most = sight.bounds(&demand, tier, 0)?;
                for (bound, first) in most.into_iter().zip(tier.firsts()).take(tier.len()) {
                    let total = column.bound(sight, NodeId(*first), bound);
                    totals.get_mut(*first as usize).into_iter().for_each(|own| *own = total);
                }
            }
            bounded.push((demand, group.recent().end()));
        }
        column.bounded = Some(bounded);
        column.totals = Tournament::new(totals.into_iter(), sight.pipeline.ties == Ties::Random);
        Some(column)
    }

    fn empty(sight: Sight<'_>, width: usize) -> Self {
        let Sight { pipeline, trial, pod, .. } = sight;
        let nodes = trial.snapshot().nodes().len();
        Self {
            seen: 0,
            asked: 0,
            searches: 0,
            bounded: None,
            versions: sight.versions(),
            marks_bounds: false,
            filters: pipeline.concerning(Reads::Usage, pod),
            scores: pipeline.points_reading(Reads::Usage),
            verdicts: vec![ADMITTED; nodes],
            totals: Tournament::new(std::iter::empty(), false),
            is_bound: vec![false; nodes],
            width,
            relative: vec![0; nodes * width],
            common: None,
            differ: false,
            reasons: Vec::new(),
            unasked: Vec::new(),
        }
    }

    /// Whether it has bounds.
    pub(super) fn is_bounded(&self) -> bool {
        self.bounded.is_some()
    }

    /// Looks at what has changed in the groups; `None` if that is forgotten.
    pub(super) fn catch_up(&mut self, sight: Sight<'_>, groups: &Groups) -> Option<()> {
        if sight.versions() != self.versions {
            return None;
        }
        let mut bounded = self.bounded.take()?;
        for (group, (demand, seen)) in groups.iter().zip(&mut bounded) {
            for (tier, lanes) in group.recent().since(*seen)? {
                let most = sight.bounds(demand, tier, 0)?;
                for lane in lanes {
                    let id = NodeId(tier.firsts()[lane]);
                    let total = self.bound(sight, id, most[lane]);
                    self.totals.set(id.0 as usize, total);
                }
            }
            *seen = group.recent().end();
        }
        self.bounded = Some(bounded);
        Some(())
    }

    /// Looks at a node.
    pub(super) fn look_again(&mut self, sight: Sight<'_>, id: NodeId) {
        let total = self.judge(sight, id);
        self.totals.set(id.0 as usize, total);
    }

    /// The total of a node by its bound.
    fn bound(&mut self, sight: Sight<'_>, id: NodeId, bound: i16) -> Option<i32> {
        let points = sight.outlook.points(id).filter(|_| bound != BOUND_OF_NOBODY);
        self.rule(id, if points.is_some() { ADMITTED } else { RULED_OUT });
        self.is_bound.get_mut(id.0 as usize).into_iter().for_each(|is_bound| *is_bound = true);
        let point = sight.pipeline.point() as i32;
        Some((i32::from(bound) + points?) * point + point - 1).map(|total| self.key(total, true))
    }

    /// What a total counts for. Where all of the best are needed, bounds come before as much that is exact, so that once none comes
    /// first all of these are.
    fn key(&self, total: i32, is_bound: bool) -> i32 {
        if self.marks_bounds { 2 * total + i32::from(is_bound) } else { total }
    }

    /// The points of a node, if it takes the pod; its verdict is noted.
    fn judge(&mut self, sight: Sight<'_>, id: NodeId) -> Option<i32> {
        let Sight { pipeline, trial, pod, outlook, .. } = sight;
        let (at, node) = (id.0 as usize, trial.node(id));
        let points = outlook.points(id).filter(|_| pipeline.admits_by(&self.filters, pod, node) && sight.is_free(node));
        self.rule(id, if points.is_some() { ADMITTED } else { RULED_OUT });
        self.is_bound.get_mut(at).into_iter().for_each(|is_bound| *is_bound = false);
        let points = points?;
        if self.width > 0 {
            let own = self.relative.get_mut(at * self.width..(at + 1) * self.width)?;
            for (number, one) in own.iter_mut().zip(pipeline.relative()) {
                *number = one.score.score(pod, node);
            }
            self.differ = self.differ || **self.common.get_or_insert_with(|| (*own).into()) != *own;
        }
        let points = points + pipeline.points_by(&self.scores, pod, node);
        Some(self.key(pipeline.with_tie_breaker(points.into(), pod, node) as i32, false))
    }

    /// Notes a verdict.
    fn rule(&mut self, id: NodeId, verdict: u32) {
        let Some(own) = self.verdicts.get_mut(id.0 as usize) else { return };
        let was = std::mem::replace(own, verdict);
        if let Some((_, count)) = self.reasons.get_mut(was as usize) {
            *count -= 1;
        }
        if verdict == RULED_OUT && was != RULED_OUT {
            self.unasked.push(id);
        }
    }

    fn intern(&mut self, reasons: Vec<Reason>) -> u32 {
        let known = self.reasons.iter().position(|(known, _)| *known == reasons);
        let at = known.unwrap_or_else(|| {
            self.reasons.push((reasons, 0));
            self.reasons.len() - 1
        });
        if let Some((_, count)) = self.reasons.get_mut(at) {
            *count += 1;
        }
        u32::try_from(at).expect("there are fewer reasons than nodes")
    }

    /// The node for a pod, by its draw.
    pub(super) fn choose(&mut self, sight: Sight<'_>, draw: u64) -> Option<NodeId> {
        if self.differ {
            return sight.pipeline.choose(&self.scored(sight.pipeline), draw);
        }
        loop {
            let nth = sight.pipeline.tie(self.totals.ties() as usize, draw)?;
            let at = self.totals.best(u32::try_from(nth).ok()?)?;
            let id = NodeId(u32::try_from(at).ok()?);
            if !self.is_bound.get(at).is_some_and(|is_bound| *is_bound) {
                return Some(id);
            }
            self.look_again(sight, id);
        }
    }

    /// How many nodes are ruled out, by the reasons.
    pub(super) fn why(&mut self, Sight { pipeline, trial, pod, .. }: Sight<'_>) -> Why {
        for id in std::mem::take(&mut self.unasked) {
            let at = id.0 as usize;
            if self.verdicts.get(at) == Some(&RULED_OUT)
                && let Some((_, reasons)) = pipeline.against(&[], pod, trial.node(id))
            {
                self.verdicts[at] = self.intern(reasons);
            }
        }
        self.reasons.iter().filter(|(_, count)| *count > 0).cloned().collect()
    }

    /// The points of every node that takes the pod.
    fn scored(&self, pipeline: &Pipeline) -> Scored {
        let admitted = self.verdicts.iter().enumerate().filter(|(_, verdict)| **verdict == ADMITTED);
        let mut scored: Vec<(usize, i64)> =
            admitted.filter_map(|(at, _)| Some((at, self.totals.value(at)?.into()))).collect();
        for (nth, one) in pipeline.relative().enumerate() {
            let number = |at: usize| self.relative.get(at * self.width + nth).copied().unwrap_or(0);
            let numbers = scored.iter().map(|(at, _)| number(*at));
            let range = numbers.fold((i64::MAX, i64::MIN), |(low, high), number| (low.min(number), high.max(number)));
            for (at, total) in &mut scored {
                *total += pipeline.point() * one.points(number(*at), range);
            }
        }
        let id = |at: usize| NodeId(u32::try_from(at).unwrap_or(u32::MAX));
        scored.into_iter().map(|(at, total)| (id(at), total)).collect()
    }
}

impl Sight<'_> {
    /// The most that the nodes of each lane may be worth, `fixed` of it for what they are; `None` if a score can't tell.
    pub(super) fn bounds(&self, demand: &Demand, tier: &Tier, fixed: i16) -> Option<Lanes> {
        let mut most = [fixed; super::LANES];
        for one in self.pipeline.scores.iter().filter(|one| one.reads == Reads::Usage) {
            let weight = one.weight as i16;
            for (most, points) in most.iter_mut().zip(one.score.bounds(self.pod, demand, &tier.block)?) {
                *most += weight * points;
            }
        }
        tier.block.rule_out(demand, &mut most);
        Some(most)
    }

    /// What a node is worth, if it takes the pod; without what other nodes' numbers are needed for.
    pub(super) fn total(&self, id: NodeId) -> Option<i64> {
        let Self { pipeline, pod, outlook, trial, .. } = *self;
        let (points, node) = (outlook.points(id)?, trial.node(id));
        let total = pipeline.points_on(pod, node).filter(|_| self.is_free(node))? + i64::from(points);
        Some(pipeline.with_tie_breaker(total, pod, node))
    }

    /// Whether all that is around the pod admits it to a node.
    fn is_free(&self, node: &NodeView) -> bool {
        self.around.iter().flatten().all(|found| found.by.admit(self.pod, node).is_ok())
    }

    /// Whether what is around the pod may change with any node.
    pub(super) fn is_fleeting(&self) -> bool {
        self.around.iter().flatten().any(|found| found.by.version().is_none())
    }

    /// The versions of what is around the pod.
    fn versions(&self) -> Vec<Option<(u64, Option<u64>)>> {
        self.around.iter().map(|found| found.as_ref().map(|found| (found.build, found.by.version()))).collect()
    }
}
