//! The description of the API: SEMANTICS 67.

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use serde_json::{Value, json};

use super::fixture::Cluster;

/// Each group and version of the index with its document.
async fn documents(cluster: &Cluster) -> Vec<(String, Value)> {
    let index = cluster.get("/openapi/v3").await.ok();
    let mut documents = Vec::new();
    for (path, entry) in index["paths"].as_object().expect("paths") {
        let url = entry["serverRelativeURL"].as_str().expect("a URL");
        documents.push((path.clone(), cluster.get(url).await.ok()));
    }
    documents
}

#[tokio::test(start_paused = true)]
async fn every_kind_that_discovery_tells_of_is_described() {
    let cluster = Cluster::new();
    let documents = documents(&cluster).await;
    let v2 = cluster.get("/openapi/v2").await.ok();
    for (path, document) in &documents {
        let resources = cluster.get(&format!("/{path}")).await.ok();
        for resource in resources["resources"].as_array().expect("resources") {
            let name = resource["name"].as_str().expect("a name");
            if name.contains('/') {
                continue;
            }
            let has = |definitions: &Value| {
                let named = |definition: &Value| {
                    let kinds = definition["x-kubernetes-group-version-kind"].as_array();
                    kinds.is_some_and(|kinds| kinds.iter().any(|kind| kind["kind"] == resource["kind"]))
                };
                definitions.as_object().expect("definitions").values().any(named)
            };
            assert!(has(&document["components"]["schemas"]), "v3: {path} {name}");
            assert!(has(&v2["definitions"]), "v2: {path} {name}");
            let collection = match resource["namespaced"] == json!(true) {
                true => format!("/{path}/namespaces/{{namespace}}/{name}"),
                false => format!("/{path}/{name}"),
            };
            assert!(document["paths"][&collection]["post"].is_object(), "{collection}");
        }
    }
    assert!(documents.len() > 5);
}

#[tokio::test(start_paused = true)]
async fn merge_keys_and_list_types_are_told() {
    let documents = documents(&Cluster::new()).await;
    let (_, core) = documents.iter().find(|(path, _)| path == "api/v1").expect("the core group");
    let containers = &core["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
    assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    assert_eq!(containers["x-kubernetes-list-type"], "map");
    assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_a_document_is_told_so() {
    let cluster = Cluster::new();
    let etag = cluster.get("/openapi/v3/apis/apps/v1").await.headers[header::ETAG].clone();
    let again = Request::builder().uri("/openapi/v3/apis/apps/v1").header(header::IF_NONE_MATCH, etag);
    let reply = cluster.request(again.body(Full::<Bytes>::default()).expect("a request")).await;
    assert_eq!((reply.code, reply.body.len()), (304, 0));
}

/// `kubectl apply` of an unknown kind says so only if it can read this answer: Go takes no `@` in a media type.
#[tokio::test(start_paused = true)]
async fn the_protobuf_document_has_a_media_type_that_parses() {
    let media = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let request = Request::builder().uri("/openapi/v2").header(header::ACCEPT, media);
    let reply = Cluster::new().request(request.body(Full::<Bytes>::default()).expect("a request")).await;
    assert_eq!(reply.headers[header::CONTENT_TYPE], "application/com.github.proto-openapi.spec.v2.v1.0+protobuf");
    assert_eq!((reply.code, &reply.body[..]), (200, b"\x0a\x032.0".as_slice()));
}
