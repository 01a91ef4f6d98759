//! A scheduler of your own, under the suite: first fit over nodes in the order of what is left, least first.
//!
//!     cargo run --example own_scheduler
//!
//! prints `8 laws hold for best-fit`.

use orchestra_core::scheduler::{Ask, NodeView, Pipeline, Plan, PodView, Scheduler, Score};

/// Prefers the node that the pod leaves the least of (best fit).
#[derive(Debug)]
struct LeastLeft;

impl Score for LeastLeft {
    fn name(&self) -> &str {
        "least-left"
    }

    fn score(&self, pod: &PodView, node: &NodeView) -> i64 {
        let left = |resource| {
            let taken = node.requested.amount(resource) + pod.requests.amount(resource);
            1_000 - 1_000 * taken / node.allocatable.amount(resource).max(1)
        };
        2_000 - left("cpu") - left("memory")
    }

    fn normalize(&self, score: i64, highest: i64) -> i64 {
        if highest > 0 { 100 * score / highest } else { 0 }
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

fn main() {
    println!("{} laws hold for {}", laws::all(), BestFit::new().name());
}
