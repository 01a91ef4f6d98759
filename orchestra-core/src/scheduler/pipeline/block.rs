//! Many nodes side by side, in numbers so small that a processor looks at several at once.

use super::super::{NodeView, Resources, Shape};

/// How many nodes, or sets of nodes, a block holds.
pub const LANES: usize = 32;

/// A number for each node, or set of nodes, of a block.
pub type Lanes = [i16; LANES];

/// How finely shares are told apart: in so many binary digits of a hundredth.
pub const POINT_BITS: u32 = 8;

/// All of what a node has, in the parts that blocks count in.
const WHOLE: i16 = 100 << POINT_BITS;

/// What a node that takes nothing has left: less than what any pod needs, but one that needs nothing.
const NOTHING: i16 = i16::MIN;

/// What a pod needs of a resource that it doesn't request: every node has so much, but one that takes nothing.
const NONE_NEEDED: i16 = i16::MIN + 1;

/// The number of a lane whose nodes don't take the pod.
pub(super) const RULED_OUT: i16 = i16::MIN;

/// Nodes, or sets of nodes, of about one size, by what is taken on them.
///
/// Amounts are shares of what a node has, in hundredths with [`POINT_BITS`] binary digits, so that 25,600 is all of it. Each is
/// rounded to the side that its name says.
#[derive(Clone, Debug)]
pub struct Block {
    /// The most cpu that is free on one of a lane's nodes, by [`weighed_requests`](Shape::weighed_requests).
    pub free_cpu: Lanes,
    /// As much of memory.
    pub free_memory: Lanes,
    /// The most cpu that is left on one of a lane's nodes, by `requests`.
    pub left_cpu: Lanes,
    /// As much of memory.
    pub left_memory: Lanes,
    /// The least by which the share of cpu that is requested is above that of memory, halved.
    pub tilt_min: Lanes,
    /// The most by which it is.
    pub tilt_max: Lanes,
}

/// One lane of a block.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gauge {
    free: [i16; 2],
    left: [i16; 2],
    tilt: [i16; 2],
}

/// The sizes of nodes of about one size: the least and the most cpu and memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    cpu: [i64; 2],
    memory: [i64; 2],
}

/// What a pod needs, in the parts that a block counts in; always as little as may be.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Its weighed requests of cpu and memory; `None` where nodes have nothing of it.
    pub weighed: [Option<i16>; 2],
    /// The least and the most by which it tilts a node towards cpu.
    pub tilt: [i16; 2],
    requested: [i16; 2],
}

impl Block {
    /// A block of nobody.
    pub(super) fn empty() -> Self {
        let (nothing, [least, most]) = ([NOTHING; LANES], Gauge::NOBODY.tilt);
        Self {
            free_cpu: nothing,
            free_memory: nothing,
            left_cpu: nothing,
            left_memory: nothing,
            tilt_min: [least; LANES],
            tilt_max: [most; LANES],
        }
    }

    pub(super) fn gauge(&self, lane: usize) -> Gauge {
        Gauge {
            free: [self.free_cpu[lane], self.free_memory[lane]],
            left: [self.left_cpu[lane], self.left_memory[lane]],
            tilt: [self.tilt_min[lane], self.tilt_max[lane]],
        }
    }

    pub(super) fn set(&mut self, lane: usize, gauge: Gauge) {
        let Self { free_cpu, free_memory, left_cpu, left_memory, tilt_min, tilt_max } = self;
        let lanes = [free_cpu, free_memory, left_cpu, left_memory, tilt_min, tilt_max];
        let Gauge { free, left, tilt } = gauge;
        for (lanes, number) in lanes.into_iter().zip([free, left, tilt].into_iter().flatten()) {
            lanes[lane] = number;
        }
    }

    /// All of its nodes as one set.
    pub(super) fn summary(&self) -> Gauge {
        let most = |lanes: &Lanes| lanes.iter().copied().fold(NOTHING, i16::max);
        Gauge {
            free: [most(&self.free_cpu), most(&self.free_memory)],
            left: [most(&self.left_cpu), most(&self.left_memory)],
            tilt: [self.tilt_min.iter().copied().fold(i16::MAX, i16::min), most(&self.tilt_max)],
        }
    }

    /// Rules out the lanes that surely have too little left.
    pub(super) fn rule_out(&self, demand: &Demand, lanes: &mut Lanes) {
        let [cpu, memory] = demand.requested;
        for (at, lane) in lanes.iter_mut().enumerate() {
            let lacks = (self.left_cpu[at].saturating_sub(cpu) < 0) | (self.left_memory[at].saturating_sub(memory) < 0);
            *lane = if lacks { RULED_OUT } else { *lane };
        }
    }
}

impl Gauge {
    /// The lane of nobody.
    pub(super) const NOBODY: Self = Self { free: [NOTHING; 2], left: [NOTHING; 2], tilt: [i16::MAX, i16::MIN] };

    pub(super) fn of(node: &NodeView) -> Self {
        let (all, taken, weighed) = (&node.allocatable, &node.requested, &node.weighed_requests);
        let left = |all: i64, taken: i64| {
            // Less than any request, where there is nothing to take.
            if all > 0 { up(parts(all.saturating_sub(taken), all)).max(-WHOLE) } else { -1 }
        };
        let tilt = f64::midpoint(share(taken.cpu, all.cpu), -share(taken.memory, all.memory));
        Self {
            free: [left(all.cpu, weighed.cpu), left(all.memory, weighed.memory)],
            left: [left(all.cpu, taken.cpu), left(all.memory, taken.memory)],
            tilt: [down(tilt), up(tilt)],
        }
    }

    /// The cpu and the memory that is left.
    pub(super) fn left(self) -> [i16; 2] {
        self.left
    }
}

impl Size {
    /// The size of one node.
    pub(super) fn of(all: &Resources) -> Self {
        Self { cpu: [all.cpu; 2], memory: [all.memory; 2] }
    }

    /// The size of nodes of both sizes.
    pub(super) fn with(self, other: Self) -> Self {
        let both = |[least, most]: [i64; 2], other: [i64; 2]| [least.min(other[0]), most.max(other[1])];
        Self { cpu: both(self.cpu, other.cpu), memory: both(self.memory, other.memory) }
    }
}

impl Demand {
    pub(super) fn of(shape: &Shape, size: Size) -> Self {
        let (wanted, weighed) = (&shape.requests, &shape.weighed_requests);
        let least = |wanted: i64, size: [i64; 2]| (size[1] > 0).then(|| down(parts(wanted, size[1])));
        let needed =
            |wanted: i64, size: [i64; 2]| if wanted > 0 { least(wanted, size).unwrap_or(0) } else { NONE_NEEDED };
        let tilt = |cpu: usize, memory: usize| {
            f64::midpoint(share(wanted.cpu, size.cpu[cpu]), -share(wanted.memory, size.memory[memory]))
        };
        Self {
            weighed: [least(weighed.cpu, size.cpu), least(weighed.memory, size.memory)],
            // The same amount is a larger share of a smaller node.
            tilt: [down(tilt(1, 0)), up(tilt(0, 1))],
            requested: [needed(wanted.cpu, size.cpu), needed(wanted.memory, size.memory)],
        }
    }
}

fn parts(amount: i64, all: i64) -> f64 {
    amount as f64 * f64::from(WHOLE) / all as f64
}

/// The share that is taken, in parts: all, where more is.
fn share(taken: i64, all: i64) -> f64 {
    if all > 0 { parts(taken, all).clamp(0.0, f64::from(WHOLE)) } else { 0.0 }
}

/// To the next number below; what is out of range is cut.
fn down(number: f64) -> i16 {
    number.floor() as i16
}

/// To the next number above; what is out of range is cut.
fn up(number: f64) -> i16 {
    number.ceil() as i16
}
