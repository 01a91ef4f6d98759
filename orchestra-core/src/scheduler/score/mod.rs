//! The scores that come with the kit.

mod fragmentation;
mod kubernetes;
mod packing;

pub use fragmentation::{Fragmentation, TypicalPods};
pub use kubernetes::{BalancedAllocation, ImageLocality, LeastAllocated, PreferredNodeAffinity, PreferredTaints};
pub use packing::{BestFit, DeviceClustering, DevicePacking, DotProduct, Largest};
