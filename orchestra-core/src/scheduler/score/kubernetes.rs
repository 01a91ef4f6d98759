//! The scores that look at a node alone, with Kubernetes' formulas.

use crate::scheduler::{
    Block, Demand, ImageView, LANES, Lanes, NodeView, POINT_BITS, Reads, Scale, Score, Shape,
    filter::{term_matches, tolerates},
};

/// The least and most bytes of images that count (`ImageLocality`).
const IMAGE_BYTES: (i64, i64) = (23 << 20, 1_000 << 20);

/// Prefers nodes with much left: the mean share of cpu and memory that stays free (`LeastAllocated`).
///
/// Containers that request nothing count as if they did (Kubernetes' `NonZeroRequested`), or all of them would go to one
/// node.
#[derive(Clone, Copy, Debug)]
pub struct LeastAllocated;

impl Score for LeastAllocated {
    fn name(&self) -> &str {
        "least-allocated"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        let (all, taken, wanted) = (&node.allocatable, &node.weighed_requests, &pod.weighed_requests);
        let free = |all: i64, taken: i64, wanted: i64| {
            let free = all.saturating_sub(taken.saturating_add(wanted)).max(0);
            (all > 0).then(|| percent(free, all))
        };
        let scores = [free(all.cpu, taken.cpu, wanted.cpu), free(all.memory, taken.memory, wanted.memory)];
        match scores {
            [Some(cpu), Some(memory)] => i64::midpoint(cpu, memory),
            [one, other] => one.or(other).unwrap_or(0),
        }
    }

    fn scale(&self) -> Scale {
        Scale::Points
    }

    fn bounds(&self, _: &Shape, demand: &Demand, block: &Block) -> Option<Lanes> {
        let points = |free: i16, wanted: i16| free.saturating_sub(wanted).max(0) >> POINT_BITS;
        let mut most = [0; LANES];
        match demand.weighed {
            [Some(cpu), Some(memory)] => {
                for (at, most) in most.iter_mut().enumerate() {
                    *most = (points(block.free_cpu[at], cpu) + points(block.free_memory[at], memory)) >> 1;
                }
            }
            [Some(cpu), None] => most = block.free_cpu.map(|free| points(free, cpu)),
            [None, Some(memory)] => most = block.free_memory.map(|free| points(free, memory)),
            [None, None] => {}
        }
        Some(most)
    }
}

/// How many hundredths of `all` a part is, rounded down.
pub(super) fn percent(part: i64, all: i64) -> i64 {
    // In 64 bits wherever it fits: a division of 128 bits costs more than all else here.
    part.checked_mul(100)
        .map_or_else(|| i64::try_from(i128::from(part) * 100 / i128::from(all)).unwrap_or(0), |part| part / all)
}

/// Prefers nodes whose cpu and memory would be taken alike (`NodeResourcesBalancedAllocation`): 1 less the standard
/// deviation of the shares. It has no say about pods that request neither.
#[derive(Clone, Copy, Debug)]
pub struct BalancedAllocation;

impl Score for BalancedAllocation {
    fn name(&self) -> &str {
        "balanced-allocation"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        if pod.requests.cpu == 0 && pod.requests.memory == 0 {
            return 0;
        }
        let share = |all: i64, taken: i64, wanted: i64| {
            (all > 0).then(|| (taken.saturating_add(wanted) as f64 / all as f64).min(1.0))
        };
        let (all, taken, wanted) = (&node.allocatable, &node.requested, &pod.requests);
        let shares = [share(all.cpu, taken.cpu, wanted.cpu), share(all.memory, taken.memory, wanted.memory)];
        let deviation = match shares {
            // Of two values, the deviation is half their distance.
            [Some(cpu), Some(memory)] => (cpu - memory).abs() / 2.0,
            _ => 0.0,
        };
        ((1.0 - deviation) * 100.0) as i64
    }

    fn scale(&self) -> Scale {
        Scale::Points
    }

    fn bounds(&self, pod: &Shape, demand: &Demand, block: &Block) -> Option<Lanes> {
        if pod.requests.cpu == 0 && pod.requests.memory == 0 {
            return Some([0; LANES]);
        }
        if demand.weighed.contains(&None) {
            return Some([100; LANES]);
        }
        let [towards_memory, towards_cpu] = demand.tilt;
        let mut most = [0; LANES];
        for (at, most) in most.iter_mut().enumerate() {
            // How far a node is out of balance at least; nothing, if some of its lane lean to one side and some to the other.
            let least = block.tilt_min[at].saturating_add(towards_memory);
            let other = 0_i16.saturating_sub(block.tilt_max[at].saturating_add(towards_cpu));
            *most = ((100 << POINT_BITS) - least.max(other).max(0)) >> POINT_BITS;
        }
        Some(most)
    }
}

/// Prefers nodes with few taints that the pod doesn't like, but could live with (`TaintToleration`).
#[derive(Clone, Copy, Debug)]
pub struct PreferredTaints;

impl Score for PreferredTaints {
    fn name(&self) -> &str {
        "taints"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        let disliked = soft.filter(|taint| !pod.tolerations.iter().any(|toleration| tolerates(toleration, taint)));
        i64::try_from(disliked.count()).unwrap_or(i64::MAX)
    }

    fn scale(&self) -> Scale {
        Scale::HighestReversed
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }
}

/// Prefers nodes that the pod says it likes: the sum of the weights of the terms that match (`NodeAffinity`).
#[derive(Clone, Copy, Debug)]
pub struct PreferredNodeAffinity;

impl Score for PreferredNodeAffinity {
    fn name(&self) -> &str {
        "node-affinity"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let terms =
            affinity.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
        let liked = terms.into_iter().flatten().filter(|term| term_matches(&term.preference, node));
        liked.map(|term| i64::from(term.weight)).sum()
    }

    fn scale(&self) -> Scale {
        Scale::Highest
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }
}

/// Prefers nodes that have the pod's images, by their size, and by the share of nodes that have each (`ImageLocality`):
/// what only one node has would else draw every pod there.
#[derive(Clone, Copy, Debug)]
pub struct ImageLocality;

impl Score for ImageLocality {
    fn name(&self) -> &str {
        "image-locality"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        let scaled = |image: &ImageView| (image.bytes as f64 * image.share_of_nodes) as i64;
        let bytes: i64 = pod.images.iter().filter_map(|image| node.images.get(image)).map(scaled).sum();
        let (least, most) = (IMAGE_BYTES.0, IMAGE_BYTES.1.saturating_mul(pod.images.len().max(1) as i64));
        100 * (bytes.clamp(least, most) - least) / (most - least)
    }

    fn scale(&self) -> Scale {
        Scale::Points
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{BalancedAllocation, ImageLocality, ImageView, LeastAllocated, NodeView, Score, Shape};
    use crate::scheduler::{NodeInfo, Resources};

    fn amounts(cpu: i64, memory: i64) -> Resources {
        Resources { cpu, memory, ..Resources::default() }
    }

    fn node(allocatable: (i64, i64), taken: (i64, i64)) -> NodeView {
        let taken = amounts(taken.0, taken.1);
        let info = NodeInfo { allocatable: amounts(allocatable.0, allocatable.1), ..NodeInfo::default() };
        NodeView { requested: taken.clone(), weighed_requests: taken, ..NodeView::from(info) }
    }

    fn pod(cpu: i64, memory: i64) -> Shape {
        Shape { requests: amounts(cpu, memory), weighed_requests: amounts(cpu, memory), ..Shape::default() }
    }

    /// The cases of upstream's `least_allocated_test.go` and `balanced_allocation_test.go`.
    #[test]
    fn formulas_give_what_kubernetes_gives() {
        assert_eq!(LeastAllocated.score(&pod(3_000, 5_000), &node((4_000, 10_000), (0, 0))), 37);
        assert_eq!(LeastAllocated.score(&pod(3_000, 5_000), &node((6_000, 10_000), (0, 0))), 50);
        assert_eq!(LeastAllocated.score(&pod(5_000, 5_000), &node((4_000, 10_000), (0, 0))), 25);
        assert_eq!(BalancedAllocation.score(&pod(3_000, 5_000), &node((4_000, 10_000), (0, 0))), 87);
        assert_eq!(BalancedAllocation.score(&pod(3_000, 5_000), &node((6_000, 10_000), (0, 0))), 100);
    }

    #[test]
    fn an_image_that_few_nodes_have_counts_less() {
        let mut pod = pod(0, 0);
        pod.images = vec!["a".into()];
        let with = |share_of_nodes| {
            let images = [("a".into(), ImageView { bytes: 500 << 20, share_of_nodes })].into();
            ImageLocality.score(&pod, &NodeInfo { images, ..NodeInfo::default() }.into())
        };
        assert_eq!([with(1.0), with(0.5), with(0.01)], [48, 23, 0]);
    }

    proptest! {
        #[test]
        fn every_score_is_within_its_bounds(
            size in (0..9_000_i64, 0..9_000_i64), taken in (0..9_000_i64, 0..9_000_i64), wanted in (0..9_000_i64, 0..9_000_i64),
        ) {
            let (pod, node) = (pod(wanted.0, wanted.1), node(size, taken));
            for score in [&LeastAllocated as &dyn Score, &BalancedAllocation, &ImageLocality] {
                let points = score.scale().points(score.score(&pod, &node), (0, 100));
                prop_assert!((0..=100).contains(&points), "{} gives {points}", score.name());
            }
        }
    }
}
