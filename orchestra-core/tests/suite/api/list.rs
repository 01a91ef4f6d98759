//! What a get or a list shows, and as of when: SEMANTICS 8, 21, 22 and 63.

use std::sync::Arc;

use orchestra_store::MemoryStore;
use serde_json::{Value, json};

use super::fixture::{CONFIG_MAPS, Cluster, MERGE_PATCH, PODS, config_map, number, pod, version};

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("items");
    items.iter().map(|item| item["metadata"]["name"].as_str().expect("a name")).collect()
}

/// A cluster with config maps a to e, and the versions of each.
async fn five() -> (Cluster, Vec<u64>) {
    let cluster = Cluster::new();
    let mut versions = Vec::new();
    for name in ["a", "b", "c", "d", "e"] {
        versions.push(version(&cluster.post(CONFIG_MAPS, &config_map(name)).await.ok()));
    }
    (cluster, versions)
}

/// SEMANTICS 21 and 22.
#[tokio::test(start_paused = true)]
async fn a_list_is_as_of_the_version_asked_for() {
    let (cluster, versions) = five().await;
    let [_, b, .., e] = versions[..] else { panic!("five") };
    let old = format!("resourceVersion={b}");
    for (query, expected) in [
        (String::new(), "abcde"),
        ("resourceVersion=0".into(), "abcde"),
        (old.clone(), "abcde"),
        (format!("{old}&resourceVersionMatch=NotOlderThan"), "abcde"),
        (format!("{old}&resourceVersionMatch=Exact"), "ab"),
        // As it has always been: with a limit, the very version.
        (format!("{old}&limit=10"), "ab"),
        (format!("{old}&limit=10&resourceVersionMatch=NotOlderThan"), "abcde"),
        ("limit=-1".into(), "abcde"),
    ] {
        let list = cluster.get(&format!("{CONFIG_MAPS}?{query}")).await.ok();
        assert_eq!(names(&list).concat(), expected, "{query}");
        let as_of = number(&list["metadata"]["resourceVersion"]);
        assert_eq!(as_of, if expected == "ab" { b } else { e }, "{query}");
        assert!(list["items"].as_array().expect("items").iter().all(|item| version(item) <= as_of));
    }
}

/// SEMANTICS 22.
#[tokio::test(start_paused = true)]
async fn a_version_that_is_not_there_yet_is_waited_for_and_then_refused() {
    let cluster = Cluster::new();
    let next = cluster.now().await + 1;
    let path = format!("{CONFIG_MAPS}?resourceVersion={next}");
    let (list, made) = tokio::join!(cluster.get(&path), async {
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        cluster.post(CONFIG_MAPS, &config_map("a")).await.ok()
    });
    assert_eq!((names(&list.ok()), version(&made)), (vec!["a"], next));

    for path in [format!("{CONFIG_MAPS}?resourceVersion=999"), format!("{CONFIG_MAPS}/a?resourceVersion=999")] {
        let begun = tokio::time::Instant::now();
        let reply = cluster.get(&path).await;
        let status = reply.failed(504, "Timeout");
        assert_eq!(begun.elapsed().as_secs(), 3);
        assert_eq!(status["details"]["retryAfterSeconds"], 1);
        assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
        assert_eq!(reply.headers["retry-after"], "1");
    }
}

/// SEMANTICS 22.
#[tokio::test(start_paused = true)]
async fn what_makes_no_sense_of_a_version_is_refused() {
    let (cluster, versions) = five().await;
    let one = &versions[0];
    for query in
        ["resourceVersion=abc", "resourceVersion=-1", "resourceVersion=%2B1", "resourceVersion=99999999999999999999"]
    {
        cluster.get(&format!("{CONFIG_MAPS}?{query}")).await.failed_with(
            400,
            "BadRequest",
            "resourceVersion: Invalid value",
        );
    }
    for (query, words) in [
        ("resourceVersionMatch=Exact".to_owned(), "is forbidden unless resourceVersion is provided"),
        ("resourceVersionMatch=Exact&resourceVersion=0".into(), "\"Exact\" is forbidden for resourceVersion \"0\""),
        (
            format!("resourceVersionMatch=Newest&resourceVersion={one}"),
            "resourceVersionMatch: Unsupported value: \"Newest\"",
        ),
        ("sendInitialEvents=true".into(), "sendInitialEvents is forbidden for list"),
    ] {
        let reply = cluster.get(&format!("{CONFIG_MAPS}?{query}")).await;
        reply.failed_with(422, "Invalid", words);
        reply.failed_with(422, "Invalid", "ListOptions.meta.k8s.io \"\" is invalid: ");
    }
    let token = cluster.get(&format!("{CONFIG_MAPS}?limit=1")).await.ok()["metadata"]["continue"].clone();
    let with_version =
        format!("{CONFIG_MAPS}?limit=1&continue={}&resourceVersion={one}", token.as_str().expect("a token"));
    let words = "specifying resource version is not allowed when using continue";
    cluster.get(&with_version).await.failed_with(400, "BadRequest", words);
}

/// SEMANTICS 8.
#[tokio::test(start_paused = true)]
async fn all_pages_of_a_list_are_one_snapshot() {
    let (cluster, versions) = five().await;
    let mut seen = Vec::new();
    let mut next = String::new();
    for page in 0.. {
        let list = cluster.get(&format!("{CONFIG_MAPS}?limit=2&continue={next}")).await.ok();
        assert_eq!(number(&list["metadata"]["resourceVersion"]), versions[4]);
        seen.extend(names(&list).into_iter().map(str::to_owned));
        let meta = &list["metadata"];
        next = meta["continue"].as_str().unwrap_or_default().to_owned();
        assert_eq!(meta.get("remainingItemCount").and_then(Value::as_u64), [Some(3), Some(1), None][page]);
        if next.is_empty() {
            break;
        }
        // Between the pages one goes, one comes and one changes.
        let path = |name: &str| format!("{CONFIG_MAPS}/{name}{page}");
        cluster.delete(&format!("{CONFIG_MAPS}/{}", ["d", "a"][page])).await.ok();
        cluster.post(CONFIG_MAPS, &config_map(&format!("c{page}"))).await.ok();
        cluster.patch(&path("c"), MERGE_PATCH, &json!({ "data": { "x": "y" } })).await.ok();
    }
    assert_eq!(seen.concat(), "abcde");
}

/// SEMANTICS 8.
#[tokio::test(start_paused = true)]
async fn a_continue_token_is_good_for_its_own_request_only_and_can_not_be_forged() {
    let (cluster, _) = five().await;
    let list = cluster.get(&format!("{CONFIG_MAPS}?limit=2")).await.ok();
    let token = list["metadata"]["continue"].as_str().expect("a token");
    for at in [0, token.len() / 2, token.len() - 1] {
        let mut forged = token.as_bytes().to_vec();
        forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
        let forged = String::from_utf8(forged).expect("letters");
        let reply = cluster.get(&format!("{CONFIG_MAPS}?limit=2&continue={forged}")).await;
        reply.failed_with(400, "BadRequest", "continue: Invalid value");
    }
    for path in [
        format!("{PODS}?limit=2&continue={token}"),
        format!("{CONFIG_MAPS}?limit=2&continue={token}&labelSelector=a"),
        format!("/api/v1/configmaps?limit=2&continue={token}"),
        format!("{CONFIG_MAPS}?limit=2&continue=%00"),
    ] {
        cluster.get(&path).await.failed_with(400, "BadRequest", "continue: Invalid value");
    }
    assert_eq!(names(&cluster.get(&format!("{CONFIG_MAPS}?limit=3&continue={token}")).await.ok()).concat(), "cde");
}

/// SEMANTICS 8: a client may be sent to another server, or to the same after a restart.
#[tokio::test(start_paused = true)]
async fn a_continue_token_is_good_on_every_server_of_the_store() {
    let store = Arc::new(MemoryStore::new());
    let (one, other) = (Cluster::over(store.clone()), Cluster::over(store));
    for name in ["a", "b"] {
        one.post(CONFIG_MAPS, &config_map(name)).await.ok();
    }
    // The other has to follow the log to know the snapshot; a new one starts from now.
    other.get(CONFIG_MAPS).await.ok();
    let list = one.get(&format!("{CONFIG_MAPS}?limit=1")).await.ok();
    let token = list["metadata"]["continue"].as_str().expect("a token");
    assert_eq!(names(&other.get(&format!("{CONFIG_MAPS}?limit=1&continue={token}")).await.ok()), ["b"]);
}

/// SEMANTICS 8 and 22: 410, with a token to go on without the snapshot, as Kubernetes gives it.
#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_gone_has_expired() {
    let (cluster, versions) = five().await;
    let list = cluster.get(&format!("{CONFIG_MAPS}?limit=2")).await.ok();
    let token = list["metadata"]["continue"].as_str().expect("a token").to_owned();
    // More events than the cache keeps.
    for at in 0..4_200 {
        cluster
            .patch(&format!("{CONFIG_MAPS}/e"), MERGE_PATCH, &json!({ "data": { "at": at.to_string() } }))
            .await
            .ok();
    }
    cluster.now().await;
    let status = cluster.get(&format!("{CONFIG_MAPS}?limit=2&continue={token}")).await.failed(410, "Expired");
    let fresh = status["metadata"]["continue"].as_str().expect("a token that goes on");
    let rest = cluster.get(&format!("{CONFIG_MAPS}?limit=2&continue={fresh}")).await.ok();
    assert_eq!(names(&rest).concat(), "cd");
    let last = rest["metadata"]["continue"].as_str().expect("there is more");
    assert_eq!(names(&cluster.get(&format!("{CONFIG_MAPS}?limit=2&continue={last}")).await.ok()).concat(), "e");

    let exact = format!("{CONFIG_MAPS}?resourceVersion={}&resourceVersionMatch=Exact", versions[0]);
    cluster.get(&exact).await.failed(410, "Expired");
}

/// SEMANTICS 9: names of namespaces that begin alike are not alike.
#[tokio::test(start_paused = true)]
async fn a_list_of_a_namespace_shows_no_other() {
    let cluster = Cluster::new();
    for namespace in ["a", "ab"] {
        cluster.post("/api/v1/namespaces", &json!({ "metadata": { "name": namespace } })).await.ok();
        cluster.post(&format!("/api/v1/namespaces/{namespace}/configmaps"), &config_map(namespace)).await.ok();
    }
    assert_eq!(names(&cluster.get("/api/v1/namespaces/a/configmaps").await.ok()), ["a"]);
    assert_eq!(names(&cluster.get("/api/v1/configmaps").await.ok()), ["a", "ab"]);
}

/// SEMANTICS 63.
#[tokio::test(start_paused = true)]
async fn selectors_select() {
    let cluster = Cluster::new();
    for (name, label) in [("a", "x"), ("b", "y"), ("c", "z")] {
        let mut given = pod(name);
        given["metadata"]["labels"] = json!({ "l": label, name: "" });
        cluster.post(PODS, &given).await.ok();
    }
    for (query, expected) in [
        ("labelSelector=l%3Dx", "a"),
        ("labelSelector=l+in+%28x%2Cy%29", "ab"),
        ("labelSelector=l%20notin%20(x)", "bc"),
        ("labelSelector=!a,l!=z", "b"),
        ("fieldSelector=metadata.name%21%3Da", "bc"),
        ("fieldSelector=status.phase%3DPending,metadata.name=a", "a"),
        ("fieldSelector=spec.nodeName%3D", "abc"),
        ("labelSelector=l&fieldSelector=metadata.namespace=kube-system", ""),
    ] {
        let list = cluster.get(&format!("{PODS}?{query}")).await.ok();
        assert_eq!(names(&list).concat(), expected, "{query}");
    }
    cluster.get(&format!("{PODS}?labelSelector=a%20b")).await.failed_with(
        400,
        "BadRequest",
        "unable to parse requirement",
    );
    let words = "field label not supported: spec.color";
    cluster.get(&format!("{PODS}?fieldSelector=spec.color%3Dred")).await.failed_with(400, "BadRequest", words);
}
