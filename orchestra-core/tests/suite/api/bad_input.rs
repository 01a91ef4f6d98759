//! What is no request the server can carry out: each gets Kubernetes' own code and a message that names the trouble, and
//! none is the server's fault (SEMANTICS 35 and 36).

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::stream;
use http::{Method, Request, header};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use orchestra_core::server::UserInfo;
use proptest::prelude::*;
use serde_json::{Value, json};
use tower::ServiceExt as _;

use super::fixture::{
    CONFIG_MAPS, Cluster, DEPLOYMENTS, JSON_PATCH, MERGE_PATCH, NAMESPACES, PODS, SERVICES, STRATEGIC_PATCH,
    config_map, deployment, pod, service,
};

const JSON: &str = "application/json";

/// A pod with one thing changed in it.
fn pod_with(pointer: &str, value: Value) -> Value {
    let mut given = pod("a");
    let (parent, field) = pointer.rsplit_once('/').expect("a pointer");
    given.pointer_mut(parent).expect("it is there")[field] = value;
    given
}

#[tokio::test(start_paused = true)]
async fn a_field_that_is_wrong_is_named() {
    let cluster = Cluster::new();
    let path = format!("{PODS}?fieldValidation=Strict");
    for (given, code, reason, words) in [
        (pod_with("/spec/color", json!(1)), 400, "BadRequest", "strict decoding error: unknown field \"spec.color\""),
        (
            pod_with("/spec/containers", json!("x")),
            400,
            "BadRequest",
            "cannot unmarshal string into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (pod_with("/spec/priority", json!(1e30)), 400, "BadRequest", "PodSpec.spec.priority of type int32"),
        (
            pod_with("/spec/priority", json!(9_999_999_999_u64)),
            400,
            "BadRequest",
            "PodSpec.spec.priority of type int32",
        ),
        (pod_with("/spec/priority", json!(1.5)), 400, "BadRequest", "PodSpec.spec.priority of type int32"),
        (
            pod_with("/metadata/name", json!(null)),
            422,
            "Invalid",
            "metadata.name: Required value: name or generateName is required",
        ),
        (pod_with("/metadata/name", json!("A_b")), 422, "Invalid", "metadata.name: Invalid value: \"A_b\""),
        (pod_with("/metadata/labels", json!({ "a": "-" })), 422, "Invalid", "metadata.labels: Invalid value: \"-\""),
        (pod_with("/metadata/labels", json!({ "a": 1 })), 400, "BadRequest", "ObjectMeta.metadata.labels"),
        (
            pod_with("/metadata/namespace", json!("other")),
            400,
            "BadRequest",
            "the namespace of the provided object does not match",
        ),
        (pod_with("/metadata", json!([])), 400, "BadRequest", "metadata"),
        (
            pod_with("/kind", json!("Deployment")),
            400,
            "BadRequest",
            "Deployment in version \"v1\" cannot be handled as a Pod",
        ),
        (pod_with("/kind", json!(1)), 400, "BadRequest", "kind of type string"),
        (
            pod_with("/apiVersion", json!("v2")),
            400,
            "BadRequest",
            "the API version in the data (v2) does not match the expected API version (v1)",
        ),
        (
            pod_with("/spec/restartPolicy", json!("Maybe")),
            422,
            "Invalid",
            "spec.restartPolicy: Unsupported value: \"Maybe\"",
        ),
        (pod_with("/spec/containers", json!([])), 422, "Invalid", "spec.containers: Required value"),
    ] {
        let reply = cluster.post(&path, &given).await;
        reply.failed_with(code, reason, words);
        if code == 422 {
            let status = reply.json();
            let field = status["details"]["causes"][0]["field"].as_str().expect("a field");
            assert!(words.starts_with(field), "{status}");
        }
    }
    let mut headless = service("a");
    headless["spec"]["ports"][0]["port"] = 70_000.into();
    cluster.post(SERVICES, &headless).await.failed_with(422, "Invalid", "spec.ports[0].port: Invalid value: 70000");
}

/// SEMANTICS 36.
#[tokio::test(start_paused = true)]
async fn unknown_and_double_fields_are_refused_warned_of_or_dropped() {
    let cluster = Cluster::new();
    let body = r#"{"metadata": {"name": "a", "color": "red"}, "data": {"k": "1", "k": "2"}}"#;
    for (validation, warnings) in [("", 2), ("Warn", 2), ("Ignore", 0)] {
        let path = format!("{CONFIG_MAPS}?dryRun=All&fieldValidation={validation}");
        let reply = cluster.send(Method::POST, &path, JSON, body).await;
        assert_eq!(reply.ok()["data"], json!({ "k": "2" }));
        let texts: Vec<_> = reply.headers.get_all("warning").iter().map(|text| text.to_str().expect("text")).collect();
        assert_eq!(texts.len(), warnings, "{texts:?}");
        assert!(warnings == 0 || texts.contains(&r#"299 - "unknown field \"metadata.color\"""#), "{texts:?}");
    }
    let reply = cluster.send(Method::POST, &format!("{CONFIG_MAPS}?fieldValidation=Strict"), JSON, body).await;
    let words = "strict decoding error: duplicate field \"data.k\", unknown field \"metadata.color\"";
    reply.failed_with(400, "BadRequest", words);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_no_object_is_refused() {
    let cluster = Cluster::new();
    let deep_list = "[".repeat(200_000);
    let deep_object = "{\"a\":".repeat(200_000);
    for (body, words) in [
        (&b""[..], "unexpected end of JSON input"),
        (b"{\"metadata\": {\"name\": \"a\"", "unexpected end of JSON input"),
        (b"{\"metadata\": nope}", "the object provided is unrecognized (must be of type ConfigMap)"),
        (b"{} {}", "the object provided is unrecognized"),
        (b"[]", "cannot be handled as a ConfigMap"),
        (b"null", "cannot be handled as a ConfigMap"),
        (b"{\"data\": {\"a\": \"\xff\xfe\"}}", "the object provided is unrecognized"),
        (b"{\"data\": {\"a\": 1e999}}", "the object provided is unrecognized"),
        (deep_list.as_bytes(), "exceeded max depth"),
        (deep_object.as_bytes(), "exceeded max depth"),
    ] {
        let reply = cluster.send(Method::POST, CONFIG_MAPS, JSON, body.to_vec()).await;
        reply.failed_with(400, "BadRequest", words);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_refused() {
    let cluster = Cluster::new();
    let large = |bytes: usize| json!({ "metadata": { "name": "a" }, "data": { "a": "x".repeat(bytes) } });
    let reply = cluster.post(CONFIG_MAPS, &large(3 << 20)).await;
    reply.failed_with(413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728");
    cluster.post(CONFIG_MAPS, &large(1_100_000)).await.failed_with(
        422,
        "Invalid",
        "may not be more than 1048576 bytes",
    );
    let mut long = deployment("web");
    long["spec"]["template"]["spec"]["containers"][0]["args"] = json!(["x".repeat(1_600_000)]);
    let reply = cluster.post(DEPLOYMENTS, &long).await;
    reply.failed_with(413, "RequestEntityTooLarge", "Request entity too large: limit is 1556480");
    let annotations = json!({ "metadata": { "name": "a", "annotations": { "a": "x".repeat(300_000) } } });
    let words = "metadata.annotations: Too long: may not be more than 262144 bytes";
    cluster.post(CONFIG_MAPS, &annotations).await.failed_with(422, "Invalid", words);
    assert_eq!(cluster.get(CONFIG_MAPS).await.ok()["items"], json!([]));
}

/// Over HTTP/2 a client sees no answer while its body is not taken.
#[tokio::test(start_paused = true)]
async fn what_is_too_large_is_read_before_it_is_refused() {
    let read = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&read);
    let frames = (0..5).map(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Ok::<_, Infallible>(Frame::data(Bytes::from(vec![b' '; 1 << 20])))
    });
    let body = StreamBody::new(stream::iter(frames));
    let request = Request::post(CONFIG_MAPS).header(header::CONTENT_TYPE, "application/json").body(body);
    let mut request = request.expect("a request");
    request.extensions_mut().insert(UserInfo::master("admin"));
    let cluster = Cluster::new();
    let response = cluster.server.clone().oneshot(request).await.expect("infallible");
    assert_eq!((response.status().as_u16(), read.load(Ordering::Relaxed)), (413, 5));
}

#[tokio::test(start_paused = true)]
async fn a_media_type_that_can_not_be_read_or_written_is_refused() {
    let cluster = Cluster::new();
    for media in ["text/plain", "application/x-www-form-urlencoded", "application/cbor"] {
        let reply = cluster.send(Method::POST, CONFIG_MAPS, media, config_map("a").to_string()).await;
        reply.failed_with(415, "UnsupportedMediaType", media);
    }
    let request = Request::builder().uri(CONFIG_MAPS).header(header::ACCEPT, "image/png").body(Full::default());
    cluster.request(request.expect("a request")).await.failed(406, "NotAcceptable");
    let media = "application/json; charset=utf-8";
    cluster.send(Method::POST, CONFIG_MAPS, media, config_map("a").to_string()).await.ok();
}

#[tokio::test(start_paused = true)]
async fn a_path_that_leads_nowhere_is_not_found() {
    let cluster = Cluster::new();
    for path in [
        "/api/v1/widgets",
        "/apis/example.com/v1/widgets",
        "/apis/apps/v9/deployments",
        "/api/v1/pods/a",
        "/api/v1/namespaces/default/nodes",
        "/apis/apps/v1/namespaces/default/deployments/a/b/c",
        "/nowhere",
    ] {
        cluster.get(path).await.failed(404, "NotFound");
    }
    for (method, path) in [
        (Method::POST, "/api/v1/pods"),
        (Method::DELETE, "/api/v1/pods"),
        (Method::PUT, PODS),
        (Method::PATCH, PODS),
        (Method::OPTIONS, PODS),
    ] {
        cluster.send(method, path, JSON, pod("a").to_string()).await.failed(405, "MethodNotAllowed");
    }
    for name in ["..", "a%2Fb", "a%25b"] {
        cluster.get(&format!("{PODS}/{name}")).await.failed(400, "BadRequest");
        cluster.get(&format!("{NAMESPACES}/{name}/pods")).await.failed(400, "BadRequest");
    }
}

#[tokio::test(start_paused = true)]
async fn a_query_that_makes_no_sense_is_refused() {
    let cluster = Cluster::new();
    for (query, words) in [
        ("limit=x", "limit"),
        ("limit=99999999999999999999", "limit"),
        ("watch=maybe", "watch"),
        ("continue=x", "continue"),
        ("labelSelector=%3D%3D", "expected"),
        ("labelSelector=a%20in%20()", "values"),
        ("fieldSelector=a", "invalid selector"),
        ("fieldSelector=metadata.name%3Da%5Cb", "escape"),
    ] {
        cluster.get(&format!("{CONFIG_MAPS}?{query}")).await.failed_with(400, "BadRequest", words);
    }
}

/// A fragment of a path.
fn segment() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => proptest::sample::select(vec![
            "api", "v1", "apis", "apps", "namespaces", "default", "pods", "deployments", "services", "configmaps", "nodes",
            "a", "status", "scale", "binding", "eviction", "finalize", "log", "exec", "policy", "poddisruptionbudgets",
            "healthz", "openapi", "v2", "v3", "version", "kube-system", "events", "serviceaccounts", "token", "..",
        ]).prop_map(str::to_owned),
        1 => "[a-z0-9%.~!$&'()*+,;=:@_-]{0,8}",
    ]
}

fn path() -> impl Strategy<Value = String> {
    let there = proptest::sample::select(vec![
        format!("{PODS}/a"),
        format!("{PODS}/a/binding"),
        format!("{PODS}/a/eviction"),
        format!("{PODS}/a/status"),
        format!("{DEPLOYMENTS}/a"),
        format!("{DEPLOYMENTS}/a/scale"),
        format!("{DEPLOYMENTS}/a/status"),
        format!("{SERVICES}/a"),
        format!("{NAMESPACES}/default/finalize"),
        format!("{NAMESPACES}/default/status"),
    ]);
    let known = proptest::sample::select(vec![
        PODS,
        DEPLOYMENTS,
        SERVICES,
        CONFIG_MAPS,
        NAMESPACES,
        "/api/v1/nodes",
        "/apis/batch/v1/namespaces/default/jobs",
        "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
        "/apis/apps/v1/namespaces/default/statefulsets",
    ]);
    let named = proptest::option::weighted(0.8, proptest::sample::select(vec!["a", "a", "a", "default", "none"]));
    let subresources = vec!["status", "scale", "binding", "eviction", "finalize", "log", "exec", "token", "color"];
    let subresource = proptest::option::of(proptest::sample::select(subresources));
    prop_oneof![
        6 => there,
        6 => (known, named, subresource).prop_map(|(path, name, subresource)| match (name, subresource) {
            (Some(name), Some(subresource)) => format!("{path}/{name}/{subresource}"),
            (Some(name), None) => format!("{path}/{name}"),
            _ => path.to_owned(),
        }),
        1 => proptest::collection::vec(segment(), 0..7).prop_map(|segments| format!("/{}", segments.join("/"))),
    ]
}

fn query() -> impl Strategy<Value = String> {
    let pair = (
        proptest::sample::select(vec![
            "watch",
            "limit",
            "continue",
            "labelSelector",
            "fieldSelector",
            "resourceVersionMatch",
            "sendInitialEvents",
            "dryRun",
            "fieldValidation",
            "gracePeriodSeconds",
            "timeoutSeconds",
            "propagationPolicy",
            "pretty",
            "allowWatchBookmarks",
            "container",
            "force",
            "fieldManager",
        ]),
        prop_oneof![
            proptest::sample::select(vec![
                "true",
                "1",
                "0",
                "-1",
                "All",
                "Strict",
                "Exact",
                "NotOlderThan",
                "a%3Db",
                "a"
            ])
            .prop_map(str::to_owned),
            "[a-z0-9%=!,().-]{0,10}",
        ],
    );
    proptest::collection::vec(pair.prop_map(|(name, value)| format!("{name}={value}")), 0..4)
        .prop_map(|pairs| pairs.join("&"))
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| serde_json::Number::from_f64(number).map_or(Value::Null, Value::Number)),
        proptest::sample::select(vec!["", "a", "-1", "Always", "10%", "1Gi", "None", "2030-01-01T00:00:00Z", "é"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        let key =
            proptest::sample::select(vec!["metadata", "spec", "status", "name", "a", "$patch", "op", "path", "value"]);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(key.prop_map(str::to_owned), inner, 0..4)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Puts `new` somewhere into `value`, as `turns` say.
fn spoiled(value: &mut Value, turns: &[usize], new: Value) {
    let Some((turn, rest)) = turns.split_first() else { return *value = new };
    match value {
        Value::Object(map) if !map.is_empty() => {
            let at = turn % map.len();
            spoiled(map.values_mut().nth(at).expect("within its length"), rest, new);
        }
        Value::Array(list) if !list.is_empty() => {
            let at = turn % list.len();
            spoiled(&mut list[at], rest, new);
        }
        value => *value = new,
    }
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    let objects = vec![
        pod("a"),
        deployment("a"),
        service("a"),
        config_map("a"),
        json!({ "metadata": { "name": "a", "resourceVersion": "1", "uid": "x", "finalizers": ["a/b"] } }),
        json!({ "target": { "kind": "Node", "name": "n" } }),
        json!({ "spec": { "replicas": 1, "finalizers": [] }, "status": { "conditions": [{ "type": "A" }] } }),
        json!([{ "op": "copy", "from": "/metadata", "path": "/spec" }, { "op": "remove", "path": "/status" }]),
        json!({ "gracePeriodSeconds": 1, "preconditions": { "uid": "x" }, "propagationPolicy": "Orphan" }),
    ];
    let turns = proptest::collection::vec(0..8_usize, 0..6);
    prop_oneof![
        6 => (proptest::sample::select(objects), turns, any_json()).prop_map(|(mut object, turns, new)| {
            spoiled(&mut object, &turns, new);
            object.to_string().into_bytes()
        }),
        1 => any_json().prop_map(|value| value.to_string().into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..64),
    ]
}

/// A cluster in which there is something to be asked for.
async fn furnished() -> Cluster {
    let cluster = Cluster::new();
    for (path, given) in
        [(PODS, pod("a")), (DEPLOYMENTS, deployment("a")), (SERVICES, service("a")), (CONFIG_MAPS, config_map("a"))]
    {
        cluster.post(path, &given).await.ok();
    }
    let budget = json!({ "metadata": { "name": "a" }, "spec": { "selector": {} } });
    cluster.post("/apis/policy/v1/namespaces/default/poddisruptionbudgets", &budget).await.ok();
    cluster
}

fn weighted(choices: &[(usize, &'static str)]) -> impl Strategy<Value = &'static str> + use<> {
    let each = choices.iter().flat_map(|(weight, choice)| std::iter::repeat_n(*choice, *weight));
    proptest::sample::select(each.collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// SEMANTICS 35: whatever is asked is answered, by a `Status` if it fails, and it is never the server that failed.
    #[test]
    fn no_request_is_the_fault_of_the_server(
        requests in proptest::collection::vec(
            (
                weighted(&[(2, "GET"), (4, "POST"), (6, "PUT"), (6, "PATCH"), (1, "DELETE"), (1, "HEAD"), (1, "BREW")]),
                path(),
                query(),
                weighted(&[(6, JSON), (2, JSON_PATCH), (2, MERGE_PATCH), (2, STRATEGIC_PATCH), (1, ""), (1, "x")]),
                weighted(&[(9, "application/json"), (2, "*/*"), (1, "application/json;as=Table;v=v1;g=meta.k8s.io"), (1, "x")]),
                body(),
            ),
            1..48,
        ),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            let cluster = furnished().await;
            for (method, path, query, media, accept, body) in requests {
                let uri = format!("{path}?{query}");
                let request = Request::builder()
                    .method(method)
                    .uri(&uri)
                    .header(header::CONTENT_TYPE, media)
                    .header(header::ACCEPT, accept);
                let Ok(request) = request.body(Full::new(body.clone().into())) else { continue };
                let reply = cluster.request(request).await;
                let shown = || format!("{method} {uri} {}: {} {}", String::from_utf8_lossy(&body), reply.code, reply.text());
                if method == "HEAD" {
                    assert!(reply.body.is_empty() && (reply.code < 500 || reply.code == 503), "{}", shown());
                    continue;
                }
                // A token is nothing this server gives, and no node can be reached.
                let unavailable = reply.code == 503 && reply.json()["reason"] == "ServiceUnavailable";
                assert!(reply.code < 500 || unavailable, "{}", shown());
                if reply.code >= 400 {
                    let status = reply.json();
                    assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(reply.code)), "{}", shown());
                    assert!(status["reason"].is_string() && status["message"].is_string(), "{}", shown());
                }
            }
            // Whatever has been written can be read.
            for path in ["/api/v1/pods", "/apis/apps/v1/deployments", "/api/v1/services", "/api/v1/namespaces"] {
                cluster.get(path).await.ok();
            }
        });
    }
}

/// Over HTTP/2 a body after a head alone is an error of protocol.
#[tokio::test(start_paused = true)]
async fn a_request_for_the_head_alone_gets_no_body() {
    let cluster = Cluster::new();
    cluster.get(NAMESPACES).await.ok();
    let whole = cluster.get(NAMESPACES).await.body.len();
    for path in [NAMESPACES, "/api/v1/namespaces?watch=1", "/api", "/none"] {
        let reply = cluster.send(Method::HEAD, path, "", "").await;
        assert!(reply.body.is_empty(), "{path}");
        if path == NAMESPACES {
            assert_eq!(reply.headers[header::CONTENT_LENGTH], whole.to_string());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn options_that_are_wrong_are_called_by_their_kind() {
    let cluster = Cluster::new();
    cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let body = config_map("a").to_string();
    let one = format!("{CONFIG_MAPS}/a");
    for (method, path, media, options) in [
        (Method::POST, CONFIG_MAPS, JSON, "CreateOptions"),
        (Method::PUT, &one, JSON, "UpdateOptions"),
        (Method::PATCH, &one, MERGE_PATCH, "PatchOptions"),
        (Method::DELETE, &one, JSON, "DeleteOptions"),
    ] {
        let wrong = if method == Method::DELETE { &["dryRun"][..] } else { &["dryRun", "fieldValidation"] };
        let body = if method == Method::DELETE { "" } else { &body };
        for option in wrong {
            let reply = cluster.send(method.clone(), &format!("{path}?{option}=Maybe"), media, body.to_owned()).await;
            let words = format!("{options}.meta.k8s.io \"\" is invalid: {option}: Unsupported value: \"Maybe\"");
            reply.failed_with(422, "Invalid", &words);
        }
    }
}

/// SEMANTICS 35: what one request says too much does not keep the others waiting.
#[tokio::test(start_paused = true)]
async fn of_fields_without_end_the_first_are_named() {
    let cluster = Cluster::new();
    let unknown: Vec<_> = (0..100_000).map(|at| format!("\"u{at}\":1")).collect();
    let twice = vec!["\"b\":\"1\""; 100_000];
    for (name, body, word) in [
        ("a", format!("{{\"metadata\":{{\"name\":\"a\"}},{}}}", unknown.join(",")), "unknown field"),
        ("b", format!("{{\"metadata\":{{\"name\":\"b\"}},\"data\":{{{}}}}}", twice.join(",")), "duplicate field"),
    ] {
        let strict = format!("{CONFIG_MAPS}?fieldValidation=Strict");
        let refused = cluster.send(Method::POST, &strict, JSON, body.clone()).await;
        refused.failed(400, "BadRequest");
        assert_eq!(refused.text().matches(word).count(), 100);
        let made = cluster.send(Method::POST, CONFIG_MAPS, JSON, body).await;
        assert_eq!(made.ok()["metadata"]["name"], name);
        let warnings: Vec<_> = made.headers.get_all(header::WARNING).iter().collect();
        assert!(warnings.iter().all(|warning| warning.to_str().is_ok_and(|text| text.contains(word))));
        assert!((50..=100).contains(&warnings.len()), "{}", warnings.len());
    }
}
