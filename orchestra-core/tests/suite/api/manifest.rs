//! Manifests, applied in-process as `kubectl apply` applies them.

use std::{error::Error as _, time::Duration};

use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{ConfigMap, Pod},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
};
use orchestra_core::{informer::Informers, manifest, server::UserInfo};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::fixture::{Cluster, deployment, pod};

fn client() -> Client {
    Cluster::new().server.client(UserInfo::master("admin"))
}

fn web(replicas: Option<u32>) -> Value {
    let mut web = deployment("web");
    web["apiVersion"] = "apps/v1".into();
    web["kind"] = "Deployment".into();
    web["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{ "name": "A", "value": "1" }]);
    if let Some(replicas) = replicas {
        web["spec"]["replicas"] = replicas.into();
    }
    web
}

/// SEMANTICS 36: nothing is left out in silence.
#[tokio::test(start_paused = true)]
async fn what_the_server_does_not_know_is_refused_by_name() {
    for (object, words) in [
        (
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "foo": 1 }),
            "unknown field \"foo\"",
        ),
        (
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a", "label": {} } }),
            "metadata.label",
        ),
        (
            json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a", "annotations": 7 } }),
            "annotations",
        ),
        (json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "a" }, "data": { "n": 1 } }), "data"),
    ] {
        let error = manifest::apply(&client(), [object]).await.expect_err("it is refused");
        assert_eq!(error.to_string(), "ConfigMap a was not applied");
        let cause = error.source().expect("a cause").to_string();
        assert!(cause.contains(words) && !cause.contains("Status {"), "{cause}");
    }
}

/// SEMANTICS 26: applied again, a manifest keeps what others have added, and takes away what it no longer says.
#[tokio::test(start_paused = true)]
async fn a_manifest_applied_again_undoes_nobodys_work() {
    let client = client();
    manifest::apply(&client, [web(Some(3))]).await.expect("created");
    let deployments = Api::<Deployment>::default_namespaced(client.clone());
    let container = json!({ "name": "web", "env": [{ "name": "B", "value": "2" }] });
    let by_another = json!({ "spec": { "template": { "spec": { "containers": [container] } } } });
    deployments.patch("web", &PatchParams::default(), &Patch::Strategic(by_another)).await.expect("patched");

    let env = |web: &Deployment| {
        let spec = web.spec.template.spec.clone().expect("a spec");
        spec.containers[0].env.iter().flatten().map(|variable| variable.name.clone()).collect::<Vec<_>>()
    };
    manifest::apply(&client, [web(Some(3))]).await.expect("applied again");
    let same = deployments.get("web").await.expect("there");
    assert_eq!((env(&same).len(), same.spec.replicas), (2, Some(3)));

    manifest::apply(&client, [web(None)]).await.expect("applied without replicas");
    let changed = deployments.get("web").await.expect("there");
    assert_eq!((env(&changed).len(), changed.spec.replicas), (2, Some(1)));
}

/// SEMANTICS 41: caches that others have had for long may not know of it yet.
#[tokio::test(start_paused = true)]
async fn a_pod_of_the_manifest_is_waited_for() {
    let client = client();
    let informers = Informers::new(client.clone());
    let shared = informers.of::<Pod>();
    shared.synced().await;
    let mut once = pod("once");
    once["apiVersion"] = "v1".into();
    once["kind"] = "Pod".into();
    // What fails and isn't in the manifest is no matter of it.
    let mut other = pod("other");
    (other["apiVersion"], other["kind"]) = ("v1".into(), "Pod".into());
    manifest::apply(&client, [other]).await.expect("created");
    let applied = manifest::apply(&client, [once]).await.expect("created");

    let mut told = Vec::new();
    let patience = Duration::from_secs(1);
    let early = timeout(patience, manifest::rolled_out(&informers, &applied, |now| told.push(now.to_string()))).await;
    assert!(early.is_err(), "{told:?}");
    assert_eq!(told[0], "0 of 1 pods available");
    let status = json!({ "status": { "phase": "Succeeded" } });
    let pods = Api::<Pod>::default_namespaced(client);
    pods.patch_status("once", &PatchParams::default(), &Patch::Merge(status)).await.expect("patched");
    timeout(patience, manifest::rolled_out(&informers, &applied, |_| {})).await.expect("nothing is left to do");
}

/// As `kubectl get -o yaml` writes it.
#[tokio::test(start_paused = true)]
async fn a_list_is_its_items() {
    let client = client();
    let map = |name: &str| json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name } });
    let list = |items: Value| json!({ "apiVersion": "v1", "kind": "List", "metadata": {}, "items": items });
    manifest::apply(&client, [list(json!([])), list(json!([map("a"), map("b")]))]).await.expect("applied");
    let maps = Api::<ConfigMap>::default_namespaced(client.clone());
    for name in ["a", "b"] {
        maps.get(name).await.expect("made");
    }

    let nameless = [map("a"), list(json!([map("c"), map("")]))];
    let error = manifest::apply(&client, nameless).await.expect_err("the second item is nobody");
    assert_eq!(error.to_string(), "document 2 of the manifest has no items[1].metadata.name");
    let error = manifest::apply(&client, [list(json!("c"))]).await.expect_err("no items");
    assert_eq!(error.to_string(), "document 1 of the manifest has no items");
}
