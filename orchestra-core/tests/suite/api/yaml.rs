//! Bodies in YAML.

use http::Method;
use serde_json::json;

use super::fixture::{CONFIG_MAPS, Cluster, DEPLOYMENTS, deployment};

const YAML: &str = "application/yaml";

#[tokio::test(start_paused = true)]
async fn objects_are_created_updated_and_deleted_by_yaml() {
    let cluster = Cluster::new();
    let text = "# a comment\nmetadata:\n  name: a\n  labels: {tier: &tier front}\ndata:\n  1: \"x\"\n  tier: *tier\n";
    let made = cluster.send(Method::POST, CONFIG_MAPS, YAML, text).await.ok();
    assert_eq!((&made["kind"], &made["data"]), (&json!("ConfigMap"), &json!({ "1": "x", "tier": "front" })));
    let path = format!("{CONFIG_MAPS}/a");
    let put = cluster.send(Method::PUT, &path, "application/yaml; charset=utf-8", "data: {b: c}").await.ok();
    assert_eq!(put["data"], json!({ "b": "c" }));
    let precondition = "preconditions: {uid: another}";
    cluster.send(Method::DELETE, &path, YAML, precondition).await.failed(409, "Conflict");
    cluster.send(Method::DELETE, &path, YAML, "").await.ok();

    cluster.post(DEPLOYMENTS, &deployment("web")).await.ok();
    let scale = "metadata: {name: web}\nspec: {replicas: 3}";
    let scaled = cluster.send(Method::PUT, &format!("{DEPLOYMENTS}/web/scale"), YAML, scale).await.ok();
    assert_eq!(scaled["spec"]["replicas"], 3);
}

/// SEMANTICS 36.
#[tokio::test(start_paused = true)]
async fn a_key_that_stands_twice_is_refused_in_strict_yaml() {
    let cluster = Cluster::new();
    let twice = "metadata: {name: a}\ndata: {x: \"1\", x: \"2\"}";
    let strict = format!("{CONFIG_MAPS}?fieldValidation=Strict");
    let words = "strict decoding error: duplicate field \"data.x\"";
    cluster.send(Method::POST, &strict, YAML, twice).await.failed_with(400, "BadRequest", words);
    let warned = cluster.send(Method::POST, CONFIG_MAPS, YAML, twice).await;
    assert!(warned.headers["warning"].to_str().is_ok_and(|text| text.contains("data.x")));
    assert_eq!(warned.ok()["data"]["x"], "2");
}

/// SEMANTICS 35: bounded in depth and in what aliases add up to.
#[tokio::test(start_paused = true)]
async fn what_is_no_yaml_or_grows_without_end_is_a_bad_request() {
    let cluster = Cluster::new();
    let laughs = (0..40).fold("a0: &a0 [x, x]\n".to_owned(), |text, at| {
        let next = at + 1;
        text + &format!("a{next}: &a{next} [*a{at}, *a{at}, *a{at}]\n")
    });
    let deep = "[".repeat(3 << 20);
    for bad in ["data: {", "a: b\n---\nc: d", "a: *nowhere", &laughs, &deep] {
        let words = "error converting YAML to JSON: yaml: ";
        cluster.send(Method::POST, CONFIG_MAPS, YAML, bad.to_owned()).await.failed_with(400, "BadRequest", words);
    }
    let patch = cluster.send(Method::PATCH, &format!("{CONFIG_MAPS}/a"), YAML, "data: {}").await;
    patch.failed(415, "UnsupportedMediaType");
}
