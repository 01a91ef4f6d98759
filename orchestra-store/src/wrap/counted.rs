//! What is asked of a store, in numbers.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use futures::StreamExt as _;
use orchestra_core::store::{Batch, Entry, Error, Key, Listing, Op, Prefix, Result, Revision, Store, Txn, Watch};
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

use super::{batch_bytes, entries_bytes};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Call {
    operation: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Flow {
    operation: &'static str,
}

/// The metrics of the stores of a process; clones share them.
///
/// Made by `default`, they count and nobody sees it. Calls are told apart by operation (`get`, `list`, `revision`,
/// `commit`, `watch`, `compact`) and result (`ok`, `conflict`, `compacted`, `invalid`, `unavailable`, and `dropped` for one
/// whose future was dropped before it was done).
#[derive(Clone, Debug)]
pub struct Metrics {
    took: Family<Call, Histogram, fn() -> Histogram>,
    value_bytes: Family<Flow, Counter>,
    watches: Gauge,
    lag: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        // From 10 µs to 10 s or so: a read of memory, a sync of a bad disk.
        let seconds = || Histogram::new(exponential_buckets(1e-5, 2.0, 20));
        // From none to half a million or so.
        let revisions = [0.0].into_iter().chain(exponential_buckets(1.0, 2.0, 20));
        Self {
            took: Family::new_with_constructor(seconds),
            value_bytes: Family::default(),
            watches: Gauge::default(),
            lag: Histogram::new(revisions),
        }
    }
}

impl Metrics {
    /// Makes metrics that `registry` shows.
    #[must_use]
    pub fn registered(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let help = "How long calls of the store took, by how they ended";
        registry.register_with_unit("orchestra_store_call_duration", help, Unit::Seconds, metrics.took.clone());
        let help = "Bytes of values: commit writes them, the others read them";
        registry.register_with_unit("orchestra_store_value", help, Unit::Bytes, metrics.value_bytes.clone());
        registry.register("orchestra_store_watches", "Watches that are open", metrics.watches.clone());
        let help = "How many revisions a batch was behind the latest one known when a watch yielded it";
        registry.register("orchestra_store_watch_lag_revisions", help, metrics.lag.clone());
        metrics
    }

    fn moved(&self, operation: &'static str, bytes: usize) {
        self.value_bytes.get_or_create(&Flow { operation }).inc_by(bytes as u64);
    }
}

/// A store whose calls are counted and timed.
///
/// The lag of watches is measured against the latest revision that this wrapper has heard of: it tells of commits made
/// elsewhere only once something here was answered with a revision as late.
#[derive(Debug)]
pub struct Counted<S> {
    inner: S,
    metrics: Metrics,
    latest: Arc<AtomicU64>,
}

impl<S: Store> Counted<S> {
    /// Counts in `metrics` what is asked of `inner`.
    #[must_use]
    pub fn new(inner: S, metrics: Metrics) -> Self {
        Self { inner, metrics, latest: Arc::default() }
    }

    async fn timed<T>(&self, operation: &'static str, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let mut timer = Timer { metrics: &self.metrics, operation, result: "dropped", begun: Instant::now() };
        let answer = call.await;
        timer.result = answer.as_ref().map_or_else(result_of, |_| "ok");
        answer
    }

    /// Notes that the store has come to `revision`.
    fn heard(&self, revision: Revision) -> Revision {
        self.latest.fetch_max(revision.0, Ordering::Relaxed);
        revision
    }
}

/// Tells how long a call took when it goes, and so also of a call that was dropped.
struct Timer<'a> {
    metrics: &'a Metrics,
    operation: &'static str,
    result: &'static str,
    begun: Instant,
}

impl Drop for Timer<'_> {
    fn drop(&mut self) {
        let call = Call { operation: self.operation, result: self.result };
        self.metrics.took.get_or_create(&call).observe(self.begun.elapsed().as_secs_f64());
    }
}

fn result_of(error: &Error) -> &'static str {
    match error {
        Error::Conflict { .. } => "conflict",
        Error::Compacted { .. } => "compacted",
        Error::Invalid(_) => "invalid",
        _ => "unavailable",
    }
}

#[async_trait]
impl<S: Store> Store for Counted<S> {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let entry = self.timed("get", self.inner.get(key)).await?;
        self.metrics.moved("get", entries_bytes(&entry));
        Ok(entry)
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        let listing = self.timed("list", self.inner.list(prefix)).await?;
        self.heard(listing.revision);
        self.metrics.moved("list", entries_bytes(&listing.entries));
        Ok(listing)
    }

    async fn revision(&self) -> Result<Revision> {
        self.timed("revision", self.inner.revision()).await.map(|revision| self.heard(revision))
    }

    async fn commit(&self, txn: Txn) -> Result<Revision> {
        let values = txn.ops.iter().map(|op| if let Op::Put(_, value) = op { value.len() } else { 0 });
        let bytes = values.sum();
        let revision = self.timed("commit", self.inner.commit(txn)).await?;
        self.metrics.moved("commit", bytes);
        Ok(self.heard(revision))
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch> {
        let watch = self.timed("watch", self.inner.watch(prefix, after)).await?;
        let open = OpenWatch::new(self.metrics.clone(), Arc::clone(&self.latest));
        Ok(watch.inspect(move |item| item.iter().for_each(|batch| open.told(batch))).boxed())
    }

    async fn compact(&self, floor: Revision) -> Result<()> {
        self.timed("compact", self.inner.compact(floor)).await
    }
}

/// A watch that counts as open until this goes.
struct OpenWatch {
    metrics: Metrics,
    latest: Arc<AtomicU64>,
}

impl OpenWatch {
    fn new(metrics: Metrics, latest: Arc<AtomicU64>) -> Self {
        metrics.watches.inc();
        Self { metrics, latest }
    }

    fn told(&self, batch: &Batch) {
        let latest = self.latest.fetch_max(batch.revision.0, Ordering::Relaxed);
        self.metrics.lag.observe(latest.saturating_sub(batch.revision.0) as f64);
        self.metrics.moved("watch", batch_bytes(batch));
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.metrics.watches.dec();
    }
}
