//! What is placed, and on what: clusters and pods drawn from a seed, after the shapes of kube-scheduler's own benchmark
//! (`scheduler_perf`).

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{Affinity, PodAffinity, PodAffinityTerm, PodAntiAffinity, TopologySpreadConstraint},
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use orchestra_core::scheduler::{NodeId, NodeInfo, PodId, PodView, Resources, Shape, Snapshot};

const SEED: u64 = 7;
const ZONES: usize = 3;
const ZONE: &str = "topology.kubernetes.io/zone";
const HOSTNAME: &str = "kubernetes.io/hostname";

/// What the pods of a benchmark are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// They request amounts drawn for each of so many shapes.
    Shapes(usize),
    /// Each requests other amounts.
    AllDiffer,
    /// Three zones, none with five more than another (`TopologySpreading`).
    Spread,
    /// All in the zone of the first (`SchedulingPodAffinity`).
    Affinity,
    /// No two on a node (`SchedulingPodAntiAffinity`).
    AntiAffinity,
    /// Every node is full of less important pods (`Preemption`).
    Preemption,
    /// As soon as one has its place another one leaves (`SchedulingWithMixedChurn`).
    Churn,
    /// Three at a time or none, of 16 shapes.
    Gangs,
}

/// A cluster, and the units that wait, each with its pods.
pub(crate) struct Work {
    pub(crate) snapshot: Snapshot,
    pub(crate) units: Vec<Vec<PodId>>,
}

impl Workload {
    /// The cluster of so many nodes, and the first `count` of so many pods.
    pub(crate) fn work(self, nodes: usize, pods: usize, count: usize) -> Work {
        let mut rng = fastrand::Rng::with_seed(SEED);
        let mut snapshot = Snapshot::new((0..nodes).map(node), []);
        if self == Self::Preemption {
            self.fill(&mut snapshot);
        }
        let shapes: Vec<Arc<Shape>> = match self {
            Self::Shapes(shapes) => (0..shapes).map(|_| drawn(&mut rng).into()).collect(),
            Self::AllDiffer => (0..pods).map(|_| drawn(&mut rng).into()).collect(),
            Self::Churn | Self::Gangs => (0..16).map(|_| drawn(&mut rng).into()).collect(),
            _ => vec![self.shape().into()],
        };
        let next = |at: usize| if shapes.len() == pods { at } else { rng.usize(0..shapes.len()) };
        let pods: Vec<PodId> = (0..pods)
            .map(next)
            .take(count)
            .map(|at| snapshot.add(PodView::new("pod", Arc::clone(&shapes[at]))))
            .collect();
        let size = if self == Self::Gangs { 3 } else { 1 };
        Work { snapshot, units: pods.chunks(size).map(<[PodId]>::to_vec).collect() }
    }

    /// The one shape of its pods.
    fn shape(self) -> Shape {
        let cpu = if self == Self::Preemption { 3_000 } else { 100 };
        let requests = Resources { cpu, memory: 500 << 20, pods: 1, ..Resources::default() };
        let mut shape = Shape { weighed_requests: requests.clone(), requests, ..Shape::default() };
        shape.labels.insert("color".into(), "blue".into());
        let selector = LabelSelector { match_labels: Some(shape.labels.clone()), ..LabelSelector::default() };
        let term = |key: &str| PodAffinityTerm {
            label_selector: Some(selector.clone()),
            topology_key: key.into(),
            ..PodAffinityTerm::default()
        };
        match self {
            Self::Spread => shape.spread.push(TopologySpreadConstraint {
                label_selector: Some(selector),
                max_skew: 5,
                topology_key: ZONE.into(),
                when_unsatisfiable: "DoNotSchedule".into(),
                ..TopologySpreadConstraint::default()
            }),
            Self::Affinity => {
                let near = PodAffinity {
                    required_during_scheduling_ignored_during_execution: Some(vec![term(ZONE)]),
                    ..PodAffinity::default()
                };
                shape.affinity = Some(Affinity { pod_affinity: Some(near), ..Affinity::default() });
            }
            Self::AntiAffinity => {
                let far = PodAntiAffinity {
                    required_during_scheduling_ignored_during_execution: Some(vec![term(HOSTNAME)]),
                    ..PodAntiAffinity::default()
                };
                shape.affinity = Some(Affinity { pod_anti_affinity: Some(far), ..Affinity::default() });
            }
            _ => shape.priority = 10,
        }
        shape
    }

    /// Fills every node with pods of less priority.
    fn fill(self, snapshot: &mut Snapshot) {
        let requests = Resources { cpu: 7_900, memory: 500 << 20, pods: 1, ..Resources::default() };
        let shape = Arc::new(Shape { weighed_requests: requests.clone(), requests, ..Shape::default() });
        for node in snapshot.node_ids().collect::<Vec<NodeId>>() {
            for _ in 0..4 {
                let pod = snapshot.add(PodView::new("low", Arc::clone(&shape)));
                snapshot.place(pod, node.into());
            }
        }
    }
}

/// Nodes are alike: 32 cores and 128 GiB; every third is in the same zone.
fn node(at: usize) -> NodeInfo {
    let name = format!("node-{at:06}");
    NodeInfo {
        labels: [(ZONE.into(), format!("zone-{}", at % ZONES)), (HOSTNAME.into(), name.clone())].into(),
        name: name.into(),
        allocatable: Resources { cpu: 32_000, memory: 128 << 30, pods: 110, ..Resources::default() },
        ..NodeInfo::default()
    }
}

fn drawn(rng: &mut fastrand::Rng) -> Shape {
    let requests =
        Resources { cpu: rng.i64(50..2_050), memory: rng.i64(64..4_096) << 20, pods: 1, ..Resources::default() };
    Shape { weighed_requests: requests.clone(), requests, ..Shape::default() }
}
