//! What the work queues of a process are doing, in numbers, by Kubernetes' own names.

use std::{collections::BTreeMap, time::Duration};

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
use tokio::time::Instant;

use super::ObjectKey;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Queue {
    name: String,
}

/// The metrics of all work queues of a process; clones share them.
///
/// Made by `default`, they count and nobody sees it.
#[derive(Clone, Debug)]
pub struct Metrics {
    depth: Family<Queue, Gauge>,
    adds: Family<Queue, Counter>,
    retries: Family<Queue, Counter>,
    queued: Family<Queue, Histogram, fn() -> Histogram>,
    worked: Family<Queue, Histogram, fn() -> Histogram>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            depth: Family::default(),
            adds: Family::default(),
            retries: Family::default(),
            queued: Family::new_with_constructor(seconds),
            worked: Family::new_with_constructor(seconds),
        }
    }
}

/// From 10 ns to 10 s, as client-go has it.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(1e-8, 10.0, 10))
}

impl Metrics {
    /// Makes metrics that `registry` shows.
    #[must_use]
    pub fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("workqueue_depth", "Keys that wait to be worked on", metrics.depth.clone());
        registry.register("workqueue_adds", "Keys added", metrics.adds.clone());
        registry.register("workqueue_retries", "Keys added again since they failed", metrics.retries.clone());
        let unit = || Unit::Seconds;
        registry.register_with_unit("workqueue_queue_duration", "How long keys wait", unit(), metrics.queued.clone());
        registry.register_with_unit(
            "workqueue_work_duration",
            "How long keys are worked on",
            unit(),
            metrics.worked.clone(),
        );
        metrics
    }

    /// Those of the queue `name`.
    pub(super) fn of(&self, name: &str) -> Meter {
        let queue = Queue { name: name.into() };
        Meter {
            depth: self.depth.get_or_create_owned(&queue),
            adds: self.adds.get_or_create_owned(&queue),
            retries: self.retries.get_or_create_owned(&queue),
            queued: self.queued.get_or_create_owned(&queue),
            worked: self.worked.get_or_create_owned(&queue),
            since: BTreeMap::new(),
        }
    }
}

/// The metrics of one queue.
#[derive(Debug)]
pub(super) struct Meter {
    depth: Gauge,
    adds: Counter,
    retries: Counter,
    queued: Histogram,
    worked: Histogram,
    since: BTreeMap<ObjectKey, Instant>,
}

impl Meter {
    pub(super) fn added(&mut self, key: &ObjectKey, now: Instant) {
        self.since.entry(key.clone()).or_insert_with(|| {
            self.adds.inc();
            now
        });
    }

    /// One that nobody added now, but its time had come, has not waited.
    pub(super) fn taken(&mut self, key: &ObjectKey, depth: usize, now: Instant) {
        let waited = self.since.remove(key).map_or(Duration::ZERO, |since| now.duration_since(since));
        self.queued.observe(waited.as_secs_f64());
        self.deep(depth);
    }

    pub(super) fn deep(&self, depth: usize) {
        self.depth.set(i64::try_from(depth).unwrap_or(i64::MAX));
    }

    pub(super) fn worked(&self, took: Duration) {
        self.worked.observe(took.as_secs_f64());
    }

    pub(super) fn retried(&self) {
        self.retries.inc();
    }
}
