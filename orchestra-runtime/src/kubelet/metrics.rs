//! What a kubelet counts, under the names of Kubernetes' own.

use std::time::Duration;

use prometheus_client::{
    metrics::{
        counter::Counter,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};

/// The numbers of one kubelet; clones count together.
#[derive(Clone, Debug)]
pub(super) struct Metrics {
    pub(super) running_pods: Gauge,
    pub(super) started_containers: Counter,
    pub(super) started_containers_errors: Counter,
    pod_start_seconds: Histogram,
    pod_worker_seconds: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            running_pods: Gauge::default(),
            started_containers: Counter::default(),
            started_containers_errors: Counter::default(),
            // From 5 ms, doubling, to 2 min 44 s.
            pod_start_seconds: Histogram::new(exponential_buckets(0.005, 2.0, 16)),
            // From 0.1 ms, doubling, to 3.3 s.
            pod_worker_seconds: Histogram::new(exponential_buckets(1e-4, 2.0, 16)),
        }
    }
}

impl Metrics {
    /// Makes the numbers known to `registry`.
    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("kubelet_running_pods", "Pods that have a worker", self.running_pods.clone());
        registry.register("kubelet_started_containers", "Containers started", self.started_containers.clone());
        registry.register(
            "kubelet_started_containers_errors",
            "Containers that could not be started",
            self.started_containers_errors.clone(),
        );
        registry.register(
            "kubelet_pod_start_duration_seconds",
            "From first seeing a pod to all its containers running",
            self.pod_start_seconds.clone(),
        );
        registry.register(
            "kubelet_pod_worker_duration_seconds",
            "How long one look at a pod, and what followed from it, took",
            self.pod_worker_seconds.clone(),
        );
    }

    pub(super) fn pod_started(&self, took: Duration) {
        self.pod_start_seconds.observe(took.as_secs_f64());
    }

    pub(super) fn pod_worked(&self, took: Duration) {
        self.pod_worker_seconds.observe(took.as_secs_f64());
    }
}
