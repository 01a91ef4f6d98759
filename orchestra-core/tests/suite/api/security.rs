//! Security contexts that Kubernetes refuses, with its own words for why (SEMANTICS 35).

use serde_json::{Value, json};

use super::fixture::{Cluster, PODS, pod};

/// A pod with a security context of its own, and one of its container.
fn pod_with(of_pod: &Value, of_container: &Value) -> Value {
    let mut given = pod("a");
    given["spec"]["securityContext"] = of_pod.clone();
    given["spec"]["containers"][0]["securityContext"] = of_container.clone();
    given
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_in_a_security_context_is_named() {
    let cluster = Cluster::new();
    let id = "Invalid value: -1: must be between 0 and 2147483647, inclusive";
    let profile = json!({ "type": "Localhost" });
    let needs_file = |what: &str| format!("Required value: must be set when {what} type is Localhost");
    for (context, field, words) in [
        (json!({ "runAsUser": -1 }), "runAsUser", id.to_owned()),
        (json!({ "runAsGroup": -1 }), "runAsGroup", id.to_owned()),
        (json!({ "seccompProfile": profile }), "seccompProfile.localhostProfile", needs_file("seccomp")),
        (json!({ "appArmorProfile": profile }), "appArmorProfile.localhostProfile", needs_file("AppArmor")),
    ] {
        refused(&cluster, &pod_with(&context, &json!({})), "spec.securityContext", field, &words).await;
        let of_container = "spec.containers[0].securityContext";
        refused(&cluster, &pod_with(&json!({}), &context), of_container, field, &words).await;
    }
    for (context, field, words) in [
        (json!({ "fsGroup": -1 }), "fsGroup", id),
        (json!({ "supplementalGroups": [1, -1] }), "supplementalGroups[1]", id),
        (json!({ "sysctls": [{ "name": "A", "value": "" }] }), "sysctls[0].name", "Invalid value: \"A\": must have"),
        (
            json!({ "fsGroupChangePolicy": "Never" }),
            "fsGroupChangePolicy",
            "Unsupported value: \"Never\": supported values: \"Always\", \"OnRootMismatch\"",
        ),
    ] {
        refused(&cluster, &pod_with(&context, &json!({})), "spec.securityContext", field, words).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_without_escalation_is_not_privileged() {
    let cluster = Cluster::new();
    for (context, words) in [
        (json!({ "privileged": true }), "to false and `privileged` to true"),
        (json!({ "capabilities": { "add": ["CAP_SYS_ADMIN"] } }), "to false and `capabilities.Add` CAP_SYS_ADMIN"),
    ] {
        cluster.post(&format!("{PODS}?dryRun=All"), &pod_with(&json!({}), &context)).await.ok();
        let mut held = context;
        held["allowPrivilegeEscalation"] = false.into();
        let reply = cluster.post(PODS, &pod_with(&json!({}), &held)).await;
        reply.failed_with(422, "Invalid", &format!("cannot set `allowPrivilegeEscalation` {words}"));
        let field = &reply.json()["details"]["causes"][0]["field"];
        assert_eq!(field, "spec.containers[0].securityContext");
    }
    let unmounted = pod_with(&json!({}), &json!({ "procMount": "None" }));
    let words = "Unsupported value: \"None\": supported values: \"Default\", \"Unmasked\"";
    refused(&cluster, &unmounted, "spec.containers[0].securityContext", "procMount", words).await;
}

async fn refused(cluster: &Cluster, pod: &Value, context: &str, field: &str, words: &str) {
    let reply = cluster.post(PODS, pod).await;
    reply.failed_with(422, "Invalid", &format!("{context}.{field}: {words}"));
    assert_eq!(reply.json()["details"]["causes"][0]["field"], format!("{context}.{field}"));
}
