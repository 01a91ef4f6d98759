//! Where a request goes: names that are none, and the paths of watches as they once were.

use http::Method;
use serde_json::json;

use super::fixture::{CONFIG_MAPS, Cluster, DEPLOYMENTS, MERGE_PATCH, NAMESPACES, PODS, config_map, deployment};

/// SEMANTICS 35: what can be no name is refused, or not found, in Kubernetes' words and not in a store's.
#[tokio::test(start_paused = true)]
async fn a_name_in_a_path_that_can_be_none_is_refused_in_words() {
    let cluster = Cluster::new();
    let long = "a".repeat(2_000);
    for (path, code, message) in [
        (format!("{PODS}/..%2fx"), 400, "Name parameter invalid: \"../x\": may not contain '/'"),
        (format!("{PODS}/.."), 400, "Name parameter invalid: \"..\": may not be '..'"),
        (format!("{PODS}/%2e"), 400, "Name parameter invalid: \".\": may not be '.'"),
        (format!("{PODS}/a%25b"), 400, "Name parameter invalid: \"a%b\": may not contain '%'"),
        (format!("{PODS}/a%00b"), 404, "pods \"a\0b\" not found"),
        (format!("{PODS}/{long}"), 404, &*format!("pods \"{long}\" not found")),
        (format!("{NAMESPACES}/..%2f..%2fx"), 400, "Name parameter invalid: \"../../x\": may not contain '/'"),
        (format!("{NAMESPACES}/../pods/x"), 400, "Namespace parameter invalid: \"..\": may not be '..'"),
        (format!("{NAMESPACES}/a%2Fb/pods/x"), 400, "Namespace parameter invalid: \"a/b\": may not contain '/'"),
    ] {
        for method in [Method::GET, Method::DELETE] {
            let status = cluster.send(method, &path, "", "").await.failed(code, reason(code));
            assert_eq!(status["message"], message, "{path}");
        }
        let patch = json!({ "metadata": { "labels": { "a": "b" } } });
        let status = cluster.patch(&path, MERGE_PATCH, &patch).await.failed(code, reason(code));
        assert_eq!(status["message"], message, "{path}");
    }
    for namespace in ["..", "a%00b", "a%2Fb"] {
        let path = format!("{NAMESPACES}/{namespace}/pods");
        cluster.get(&path).await.failed_with(400, "BadRequest", "Namespace parameter invalid: ");
    }
}

fn reason(code: u16) -> &'static str {
    if code == 400 { "BadRequest" } else { "NotFound" }
}

/// Kubernetes' older way to say `?watch=1`, which clients still have.
#[tokio::test(start_paused = true)]
async fn a_path_below_watch_is_a_watch_of_that_list_or_object() {
    let cluster = Cluster::new();
    for name in ["a", "b"] {
        cluster.post(CONFIG_MAPS, &config_map(name)).await.ok();
        cluster.post(DEPLOYMENTS, &deployment(name)).await.ok();
    }
    for (path, names) in [
        ("/api/v1/watch/namespaces/default/configmaps", &["a", "b"][..]),
        ("/api/v1/watch/namespaces/default/configmaps/b", &["b"]),
        ("/api/v1/watch/configmaps", &["a", "b"]),
        ("/apis/apps/v1/watch/deployments", &["a", "b"]),
        ("/apis/apps/v1/watch/namespaces/default/deployments/a", &["a"]),
        ("/api/v1/watch/namespaces/default", &["default"]),
    ] {
        let mut events = cluster.watch(path).await;
        for name in names {
            assert_eq!(events.told().await, ("ADDED".to_owned(), (*name).to_owned()), "{path}");
        }
        assert!(events.is_quiet().await, "{path}");
    }
    let path = "/api/v1/watch/namespaces/default/configmaps";
    cluster.post(path, &config_map("c")).await.failed(405, "MethodNotAllowed");
    cluster.delete(&format!("{path}/a")).await.failed(405, "MethodNotAllowed");
    for path in ["/api/v1/watch/namespaces/default/pods/a/status", "/api/v1/watch/namespaces/default/status"] {
        cluster.get(path).await.failed(404, "NotFound");
    }
    cluster.by(None).get(path).await.failed(401, "Unauthorized");
}

#[tokio::test(start_paused = true)]
async fn a_path_that_is_nowhere_is_nowhere_for_every_method() {
    let cluster = Cluster::new();
    let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    for path in ["/nonexist", "/nonexist/a", "/apis/example.com", "/apis/apps/v9", "/api/v2", "/openapi/v3/apis/a/v1"] {
        for method in &methods {
            let reply = cluster.send(method.clone(), path, "application/json", "{}").await;
            assert_eq!((reply.code, method, path), (404, method, path));
            reply.failed_with(404, "NotFound", "the server could not find the requested resource");
        }
    }
    for path in ["/", "/api", "/apis", "/apis/apps", "/apis/apps/v1", "/api/v1", "/version", "/readyz", "/metrics"] {
        for method in &methods[1..] {
            cluster.send(method.clone(), path, "application/json", "{}").await.failed(405, "MethodNotAllowed");
        }
    }
    cluster.post("/openapi/v3/apis/apps/v1", &json!({})).await.failed(405, "MethodNotAllowed");
    cluster.by(None).post("/nonexist", &json!({})).await.failed(401, "Unauthorized");
}
