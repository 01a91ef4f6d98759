//! What a pipeline remembers of each shape, node by node, so that a decision costs what has changed and not the cluster.

use super::{
    super::{Lineage, NodeId, NodeView, Reads, Reason, Shape, ShapeId, Snapshot, Trial, Version},
    Pipeline, Scored, Ties, Why,
    tree::Tournament,
};

/// The most entries that are kept, over all shapes: about 100 MB.
const ENTRIES_MAX: usize = 2 << 20;

/// The least length of a journal that is worth cutting.
const JOURNAL_LEN_MIN: usize = 1 << 14;

/// What is known of a snapshot's nodes, for the shapes that were asked for: for all of them while there is room, then for
/// those that come again.
#[derive(Debug, Default)]
pub(super) struct Index {
    lineage: Lineage,
    /// Up to where the snapshot's changes are in the journal.
    version: Version,
    /// The nodes that changed, in the snapshot or in a trial, but for `forgotten` older ones.
    journal: Vec<NodeId>,
    forgotten: u64,
    /// Up to where in the journal some column is.
    read: u64,
    /// For which ask each node was looked at last, so that it is once for each.
    looked_at: Vec<u64>,
    shapes: Vec<Slot>,
    columns: usize,
    /// How many asks there have been for a column.
    asked: u64,
}

#[derive(Debug, Default)]
enum Slot {
    #[default]
    New,
    Seen,
    Kept(Box<Column>),
}

impl Index {
    /// The index for an ask, made from what is remembered if that is of the same snapshot.
    pub(super) fn for_snapshot(remembered: Option<Self>, snapshot: &Snapshot) -> Self {
        let fresh = || Self { lineage: snapshot.lineage().clone(), version: snapshot.version(), ..Self::default() };
        let Some(mut index) = remembered.filter(|index| index.lineage == *snapshot.lineage()) else { return fresh() };
        let Some(changed) = snapshot.changed_since(index.version) else { return fresh() };
        changed.iter().for_each(|node| index.note(*node));
        index.version = snapshot.version();
        index.shapes.resize_with(snapshot.shapes_len(), Slot::default);
        index.cut(snapshot.nodes().len());
        index
    }

    /// Notes that a node is another one now.
    pub(super) fn note(&mut self, node: NodeId) {
        // Nobody has read the last entry yet: it says it already.
        if self.journal.last() != Some(&node) || self.read == self.end() {
            self.journal.push(node);
        }
    }

    fn end(&self) -> u64 {
        self.forgotten + self.journal.len() as u64
    }

    fn cut(&mut self, nodes: usize) {
        if self.journal.len() < JOURNAL_LEN_MIN.max(4 * nodes) {
            return;
        }
        let older = self.journal.len() / 2;
        self.journal.drain(..older);
        self.forgotten += older as u64;
        for slot in &mut self.shapes {
            if matches!(slot, Slot::Kept(column) if column.seen < self.forgotten) {
                *slot = Slot::Seen;
                self.columns -= 1;
            }
        }
    }

    /// The column of a shape, as the trial is; `None` if there is no room for another one.
    pub(super) fn column(
        &mut self,
        pipeline: &Pipeline,
        shape: ShapeId,
        pod: &Shape,
        trial: &Trial<'_>,
    ) -> Option<&mut Column> {
        let nodes = trial.snapshot().nodes().len();
        if self.shapes.len() <= shape.0 as usize {
            self.shapes.resize_with(trial.snapshot().shapes_len(), Slot::default);
        }
        let end = self.end();
        self.asked += 1;
        let asked = self.asked;
        let is_full = (self.columns + 1) * nodes > ENTRIES_MAX;
        match self.shapes.get_mut(shape.0 as usize)? {
            slot @ Slot::New if is_full => {
                *slot = Slot::Seen;
                return None;
            }
            Slot::New => self.columns += 1,
            Slot::Seen => {
                if is_full {
                    self.drop_least_used();
                }
                self.columns += 1;
            }
            Slot::Kept(_) => {}
        }
        let slot = self.shapes.get_mut(shape.0 as usize)?;
        match slot {
            Slot::New | Slot::Seen => *slot = Slot::Kept(Box::new(Column::new(pipeline, pod, trial))),
            Slot::Kept(column) => {
                let from = usize::try_from(column.seen - self.forgotten).ok()?;
                self.looked_at.resize(nodes, 0);
                for node in self.journal.get(from..)? {
                    let last = self.looked_at.get_mut(node.0 as usize)?;
                    if std::mem::replace(last, asked) != asked {
                        column.look_again(pipeline, pod, *node, trial.node(*node));
                    }
                }
            }
        }
        self.read = end;
        let Slot::Kept(column) = slot else { return None };
        (column.seen, column.asked) = (end, asked);
        Some(column)
    }

    fn drop_least_used(&mut self) {
        let kept = self.shapes.iter_mut().filter(|slot| matches!(slot, Slot::Kept(_)));
        let least = kept.min_by_key(|slot| match slot {
            Slot::Kept(column) => column.asked,
            _ => u64::MAX,
        });
        if let Some(slot) = least {
            *slot = Slot::Seen;
            self.columns -= 1;
        }
    }
}

/// What takes a pod, in [`Column::verdicts`]; lower numbers say which reasons rule a node out.
const ADMITTED: u32 = u32::MAX;

/// What is ruled out for reasons that nobody has asked for.
const RULED_OUT: u32 = u32::MAX - 1;

/// How each node fares for one shape.
#[derive(Debug)]
pub(super) struct Column {
    /// Up to where in the journal it has looked.
    seen: u64,
    asked: u64,
    /// By what is only the node's: the verdict, and the points of those scores that are points already.
    fixed: Vec<(u32, i32)>,
    /// Which of the filters that read what is on a node concern the shape.
    filters: Vec<usize>,
    /// Which of the scores are points, and read what is on a node.
    scores: Vec<usize>,
    verdicts: Vec<u32>,
    /// The points of all scores that are points already, for those nodes that take the pod.
    totals: Tournament,
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
    fn new(pipeline: &Pipeline, pod: &Shape, trial: &Trial<'_>) -> Self {
        let (nodes, width) = (trial.snapshot().nodes().len(), pipeline.relative().count());
        let mut column = Self {
            seen: 0,
            asked: 0,
            fixed: Vec::with_capacity(nodes),
            filters: pipeline.concerning(Reads::Usage, pod),
            scores: pipeline.points_reading(Reads::Usage),
            verdicts: vec![ADMITTED; nodes],
            totals: Tournament::new(std::iter::empty(), false),
            width,
            relative: vec![0; nodes * width],
            common: None,
            differ: false,
            reasons: Vec::new(),
            unasked: Vec::new(),
        };
        let filters_of_nodes = pipeline.concerning(Reads::Node, pod);
        let scores_of_nodes = pipeline.points_reading(Reads::Node);
        let mut totals = Vec::with_capacity(nodes);
        for id in trial.snapshot().node_ids() {
            let node = trial.node(id);
            let fixed = match pipeline.reasons_by(Reads::Node, &filters_of_nodes, pod, node) {
                None => (ADMITTED, pipeline.points_by(&scores_of_nodes, pod, node)),
                Some(reasons) => (column.intern(reasons), 0),
            };
            column.fixed.push(fixed);
            totals.push(column.judge(pipeline, pod, id, node));
        }
        column.totals = Tournament::new(totals.into_iter(), pipeline.ties == Ties::Random);
        column
    }

    fn look_again(&mut self, pipeline: &Pipeline, pod: &Shape, id: NodeId, node: &NodeView) {
        let at = id.0 as usize;
        // What the node is has not changed.
        if self.fixed.get(at).is_none_or(|(verdict, _)| *verdict != ADMITTED) {
            return;
        }
        if let Some(verdict) = self.verdicts.get(at).copied()
            && let Some((_, count)) = self.reasons.get_mut(verdict as usize)
        {
            *count -= 1;
        }
        let total = self.judge(pipeline, pod, id, node);
        self.totals.set(at, total);
    }

    /// The points of a node, if it takes the pod; its verdict is noted.
    fn judge(&mut self, pipeline: &Pipeline, pod: &Shape, id: NodeId, node: &NodeView) -> Option<i32> {
        let at = id.0 as usize;
        let (fixed, points) = *self.fixed.get(at)?;
        let verdict =
            if fixed == ADMITTED && !pipeline.admits_by(&self.filters, pod, node) { RULED_OUT } else { fixed };
        let was = std::mem::replace(self.verdicts.get_mut(at)?, verdict);
        if verdict == RULED_OUT {
            if was != RULED_OUT {
                self.unasked.push(id);
            }
            return None;
        }
        if verdict != ADMITTED {
            return None;
        }
        if self.width > 0 {
            let own = self.relative.get_mut(at * self.width..(at + 1) * self.width)?;
            for (number, one) in own.iter_mut().zip(pipeline.relative()) {
                *number = one.score.score(pod, node);
            }
            self.differ = self.differ || **self.common.get_or_insert_with(|| (*own).into()) != *own;
        }
        let points = points + pipeline.points_by(&self.scores, pod, node);
        Some(pipeline.with_tie_breaker(points.into(), pod, node) as i32)
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
    pub(super) fn choose(&self, pipeline: &Pipeline, draw: u64) -> Option<NodeId> {
        if self.differ {
            return pipeline.choose(&self.scored(pipeline), draw);
        }
        let ties = self.totals.ties();
        let nth = pipeline.tie(ties as usize, draw)?;
        let at = self.totals.best(u32::try_from(nth).ok()?)?;
        u32::try_from(at).ok().map(NodeId)
    }

    /// How many nodes are ruled out, by the reasons.
    pub(super) fn why(&mut self, pipeline: &Pipeline, pod: &Shape, trial: &Trial<'_>) -> Why {
        for id in std::mem::take(&mut self.unasked) {
            let at = id.0 as usize;
            if self.verdicts.get(at) == Some(&RULED_OUT)
                && let Some(reasons) = pipeline.reasons_by(Reads::Usage, &self.filters, pod, trial.node(id))
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
