//! A scheduler of your own, under the suite: first fit over nodes in the order of what is left, least first.
//!
//!     cargo run --example own_scheduler
//!
//! prints how it decides for one pod, node by node, and `8 laws hold for best-fit`.

use orchestra_core::scheduler::{
    Ask, NodeInfo, NodeView, Pipeline, Plan, PodId, PodView, Resources, Scale, Scheduler, Score, Shape, Snapshot,
};

/// Prefers the node that the pod leaves the least of (best fit).
#[derive(Debug)]
struct LeastLeft;

impl Score for LeastLeft {
    fn name(&self) -> &str {
        "least-left"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        let taken = |resource| {
            let taken = node.requested.amount(resource) + pod.requests.amount(resource);
            1_000 * taken / node.allocatable.amount(resource).max(1)
        };
        taken("cpu") + taken("memory")
    }

    fn scale(&self) -> Scale {
        Scale::Highest
    }
}

#[derive(Debug)]
struct BestFit(Pipeline);

impl BestFit {
    fn new() -> Self {
        Self(Pipeline::new("best-fit").required().score(1, LeastLeft))
    }
}

impl Scheduler for BestFit {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn plan(&mut self, ask: &Ask<'_>) -> Plan {
        self.0.plan(ask)
    }
}

mod laws {
    orchestra_core::scheduler_conformance!(super::BestFit::new());
}

/// An amount of cpu, in thousandths of a core, and of memory.
fn amounts(cpu: i64, memory: i64) -> Resources {
    Resources { cpu, memory, pods: 1, ..Resources::default() }
}

fn main() {
    let nodes = [("small", 1_000), ("medium", 2_000), ("large", 8_000)].map(|(name, cpu)| {
        let allocatable = amounts(cpu, cpu << 20);
        NodeInfo { name: name.into(), allocatable, ..NodeInfo::default() }
    });
    let pod = PodView::new("web", Shape { requests: amounts(1_500, 1_500 << 20), ..Shape::default() });
    let snapshot = Snapshot::new(nodes, [(pod, None)]);
    for explanation in BestFit::new().0.explain(&snapshot, PodId(0)) {
        println!("{explanation}");
    }
    println!("{} laws hold for {}", laws::all(), BestFit::new().name());
}
