//! Events under both of their names: SEMANTICS 73.

use http::{Request, header};
use http_body_util::Full;
use serde_json::{Value, json};

use super::fixture::{Cluster, MERGE_PATCH};

const CORE: &str = "/api/v1/namespaces/default/events";
const NEWER: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn newer(name: &str) -> Value {
    json!({ "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": { "name": name, "namespace": "default" },
        "regarding": { "kind": "Pod", "name": "web", "namespace": "default" }, "note": "hello", "reason": "Testing",
        "type": "Normal", "action": "Test", "reportingController": "tests", "reportingInstance": "tests-1",
        "eventTime": "2030-01-01T00:00:00.000000Z" })
}

#[tokio::test(start_paused = true)]
async fn an_event_of_the_newer_api_is_one_of_the_core_group() {
    let cluster = Cluster::new();
    let created = cluster.post(NEWER, &newer("a")).await.ok();
    assert_eq!((&created["apiVersion"], &created["note"]), (&json!("events.k8s.io/v1"), &json!("hello")));
    let core = cluster.get(&format!("{CORE}/a")).await.ok();
    assert_eq!((&core["apiVersion"], &core["message"]), (&json!("v1"), &json!("hello")));
    assert_eq!((&core["involvedObject"]["name"], &core["reportingComponent"]), (&json!("web"), &json!("tests")));
    assert_eq!(core["metadata"], created["metadata"]);
    let patch = json!({ "note": "again" });
    let patched = cluster.patch(&format!("{NEWER}/a"), MERGE_PATCH, &patch).await.ok();
    assert_eq!(patched["note"], "again");
    assert_eq!(cluster.get(&format!("{CORE}/a")).await.ok()["message"], "again");
}

#[tokio::test(start_paused = true)]
async fn an_event_of_the_core_group_is_one_of_the_newer_api() {
    let cluster = Cluster::new();
    let mut watch = cluster.watch(&format!("{NEWER}?watch=1")).await;
    let event = json!({ "metadata": { "name": "b" }, "involvedObject": { "kind": "Node", "name": "n", "namespace": "default" },
        "message": "hello", "count": 2, "source": { "component": "kubelet" }, "reason": "Testing", "type": "Warning" });
    cluster.post(CORE, &event).await.ok();
    let list = cluster.get(NEWER).await.ok();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("EventList"), &json!("events.k8s.io/v1")));
    let item = &list["items"][0];
    assert_eq!((&item["apiVersion"], &item["note"]), (&json!("events.k8s.io/v1"), &json!("hello")));
    assert_eq!((&item["regarding"]["name"], &item["deprecatedCount"]), (&json!("n"), &json!(2)));
    assert_eq!(item["deprecatedSource"]["component"], "kubelet");
    assert_eq!(watch.next().await.expect("an event")["object"], *item);
    assert_eq!(cluster.get(&format!("{NEWER}/b")).await.ok(), *item);
    let selected = cluster.get(&format!("{NEWER}?fieldSelector=regarding.kind%3DPod")).await.ok();
    assert_eq!(selected["items"], json!([]));
}

#[tokio::test(start_paused = true)]
async fn both_apis_print_the_same_table() {
    let cluster = Cluster::new();
    cluster.post(NEWER, &newer("a")).await.ok();
    let mut rows = Vec::new();
    for path in [CORE, NEWER] {
        let request =
            Request::builder().uri(path).header(header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io");
        rows.push(cluster.request(request.body(Full::default()).expect("a request")).await.ok()["rows"].clone());
    }
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0][0]["cells"][3], "pod/web");
}
