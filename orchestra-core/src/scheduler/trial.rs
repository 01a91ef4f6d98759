//! Scratch space over a snapshot: place, evict, roll back; only touched nodes are copied.

use std::collections::BTreeMap;

use super::{NodeId, NodeView, Place, PodId, Snapshot, Version};

/// A point to roll back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(usize);

#[derive(Clone, Copy, Debug)]
enum Change {
    Placed(PodId, Place),
    Evicted(PodId, Place),
}

/// A node as it is by now.
#[derive(Debug)]
struct Touched {
    view: NodeView,
    /// The pods that were placed on it, and had been elsewhere or nowhere.
    placed: Vec<PodId>,
}

/// What the cluster would be after some changes.
#[derive(Debug)]
pub struct Trial<'a> {
    snapshot: &'a Snapshot,
    touched: BTreeMap<NodeId, Touched>,
    /// Where the pods are that were moved.
    moved: BTreeMap<PodId, Option<Place>>,
    /// What was done, each with the version its node had before.
    log: Vec<(Change, Version)>,
    /// The nodes that were changed, and changed back, in order.
    journal: Vec<NodeId>,
}

impl<'a> Trial<'a> {
    /// Starts from the snapshot as it is.
    #[must_use]
    pub fn new(snapshot: &'a Snapshot) -> Self {
        let (touched, moved) = (BTreeMap::new(), BTreeMap::new());
        Self { snapshot, touched, moved, log: Vec::new(), journal: Vec::new() }
    }

    /// The snapshot it started from.
    #[must_use]
    pub fn snapshot(&self) -> &'a Snapshot {
        self.snapshot
    }

    /// A node as it is by now.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &NodeView {
        self.touched.get(&id).map_or_else(|| self.snapshot.node(id), |touched| &touched.view)
    }

    /// Where a pod is by now; `None` if it waits.
    #[must_use]
    pub fn place_of(&self, pod: PodId) -> Option<Place> {
        self.moved.get(&pod).copied().unwrap_or_else(|| self.snapshot.place_of(pod))
    }

    /// The pods that have a node by now, each with it, in the order of the snapshot. Looks at every pod.
    pub fn placed(&self) -> impl Iterator<Item = (PodId, NodeId)> {
        let ids = (0..).map(PodId).take(self.snapshot.pods().len());
        ids.filter_map(|pod| Some((pod, self.place_of(pod)?.node)))
    }

    /// The pods that are on a node by now, in no order.
    pub fn pods_on(&self, node: NodeId) -> impl Iterator<Item = PodId> {
        let stays = move |pod: &&PodId| self.place_of(**pod).is_some_and(|place| place.node == node);
        let placed = self.touched.get(&node).map_or(&[][..], |touched| &touched.placed);
        self.snapshot.pods_on(node).iter().filter(stays).chain(placed).copied()
    }

    /// Keeps room at a place for a pod that waits, or no longer does. Not a change of the node: its version stays.
    pub(super) fn reserve(&mut self, pod: PodId, place: Place, is_kept: bool) {
        let snapshot = self.snapshot;
        let view = &mut self.touch(place.node).view;
        let version = view.version;
        if is_kept {
            view.place(snapshot.pod(pod), place.devices);
        } else {
            view.evict(snapshot.pod(pod), place.devices);
        }
        view.version = version;
        self.journal.push(place.node);
    }

    /// Counts so many changes of a node that are still to come: to whom it matters, it is another one already.
    pub(super) fn count_changes(&mut self, node: NodeId, count: u64) {
        self.touch(node).view.version.0 += count;
    }

    /// Tries something that leaves no trace, not even in the journal.
    pub(super) fn dry<T>(&mut self, run: impl FnOnce(&mut Self) -> T) -> T {
        let (mark, journal) = (self.mark(), self.journal.len());
        let outcome = run(self);
        self.roll_back(mark);
        self.journal.truncate(journal);
        outcome
    }

    /// Puts a pod to a place.
    ///
    /// # Panics
    ///
    /// If it has one.
    pub fn place(&mut self, pod: PodId, place: Place) {
        assert!(self.place_of(pod).is_none(), "a pod is placed once");
        self.change(Change::Placed(pod, place));
    }

    /// Takes a pod off its place.
    pub fn evict(&mut self, pod: PodId) {
        if let Some(place) = self.place_of(pod) {
            self.change(Change::Evicted(pod, place));
        }
    }

    /// Marks this point.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark(self.log.len())
    }

    /// Takes back everything since `mark`, newest first.
    pub fn roll_back(&mut self, mark: Mark) {
        while self.log.len() > mark.0 {
            let Some((change, version)) = self.log.pop() else { return };
            let node = match change {
                Change::Placed(pod, place) => self.apply(Change::Evicted(pod, place)),
                Change::Evicted(pod, place) => self.apply(Change::Placed(pod, place)),
            };
            // What was taken back left no trace: the node is at its old version again.
            node.version = version;
        }
    }

    /// The nodes that were changed, and changed back, in order.
    pub(super) fn journal(&self) -> &[NodeId] {
        &self.journal
    }

    fn change(&mut self, change: Change) {
        let (Change::Placed(_, place) | Change::Evicted(_, place)) = change;
        let version = self.node(place.node).version;
        self.apply(change);
        self.log.push((change, version));
    }

    fn touch(&mut self, node: NodeId) -> &mut Touched {
        let snapshot = self.snapshot;
        let fresh = || Touched { view: snapshot.node(node).clone(), placed: Vec::new() };
        self.touched.entry(node).or_insert_with(fresh)
    }

    fn apply(&mut self, change: Change) -> &mut NodeView {
        let snapshot = self.snapshot;
        let (Change::Placed(pod, place) | Change::Evicted(pod, place)) = change;
        self.journal.push(place.node);
        let was_there = snapshot.place_of(pod).is_some_and(|was| was.node == place.node);
        let moved = if matches!(change, Change::Placed(..)) { Some(place) } else { None };
        self.moved.insert(pod, moved);
        let Touched { view, placed } = self.touch(place.node);
        match change {
            Change::Placed(..) => {
                view.place(snapshot.pod(pod), place.devices);
                if !was_there {
                    placed.push(pod);
                }
            }
            Change::Evicted(..) => {
                view.evict(snapshot.pod(pod), place.devices);
                placed.retain(|other| *other != pod);
            }
        }
        view
    }
}
