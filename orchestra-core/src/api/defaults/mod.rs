//! What Kubernetes fills in where an object leaves a field out.
//!
//! One function for each kind that has defaults; each is idempotent, and changes only fields that are absent. Kinds
//! without a function (config maps, nodes, leases, …) have no defaults.

mod batch;
mod cluster;
mod container;
mod pod;
mod service;
mod volume;
mod workload;

pub use batch::{cron_job, job, job_selector};
pub use cluster::{
    cluster_role_binding, endpoint_slice, endpoints, namespace, pod_disruption_budget, priority_class, role_binding,
    secret, storage_class,
};
pub use pod::{pod, template};
pub use service::service;
pub use workload::{daemon_set, deployment, replica_set, replication_controller, stateful_set};
