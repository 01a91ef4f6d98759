//! The rules of what a cluster itself consists of.

use std::collections::BTreeSet;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Namespace, Node, Taint};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::StorageClass;

use super::affinity::EFFECTS;
use super::metadata::{Scope, immutable, invalid, object_meta, object_meta_update};
use super::names::{self, NameRule};
use super::values::{non_negative, one_of, required};
use super::{FieldError, Path};

/// The highest priority that is not the system's own.
const USER_PRIORITY_MAX: i32 = 1_000_000_000;
const SYSTEM_CLASSES: [(&str, i32); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

/// Checks a namespace.
pub fn namespace(namespace: &Namespace) -> Vec<FieldError> {
    let mut errors = object_meta(&namespace.metadata, Scope::Cluster, NameRule::Label);
    let path = Path::root("spec");
    let path = path.field("finalizers");
    let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default();
    for finalizer in finalizers {
        invalid(&path, finalizer, names::qualified_name(finalizer), &mut errors);
    }
    errors
}

/// Checks what a write changes in a namespace.
pub fn namespace_update(new: &Namespace, old: &Namespace) -> Vec<FieldError> {
    object_meta_update(&new.metadata, &old.metadata)
}

/// Checks a node.
pub fn node(node: &Node) -> Vec<FieldError> {
    let mut errors = object_meta(&node.metadata, Scope::Cluster, NameRule::Subdomain);
    let path = Path::root("spec");
    let taints = node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default();
    self::taints(taints, &path.field("taints"), &mut errors);
    errors
}

/// Checks what a write changes in a node: what once identified it stays.
pub fn node_update(new: &Node, old: &Node) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return errors };
    let path = Path::root("spec");
    if old.provider_id.as_deref().is_some_and(|id| !id.is_empty()) && new.provider_id != old.provider_id {
        let detail = "node updates may not change providerID except from \"\" to valid";
        errors.push(FieldError::forbidden(&path.field("providerID"), detail));
    }
    if old.pod_cidrs.as_ref().is_some_and(|ranges| !ranges.is_empty()) && new.pod_cidrs != old.pod_cidrs {
        let detail = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(FieldError::forbidden(&path.field("podCIDRs"), detail));
    }
    errors
}

/// Checks a lease.
pub fn lease(lease: &Lease) -> Vec<FieldError> {
    let mut errors = object_meta(&lease.metadata, Scope::Namespaced, NameRule::Subdomain);
    let Some(spec) = &lease.spec else { return errors };
    let path = Path::root("spec");
    if let Some(seconds) = spec.lease_duration_seconds.filter(|seconds| *seconds <= 0) {
        errors.push(FieldError::invalid(&path.field("leaseDurationSeconds"), seconds, "must be greater than 0"));
    }
    non_negative(spec.lease_transitions, &path.field("leaseTransitions"), &mut errors);
    errors
}

/// Checks what a write changes in a lease.
pub fn lease_update(new: &Lease, old: &Lease) -> Vec<FieldError> {
    object_meta_update(&new.metadata, &old.metadata)
}

/// Checks an event, which lives in the namespace of what it is about; about the cluster, in `default`.
pub fn event(event: &Event) -> Vec<FieldError> {
    let mut errors = object_meta(&event.metadata, Scope::Namespaced, NameRule::Subdomain);
    let namespace = event.metadata.namespace.as_deref().unwrap_or_default();
    let right = match event.involved_object.namespace.as_deref().unwrap_or_default() {
        "" => matches!(namespace, "" | "default" | "kube-system"),
        involved => involved == namespace,
    };
    if !right {
        let path = Path::root("involvedObject");
        let value = event.involved_object.namespace.as_deref().unwrap_or_default();
        let detail = "does not match event.namespace";
        errors.push(FieldError::invalid(&path.field("namespace"), value, detail));
    }
    errors
}

/// Checks what a write changes in an event.
pub fn event_update(new: &Event, old: &Event) -> Vec<FieldError> {
    object_meta_update(&new.metadata, &old.metadata)
}

/// Checks a priority class.
pub fn priority_class(class: &PriorityClass) -> Vec<FieldError> {
    let mut errors = object_meta(&class.metadata, Scope::Cluster, NameRule::Subdomain);
    let name = class.metadata.name.as_deref().unwrap_or_default();
    let value = class.value.unwrap_or(0);
    if name.starts_with("system-") {
        if !SYSTEM_CLASSES.contains(&(name, value)) {
            let detail = "priority class names with 'system-' prefix are reserved for system use only. error: \
                 only system priority classes can have them";
            errors.push(FieldError::forbidden(&Path::root("metadata").field("name"), detail));
        }
    } else if value > USER_PRIORITY_MAX {
        let detail = format!("maximum allowed value of a user defined priority is {USER_PRIORITY_MAX}");
        errors.push(FieldError::forbidden(&Path::root("value"), detail));
    }
    let policies = ["Never", "PreemptLowerPriority"];
    one_of(class.preemption_policy.as_deref(), &policies, &Path::root("preemptionPolicy"), &mut errors);
    errors
}

/// Checks what a write changes in a priority class, whose value stays.
pub fn priority_class_update(new: &PriorityClass, old: &PriorityClass) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    if new.value != old.value {
        errors.push(FieldError::forbidden(&Path::root("value"), "may not be changed in an update."));
    }
    immutable(&new.preemption_policy, &old.preemption_policy, &Path::root("preemptionPolicy"), &mut errors);
    errors
}

/// Checks a storage class.
pub fn storage_class(class: &StorageClass) -> Vec<FieldError> {
    let mut errors = object_meta(&class.metadata, Scope::Cluster, NameRule::Subdomain);
    let provisioner = Path::root("provisioner");
    required(Some(&class.provisioner), &provisioner, &mut errors);
    if !class.provisioner.is_empty() {
        let lower = class.provisioner.to_lowercase();
        invalid(&provisioner, &class.provisioner, names::qualified_name(&lower), &mut errors);
    }
    let reclaim = class.reclaim_policy.as_deref();
    one_of(reclaim, &["Delete", "Retain"], &Path::root("reclaimPolicy"), &mut errors);
    let mode = class.volume_binding_mode.as_deref();
    one_of(mode, &["Immediate", "WaitForFirstConsumer"], &Path::root("volumeBindingMode"), &mut errors);
    errors
}

/// Checks what a write changes in a storage class: not what its volumes are.
pub fn storage_class_update(new: &StorageClass, old: &StorageClass) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    if new.parameters != old.parameters {
        errors.push(FieldError::forbidden(&Path::root("parameters"), "updates to parameters are forbidden."));
    }
    if new.provisioner != old.provisioner {
        errors.push(FieldError::forbidden(&Path::root("provisioner"), "updates to provisioner are forbidden."));
    }
    if new.reclaim_policy != old.reclaim_policy {
        errors.push(FieldError::forbidden(&Path::root("reclaimPolicy"), "updates to reclaimPolicy are forbidden."));
    }
    immutable(&new.volume_binding_mode, &old.volume_binding_mode, &Path::root("volumeBindingMode"), &mut errors);
    errors
}

fn taints(taints: &[Taint], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, taint) in taints.iter().enumerate() {
        let path = path.index(index);
        invalid(&path.field("key"), &taint.key, names::qualified_name(&taint.key), errors);
        if let Some(value) = &taint.value {
            invalid(&path.field("value"), value, names::label_value(value), errors);
        }
        one_of(Some(&taint.effect), &EFFECTS, &path.field("effect"), errors);
        if !seen.insert((&taint.key, &taint.effect)) {
            errors.push(FieldError::duplicate(&path, taint));
        }
    }
}
