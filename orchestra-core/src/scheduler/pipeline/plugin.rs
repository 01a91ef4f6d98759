//! What a pipeline is made of: filters, scores, and the choice of devices.

use std::{borrow::Cow, fmt};

use super::{
    super::{DEVICE_MILLIS, DeviceSet, NodeView, Shape},
    block::{Block, Demand, Lanes},
};

/// Why a node can't take a pod, in Kubernetes' words.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reason {
    /// The words.
    pub text: Cow<'static, str>,
    /// Whether it would help if pods left the node.
    pub crowded: bool,
}

impl Reason {
    /// A reason that stands whoever leaves the node.
    pub fn fixed(text: impl Into<Cow<'static, str>>) -> Self {
        Self { text: text.into(), crowded: false }
    }

    /// The reason of schedulers that look ahead: what would fit is kept for a unit that comes before.
    #[must_use]
    pub const fn kept() -> Self {
        Self { text: Cow::Borrowed("node(s) were kept for earlier pods"), crowded: true }
    }

    /// A reason that falls if the right pods leave.
    pub fn crowded(text: impl Into<Cow<'static, str>>) -> Self {
        Self { text: text.into(), crowded: true }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What the answer of a filter or a score rests on, beside the pod's shape: it stands until that changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reads {
    /// What the node is ([`NodeInfo`](crate::scheduler::NodeInfo)); and of the pod's shape all but the amounts that it requests.
    Node,
    /// What its pods take, too.
    Usage,
}

/// Rules a node out.
///
/// Those that read the node alone come first; of each kind, the first that rejects a node gives the reasons.
pub trait Filter: fmt::Debug + Send + Sync + 'static {
    /// A short name, such as `NodeResourcesFit`.
    fn name(&self) -> &str;

    /// `Ok` if a pod of this shape may run on `node`, in the trial so far.
    ///
    /// # Errors
    ///
    /// The [`Reason`] why it may not.
    fn admit(&self, pod: &Shape, node: &NodeView) -> Result<(), Reason>;

    /// Every reason why it may not; none if it may. For filters that can tell of more than one.
    fn reasons(&self, pod: &Shape, node: &NodeView) -> Vec<Reason> {
        self.admit(pod, node).err().into_iter().collect()
    }

    /// What it reads.
    fn reads(&self) -> Reads {
        Reads::Usage
    }

    /// Whether it rejects each node that has less cpu or memory left than the pod requests. Where a filter does, the pipeline
    /// passes over many such nodes at once.
    fn needs_room(&self) -> bool {
        false
    }

    /// Whether it could reject any node for a pod of this shape; `false` spares the calls (`Skip` of Kubernetes' `PreFilter`).
    fn concerns(&self, _pod: &Shape) -> bool {
        true
    }
}

/// How the numbers of a score become points: 0 to 100 for each node that takes the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// They are points.
    Points,
    /// The highest is 100, nothing is 0 (Kubernetes' `DefaultNormalizeScore`).
    Highest,
    /// The highest is 0, nothing is 100: the fewer, the better.
    HighestReversed,
    /// The highest is 100 and the lowest 0; all are 0 if they are equal.
    Span,
}

impl Scale {
    /// The points for a number between the lowest and the highest: 0 to 100, whatever the number is.
    #[must_use]
    pub fn points(self, number: i64, (lowest, highest): (i64, i64)) -> i64 {
        let points = match self {
            Self::Points => number,
            Self::Highest | Self::HighestReversed => {
                let scaled = if highest > 0 { number.saturating_mul(100) / highest } else { 0 };
                if self == Self::Highest { scaled } else { 100 - scaled }
            }
            Self::Span if highest == lowest => 0,
            Self::Span => number.saturating_sub(lowest).saturating_mul(100) / highest.saturating_sub(lowest),
        };
        points.clamp(0, 100)
    }
}

/// Prefers some nodes to others.
pub trait Score: fmt::Debug + Send + Sync + 'static {
    /// A short name, such as `least-allocated`.
    fn name(&self) -> &str;

    /// How much a pod of this shape likes `node`: more is better, unless the scale is a reversed one.
    fn score(&self, pod: &Shape, node: &NodeView) -> i64;

    /// How its numbers become points.
    fn scale(&self) -> Scale;

    /// What it reads.
    fn reads(&self) -> Reads {
        Reads::Usage
    }

    /// The most that it could give a node of each lane that has room for the pod: 0 to 100. It may be more than what any node
    /// gets, never less; the closer it is, the more nodes are passed over for a pod of a new shape. `None` from a score that can
    /// tell only node by node.
    fn bounds(&self, _pod: &Shape, _demand: &Demand, _block: &Block) -> Option<Lanes> {
        None
    }
}

/// Chooses which of a node's devices a pod gets.
pub trait PickDevices: fmt::Debug + Send + Sync + 'static {
    /// As many devices as the pod needs, each with enough left; the node has them. `draw` is a number to draw by.
    fn pick(&self, pod: &Shape, node: &NodeView, draw: u64) -> DeviceSet;
}

/// Takes the devices with the least left that have enough, the first of equal ones.
#[derive(Clone, Copy, Debug)]
pub struct FullestDevices;

impl PickDevices for FullestDevices {
    fn pick(&self, pod: &Shape, node: &NodeView, _: u64) -> DeviceSet {
        let wanted = usize::from(pod.devices.count);
        if wanted == 0 {
            return DeviceSet::EMPTY;
        }
        if pod.devices.millis == DEVICE_MILLIS {
            return enough(pod, node).take(wanted).collect();
        }
        let mut enough: Vec<usize> = enough(pod, node).collect();
        enough.sort_by_key(|device| node.devices_left.get(*device));
        enough.into_iter().take(wanted).collect()
    }
}

/// Takes any devices that have enough left.
#[derive(Clone, Copy, Debug)]
pub struct RandomDevices;

impl PickDevices for RandomDevices {
    fn pick(&self, pod: &Shape, node: &NodeView, draw: u64) -> DeviceSet {
        let wanted = usize::from(pod.devices.count);
        let mut enough: Vec<usize> = enough(pod, node).collect();
        fastrand::Rng::with_seed(draw).shuffle(&mut enough);
        enough.into_iter().take(wanted).collect()
    }
}

fn enough(pod: &Shape, node: &NodeView) -> impl Iterator<Item = usize> {
    let left = node.devices_left.iter().enumerate();
    left.filter(|(_, left)| **left >= pod.devices.millis).map(|(device, _)| device)
}
