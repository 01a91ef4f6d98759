//! Bodies in protobuf, as typed clients of client-go send them, `kubectl create deployment` among them.

use http::{Method, Request, header};
use http_body_util::Full;
use serde_json::json;

use super::fixture::{Cluster, Reply};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// A field that is a text or a message, of fewer than 128 bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len()).expect("short");
    [&[number << 3 | 2, length], content].concat()
}

fn body(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
    [b"k8s\0".to_vec(), field(1, &meta), field(2, message)].concat()
}

async fn post(cluster: &Cluster, path: &str, body: Vec<u8>) -> Reply {
    let accept = format!("{PROTOBUF},application/json");
    let request = Request::builder().method(Method::POST).uri(path);
    let request = request.header(header::CONTENT_TYPE, PROTOBUF).header(header::ACCEPT, accept);
    cluster.request(request.body(Full::new(body.into())).expect("a request")).await
}

#[tokio::test(start_paused = true)]
async fn an_object_in_protobuf_is_created_and_answered_in_json() {
    let cluster = Cluster::new();
    // Go sends an empty namespace where JSON would have none, and a creation time that is none.
    let metadata = field(1, &[field(1, b"cm"), field(3, b""), field(8, b"")].concat());
    let data = field(2, &[field(1, b"a"), field(2, b"b")].concat());
    let message = [metadata, data].concat();
    let path = "/api/v1/namespaces/default/configmaps";
    let reply = post(&cluster, path, body("v1", "ConfigMap", &message)).await;
    assert_eq!(reply.headers[header::CONTENT_TYPE], "application/json");
    let created = reply.ok();
    assert_eq!((&created["metadata"]["name"], &created["data"]), (&json!("cm"), &json!({ "a": "b" })));
    assert_eq!(cluster.get(&format!("{path}/cm")).await.ok(), created);
}

#[tokio::test(start_paused = true)]
async fn what_is_cut_off_or_of_no_known_kind_is_a_bad_request() {
    let cluster = Cluster::new();
    let path = "/api/v1/namespaces/default/configmaps";
    for refused in [
        b"{}".to_vec(),
        b"k8s\0\x0a\x7f".to_vec(),
        body("v1", "Nonsense", b""),
        body("v1", "ConfigMap", &[0x0a, 0x7f]),
        body("v1", "Secret", &field(1, &field(1, b"a"))),
    ] {
        post(&cluster, path, refused).await.failed(400, "BadRequest");
    }
}
