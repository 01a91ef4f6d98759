//! Scratch space over a snapshot: place, evict, roll back; only touched nodes are copied.

use std::collections::BTreeMap;

use super::{NodeId, NodeView, PodId, Snapshot, Version};

/// A point to roll back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(usize);

#[derive(Clone, Copy, Debug)]
enum Change {
    Placed(PodId, NodeId),
    Evicted(PodId, NodeId),
}

/// What the cluster would be after some changes.
#[derive(Debug)]
pub struct Trial<'a> {
    snapshot: &'a Snapshot,
    touched: BTreeMap<NodeId, NodeView>,
    /// What was done, each with the version its node had before.
    log: Vec<(Change, Version)>,
}

impl<'a> Trial<'a> {
    /// Starts from the snapshot as it is.
    #[must_use]
    pub fn new(snapshot: &'a Snapshot) -> Self {
        Self { snapshot, touched: BTreeMap::new(), log: Vec::new() }
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

    /// The pods that have a node by now, each with it, in the order of the snapshot. Looks at every pod.
    pub fn placed(&self) -> impl Iterator<Item = (PodId, NodeId)> {
        let moved = self.log.iter().map(|(change, _)| match *change {
            Change::Placed(pod, node) => (pod, Some(node)),
            Change::Evicted(pod, _) => (pod, None),
        });
        let moved: BTreeMap<PodId, Option<NodeId>> = moved.collect();
        let ids = (0..).map(PodId);
        let placed = self.snapshot.placed.iter().copied().zip(ids);
        placed.filter_map(move |(node, id)| Some((id, moved.get(&id).copied().unwrap_or(node)?)))
    }

    /// Puts a pod on a node.
    pub fn place(&mut self, pod: PodId, node: NodeId) {
        self.change(Change::Placed(pod, node));
    }

    /// Takes a pod off the node it is on.
    pub fn evict(&mut self, pod: PodId, node: NodeId) {
        self.change(Change::Evicted(pod, node));
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
            let snapshot = self.snapshot;
            let (Change::Placed(pod, node) | Change::Evicted(pod, node)) = change;
            let view = self.touch(node);
            match change {
                Change::Placed(..) => view.evict(snapshot.pod(pod)),
                Change::Evicted(..) => view.place(snapshot.pod(pod)),
            }
            // What was taken back left no trace: the node is at its old version again.
            view.version = version;
        }
    }

    fn change(&mut self, change: Change) {
        let snapshot = self.snapshot;
        let (Change::Placed(pod, node) | Change::Evicted(pod, node)) = change;
        let view = self.touch(node);
        let version = view.version;
        match change {
            Change::Placed(..) => view.place(snapshot.pod(pod)),
            Change::Evicted(..) => view.evict(snapshot.pod(pod)),
        }
        self.log.push((change, version));
    }

    fn touch(&mut self, node: NodeId) -> &mut NodeView {
        self.touched.entry(node).or_insert_with(|| self.snapshot.node(node).clone())
    }
}
