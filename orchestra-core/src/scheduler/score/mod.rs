//! The scores that come with the kit.

mod fragmentation;
mod kubernetes;
mod packing;
mod pod_affinity;
mod ratio;
mod topology_spread;
mod vector;

pub use fragmentation::{Fragmentation, TypicalPods};
pub use kubernetes::{BalancedAllocation, ImageLocality, LeastAllocated, PreferredNodeAffinity, PreferredTaints};
pub use packing::{BestFit, DeviceClustering, DevicePacking, DotProduct, Largest};
pub use pod_affinity::PreferredPodAffinity;
pub(super) use pod_affinity::leans;
pub use ratio::{MostAllocated, RequestedToCapacityRatio};
pub use topology_spread::PreferredSpread;
pub use vector::{Alignment, OpportunityCost, Stranding, WorstFit};
