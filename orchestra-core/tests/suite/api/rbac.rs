//! Roles and bindings, which are stored and checked like any other kind.

use serde_json::json;

use super::fixture::Cluster;

const GROUP: &str = "/apis/rbac.authorization.k8s.io/v1";

#[tokio::test(start_paused = true)]
async fn roles_and_bindings_are_stored_as_they_were_given() {
    let cluster = Cluster::new();
    let role = json!({ "metadata": { "name": "reader" }, "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": ["get"] }] });
    let role_ref = |kind: &str| json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": "reader" });
    let subjects = json!([{ "kind": "ServiceAccount", "name": "default", "namespace": "default" }]);
    for (path, object) in [
        ("namespaces/default/roles", role.clone()),
        ("clusterroles", role),
        (
            "namespaces/default/rolebindings",
            json!({ "metadata": { "name": "reader" }, "roleRef": role_ref("Role"), "subjects": subjects }),
        ),
        (
            "clusterrolebindings",
            json!({ "metadata": { "name": "reader" }, "roleRef": role_ref("ClusterRole"), "subjects": subjects }),
        ),
    ] {
        let path = format!("{GROUP}/{path}");
        cluster.post(&path, &object).await.ok();
        let stored = cluster.get(&format!("{path}/reader")).await.ok();
        for field in ["rules", "roleRef", "subjects"] {
            assert_eq!(stored[field], object[field], "{path} {field}");
        }
    }
}

/// SEMANTICS 35: a refusal names the field.
#[tokio::test(start_paused = true)]
async fn a_rule_or_a_binding_that_makes_no_sense_is_refused() {
    let cluster = Cluster::new();
    let fields = |status: &serde_json::Value| {
        let causes = status["details"]["causes"].as_array().cloned().unwrap_or_default();
        causes.iter().map(|cause| cause["field"].as_str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let role =
        json!({ "metadata": { "name": "r" }, "rules": [{ "apiGroups": [""], "resources": ["pods"], "verbs": [] }] });
    let refused = cluster.post(&format!("{GROUP}/namespaces/default/roles"), &role).await.failed(422, "Invalid");
    assert_eq!(fields(&refused), ["rules[0].verbs"]);
    let binding = json!({ "metadata": { "name": "b" }, "roleRef": { "kind": "Nobody", "name": "r" },
        "subjects": [{ "kind": "ServiceAccount", "name": "default" }] });
    let refused = cluster.post(&format!("{GROUP}/clusterrolebindings"), &binding).await.failed(422, "Invalid");
    assert_eq!(fields(&refused), ["roleRef.kind", "subjects[0].namespace"]);
}
