//! Contract: where the cluster decides.
//!
//! A [`Scheduler`] turns a [`Snapshot`] and what waits into a [`Plan`]; an applier makes it happen, or refuses a step
//! that no longer holds. A pod at a time, gangs, whole batches, offers, probes and deschedulers are all plans.

mod applier;
mod backfill;
mod binder;
mod descheduler;
mod explanation;
mod external;
mod fair;
mod filter;
mod first_fit;
mod flow;
mod offers;
mod pipeline;
mod plan;
mod pod_affinity;
mod relation;
mod score;
mod snapshot;
mod topology_spread;
mod trial;

#[cfg(feature = "client")]
pub mod configuration;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(feature = "client")]
mod metrics;
#[cfg(feature = "client")]
mod queue;
#[cfg(all(test, feature = "server"))]
mod relation_score_tests;
#[cfg(all(test, feature = "server"))]
mod relation_tests;
#[cfg(feature = "client")]
mod scheduling_loop;
#[cfg(feature = "client")]
mod wording;

pub use applier::{Refusal, apply, commit};
pub use backfill::Backfill;
pub use binder::{judge, looks_around};
pub use descheduler::{Descheduler, Measure, OverUtilization};
pub use explanation::{Explanation, Points, Verdict};
pub use external::{External, Fault, Faults, PROTOCOL_VERSION};
pub use fair::{FairShare, Quota};
pub use filter::{
    DevicesFit, DevicesMatch, HostPortsFree, NodeAffinityMatches, NodeNameMatches, NodeSchedulable, ResourcesFit,
    TaintsTolerated,
};
pub use first_fit::FirstFit;
pub use flow::MinCostFlow;
#[cfg(feature = "client")]
pub use metrics::Metrics;
pub use offers::Offers;
pub use pipeline::{
    Block, Demand, Filter, FullestDevices, LANES, Lanes, Look, POINT_BITS, PickDevices, Pipeline, RandomDevices, Reads,
    Reason, Scale, Score, Ties,
};
pub use plan::{Ask, Commit, Detect, Heard, Left, Op, Plan, Step, Unit, UnitId};
pub use pod_affinity::PodAffinityMatches;
pub use relation::{Relation, RelationScore, Surroundings};
#[cfg(feature = "client")]
pub use scheduling_loop::{DEFAULT_SCHEDULER, SchedulingLoop};
pub use score::{
    Alignment, BalancedAllocation, BestFit, DeviceClustering, DevicePacking, DotProduct, Fragmentation, ImageLocality,
    Largest, LeastAllocated, MostAllocated, OpportunityCost, PreferredNodeAffinity, PreferredPodAffinity,
    PreferredSpread, PreferredTaints, RequestedToCapacityRatio, Stranding, TypicalPods, WorstFit,
};
pub use snapshot::{
    Budget, DEVICE_MILLIS, DEVICES_MAX, DeviceClass, DeviceRequest, DeviceSet, HostPort, ImageView, Lineage,
    Namespaces, NodeId, NodeInfo, NodeView, OutlineId, Place, PodId, PodView, Resources, Shape, ShapeId, Snapshot,
    Version,
};
pub use topology_spread::TopologySpreads;
pub use trial::{Mark, Trial};

/// Chooses nodes for pods: a pure function from a [`Snapshot`] to a [`Plan`].
///
/// `&mut self` is memory only: what it remembers may make the next plan cheaper, never different.
///
/// # Laws
///
/// For every ask:
///
/// 1. **Total.** Each pending unit is in exactly one of `steps` and `left`.
/// 2. **Feasible.** Applied to the snapshot it was made from, no step is refused, and no node is over its allocatable or
///    breaks a required constraint of a pod on it. Who is evicted is less important than who is to have the room, and with all of
///    them gone there is room.
/// 3. **Whole gangs.** At least `pods_min` pods of a unit are placed, or none.
/// 4. **Repeatable.** Equal asks give equal plans.
/// 5. **Warm equals cold.** A fresh scheduler gives the plan that one gives which has planned before.
/// 6. **Own steps agree.** A plan's earlier steps are no conflicts of its later ones; a refused step leaves no trace.
/// 7. **Scope is kept.** Nothing is placed outside `scope`.
/// 8. **Honest.** Each reason in `left` holds for as many nodes as it says; a unit is not left over when, by the
///    scheduler's own filters, a node takes it. What is kept for an earlier unit takes no later one, and is said to be
///    ([`Reason::kept`]).
///
/// Each is a test of `conformance`, run with generated clusters.
pub trait Scheduler: std::fmt::Debug + Send + Sync + 'static {
    /// A short name for logs, events and reports, such as `least-allocated`.
    fn name(&self) -> &str;

    /// Plans places for `ask.pending`.
    fn plan(&mut self, ask: &Ask<'_>) -> Plan;

    /// Learns what became of a step: committed, or refused. Optional.
    fn heard(&mut self, _: &Heard) {}
}
