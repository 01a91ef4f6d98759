//! The columns of what belongs to the whole cluster.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    coordination::v1::Lease,
    core::v1::{Namespace, Node, NodeStatus, NodeSystemInfo},
    scheduling::v1::PriorityClass,
    storage::v1::StorageClass,
};
use serde_json::Value;

use super::{
    AGE, Columns, Description, NAME, Row, boolean, integer, string,
    text::{age, name, or_none},
    wide,
};
use crate::clock::Timestamp;

const NODE_STATUS: &str = "io.k8s.api.core.v1.NodeStatus";
const NODE_INFO: &str = "io.k8s.api.core.v1.NodeSystemInfo";
const PRIORITY: &str = "io.k8s.api.scheduling.v1.PriorityClass";
const STORAGE: &str = "io.k8s.api.storage.v1.StorageClass";
/// What a label begins with that gives a node a role.
const ROLE_LABEL_PREFIX: &str = "node-role.kubernetes.io/";
/// The older label, whose value is the role.
const ROLE_LABEL: &str = "kubernetes.io/role";
const DEFAULT_CLASS_ANNOTATIONS: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];

/// The columns of namespaces.
pub const NAMESPACE: Columns<Namespace> = Columns {
    definitions: &[NAME, string("Status", Description::Text("The status of the namespace")), AGE],
    row: namespace,
};

/// The columns of nodes.
pub const NODE: Columns<Node> = Columns {
    definitions: &[
        NAME,
        string("Status", Description::Text("The status of the node")),
        string("Roles", Description::Text("The roles of the node")),
        AGE,
        string("Version", Description::Field(NODE_INFO, "kubeletVersion")),
        wide(string("Internal-IP", Description::Field(NODE_STATUS, "addresses"))),
        wide(string("External-IP", Description::Field(NODE_STATUS, "addresses"))),
        wide(string("OS-Image", Description::Field(NODE_INFO, "osImage"))),
        wide(string("Kernel-Version", Description::Field(NODE_INFO, "kernelVersion"))),
        wide(string("Container-Runtime", Description::Field(NODE_INFO, "containerRuntimeVersion"))),
    ],
    row: node,
};

/// The columns of leases.
pub const LEASE: Columns<Lease> = Columns {
    definitions: &[
        NAME,
        string("Holder", Description::Field("io.k8s.api.coordination.v1.LeaseSpec", "holderIdentity")),
        AGE,
    ],
    row: lease,
};

/// The columns of priority classes.
pub const PRIORITY_CLASS: Columns<PriorityClass> = Columns {
    definitions: &[
        NAME,
        integer("Value", Description::Field(PRIORITY, "value")),
        boolean("Global-Default", Description::Field(PRIORITY, "globalDefault")),
        AGE,
        string("PreemptionPolicy", Description::Field(PRIORITY, "preemptionPolicy")),
    ],
    row: priority_class,
};

/// The columns of storage classes.
pub const STORAGE_CLASS: Columns<StorageClass> = Columns {
    definitions: &[
        NAME,
        string("Provisioner", Description::Field(STORAGE, "provisioner")),
        string("ReclaimPolicy", Description::Field(STORAGE, "reclaimPolicy")),
        string("VolumeBindingMode", Description::Field(STORAGE, "volumeBindingMode")),
        string("AllowVolumeExpansion", Description::Field(STORAGE, "allowVolumeExpansion")),
        AGE,
    ],
    row: storage_class,
};

fn namespace(namespace: &Namespace, now: Timestamp) -> Row {
    let phase = namespace.status.as_ref().and_then(|status| status.phase.as_deref());
    Row::of(vec![name(&namespace.metadata), phase.unwrap_or_default().into(), age(&namespace.metadata, now)])
}

fn node(node: &Node, now: Timestamp) -> Row {
    let (no_status, no_info) = (NodeStatus::default(), NodeSystemInfo::default());
    let status = node.status.as_ref().unwrap_or(&no_status);
    let info = status.node_info.as_ref().unwrap_or(&no_info);
    let address = |address_type: &str| {
        let found = status.addresses.iter().flatten().find(|address| address.type_ == address_type);
        or_none(found.map(|address| address.address.as_str()))
    };
    let or_unknown = |text: &str| -> Value { if text.is_empty() { "<unknown>".into() } else { text.into() } };
    Row::of(vec![
        name(&node.metadata),
        readiness(node, status).into(),
        or_none(Some(&roles(node))),
        age(&node.metadata, now),
        info.kubelet_version.as_str().into(),
        address("InternalIP"),
        address("ExternalIP"),
        or_unknown(&info.os_image),
        or_unknown(&info.kernel_version),
        or_unknown(&info.container_runtime_version),
    ])
}

fn readiness(node: &Node, status: &NodeStatus) -> String {
    let condition = status.conditions.iter().flatten().rfind(|condition| condition.type_ == "Ready");
    let ready = match condition.map(|condition| condition.status.as_str()) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    };
    let is_cordoned = node.spec.as_ref().and_then(|spec| spec.unschedulable) == Some(true);
    if is_cordoned { format!("{ready},SchedulingDisabled") } else { ready.into() }
}

fn roles(node: &Node) -> String {
    let labels = node.metadata.labels.iter().flatten();
    let roles: BTreeSet<&str> = labels
        .filter_map(|(key, value)| match key.strip_prefix(ROLE_LABEL_PREFIX) {
            None if key == ROLE_LABEL => Some(value.as_str()),
            role => role,
        })
        .filter(|role| !role.is_empty())
        .collect();
    roles.into_iter().collect::<Vec<_>>().join(",")
}

fn lease(lease: &Lease, now: Timestamp) -> Row {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
    Row::of(vec![name(&lease.metadata), holder.unwrap_or_default().into(), age(&lease.metadata, now)])
}

fn priority_class(class: &PriorityClass, now: Timestamp) -> Row {
    Row::of(vec![
        name(&class.metadata),
        class.value.unwrap_or(0).into(),
        class.global_default.unwrap_or(false).into(),
        age(&class.metadata, now),
        class.preemption_policy.as_deref().unwrap_or_default().into(),
    ])
}

fn storage_class(class: &StorageClass, now: Timestamp) -> Row {
    let annotations = class.metadata.annotations.as_ref();
    let is_default = DEFAULT_CLASS_ANNOTATIONS
        .iter()
        .any(|key| annotations.and_then(|annotations| annotations.get(*key)).is_some_and(|value| value == "true"));
    let shown = class.metadata.name.as_deref().unwrap_or_default();
    Row::of(vec![
        if is_default { format!("{shown} (default)").into() } else { shown.into() },
        class.provisioner.as_str().into(),
        class.reclaim_policy.as_deref().unwrap_or("Delete").into(),
        class.volume_binding_mode.as_deref().unwrap_or("Immediate").into(),
        class.allow_volume_expansion.unwrap_or(false).into(),
        age(&class.metadata, now),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_shows_readiness_cordon_roles_and_addresses() {
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let of = |object: Value| json!(node(&serde_json::from_value(object).expect("a node"), now).cells);
        let fresh = of(json!({ "metadata": { "name": "n1", "creationTimestamp": "2025-12-31T00:00:00Z" } }));
        let unknown = "<unknown>";
        assert_eq!(fresh, json!(["n1", "Unknown", "<none>", "24h", "", "<none>", "<none>", unknown, unknown, unknown]));
        let labels = json!({ "node-role.kubernetes.io/worker": "", "node-role.kubernetes.io/edge": "",
            "kubernetes.io/role": "db" });
        let condition = |status: &str| json!([{ "type": "Ready", "status": status }]);
        let full = of(json!({ "metadata": { "name": "n1", "labels": labels }, "spec": { "unschedulable": true },
            "status": { "conditions": condition("True"), "addresses": [{ "type": "InternalIP", "address": "127.0.0.2" }] } }));
        assert_eq!(full[1], "Ready,SchedulingDisabled");
        assert_eq!((&full[2], &full[5]), (&json!("db,edge,worker"), &json!("127.0.0.2")));
        let lost = of(json!({ "metadata": {}, "status": { "conditions": condition("Unknown") } }));
        assert_eq!(lost[1], "NotReady");
    }

    #[test]
    fn the_default_storage_class_says_so() {
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let class = json!({ "metadata": { "name": "fast",
            "annotations": { "storageclass.kubernetes.io/is-default-class": "true" } }, "provisioner": "p" });
        let cells = storage_class(&serde_json::from_value(class).expect("a class"), now).cells;
        assert_eq!(json!(cells), json!(["fast (default)", "p", "Delete", "Immediate", false, "<unknown>"]));
    }
}
