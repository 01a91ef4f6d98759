//! The rules of pods, and of the templates they are made from.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodTemplateSpec, Toleration};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::metadata::{Scope, invalid, labels_and_annotations, object_meta, object_meta_update};
use super::names::{self, NameRule};
use super::values::{non_negative, one_of, required};
use super::{FieldError, Path};
use super::{affinity, container, security, volume};

const RESTART_POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];
const DNS_POLICIES: [&str; 4] = ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"];
const MUTABLE: &str = "pod updates may not change fields other than `spec.containers[*].image`,\
     `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing \
     tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks a pod.
pub fn pod(pod: &Pod) -> Vec<FieldError> {
    let mut errors = object_meta(&pod.metadata, Scope::Namespaced, NameRule::Subdomain);
    let no_spec = PodSpec::default();
    pod_spec(pod.spec.as_ref().unwrap_or(&no_spec), &Path::root("spec"), &mut errors);
    errors
}

/// Checks what a write changes in a pod: of its spec, only what a running pod can follow.
///
/// The node of a pod is set by binding it, which is no such write.
pub fn pod_update(new: &Pod, old: &Pod) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return errors };
    let path = Path::root("spec");
    let inits = |spec: &PodSpec| spec.init_containers.as_ref().map_or(0, Vec::len);
    if new.containers.len() != old.containers.len() || inits(new) != inits(old) {
        let detail = "pod updates may not add or remove containers";
        errors.push(FieldError::forbidden(&path.field("containers"), detail));
        return errors;
    }
    active_deadline(new, old, &path, &mut errors);
    let (before, after) = (old.tolerations.as_deref(), new.tolerations.as_deref());
    if !only_adds_tolerations(after.unwrap_or_default(), before.unwrap_or_default()) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(&path.field("tolerations"), detail));
    }
    added_gates(new, old, &path, &mut errors);
    if with_mutable_fields_of(new, old) != *new {
        errors.push(FieldError::forbidden(&path, MUTABLE));
    }
    errors
}

/// Checks the template of a workload's pods.
pub(super) fn template(template: &PodTemplateSpec, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let no_metadata = ObjectMeta::default();
    let metadata = template.metadata.as_ref().unwrap_or(&no_metadata);
    labels_and_annotations(metadata, &path.field("metadata"), errors);
    let no_spec = PodSpec::default();
    pod_spec(template.spec.as_ref().unwrap_or(&no_spec), &path.field("spec"), errors);
}

/// Checks what pods do, at `path`.
fn pod_spec(spec: &PodSpec, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let volumes = volume::volumes(spec.volumes.as_deref().unwrap_or_default(), &path.field("volumes"), errors);
    containers(spec, &volumes, path, errors);
    one_of(spec.restart_policy.as_deref(), &RESTART_POLICIES, &path.field("restartPolicy"), errors);
    one_of(spec.dns_policy.as_deref(), &DNS_POLICIES, &path.field("dnsPolicy"), errors);
    let selector = path.field("nodeSelector");
    for (key, value) in spec.node_selector.iter().flatten() {
        invalid(&selector, key, names::qualified_name(key), errors);
        invalid(&selector, value, names::label_value(value), errors);
    }
    let lasting = 1..=i64::from(i32::MAX);
    if let Some(seconds) = spec.active_deadline_seconds.filter(|seconds| !lasting.contains(seconds)) {
        let detail = format!("must be between 1 and {}, inclusive", i32::MAX);
        errors.push(FieldError::invalid(&path.field("activeDeadlineSeconds"), seconds, detail));
    }
    non_negative(spec.termination_grace_period_seconds, &path.field("terminationGracePeriodSeconds"), errors);
    names_of(spec, path, errors);
    if let Some(context) = &spec.security_context {
        security::pod(context, &path.field("securityContext"), errors);
    }
    affinity::tolerations(spec.tolerations.as_deref().unwrap_or_default(), &path.field("tolerations"), errors);
    if let Some(affinity) = &spec.affinity {
        affinity::affinity(affinity, &path.field("affinity"), errors);
    }
    let spread = spec.topology_spread_constraints.as_deref().unwrap_or_default();
    affinity::spread(spread, &path.field("topologySpreadConstraints"), errors);
    gates(spec, path, errors);
    let aliases = path.field("hostAliases");
    for (index, alias) in spec.host_aliases.iter().flatten().enumerate() {
        let path = aliases.index(index);
        if alias.ip.parse::<std::net::IpAddr>().is_err() {
            let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
            errors.push(FieldError::invalid(&path.field("ip"), &alias.ip, detail));
        }
        for hostname in alias.hostnames.iter().flatten() {
            invalid(&path.field("hostnames"), hostname, names::dns_1123_subdomain(hostname), errors);
        }
    }
}

/// Checks what keeps a pod from being scheduled.
fn gates(spec: &PodSpec, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let gates = spec.scheduling_gates.as_deref().unwrap_or_default();
    let gates_path = path.field("schedulingGates");
    let mut names_seen = BTreeSet::new();
    for (index, gate) in gates.iter().enumerate() {
        let (path, name) = (gates_path.index(index), gate.name.as_str());
        invalid(&path, name, names::qualified_name(name), errors);
        if !names_seen.insert(name) {
            errors.push(FieldError::duplicate(&path, name));
        }
    }
    if !gates.is_empty() && spec.node_name.as_ref().is_some_and(|name| !name.is_empty()) {
        let detail = "cannot be set until all schedulingGates have been cleared";
        errors.push(FieldError::forbidden(&path.field("nodeName"), detail));
    }
}

fn containers(spec: &PodSpec, volumes: &BTreeSet<&str>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let containers = path.field("containers");
    if spec.containers.is_empty() {
        errors.push(FieldError::required(&containers, ""));
    }
    let mut names = BTreeSet::new();
    let mut host_ports = BTreeSet::new();
    let context = container::Context { volumes, host_network: spec.host_network == Some(true) };
    for (index, one) in spec.containers.iter().enumerate() {
        let path = containers.index(index);
        container::container(one, context, &path, errors);
        container::unique(one, &mut names, &path, errors);
        container::host_ports(one, &mut host_ports, &path, errors);
    }
    let inits = path.field("initContainers");
    for (index, one) in spec.init_containers.iter().flatten().enumerate() {
        let path = inits.index(index);
        container::init_container(one, context, &path, errors);
        container::unique(one, &mut names, &path, errors);
    }
}

/// Checks what a pod refers to by name, and how it is itself called.
fn names_of(spec: &PodSpec, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    type Grammar = fn(&str) -> Vec<String>;
    let subdomain = names::dns_1123_subdomain as Grammar;
    let label = names::dns_1123_label as Grammar;
    for (field, name, grammar) in [
        ("serviceAccountName", &spec.service_account_name, subdomain),
        ("nodeName", &spec.node_name, subdomain),
        ("hostname", &spec.hostname, label),
        ("subdomain", &spec.subdomain, label),
        ("priorityClassName", &spec.priority_class_name, subdomain),
        ("runtimeClassName", &spec.runtime_class_name, subdomain),
        ("schedulerName", &spec.scheduler_name, names::qualified_name as Grammar),
    ] {
        if let Some(name) = name.as_deref().filter(|name| !name.is_empty()) {
            invalid(&path.field(field), name, grammar(name), errors);
        }
    }
    let secrets = path.field("imagePullSecrets");
    for (index, secret) in spec.image_pull_secrets.iter().flatten().enumerate() {
        required(Some(&secret.name), &secrets.index(index).field("name"), errors);
    }
}

/// A running pod's deadline may come nearer, never go.
fn active_deadline(new: &PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let path = path.field("activeDeadlineSeconds");
    match (new.active_deadline_seconds, old.active_deadline_seconds) {
        (Some(new), Some(old)) if new > old => {
            errors.push(FieldError::invalid(&path, new, "must be less than or equal to previous value"));
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(&path, None::<i64>, detail));
        }
        _ => {}
    }
}

/// Gates only ever open.
fn added_gates(new: &PodSpec, old: &PodSpec, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let before = old.scheduling_gates.as_deref().unwrap_or_default();
    for gate in new.scheduling_gates.iter().flatten().filter(|gate| !before.contains(gate)) {
        let detail = format!("only deletion is allowed, but found new scheduling gate '{}'", gate.name);
        errors.push(FieldError::forbidden(&path.field("schedulingGates"), detail));
    }
}

fn only_adds_tolerations(new: &[Toleration], old: &[Toleration]) -> bool {
    let same = |a: &Toleration, b: &Toleration| {
        Toleration { toleration_seconds: None, ..a.clone() } == Toleration { toleration_seconds: None, ..b.clone() }
    };
    old.iter().all(|old| new.iter().any(|new| same(new, old)))
}

/// The old spec with what a write may change taken from the new one, so that both are equal if nothing else changed.
fn with_mutable_fields_of(new: &PodSpec, old: &PodSpec) -> PodSpec {
    let mut spec = old.clone();
    for (ours, theirs) in spec.containers.iter_mut().zip(&new.containers) {
        ours.image.clone_from(&theirs.image);
    }
    let inits = spec.init_containers.iter_mut().flatten().zip(new.init_containers.iter().flatten());
    for (ours, theirs) in inits {
        ours.image.clone_from(&theirs.image);
    }
    spec.active_deadline_seconds = new.active_deadline_seconds;
    spec.tolerations.clone_from(&new.tolerations);
    if old.termination_grace_period_seconds.is_some_and(|seconds| seconds < 0)
        && new.termination_grace_period_seconds == Some(1)
    {
        spec.termination_grace_period_seconds = Some(1);
    }
    // Those that are added are told by themselves.
    spec.scheduling_gates.clone_from(&new.scheduling_gates);
    if old.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty()) {
        spec.node_selector.clone_from(&new.node_selector);
        spec.affinity.clone_from(&new.affinity);
    }
    spec
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::defaults;

    fn read(spec: &serde_json::Value) -> Pod {
        let object = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
        let mut pod = serde_json::from_value(object).unwrap();
        defaults::pod(&mut pod);
        pod
    }

    fn check(spec: &serde_json::Value) -> Vec<String> {
        pod(&read(spec)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(check(&json!({"containers": []})), ["spec.containers: Required value"]);
        assert_eq!(
            check(&json!({"containers": [{"name": "a"}, {"image": "b"}]})),
            ["spec.containers[0].image: Required value", "spec.containers[1].name: Required value"]
        );
    }

    #[test]
    fn what_is_wrong_in_a_container_is_named() {
        assert_eq!(
            check(&json!({
                "containers": [
                    {
                        "name": "a", "image": "b", "imagePullPolicy": "Sometimes",
                        "ports": [{"containerPort": 70000}, {"containerPort": 80, "protocol": "tcp"}],
                        "volumeMounts": [{"name": "gone", "mountPath": "/x"}],
                        "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}},
                        "livenessProbe": {"successThreshold": 2, "exec": {"command": ["true"]}},
                    },
                    {"name": "a", "image": "b", "env": [{"name": "A=B"}]},
                ],
                "restartPolicy": "Sometimes",
            })),
            [
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
                r#"spec.containers[0].ports[1].protocol: Unsupported value: "tcp": supported values: "SCTP", "TCP", "UDP""#,
                r#"spec.containers[0].volumeMounts[0].name: Not found: "gone""#,
                "spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
                concat!(
                    r#"spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "#,
                    r#""Always", "IfNotPresent", "Never""#
                ),
                concat!(
                    r#"spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to "#,
                    "cpu limit of 1"
                ),
                concat!(
                    r#"spec.containers[1].env[0].name: Invalid value: "A=B": a valid environment variable name must "#,
                    "consist only of printable ASCII characters other than '='"
                ),
                r#"spec.containers[1].name: Duplicate value: "a""#,
                concat!(
                    r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "#,
                    r#""Always", "Never", "OnFailure""#
                ),
            ]
        );
    }

    #[test]
    fn a_running_pod_changes_only_its_images_and_tolerations() {
        let old = read(&json!({"containers": [{"name": "a", "image": "b:1"}]}));
        let image = read(&json!({"containers": [{"name": "a", "image": "b:2"}]}));
        let command = read(&json!({"containers": [{"name": "a", "image": "b:1", "command": ["c"]}]}));
        let more = read(&json!({"containers": [{"name": "a", "image": "b:1"}, {"name": "c", "image": "b:1"}]}));
        assert_eq!(pod_update(&image, &old), []);
        assert_eq!(pod_update(&command, &old)[0].to_string(), format!("spec: Forbidden: {MUTABLE}"));
        assert_eq!(pod_update(&more, &old).len(), 1);
    }
}
