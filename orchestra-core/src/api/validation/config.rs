//! The rules of config maps, secrets and service accounts.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret, ServiceAccount};

use super::metadata::{Scope, immutable, invalid, object_meta, object_meta_update};
use super::names::{self, NameRule};
use super::{FieldError, Path};

/// The most bytes of all values of a ConfigMap or Secret.
pub const DATA_BYTES_MAX: usize = 1 << 20;
const SEALED: &str = "field is immutable when `immutable` is set";
const ACCOUNT_ANNOTATION: &str = "kubernetes.io/service-account.name";

/// Checks a config map.
pub fn config_map(map: &ConfigMap) -> Vec<FieldError> {
    let mut errors = object_meta(&map.metadata, Scope::Namespaced, NameRule::Subdomain);
    let (data, binary) = (Path::root("data"), Path::root("binaryData"));
    let mut bytes = 0;
    for (key, value) in map.data.iter().flatten() {
        invalid(&data.key(key), key, names::config_key(key), &mut errors);
        if map.binary_data.as_ref().is_some_and(|binary| binary.contains_key(key)) {
            let detail = "duplicate of key present in binaryData";
            errors.push(FieldError::invalid(&data.key(key), key, detail));
        }
        bytes += value.len();
    }
    for (key, value) in map.binary_data.iter().flatten() {
        invalid(&binary.key(key), key, names::config_key(key), &mut errors);
        bytes += value.0.len();
    }
    size(bytes, &mut errors);
    errors
}

/// Checks what a write changes in a config map, which can be sealed.
pub fn config_map_update(new: &ConfigMap, old: &ConfigMap) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    if old.immutable == Some(true) {
        sealed(new.immutable == Some(true), "immutable", &mut errors);
        sealed(new.data == old.data, "data", &mut errors);
        sealed(new.binary_data == old.binary_data, "binaryData", &mut errors);
    }
    errors
}

/// Checks a secret, whose type may demand keys of it.
pub fn secret(secret: &Secret) -> Vec<FieldError> {
    let mut errors = object_meta(&secret.metadata, Scope::Namespaced, NameRule::Subdomain);
    let path = Path::root("data");
    let no_data = BTreeMap::new();
    let data = secret.data.as_ref().unwrap_or(&no_data);
    for key in data.keys() {
        invalid(&path.key(key), key, names::config_key(key), &mut errors);
    }
    size(data.values().map(|value| value.0.len()).sum(), &mut errors);
    match secret.type_.as_deref().unwrap_or_default() {
        "kubernetes.io/service-account-token" => {
            let annotations = secret.metadata.annotations.as_ref();
            if annotations.and_then(|all| all.get(ACCOUNT_ANNOTATION)).is_none_or(String::is_empty) {
                let metadata = Path::root("metadata");
                let annotations = metadata.field("annotations");
                errors.push(FieldError::required(&annotations.key(ACCOUNT_ANNOTATION), ""));
            }
        }
        "kubernetes.io/dockercfg" => json_key(data, ".dockercfg", &mut errors),
        "kubernetes.io/dockerconfigjson" => json_key(data, ".dockerconfigjson", &mut errors),
        "kubernetes.io/basic-auth" if !data.contains_key("username") && !data.contains_key("password") => {
            key(data, "username", &mut errors);
            key(data, "password", &mut errors);
        }
        "kubernetes.io/ssh-auth" => key(data, "ssh-privatekey", &mut errors),
        "kubernetes.io/tls" => {
            key(data, "tls.crt", &mut errors);
            key(data, "tls.key", &mut errors);
        }
        _ => {}
    }
    errors
}

/// Checks what a write changes in a secret: its type stays, and it can be sealed.
pub fn secret_update(new: &Secret, old: &Secret) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    immutable(&new.type_, &old.type_, &Path::root("type"), &mut errors);
    if old.immutable == Some(true) {
        sealed(new.immutable == Some(true), "immutable", &mut errors);
        sealed(new.data == old.data, "data", &mut errors);
    }
    errors
}

/// Checks a service account.
pub fn service_account(account: &ServiceAccount) -> Vec<FieldError> {
    object_meta(&account.metadata, Scope::Namespaced, NameRule::Subdomain)
}

/// Checks what a write changes in a service account.
pub fn service_account_update(new: &ServiceAccount, old: &ServiceAccount) -> Vec<FieldError> {
    object_meta_update(&new.metadata, &old.metadata)
}

fn size(bytes: usize, errors: &mut Vec<FieldError>) {
    if bytes > DATA_BYTES_MAX {
        // Kubernetes names no field here, and writes `[]`.
        errors.push(FieldError::too_long(&Path::root("data"), DATA_BYTES_MAX));
    }
}

fn sealed(unchanged: bool, field: &str, errors: &mut Vec<FieldError>) {
    if !unchanged {
        errors.push(FieldError::forbidden(&Path::root(field), SEALED));
    }
}

fn key(data: &BTreeMap<String, ByteString>, name: &str, errors: &mut Vec<FieldError>) {
    if !data.contains_key(name) {
        errors.push(FieldError::required(&Path::root("data").key(name), ""));
    }
}

/// The value is not repeated: it is secret.
fn json_key(data: &BTreeMap<String, ByteString>, name: &str, errors: &mut Vec<FieldError>) {
    key(data, name, errors);
    let json = data.get(name).map(|value| serde_json::from_slice::<serde::de::IgnoredAny>(&value.0));
    if let Some(Err(error)) = json {
        let value = "<secret contents redacted>";
        errors.push(FieldError::invalid(&Path::root("data").key(name), value, error.to_string()));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_and_size_are_checked() {
        let map: ConfigMap = serde_json::from_value(json!({
            "metadata": {"name": "a", "namespace": "default"},
            "data": {"a/b": "", "big": "x".repeat(DATA_BYTES_MAX)}, "binaryData": {"big": "AA=="},
        }))
        .unwrap();
        let errors: Vec<String> = config_map(&map).iter().map(ToString::to_string).collect();
        assert_eq!(errors.len(), 3, "{errors:#?}");
        assert_eq!(errors[2], "data: Too long: may not be more than 1048576 bytes");
    }

    #[test]
    fn what_is_sealed_stays() {
        let map = |value: &str, immutable: bool| -> ConfigMap {
            serde_json::from_value(json!({"metadata": {"name": "a"}, "data": {"a": value}, "immutable": immutable}))
                .unwrap()
        };
        assert_eq!(config_map_update(&map("2", true), &map("1", false)), []);
        assert_eq!(config_map_update(&map("2", false), &map("1", true)).len(), 2);
    }

    #[test]
    fn a_secret_has_the_keys_of_its_type() {
        let tls: Secret = serde_json::from_value(json!({
            "metadata": {"name": "a", "namespace": "default"}, "type": "kubernetes.io/tls", "data": {"tls.crt": ""},
        }))
        .unwrap();
        assert_eq!(secret(&tls)[0].to_string(), "data[tls.key]: Required value");
    }
}
