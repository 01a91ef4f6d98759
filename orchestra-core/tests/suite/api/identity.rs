//! Who may do what: SEMANTICS 32, 33 and 75.

use orchestra_core::server::{AUTHENTICATED_GROUP, UserInfo};
use serde_json::{Value, json};

use super::fixture::{CONFIG_MAPS, Cluster, DEPLOYMENTS, MERGE_PATCH, PODS, config_map, deployment, pod};

const NODES: &str = "/api/v1/nodes";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
const SECRETS: &str = "/api/v1/namespaces/default/secrets";

fn user(name: &str, groups: &[&str]) -> Option<UserInfo> {
    Some(UserInfo::new(name, groups.iter().copied().chain([AUTHENTICATED_GROUP])))
}

fn named(name: &str) -> Value {
    json!({ "metadata": { "name": name } })
}

/// SEMANTICS 32 and 75.
#[tokio::test(start_paused = true)]
async fn nobody_is_let_in_and_a_stranger_is_told_nothing() {
    let cluster = Cluster::new();
    cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    let nobody = cluster.by(None);
    for path in [
        format!("{CONFIG_MAPS}/a"),
        format!("{CONFIG_MAPS}/none"),
        "/apis/none/v1/none".into(),
        "/metrics".into(),
        "/apis".into(),
    ] {
        nobody.get(&path).await.failed(401, "Unauthorized");
    }
    assert_eq!(nobody.get("/livez").await.code, 200);
    // Neither a name that looks like a component's nor one that looks like a node's is enough.
    for stranger in [
        user("jane", &[]),
        user("system:kube-anything", &[]),
        user("system:node:n1", &[]),
        user("n1", &["system:nodes"]),
    ] {
        let stranger = cluster.by(stranger);
        let one = stranger.get(&format!("{CONFIG_MAPS}/a")).await.failed(403, "Forbidden");
        let none = stranger.get(&format!("{CONFIG_MAPS}/none")).await.failed(403, "Forbidden");
        let words = |status: &Value| status["message"].as_str().expect("a message").replace("none", "a");
        assert_eq!(words(&one), words(&none));
        stranger.get("/apis/none/v1/none").await.failed(403, "Forbidden");
        stranger.post(CONFIG_MAPS, &config_map("b")).await.failed(403, "Forbidden");
        stranger.get("/metrics").await.failed(403, "Forbidden");
    }
    let status = cluster.by(user("jane", &[])).delete(&format!("{DEPLOYMENTS}/web")).await.failed(403, "Forbidden");
    assert_eq!(
        status["message"],
        "deployments.apps \"web\" is forbidden: User \"jane\" cannot delete resource \"deployments\" in API group \"apps\" in \
         the namespace \"default\""
    );
}

/// SEMANTICS 32.
#[tokio::test(start_paused = true)]
async fn components_do_what_they_are_for() {
    let cluster = Cluster::new();
    cluster.post(PODS, &pod("a")).await.ok();
    let scheduler = cluster.by(user("system:kube-scheduler", &[]));
    scheduler.get(DEPLOYMENTS).await.ok();
    scheduler.get(SECRETS).await.failed(403, "Forbidden");
    scheduler.post(&format!("{PODS}/a/binding"), &json!({ "target": { "name": "n1" } })).await.ok();
    scheduler.post(DEPLOYMENTS, &deployment("web")).await.failed(403, "Forbidden");
    let proxy = cluster.by(user("system:kube-proxy", &[]));
    proxy.get("/apis/discovery.k8s.io/v1/endpointslices").await.ok();
    proxy.get(PODS).await.failed(403, "Forbidden");
    let manager = cluster.by(user("system:kube-controller-manager", &[]));
    manager.post(DEPLOYMENTS, &deployment("web")).await.ok();
}

/// SEMANTICS 33.
#[tokio::test(start_paused = true)]
async fn a_kubelet_writes_its_own_node_and_nothing_of_it_that_is_not_its_own() {
    let cluster = Cluster::new();
    let kubelet = cluster.by(user("system:node:n1", &["system:nodes"]));
    let mut tainted = named("n1");
    tainted["spec"] = json!({ "taints": [{ "key": "new", "effect": "NoSchedule" }] });
    kubelet.post(NODES, &tainted).await.ok();
    kubelet.post(NODES, &named("n2")).await.failed(403, "Forbidden");
    cluster.post(NODES, &named("n2")).await.ok();
    let status = json!({ "status": { "phase": "Running" } });
    kubelet.patch(&format!("{NODES}/n1/status"), MERGE_PATCH, &status).await.ok();
    kubelet.patch(&format!("{NODES}/n2/status"), MERGE_PATCH, &status).await.failed(403, "Forbidden");
    kubelet.get(&format!("{NODES}/n2")).await.failed(403, "Forbidden");
    kubelet.get(NODES).await.failed(403, "Forbidden");
    kubelet.get(&format!("{NODES}?fieldSelector=metadata.name%3Dn1")).await.ok();
    let own = format!("{NODES}/n1");
    kubelet.patch(&own, MERGE_PATCH, &json!({ "metadata": { "labels": { "rack": "7" } } })).await.ok();
    for (patch, what) in [
        (json!({ "metadata": { "labels": { "node-restriction.kubernetes.io/secure": "yes" } } }), "labels"),
        (json!({ "spec": { "taints": null } }), "taints"),
        (
            json!({ "metadata": { "ownerReferences": [{ "apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "1" }] } }),
            "ownerReferences",
        ),
    ] {
        let words = format!("node \"n1\" is not allowed to modify {what}");
        kubelet.patch(&own, MERGE_PATCH, &patch).await.failed_with(403, "Forbidden", &words);
        cluster.patch(&own, MERGE_PATCH, &patch).await.ok();
    }
    kubelet.post(LEASES, &named("n1")).await.ok();
    kubelet.post(LEASES, &named("n2")).await.failed(403, "Forbidden");
    kubelet.patch(&format!("{LEASES}/n1"), MERGE_PATCH, &json!({ "spec": { "holderIdentity": "n1" } })).await.ok();
    kubelet.get(&format!("{LEASES}/n2")).await.failed(403, "Forbidden");
}

/// SEMANTICS 33.
#[tokio::test(start_paused = true)]
async fn a_kubelet_sees_its_pods_and_what_they_refer_to() {
    let cluster = Cluster::new();
    let kubelet = cluster.by(user("system:node:n1", &["system:nodes"]));
    for (name, node) in [("mine", "n1"), ("other", "n2")] {
        let mut given = pod(name);
        given["spec"]["nodeName"] = node.into();
        given["spec"]["volumes"] = json!([{ "name": "v", "secret": { "secretName": format!("volume-{name}") } }]);
        given["spec"]["imagePullSecrets"] = json!([{ "name": format!("pull-{name}") }]);
        given["spec"]["containers"][0]["env"] =
            json!([{ "name": "A", "valueFrom": { "secretKeyRef": { "name": format!("env-{name}"), "key": "k" } } }]);
        given["spec"]["containers"][0]["envFrom"] = json!([{ "configMapRef": { "name": format!("map-{name}") } }]);
        cluster.post(PODS, &given).await.ok();
        for secret in ["volume", "pull", "env"] {
            cluster.post(SECRETS, &named(&format!("{secret}-{name}"))).await.ok();
        }
        cluster.post(CONFIG_MAPS, &config_map(&format!("map-{name}"))).await.ok();
    }
    cluster.now().await;
    for secret in ["volume", "pull", "env"] {
        kubelet.get(&format!("{SECRETS}/{secret}-mine")).await.ok();
        kubelet.get(&format!("{SECRETS}/{secret}-other")).await.failed(403, "Forbidden");
    }
    kubelet.get(&format!("{CONFIG_MAPS}/map-mine")).await.ok();
    kubelet.get(&format!("{CONFIG_MAPS}/map-other")).await.failed(403, "Forbidden");
    kubelet.get(SECRETS).await.failed(403, "Forbidden");

    let own = kubelet.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.ok();
    assert_eq!(own["items"].as_array().map(Vec::len), Some(1));
    for all in [
        "",
        "?fieldSelector=spec.nodeName%3Dn2",
        "?fieldSelector=spec.nodeName%21%3Dn1",
        "?fieldSelector=metadata.name%21%3Da%5C%2Cspec.nodeName%5C%3Dn1",
    ] {
        kubelet.get(&format!("/api/v1/pods{all}")).await.failed(403, "Forbidden");
    }
    let running = json!({ "status": { "phase": "Running" } });
    kubelet.patch(&format!("{PODS}/mine/status"), MERGE_PATCH, &running).await.ok();
    kubelet.patch(&format!("{PODS}/other/status"), MERGE_PATCH, &running).await.failed(403, "Forbidden");
    kubelet.patch(&format!("{PODS}/mine"), MERGE_PATCH, &running).await.failed(403, "Forbidden");
    kubelet.patch(&format!("{PODS}/none/status"), MERGE_PATCH, &running).await.failed(404, "NotFound");
    kubelet.delete(&format!("{PODS}/other")).await.failed(403, "Forbidden");
    kubelet.delete(&format!("{PODS}/mine?gracePeriodSeconds=0")).await.ok();
    let event = json!({ "metadata": { "name": "e" }, "involvedObject": { "namespace": "default" } });
    kubelet.post("/api/v1/namespaces/default/events", &event).await.ok();
    kubelet.get("/api/v1/services").await.ok();
}
