//! Scores of what is taken and left as a vector: a share of each resource that a node has.

use super::packing::Largest;
use crate::scheduler::{NodeView, Scale, Score, Shape};

/// What a share of all is counted in, so that scores are whole numbers.
const MILLIONTHS: f64 = 1e6;

/// Of cpu, memory and devices, as far as the node has any: the share of it that is free, and the share that the pod takes.
fn shares(pod: &Shape, node: &NodeView) -> impl Iterator<Item = (f64, f64)> {
    let (all, taken, wanted) = (&node.allocatable, &node.requested, &pod.requests);
    let devices_left: i64 = node.devices_left.iter().map(|left| i64::from(*left)).sum();
    let devices_wanted = i64::try_from(pod.devices.total_millis()).unwrap_or(i64::MAX);
    let resources = [
        (all.cpu, all.cpu.saturating_sub(taken.cpu), wanted.cpu),
        (all.memory, all.memory.saturating_sub(taken.memory), wanted.memory),
        (i64::from(node.devices) * 1_000, devices_left, devices_wanted),
    ];
    let share = |(all, free, wanted): (i64, i64, i64)| (free as f64 / all as f64, wanted as f64 / all as f64);
    resources.into_iter().filter(|(all, ..)| *all > 0).map(share)
}

/// Prefers nodes whose cost rises least: for each resource, n to the power of the share that is taken, of n nodes (E-PVM: Amir,
/// Awerbuch, Barak, Borgstrom, Keren: "An Opportunity Cost Approach for Job Assignment in a Scalable Computing Cluster", IEEE TPDS 11,
/// 2000).
///
/// What is scarce becomes dear, so that pods are spread and mixed. Borg began with it (Verma et al., EuroSys 2015, section 3.2).
#[derive(Clone, Copy, Debug)]
pub struct OpportunityCost {
    /// The base n, 2 or more: the number of nodes in the paper.
    pub nodes: u32,
}

impl Score for OpportunityCost {
    fn name(&self) -> &str {
        "opportunity-cost"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        let base = f64::from(self.nodes.max(2));
        let rise = |(free, wanted): (f64, f64)| base.powf((1.0 - free + wanted).min(1.0)) - base.powf(1.0 - free);
        (-shares(pod, node).map(rise).sum::<f64>() * MILLIONTHS) as i64
    }

    fn scale(&self) -> Scale {
        Scale::Span
    }
}

/// Prefers nodes of which the pod leaves the most, cpu and devices weighing alike: the reverse of
/// [`BestFit`](crate::scheduler::BestFit).
#[derive(Clone, Copy, Debug, Default)]
pub struct WorstFit(pub Largest);

impl Score for WorstFit {
    fn name(&self) -> &str {
        "worst-fit"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        let [cpu, devices] = self.0.shares(pod, node).map(|(left, wanted)| (left - wanted) * 0.5);
        ((cpu + devices) * 100.0) as i64
    }

    fn scale(&self) -> Scale {
        Scale::Span
    }
}

/// Prefers nodes whose free vector is most like the pod's: the dot product of both, each resource as a share of the node's (Tetris:
/// Grandl, Ananthanarayanan, Kandula, Rao, Akella: "Multi-Resource Packing for Cluster Schedulers", SIGCOMM 2014, section 3.2).
///
/// Of two nodes it takes the emptier, which leaves large pods a place as long as there are small ones, too. The one that packs is
/// [`DotProduct`](crate::scheduler::DotProduct).
#[derive(Clone, Copy, Debug)]
pub struct Alignment;

impl Score for Alignment {
    fn name(&self) -> &str {
        "alignment"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        (shares(pod, node).map(|(free, wanted)| free * wanted).sum::<f64>() * MILLIONTHS) as i64
    }

    fn scale(&self) -> Scale {
        Scale::Highest
    }
}

/// Prefers nodes on which the pod strands least, or takes the most off what is stranded: free, but of no use since another resource is
/// used up.
///
/// Stranded is, in the mean over the node's resources, the share that is free beyond that of the scarcest: a pod that takes all
/// resources alike can't have it. Points are 100 for a pod that brings a wholly stranded node into use, 50 for one that changes
/// nothing. Borg's score is a hybrid of this kind beside best fit, "3-5 % better" than that alone (Verma et al., EuroSys 2015, section
/// 3.2); its formula was not published: this one is ours.
#[derive(Clone, Copy, Debug)]
pub struct Stranding;

impl Score for Stranding {
    fn name(&self) -> &str {
        "stranding"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        let before = stranded(shares(pod, node).map(|(free, _)| free));
        let after = stranded(shares(pod, node).map(|(free, wanted)| (free - wanted).max(0.0)));
        ((1.0 - (after - before)) * 50.0) as i64
    }

    fn scale(&self) -> Scale {
        Scale::Points
    }
}

/// The mean of what is free of each resource, less the least of them; 0 of none.
fn stranded(free: impl Iterator<Item = f64>) -> f64 {
    let (mut count, mut sum, mut least) = (0.0_f64, 0.0, f64::INFINITY);
    for free in free {
        (count, sum, least) = (count + 1.0, sum + free, free.min(least));
    }
    if count > 0.0 { sum / count - least } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Alignment, OpportunityCost, Score, Shape, Stranding, WorstFit};
    use crate::scheduler::{BestFit, DeviceRequest, Largest, NodeInfo, NodeView, Resources};

    fn amounts(cpu: i64, memory: i64) -> Resources {
        Resources { cpu, memory, ..Resources::default() }
    }

    fn node(all: (i64, i64), taken: (i64, i64)) -> NodeView {
        let info = NodeInfo { allocatable: amounts(all.0, all.1), ..NodeInfo::default() };
        NodeView { requested: amounts(taken.0, taken.1), ..NodeView::from(info) }
    }

    fn pod(cpu: i64, memory: i64) -> Shape {
        Shape { requests: amounts(cpu, memory), ..Shape::default() }
    }

    /// By hand: a base of 16, a node of 100 and 100.
    #[test]
    fn the_cost_is_the_rise_of_n_to_the_power_of_what_is_taken() {
        let cost = OpportunityCost { nodes: 16 };
        // From nothing to a quarter: 2 - 1; from a half to three quarters: 8 - 4.
        assert_eq!(cost.score(&pod(25, 0), &node((100, 100), (0, 0))), -1_000_000);
        assert_eq!(cost.score(&pod(25, 0), &node((100, 100), (50, 0))), -4_000_000);
        assert_eq!(cost.score(&pod(25, 25), &node((100, 100), (50, 0))), -5_000_000);
        assert_eq!(cost.score(&pod(25, 0), &node((0, 100), (0, 0))), 0, "what a node has not costs nothing");
    }

    #[test]
    fn alignment_is_the_dot_product_of_what_is_free_and_what_is_wanted() {
        assert_eq!(Alignment.score(&pod(50, 10), &node((100, 100), (20, 60))), 440_000, "0.8 x 0.5 + 0.4 x 0.1");
        // A pod of much cpu is drawn to where cpu is, one of memory to where that is.
        let nodes = [node((100, 100), (0, 60)), node((100, 100), (60, 0))];
        let [of_cpu, of_memory] =
            [pod(40, 10), pod(10, 40)].map(|pod| nodes.each_ref().map(|node| Alignment.score(&pod, node)));
        assert!(of_cpu[0] > of_cpu[1] && of_memory[0] < of_memory[1], "{of_cpu:?} {of_memory:?}");
    }

    #[test]
    fn stranding_is_what_is_free_beyond_the_scarcest() {
        let free = node((100, 100), (0, 0));
        assert_eq!(Stranding.score(&pod(50, 50), &free), 50, "nothing is stranded, before or after");
        assert_eq!(Stranding.score(&pod(100, 0), &free), 25, "half of the node's resources, all of memory");
        // 60 cpu and 20 memory are free; once 40 cpu are taken, both are 20: (0.6 + 0.2) / 2 - 0.2 less.
        assert_eq!(Stranding.score(&pod(40, 0), &node((100, 100), (40, 80))), 60);
    }

    #[test]
    fn devices_are_a_resource_as_any() {
        let info = NodeInfo { allocatable: amounts(100, 0), devices: 4, ..NodeInfo::default() };
        let devices = DeviceRequest { count: 2, millis: 1_000, ..DeviceRequest::default() };
        let pod = Shape { devices, ..pod(50, 0) };
        assert_eq!(Alignment.score(&pod, &NodeView::from(info.clone())), 1_000_000, "a half of each");
        assert_eq!(Stranding.score(&pod, &NodeView::from(info)), 50);
    }

    proptest! {
        #[test]
        fn scores_like_what_they_say_they_like(
            taken in (0..50_i64, 0..50_i64), more in (0..25_i64, 0..25_i64), wanted in (0..25_i64, 0..25_i64), nodes in 0..5_000_u32,
        ) {
            let (pod, all) = (pod(wanted.0, wanted.1), (100, 100));
            let (emptier, fuller) = (node(all, taken), node(all, (taken.0 + more.0, taken.1 + more.1)));
            let cost = OpportunityCost { nodes };
            prop_assert!(cost.score(&pod, &emptier) >= cost.score(&pod, &fuller));
            prop_assert!(Alignment.score(&pod, &emptier) >= Alignment.score(&pod, &fuller));
            let largest = Largest { cpu_millis: 100, device_millis: 1_000 };
            prop_assert!(WorstFit(largest).score(&pod, &emptier) >= WorstFit(largest).score(&pod, &fuller));
            prop_assert!(BestFit(largest).score(&pod, &emptier) <= BestFit(largest).score(&pod, &fuller));
            prop_assert!((0..=100).contains(&Stranding.score(&pod, &fuller)));
        }
    }
}
