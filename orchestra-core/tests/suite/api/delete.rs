//! How objects go: SEMANTICS 28, 29, 62 and 71.

use http::Method;
use serde_json::{Value, json};

use super::fixture::{
    CONFIG_MAPS, Cluster, DEPLOYMENTS, MERGE_PATCH, NAMESPACES, PODS, config_map, deployment, pod, version,
};

async fn with_finalizer(cluster: &Cluster, name: &str) -> Value {
    let mut given = config_map(name);
    given["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.post(CONFIG_MAPS, &given).await.ok()
}

async fn bound_pod(cluster: &Cluster, name: &str, grace: u64) -> Value {
    let mut given = pod(name);
    given["spec"]["nodeName"] = "n1".into();
    given["spec"]["terminationGracePeriodSeconds"] = grace.into();
    cluster.post(PODS, &given).await.ok()
}

/// SEMANTICS 28.
#[tokio::test(start_paused = true)]
async fn an_object_that_nobody_holds_is_gone_at_once() {
    let cluster = Cluster::new();
    let made = cluster.post(DEPLOYMENTS, &deployment("web")).await.ok();
    let path = format!("{DEPLOYMENTS}/web");
    let status = cluster.delete(&path).await.ok();
    assert_eq!((&status["kind"], &status["status"]), (&json!("Status"), &json!("Success")));
    let details = json!({ "name": "web", "group": "apps", "kind": "deployments", "uid": made["metadata"]["uid"] });
    assert_eq!(status["details"], details);
    let status = cluster.delete(&path).await.failed(404, "NotFound");
    assert_eq!(status["message"], "deployments.apps \"web\" not found");
}

/// SEMANTICS 28.
#[tokio::test(start_paused = true)]
async fn an_object_with_finalizers_stays_until_the_last_is_gone() {
    let cluster = Cluster::new();
    let made = with_finalizer(&cluster, "a").await;
    let path = format!("{CONFIG_MAPS}/a");
    let mut watch = cluster.watch(&format!("{CONFIG_MAPS}?watch=1&resourceVersion={}", version(&made))).await;
    let going = cluster.delete(&path).await.ok();
    assert_eq!(going["metadata"]["deletionTimestamp"], "2030-01-01T00:00:00Z");
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 0);
    assert!(version(&going) > version(&made));
    assert_eq!(cluster.get(&path).await.ok(), going);
    // Once is enough: the second time nothing is written.
    tokio::time::advance(std::time::Duration::from_secs(9)).await;
    assert_eq!(cluster.delete(&path).await.ok(), going);

    let more = json!({ "metadata": { "finalizers": ["example.com/hold", "example.com/more"] } });
    let words = "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted";
    cluster.patch(&path, MERGE_PATCH, &more).await.failed_with(422, "Invalid", words);
    let undone = json!({ "metadata": { "deletionTimestamp": null }, "data": { "a": "2" } });
    let still = cluster.patch(&path, MERGE_PATCH, &undone).await.ok();
    assert_eq!(still["metadata"]["deletionTimestamp"], going["metadata"]["deletionTimestamp"]);

    cluster.patch(&path, MERGE_PATCH, &json!({ "metadata": { "finalizers": null } })).await.ok();
    cluster.get(&path).await.failed(404, "NotFound");
    for expected in ["MODIFIED", "MODIFIED", "DELETED"] {
        assert_eq!(watch.told().await.0, expected);
    }
    assert!(watch.is_quiet().await);
}

/// SEMANTICS 28 and 62.
#[tokio::test(start_paused = true)]
async fn a_pod_is_left_to_its_kubelet_and_its_grace_only_shortens() {
    let cluster = Cluster::new();
    bound_pod(&cluster, "a", 30).await;
    let path = format!("{PODS}/a");
    for (asked, grace, at) in [(None, 30, "00:00:30"), (Some(60), 30, "00:00:30"), (Some(5), 5, "00:00:05")] {
        let query = asked.map(|seconds| format!("?gracePeriodSeconds={seconds}")).unwrap_or_default();
        let going = cluster.delete(&format!("{path}{query}")).await.ok();
        assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], grace, "{asked:?}");
        assert_eq!(going["metadata"]["deletionTimestamp"], format!("2030-01-01T{at}Z"), "{asked:?}");
    }
    cluster.delete_with(&path, &json!({ "gracePeriodSeconds": 0 })).await.ok();
    cluster.get(&path).await.failed(404, "NotFound");
    // One that no kubelet has seen needs none.
    cluster.post(PODS, &pod("b")).await.ok();
    cluster.delete(&format!("{PODS}/b")).await.ok();
    cluster.get(&format!("{PODS}/b")).await.failed(404, "NotFound");
}

/// SEMANTICS 28 and 62.
#[tokio::test(start_paused = true)]
async fn a_deletion_meant_for_another_object_or_version_is_a_conflict() {
    let cluster = Cluster::new();
    let made = cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    for (preconditions, words) in [
        (json!({ "uid": "other" }), "UID in precondition: other"),
        (json!({ "resourceVersion": "1" }), "ResourceVersion in precondition: 1"),
    ] {
        let reply = cluster.delete_with(&path, &json!({ "preconditions": preconditions })).await;
        reply.failed_with(409, "Conflict", words);
    }
    let meta = &made["metadata"];
    let mine = json!({ "uid": meta["uid"], "resourceVersion": meta["resourceVersion"] });
    cluster.delete_with(&path, &json!({ "preconditions": mine })).await.ok();
}

/// SEMANTICS 62 and 48.
#[tokio::test(start_paused = true)]
async fn what_becomes_of_dependents_is_said_by_finalizers() {
    let cluster = Cluster::new();
    let path = format!("{DEPLOYMENTS}/web");
    for (query, body, code, finalizers) in [
        ("?propagationPolicy=Foreground", Value::Null, 202, json!(["foregroundDeletion"])),
        ("", json!({ "propagationPolicy": "Foreground" }), 202, json!(["foregroundDeletion"])),
        ("?propagationPolicy=Orphan", Value::Null, 200, json!(["orphan"])),
        ("", json!({ "orphanDependents": true }), 200, json!(["orphan"])),
    ] {
        cluster.post(DEPLOYMENTS, &deployment("web")).await.ok();
        let target = format!("{path}{query}");
        let reply =
            if body.is_null() { cluster.delete(&target).await } else { cluster.delete_with(&target, &body).await };
        assert_eq!((reply.code, &reply.json()["metadata"]["finalizers"]), (code, &finalizers), "{query} {body}");
        cluster.patch(&path, MERGE_PATCH, &json!({ "metadata": { "finalizers": null } })).await.ok();
        cluster.get(&path).await.failed(404, "NotFound");
    }
    for options in
        [json!({ "propagationPolicy": "Random" }), json!({ "propagationPolicy": "Orphan", "orphanDependents": true })]
    {
        cluster.post(DEPLOYMENTS, &deployment("web")).await;
        let reply = cluster.delete_with(&path, &options).await;
        reply.failed_with(422, "Invalid", "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: ");
    }
}

/// SEMANTICS 29 and 62.
#[tokio::test(start_paused = true)]
async fn a_dry_run_of_a_deletion_deletes_nothing() {
    let cluster = Cluster::new();
    let made = cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    cluster.delete(&format!("{path}?dryRun=All")).await.ok();
    cluster.delete_with(&path, &json!({ "dryRun": ["All"] })).await.ok();
    cluster.delete(&format!("{CONFIG_MAPS}?dryRun=All")).await.ok();
    assert_eq!(cluster.get(&path).await.ok(), made);
    assert_eq!(cluster.now().await, version(&made));
    cluster.delete(&format!("{path}?dryRun=Some")).await.failed_with(422, "Invalid", "dryRun: Unsupported value");
    cluster.delete_with(&path, &json!({ "dryRun": ["Some"] })).await.failed_with(
        422,
        "Invalid",
        "dryRun: Unsupported value",
    );
}

/// SEMANTICS 29.
#[tokio::test(start_paused = true)]
async fn a_collection_is_deleted_as_selected() {
    let cluster = Cluster::new();
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "x")] {
        let mut given = config_map(name);
        given["metadata"]["labels"] = json!({ "l": label });
        cluster.post(CONFIG_MAPS, &given).await.ok();
    }
    with_finalizer(&cluster, "held").await;
    let deleted = cluster.delete(&format!("{CONFIG_MAPS}?labelSelector=l%3Dx")).await.ok();
    assert_eq!((&deleted["kind"], deleted["items"].as_array().map(Vec::len)), (&json!("ConfigMapList"), Some(2)));
    let left = |list: Value| list["items"].as_array().expect("items").len();
    assert_eq!(left(cluster.get(CONFIG_MAPS).await.ok()), 2);
    cluster.delete(CONFIG_MAPS).await.ok();
    let held = cluster.get(&format!("{CONFIG_MAPS}/held")).await.ok();
    assert!(held["metadata"].get("deletionTimestamp").is_some());
    assert_eq!(left(cluster.get(CONFIG_MAPS).await.ok()), 1);
}

/// SEMANTICS 29: each item is deleted on condition that it is the one that was listed.
#[tokio::test(start_paused = true)]
async fn a_collection_is_deleted_without_what_takes_the_names_of_its_items() {
    let cluster = Cluster::contended();
    for at in 0..20 {
        cluster.post(CONFIG_MAPS, &config_map(&format!("c-{at:02}"))).await.ok();
    }
    let replaced = async {
        let path = format!("{CONFIG_MAPS}/c-19");
        cluster.delete(&path).await.ok();
        cluster.post(CONFIG_MAPS, &config_map("c-19")).await.ok()
    };
    let (reply, replaced) = tokio::join!(cluster.delete(CONFIG_MAPS), replaced);
    assert_eq!(reply.ok()["items"].as_array().map(Vec::len), Some(20));
    let list = cluster.get(CONFIG_MAPS).await.ok();
    assert_eq!(list["items"], json!([replaced]));
}

/// SEMANTICS 30 and 71.
#[tokio::test(start_paused = true)]
async fn a_namespace_is_gone_once_it_is_finalized() {
    let cluster = Cluster::new();
    cluster.post(NAMESPACES, &json!({ "metadata": { "name": "there" } })).await.ok();
    let path = format!("{NAMESPACES}/there");
    let going = cluster.delete(&path).await.ok();
    assert_eq!(
        (&going["status"]["phase"], &going["spec"]["finalizers"]),
        (&json!("Terminating"), &json!(["kubernetes"]))
    );
    assert_eq!(cluster.delete(&path).await.ok(), going);
    // Its finalizers change by `finalize` only.
    let mut finalized = going.clone();
    finalized["spec"]["finalizers"] = json!([]);
    cluster.put(&path, &finalized).await.ok();
    assert_eq!(cluster.get(&path).await.ok()["spec"]["finalizers"], json!(["kubernetes"]));
    let mut stale = finalized.clone();
    stale["metadata"]["resourceVersion"] = "1".into();
    cluster.put(&format!("{path}/finalize"), &stale).await.failed(409, "Conflict");
    cluster.put(&format!("{path}/finalize?dryRun=All"), &finalized).await.ok();
    cluster.get(&path).await.ok();
    cluster.put(&format!("{path}/finalize"), &finalized).await.ok();
    cluster.get(&path).await.failed(404, "NotFound");
}

#[tokio::test(start_paused = true)]
async fn delete_options_that_make_no_sense_are_refused() {
    let cluster = Cluster::new();
    cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    for (query, body) in [
        ("", "{"),
        ("", "[]"),
        ("", r#"{"gracePeriodSeconds": "x"}"#),
        ("?gracePeriodSeconds=x", ""),
        ("?orphanDependents=x", ""),
    ] {
        let reply = cluster.send(Method::DELETE, &format!("{path}{query}"), "application/json", body).await;
        reply.failed(400, "BadRequest");
    }
    cluster.get(&path).await.ok();
}

/// SEMANTICS 28: typed clients decode the answer.
#[tokio::test(start_paused = true)]
async fn of_a_pod_a_service_and_their_like_the_last_that_was_is_told() {
    let cluster = Cluster::new();
    let account = json!({ "metadata": { "name": "a" } });
    let class = json!({ "metadata": { "name": "a" }, "provisioner": "acme.com/disk" });
    for (path, given) in [
        (PODS, pod("a")),
        (
            "/api/v1/namespaces/default/services",
            json!({ "metadata": { "name": "a" }, "spec": { "ports": [{ "port": 80 }] } }),
        ),
        ("/api/v1/namespaces/default/serviceaccounts", account),
        ("/apis/storage.k8s.io/v1/storageclasses", class),
    ] {
        let mut made = cluster.post(path, &given).await.ok();
        let path = format!("{path}/a");
        assert_eq!(cluster.delete(&format!("{path}?dryRun=All")).await.ok(), made);
        let last = cluster.delete(&path).await.ok();
        assert!(version(&last) > version(&made), "it tells when it went");
        made["metadata"]["resourceVersion"] = last["metadata"]["resourceVersion"].clone();
        assert_eq!(last, made);
        cluster.get(&path).await.failed(404, "NotFound");
    }
}

#[tokio::test(start_paused = true)]
async fn the_namespaces_that_a_cluster_rests_on_may_not_be_deleted() {
    let cluster = Cluster::new();
    for name in ["default", "kube-system", "kube-public"] {
        let path = format!("{NAMESPACES}/{name}");
        let options = json!({ "propagationPolicy": "Foreground" });
        for refused in [
            cluster.delete(&path).await,
            cluster.delete(&format!("{path}?dryRun=All")).await,
            cluster.delete_with(&path, &options).await,
        ] {
            let status = refused.failed(403, "Forbidden");
            let message = format!("namespaces \"{name}\" is forbidden: this namespace may not be deleted");
            assert_eq!(status["message"], message);
            assert_eq!(status["details"], json!({ "name": name, "kind": "namespaces" }));
        }
        assert_eq!(cluster.get(&path).await.ok()["status"]["phase"], "Active");
        let another = json!({ "preconditions": { "uid": "another" } });
        cluster.delete_with(&path, &another).await.failed(409, "Conflict");
    }
    // Other things may be called like them.
    cluster.post(CONFIG_MAPS, &config_map("default")).await.ok();
    cluster.delete(&format!("{CONFIG_MAPS}/default")).await.ok();
}

/// SEMANTICS 71: what the nodes could not do without, such as the place of their leases, comes back.
#[tokio::test(start_paused = true)]
async fn a_namespace_that_every_cluster_has_comes_back_when_it_is_gone() {
    let cluster = Cluster::new();
    let path = format!("{NAMESPACES}/kube-node-lease");
    for _ in 0..3 {
        let marked = cluster.delete(&path).await.ok();
        assert_eq!(marked["status"]["phase"], "Terminating");
        let mut watch = cluster.watch(&format!("{NAMESPACES}?watch=1&resourceVersion={}", version(&marked))).await;
        let mut emptied = marked.clone();
        emptied["spec"]["finalizers"] = json!([]);
        cluster.put(&format!("{path}/finalize"), &emptied).await.ok();
        assert_eq!(watch.told().await, ("DELETED".into(), "kube-node-lease".into()));
        assert_eq!(watch.told().await, ("ADDED".into(), "kube-node-lease".into()));
        let back = cluster.get(&path).await.ok();
        assert_eq!(back["status"]["phase"], "Active");
        assert_ne!(back["metadata"]["uid"], marked["metadata"]["uid"]);
        // And then it is left alone.
        assert!(watch.is_quiet().await);
    }
}

/// SEMANTICS 29 and 66.
#[tokio::test(start_paused = true)]
async fn all_namespaces_at_once_are_not_deleted() {
    let cluster = Cluster::new();
    cluster.delete(NAMESPACES).await.failed(405, "MethodNotAllowed");
    let core = cluster.get("/api/v1").await.ok();
    for resource in core["resources"].as_array().expect("resources") {
        let verbs = resource["verbs"].as_array().expect("verbs");
        let whole = verbs.contains(&json!("list")) && resource["name"] != "namespaces";
        assert_eq!(verbs.contains(&json!("deletecollection")), whole, "{resource}");
    }
}
