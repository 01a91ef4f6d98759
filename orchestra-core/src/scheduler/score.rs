//! The scores that look at a node alone, with Kubernetes' formulas.

use super::{
    NodeView, PodView, Score,
    filter::{term_matches, tolerates},
    framework::normalized,
};

/// The least and most bytes of images that count (`ImageLocality`).
const IMAGE_BYTES: (i64, i64) = (23 << 20, 1_000 << 20);

/// What Kubernetes takes for a pod's cpu and memory if it requests none, when it scores.
const CPU_MILLIS_DEFAULT: i64 = 100;
const MEMORY_BYTES_DEFAULT: i64 = 200 << 20;

/// The share of cpu and of memory that would be taken, with the pod: 0 to 1, more if it doesn't fit.
fn fractions(pod: &PodView, node: &NodeView) -> [f64; 2] {
    let fraction = |resource: &str, default: i64| {
        let wanted = match pod.requests.amount(resource) {
            0 => default,
            wanted => wanted,
        };
        let allocatable = node.allocatable.amount(resource);
        if allocatable <= 0 { 1.0 } else { (node.requested.amount(resource) + wanted) as f64 / allocatable as f64 }
    };
    [fraction("cpu", CPU_MILLIS_DEFAULT), fraction("memory", MEMORY_BYTES_DEFAULT)]
}

/// Prefers nodes with much left: the mean share of cpu and memory that stays free (`LeastAllocated`).
#[derive(Clone, Copy, Debug)]
pub struct LeastAllocated;

impl Score for LeastAllocated {
    fn name(&self) -> &str {
        "least-allocated"
    }

    fn score(&self, pod: &PodView, node: &NodeView) -> i64 {
        let free = fractions(pod, node).map(|taken| ((1.0 - taken) * 100.0).clamp(0.0, 100.0) as i64);
        free.iter().sum::<i64>() / 2
    }

    fn normalize(&self, score: i64, _: i64) -> i64 {
        score
    }
}

/// Prefers nodes whose cpu and memory would be taken alike (`NodeResourcesBalancedAllocation`): 1 less the standard
/// deviation of the shares.
#[derive(Clone, Copy, Debug)]
pub struct BalancedAllocation;

impl Score for BalancedAllocation {
    fn name(&self) -> &str {
        "balanced-allocation"
    }

    fn score(&self, pod: &PodView, node: &NodeView) -> i64 {
        let [cpu, memory] = fractions(pod, node).map(|taken| taken.min(1.0));
        // Of two values, the deviation is half their distance.
        ((1.0 - (cpu - memory).abs() / 2.0) * 100.0) as i64
    }

    fn normalize(&self, score: i64, _: i64) -> i64 {
        score
    }
}

/// Prefers nodes with few taints that the pod doesn't like, but could live with (`TaintToleration`).
#[derive(Clone, Copy, Debug)]
pub struct PreferredTaints;

impl Score for PreferredTaints {
    fn name(&self) -> &str {
        "taints"
    }

    fn score(&self, pod: &PodView, node: &NodeView) -> i64 {
        let soft = node.taints.iter().filter(|taint| taint.effect == "PreferNoSchedule");
        let disliked = soft.filter(|taint| !pod.tolerations.iter().any(|toleration| tolerates(toleration, taint)));
        i64::try_from(disliked.count()).unwrap_or(i64::MAX)
    }

    fn normalize(&self, score: i64, highest: i64) -> i64 {
        normalized(score, highest, true)
    }
}

/// Prefers nodes that the pod says it likes: the sum of the weights of the terms that match (`NodeAffinity`).
#[derive(Clone, Copy, Debug)]
pub struct PreferredNodeAffinity;

impl Score for PreferredNodeAffinity {
    fn name(&self) -> &str {
        "node-affinity"
    }

    fn score(&self, pod: &PodView, node: &NodeView) -> i64 {
        let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let terms =
            affinity.and_then(|affinity| affinity.preferred_during_scheduling_ignored_during_execution.as_ref());
        let liked = terms.into_iter().flatten().filter(|term| term_matches(&term.preference, node));
        liked.map(|term| i64::from(term.weight)).sum()
    }

    fn normalize(&self, score: i64, highest: i64) -> i64 {
        normalized(score, highest, false)
    }
}

/// Prefers nodes that have the pod's images, by their size (`ImageLocality`).
#[derive(Clone, Copy, Debug)]
pub struct ImageLocality;

impl Score for ImageLocality {
    fn name(&self) -> &str {
        "image-locality"
    }

    fn score(&self, pod: &PodView, node: &NodeView) -> i64 {
        let bytes: i64 = pod.images.iter().filter_map(|image| node.images.get(image)).sum();
        let (least, most) = (IMAGE_BYTES.0, IMAGE_BYTES.1.saturating_mul(pod.images.len().max(1) as i64));
        100 * (bytes.clamp(least, most) - least) / (most - least)
    }

    fn normalize(&self, score: i64, _: i64) -> i64 {
        score
    }
}
