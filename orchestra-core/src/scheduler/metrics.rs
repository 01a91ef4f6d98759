//! What a scheduler is doing, in numbers, by kube-scheduler's own names.

use std::time::Duration;

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Attempt {
    profile: String,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Waiting {
    queue: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Bound {
    request: &'static str,
    result: &'static str,
}

/// The metrics of the schedulers of a process; clones share them.
///
/// Made by `default`, they count and nobody sees it.
#[derive(Clone, Debug)]
pub struct Metrics {
    attempts: Family<Attempt, Counter>,
    took: Family<Attempt, Histogram, fn() -> Histogram>,
    pending: Family<Waiting, Gauge>,
    victims: Histogram,
    bindings: Family<Bound, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        // From 1 ms to 16 s, as kube-scheduler has it.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 15));
        Self {
            attempts: Family::default(),
            took: Family::new_with_constructor(seconds),
            pending: Family::default(),
            // From 1 to 64, as kube-scheduler has it.
            victims: Histogram::new(exponential_buckets(1.0, 2.0, 7)),
            bindings: Family::default(),
        }
    }
}

/// How an attempt to place a pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Result {
    /// It was bound.
    Scheduled,
    /// No node takes it.
    Unschedulable,
    /// Its place was refused.
    Error,
}

impl Metrics {
    /// Makes metrics that `registry` shows.
    #[must_use]
    pub fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "Attempts to place a pod, by how they ended";
        registry.register("scheduler_schedule_attempts", help, metrics.attempts.clone());
        let help = "How long a plan took in which a pod was looked at";
        registry.register_with_unit("scheduler_scheduling_attempt_duration", help, Unit::Seconds, metrics.took.clone());
        registry.register("scheduler_pending_pods", "Pods that wait, by what for", metrics.pending.clone());
        let help = "How many pods one preemption evicted";
        registry.register("scheduler_preemption_victims", help, metrics.victims.clone());
        let help = "Pods sent to their nodes, by the kind of the request: a PlanStep is re-checked, a Binding is not";
        registry.register("scheduler_bindings", help, metrics.bindings.clone());
        metrics
    }

    pub(super) fn attempted(&self, profile: &str, result: Result, took: Duration) {
        let result = match result {
            Result::Scheduled => "scheduled",
            Result::Unschedulable => "unschedulable",
            Result::Error => "error",
        };
        let attempt = Attempt { profile: profile.into(), result };
        self.attempts.get_or_create(&attempt).inc();
        self.took.get_or_create(&attempt).observe(took.as_secs_f64());
    }

    pub(super) fn bound(&self, request: &'static str, is_bound: bool, pods: usize) {
        let result = if is_bound { "bound" } else { "refused" };
        self.bindings.get_or_create(&Bound { request, result }).inc_by(pods as u64);
    }

    pub(super) fn preempted(&self, victims: usize) {
        self.victims.observe(victims as f64);
    }

    /// How many pods wait for their backoff, for a change, and for their gates to be lifted.
    pub(super) fn pending(&self, backoff: usize, unschedulable: usize, gated: usize) {
        for (queue, count) in [("active", 0), ("backoff", backoff), ("unschedulable", unschedulable), ("gated", gated)]
        {
            self.pending.get_or_create(&Waiting { queue }).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }
}
