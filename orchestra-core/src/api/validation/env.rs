//! The rules of a container's environment, and of what it can take from its pod.

use k8s_openapi::api::core::v1::{EnvFromSource, EnvVar, EnvVarSource, ObjectFieldSelector, ResourceFieldSelector};

use super::metadata::invalid;
use super::names;
use super::values::required;
use super::{FieldError, Path};

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// The fields of a pod that a file of a volume may hold.
pub(super) const VOLUME_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Checks the variables of a container.
pub(super) fn env(env: &[EnvVar], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for (index, variable) in env.iter().enumerate() {
        let path = path.index(index);
        match variable.name.as_str() {
            "" => errors.push(FieldError::required(&path.field("name"), "")),
            name => invalid(&path.field("name"), name, names::env_var_name(name), errors),
        }
        if let Some(source) = &variable.value_from {
            let has_value = variable.value.as_deref().is_some_and(|value| !value.is_empty());
            value_from(source, has_value, &path.field("valueFrom"), errors);
        }
    }
}

/// Checks the ConfigMaps and Secrets whose every key is a variable.
pub(super) fn env_from(sources: &[EnvFromSource], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for (index, source) in sources.iter().enumerate() {
        let path = path.index(index);
        if let Some(prefix) = source.prefix.as_deref().filter(|prefix| !prefix.is_empty()) {
            invalid(&path.field("prefix"), prefix, names::env_var_name(prefix), errors);
        }
        match (&source.config_map_ref, &source.secret_ref) {
            (None, None) => {
                let detail = "must specify one of: `configMapRef` or `secretRef`";
                errors.push(FieldError::invalid(&path, "", detail));
            }
            (Some(_), Some(_)) => {
                errors.push(FieldError::invalid(&path, "", "may not have more than one field specified at a time"));
            }
            (Some(map), None) => required(Some(&map.name), &path.field("configMapRef").field("name"), errors),
            (None, Some(secret)) => required(Some(&secret.name), &path.field("secretRef").field("name"), errors),
        }
    }
}

/// Checks a field of a pod by its path, which has to be one of `supported` or a single label or annotation.
pub(super) fn field_ref(
    field: &ObjectFieldSelector,
    supported: &[&str],
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    required(field.api_version.as_deref(), &path.field("apiVersion"), errors);
    let path = path.field("fieldPath");
    let text = field.field_path.as_str();
    let subscript = text.split_once("['").and_then(|(base, rest)| Some((base, rest.strip_suffix("']")?)));
    match subscript {
        Some(("metadata.labels", key)) => invalid(&path, key, names::qualified_name(key), errors),
        Some(("metadata.annotations", key)) => {
            invalid(&path, key, names::qualified_name(&key.to_lowercase()), errors);
        }
        Some((base, _)) => errors.push(FieldError::invalid(&path, base, "does not support subscript")),
        None if text.is_empty() => errors.push(FieldError::required(&path, "")),
        None if supported.contains(&text) => {}
        None => errors.push(FieldError::not_supported(&path, text, supported)),
    }
}

/// Checks a resource of a container by its name; `container_named` says that it has to name the container.
pub(super) fn resource_field_ref(
    field: &ResourceFieldSelector,
    container_named: bool,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    if container_named {
        required(field.container_name.as_deref(), &path.field("containerName"), errors);
    }
    let path = path.field("resource");
    match field.resource.as_str() {
        "" => errors.push(FieldError::required(&path, "")),
        name if RESOURCES.contains(&name) || name.contains(".hugepages-") => {}
        name => errors.push(FieldError::not_supported(&path, name, &RESOURCES)),
    }
}

fn value_from(source: &EnvVarSource, has_value: bool, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut count = 0;
    if let Some(field) = &source.field_ref {
        count += 1;
        field_ref(field, &ENV_FIELDS, &path.field("fieldRef"), errors);
    }
    if let Some(field) = &source.resource_field_ref {
        count += 1;
        resource_field_ref(field, false, &path.field("resourceFieldRef"), errors);
    }
    if let Some(key) = &source.config_map_key_ref {
        count += 1;
        key_of(&key.name, &key.key, &path.field("configMapKeyRef"), errors);
    }
    if let Some(key) = &source.secret_key_ref {
        count += 1;
        key_of(&key.name, &key.key, &path.field("secretKeyRef"), errors);
    }
    count += usize::from(source.file_key_ref.is_some());
    if count == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
             `fileKeyRef`";
        errors.push(FieldError::invalid(path, "", detail));
    } else if has_value {
        errors.push(FieldError::invalid(path, "", "may not be specified when `value` is not empty"));
    } else if count > 1 {
        errors.push(FieldError::invalid(path, "", "may not have more than one field specified at a time"));
    }
}

fn key_of(name: &str, key: &str, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    required(Some(name), &path.field("name"), errors);
    match key {
        "" => errors.push(FieldError::required(&path.field("key"), "")),
        key => invalid(&path.field("key"), key, names::config_key(key), errors),
    }
}
