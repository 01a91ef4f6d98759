//! What holds for every kind: defaulting twice is defaulting once, checking never panics, and little is needed.

use std::fmt::Debug;
use std::sync::LazyLock;

use k8s_openapi::Resource;
use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{
    ConfigMap, Endpoints, Event, Namespace, Node, Pod, ReplicationController, Secret, Service, ServiceAccount,
};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::scheduling::v1beta1::PodGroup;
use k8s_openapi::api::storage::v1::StorageClass;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::FieldError;
use crate::api::defaults;
use crate::api::plan_step::PlanStep;
use crate::api::schema::{Schema, random};

/// Holds the properties of one kind for the object that a seed makes up.
fn hold<T>(
    schema: &Schema,
    seed: u64,
    default: fn(&mut T),
    check: fn(&T) -> Vec<FieldError>,
    check_update: fn(&T, &T) -> Vec<FieldError>,
) where
    T: Clone + Debug + PartialEq + DeserializeOwned + Resource,
{
    let mut raw = random::object(schema, seed);
    assert_eq!(schema.conform(&mut raw), Ok(Vec::new()));
    raw["apiVersion"] = T::API_VERSION.into();
    raw["kind"] = T::KIND.into();
    let mut object: T = serde_json::from_value(raw).expect("what conforms decodes");
    default(&mut object);
    let once = object.clone();
    default(&mut object);
    assert_eq!(object, once, "defaulting twice changes more");
    let _ = check(&object);
    let own_update = check_update(&object, &once);
    assert_eq!(own_update, [], "a write that changes nothing is refused");
}

macro_rules! kinds {
    ($($test:ident: $kind:ty, $default:expr, $check:ident, $check_update:ident;)*) => {
        $(
            proptest! {
                #![proptest_config(ProptestConfig::with_cases(64))]
                #[test]
                fn $test(seed: u64) {
                    static SCHEMA: LazyLock<Schema> = LazyLock::new(Schema::of::<$kind>);
                    hold::<$kind>(&SCHEMA, seed, $default, super::$check, super::$check_update);
                }
            }
        )*
    };
}

kinds! {
    pods_default_once_and_check_without_panic: Pod, defaults::pod, pod, pod_update;
    services_default_once_and_check_without_panic: Service, defaults::service, service, service_update;
    deployments_default_once_and_check_without_panic: Deployment, defaults::deployment, deployment, deployment_update;
    replica_sets_default_once_and_check_without_panic: ReplicaSet, defaults::replica_set, replica_set, replica_set_update;
    daemon_sets_default_once_and_check_without_panic: DaemonSet, defaults::daemon_set, daemon_set, daemon_set_update;
    stateful_sets_default_once_and_check_without_panic: StatefulSet, defaults::stateful_set, stateful_set, stateful_set_update;
    replication_controllers_default_once_and_check_without_panic: ReplicationController, defaults::replication_controller, replication_controller, replication_controller_update;
    controller_revisions_default_once_and_check_without_panic: ControllerRevision, |_| {}, controller_revision, controller_revision_update;
    jobs_default_once_and_check_without_panic: Job, defaults::job, job, job_update;
    cron_jobs_default_once_and_check_without_panic: CronJob, defaults::cron_job, cron_job, cron_job_update;
    config_maps_default_once_and_check_without_panic: ConfigMap, |_| {}, config_map, config_map_update;
    secrets_default_once_and_check_without_panic: Secret, defaults::secret, secret, secret_update;
    service_accounts_default_once_and_check_without_panic: ServiceAccount, |_| {}, service_account, service_account_update;
    namespaces_default_once_and_check_without_panic: Namespace, defaults::namespace, namespace, namespace_update;
    nodes_default_once_and_check_without_panic: Node, |_| {}, node, node_update;
    leases_default_once_and_check_without_panic: Lease, |_| {}, lease, lease_update;
    events_default_once_and_check_without_panic: Event, |_| {}, event, event_update;
    endpoints_default_once_and_check_without_panic: Endpoints, defaults::endpoints, endpoints, endpoints_update;
    endpoint_slices_default_once_and_check_without_panic: EndpointSlice, defaults::endpoint_slice, endpoint_slice, endpoint_slice_update;
    roles_default_once_and_check_without_panic: Role, |_| {}, role, role_update;
    cluster_roles_default_once_and_check_without_panic: ClusterRole, |_| {}, cluster_role, cluster_role_update;
    role_bindings_default_once_and_check_without_panic: RoleBinding, defaults::role_binding, role_binding, role_binding_update;
    cluster_role_bindings_default_once_and_check_without_panic: ClusterRoleBinding, defaults::cluster_role_binding, cluster_role_binding, cluster_role_binding_update;
    pod_disruption_budgets_default_once_and_check_without_panic: PodDisruptionBudget, defaults::pod_disruption_budget, pod_disruption_budget, pod_disruption_budget_update;
    priority_classes_default_once_and_check_without_panic: PriorityClass, defaults::priority_class, priority_class, priority_class_update;
    pod_groups_default_once_and_check_without_panic: PodGroup, |_| {}, pod_group, pod_group_update;
    storage_classes_default_once_and_check_without_panic: StorageClass, defaults::storage_class, storage_class, storage_class_update;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn plan_steps_are_checked_without_panic(seed: u64) {
        static SCHEMA: LazyLock<Schema> = LazyLock::new(Schema::of::<PlanStep>);
        hold::<PlanStep>(&SCHEMA, seed, |_| {}, super::plan_step, |_, _| Vec::new());
    }
}

/// Reads an object that says only what it must, defaults it, and checks it.
fn minimal<T: DeserializeOwned>(object: &Value, default: fn(&mut T), check: fn(&T) -> Vec<FieldError>) {
    let mut full = json!({"metadata": {"name": "web", "namespace": "default"}});
    full.as_object_mut().unwrap().extend(object.as_object().unwrap().clone());
    let mut object: T = serde_json::from_value(full).unwrap();
    default(&mut object);
    assert_eq!(check(&object), []);
}

#[test]
fn what_says_only_what_it_must_is_valid_once_defaulted() {
    let containers = json!({"containers": [{"name": "a", "image": "b"}]});
    let template = json!({"metadata": {"labels": {"app": "web"}}, "spec": containers});
    let selector = json!({"matchLabels": {"app": "web"}});
    let ends = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "b"}]}});
    let selects = json!({"spec": {"selector": selector, "template": template}});
    minimal(&json!({"spec": containers}), defaults::pod, super::pod);
    minimal(&json!({"spec": {"ports": [{"port": 80}]}}), defaults::service, super::service);
    minimal(&selects, defaults::deployment, super::deployment);
    minimal(&selects, defaults::replica_set, super::replica_set);
    minimal(&selects, defaults::daemon_set, super::daemon_set);
    minimal(&selects, defaults::stateful_set, super::stateful_set);
    let controller = json!({"spec": {"template": template}});
    minimal(&controller, defaults::replication_controller, super::replication_controller);
    let schedule = json!({"spec": {"schedule": "@daily", "jobTemplate": {"spec": {"template": ends}}}});
    minimal(&schedule, defaults::cron_job, super::cron_job);
    let job_as_the_server_makes_it = |job: &mut Job| {
        defaults::job(job);
        job.metadata.uid = Some("1-2".to_owned());
        defaults::job_selector(job);
    };
    minimal(&json!({"spec": {"template": ends}}), job_as_the_server_makes_it, super::job);
    minimal(&json!({}), defaults::secret, super::secret);
    minimal(&json!({"addressType": "IPv4", "endpoints": []}), defaults::endpoint_slice, super::endpoint_slice);
    let binding = json!({"roleRef": {"kind": "Role", "name": "a"}, "subjects": [{"kind": "User", "name": "a"}]});
    minimal(&binding, defaults::role_binding, super::role_binding);
}
