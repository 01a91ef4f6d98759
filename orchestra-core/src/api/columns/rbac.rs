//! The columns of role bindings.

use k8s_openapi::{
    api::rbac::v1::{ClusterRoleBinding, RoleBinding, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::Value;

use super::{
    AGE, Columns, Description, NAME, Row, string,
    text::{age, name},
    wide,
};
use crate::clock::Timestamp;

/// The columns of role bindings.
pub const ROLE_BINDING: Columns<RoleBinding> = Columns {
    definitions: &[
        NAME,
        string("Role", Description::Field("io.k8s.api.rbac.v1.RoleBinding", "roleRef")),
        AGE,
        wide(string("Users", Description::Text("Users in the roleBinding"))),
        wide(string("Groups", Description::Text("Groups in the roleBinding"))),
        wide(string("ServiceAccounts", Description::Text("ServiceAccounts in the roleBinding"))),
    ],
    row: |binding, now| row(&binding.metadata, &binding.role_ref, binding.subjects.as_deref(), now),
};

/// The columns of cluster role bindings.
pub const CLUSTER_ROLE_BINDING: Columns<ClusterRoleBinding> = Columns {
    definitions: &[
        NAME,
        string("Role", Description::Field("io.k8s.api.rbac.v1.ClusterRoleBinding", "roleRef")),
        AGE,
        wide(string("Users", Description::Text("Users in the clusterRoleBinding"))),
        wide(string("Groups", Description::Text("Groups in the clusterRoleBinding"))),
        wide(string("ServiceAccounts", Description::Text("ServiceAccounts in the clusterRoleBinding"))),
    ],
    row: |binding, now| row(&binding.metadata, &binding.role_ref, binding.subjects.as_deref(), now),
};

fn row(meta: &ObjectMeta, role: &RoleRef, subjects: Option<&[Subject]>, now: Timestamp) -> Row {
    let subjects = subjects.unwrap_or_default();
    Row::of(vec![
        name(meta),
        format!("{}/{}", role.kind, role.name).into(),
        age(meta, now),
        of_kind(subjects, "User"),
        of_kind(subjects, "Group"),
        of_kind(subjects, "ServiceAccount"),
    ])
}

/// The subjects of one kind; accounts with their namespaces.
fn of_kind(subjects: &[Subject], kind: &str) -> Value {
    let names = subjects.iter().filter(|subject| subject.kind == kind).map(|subject| match kind {
        "ServiceAccount" => format!("{}/{}", subject.namespace.as_deref().unwrap_or_default(), subject.name),
        _ => subject.name.clone(),
    });
    names.collect::<Vec<_>>().join(", ").into()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_binding_shows_its_role_and_its_subjects_by_kind() {
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let binding = json!({ "metadata": { "name": "b" }, "roleRef": { "kind": "Role", "name": "r" }, "subjects": [
            { "kind": "User", "name": "ann" }, { "kind": "User", "name": "bob" }, { "kind": "Group", "name": "ops" },
            { "kind": "ServiceAccount", "name": "default", "namespace": "web" }] });
        let binding: RoleBinding = serde_json::from_value(binding).expect("a binding");
        let cells = (ROLE_BINDING.row)(&binding, now).cells;
        assert_eq!(json!(cells), json!(["b", "Role/r", "<unknown>", "ann, bob", "ops", "web/default"]));
    }
}
