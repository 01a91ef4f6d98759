//! What an update may change: SEMANTICS 25 and 61.

use serde_json::{Value, json};

use super::fixture::{CONFIG_MAPS, Cluster, DEPLOYMENTS, MERGE_PATCH, PODS, config_map, deployment, pod, version};

/// SEMANTICS 25 and 61: with it every leader election stands or falls.
#[tokio::test(start_paused = true)]
async fn an_update_of_a_version_that_is_no_longer_current_is_a_conflict() {
    let cluster = Cluster::new();
    let old = cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let mut new = old.clone();
    new["data"]["a"] = "2".into();
    let new = cluster.put(&path, &new).await.ok();
    assert!(version(&new) > version(&old));

    let mut stale = old.clone();
    stale["data"]["a"] = "3".into();
    let status = cluster.put(&path, &stale).await.failed(409, "Conflict");
    assert_eq!(
        status["message"],
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the \
         latest version and try again"
    );
    assert_eq!(cluster.get(&path).await.ok(), new);
    // Without a version the write is meant for whatever is there.
    stale["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
    assert_eq!(cluster.put(&path, &stale).await.ok()["data"]["a"], "3");
}

/// SEMANTICS 25: of updates that have all seen one version exactly one is done.
#[tokio::test(start_paused = true)]
async fn one_of_many_concurrent_updates_wins() {
    let cluster = Cluster::contended();
    let seen = cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let updates = (0..20).map(|at| {
        let (cluster, mut new) = (cluster.clone(), seen.clone());
        new["data"]["a"] = format!("by {at}").into();
        async move { cluster.put(&format!("{CONFIG_MAPS}/a"), &new).await.code }
    });
    let codes = futures::future::join_all(updates).await;
    assert_eq!(codes.iter().filter(|code| **code == 200).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 409).count(), 19, "{codes:?}");
}

/// SEMANTICS 25.
#[tokio::test(start_paused = true)]
async fn an_update_meant_for_another_object_of_the_name_is_a_conflict() {
    let cluster = Cluster::new();
    cluster.post(PODS, &pod("a")).await.ok();
    let other = json!({ "metadata": { "name": "a", "uid": "other" } });
    for path in [format!("{PODS}/a"), format!("{PODS}/a/status")] {
        let reply = cluster.patch(&path, MERGE_PATCH, &other).await;
        reply.failed_with(409, "Conflict", "Precondition failed: UID in precondition: other, UID in object meta: ");
    }
}

/// SEMANTICS 25.
#[tokio::test(start_paused = true)]
async fn generation_counts_changes_of_the_spec_and_of_nothing_else() {
    let cluster = Cluster::new();
    let path = format!("{DEPLOYMENTS}/web");
    cluster.post(DEPLOYMENTS, &deployment("web")).await.ok();
    let generation = |object: &Value| object["metadata"]["generation"].as_i64().expect("a generation");
    let steps = [
        ("", json!({ "metadata": { "labels": { "a": "b" } } }), 1),
        ("/status", json!({ "status": { "replicas": 3 } }), 1),
        ("", json!({ "spec": { "replicas": 2 } }), 2),
        ("", json!({ "spec": { "replicas": 2 } }), 2),
        ("", json!({ "metadata": { "generation": 9 } }), 2),
    ];
    for (subresource, patch, expected) in steps {
        let now = cluster.patch(&format!("{path}{subresource}"), MERGE_PATCH, &patch).await.ok();
        assert_eq!(generation(&now), expected, "{patch}");
    }
}

/// SEMANTICS 25: each field has one writer.
#[tokio::test(start_paused = true)]
async fn status_and_the_rest_are_written_apart() {
    let cluster = Cluster::new();
    let path = format!("{DEPLOYMENTS}/web");
    cluster.post(DEPLOYMENTS, &deployment("web")).await.ok();
    let both =
        json!({ "metadata": { "labels": { "a": "b" } }, "spec": { "replicas": 4 }, "status": { "replicas": 3 } });
    let by_status = cluster.patch(&format!("{path}/status"), MERGE_PATCH, &both).await.ok();
    assert_eq!((&by_status["spec"]["replicas"], &by_status["status"]["replicas"]), (&json!(1), &json!(3)));
    assert!(by_status["metadata"].get("labels").is_none());
    let mut whole = by_status.clone();
    whole["spec"]["replicas"] = 4.into();
    whole["status"]["replicas"] = 9.into();
    let by_spec = cluster.put(&path, &whole).await.ok();
    assert_eq!((&by_spec["spec"]["replicas"], &by_spec["status"]["replicas"]), (&json!(4), &json!(3)));
}

/// SEMANTICS 25.
#[tokio::test(start_paused = true)]
async fn a_write_that_changes_nothing_is_none() {
    let cluster = Cluster::new();
    let old = cluster.post(DEPLOYMENTS, &deployment("web")).await.ok();
    let mut watch = cluster.watch(&format!("{DEPLOYMENTS}?watch=1&resourceVersion={}", version(&old))).await;
    let path = format!("{DEPLOYMENTS}/web");
    assert_eq!(cluster.put(&path, &old).await.ok(), old);
    // What is left to the server is as the server has filled it in.
    assert_eq!(cluster.put(&path, &deployment("web")).await.ok(), old);
    assert_eq!(cluster.patch(&path, MERGE_PATCH, &json!({})).await.ok(), old);
    assert!(watch.is_quiet().await);
    assert_eq!(cluster.now().await, version(&old));
}

/// SEMANTICS 25.
#[tokio::test(start_paused = true)]
async fn what_the_server_has_set_stays() {
    let cluster = Cluster::new();
    let old = cluster.post(CONFIG_MAPS, &json!({ "metadata": { "generateName": "a-" } })).await.ok();
    let name = old["metadata"]["name"].as_str().expect("a name");
    let given = json!({ "metadata": {
        "name": name, "creationTimestamp": "2001-01-01T00:00:00Z", "deletionTimestamp": "2001-01-01T00:00:00Z",
        "generateName": "b-", "selfLink": "/x", "managedFields": [{ "manager": "me" }],
    }});
    assert_eq!(cluster.put(&format!("{CONFIG_MAPS}/{name}"), &given).await.ok()["metadata"], old["metadata"]);
}

/// SEMANTICS 25 and 35.
#[tokio::test(start_paused = true)]
async fn what_is_immutable_can_not_be_changed() {
    let cluster = Cluster::new();
    cluster.post(DEPLOYMENTS, &deployment("web")).await.ok();
    let path = format!("{DEPLOYMENTS}/web");
    let mut other = deployment("web");
    other["spec"]["selector"]["matchLabels"] = json!({ "app": "db" });
    other["spec"]["template"]["metadata"]["labels"] = json!({ "app": "db" });
    let reply = cluster.put(&path, &other).await;
    reply.failed_with(422, "Invalid", "spec.selector: Invalid value: ");
    reply.failed_with(422, "Invalid", "field is immutable");
    assert_eq!(reply.json()["details"]["causes"][0]["field"], "spec.selector");

    let mut renamed = deployment("db");
    let words = "the name of the object (db) does not match the name on the URL (web)";
    cluster.put(&path, &renamed).await.failed_with(400, "BadRequest", words);
    renamed["metadata"] = json!({ "name": "web", "namespace": "kube-system" });
    let words = "the namespace of the provided object does not match the namespace sent on the request";
    cluster.put(&path, &renamed).await.failed_with(400, "BadRequest", words);
    cluster.put(&format!("{DEPLOYMENTS}/none"), &deployment("none")).await.failed(404, "NotFound");
}

/// SEMANTICS 29.
#[tokio::test(start_paused = true)]
async fn a_dry_run_of_an_update_changes_nothing() {
    let cluster = Cluster::new();
    let old = cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let mut new = old.clone();
    new["data"]["a"] = "2".into();
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(cluster.put(&format!("{path}?dryRun=All"), &new).await.ok()["data"]["a"], "2");
    assert_eq!(cluster.get(&path).await.ok(), old);
}

/// SEMANTICS 25: a blind write to a lease would end an election.
#[tokio::test(start_paused = true)]
async fn leases_and_budgets_are_updated_only_by_those_who_have_seen_them() {
    let cluster = Cluster::new();
    for (path, spec) in [
        ("/apis/coordination.k8s.io/v1/namespaces/default/leases", json!({ "holderIdentity": "a" })),
        ("/apis/policy/v1/namespaces/default/poddisruptionbudgets", json!({ "minAvailable": 1 })),
    ] {
        let made = cluster.post(path, &json!({ "metadata": { "name": "a" }, "spec": spec })).await.ok();
        let mut blind = made.clone();
        blind["metadata"].as_object_mut().expect("metadata").remove("resourceVersion");
        let reply = cluster.put(&format!("{path}/a"), &blind).await;
        reply.failed_with(
            422,
            "Invalid",
            "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update",
        );
        cluster.put(&format!("{path}/a"), &made).await.ok();
        // A patch is made of what is there.
        let patch = json!({ "metadata": { "labels": { "a": "b" } } });
        cluster.patch(&format!("{path}/a"), MERGE_PATCH, &patch).await.ok();
    }
}

/// As in Kubernetes; what has been seen and is gone stays so.
#[tokio::test(start_paused = true)]
async fn an_update_creates_a_lease_that_is_absent_but_no_config_map() {
    let cluster = Cluster::new();
    let path = "/apis/coordination.k8s.io/v1/namespaces/default/leases/a";
    let lease = json!({ "metadata": { "name": "a" }, "spec": { "holderIdentity": "a" } });
    let made = cluster.put(path, &lease).await;
    assert_eq!(made.code, 201);
    let made = made.ok();
    assert_eq!(cluster.get(path).await.ok(), made);
    cluster.put(path, &lease).await.failed(422, "Invalid");
    cluster.delete(path).await.ok();
    cluster.put(path, &made).await.failed(404, "NotFound");
    cluster.put(&format!("{CONFIG_MAPS}/none"), &config_map("none")).await.failed(404, "NotFound");
}

/// Gates only ever open; until the last one has, the pod says that it waits for them.
#[tokio::test(start_paused = true)]
async fn a_gated_pod_says_so_and_takes_no_new_gate() {
    let cluster = Cluster::new();
    let gates = |names: &[&str]| names.iter().map(|name| json!({ "name": name })).collect::<Value>();
    let mut given = pod("a");
    given["spec"]["schedulingGates"] = gates(&["example.com/quota", "example.com/data"]);
    let made = cluster.post(PODS, &given).await.ok();
    let condition = &made["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["status"]), (&json!("PodScheduled"), &json!("False")));
    assert_eq!(condition["reason"], "SchedulingGated");
    assert_eq!(condition["message"], "Scheduling is blocked due to non-empty scheduling gates");

    let path = format!("{PODS}/a");
    let with = |names: &[&str]| json!({ "spec": { "schedulingGates": gates(names) } });
    let reply = cluster.patch(&path, MERGE_PATCH, &with(&["example.com/data", "example.com/new"])).await;
    let words = "Pod \"a\" is invalid: spec.schedulingGates: Forbidden: only deletion is allowed, but found new scheduling \
                 gate 'example.com/new'";
    assert_eq!(reply.failed(422, "Invalid")["message"], words);
    let one = cluster.patch(&path, MERGE_PATCH, &with(&["example.com/data"])).await.ok();
    assert_eq!(one["spec"]["schedulingGates"], gates(&["example.com/data"]));
    let binding = json!({ "target": { "kind": "Node", "name": "n1" } });
    cluster.post(&format!("{path}/binding"), &binding).await.failed(409, "Conflict");
    cluster.patch(&path, MERGE_PATCH, &with(&[])).await.ok();
    cluster.post(&format!("{path}/binding"), &binding).await.ok();
    let bound = cluster.get(&path).await.ok();
    let conditions = bound["status"]["conditions"].as_array().expect("conditions");
    assert_eq!((conditions.len(), &conditions[0]["status"]), (1, &json!("True")));

    given = pod("b");
    given["spec"]["schedulingGates"] = gates(&["a", "a", "no gate"]);
    given["spec"]["nodeName"] = "n1".into();
    let reply = cluster.post(PODS, &given).await;
    for words in [
        "spec.schedulingGates[1]: Duplicate value: \"a\"",
        "spec.schedulingGates[2]: Invalid value",
        "spec.nodeName: Forbidden: cannot be set until",
    ] {
        reply.failed_with(422, "Invalid", words);
    }
}
