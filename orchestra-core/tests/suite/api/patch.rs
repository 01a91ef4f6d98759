//! Patches over the wire: SEMANTICS 26, 36 and 68.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::fixture::{
    CONFIG_MAPS, Cluster, DEPLOYMENTS, JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, config_map, deployment, version,
};

/// SEMANTICS 26.
#[tokio::test(start_paused = true)]
async fn an_object_is_patched_in_three_ways() {
    let cluster = Cluster::new();
    cluster.post(DEPLOYMENTS, &deployment("web")).await.ok();
    let path = format!("{DEPLOYMENTS}/web");
    let merge = json!({ "metadata": { "labels": { "a": "1", "b": "2" } } });
    let now = cluster.patch(&path, MERGE_PATCH, &merge).await.ok();
    assert_eq!(now["metadata"]["labels"], json!({ "a": "1", "b": "2" }));
    let steps = json!([
        { "op": "test", "path": "/metadata/labels/a", "value": "1" },
        { "op": "remove", "path": "/metadata/labels/a" },
        { "op": "replace", "path": "/spec/replicas", "value": 2 },
    ]);
    let now = cluster.patch(&path, JSON_PATCH, &steps).await.ok();
    assert_eq!((&now["metadata"]["labels"], &now["spec"]["replicas"]), (&json!({ "b": "2" }), &json!(2)));
    let containers =
        json!([{ "name": "web", "env": [{ "name": "A", "value": "1" }] }, { "name": "b", "image": "host" }]);
    let strategic = json!({ "spec": { "template": { "spec": { "containers": containers } } } });
    let now = cluster.patch(&path, STRATEGIC_PATCH, &strategic).await.ok();
    let containers = &now["spec"]["template"]["spec"]["containers"];
    assert_eq!((&containers[0]["name"], &containers[0]["image"]), (&json!("web"), &json!("host")));
    assert_eq!((&containers[0]["env"][0]["value"], &containers[1]["name"]), (&json!("1"), &json!("b")));
    // The same again changes nothing.
    assert_eq!(cluster.patch(&path, STRATEGIC_PATCH, &strategic).await.ok(), now);
}

/// What `kubectl label` and `kubectl annotate` leave, and what `kubectl diff` would show otherwise.
#[tokio::test(start_paused = true)]
async fn a_map_that_is_empty_is_none_however_it_was_written() {
    let cluster = Cluster::new();
    let empty = json!({ "labels": {}, "annotations": {}, "finalizers": [], "ownerReferences": [] });
    let mut given = json!({ "metadata": empty, "data": {}, "binaryData": {} });
    given["metadata"]["name"] = "a".into();
    let made = cluster.post(CONFIG_MAPS, &given).await.ok();
    let fields = |object: &Value| object.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(fields(&made), ["apiVersion", "kind", "metadata"]);
    assert_eq!(fields(&made["metadata"]), ["creationTimestamp", "name", "namespace", "resourceVersion", "uid"]);
    let path = format!("{CONFIG_MAPS}/a");
    assert_eq!(cluster.put(&format!("{path}?dryRun=All"), &given).await.ok(), made);
    assert_eq!(cluster.put(&path, &given).await.ok(), made, "nothing has changed");

    let labels = json!({ "a": "b" });
    let labelled = json!({ "metadata": { "labels": labels } });
    let unlabelled = json!({ "metadata": { "labels": { "a": null } } });
    let removed = json!([{ "op": "remove", "path": "/metadata/labels/a" }]);
    for (media, patch) in [(MERGE_PATCH, &unlabelled), (STRATEGIC_PATCH, &unlabelled), (JSON_PATCH, &removed)] {
        assert_eq!(cluster.patch(&path, MERGE_PATCH, &labelled).await.ok()["metadata"]["labels"], labels);
        let tried = cluster.patch(&format!("{path}?dryRun=All"), media, patch).await.ok();
        assert_eq!(tried["metadata"].get("labels"), None, "{media}");
        let now = cluster.patch(&path, media, patch).await.ok();
        assert_eq!(now["metadata"].get("labels"), None, "{media}");
        assert_eq!(cluster.get(&path).await.ok(), now);
    }
    // What has no fields is something: a volume, or a selector of everything.
    let mut of_volume = deployment("web");
    of_volume["spec"]["template"]["spec"]["volumes"] = json!([{ "name": "v", "emptyDir": {} }]);
    let made = cluster.post(DEPLOYMENTS, &of_volume).await.ok();
    assert_eq!(made["spec"]["template"]["spec"]["volumes"], json!([{ "name": "v", "emptyDir": {} }]));
}

/// SEMANTICS 26: a patch is carried out on whatever is there when it is written.
#[tokio::test(start_paused = true)]
async fn concurrent_patches_are_all_done() {
    let cluster = Cluster::contended();
    cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let patches = (0..40).map(|at| {
        let (cluster, path) = (cluster.clone(), path.clone());
        async move { cluster.patch(&path, MERGE_PATCH, &json!({ "data": { format!("k{at}"): "v" } })).await.code }
    });
    assert_eq!(futures::future::join_all(patches).await, [200; 40]);
    let now = cluster.get(&path).await.ok();
    assert_eq!(now["data"].as_object().map(serde_json::Map::len), Some(41));
}

/// SEMANTICS 26.
#[tokio::test(start_paused = true)]
async fn a_patch_may_name_the_version_it_is_for() {
    let cluster = Cluster::new();
    let old = cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let patch = |version: u64, value: &str| json!({ "metadata": { "resourceVersion": version.to_string() }, "data": { "a": value } });
    let new = cluster.patch(&path, MERGE_PATCH, &patch(version(&old), "2")).await.ok();
    cluster.patch(&path, MERGE_PATCH, &patch(version(&old), "3")).await.failed(409, "Conflict");
    assert_eq!(cluster.get(&path).await.ok(), new);
}

/// SEMANTICS 26: validated like an update.
#[tokio::test(start_paused = true)]
async fn a_patch_is_checked_as_an_update_is() {
    let cluster = Cluster::new();
    let old = cluster.post(DEPLOYMENTS, &deployment("web")).await.ok();
    let path = format!("{DEPLOYMENTS}/web");
    let reply = cluster.patch(&path, MERGE_PATCH, &json!({ "spec": { "replicas": -1 } })).await;
    reply.failed_with(422, "Invalid", "spec.replicas: Invalid value: -1: must be greater than or equal to 0");
    let reply = cluster.patch(&path, MERGE_PATCH, &json!({ "spec": { "replicas": "x" } })).await;
    reply.failed_with(
        400,
        "BadRequest",
        "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas",
    );
    cluster.patch(&path, MERGE_PATCH, &json!({ "metadata": { "name": "db" } })).await.failed(400, "BadRequest");
    cluster.patch(&path, MERGE_PATCH, &json!({ "kind": "Pod" })).await.failed(400, "BadRequest");
    let none = format!("{DEPLOYMENTS}/none");
    cluster.patch(&none, MERGE_PATCH, &json!({})).await.failed(404, "NotFound");
    let failing = json!([{ "op": "test", "path": "/spec/replicas", "value": 7 }]);
    let words = "the server rejected our request due to an error in our request";
    cluster.patch(&path, JSON_PATCH, &failing).await.failed_with(422, "Invalid", words);
    assert_eq!(cluster.get(&path).await.ok(), old);
}

/// SEMANTICS 36.
#[tokio::test(start_paused = true)]
async fn a_field_that_a_patch_makes_up_is_refused_warned_of_or_dropped() {
    let cluster = Cluster::new();
    let old = cluster.post(DEPLOYMENTS, &deployment("web")).await.ok();
    let patch = json!({ "spec": { "color": "red" } });
    for (validation, warns) in [("", true), ("Warn", true), ("Ignore", false)] {
        let reply =
            cluster.patch(&format!("{DEPLOYMENTS}/web?fieldValidation={validation}"), STRATEGIC_PATCH, &patch).await;
        assert_eq!(reply.ok(), old);
        assert_eq!(reply.headers.contains_key("warning"), warns, "{validation}");
    }
    let strict = format!("{DEPLOYMENTS}/web?fieldValidation=Strict");
    let words = "strict decoding error: unknown field \"spec.color\"";
    for media in [MERGE_PATCH, STRATEGIC_PATCH] {
        cluster.patch(&strict, media, &patch).await.failed_with(422, "Invalid", words);
    }
    let twice = r#"{"spec": {"replicas": 1, "replicas": 2}}"#;
    let reply = cluster.send(http::Method::PATCH, &strict, MERGE_PATCH, twice).await;
    reply.failed_with(422, "Invalid", "duplicate field \"spec.replicas\"");
    let reply = cluster.patch(&format!("{DEPLOYMENTS}/web?fieldValidation=Maybe"), MERGE_PATCH, &patch).await;
    reply.failed_with(422, "Invalid", "fieldValidation: Unsupported value: \"Maybe\"");
}

/// SEMANTICS 26 and 35: bounded in operations, copies and depth.
#[tokio::test(start_paused = true)]
async fn a_patch_without_measure_is_refused() {
    let cluster = Cluster::new();
    let old = cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    let step = json!({ "op": "add", "path": "/data/b", "value": "c" });
    let many = Value::from(vec![step; 10_001]);
    let words = "The allowed maximum operations in a JSON patch is 10000, got 10001";
    cluster.patch(&path, JSON_PATCH, &many).await.failed_with(413, "RequestEntityTooLarge", words);
    let double = json!([
        { "op": "copy", "from": "/data", "path": "/data/x" },
        { "op": "copy", "from": "/data", "path": "/data/y" },
    ]);
    let doubling: Vec<_> = double.as_array().expect("steps").iter().cycle().take(200).cloned().collect();
    cluster.patch(&path, JSON_PATCH, &doubling.into()).await.failed(422, "Invalid");
    let wrap = [
        json!({ "op": "add", "path": "/t", "value": {} }),
        json!({ "op": "move", "from": "/data", "path": "/t/data" }),
        json!({ "op": "move", "from": "/t", "path": "/data" }),
    ];
    let nesting: Vec<_> = wrap.iter().cycle().take(9_000).cloned().collect();
    cluster.patch(&path, JSON_PATCH, &nesting.into()).await.failed(422, "Invalid");
    let deep = format!("{}1{}", "{\"a\":".repeat(5_000), "}".repeat(5_000));
    for media in [JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH] {
        let reply = cluster.send(http::Method::PATCH, &path, media, deep.clone()).await;
        reply.failed_with(400, "BadRequest", "error decoding patch: exceeded max depth");
    }
    assert_eq!(cluster.get(&path).await.ok(), old);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_patch_is_refused() {
    let cluster = Cluster::new();
    cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let path = format!("{CONFIG_MAPS}/a");
    for media in ["", "application/json", "text/plain", "application/apply-patch+yaml"] {
        let reply = cluster.patch(&path, media, &json!({})).await;
        reply.failed_with(415, "UnsupportedMediaType", "application/merge-patch+json");
    }
    for (media, body) in [
        (JSON_PATCH, "{}"),
        (JSON_PATCH, r#"[{"op": "burn", "path": "/data"}]"#),
        (JSON_PATCH, r#"[{"op": "add", "path": "data", "value": 1}]"#),
        (MERGE_PATCH, "[]"),
        (MERGE_PATCH, "null"),
        (MERGE_PATCH, "{\"data\": "),
        (STRATEGIC_PATCH, "7"),
        (STRATEGIC_PATCH, ""),
    ] {
        let reply = cluster.send(http::Method::PATCH, &path, media, body).await;
        reply.failed_with(400, "BadRequest", "error decoding patch: ");
    }
    let reply = cluster.patch(&path, STRATEGIC_PATCH, &json!({ "data": { "$patch": "burn" } })).await;
    reply.failed_with(400, "BadRequest", "unknown patch type: burn");
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// SEMANTICS 26: once or twice, a merge patch leads to the same object, and the second time to no write.
    #[test]
    fn a_merge_patch_is_idempotent(
        keys in proptest::collection::btree_map("[a-c]", proptest::option::of("[xy]"), 0..4),
        labels in proptest::collection::btree_map("[a-c]", proptest::option::of("[xy]"), 0..4),
    ) {
        runtime().block_on(async {
            let cluster = Cluster::new();
            cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
            let patch = json!({ "metadata": { "labels": labels }, "data": keys });
            let path = format!("{CONFIG_MAPS}/a");
            let once = cluster.patch(&path, MERGE_PATCH, &patch).await.ok();
            for media in [MERGE_PATCH, STRATEGIC_PATCH] {
                assert_eq!(cluster.patch(&path, media, &patch).await.ok(), once);
            }
        });
    }
}
