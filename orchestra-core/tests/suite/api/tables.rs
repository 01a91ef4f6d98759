//! `Accept` and tables: SEMANTICS 65.

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt as _, Full};
use orchestra_core::server::Body;
use serde_json::{Value, json};

use super::fixture::{Cluster, DEPLOYMENTS, MERGE_PATCH, PODS, Reply, deployment, pod};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

fn accepting(path: &str, accept: &str) -> Request<Full<Bytes>> {
    Request::builder().uri(path).header(header::ACCEPT, accept).body(Full::default()).expect("a request")
}

async fn get(cluster: &Cluster, path: &str, accept: &str) -> Reply {
    cluster.request(accepting(path, accept)).await
}

/// The next event of a watch.
async fn next(events: &mut Body) -> Value {
    let frame = events.frame().await.expect("an event").expect("a body in memory");
    serde_json::from_slice(&frame.into_data().expect("no trailers")).expect("an event is JSON")
}

async fn cluster_with_pods(names: &[&str]) -> Cluster {
    let cluster = Cluster::new();
    for name in names {
        cluster.post(PODS, &pod(name)).await.ok();
    }
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_list_is_a_table_with_the_columns_of_its_kind_and_its_own_metadata() {
    let cluster = cluster_with_pods(&["a", "b", "c"]).await;
    let table = get(&cluster, &format!("{PODS}?limit=2"), TABLE).await.ok();
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    let names: Vec<_> =
        table["columnDefinitions"].as_array().expect("columns").iter().map(|one| &one["name"]).collect();
    assert_eq!(json!(names[..5]), json!(["Name", "Ready", "Status", "Restarts", "Age"]));
    let cells: Vec<_> = table["rows"].as_array().expect("rows").iter().map(|row| &row["cells"]).collect();
    assert_eq!(json!(cells[0].as_array().expect("cells")[..5]), json!(["a", "0/1", "Pending", "0", "0s"]));
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    assert_eq!((cells.len(), &table["metadata"]["remainingItemCount"]), (2, &json!(1)));
    let next = table["metadata"]["continue"].as_str().expect("a token");
    let rest = get(&cluster, &format!("{PODS}?limit=2&continue={next}"), TABLE).await.ok();
    assert_eq!((&rest["rows"][0]["cells"][0], rest["rows"].as_array().map(Vec::len)), (&json!("c"), Some(1)));
    assert_eq!(rest["metadata"]["resourceVersion"], table["metadata"]["resourceVersion"]);
}

#[tokio::test(start_paused = true)]
async fn one_object_is_a_table_of_one_row_with_as_much_of_it_as_was_asked_for() {
    let cluster = cluster_with_pods(&["a"]).await;
    let path = format!("{PODS}/a");
    let whole = cluster.get(&path).await.ok();
    let row = |reply: Value| reply["rows"][0]["object"].clone();
    assert_eq!(row(get(&cluster, &format!("{path}?includeObject=Object"), TABLE).await.ok()), whole);
    assert_eq!(row(get(&cluster, &format!("{path}?includeObject=None"), TABLE).await.ok()), Value::Null);
    assert_eq!(row(get(&cluster, &path, TABLE).await.ok())["metadata"], whole["metadata"]);
    get(&cluster, &format!("{path}?includeObject=Some"), TABLE).await.failed(400, "BadRequest");
}

#[tokio::test(start_paused = true)]
async fn the_first_table_of_a_watch_tells_the_columns_and_no_other() {
    let cluster = cluster_with_pods(&["a", "b"]).await;
    let mut events = cluster.answer(accepting(&format!("{PODS}?watch=1"), TABLE)).await.into_body();
    let first = next(&mut events).await["object"].clone();
    assert_eq!((&first["columnDefinitions"][0]["name"], &first["rows"][0]["cells"][0]), (&json!("Name"), &json!("a")));
    let second = next(&mut events).await["object"].clone();
    assert_eq!((&second["columnDefinitions"], &second["rows"][0]["cells"][0]), (&Value::Null, &json!("b")));
    let patch = json!({ "metadata": { "labels": { "x": "y" } } });
    cluster.patch(&format!("{PODS}/b"), MERGE_PATCH, &patch).await.ok();
    let third = next(&mut events).await;
    assert_eq!((&third["type"], &third["object"]["columnDefinitions"]), (&json!("MODIFIED"), &Value::Null));
    assert_eq!(third["object"]["rows"][0]["object"]["metadata"]["labels"], json!({ "x": "y" }));
}

#[tokio::test(start_paused = true)]
async fn metadata_alone_can_be_had_of_one_and_of_many() {
    let cluster = cluster_with_pods(&["a"]).await;
    let partial = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let one = get(&cluster, &format!("{PODS}/a"), partial).await.ok();
    assert_eq!((&one["kind"], &one["metadata"]["name"]), (&json!("PartialObjectMetadata"), &json!("a")));
    assert_eq!(one["spec"], Value::Null);
    let list = get(&cluster, PODS, "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1").await.ok();
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PartialObjectMetadataList"), &json!("meta.k8s.io/v1")));
    assert_eq!(list["items"][0]["kind"], "PartialObjectMetadata");
}

/// `kubectl get deployment web --subresource=scale`.
#[tokio::test(start_paused = true)]
async fn a_scale_has_columns_of_its_own() {
    let cluster = Cluster::new();
    cluster.post(DEPLOYMENTS, &deployment("web")).await.ok();
    let path = format!("{DEPLOYMENTS}/web/scale");
    let table = get(&cluster, &path, TABLE).await.ok();
    let names: Vec<_> =
        table["columnDefinitions"].as_array().expect("columns").iter().map(|one| &one["name"]).collect();
    assert_eq!(json!(names), json!(["Name", "Desired", "Available", "Age"]));
    assert_eq!(table["rows"][0]["cells"], json!(["web", 1, 0, "0s"]));
    assert_eq!(table["rows"][0]["object"]["metadata"]["name"], "web");
    assert_eq!(get(&cluster, &path, "application/json").await.ok()["kind"], "Scale");
}

#[tokio::test(start_paused = true)]
async fn json_stands_in_for_protobuf_and_what_cannot_be_had_is_not_acceptable() {
    let cluster = cluster_with_pods(&["a"]).await;
    let json = get(&cluster, PODS, "application/vnd.kubernetes.protobuf,application/json").await;
    assert_eq!(json.headers[header::CONTENT_TYPE], "application/json");
    assert_eq!(json.ok()["kind"], "PodList");
    for accept in ["application/vnd.kubernetes.protobuf", "text/html", "application/json;as=Table;v=v9;g=meta.k8s.io"] {
        get(&cluster, PODS, accept).await.failed(406, "NotAcceptable");
    }
    assert_eq!(get(&cluster, "/healthz", "text/html").await.code, 200, "health is text for anyone");
}
