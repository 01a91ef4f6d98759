//! What a service proxy counts, under kube-proxy's names where it has them.

use std::time::Duration;

use prometheus_client::{
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

use orchestra_core::proxy::Synced;

/// The numbers of one service proxy; clones count together.
#[derive(Clone, Debug)]
pub struct Metrics {
    sync_seconds: Histogram,
    service_changes: Counter,
    failures: Counter,
    frontends: Gauge,
    frontends_unusable: Gauge,
}

impl Metrics {
    /// Makes counters and registers them in `registry`.
    #[must_use]
    pub fn new(registry: &mut Registry) -> Self {
        // From 0.1 ms, doubling, to 3.3 s.
        let sync_seconds = Histogram::new(exponential_buckets(1e-4, 2.0, 16));
        let metrics = Self {
            sync_seconds,
            service_changes: Counter::default(),
            failures: Counter::default(),
            frontends: Gauge::default(),
            frontends_unusable: Gauge::default(),
        };
        registry.register(
            "kubeproxy_sync_proxy_rules_duration_seconds",
            "How long bringing a table into force took",
            metrics.sync_seconds.clone(),
        );
        registry.register(
            "kubeproxy_sync_proxy_rules_service_changes",
            "Frontends added, changed and removed",
            metrics.service_changes.clone(),
        );
        registry.register(
            "orchestra_proxy_sync_failures",
            "Tables that the data plane refused",
            metrics.failures.clone(),
        );
        registry.register("orchestra_proxy_frontends", "Frontends in force", metrics.frontends.clone());
        registry.register(
            "orchestra_proxy_frontends_unusable",
            "Frontends left out because they can't be served on this node",
            metrics.frontends_unusable.clone(),
        );
        metrics
    }

    /// Counts a table that came into force with `frontends`, less those that were left out.
    pub(super) fn synced(&self, took: Duration, synced: Synced, frontends: usize, unusable: usize) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.sync_seconds.observe(took.as_secs_f64());
        self.service_changes.inc_by((synced.added + synced.updated + synced.removed) as u64);
        self.frontends.set(gauge(frontends));
        self.frontends_unusable.set(gauge(unusable));
    }

    /// Counts a table that was refused.
    pub(super) fn failed(&self) {
        self.failures.inc();
    }
}
