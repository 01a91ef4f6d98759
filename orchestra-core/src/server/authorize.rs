//! What a user may do: everything, as a master; what its part in the cluster needs, as a component or a node (SEMANTICS
//! 33); and nothing else.

use serde_json::Value;

use crate::{
    api::selector::FieldSelector,
    server::{
        Inner, UserInfo,
        error::{Failure, Result},
        object::{self, Object, meta},
        registry::Kind,
        route::{Query, Target},
    },
};

/// Where the leases of nodes are.
const NODE_LEASES: &str = "kube-node-lease";
/// The group of the kubelets.
const NODES_GROUP: &str = "system:nodes";
/// What the name of a kubelet's user begins with; the rest is its node.
const NODE_USER: &str = "system:node:";
/// Labels by which an administrator tells nodes apart: no node gives them to itself.
const RESTRICTED_LABELS: &str = "node-restriction.kubernetes.io/";

const READ: &[&str] = &["get", "list", "watch"];
const WRITE_EVENTS: Rule =
    Rule { verbs: &["create", "patch", "update"], resources: &["events", "events.events.k8s.io"] };

/// Allows each of some verbs on each of some resources, `resource/subresource.group`.
struct Rule {
    verbs: &'static [&'static str],
    resources: &'static [&'static str],
}

/// What `kube-scheduler` does beside reading everything but secrets.
const SCHEDULER: &[Rule] = &[
    WRITE_EVENTS,
    Rule { verbs: &["create"], resources: &["plansteps.scheduling.orchestra.dev", "pods/binding", "pods/eviction"] },
    Rule { verbs: &["delete"], resources: &["pods"] },
    Rule { verbs: &["patch", "update"], resources: &["pods/status"] },
    Rule { verbs: &["create", "patch", "update"], resources: &["leases.coordination.k8s.io"] },
];
/// What `kube-proxy` does.
const PROXY: &[Rule] = &[
    WRITE_EVENTS,
    Rule {
        verbs: READ,
        resources: &["endpoints", "endpointslices.discovery.k8s.io", "namespaces", "nodes", "services"],
    },
];
/// What every kubelet does; the rest depends on which node is its own.
const NODE: &[Rule] = &[
    WRITE_EVENTS,
    Rule {
        verbs: READ,
        resources: &[
            "endpoints",
            "endpointslices.discovery.k8s.io",
            "priorityclasses.scheduling.k8s.io",
            "services",
            "storageclasses.storage.k8s.io",
        ],
    },
];

impl UserInfo {
    /// The node whose kubelet it is.
    fn node(&self) -> Option<&str> {
        let node = self.name.strip_prefix(NODE_USER)?;
        self.groups.iter().any(|group| group == NODES_GROUP).then_some(node)
    }

    /// Refuses what a kubelet may not write of its own node, or of another (SEMANTICS 33); `old` is empty for a new object.
    pub(crate) fn admit_change(&self, kind: &Kind, old: &Object, new: &Object) -> Result<()> {
        let Some(node) = self.node().filter(|_| !self.is_master()) else { return Ok(()) };
        if old.is_empty() && matches!(kind.kind, "Node" | "Lease") && meta(new, "name") != node {
            let message = format!("node \"{node}\" is not allowed to create {} of other nodes", kind.plural);
            return Err(Failure::forbidden(kind.plural, meta(new, "name"), message));
        }
        if kind.kind != "Node" {
            return Ok(());
        }
        let refuse = |what: &str| {
            let name = meta(new, "name");
            let message = format!("nodes \"{name}\" is forbidden: node \"{node}\" is not allowed to modify {what}");
            Err(Failure::forbidden("nodes", name, message))
        };
        let restricted = |object: &Object| -> Vec<(String, Value)> {
            let labels = object.get("metadata").and_then(|meta| meta.get("labels")).and_then(Value::as_object);
            let restricted = labels.into_iter().flatten().filter(|(label, _)| label.contains(RESTRICTED_LABELS));
            restricted.map(|(label, value)| (label.clone(), value.clone())).collect()
        };
        if restricted(old) != restricted(new) {
            return refuse(&format!("labels of {RESTRICTED_LABELS}"));
        }
        let field = |object: &Object, part: &str, field: &str| {
            let field = object.get(part).and_then(|part| part.get(field)).cloned().unwrap_or_default();
            if field.as_array().is_some_and(Vec::is_empty) { Value::Null } else { field }
        };
        // A new node may come with taints: they keep pods away until it is ready.
        if !old.is_empty() && field(old, "spec", "taints") != field(new, "spec", "taints") {
            return refuse("taints");
        }
        if field(old, "metadata", "ownerReferences") != field(new, "metadata", "ownerReferences") {
            return refuse("ownerReferences");
        }
        Ok(())
    }
}

impl Inner {
    /// Refuses what the user may not do (SEMANTICS 32).
    pub(super) async fn authorize(&self, user: &UserInfo, verb: &str, target: &Target, query: &Query) -> Result<()> {
        if user.is_master() || self.may(user, verb, target, query).await? {
            return Ok(());
        }
        Err(forbidden(user, verb, target))
    }

    async fn may(&self, user: &UserInfo, verb: &str, target: &Target, query: &Query) -> Result<bool> {
        let resource = full_resource(target);
        Ok(match user.name.as_str() {
            // It acts on whatever kind there is, as itself.
            "system:kube-controller-manager" => verb != "impersonate",
            "system:kube-scheduler" => {
                (READ.contains(&verb) && resource != "secrets") || allows(SCHEDULER, verb, &resource)
            }
            "system:kube-proxy" => allows(PROXY, verb, &resource),
            _ => match user.node() {
                Some(node) => {
                    allows(NODE, verb, &resource) || self.node_may(node, verb, &resource, target, query).await?
                }
                None => false,
            },
        })
    }

    /// What a kubelet may do since the object is its node's.
    async fn node_may(&self, node: &str, verb: &str, resource: &str, target: &Target, query: &Query) -> Result<bool> {
        let own_name = target.name.as_deref() == Some(node);
        let selects_own = |field: &str| {
            let selector = FieldSelector::parse(query.value("fieldSelector")).unwrap_or_default();
            selector.required(field) == Some(node)
        };
        Ok(match (resource, verb) {
            // Whose object a new one is stands in its body; its name is checked there.
            ("nodes", "create") => true,
            ("nodes", "list" | "watch") => own_name || selects_own("metadata.name"),
            ("nodes" | "nodes/status", _) => own_name,
            ("leases.coordination.k8s.io", "create") => target.namespace.as_deref() == Some(NODE_LEASES),
            ("leases.coordination.k8s.io", _) => own_name && target.namespace.as_deref() == Some(NODE_LEASES),
            ("pods", "list" | "watch") => selects_own("spec.nodeName"),
            ("pods", "get" | "delete") | ("pods/status", "get" | "patch" | "update") | ("pods/eviction", "create") => {
                self.runs(node, target).await?
            }
            ("configmaps" | "secrets" | "serviceaccounts", "get") => self.needs(node, resource, target)?,
            _ => false,
        })
    }

    /// Whether a pod is bound to a node; that there is none the handler says.
    async fn runs(&self, node: &str, target: &Target) -> Result<bool> {
        let pods = self.registry.find("", "v1", "pods").expect("built in");
        let (namespace, name) = (target.namespace.as_deref(), target.name.as_deref());
        let key = object::key(pods, namespace.unwrap_or_default(), name.unwrap_or_default())?;
        let Some(entry) = self.store.get(&key).await? else { return Ok(true) };
        let pod = object::decode(&entry.value, entry.modified)?;
        Ok(pod.get("spec").and_then(|spec| spec.get("nodeName")).is_some_and(|bound| bound == node))
    }

    /// Whether a pod that is bound to a node refers to an object.
    fn needs(&self, node: &str, resource: &str, target: &Target) -> Result<bool> {
        let pods = self.registry.find("", "v1", "pods").expect("built in");
        let name = target.name.as_deref().unwrap_or_default();
        let view = self.cache.view(&pods.shelf(), &object::prefix(pods, target.namespace.as_deref())?);
        Ok(view.items.iter().any(|item| {
            let pod: Value = serde_json::from_slice(&item.encoded).unwrap_or_default();
            pod["spec"]["nodeName"] == node && refers(&pod["spec"], resource, name)
        }))
    }
}

fn allows(rules: &[Rule], verb: &str, resource: &str) -> bool {
    rules.iter().any(|rule| rule.verbs.contains(&verb) && rule.resources.contains(&resource))
}

/// Whether a pod's spec names an object, anywhere in its volumes, environments and credentials.
fn refers(spec: &Value, resource: &str, name: &str) -> bool {
    let named = |value: &Value, field: &str| value.get(field).is_some_and(|given| given == name);
    let (references, direct): (&[&str], &[&str]) = match resource {
        "configmaps" => (&["configMap", "configMapRef", "configMapKeyRef"], &[]),
        "secrets" => (&["secret", "secretRef", "secretKeyRef", "nodePublishSecretRef"], &["secretName"]),
        _ => return named(spec, "serviceAccountName"),
    };
    match spec {
        Value::Object(fields) => fields.iter().any(|(field, value)| {
            let reference = references.contains(&field.as_str()) && named(value, "name");
            let pulls = resource == "secrets"
                && field == "imagePullSecrets"
                && value.as_array().is_some_and(|secrets| secrets.iter().any(|secret| named(secret, "name")));
            reference || pulls || (direct.contains(&field.as_str()) && value == name) || refers(value, resource, name)
        }),
        Value::Array(items) => items.iter().any(|item| refers(item, resource, name)),
        _ => false,
    }
}

/// `pods/status`, `deployments.apps`, `deployments/scale.apps`.
fn full_resource(target: &Target) -> String {
    let subresource = target.subresource.as_deref().map(|subresource| format!("/{subresource}")).unwrap_or_default();
    let group = if target.group.is_empty() { String::new() } else { format!(".{}", target.group) };
    format!("{}{subresource}{group}", target.plural)
}

fn forbidden(user: &UserInfo, verb: &str, target: &Target) -> Failure {
    let resource = match &target.subresource {
        Some(subresource) => format!("{}/{subresource}", target.plural),
        None => target.plural.clone(),
    };
    let qualified =
        if target.group.is_empty() { target.plural.clone() } else { format!("{}.{}", target.plural, target.group) };
    let place = match &target.namespace {
        Some(namespace) => format!("in the namespace \"{namespace}\""),
        None => "at the cluster scope".into(),
    };
    let name = target.name.as_deref().unwrap_or_default();
    let named = if name.is_empty() { String::new() } else { format!(" \"{name}\"") };
    let message = format!(
        "{qualified}{named} is forbidden: User \"{}\" cannot {verb} resource \"{resource}\" in API group \"{}\" {place}",
        user.name, target.group
    );
    Failure::forbidden(&target.plural, name, message)
}
