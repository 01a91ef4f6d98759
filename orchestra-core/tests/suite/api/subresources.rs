//! Scale, binding and eviction: SEMANTICS 25, 49, 50 and 72.

use serde_json::{Value, json};

use super::fixture::{Cluster, DEPLOYMENTS, JSON_PATCH, MERGE_PATCH, PODS, deployment, pod, version};

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

fn binding(node: &str) -> Value {
    json!({ "metadata": { "name": "a" }, "target": { "kind": "Node", "name": node } })
}

#[tokio::test(start_paused = true)]
async fn a_scale_shows_and_sets_the_replicas() {
    let cluster = Cluster::new();
    let mut given = deployment("web");
    given["spec"]["selector"]["matchExpressions"] =
        json!([{ "key": "tier", "operator": "NotIn", "values": ["a", "b"] }]);
    let made = cluster.post(DEPLOYMENTS, &given).await.ok();
    let path = format!("{DEPLOYMENTS}/web/scale");
    let mut scale = cluster.get(&path).await.ok();
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(1), &json!(0)));
    assert_eq!(scale["status"]["selector"], "app=web,tier notin (a,b)");
    assert_eq!((version(&scale), &scale["metadata"]["uid"]), (version(&made), &made["metadata"]["uid"]));

    scale["spec"]["replicas"] = 3.into();
    let scaled = cluster.put(&path, &scale).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 3);
    assert!(version(&scaled) > version(&made));
    assert_eq!(cluster.get(&format!("{DEPLOYMENTS}/web")).await.ok()["metadata"]["generation"], 2);
    cluster.put(&path, &scale).await.failed(409, "Conflict");

    let patch = json!({ "spec": { "replicas": 4 } });
    assert_eq!(cluster.patch(&path, MERGE_PATCH, &patch).await.ok()["spec"]["replicas"], 4);
    let test = json!([{ "op": "test", "path": "/spec/replicas", "value": 3 }]);
    cluster.patch(&path, JSON_PATCH, &test).await.failed(422, "Invalid");
    let stale = json!({ "metadata": { "resourceVersion": "1" }, "spec": { "replicas": 5 } });
    cluster.patch(&path, MERGE_PATCH, &stale).await.failed(409, "Conflict");
    let reply = cluster.patch(&path, MERGE_PATCH, &json!({ "spec": { "replicas": -1 } })).await;
    reply.failed_with(422, "Invalid", "spec.replicas: Invalid value: -1");
    cluster.patch(&path, MERGE_PATCH, &json!({ "spec": { "replicas": "x" } })).await.failed(400, "BadRequest");
    cluster.put(&path, &json!({ "metadata": { "name": "other" } })).await.failed(400, "BadRequest");
    cluster.patch(&format!("{path}?dryRun=All"), MERGE_PATCH, &json!({ "spec": { "replicas": 9 } })).await.ok();
    assert_eq!(cluster.get(&path).await.ok()["spec"]["replicas"], 4);
    cluster.get(&format!("{DEPLOYMENTS}/none/scale")).await.failed(404, "NotFound");
}

/// SEMANTICS 49.
#[tokio::test(start_paused = true)]
async fn a_pod_is_bound_once_and_only_while_it_is_the_one_that_is_meant() {
    let cluster = Cluster::contended();
    let made = cluster.post(PODS, &pod("a")).await.ok();
    let path = format!("{PODS}/a/binding");
    let mut other = binding("n1");
    other["metadata"]["uid"] = "other".into();
    cluster.post(&path, &other).await.failed_with(409, "Conflict", "UID in precondition: other");
    cluster.post(&path, &json!({ "target": { "name": "" } })).await.failed_with(
        422,
        "Invalid",
        "target.name: Required value",
    );
    let nodes = (0..10).map(|at| {
        let (cluster, path) = (cluster.clone(), path.clone());
        async move { cluster.post(&path, &binding(&format!("n{at}"))).await.code }
    });
    let codes = futures::future::join_all(nodes).await;
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 1, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 409).count(), 9, "{codes:?}");
    let bound = cluster.get(&format!("{PODS}/a")).await.ok();
    assert!(bound["spec"]["nodeName"].is_string());
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(bound["metadata"]["uid"], made["metadata"]["uid"]);
    // A node can't be set or changed in any other way.
    let moved = json!({ "spec": { "nodeName": "elsewhere" } });
    cluster.patch(&format!("{PODS}/a"), MERGE_PATCH, &moved).await.failed(422, "Invalid");
    cluster.delete(&format!("{PODS}/a")).await.ok();
    cluster.post(PODS, &pod("b")).await.ok();
    cluster.post(&format!("{PODS}/none/binding"), &json!({ "target": { "name": "n1" } })).await.failed(404, "NotFound");
}

/// Five running pods, and a budget of which two may go.
async fn five_with_budget() -> Cluster {
    let cluster = Cluster::contended();
    for at in 0..5 {
        let mut given = pod(&format!("p-{at}"));
        given["metadata"]["labels"] = json!({ "app": "web" });
        cluster.post(PODS, &given).await.ok();
        let ready = json!({ "status": { "phase": "Running", "conditions": [{ "type": "Ready", "status": "True" }] } });
        cluster.patch(&format!("{PODS}/p-{at}/status"), MERGE_PATCH, &ready).await.ok();
    }
    let budget = json!({ "metadata": { "name": "web" },
        "spec": { "minAvailable": 3, "selector": { "matchLabels": { "app": "web" } } } });
    cluster.post(BUDGETS, &budget).await.ok();
    let status = json!({ "status": { "disruptionsAllowed": 2, "currentHealthy": 5, "desiredHealthy": 3, "expectedPods": 5,
        "observedGeneration": 1 } });
    cluster.patch(&format!("{BUDGETS}/web/status"), MERGE_PATCH, &status).await.ok();
    cluster
}

/// SEMANTICS 50 and 72.
#[tokio::test(start_paused = true)]
async fn concurrent_evictions_spend_no_more_than_the_budget() {
    let cluster = five_with_budget().await;
    let evictions = (0..5).map(|at| {
        let cluster = cluster.clone();
        async move {
            let name = format!("p-{at}");
            cluster.post(&format!("{PODS}/{name}/eviction"), &json!({ "metadata": { "name": name } })).await
        }
    });
    let replies = futures::future::join_all(evictions).await;
    let (done, refused): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.code == 201);
    assert_eq!((done.len(), refused.len()), (2, 3));
    for reply in refused {
        let status = reply.failed(429, "TooManyRequests");
        assert_eq!(status["message"], "Cannot evict pod as it would violate the pod's disruption budget.");
        let cause = &status["details"]["causes"][0];
        assert_eq!(cause["reason"], "DisruptionBudget");
        assert_eq!(cause["message"], "The disruption budget web needs 3 healthy pods and has 5 currently");
        // With a time to retry after, `kubectl drain` would wait without a word.
        assert!(!reply.headers.contains_key("retry-after"));
    }
    let budget = cluster.get(&format!("{BUDGETS}/web")).await.ok();
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert_eq!(budget["status"]["disruptedPods"].as_object().map(serde_json::Map::len), Some(2));
}

/// SEMANTICS 72.
#[tokio::test(start_paused = true)]
async fn an_eviction_that_disrupts_nothing_spends_nothing() {
    let cluster = five_with_budget().await;
    let evict = |name: &'static str, options: Value| {
        let cluster = cluster.clone();
        async move {
            let body = json!({ "metadata": { "name": name }, "deleteOptions": options });
            cluster.post(&format!("{PODS}/{name}/eviction"), &body).await
        }
    };
    assert_eq!(evict("p-0", json!({ "dryRun": ["All"] })).await.code, 201);
    cluster.get(&format!("{PODS}/p-0")).await.ok();
    let over = json!({ "status": { "phase": "Succeeded" } });
    cluster.patch(&format!("{PODS}/p-1/status"), MERGE_PATCH, &over).await.ok();
    assert_eq!(evict("p-1", json!({})).await.code, 201);
    // Not ready, and the budget is met without it.
    let sick = json!({ "status": { "conditions": null } });
    cluster.patch(&format!("{PODS}/p-2/status"), MERGE_PATCH, &sick).await.ok();
    assert_eq!(evict("p-2", json!({})).await.code, 201);
    let budget = cluster.get(&format!("{BUDGETS}/web")).await.ok();
    assert_eq!(budget["status"]["disruptionsAllowed"], 2);
    // A budget that has changed since its controller looked allows nothing yet.
    cluster.patch(&format!("{BUDGETS}/web"), MERGE_PATCH, &json!({ "spec": { "minAvailable": 4 } })).await.ok();
    evict("p-3", json!({})).await.failed(429, "TooManyRequests");
    cluster
        .post(&format!("{PODS}/p-4/eviction"), &json!({ "metadata": { "name": "x" } }))
        .await
        .failed(400, "BadRequest");
    cluster.post(&format!("{PODS}/none/eviction"), &json!({})).await.failed(404, "NotFound");
}

#[tokio::test(start_paused = true)]
async fn what_a_kind_does_not_have_is_not_found_and_what_it_does_not_take_not_allowed() {
    let cluster = Cluster::new();
    cluster.post(PODS, &pod("a")).await.ok();
    cluster.get(&format!("{PODS}/a/scale")).await.failed(404, "NotFound");
    cluster.get(&format!("{PODS}/a/color")).await.failed(404, "NotFound");
    cluster.delete(&format!("{PODS}/a/status")).await.failed(405, "MethodNotAllowed");
    cluster.get(&format!("{PODS}/a/binding")).await.failed(405, "MethodNotAllowed");
    cluster.get(&format!("{PODS}/a/log")).await.failed_with(400, "BadRequest", "pod a does not have a host assigned");
}

#[tokio::test(start_paused = true)]
async fn what_this_server_does_not_offer_it_says_in_plain_words() {
    let cluster = Cluster::new();
    cluster.post(PODS, &pod("a")).await.ok();
    for (subresource, words) in [("attach", "does not attach to containers"), ("portforward", "does not forward ports")]
    {
        let path = format!("{PODS}/a/{subresource}");
        cluster.get(&path).await.failed_with(501, "NotImplemented", words);
        cluster.post(&path, &json!({})).await.failed_with(501, "NotImplemented", words);
    }
}
