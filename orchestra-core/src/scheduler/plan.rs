//! What a scheduler is asked, and what it answers: plain data.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use super::{NodeId, Place, PodId, Reason, Snapshot, Version};
use crate::clock::Timestamp;

/// Which unit of an ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnitId(pub u32);

/// What is decided as one: a single pod is a unit of one; a gang needs at least `pods_min` of its pods placed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    /// Which unit.
    pub id: UnitId,
    /// Its pending pods, in order.
    pub pods: Vec<PodId>,
    /// Fewer placed than this, and none is.
    pub pods_min: usize,
    /// A higher one is served first.
    pub priority: i32,
    /// The tenant, for fairness between queues.
    pub queue: Box<str>,
    /// Since when it waits.
    pub since: Timestamp,
}

/// What a scheduler is asked. It can reach nothing else: no clock, no chance, no I/O.
#[derive(Clone, Debug)]
pub struct Ask<'a> {
    /// Now.
    pub now: Timestamp,
    /// For ties and sampling; equal seeds, equal plans.
    pub seed: u64,
    /// What is.
    pub snapshot: &'a Snapshot,
    /// What waits for a place, in the order to serve it; empty for a descheduler's turn.
    pub pending: &'a [Unit],
    /// The nodes on offer, if not all.
    pub scope: Option<&'a [NodeId]>,
    /// How hard to think, in candidate placements looked at: steps rather than seconds, so that a plan can be replayed.
    pub steps_max: NonZeroU32,
}

/// One change that a plan asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Bind the pod to the node, with these of its devices.
    Place {
        /// Which pod.
        pod: PodId,
        /// Where.
        place: Place,
    },
    /// Remove a running pod, for the pod that is to take its place.
    Evict {
        /// Which pod.
        pod: PodId,
        /// For which one.
        preemptor: Option<PodId>,
    },
    /// Reserve: the pod waits for victims to leave the node.
    Nominate {
        /// Which pod.
        pod: PodId,
        /// Which node.
        node: NodeId,
    },
    /// Ask the node to call back when it could start a pod of this unit (late binding).
    Probe {
        /// Which node.
        node: NodeId,
    },
}

/// Whether a step's operations stand or fall together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// All or nothing, as a gang needs.
    Whole,
    /// Each operation for itself.
    Each,
}

/// When an applier refuses a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detect {
    /// When a node that the decision rested on has changed at all.
    Version,
    /// When an operation no longer fits.
    Fit,
}

/// Changes for one unit, committed by the rule it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// For which unit.
    pub unit: UnitId,
    /// In order.
    pub ops: Vec<Op>,
    /// What the decision rested on.
    pub reads: Vec<(NodeId, Version)>,
    /// All or nothing, or each for itself.
    pub commit: Commit,
    /// How long the decision took by the scheduler's own model, for simulations of thinking time (Omega).
    pub cost: Duration,
}

/// A unit that got no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Which unit.
    pub unit: UnitId,
    /// How many nodes were ruled out, by all that was said against them: each node counts once.
    pub why: BTreeMap<Vec<Reason>, usize>,
    /// When it would get a place, by what is known now; `None` if the scheduler doesn't look ahead, or sees no end to the wait.
    pub expected: Option<Timestamp>,
}

/// What a scheduler proposes; whether it happens is the applier's business.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use = "a plan does nothing until it is applied"]
pub struct Plan {
    /// In the order to commit them.
    pub steps: Vec<Step>,
    /// The units left over.
    pub left: Vec<Left>,
}

/// What became of a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It was committed.
    Committed(UnitId),
    /// It was refused.
    Refused(UnitId),
}
