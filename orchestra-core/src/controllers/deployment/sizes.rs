//! How large each replica set of a deployment should be, as `rolling.go` and `sync.go` of Kubernetes' controller have it.

use std::cmp::Reverse;

use k8s_openapi::{
    api::apps::v1::{DeploymentSpec, ReplicaSet},
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::ResourceExt as _;

use super::plan::created;
use crate::api::share::{Rounding, share};

/// The size of the deployment when a set was last resized: by it a change of size is told from a rollout.
pub(super) const DESIRED_ANNOTATION: &str = "deployment.kubernetes.io/desired-replicas";
/// The most pods the deployment might have had then: by it sets share a change of size in proportion.
pub(super) const MOST_ANNOTATION: &str = "deployment.kubernetes.io/max-replicas";

/// The size of the newest set, and of each old one.
///
/// `old_pods_run` tells whether any pod of an old set has not ended, those on their way out included.
pub(super) fn sizes(
    spec: &DeploymentSpec,
    newest: Option<&ReplicaSet>,
    old: &[&ReplicaSet],
    old_pods_run: bool,
) -> (i32, Vec<i32>) {
    let all: Vec<&ReplicaSet> = old.iter().copied().chain(newest).collect();
    let wanted = spec.replicas.unwrap_or(1);
    let resized =
        all.iter().any(|set| size(set) > 0 && annotated(set, DESIRED_ANNOTATION).is_some_and(|was| was != wanted));
    let next: Vec<i32> = if spec.paused.unwrap_or(false) || resized {
        scaled(spec, newest, &all)
    } else if is_recreate(spec) {
        let current = newest.map_or(0, size);
        let stopped = old.iter().all(|set| size(set) == 0 && running(set) == 0) && !old_pods_run;
        vec![0; old.len()].into_iter().chain([if stopped { wanted } else { current }]).collect()
    } else {
        rolled(spec, newest, old)
    };
    // A set that is still to be made gets no share of a change of size: it is rolled out next.
    let new_size = next.get(old.len()).copied().unwrap_or(0);
    (new_size, next.into_iter().take(old.len()).collect())
}

/// How many pods there may be beyond the wanted number, and how many of it may be missing: percentages of the first
/// round up, of the second down, and both are never zero (as `ResolveFenceposts` in Kubernetes).
pub(super) fn bounds(spec: &DeploymentSpec) -> (i32, i32) {
    let wanted = spec.replicas.unwrap_or(1);
    if is_recreate(spec) {
        return (0, 0);
    }
    let rolling = spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".into());
    let surge = share(rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter), wanted, Rounding::Up);
    let unavailable =
        share(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter), wanted, Rounding::Down);
    if surge == 0 && unavailable == 0 { (0, 1.min(wanted)) } else { (surge, unavailable.min(wanted)) }
}

pub(super) fn size(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn is_recreate(spec: &DeploymentSpec) -> bool {
    spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate")
}

fn annotated(set: &ReplicaSet, annotation: &str) -> Option<i32> {
    set.annotations().get(annotation)?.parse().ok()
}

fn running(set: &ReplicaSet) -> i32 {
    set.status.as_ref().map_or(0, |status| status.replicas)
}

fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0)
}

/// One step of a rolling update: the sizes of `old`, then of the newest.
fn rolled(spec: &DeploymentSpec, newest: Option<&ReplicaSet>, old: &[&ReplicaSet]) -> Vec<i32> {
    let wanted = spec.replicas.unwrap_or(1);
    let (surge, unavailable) = bounds(spec);
    let mut next: Vec<i32> = old.iter().map(|set| size(set)).collect();
    let (old_total, current) = (next.iter().sum::<i32>(), newest.map_or(0, size));
    let room = wanted.saturating_add(surge).saturating_sub(old_total + current).max(0);
    let new_size = if current > wanted { wanted } else { wanted.min(current.saturating_add(room)) };
    // What may go: all that is beyond the minimum that has to be available, once the newest set's own gaps are counted.
    let new_available = newest.map_or(0, available).min(current);
    let minimum = wanted - unavailable;
    let mut excess = (old_total + new_available - minimum).max(0);
    // First pods that are of no use to anyone, oldest set first.
    for (set, size) in old.iter().zip(&mut next) {
        let useless = (*size - available(set)).clamp(0, excess);
        *size -= useless;
        excess -= useless;
    }
    let old_available: i32 = old.iter().zip(&next).map(|(set, size)| available(set).min(*size)).sum();
    let mut excess = (old_available + new_available - minimum).max(0);
    for size in &mut next {
        let going = (*size).min(excess);
        *size -= going;
        excess -= going;
    }
    next.push(new_size);
    next
}

/// The sizes after the deployment's own has changed, or while it is paused, in the order of `all`: nothing is rolled.
fn scaled(spec: &DeploymentSpec, newest: Option<&ReplicaSet>, all: &[&ReplicaSet]) -> Vec<i32> {
    let wanted = spec.replicas.unwrap_or(1);
    let mut next: Vec<i32> = all.iter().map(|set| size(set)).collect();
    let active: Vec<usize> = (0..all.len()).filter(|&at| next[at] > 0).collect();
    let only = match active[..] {
        [] if newest.is_some() => all.len().checked_sub(1),
        [] => (0..all.len()).max_by_key(|&at| (created(all[at]), all[at].name_any())),
        [at] => Some(at),
        _ => None,
    };
    let is_saturated = |set: &ReplicaSet| {
        size(set) == wanted && annotated(set, DESIRED_ANNOTATION) == Some(wanted) && available(set) == wanted
    };
    if let Some(at) = only {
        next[at] = wanted;
    } else if newest.is_some_and(is_saturated) {
        next.iter_mut().take(all.len() - 1).for_each(|size| *size = 0);
    } else if !is_recreate(spec) {
        let most = if wanted > 0 { wanted.saturating_add(bounds(spec).0) } else { 0 };
        for (at, size) in proportional(most, all, &active) {
            next[at] = size;
        }
    }
    next
}

/// Shares out what is missing to `most` pods, or too many, among the active sets by their sizes; the largest, and of
/// equal ones the newer when growing, the older when shrinking, takes what is left over.
fn proportional(most: i32, all: &[&ReplicaSet], active: &[usize]) -> Vec<(usize, i32)> {
    let total: i32 = active.iter().map(|&at| size(all[at])).sum();
    let change = most - total;
    let mut order = active.to_vec();
    order.sort_by_key(|&at| (Reverse(size(all[at])), created(all[at])));
    if change > 0 {
        order.sort_by_key(|&at| (Reverse(size(all[at])), Reverse(created(all[at]))));
    }
    let mut shared = 0;
    let mut next: Vec<(usize, i32)> = Vec::new();
    for at in order {
        let current = size(all[at]);
        let before = annotated(all[at], MOST_ANNOTATION).filter(|before| *before > 0).unwrap_or(total);
        let ideal = (f64::from(current) * f64::from(most) / f64::from(before)).round() as i32 - current;
        let left = change - shared;
        let part = if change > 0 { ideal.min(left) } else { ideal.max(left) };
        shared += part;
        next.push((at, current + part));
    }
    if let Some((_, largest)) = next.first_mut() {
        *largest = (*largest + change - shared).max(0);
    }
    next
}
