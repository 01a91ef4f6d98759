//! What a run found, as plain numbers.

use super::{Log, Micros};
use crate::scheduler::{NodeInfo, NodeView, Resources, Shape};

/// Amounts of the resources that are measured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    /// Thousandths of a core.
    pub cpu: i64,
    /// Bytes.
    pub memory: i64,
    /// Thousandths of a device.
    pub device_millis: i64,
}

impl Amounts {
    /// What a pod of this shape takes.
    #[must_use]
    pub fn of(shape: &Shape) -> Self {
        let device_millis = i64::try_from(shape.devices.total_millis()).unwrap_or(i64::MAX);
        Self { cpu: shape.requests.cpu, memory: shape.requests.memory, device_millis }
    }

    /// What nodes have together.
    #[must_use]
    pub fn capacity(nodes: &[NodeInfo]) -> Self {
        let device_millis = |node: &NodeInfo| i64::from(node.devices) * 1_000;
        nodes.iter().fold(Self::default(), |sum, node| {
            let NodeInfo { allocatable, .. } = node;
            let one = Self { cpu: allocatable.cpu, memory: allocatable.memory, device_millis: device_millis(node) };
            sum.plus(one, 1)
        })
    }

    /// As resources by name; devices are called `devices`.
    #[must_use]
    pub fn resources(self) -> Resources {
        [("cpu", self.cpu), ("memory", self.memory), ("devices", self.device_millis)].into_iter().collect()
    }

    /// With `count` times another added.
    #[must_use]
    pub fn plus(self, other: Self, count: i64) -> Self {
        Self {
            cpu: self.cpu.saturating_add(other.cpu.saturating_mul(count)),
            memory: self.memory.saturating_add(other.memory.saturating_mul(count)),
            device_millis: self.device_millis.saturating_add(other.device_millis.saturating_mul(count)),
        }
    }

    /// Of cpu, memory and devices, the share of `all`; 0 of what there is none of.
    #[must_use]
    pub fn shares(self, all: Self) -> [f64; 3] {
        let share = |part: i64, all: i64| if all > 0 { part as f64 / all as f64 } else { 0.0 };
        [share(self.cpu, all.cpu), share(self.memory, all.memory), share(self.device_millis, all.device_millis)]
    }

    /// The largest of the [`shares`](Self::shares) (Ghodsi et al., Dominant Resource Fairness, NSDI 2011).
    #[must_use]
    pub fn dominant_share(self, all: Self) -> f64 {
        self.shares(all).into_iter().fold(0.0, f64::max)
    }
}

/// What became of a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnitOutcome {
    /// Its name.
    pub name: Box<str>,
    /// The tenant, by its number in [`Outcome::queues`].
    pub queue: usize,
    /// Which agent served it.
    pub agent: usize,
    /// How many pods it had.
    pub pods: usize,
    /// When it came.
    pub arrived: Micros,
    /// When first a pod of it had a place; `None` if none ever had.
    pub placed: Option<Micros>,
    /// When first every pod of it had had one.
    pub placed_whole: Option<Micros>,
    /// When its last pod ended; `None` if not all did.
    pub ended: Option<Micros>,
    /// How often an agent decided on it.
    pub attempts: u32,
    /// How often that was refused.
    pub refusals: u32,
    /// How often a pod of it lost its place.
    pub lost: u32,
    /// Whether it was given up.
    pub given_up: bool,
}

/// What an agent did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentOutcome {
    /// Its scheduler's name.
    pub name: Box<str>,
    /// How often it was asked.
    pub asks: u64,
    /// How many decisions on a unit it made.
    pub attempts: u64,
    /// How many of its steps were taken, wholly or in part.
    pub committed: u64,
    /// How many were refused, wholly or in part.
    pub conflicts: u64,
    /// How many units it left over.
    pub left: u64,
    /// How long it thought.
    pub busy: Micros,
    /// How long it thought for what was refused.
    pub wasted: Micros,
}

/// A tenant's pods took more, or less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: Micros,
    /// The tenant, by its number in [`Outcome::queues`].
    pub queue: usize,
    /// By whose decision.
    pub agent: usize,
    /// How much more; less than nothing if less.
    pub more: Amounts,
}

/// What a run found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// The units, in the order they came.
    pub units: Vec<UnitOutcome>,
    /// The agents.
    pub agents: Vec<AgentOutcome>,
    /// The tenants, in the order they came.
    pub queues: Vec<Box<str>>,
    /// What the nodes have, when all are up.
    pub capacity: Amounts,
    /// Each change of what pods take, in the order of time.
    pub changes: Vec<Change>,
    /// The run time of pods that ended, added up.
    pub worked: Micros,
    /// The run time of pods that were lost, added up.
    pub lost: Micros,
    /// When the last pod ended, or the run was cut off.
    pub end: Micros,
    /// The nodes, as they were in the end.
    pub nodes: Vec<NodeView>,
    /// All that happened to the cell.
    pub log: Log,
}
