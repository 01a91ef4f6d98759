//! What was decided, so that it can be done again, and compared.

use std::{sync::Arc, time::Duration};

use super::Micros;
use crate::scheduler::{
    Commit, Detect, NodeId, NodeInfo, Op, PodId, PodView, Refusal, Shape, Snapshot, Step, UnitId, commit,
};

/// What became of a decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was carried out.
    Committed,
    /// It no longer held.
    Refused(Refusal),
    /// No place was found. Noted once until the unit gets one.
    Left,
}

/// What an agent decided on a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// When it took effect, or would have.
    pub at: Micros,
    /// The agent's number.
    pub agent: usize,
    /// The unit, by its number in the workload.
    pub unit: UnitId,
    /// What was done; of a decision that was refused, what was to be done.
    pub ops: Vec<Op>,
    /// What became of it.
    pub fate: Fate,
}

impl Decision {
    /// Whether both are the same, whenever they took effect.
    fn agrees(&self, other: &Self) -> bool {
        (self.agent, self.unit, &self.ops, &self.fate) == (other.agent, other.unit, &other.ops, &other.fate)
    }
}

/// What happened to the cell.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A pod came, and waits.
    Came {
        /// When.
        at: Micros,
        /// Which pod; ids are used again.
        pod: PodId,
        /// Of which unit.
        unit: UnitId,
        /// What it needs.
        shape: Arc<Shape>,
    },
    /// An agent decided.
    Decided(Decision),
    /// A pod lost its place with the node, and waits again.
    Lost {
        /// When.
        at: Micros,
        /// Which pod.
        pod: PodId,
    },
    /// A pod ended, was given up, or was lost for good.
    Gone {
        /// When.
        at: Micros,
        /// Which pod.
        pod: PodId,
    },
    /// A node without pods failed.
    Down {
        /// When.
        at: Micros,
        /// Which node.
        node: NodeId,
    },
    /// A node returned.
    Up {
        /// When.
        at: Micros,
        /// Which node.
        node: NodeId,
    },
}

/// The nodes or the log are not those of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {record} doesn't follow from those before it")]
pub struct Mismatch {
    /// Which record, from 0.
    pub record: usize,
}

/// Where two runs part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence<'a> {
    /// How many decisions they have in common.
    pub common: usize,
    /// The next decision of the first; `None` if it has none.
    pub ours: Option<&'a Decision>,
    /// The next decision of the second.
    pub theirs: Option<&'a Decision>,
}

/// All that happened to a cell, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Log(pub Vec<Record>);

impl Log {
    /// The decisions, in the order in which they took effect.
    pub fn decisions(&self) -> impl Iterator<Item = &Decision> {
        self.0.iter().filter_map(|record| match record {
            Record::Decided(decision) => Some(decision),
            _ => None,
        })
    }

    /// Does again what was done, and returns what the cell has come to.
    ///
    /// # Errors
    ///
    /// [`Mismatch`] names the first record that can't have happened on these nodes after those before it.
    pub fn replay(&self, nodes: &[NodeInfo]) -> Result<Snapshot, Mismatch> {
        let mut cell = Snapshot::new(nodes.iter().cloned(), []);
        let up: Vec<Arc<NodeInfo>> = cell.nodes().iter().map(|node| Arc::clone(&node.info)).collect();
        for (record, entry) in self.0.iter().enumerate() {
            let holds = match entry {
                Record::Came { pod, shape, .. } => cell.add(PodView::new("", Arc::clone(shape))) == *pod,
                Record::Decided(decision) => redo(&mut cell, decision),
                Record::Lost { pod, .. } => cell.place_of(*pod).map(|_| cell.evict(*pod)).is_some(),
                Record::Gone { pod, .. } => known(&cell, *pod).map(|()| cell.remove(*pod)).is_some(),
                Record::Down { node, .. } => {
                    up.get(node.0 as usize).map(|info| cell.replace_node(*node, out_of_order(info))).is_some()
                }
                Record::Up { node, .. } => {
                    up.get(node.0 as usize).map(|info| cell.replace_node(*node, (**info).clone())).is_some()
                }
            };
            if !holds {
                return Err(Mismatch { record });
            }
        }
        Ok(cell)
    }

    /// The first decision that another log doesn't share, whenever it was made; `None` if they are the same.
    #[must_use]
    pub fn divergence<'a>(&'a self, other: &'a Self) -> Option<Divergence<'a>> {
        let (mut ours, mut theirs) = (self.decisions(), other.decisions());
        for common in 0.. {
            match (ours.next(), theirs.next()) {
                (None, None) => return None,
                (Some(one), Some(another)) if one.agrees(another) => {}
                (ours, theirs) => return Some(Divergence { common, ours, theirs }),
            }
        }
        None
    }
}

/// A node that is down: it has nothing, and takes nothing.
pub(super) fn out_of_order(info: &NodeInfo) -> NodeInfo {
    NodeInfo { allocatable: Default::default(), devices: 0, unschedulable: true, ..info.clone() }
}

fn redo(cell: &mut Snapshot, decision: &Decision) -> bool {
    if decision.fate != Fate::Committed {
        return true;
    }
    let (ops, cost) = (decision.ops.clone(), Duration::ZERO);
    let step = Step { unit: decision.unit, ops, reads: Vec::new(), commit: Commit::Whole, cost };
    let named = |op: &Op| match op {
        Op::Place { pod, place } => known(cell, *pod).is_some() && cell.nodes().len() > place.node.0 as usize,
        Op::Evict { pod, .. } => known(cell, *pod).is_some(),
        Op::Nominate { .. } | Op::Probe { .. } => true,
    };
    step.ops.iter().all(named) && commit(cell, &step, Detect::Fit).is_ok()
}

fn known(cell: &Snapshot, pod: PodId) -> Option<()> {
    cell.pods().get(pod.0 as usize).map(|_| ())
}
