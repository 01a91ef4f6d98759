//! What a descheduler wants less of.

use std::fmt;

use super::super::{Fragmentation, NodeView, Resources};

/// Says how bad it is how a node is used; a descheduler makes the sum over all nodes less.
pub trait Measure: fmt::Debug + Send + Sync + 'static {
    /// A short name, such as `over-utilization`.
    fn name(&self) -> &str;

    /// How bad a node is, by what is on it: 0 if it is as it should be, never less.
    fn of(&self, node: &NodeView) -> f64;

    /// Whether pods may be moved to a node.
    fn takes(&self, _node: &NodeView) -> bool {
        true
    }
}

/// What is taken of a node beyond a share of each resource: pods go from nodes that are fuller than they should be to nodes that are
/// nearly empty (the descheduler's `LowNodeUtilization`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct OverUtilization {
    /// Pods may be moved to nodes of which less than this is taken of each resource: `thresholds` of `LowNodeUtilization`, 0 to 1.
    pub low: f64,
    /// More than this taken of any resource is too much: its `targetThresholds`.
    pub high: f64,
}

impl OverUtilization {
    /// The shares of cpu, memory and pods that are taken.
    fn shares(node: &NodeView) -> impl Iterator<Item = f64> {
        let amounts = |all: &Resources| [all.cpu, all.memory, all.pods];
        let both = amounts(&node.requested).into_iter().zip(amounts(&node.allocatable));
        both.filter(|(_, all)| *all > 0).map(|(taken, all)| taken as f64 / all as f64)
    }
}

impl Measure for OverUtilization {
    fn name(&self) -> &str {
        "over-utilization"
    }

    fn of(&self, node: &NodeView) -> f64 {
        Self::shares(node).map(|share| (share - self.high).max(0.0)).sum()
    }

    fn takes(&self, node: &NodeView) -> bool {
        Self::shares(node).all(|share| share < self.low)
    }
}

/// In devices: what typical pods can't use of a node's idle ones.
impl Measure for Fragmentation {
    fn name(&self) -> &str {
        "fragmentation"
    }

    fn of(&self, node: &NodeView) -> f64 {
        self.0.fragmented(node) / 1_000.0
    }
}
