//! The scores that come with the kit.

mod fragmentation;
mod kubernetes;
mod packing;
mod pod_affinity;
mod topology_spread;

pub use fragmentation::{Fragmentation, TypicalPods};
pub use kubernetes::{BalancedAllocation, ImageLocality, LeastAllocated, PreferredNodeAffinity, PreferredTaints};
pub use packing::{BestFit, DeviceClustering, DevicePacking, DotProduct, Largest};
pub use pod_affinity::PreferredPodAffinity;
pub(super) use pod_affinity::leans;
pub use topology_spread::PreferredSpread;
