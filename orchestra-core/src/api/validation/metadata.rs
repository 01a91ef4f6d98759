//! The rules of `metadata`, which every kind shares.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use serde::Serialize;

use super::names::{self, NameRule};
use super::{FieldError, Path};

/// The most bytes of all annotations of an object, keys and values.
pub const ANNOTATIONS_BYTES_MAX: usize = 256 << 10;
/// Finalizers that need no domain before their name.
const STANDARD_FINALIZERS: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];

/// Whether objects of a kind live in a namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace, which `metadata.namespace` names.
    Namespaced,
    /// In the cluster; `metadata.namespace` is empty.
    Cluster,
}

/// Checks the `metadata` of an object whose name keeps to `rule`.
pub fn object_meta(meta: &ObjectMeta, scope: Scope, rule: NameRule) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::root("metadata");
    name(meta, rule, &path, &mut errors);
    namespace(meta, scope, &path, &mut errors);
    if let Some(generation) = meta.generation.filter(|generation| *generation < 0) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(&path.field("generation"), generation, detail));
    }
    labels_and_annotations(meta, &path, &mut errors);
    owner_references(meta, &path.field("ownerReferences"), &mut errors);
    finalizers(meta, &path.field("finalizers"), &mut errors);
    errors
}

/// Checks what a write may change in `metadata`: not what identifies the object, nor how it goes.
pub fn object_meta_update(new: &ObjectMeta, old: &ObjectMeta) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let path = Path::root("metadata");
    immutable(&new.name, &old.name, &path.field("name"), &mut errors);
    immutable(&new.namespace, &old.namespace, &path.field("namespace"), &mut errors);
    immutable(&new.uid, &old.uid, &path.field("uid"), &mut errors);
    immutable(&new.creation_timestamp, &old.creation_timestamp, &path.field("creationTimestamp"), &mut errors);
    immutable(&new.deletion_timestamp, &old.deletion_timestamp, &path.field("deletionTimestamp"), &mut errors);
    let grace = path.field("deletionGracePeriodSeconds");
    immutable(&new.deletion_grace_period_seconds, &old.deletion_grace_period_seconds, &grace, &mut errors);
    if old.deletion_timestamp.is_some() {
        let before = old.finalizers.as_deref().unwrap_or_default();
        let mut added = new.finalizers.iter().flatten().filter(|one| !before.contains(one)).peekable();
        if added.peek().is_some() {
            let added: Vec<&String> = added.collect();
            let detail = "no new finalizers can be added if the object is being deleted, found new finalizers";
            errors.push(FieldError::forbidden(&path.field("finalizers"), format!("{detail} {added:?}")));
        }
    }
    errors
}

/// Checks labels and annotations alone, which is all a pod template's `metadata` needs.
pub(super) fn labels_and_annotations(meta: &ObjectMeta, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let labels = path.field("labels");
    for (key, value) in meta.labels.iter().flatten() {
        invalid(&labels, key, names::qualified_name(key), errors);
        invalid(&labels, value, names::label_value(value), errors);
    }
    let annotations = path.field("annotations");
    let mut bytes = 0;
    for (key, value) in meta.annotations.iter().flatten() {
        invalid(&annotations, key, names::qualified_name(&key.to_lowercase()), errors);
        bytes += key.len() + value.len();
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        errors.push(FieldError::too_long(&annotations, ANNOTATIONS_BYTES_MAX));
    }
}

/// Notes that a field which may not change has changed.
pub(super) fn immutable<T: PartialEq + Serialize>(new: &T, old: &T, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if new != old {
        errors.push(FieldError::invalid(path, new, "field is immutable"));
    }
}

/// Notes each of the `problems` of a value.
pub(super) fn invalid(path: &Path<'_>, value: &str, problems: Vec<String>, errors: &mut Vec<FieldError>) {
    errors.extend(problems.into_iter().map(|problem| FieldError::invalid(path, value, problem)));
}

fn name(meta: &ObjectMeta, rule: NameRule, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(prefix) = meta.generate_name.as_deref().filter(|prefix| !prefix.is_empty()) {
        invalid(&path.field("generateName"), prefix, rule.check_prefix(prefix), errors);
    }
    match meta.name.as_deref().unwrap_or_default() {
        "" => errors.push(FieldError::required(&path.field("name"), "name or generateName is required")),
        name => invalid(&path.field("name"), name, rule.check(name), errors),
    }
}

fn namespace(meta: &ObjectMeta, scope: Scope, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let path = path.field("namespace");
    match (scope, meta.namespace.as_deref().unwrap_or_default()) {
        (Scope::Cluster, "") => {}
        (Scope::Cluster, _) => errors.push(FieldError::forbidden(&path, "not allowed on this type")),
        (Scope::Namespaced, "") => errors.push(FieldError::required(&path, "")),
        (Scope::Namespaced, namespace) => invalid(&path, namespace, names::dns_1123_label(namespace), errors),
    }
}

fn owner_references(meta: &ObjectMeta, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let owners = meta.owner_references.as_deref().unwrap_or_default();
    let mut controller: Option<&OwnerReference> = None;
    for owner in owners {
        for (field, value) in [("kind", &owner.kind), ("name", &owner.name), ("uid", &owner.uid)] {
            if value.is_empty() {
                errors.push(FieldError::invalid(&path.field(field), value, "must not be empty"));
            }
        }
        if owner.api_version.is_empty() || owner.api_version.ends_with('/') {
            let detail = "version must not be empty";
            errors.push(FieldError::invalid(&path.field("apiVersion"), &owner.api_version, detail));
        }
        if owner.kind == "Event" && matches!(owner.api_version.as_str(), "v1" | "events.k8s.io/v1") {
            let detail = format!("{}, Kind=Event is disallowed from being an owner", owner.api_version);
            errors.push(FieldError::invalid(path, owner, detail));
        }
        if owner.controller != Some(true) {
            continue;
        }
        match controller {
            None => controller = Some(owner),
            Some(first) => {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {} and {}",
                    first.name, owner.name
                );
                errors.push(FieldError::invalid(path, owners, detail));
            }
        }
    }
}

fn finalizers(meta: &ObjectMeta, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let finalizers = meta.finalizers.as_deref().unwrap_or_default();
    for finalizer in finalizers {
        invalid(path, finalizer, names::qualified_name(finalizer), errors);
        if !finalizer.contains('/') && !STANDARD_FINALIZERS.contains(&finalizer.as_str()) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(path, finalizer, detail));
        }
    }
    let has = |name: &str| finalizers.iter().any(|one| one == name);
    if has("orphan") && has("foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot both be present";
        errors.push(FieldError::invalid(path, finalizers, detail));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(meta: serde_json::Value) -> Vec<String> {
        let meta: ObjectMeta = serde_json::from_value(meta).unwrap();
        object_meta(&meta, Scope::Namespaced, NameRule::Subdomain).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_bad_name_is_refused_with_the_grammar() {
        assert_eq!(
            check(json!({"name": "Bad_Name", "namespace": "default"})),
            [concat!(
                r#"metadata.name: Invalid value: "Bad_Name": a lowercase RFC 1123 subdomain must consist of lower "#,
                "case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character ",
                "(e.g. 'example.com', regex used for validation is ",
                r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            )]
        );
    }

    #[test]
    fn a_missing_name_is_required() {
        assert_eq!(
            check(json!({"namespace": "default"})),
            ["metadata.name: Required value: name or generateName is required"]
        );
    }

    #[test]
    fn owners_labels_and_finalizers_are_checked() {
        let errors = check(json!({
            "name": "a", "namespace": "default",
            "labels": {"a b": "-"},
            "finalizers": ["mine"],
            "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "", "controller": true},
                {"apiVersion": "v1", "kind": "Pod", "name": "q", "uid": "2", "controller": true},
            ],
        }));
        assert_eq!(errors.len(), 5, "{errors:#?}");
    }

    #[test]
    fn what_is_going_takes_no_new_finalizer() {
        let meta = |finalizers: &[&str]| -> ObjectMeta {
            let stamp = "2026-01-01T00:00:00Z";
            serde_json::from_value(json!({"name": "a", "deletionTimestamp": stamp, "finalizers": finalizers})).unwrap()
        };
        assert!(object_meta_update(&meta(&[]), &meta(&["a/b"])).is_empty());
        assert_eq!(object_meta_update(&meta(&["a/b", "c/d"]), &meta(&["a/b"])).len(), 1);
    }
}
