//! What holds for every kind: whatever an object says, its row fits the columns; and each column says what it tells.

use std::sync::LazyLock;

use k8s_openapi::{
    Resource,
    api::{
        apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
        autoscaling::v1::Scale,
        batch::v1::{CronJob, Job},
        coordination::v1::Lease,
        core::v1::{
            ConfigMap, Endpoints, Event, Namespace, Node, Pod, ReplicationController, Secret, Service, ServiceAccount,
        },
        discovery::v1::EndpointSlice,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
        scheduling::v1::PriorityClass,
        storage::v1::StorageClass,
    },
};
use proptest::prelude::*;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::{Columns, plain, plain_row};
use crate::api::schema::{Schema, random};

/// Holds the properties of one kind for the object that a seed makes up.
fn hold<T: DeserializeOwned + Resource>(columns: &Columns<T>, schema: &Schema, seed: u64) {
    let mut raw = random::object(schema, seed);
    assert_eq!(schema.conform(&mut raw), Ok(Vec::new()));
    raw["apiVersion"] = T::API_VERSION.into();
    raw["kind"] = T::KIND.into();
    let object: T = serde_json::from_value(raw).expect("what conforms decodes");
    let now = "2026-06-01T00:00:00Z".parse().expect("a time");
    let row = (columns.row)(&object, now);
    assert_eq!(row.cells.len(), columns.definitions.len());
    for (cell, column) in row.cells.iter().zip(columns.definitions) {
        // Kubernetes itself puts numbers and flags into columns of strings, and words for what is unset into others.
        let fits = cell.is_string() || cell.is_i64() || cell.is_boolean() || column.cell_type == "date";
        assert!(fits, "{} is {cell}", column.name);
    }
    assert_eq!((columns.row)(&object, now), row, "a row depends on more than the object and the time");
}

fn describes_each<T: JsonSchema>(columns: &Columns<T>) {
    let described = columns.describe();
    for column in described.as_array().expect("a list") {
        assert!(column["description"].as_str().is_some_and(|text| !text.is_empty()), "{column}");
    }
    assert_eq!(columns.definitions.iter().filter(|column| column.format == "name").count(), 1);
}

macro_rules! kinds {
    ($($fits:ident, $describes:ident: $kind:ty, $columns:expr;)*) => {
        $(
            proptest! {
                #![proptest_config(ProptestConfig::with_cases(64))]
                #[test]
                fn $fits(seed: u64) {
                    static SCHEMA: LazyLock<Schema> = LazyLock::new(Schema::of::<$kind>);
                    hold::<$kind>(&$columns, &SCHEMA, seed);
                }
            }

            #[test]
            fn $describes() {
                describes_each::<$kind>(&$columns);
            }
        )*
    };
}

kinds! {
    pods_fit, pods_are_described: Pod, super::POD;
    services_fit, services_are_described: Service, super::SERVICE;
    endpoints_fit, endpoints_are_described: Endpoints, super::ENDPOINTS;
    endpoint_slices_fit, endpoint_slices_are_described: EndpointSlice, super::ENDPOINT_SLICE;
    deployments_fit, deployments_are_described: Deployment, super::DEPLOYMENT;
    scales_fit, scales_are_described: Scale, super::SCALE;
    replica_sets_fit, replica_sets_are_described: ReplicaSet, super::REPLICA_SET;
    replication_controllers_fit, replication_controllers_are_described: ReplicationController, super::REPLICATION_CONTROLLER;
    stateful_sets_fit, stateful_sets_are_described: StatefulSet, super::STATEFUL_SET;
    daemon_sets_fit, daemon_sets_are_described: DaemonSet, super::DAEMON_SET;
    controller_revisions_fit, controller_revisions_are_described: ControllerRevision, super::CONTROLLER_REVISION;
    budgets_fit, budgets_are_described: PodDisruptionBudget, super::POD_DISRUPTION_BUDGET;
    jobs_fit, jobs_are_described: Job, super::JOB;
    cron_jobs_fit, cron_jobs_are_described: CronJob, super::CRON_JOB;
    namespaces_fit, namespaces_are_described: Namespace, super::NAMESPACE;
    nodes_fit, nodes_are_described: Node, super::NODE;
    leases_fit, leases_are_described: Lease, super::LEASE;
    priority_classes_fit, priority_classes_are_described: PriorityClass, super::PRIORITY_CLASS;
    storage_classes_fit, storage_classes_are_described: StorageClass, super::STORAGE_CLASS;
    config_maps_fit, config_maps_are_described: ConfigMap, super::CONFIG_MAP;
    secrets_fit, secrets_are_described: Secret, super::SECRET;
    service_accounts_fit, service_accounts_are_described: ServiceAccount, super::SERVICE_ACCOUNT;
    events_fit, events_are_described: Event, super::EVENT;
    role_bindings_fit, role_bindings_are_described: RoleBinding, super::ROLE_BINDING;
    cluster_role_bindings_fit, cluster_role_bindings_are_described: ClusterRoleBinding, super::CLUSTER_ROLE_BINDING;
    roles_fit, roles_are_described: Role, plain(plain_row);
    cluster_roles_fit, cluster_roles_are_described: ClusterRole, plain(plain_row);
}
