//! The columns of what keeps pods running.

use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
        autoscaling::v1::Scale,
        core::v1::ReplicationController,
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use serde_json::Value;

use super::{
    AGE, CONTAINERS, Columns, Description, IMAGES, NAME, Row, integer, string,
    text::{NONE, age, containers, labels, name, query, selector},
    wide,
};
use crate::clock::Timestamp;

const DAEMON_SET_STATUS: &str = "io.k8s.api.apps.v1.DaemonSetStatus";
const DEPLOYMENT_STATUS: &str = "io.k8s.api.apps.v1.DeploymentStatus";
const REPLICA_SET_SPEC: &str = "io.k8s.api.apps.v1.ReplicaSetSpec";
const REPLICA_SET_STATUS: &str = "io.k8s.api.apps.v1.ReplicaSetStatus";
const REPLICATION_SPEC: &str = "io.k8s.api.core.v1.ReplicationControllerSpec";
const REPLICATION_STATUS: &str = "io.k8s.api.core.v1.ReplicationControllerStatus";

/// The columns of deployments.
pub const DEPLOYMENT: Columns<Deployment> = Columns {
    definitions: &[
        NAME,
        string("Ready", Description::Text("Number of the pod with ready state")),
        string("Up-to-date", Description::Field(DEPLOYMENT_STATUS, "updatedReplicas")),
        string("Available", Description::Field(DEPLOYMENT_STATUS, "availableReplicas")),
        AGE,
        CONTAINERS,
        IMAGES,
        wide(string("Selector", Description::Field("io.k8s.api.apps.v1.DeploymentSpec", "selector"))),
    ],
    row: deployment,
};

/// The columns of the size of a workload, which `--subresource=scale` shows.
pub const SCALE: Columns<Scale> = Columns {
    definitions: &[
        NAME,
        integer("Desired", Description::Field("io.k8s.api.autoscaling.v1.ScaleSpec", "replicas")),
        integer("Available", Description::Field("io.k8s.api.autoscaling.v1.ScaleStatus", "replicas")),
        AGE,
    ],
    row: scale,
};

/// The columns of replica sets.
pub const REPLICA_SET: Columns<ReplicaSet> = Columns {
    definitions: &[
        NAME,
        integer("Desired", Description::Field(REPLICA_SET_SPEC, "replicas")),
        integer("Current", Description::Field(REPLICA_SET_STATUS, "replicas")),
        integer("Ready", Description::Field(REPLICA_SET_STATUS, "readyReplicas")),
        AGE,
        CONTAINERS,
        IMAGES,
        wide(string("Selector", Description::Field(REPLICA_SET_SPEC, "selector"))),
    ],
    row: replica_set,
};

/// The columns of replication controllers.
pub const REPLICATION_CONTROLLER: Columns<ReplicationController> = Columns {
    definitions: &[
        NAME,
        integer("Desired", Description::Field(REPLICATION_SPEC, "replicas")),
        integer("Current", Description::Field(REPLICATION_STATUS, "replicas")),
        integer("Ready", Description::Field(REPLICATION_STATUS, "readyReplicas")),
        AGE,
        CONTAINERS,
        IMAGES,
        wide(string("Selector", Description::Field(REPLICATION_SPEC, "selector"))),
    ],
    row: replication_controller,
};

/// The columns of stateful sets.
pub const STATEFUL_SET: Columns<StatefulSet> = Columns {
    definitions: &[
        NAME,
        string("Ready", Description::Text("Number of the pod with ready state")),
        AGE,
        CONTAINERS,
        IMAGES,
    ],
    row: stateful_set,
};

/// The columns of daemon sets.
pub const DAEMON_SET: Columns<DaemonSet> = Columns {
    definitions: &[
        NAME,
        integer("Desired", Description::Field(DAEMON_SET_STATUS, "desiredNumberScheduled")),
        integer("Current", Description::Field(DAEMON_SET_STATUS, "currentNumberScheduled")),
        integer("Ready", Description::Field(DAEMON_SET_STATUS, "numberReady")),
        integer("Up-to-date", Description::Field(DAEMON_SET_STATUS, "updatedNumberScheduled")),
        integer("Available", Description::Field(DAEMON_SET_STATUS, "numberAvailable")),
        string("Node Selector", Description::Field("io.k8s.api.core.v1.PodSpec", "nodeSelector")),
        AGE,
        CONTAINERS,
        IMAGES,
        wide(string("Selector", Description::Field("io.k8s.api.apps.v1.DaemonSetSpec", "selector"))),
    ],
    row: daemon_set,
};

/// The columns of controller revisions.
pub const CONTROLLER_REVISION: Columns<ControllerRevision> = Columns {
    definitions: &[
        NAME,
        string("Controller", Description::Text("Controller of the object")),
        string("Revision", Description::Field("io.k8s.api.apps.v1.ControllerRevision", "revision")),
        AGE,
    ],
    row: controller_revision,
};

/// The columns of pod disruption budgets.
pub const POD_DISRUPTION_BUDGET: Columns<PodDisruptionBudget> = Columns {
    definitions: &[
        NAME,
        string("Min Available", Description::Text("The minimum number of pods that must be available.")),
        string("Max Unavailable", Description::Text("The maximum number of pods that may be unavailable.")),
        integer(
            "Allowed Disruptions",
            Description::Text("Calculated number of pods that may be disrupted at this time."),
        ),
        AGE,
    ],
    row: pod_disruption_budget,
};

fn deployment(deployment: &Deployment, now: Timestamp) -> Row {
    let spec = &deployment.spec;
    let status = deployment.status.as_ref();
    let ready = status.and_then(|status| status.ready_replicas);
    let [names, images] = containers(Some(&spec.template));
    Row::of(vec![
        name(&deployment.metadata),
        ratio(ready, spec.replicas),
        count(status.and_then(|status| status.updated_replicas)),
        count(status.and_then(|status| status.available_replicas)),
        age(&deployment.metadata, now),
        names,
        images,
        query(&spec.selector).unwrap_or_else(|| "<invalid>".into()).into(),
    ])
}

fn scale(scale: &Scale, now: Timestamp) -> Row {
    Row::of(vec![
        name(&scale.metadata),
        count(scale.spec.as_ref().and_then(|spec| spec.replicas)),
        count(scale.status.as_ref().map(|status| status.replicas)),
        age(&scale.metadata, now),
    ])
}

fn replica_set(set: &ReplicaSet, now: Timestamp) -> Row {
    let (spec, status) = (&set.spec, set.status.as_ref());
    let [names, images] = containers(spec.template.as_ref());
    Row::of(vec![
        name(&set.metadata),
        count(spec.replicas),
        count(status.map(|status| status.replicas)),
        count(status.and_then(|status| status.ready_replicas)),
        age(&set.metadata, now),
        names,
        images,
        selector(Some(&spec.selector)),
    ])
}

fn replication_controller(controller: &ReplicationController, now: Timestamp) -> Row {
    let (spec, status) = (controller.spec.as_ref(), controller.status.as_ref());
    let [names, images] = containers(spec.and_then(|spec| spec.template.as_ref()));
    Row::of(vec![
        name(&controller.metadata),
        count(spec.and_then(|spec| spec.replicas)),
        count(status.map(|status| status.replicas)),
        count(status.and_then(|status| status.ready_replicas)),
        age(&controller.metadata, now),
        names,
        images,
        labels(spec.and_then(|spec| spec.selector.as_ref())),
    ])
}

fn stateful_set(set: &StatefulSet, now: Timestamp) -> Row {
    let ready = set.status.as_ref().and_then(|status| status.ready_replicas);
    let [names, images] = containers(Some(&set.spec.template));
    Row::of(vec![name(&set.metadata), ratio(ready, set.spec.replicas), age(&set.metadata, now), names, images])
}

fn daemon_set(set: &DaemonSet, now: Timestamp) -> Row {
    let (spec, status) = (&set.spec, set.status.as_ref());
    let node_selector = spec.template.spec.as_ref().and_then(|pod| pod.node_selector.as_ref());
    let [names, images] = containers(Some(&spec.template));
    Row::of(vec![
        name(&set.metadata),
        count(status.map(|status| status.desired_number_scheduled)),
        count(status.map(|status| status.current_number_scheduled)),
        count(status.map(|status| status.number_ready)),
        count(status.and_then(|status| status.updated_number_scheduled)),
        count(status.and_then(|status| status.number_available)),
        labels(node_selector),
        age(&set.metadata, now),
        names,
        images,
        selector(Some(&spec.selector)),
    ])
}

fn controller_revision(revision: &ControllerRevision, now: Timestamp) -> Row {
    let owners = revision.metadata.owner_references.iter().flatten();
    let controller = owners.into_iter().find(|owner| owner.controller == Some(true)).map(|owner| {
        let group = owner.api_version.split_once('/').map(|(group, _)| format!(".{group}")).unwrap_or_default();
        format!("{}{group}/{}", owner.kind, owner.name).to_lowercase()
    });
    Row::of(vec![
        name(&revision.metadata),
        controller.unwrap_or_else(|| NONE.into()).into(),
        revision.revision.unwrap_or(0).into(),
        age(&revision.metadata, now),
    ])
}

fn pod_disruption_budget(budget: &PodDisruptionBudget, now: Timestamp) -> Row {
    let spec = budget.spec.as_ref();
    let allowed = budget.status.as_ref().and_then(|status| status.disruptions_allowed);
    Row::of(vec![
        name(&budget.metadata),
        number_or_share(spec.and_then(|spec| spec.min_available.as_ref())),
        number_or_share(spec.and_then(|spec| spec.max_unavailable.as_ref())),
        count(allowed),
        age(&budget.metadata, now),
    ])
}

fn count(number: Option<i32>) -> Value {
    number.unwrap_or(0).into()
}

/// `1/3`.
fn ratio(ready: Option<i32>, desired: Option<i32>) -> Value {
    format!("{}/{}", ready.unwrap_or(0), desired.unwrap_or(0)).into()
}

fn number_or_share(value: Option<&IntOrString>) -> Value {
    match value {
        Some(IntOrString::Int(number)) => number.to_string().into(),
        Some(IntOrString::String(share)) => share.as_str().into(),
        None => "N/A".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    #[test]
    fn a_deployment_counts_ready_of_desired() {
        let template =
            json!({ "spec": { "containers": [{ "name": "a", "image": "x" }, { "name": "b", "image": "y" }] } });
        let object = json!({ "metadata": { "name": "web", "creationTimestamp": "2025-12-31T23:58:00Z" },
            "spec": { "replicas": 3, "selector": { "matchLabels": { "app": "web" } }, "template": template },
            "status": { "readyReplicas": 1, "updatedReplicas": 2, "availableReplicas": 1 } });
        let cells = deployment(&serde_json::from_value(object).expect("a deployment"), now()).cells;
        assert_eq!(json!(cells), json!(["web", "1/3", 2, 1, "2m", "a,b", "x,y", "app=web"]));
    }

    #[test]
    fn a_replica_set_counts_desired_current_and_ready() {
        let object = json!({ "metadata": { "name": "web-1" }, "spec": { "replicas": 3, "selector": {} },
            "status": { "replicas": 2, "readyReplicas": 1 } });
        let cells = replica_set(&serde_json::from_value(object).expect("a replica set"), now()).cells;
        assert_eq!(json!(cells), json!(["web-1", 3, 2, 1, "<unknown>", "", "", "<none>"]));
    }

    #[test]
    fn a_controller_revision_names_its_controller_with_its_group() {
        let owner = json!({ "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "1",
            "controller": true });
        let object = json!({ "metadata": { "name": "db-1", "ownerReferences": [owner] }, "data": {}, "revision": 4 });
        let cells = controller_revision(&serde_json::from_value(object).expect("a revision"), now()).cells;
        assert_eq!(json!(cells), json!(["db-1", "statefulset.apps/db", 4, "<unknown>"]));
    }

    #[test]
    fn a_budget_shows_the_bound_it_has() {
        let object = json!({ "metadata": { "name": "web" }, "spec": { "maxUnavailable": "50%" },
            "status": { "disruptionsAllowed": 2 } });
        let cells = pod_disruption_budget(&serde_json::from_value(object).expect("a budget"), now()).cells;
        assert_eq!(json!(cells), json!(["web", "N/A", "50%", 2, "<unknown>"]));
    }
}
