//! Discovery, version and health: SEMANTICS 66.

use std::collections::BTreeSet;

use bytes::Bytes;
use http::{Request, header};
use http_body_util::Full;
use serde_json::{Value, json};

use super::fixture::Cluster;

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";

async fn aggregated(cluster: &Cluster, path: &str) -> Value {
    let request = Request::builder().uri(path).header(header::ACCEPT, AGGREGATED);
    let reply = cluster.request(request.body(Full::<Bytes>::default()).expect("a request")).await;
    let media = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    assert_eq!(reply.headers[header::CONTENT_TYPE], media);
    reply.ok()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// The kinds that document after document of discovery leads to and that can be listed, as `group/version/resource/kind`.
async fn listed(cluster: &Cluster) -> BTreeSet<String> {
    let mut paths = Vec::new();
    for version in cluster.get("/api").await.ok()["versions"].as_array().expect("versions") {
        paths.push((format!("/api/{}", text(version)), String::new()));
    }
    for group in cluster.get("/apis").await.ok()["groups"].as_array().expect("groups") {
        let own = cluster.get(&format!("/apis/{}", text(&group["name"]))).await.ok();
        assert_eq!((&own["kind"], &own["preferredVersion"]), (&json!("APIGroup"), &group["preferredVersion"]));
        for version in group["versions"].as_array().expect("versions") {
            paths.push((format!("/apis/{}", text(&version["groupVersion"])), text(&group["name"])));
        }
    }
    let mut found = BTreeSet::new();
    for (path, group) in paths {
        let list = cluster.get(&path).await.ok();
        assert_eq!(list["kind"], "APIResourceList");
        let version = text(&list["groupVersion"]).rsplit('/').next().unwrap_or_default().to_owned();
        for resource in list["resources"].as_array().expect("resources") {
            let can_be_listed = resource["verbs"].as_array().expect("verbs").contains(&json!("list"));
            if can_be_listed && !text(&resource["name"]).contains('/') {
                found.insert(format!("{group}/{version}/{}/{}", text(&resource["name"]), text(&resource["kind"])));
            }
        }
    }
    found
}

#[tokio::test(start_paused = true)]
async fn both_forms_of_discovery_tell_of_the_same_kinds() {
    let cluster = Cluster::new();
    let mut found = BTreeSet::new();
    for path in ["/api", "/apis"] {
        for group in aggregated(&cluster, path).await["items"].as_array().expect("groups") {
            for version in group["versions"].as_array().expect("versions") {
                for resource in version["resources"].as_array().expect("resources") {
                    if !resource["verbs"].as_array().expect("verbs").contains(&json!("list")) {
                        continue;
                    }
                    let group = text(&group["metadata"]["name"]);
                    let (name, kind) = (text(&resource["resource"]), text(&resource["responseKind"]["kind"]));
                    found.insert(format!("{group}/{}/{name}/{kind}", text(&version["version"])));
                }
            }
        }
    }
    assert_eq!(found, listed(&cluster).await);
    for kind in ["/v1/pods/Pod", "apps/v1/deployments/Deployment", "events.k8s.io/v1/events/Event"] {
        assert!(found.contains(kind), "{kind} in {found:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn every_kind_that_discovery_tells_of_can_be_listed() {
    let cluster = Cluster::new();
    for kind in listed(&cluster).await {
        let [group, version, resource, name] = kind.split('/').collect::<Vec<_>>()[..] else { panic!("{kind}") };
        let base = if group.is_empty() { "/api".to_owned() } else { format!("/apis/{group}") };
        let reply = cluster.get(&format!("{base}/{version}/{resource}")).await;
        assert_eq!(reply.ok()["kind"], format!("{name}List"), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn subresources_tell_what_they_take() {
    let cluster = Cluster::new();
    let apps = cluster.get("/apis/apps/v1").await.ok();
    let scale = apps["resources"].as_array().expect("resources").iter().find(|one| one["name"] == "deployments/scale");
    let scale = scale.expect("deployments scale");
    assert_eq!((&scale["group"], &scale["kind"]), (&json!("autoscaling"), &json!("Scale")));
    assert_eq!(scale["verbs"], json!(["get", "patch", "update"]));
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_not_found() {
    let cluster = Cluster::new();
    for path in [
        "/apis/none",
        "/apis/apps/v9",
        "/api/v9",
        "/none",
        "/apis/apps/v1/pods",
        "/openapi/v9",
        "/api//v1",
        "/apis//v1",
        "/api/v1//pods",
        "/api/v1/watch",
    ] {
        cluster.get(path).await.failed(404, "NotFound");
    }
}

/// SEMANTICS 66.
#[tokio::test(start_paused = true)]
async fn the_root_tells_each_path_of_what_is_served_in_order() {
    let cluster = Cluster::new();
    let index = cluster.get("/").await.ok();
    let paths: Vec<_> = index["paths"].as_array().expect("paths").iter().map(text).collect();
    assert!(paths.is_sorted(), "{paths:?}");
    for path in ["/api/v1", "/apis/apps", "/apis/apps/v1", "/livez/ping", "/metrics", "/openapi/v3", "/version"] {
        assert!(paths.contains(&path.to_owned()), "{path} in {paths:?}");
    }
    for path in &paths {
        assert_eq!(cluster.get(path).await.code, 200, "{path}");
    }
    cluster.by(None).get("/").await.failed(401, "Unauthorized");
}

/// SEMANTICS 32 and 66: health and version are for anyone, and nothing else is.
#[tokio::test(start_paused = true)]
async fn health_and_version_are_told_to_anyone() {
    let anyone = Cluster::new().by(None);
    for path in ["/healthz", "/livez", "/readyz", "/livez/ping"] {
        let reply = anyone.get(path).await;
        assert_eq!((reply.code, reply.text()), (200, "ok".to_owned()), "{path}");
    }
    let version = anyone.get("/version").await.ok();
    assert!(text(&version["gitVersion"]).starts_with("v1."), "{version}");
    for path in ["/api", "/apis", "/openapi/v3", "/api/v1/pods"] {
        anyone.get(path).await.failed(401, "Unauthorized");
    }
}
