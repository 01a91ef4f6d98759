//! The defaults of the remaining kinds.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Endpoints, Namespace, Secret};
use k8s_openapi::api::discovery::v1::{EndpointConditions, EndpointSlice};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";
/// The label by which selectors find a namespace by name.
const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Labels a namespace with its name.
///
/// The finalizer `kubernetes` in its spec is the server's to set when it creates one.
pub fn namespace(namespace: &mut Namespace) {
    let Some(name) = namespace.metadata.name.clone().filter(|name| !name.is_empty()) else { return };
    namespace.metadata.labels.get_or_insert_default().insert(NAMESPACE_NAME_LABEL.to_owned(), name);
}

/// Fills in a secret; what it gives as text becomes data.
pub fn secret(secret: &mut Secret) {
    if secret.type_.as_deref().unwrap_or_default().is_empty() {
        secret.type_ = Some("Opaque".to_owned());
    }
    for (key, text) in secret.string_data.take().into_iter().flatten() {
        secret.data.get_or_insert_default().insert(key, ByteString(text.into_bytes()));
    }
}

/// Fills in the endpoints of a service.
pub fn endpoints(endpoints: &mut Endpoints) {
    let ports = endpoints.subsets.iter_mut().flatten().flat_map(|subset| subset.ports.iter_mut().flatten());
    for port in ports {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
}

/// Fills in a slice of endpoints.
pub fn endpoint_slice(slice: &mut EndpointSlice) {
    for port in slice.ports.iter_mut().flatten() {
        port.name.get_or_insert_default();
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
    for endpoint in slice.endpoints.iter_mut().flatten() {
        endpoint.conditions.get_or_insert_with(EndpointConditions::default);
    }
}

/// Fills in a role binding.
pub fn role_binding(binding: &mut RoleBinding) {
    role_ref(&mut binding.role_ref);
    subjects(binding.subjects.as_deref_mut());
}

/// Fills in a cluster role binding.
pub fn cluster_role_binding(binding: &mut ClusterRoleBinding) {
    role_ref(&mut binding.role_ref);
    subjects(binding.subjects.as_deref_mut());
}

/// Fills in a disruption budget, which by itself asks for nothing.
pub fn pod_disruption_budget(budget: &mut PodDisruptionBudget) {
    if let Some(spec) = &mut budget.spec {
        spec.selector.get_or_insert_with(LabelSelector::default);
    }
}

/// Fills in a priority class.
pub fn priority_class(class: &mut PriorityClass) {
    class.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".to_owned());
}

/// Fills in a storage class.
pub fn storage_class(class: &mut StorageClass) {
    class.reclaim_policy.get_or_insert_with(|| "Delete".to_owned());
    class.volume_binding_mode.get_or_insert_with(|| "Immediate".to_owned());
}

fn role_ref(role: &mut RoleRef) {
    if role.api_group.as_deref().unwrap_or_default().is_empty() {
        role.api_group = Some(RBAC_GROUP.to_owned());
    }
}

fn subjects(subjects: Option<&mut [Subject]>) {
    for subject in subjects.into_iter().flatten() {
        let group = if matches!(subject.kind.as_str(), "User" | "Group") { RBAC_GROUP } else { "" };
        if !group.is_empty() && subject.api_group.as_deref().unwrap_or_default().is_empty() {
            subject.api_group = Some(group.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_a_secret_becomes_data() {
        let mut with_text = Secret { string_data: Some([("a".into(), "b".into())].into()), ..Default::default() };
        secret(&mut with_text);
        assert_eq!(with_text.string_data, None);
        assert_eq!(with_text.data, Some([("a".to_owned(), ByteString(b"b".to_vec()))].into()));
        assert_eq!(with_text.type_.as_deref(), Some("Opaque"));
    }
}
