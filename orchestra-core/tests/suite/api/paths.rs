//! Where a request goes: names that are none.

use http::Method;
use serde_json::json;

use super::fixture::{Cluster, MERGE_PATCH, NAMESPACES, PODS};

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
