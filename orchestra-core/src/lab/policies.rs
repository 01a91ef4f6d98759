//! Scheduling policies by name, each alone with a workload in a simulated cluster.

use std::{num::NonZeroU32, sync::Arc};

use super::{
    comparison::{self, Row},
    simulation::{Agent, Arrival, Outcome, Simulation},
};
use crate::{
    rng::Entropy,
    scheduler::{
        Alignment, Backfill, BestFit, DotProduct, FairShare, Fragmentation, LeastAllocated, Look, MinCostFlow,
        MostAllocated, NodeInfo, OpportunityCost, Pipeline, Stranding, TypicalPods, WorstFit,
    },
};

/// The policies that choose a node for each pod, and that are compared unless others are named.
pub const POLICIES: [&str; 6] =
    ["first-fit", "least-allocated", "kubernetes-default", "dot-product", "best-fit", "fragmentation-gradient"];

/// More of these, from the literature: to be compared by name.
pub const MORE_POLICIES: [&str; 6] =
    ["most-allocated", "worst-fit", "opportunity-cost", "alignment", "best-fit-stranding", "power-of-two"];

/// The policies that decide on all that wait at once, over first fit, or best fit if they weigh places: each time anything
/// changes, which takes its time if much waits.
pub const QUEUE_POLICIES: [&str; 5] = ["fcfs", "easy", "conservative", "min-cost-flow", "drf"];

/// The share of a workload's pods that its typical pods stand for, as FGD's authors have it.
const TYPICAL_COVERAGE: f64 = 0.95;

/// The base of the cost of what is taken: about the number of nodes in what is compared here.
const COST_BASE: u32 = 64;

const TWO: NonZeroU32 = NonZeroU32::MIN.saturating_add(1);

/// A policy of [`POLICIES`] or [`MORE_POLICIES`] by its name; `None` if there is none of this name. `typical` is what fragmentation is
/// measured by.
#[must_use]
pub fn policy(name: &str, typical: &Arc<TypicalPods>) -> Option<Pipeline> {
    let pipeline = Pipeline::new(name).required();
    Some(match name {
        "first-fit" => pipeline,
        "least-allocated" => pipeline.score(1, LeastAllocated),
        "kubernetes-default" => Pipeline::kubernetes_default(),
        "dot-product" => pipeline.score(1, DotProduct::default()),
        "best-fit" => pipeline.score(1, BestFit::default()),
        "fragmentation-gradient" => {
            let fragmentation = Fragmentation(Arc::clone(typical));
            pipeline.score(1, fragmentation.clone()).devices(fragmentation)
        }
        "most-allocated" => pipeline.score(1, MostAllocated),
        "worst-fit" => pipeline.score(1, WorstFit::default()),
        "opportunity-cost" => pipeline.score(1, OpportunityCost { nodes: COST_BASE }),
        "alignment" => pipeline.score(1, Alignment),
        "best-fit-stranding" => pipeline.score(1, BestFit::default()).score(1, Stranding),
        "power-of-two" => pipeline.score(1, LeastAllocated).look(Look::PowerOf(TWO)),
        _ => return None,
    })
}

/// Any policy by its name, at work: it takes no time to think.
#[must_use]
pub fn agent(name: &str, typical: &Arc<TypicalPods>) -> Option<Agent> {
    let first_fit = || policy("first-fit", typical);
    Some(match name {
        "fcfs" => Agent::new(Backfill::fcfs(first_fit()?)).whole_queue(),
        "easy" => Agent::new(Backfill::easy(first_fit()?)).whole_queue(),
        "conservative" => Agent::new(Backfill::conservative(first_fit()?)).whole_queue(),
        "min-cost-flow" => Agent::new(MinCostFlow::by(policy("best-fit", typical)?)).whole_queue(),
        "drf" => Agent::new(FairShare::dominant(first_fit()?, [])).whole_queue(),
        name => Agent::new(policy(name, typical)?),
    })
}

/// Runs one policy, which takes no time to think, with a workload; the seed draws the order of the nodes, too, by which ties are
/// broken. `None` if there is no such policy.
#[must_use]
pub fn run(nodes: &[NodeInfo], arrivals: &[Arrival], name: &str, seed: u64) -> Option<Outcome> {
    let entropy = Entropy::seeded(seed);
    let shapes = arrivals.iter().flat_map(|arrival| &arrival.pods).map(|work| &*work.shape);
    let agent = agent(name, &TypicalPods::of(shapes, TYPICAL_COVERAGE).into())?;
    let nodes = shuffled(nodes, &entropy);
    Some(Simulation::of(&nodes).run(arrivals.iter().cloned(), vec![agent], |_| 0, &entropy))
}

/// Runs policies by their names with the workload of each seed; `done` is called after each run. Of one that is not there all
/// numbers are those of an empty run.
pub fn compare<'a>(
    names: impl IntoIterator<Item = &'a str>,
    nodes: &[NodeInfo],
    workload: impl Fn(u64) -> Vec<Arrival> + Sync,
    seeds: &[u64],
    done: impl Fn() + Sync,
) -> Vec<Row> {
    let candidates: Vec<(Box<str>, &str)> = names.into_iter().map(|name| (name.into(), name)).collect();
    comparison::compare(
        &candidates,
        seeds,
        |name, seed| run(nodes, &workload(seed), name, seed).unwrap_or_default(),
        done,
    )
}

/// Says for people where two policies part, on one workload with one seed.
#[must_use]
pub fn parting(nodes: &[NodeInfo], arrivals: &[Arrival], names: [&str; 2], seed: u64) -> String {
    let [Some(ours), Some(theirs)] = names.map(|name| run(nodes, arrivals, name, seed)) else {
        return format!("there is no {} or no {}", names[0], names[1]);
    };
    let parting = comparison::parting(&ours, &theirs).unwrap_or_else(|| "the same decisions".into());
    format!("{} and {}, with seed {seed}: {parting}", names[0], names[1])
}

/// The nodes in an order that is drawn, which their names then tell: schedulers see nodes in the order of names.
#[must_use]
pub fn shuffled(nodes: &[NodeInfo], entropy: &Entropy) -> Vec<NodeInfo> {
    let mut order: Vec<&NodeInfo> = nodes.iter().collect();
    fastrand::Rng::with_seed(entropy.next_u64()).shuffle(&mut order);
    let named = |(rank, node): (usize, &NodeInfo)| {
        let name = format!("{rank:06}-{}", node.name).into();
        NodeInfo { name, ..node.clone() }
    };
    order.into_iter().enumerate().map(named).collect()
}

#[cfg(test)]
mod tests {
    use super::{MORE_POLICIES, POLICIES, QUEUE_POLICIES, compare, parting, policy, run};
    use crate::lab::workload::{Generator, gpu_nodes};

    #[test]
    fn every_policy_is_run_on_the_same_workloads() {
        let nodes = gpu_nodes(6);
        let workload = |seed| Generator::gpu_sharing().at_load(1.2, &nodes).days(0.1, seed);
        let names = || POLICIES.into_iter().chain(MORE_POLICIES).chain(QUEUE_POLICIES);
        let rows = compare(names(), &nodes, workload, &[1, 2], || ());
        assert!(rows.iter().map(|row| &*row.name).eq(names()));
        assert!(
            rows.iter().all(|row| row.summary("devices").mean > 0.1 && row.summary("conflict_fraction").mean == 0.0)
        );
        let said = |names| parting(&nodes, &workload(1), names, 1);
        let [differ, same, unknown] = [["first-fit", "best-fit"], ["best-fit"; 2], ["luck", "best-fit"]].map(said);
        assert!(differ.contains(" decisions in common; then "), "{differ}");
        assert!(same.ends_with("the same decisions"), "{same}");
        assert_eq!(unknown, "there is no luck or no best-fit");
        assert!(policy("luck", &Default::default()).is_none() && run(&nodes, &[], "luck", 1).is_none());
    }
}
