//! What a pipeline remembers of each shape, node by node, so that a decision costs what has changed and not the cluster.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    super::{Lineage, NodeId, OutlineId, PodId, Shape, ShapeId, Snapshot, Surroundings, Trial, Version},
    Pipeline, Ties, Why,
    block::Demand,
    column::{Column, Sight},
    group::{Groups, Tier},
    outlook::Outlook,
    preemption::Costs,
    search::Search,
};

/// The most entries that are kept, over all shapes: about 100 MB.
const ENTRIES_MAX: usize = 2 << 20;

/// The least length of a journal that is worth cutting.
const JOURNAL_LEN_MIN: usize = 1 << 14;

/// How often a shape is searched for before it is worth a column of its own.
const SEARCHES_MIN: u32 = 4;

/// How many nodes a column may have to look at again before a search is cheaper.
const BEHIND_MAX: u64 = 192;

/// How many outlooks are kept.
const OUTLOOKS_MAX: usize = 64;

/// Of how many shapes it is kept what their pods find around them.
const SURROUNDINGS_MAX: usize = 64;

/// Of how many shapes it is kept what it costs to get room for them.
const COSTS_MAX: usize = 16;

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
    /// The nodes in groups to search through, and up to where in the journal they are.
    groups: Option<(Groups, u64)>,
    /// What is known of outlines, so many of them.
    outlooks: (Vec<Option<Arc<Outlook>>>, usize),
    /// What pods of a shape find around them by each relation, and up to where in the journal that is so.
    surroundings: BTreeMap<ShapeId, (Around, u64)>,
    /// What it costs to get room for pods of a shape, and up to where in the journal that is so.
    costs: BTreeMap<ShapeId, (Costs, u64)>,
    /// How often somebody has looked around anew.
    builds: u64,
    /// Whether it has turned out that there are no bounds.
    is_without_bounds: bool,
}

/// What a pod finds around it by one relation.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) by: Box<dyn Surroundings>,
    /// What tells it from what is found when one looks around anew.
    pub(super) build: u64,
}

/// What a pod finds around it, by each relation; nothing at all if none concerns it.
pub(super) type Around = Vec<Option<Found>>;

#[derive(Debug)]
enum Slot {
    /// One that was searched for so often.
    New(u32),
    Seen,
    Kept(Box<Column>),
}

impl Default for Slot {
    fn default() -> Self {
        Self::New(0)
    }
}

impl Index {
    /// The index for an ask, made from what is remembered if that is of the same snapshot.
    pub(super) fn for_snapshot(remembered: Option<Box<Self>>, snapshot: &Snapshot) -> Box<Self> {
        let (lineage, version) = (snapshot.lineage(), snapshot.version());
        let fresh = || Box::new(Self { lineage: lineage.clone(), version, ..Self::default() });
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

    /// The node for a pod, or why there is none; `None` if that has to be found in another way. `around` is what it finds around it.
    pub(super) fn decide(
        &mut self,
        pipeline: &Pipeline,
        trial: &Trial<'_>,
        pod: PodId,
        (around, draw): (&Around, u64),
    ) -> Option<Result<NodeId, Why>> {
        let (shape, view) = (trial.snapshot().shape_of(pod), trial.snapshot().pod(pod));
        let outlook = self.outlook(pipeline, trial, (trial.snapshot().outline_of(shape), view))?;
        let sight = Sight { pipeline, trial, pod: view, outlook: &outlook, around };
        let has_bounds = outlook.is_even && self.has_bounds(pipeline, trial);
        if self.shapes.len() <= shape.0 as usize {
            self.shapes.resize_with(trial.snapshot().shapes_len(), Slot::default);
        }
        let (is_alone, is_fleeting) = (around.is_empty(), sight.is_fleeting());
        if has_bounds
            && (is_fleeting || self.is_worth_a_search(shape, trial.snapshot().nodes().len()))
            && let Some(node) = self.search(sight, draw)
        {
            return Some(Ok(node));
        }
        if is_fleeting || !is_alone && !has_bounds {
            return None;
        }
        let column = self.column(sight, shape, has_bounds)?;
        match column.choose(sight, draw) {
            Some(node) => Some(Ok(node)),
            // A column doesn't know what others' whereabouts rule out.
            None => is_alone.then(|| Err(column.why(sight))),
        }
    }

    /// Takes out what pods of a shape find around them, up to date.
    pub(super) fn take_surroundings(&mut self, pipeline: &Pipeline, trial: &Trial<'_>, pod: PodId) -> Around {
        let (shape, end) = (trial.snapshot().shape_of(pod), self.end());
        let (mut around, seen) = self.surroundings.remove(&shape).unwrap_or_default();
        let from = seen.checked_sub(self.forgotten).and_then(|from| usize::try_from(from).ok());
        let changed = from.and_then(|from| self.journal.get(from..));
        self.read = end;
        for (at, relation) in pipeline.relations.iter().enumerate() {
            let known = around.get_mut(at).and_then(Option::as_mut);
            let is_up_to_date = known.is_some_and(|known| {
                changed.is_some_and(|changed| changed.iter().all(|node| known.by.look_again(*node, trial)))
            });
            if is_up_to_date {
                continue;
            }
            let found = relation.around(pod, trial);
            if found.is_some() && around.is_empty() {
                around.resize_with(pipeline.relations.len(), || None);
            }
            if let Some(own) = around.get_mut(at) {
                self.builds += 1;
                *own = found.map(|by| Found { by, build: self.builds });
            }
        }
        if around.iter().all(Option::is_none) { Vec::new() } else { around }
    }

    /// Keeps it for later.
    pub(super) fn keep_surroundings(&mut self, shape: ShapeId, around: Around) {
        if around.is_empty() {
            return;
        }
        if self.surroundings.len() >= SURROUNDINGS_MAX {
            self.surroundings.clear();
        }
        self.surroundings.insert(shape, (around, self.end()));
    }

    /// Takes out what it costs to get room for pods of a shape, as far as that is known and still so.
    pub(super) fn take_costs(&mut self, shape: ShapeId, snapshot: &Snapshot) -> Costs {
        let end = self.end();
        let (mut costs, seen) = self.costs.remove(&shape).unwrap_or_default();
        let from = seen.checked_sub(self.forgotten).and_then(|from| usize::try_from(from).ok());
        let Some(changed) = from.and_then(|from| self.journal.get(from..)).filter(|_| !costs.is_empty()) else {
            self.read = end;
            return vec![None; snapshot.nodes().len()];
        };
        for node in changed {
            costs.get_mut(node.0 as usize).into_iter().for_each(|cost| *cost = None);
        }
        self.read = end;
        costs
    }

    /// Keeps it for later.
    pub(super) fn keep_costs(&mut self, shape: ShapeId, costs: Costs) {
        if self.costs.len() >= COSTS_MAX {
            self.costs.clear();
        }
        self.costs.insert(shape, (costs, self.end()));
    }

    /// What is known of an outline.
    fn outlook(
        &mut self,
        pipeline: &Pipeline,
        trial: &Trial<'_>,
        (outline, pod): (OutlineId, &Shape),
    ) -> Option<Arc<Outlook>> {
        let (outlooks, known) = &mut self.outlooks;
        let at = outline.0 as usize;
        if let Some(Some(outlook)) = outlooks.get(at) {
            return Some(Arc::clone(outlook));
        }
        if *known >= OUTLOOKS_MAX {
            (*outlooks, *known) = (Vec::new(), 0);
        }
        if outlooks.len() <= at {
            outlooks.resize_with(at + 1, || None);
        }
        *known += 1;
        let slot = outlooks.get_mut(at)?;
        Some(Arc::clone(slot.insert(Outlook::new(pipeline, pod, trial).into())))
    }

    /// Whether nodes may be told by bounds; then the groups are brought to where the trial is.
    fn has_bounds(&mut self, pipeline: &Pipeline, trial: &Trial<'_>) -> bool {
        if self.is_without_bounds {
            return false;
        }
        let (end, forgotten) = (self.end(), self.forgotten);
        // If the journal has forgotten what they haven't read, it has forgotten what any column of theirs hasn't.
        let read = self.groups.as_ref().and_then(|(_, seen)| usize::try_from(seen.checked_sub(forgotten)?).ok());
        match (&mut self.groups, read) {
            (None, _) | (_, None) => {
                self.groups = pipeline.searches().then(|| Groups::of(trial)).flatten().map(|groups| (groups, end));
                self.is_without_bounds = self.groups.is_none();
            }
            (Some((groups, seen)), Some(from)) => {
                for node in self.journal.get(from..).into_iter().flatten() {
                    groups.note(*node, trial.node(*node));
                }
                *seen = end;
            }
        }
        self.read = end;
        !self.is_without_bounds
    }

    /// Whether a search costs less than a column of the shape, or bringing it up to date.
    fn is_worth_a_search(&mut self, shape: ShapeId, nodes: usize) -> bool {
        let (end, is_full) = (self.end(), (self.columns + 1) * nodes > ENTRIES_MAX);
        let unsettled = self.groups.as_ref().map_or(0, |(groups, _)| groups.unsettled());
        match self.shapes.get_mut(shape.0 as usize) {
            Some(Slot::New(searches)) => {
                *searches += 1;
                *searches <= SEARCHES_MIN || is_full
            }
            Some(Slot::Kept(column)) => {
                let is_cheaper = end - column.seen > (BEHIND_MAX + unsettled) * (1 + column.searches);
                column.searches = if is_cheaper { column.searches + 1 } else { 0 };
                is_cheaper
            }
            Some(Slot::Seen) | None => false,
        }
    }

    /// The best node for a pod, by a search; `None` if there is none, or it can't be searched for.
    fn search(&mut self, sight: Sight<'_>, draw: u64) -> Option<NodeId> {
        let (groups, _) = self.groups.as_mut()?;
        groups.settle();
        let pipeline = sight.pipeline;
        let exact = |node: NodeId| sight.total(node);
        let mut search = Search::new(pipeline.point(), pipeline.ties == Ties::First, exact);
        for group in groups.iter() {
            let demand = Demand::of(sight.pod, group.size);
            let bounds = |tier: &Tier| sight.bounds(&demand, tier, sight.outlook.most as i16);
            if search.through(group, &bounds).is_none() {
                self.is_without_bounds = true;
                return None;
            }
        }
        let nth = pipeline.tie(search.ties(), draw)?;
        search.best(nth)
    }

    /// The column of a shape, as the trial is; `None` if there is no room for another one.
    fn column(&mut self, sight: Sight<'_>, shape: ShapeId, has_bounds: bool) -> Option<&mut Column> {
        let end = self.end();
        self.asked += 1;
        self.make_room(shape, sight.trial.snapshot().nodes().len())?;
        let groups = self.groups.as_mut().map(|(groups, _)| groups).filter(|_| has_bounds);
        let slot = self.shapes.get_mut(shape.0 as usize)?;
        let is_up_to_date = match slot {
            Slot::Kept(column) if column.is_bounded() => {
                groups.as_ref().is_some_and(|groups| column.catch_up(sight, groups).is_some())
            }
            Slot::Kept(column) => {
                let from = usize::try_from(column.seen - self.forgotten).ok()?;
                self.looked_at.resize(sight.trial.snapshot().nodes().len(), 0);
                for node in self.journal.get(from..)? {
                    let last = self.looked_at.get_mut(node.0 as usize)?;
                    if std::mem::replace(last, self.asked) != self.asked {
                        column.look_again(sight, *node);
                    }
                }
                true
            }
            Slot::New(_) | Slot::Seen => false,
        };
        if !is_up_to_date {
            let bounded = groups.and_then(|groups| {
                groups.settle();
                Column::bounded(sight, groups)
            });
            *slot = Slot::Kept(Box::new(bounded.unwrap_or_else(|| Column::exact(sight))));
        }
        self.read = end;
        let Slot::Kept(column) = slot else { return None };
        (column.seen, column.asked) = (end, self.asked);
        Some(column)
    }

    /// Makes room for the column of a shape, unless it has one; `None` if that is not worth while.
    fn make_room(&mut self, shape: ShapeId, nodes: usize) -> Option<()> {
        let is_full = (self.columns + 1) * nodes > ENTRIES_MAX;
        match self.shapes.get_mut(shape.0 as usize)? {
            slot @ Slot::New(_) if is_full => {
                *slot = Slot::Seen;
                return None;
            }
            Slot::New(_) => self.columns += 1,
            Slot::Seen => {
                if is_full {
                    self.drop_least_used();
                }
                self.columns += 1;
            }
            Slot::Kept(_) => {}
        }
        Some(())
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
