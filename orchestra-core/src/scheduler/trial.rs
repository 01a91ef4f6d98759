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

/// What the cluster would be after some changes.
#[derive(Debug)]
pub struct Trial<'a> {
    snapshot: &'a Snapshot,
    touched: BTreeMap<NodeId, NodeView>,
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
        self.touched.get(&id).unwrap_or_else(|| self.snapshot.node(id))
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

    fn apply(&mut self, change: Change) -> &mut NodeView {
        let snapshot = self.snapshot;
        let (Change::Placed(pod, place) | Change::Evicted(pod, place)) = change;
        self.journal.push(place.node);
        let node = self.touched.entry(place.node).or_insert_with(|| snapshot.node(place.node).clone());
        match change {
            Change::Placed(..) => {
                node.place(snapshot.pod(pod), place.devices);
                self.moved.insert(pod, Some(place));
            }
            Change::Evicted(..) => {
                node.evict(snapshot.pod(pod), place.devices);
                self.moved.insert(pod, None);
            }
        }
        node
    }
}
