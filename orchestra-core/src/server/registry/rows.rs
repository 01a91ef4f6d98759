//! The table of built-in kinds.

use std::{any::TypeId, sync::OnceLock};

use k8s_openapi::{
    Metadata, NamespaceResourceScope, Resource,
    api::{
        apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
        authentication::v1::SelfSubjectReview,
        authorization::v1::{
            LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
        },
        batch::v1::{CronJob, Job},
        coordination::v1::Lease,
        core::v1::{
            ConfigMap, Endpoints, Event, Namespace, Node, Pod, ReplicationController, Secret, Service, ServiceAccount,
        },
        discovery::v1::EndpointSlice,
        events,
        policy::v1::PodDisruptionBudget,
        rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding},
        scheduling::{v1::PriorityClass, v1beta1::PodGroup},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};

use super::{Kind, Strategy, Typed};
use crate::api::{
    columns::{self, Columns, plain, plain_row},
    defaults,
    plan_step::PlanStep,
    validation,
    validation::FieldError,
};
use crate::server::{review::Review, view};

type Validate<T> = fn(&T) -> Vec<FieldError>;
type ValidateUpdate<T> = fn(&T, &T) -> Vec<FieldError>;

/// The kinds that an update creates if they are absent; as in Kubernetes.
const CREATED_ON_UPDATE: [(&str, &str); 8] = [
    ("", "Endpoints"),
    ("", "Event"),
    ("", "Service"),
    ("coordination.k8s.io", "Lease"),
    ("rbac.authorization.k8s.io", "ClusterRole"),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"),
    ("rbac.authorization.k8s.io", "Role"),
    ("rbac.authorization.k8s.io", "RoleBinding"),
];

/// What a row needs beyond its type: names, then functions.
fn row<T>(
    plural: &'static str,
    singular: &'static str,
    default: fn(&mut T),
    (validate, validate_update): (Validate<T>, ValidateUpdate<T>),
    columns: Columns<T>,
) -> Kind
where
    T: Resource<Scope: 'static> + Serialize + DeserializeOwned + JsonSchema + 'static,
{
    let storage_group = if T::GROUP.is_empty() { "core" } else { T::GROUP };
    Kind {
        group: T::GROUP,
        version: T::VERSION,
        kind: T::KIND,
        plural,
        singular,
        short_names: &[],
        categories: &[],
        namespaced: is_namespaced::<T>(),
        subresources: &[],
        fields: &[],
        storage: (storage_group, plural),
        unconditional_update: true,
        creates_on_update: CREATED_ON_UPDATE.contains(&(T::GROUP, T::KIND)),
        returns_deleted: false,
        strategy: Strategy::Plain,
        view: None,
        review: None,
        model: Box::new(Typed {
            schema: OnceLock::new(),
            columns,
            described: OnceLock::new(),
            default,
            validate,
            validate_update,
        }),
    }
}

fn is_namespaced<T: Resource<Scope: 'static>>() -> bool {
    TypeId::of::<T::Scope>() == TypeId::of::<NamespaceResourceScope>()
}

/// The built-in kinds, core group first, in the order of discovery.
pub(super) fn rows() -> Vec<Kind> {
    let mut rows = core();
    rows.extend(workloads());
    rows.extend(cluster());
    rows.push(newer_events());
    rows.extend(reviews());
    rows.push(plan_step());
    rows
}

/// The core group.
#[expect(clippy::too_many_lines, reason = "a table: each kind is a row")]
fn core() -> Vec<Kind> {
    vec![
        Kind {
            strategy: Strategy::Namespace,
            short_names: &["ns"],
            subresources: &["finalize", "status"],
            fields: &["status.phase"],
            ..row::<Namespace>(
                "namespaces",
                "namespace",
                defaults::namespace,
                (validation::namespace, validation::namespace_update),
                columns::NAMESPACE,
            )
        },
        Kind {
            short_names: &["no"],
            subresources: &["status"],
            fields: &["spec.unschedulable"],
            ..row::<Node>("nodes", "node", |_| (), (validation::node, validation::node_update), columns::NODE)
        },
        Kind {
            strategy: Strategy::Pod,
            short_names: &["po"],
            returns_deleted: true,
            categories: &["all"],
            subresources: &["attach", "binding", "eviction", "exec", "log", "portforward", "status"],
            fields: &[
                "spec.nodeName",
                "spec.restartPolicy",
                "spec.schedulerName",
                "spec.serviceAccountName",
                "spec.hostNetwork",
                "status.phase",
                "status.podIP",
                "status.nominatedNodeName",
            ],
            ..row::<Pod>("pods", "pod", defaults::pod, (validation::pod, validation::pod_update), columns::POD)
        },
        Kind {
            short_names: &["svc"],
            returns_deleted: true,
            categories: &["all"],
            subresources: &["status"],
            fields: &["spec.clusterIP", "spec.type"],
            ..row::<Service>(
                "services",
                "service",
                defaults::service,
                (validation::service, validation::service_update),
                columns::SERVICE,
            )
        },
        Kind {
            short_names: &["ep"],
            ..row::<Endpoints>(
                "endpoints",
                "endpoints",
                defaults::endpoints,
                (validation::endpoints, validation::endpoints_update),
                columns::ENDPOINTS,
            )
        },
        Kind {
            short_names: &["ev"],
            fields: &[
                "involvedObject.kind",
                "involvedObject.namespace",
                "involvedObject.name",
                "involvedObject.uid",
                "involvedObject.apiVersion",
                "involvedObject.resourceVersion",
                "involvedObject.fieldPath",
                "reason",
                "reportingComponent",
                "source",
                "type",
            ],
            ..row::<Event>("events", "event", |_| (), (validation::event, validation::event_update), columns::EVENT)
        },
        Kind {
            short_names: &["cm"],
            ..row::<ConfigMap>(
                "configmaps",
                "configmap",
                |_| (),
                (validation::config_map, validation::config_map_update),
                columns::CONFIG_MAP,
            )
        },
        Kind {
            fields: &["type"],
            ..row::<Secret>(
                "secrets",
                "secret",
                defaults::secret,
                (validation::secret, validation::secret_update),
                columns::SECRET,
            )
        },
        Kind {
            short_names: &["sa"],
            returns_deleted: true,
            subresources: &["token"],
            ..row::<ServiceAccount>(
                "serviceaccounts",
                "serviceaccount",
                |_| (),
                (validation::service_account, validation::service_account_update),
                columns::SERVICE_ACCOUNT,
            )
        },
        Kind {
            short_names: &["rc"],
            categories: &["all"],
            subresources: &["scale", "status"],
            fields: &["status.replicas"],
            ..row::<ReplicationController>(
                "replicationcontrollers",
                "replicationcontroller",
                defaults::replication_controller,
                (validation::replication_controller, validation::replication_controller_update),
                columns::REPLICATION_CONTROLLER,
            )
        },
    ]
}

/// The events of the core group under their newer names.
fn newer_events() -> Kind {
    Kind {
        // Without the short name of the core group's, of which kubectl would warn that it could mean either.
        view: Some(&view::EVENTS),
        ..row::<events::v1::Event>(
            "events",
            "event",
            |_| (),
            (|_| Vec::new(), |_, _| Vec::new()),
            // Tables are made of what is stored.
            plain(plain_row),
        )
    }
}

/// What is asked about access.
fn reviews() -> Vec<Kind> {
    vec![
        review::<SelfSubjectReview>("selfsubjectreviews", "selfsubjectreview", Review::Oneself),
        review::<SelfSubjectAccessReview>("selfsubjectaccessreviews", "selfsubjectaccessreview", Review::OwnAccess),
        review::<SelfSubjectRulesReview>("selfsubjectrulesreviews", "selfsubjectrulesreview", Review::OwnRules),
        review::<SubjectAccessReview>("subjectaccessreviews", "subjectaccessreview", Review::Access),
        review::<LocalSubjectAccessReview>("localsubjectaccessreviews", "localsubjectaccessreview", Review::Access),
    ]
}

fn review<T>(plural: &'static str, singular: &'static str, review: Review) -> Kind
where
    T: Metadata<Ty = ObjectMeta, Scope: 'static> + Serialize + DeserializeOwned + JsonSchema + 'static,
{
    let nothing: (Validate<T>, ValidateUpdate<T>) = (|_| Vec::new(), |_, _| Vec::new());
    Kind { review: Some(review), ..row::<T>(plural, singular, |_| (), nothing, plain(plain_row)) }
}

/// Our own: a step of a plan, which is committed and not stored.
fn plan_step() -> Kind {
    let checks: (Validate<PlanStep>, ValidateUpdate<PlanStep>) = (validation::plan_step, |_, _| Vec::new());
    let row = row::<PlanStep>("plansteps", "planstep", |_| (), checks, plain(plain_row));
    Kind { review: Some(Review::PlanStep), ..row }
}

/// What runs pods.
#[expect(clippy::too_many_lines, reason = "a table: each kind is a row")]
fn workloads() -> Vec<Kind> {
    vec![
        Kind {
            short_names: &["deploy"],
            categories: &["all"],
            subresources: &["scale", "status"],
            ..row::<Deployment>(
                "deployments",
                "deployment",
                defaults::deployment,
                (validation::deployment, validation::deployment_update),
                columns::DEPLOYMENT,
            )
        },
        Kind {
            short_names: &["rs"],
            categories: &["all"],
            subresources: &["scale", "status"],
            fields: &["status.replicas"],
            ..row::<ReplicaSet>(
                "replicasets",
                "replicaset",
                defaults::replica_set,
                (validation::replica_set, validation::replica_set_update),
                columns::REPLICA_SET,
            )
        },
        Kind {
            short_names: &["ds"],
            categories: &["all"],
            subresources: &["status"],
            ..row::<DaemonSet>(
                "daemonsets",
                "daemonset",
                defaults::daemon_set,
                (validation::daemon_set, validation::daemon_set_update),
                columns::DAEMON_SET,
            )
        },
        Kind {
            short_names: &["sts"],
            categories: &["all"],
            subresources: &["scale", "status"],
            ..row::<StatefulSet>(
                "statefulsets",
                "statefulset",
                defaults::stateful_set,
                (validation::stateful_set, validation::stateful_set_update),
                columns::STATEFUL_SET,
            )
        },
        row::<ControllerRevision>(
            "controllerrevisions",
            "controllerrevision",
            |_| (),
            (validation::controller_revision, validation::controller_revision_update),
            columns::CONTROLLER_REVISION,
        ),
        Kind {
            strategy: Strategy::Job,
            categories: &["all"],
            subresources: &["status"],
            fields: &["status.successful"],
            ..row::<Job>("jobs", "job", defaults::job, (validation::job, validation::job_update), columns::JOB)
        },
        Kind {
            short_names: &["cj"],
            categories: &["all"],
            subresources: &["status"],
            ..row::<CronJob>(
                "cronjobs",
                "cronjob",
                defaults::cron_job,
                (validation::cron_job, validation::cron_job_update),
                columns::CRON_JOB,
            )
        },
    ]
}

/// What the cluster itself needs.
#[expect(clippy::too_many_lines, reason = "a table: each kind is a row")]
fn cluster() -> Vec<Kind> {
    vec![
        Kind {
            unconditional_update: false,
            ..row::<Lease>("leases", "lease", |_| (), (validation::lease, validation::lease_update), columns::LEASE)
        },
        row::<EndpointSlice>(
            "endpointslices",
            "endpointslice",
            defaults::endpoint_slice,
            (validation::endpoint_slice, validation::endpoint_slice_update),
            columns::ENDPOINT_SLICE,
        ),
        Kind {
            short_names: &["pdb"],
            unconditional_update: false,
            subresources: &["status"],
            ..row::<PodDisruptionBudget>(
                "poddisruptionbudgets",
                "poddisruptionbudget",
                defaults::pod_disruption_budget,
                (validation::pod_disruption_budget, validation::pod_disruption_budget_update),
                columns::POD_DISRUPTION_BUDGET,
            )
        },
        Kind {
            short_names: &["pc"],
            ..row::<PriorityClass>(
                "priorityclasses",
                "priorityclass",
                defaults::priority_class,
                (validation::priority_class, validation::priority_class_update),
                columns::PRIORITY_CLASS,
            )
        },
        Kind {
            subresources: &["status"],
            ..row::<PodGroup>(
                "podgroups",
                "podgroup",
                |_| (),
                (validation::pod_group, validation::pod_group_update),
                plain(plain_row),
            )
        },
        Kind {
            short_names: &["sc"],
            returns_deleted: true,
            ..row::<StorageClass>(
                "storageclasses",
                "storageclass",
                defaults::storage_class,
                (validation::storage_class, validation::storage_class_update),
                columns::STORAGE_CLASS,
            )
        },
        row::<Role>("roles", "role", |_| (), (validation::role, validation::role_update), plain(plain_row)),
        row::<RoleBinding>(
            "rolebindings",
            "rolebinding",
            defaults::role_binding,
            (validation::role_binding, validation::role_binding_update),
            columns::ROLE_BINDING,
        ),
        row::<ClusterRole>(
            "clusterroles",
            "clusterrole",
            |_| (),
            (validation::cluster_role, validation::cluster_role_update),
            plain(plain_row),
        ),
        row::<ClusterRoleBinding>(
            "clusterrolebindings",
            "clusterrolebinding",
            defaults::cluster_role_binding,
            (validation::cluster_role_binding, validation::cluster_role_binding_update),
            columns::CLUSTER_ROLE_BINDING,
        ),
    ]
}
