//! Scores of how full a node gets, with Kubernetes' formulas (`noderesources/most_allocated.go` and
//! `requested_to_capacity_ratio.go`).

use super::kubernetes::percent;
use crate::scheduler::{NodeView, Scale, Score, Shape};

/// A utilisation that is all of it, and the most points of a line.
const UTILISATION_MAX: i64 = 100;
const LINE_POINTS_MAX: i64 = 10;

/// Prefers nodes with little left: the mean share of cpu and memory that would be taken (`MostAllocated`).
///
/// Containers that request nothing count as if they did, as for [`LeastAllocated`](crate::scheduler::LeastAllocated).
#[derive(Clone, Copy, Debug)]
pub struct MostAllocated;

impl Score for MostAllocated {
    fn name(&self) -> &str {
        "most-allocated"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        let taken = |resource: &str| {
            let all = node.allocatable.amount(resource);
            (all > 0).then(|| percent(requested(pod, node, resource).min(all), all))
        };
        match [taken("cpu"), taken("memory")] {
            [Some(cpu), Some(memory)] => i64::midpoint(cpu, memory),
            [one, other] => one.or(other).unwrap_or(0),
        }
    }

    fn scale(&self) -> Scale {
        Scale::Points
    }
}

/// Prefers nodes by a line over how full they would be (`RequestedToCapacityRatio`): whatever one likes between spreading and packing,
/// for each resource with a weight.
#[derive(Clone, Debug)]
pub struct RequestedToCapacityRatio {
    /// Invariant: ascending by utilisation, no two alike; utilisation 0 to 100, points 0 to 100.
    line: Vec<(i64, i64)>,
    resources: Vec<(Box<str>, i64)>,
}

impl RequestedToCapacityRatio {
    /// For cpu and memory alike, by a line through these points: utilisation in hundredths, from 0 to 100, and how much a node is
    /// liked then, from 0 to 10. Before the first and after the last point it is level. What is out of range is cut; of two points at
    /// one utilisation the first counts.
    pub fn new(line: impl IntoIterator<Item = (i64, i64)>) -> Self {
        let scaled = |(utilisation, points): (i64, i64)| {
            let points = points.clamp(0, LINE_POINTS_MAX) * 100 / LINE_POINTS_MAX;
            (utilisation.clamp(0, UTILISATION_MAX), points)
        };
        let mut line: Vec<_> = line.into_iter().map(scaled).collect();
        line.sort_by_key(|(utilisation, _)| *utilisation);
        line.dedup_by_key(|(utilisation, _)| *utilisation);
        Self { line, resources: vec![("cpu".into(), 1), ("memory".into(), 1)] }
    }

    /// For these resources instead, each with its weight of 1 or more, such as `nvidia.com/gpu`.
    #[must_use]
    pub fn resources<'a>(mut self, resources: impl IntoIterator<Item = (&'a str, i64)>) -> Self {
        self.resources = resources.into_iter().map(|(name, weight)| (name.into(), weight.max(1))).collect();
        self
    }

    /// The points at a utilisation.
    fn points(&self, utilisation: i64) -> i64 {
        let after = self.line.partition_point(|(at, _)| *at < utilisation);
        match (after.checked_sub(1).and_then(|before| self.line.get(before)), self.line.get(after)) {
            (Some((from, low)), Some((to, high))) => low + (high - low) * (utilisation - from) / (to - from),
            (None, Some((_, points))) | (Some((_, points)), None) => *points,
            (None, None) => 0,
        }
    }
}

impl Score for RequestedToCapacityRatio {
    fn name(&self) -> &str {
        "requested-to-capacity-ratio"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        let (mut sum, mut weights) = (0, 0);
        for (resource, weight) in &self.resources {
            let all = node.allocatable.amount(resource);
            if all <= 0 {
                continue;
            }
            let points = self.points(percent(requested(pod, node, resource).min(all), all));
            // As upstream has it, a resource that gives no points doesn't count at all.
            if points > 0 {
                (sum, weights) = (sum + points * weight, weights + weight);
            }
        }
        // Rounded to the nearest, halves up.
        if weights > 0 { (2 * sum + weights) / (2 * weights) } else { 0 }
    }

    fn scale(&self) -> Scale {
        Scale::Points
    }
}

/// What would be requested of a resource, with what Kubernetes takes for containers that don't say.
fn requested(pod: &Shape, node: &NodeView, resource: &str) -> i64 {
    node.weighed_requests.amount(resource).saturating_add(pod.weighed_requests.amount(resource))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{MostAllocated, RequestedToCapacityRatio, Score, Shape};
    use crate::scheduler::{LeastAllocated, NodeInfo, NodeView, Resources};

    fn amounts(cpu: i64, memory: i64) -> Resources {
        Resources { cpu, memory, ..Resources::default() }
    }

    fn node(all: (i64, i64), taken: (i64, i64)) -> NodeView {
        let info = NodeInfo { allocatable: amounts(all.0, all.1), ..NodeInfo::default() };
        NodeView { weighed_requests: amounts(taken.0, taken.1), ..NodeView::from(info) }
    }

    fn pod(cpu: i64, memory: i64) -> Shape {
        Shape { weighed_requests: amounts(cpu, memory), ..Shape::default() }
    }

    /// The cases of upstream's `most_allocated_test.go`.
    #[test]
    fn most_allocated_gives_what_kubernetes_gives() {
        assert_eq!(MostAllocated.score(&pod(0, 0), &node((4_000, 10_000), (0, 0))), 0);
        assert_eq!(MostAllocated.score(&pod(3_000, 5_000), &node((4_000, 10_000), (0, 0))), 62);
        assert_eq!(MostAllocated.score(&pod(3_000, 5_000), &node((6_000, 10_000), (0, 0))), 50);
        assert_eq!(MostAllocated.score(&pod(3_000, 0), &node((2_000, 0), (0, 0))), 100, "no more than all");
    }

    /// The cases of upstream's `requested_to_capacity_ratio_test.go`.
    #[test]
    fn the_ratio_gives_what_kubernetes_gives() {
        let spread = RequestedToCapacityRatio::new([(0, 10), (100, 0)]);
        assert_eq!(spread.score(&pod(0, 0), &node((4_000, 10_000), (0, 0))), 100);
        assert_eq!(spread.score(&pod(3_000, 5_000), &node((4_000, 10_000), (0, 0))), 38);
        assert_eq!(spread.score(&pod(3_000, 5_000), &node((6_000, 10_000), (0, 0))), 50);
        assert_eq!(spread.score(&pod(0, 0), &node((4_000, 10_000), (3_000, 5_000))), 38);
        let points = |line: &[(i64, i64)], at: &[i64]| {
            let ratio = RequestedToCapacityRatio::new(line.iter().copied());
            at.iter().map(|at| ratio.points(*at) / 10).collect::<Vec<_>>()
        };
        let at = [-10, 0, 9, 10, 15, 19, 20, 89, 90, 99, 100, 110];
        assert_eq!(points(&[(10, 1), (90, 9)], &at), [1, 1, 1, 1, 1, 1, 2, 8, 9, 9, 9, 9]);
        assert_eq!(
            points(&[(0, 2), (40, 10), (100, 0)], &[-10, 0, 20, 30, 40, 70, 100, 110]),
            [2, 2, 6, 8, 10, 5, 0, 0]
        );
        assert_eq!(points(&[], &[50]), [0]);
    }

    /// The example of Kubernetes' documentation ("Resource Bin Packing"), which rounds down to 5 and 7 of 10.
    #[test]
    fn resources_count_by_their_weight() {
        let pack = RequestedToCapacityRatio::new([(0, 0), (100, 10)]);
        let pack = pack.resources([("intel.com/foo", 5), ("memory", 1), ("cpu", 3)]);
        let with = |foo: i64, memory: i64, cpu: i64| {
            [("intel.com/foo", foo), ("memory", memory), ("cpu", cpu)].into_iter().collect::<Resources>()
        };
        let node = |all, taken| {
            let info = NodeInfo { allocatable: all, ..NodeInfo::default() };
            NodeView { weighed_requests: taken, ..NodeView::from(info) }
        };
        let pod = Shape { weighed_requests: with(2, 256, 2), ..Shape::default() };
        assert_eq!(pack.score(&pod, &node(with(4, 1_024, 8), with(1, 256, 1))), 60);
        assert_eq!(pack.score(&pod, &node(with(8, 1_024, 8), with(2, 512, 6))), 69);
    }

    proptest! {
        #[test]
        fn points_are_within_bounds_and_the_fuller_the_node_the_more(
            all in (1..9_000_i64, 1..9_000_i64), taken in (0..9_000_i64, 0..9_000_i64), wanted in (0..9_000_i64, 0..9_000_i64),
            line in prop::collection::vec((-20..120_i64, -5..15_i64), 0..5),
        ) {
            let (pod, view) = (pod(wanted.0, wanted.1), node(all, taken));
            let any = RequestedToCapacityRatio::new(line);
            prop_assert!((0..=100).contains(&any.score(&pod, &view)));
            let fuller = node(all, (taken.0 + 100, taken.1 + 100));
            prop_assert!(MostAllocated.score(&pod, &view) <= MostAllocated.score(&pod, &fuller));
            // What one likes, the other doesn't, but for what is rounded off.
            let sum = MostAllocated.score(&pod, &view) + LeastAllocated.score(&pod, &view);
            prop_assert!((97..=100).contains(&sum), "{sum}");
        }
    }
}
