//! What an object of each kind must look like, with Kubernetes' own messages for what does not.
//!
//! For each kind there are two functions: one that checks an object by itself, and one (`…_update`) that checks what a
//! write changes in it. A write has to pass both. Objects are checked after defaulting. An empty answer means valid.

mod field_error;
pub mod metadata;
pub mod names;
mod path;

mod affinity;
mod batch;
mod cluster;
mod config;
mod container;
mod disruption;
mod endpoints;
mod env;
mod plan_step;
mod pod;
mod pod_group;
mod probe;
#[cfg(test)]
mod properties;
mod rbac;
mod resources;
mod schedule;
mod security;
mod selector;
mod service;
mod values;
mod volume;
mod workload;

pub use field_error::{FieldError, FieldErrorKind};
pub use path::Path;

pub use batch::{cron_job, cron_job_update, job, job_update};
pub use cluster::{
    event, event_update, lease, lease_update, namespace, namespace_update, node, node_update, priority_class,
    priority_class_update, storage_class, storage_class_update,
};
pub use config::{
    DATA_BYTES_MAX, config_map, config_map_update, secret, secret_update, service_account, service_account_update,
};
pub use disruption::{pod_disruption_budget, pod_disruption_budget_update};
pub use endpoints::{SLICE_ENDPOINTS_MAX, endpoint_slice, endpoint_slice_update, endpoints, endpoints_update};
pub use plan_step::plan_step;
pub use pod::{pod, pod_update};
pub use pod_group::{pod_group, pod_group_update};
pub use rbac::{
    cluster_role, cluster_role_binding, cluster_role_binding_update, cluster_role_update, role, role_binding,
    role_binding_update, role_update,
};
pub use service::{service, service_update};
pub use workload::{
    controller_revision, controller_revision_update, daemon_set, daemon_set_update, deployment, deployment_update,
    replica_set, replica_set_update, replication_controller, replication_controller_update, stateful_set,
    stateful_set_update,
};
