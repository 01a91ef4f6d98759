//! How strategic merge treats the lists of the built-in types: the `patchMergeKey` and `patchStrategy` tags of
//! Kubernetes' Go structs, which `k8s_openapi` leaves out.

/// The tags of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MergeKey {
    /// The name of the type that has the field, such as `io.k8s.api.core.v1.PodSpec`.
    pub definition: &'static str,
    /// The field's name in JSON.
    pub field: &'static str,
    /// The field by which items of the list are the same; none for lists of plain values, and for objects.
    pub key: Option<&'static str>,
    /// `merge`, `retainKeys`, or both joined by a comma.
    pub strategy: &'static str,
}

impl MergeKey {
    /// The fields that tell items apart on apply: the key, and for some lists one more.
    pub fn map_keys(&self) -> Vec<&'static str> {
        let second = match (self.field, self.key) {
            ("ports", _) => Some("protocol"),
            ("topologySpreadConstraints", _) => Some("whenUnsatisfiable"),
            _ => None,
        };
        self.key.into_iter().chain(second).collect()
    }
}

const fn by(definition: &'static str, field: &'static str, key: &'static str) -> MergeKey {
    MergeKey { definition, field, key: Some(key), strategy: "merge" }
}

const fn plain(definition: &'static str, field: &'static str, strategy: &'static str) -> MergeKey {
    MergeKey { definition, field, key: None, strategy }
}

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";
const POD_SPEC: &str = "io.k8s.api.core.v1.PodSpec";
const POD_STATUS: &str = "io.k8s.api.core.v1.PodStatus";
const CONTAINER: &str = "io.k8s.api.core.v1.Container";
const EPHEMERAL: &str = "io.k8s.api.core.v1.EphemeralContainer";
const NODE_SPEC: &str = "io.k8s.api.core.v1.NodeSpec";
const NODE_STATUS: &str = "io.k8s.api.core.v1.NodeStatus";
const ACCOUNT: &str = "io.k8s.api.core.v1.ServiceAccount";

/// The tags of a field; none for a list that is replaced as a whole, and an object that is merged.
#[must_use]
pub fn of(definition: &str, field: &str) -> Option<&'static MergeKey> {
    MERGE_KEYS.iter().find(|row| row.definition == definition && row.field == field)
}

/// The fields that have tags, of all types of the kinds served.
pub const MERGE_KEYS: &[MergeKey] = &[
    plain(META, "finalizers", "merge"),
    by(META, "ownerReferences", "uid"),
    by(POD_SPEC, "containers", "name"),
    by(POD_SPEC, "ephemeralContainers", "name"),
    by(POD_SPEC, "hostAliases", "ip"),
    by(POD_SPEC, "imagePullSecrets", "name"),
    by(POD_SPEC, "initContainers", "name"),
    MergeKey { definition: POD_SPEC, field: "resourceClaims", key: Some("name"), strategy: "merge,retainKeys" },
    by(POD_SPEC, "schedulingGates", "name"),
    by(POD_SPEC, "topologySpreadConstraints", "topologyKey"),
    MergeKey { definition: POD_SPEC, field: "volumes", key: Some("name"), strategy: "merge,retainKeys" },
    by(POD_STATUS, "conditions", "type"),
    by(POD_STATUS, "hostIPs", "ip"),
    by(POD_STATUS, "podIPs", "ip"),
    MergeKey {
        definition: POD_STATUS,
        field: "resourceClaimStatuses",
        key: Some("name"),
        strategy: "merge,retainKeys",
    },
    by(CONTAINER, "env", "name"),
    by(CONTAINER, "ports", "containerPort"),
    by(CONTAINER, "volumeDevices", "devicePath"),
    by(CONTAINER, "volumeMounts", "mountPath"),
    by(EPHEMERAL, "env", "name"),
    by(EPHEMERAL, "ports", "containerPort"),
    by(EPHEMERAL, "volumeDevices", "devicePath"),
    by(EPHEMERAL, "volumeMounts", "mountPath"),
    plain(NODE_SPEC, "podCIDRs", "merge"),
    by(NODE_STATUS, "addresses", "type"),
    by(NODE_STATUS, "conditions", "type"),
    by(ACCOUNT, "secrets", "name"),
    by("io.k8s.api.core.v1.ServiceSpec", "ports", "port"),
    by("io.k8s.api.core.v1.ServiceStatus", "conditions", "type"),
    by("io.k8s.api.core.v1.NamespaceStatus", "conditions", "type"),
    by("io.k8s.api.core.v1.ReplicationControllerStatus", "conditions", "type"),
    by("io.k8s.api.core.v1.PersistentVolumeClaimStatus", "conditions", "type"),
    plain("io.k8s.api.apps.v1.DeploymentSpec", "strategy", "retainKeys"),
    by("io.k8s.api.apps.v1.DeploymentStatus", "conditions", "type"),
    by("io.k8s.api.apps.v1.ReplicaSetStatus", "conditions", "type"),
    by("io.k8s.api.apps.v1.DaemonSetStatus", "conditions", "type"),
    by("io.k8s.api.apps.v1.StatefulSetStatus", "conditions", "type"),
    by("io.k8s.api.batch.v1.JobStatus", "conditions", "type"),
    by("io.k8s.api.policy.v1.PodDisruptionBudgetStatus", "conditions", "type"),
    plain("io.k8s.api.policy.v1.PodDisruptionBudgetSpec", "selector", "replace"),
];
