//! A cluster at rest, and the same cluster twice: SEMANTICS 45 and 60.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, Patch, PatchParams},
};
use orchestra_core::{
    clock::TokioClock,
    control_plane::ControlPlane,
    store::{Prefix, Store as _},
};
use orchestra_store::MemoryStore;
use serde_json::json;

use super::world;

const NODES: [&str; 2] = ["n1", "n2"];

/// What a kubelet says of the pods on its node: they run, and are ready.
async fn run_pods(client: &Client) {
    let pods = Api::<Pod>::all(client.clone());
    for pod in pods.list(&ListParams::default()).await.expect("listed") {
        let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        let runs = pod.status.as_ref().is_some_and(|status| status.phase.as_deref() == Some("Running"));
        if placed && !runs {
            let patch = json!({ "status": { "phase": "Running", "podIP": "10.0.0.1",
                "conditions": [{ "type": "Ready", "status": "True", "lastTransitionTime": "2030-01-01T00:00:00Z" }] } });
            let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
            api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch))
                .await
                .expect("written");
        }
    }
}

async fn renew(client: &Client, minute: u64) {
    let leases = Api::<Lease>::namespaced(client.clone(), "kube-node-lease");
    for node in NODES {
        let patch = json!({ "spec": { "renewTime": format!("2030-01-01T00:00:00.{minute:06}Z") } });
        leases.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await.expect("renewed");
    }
}

/// A cluster with two nodes, a deployment and its service, and a pod that fits nowhere; after ten minutes.
async fn cluster(store: Arc<MemoryStore>, seed: u64) -> ControlPlane {
    let cluster = ControlPlane::builder(store).clock(TokioClock::default()).seed(seed).root_ca("PEM").start();
    let client = cluster.client();
    for name in NODES {
        world::create(&client, world::node(name, "True")).await;
        let lease = json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": name, "namespace": "kube-node-lease" }, "spec": { "holderIdentity": name } });
        world::create(&client, lease).await;
    }
    world::create(&client, world::deployment(5, "host")).await;
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "default" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] } });
    world::create(&client, service).await;
    let huge = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "huge", "namespace": "default" },
        "spec": { "containers": [{ "name": "c", "image": "host", "resources": { "requests": { "cpu": "64" } } }] } });
    world::create(&client, huge).await;
    for turn in 0..60 {
        renew(&client, turn).await;
        run_pods(&client).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    cluster
}

/// SEMANTICS 45. The pod that fits nowhere is tried again every five minutes, which its event counts.
#[tokio::test(start_paused = true)]
async fn a_cluster_at_rest_writes_nothing_but_the_leases_of_its_nodes_and_what_fails_again() {
    let store = Arc::new(MemoryStore::new());
    let cluster = cluster(store.clone(), 1).await;
    let before = store.revision().await.expect("readable");
    for turn in 60..240 {
        renew(&cluster.client(), turn).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
    }
    let after = store.revision().await.expect("readable");
    let (renewed, failed) = (180 * NODES.len() as u64, 30 / 5);
    assert_eq!(after.0 - before.0, renewed + failed, "revisions in half an hour");
}

/// Everything there is in the end, and the revisions that made and last wrote it.
fn history(seed: u64) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(async {
        let store = Arc::new(MemoryStore::new());
        let _cluster = cluster(Arc::clone(&store), seed).await;
        let all = store.list(&Prefix::all()).await.expect("readable");
        let entries = all.entries.iter().map(|entry| {
            let value = String::from_utf8_lossy(&entry.value);
            format!("{:?} {:?} {} {value}", entry.modified, entry.created, entry.key.as_str())
        });
        let mut entries: Vec<_> = entries.collect();
        entries.sort();
        entries
    })
}

/// SEMANTICS 60.
#[test]
fn one_seed_gives_one_history() {
    let first = history(7);
    assert!(first.len() > 20, "{first:#?}");
    for _ in 0..3 {
        let second = history(7);
        let differing: Vec<_> = first.iter().zip(&second).filter(|(first, second)| first != second).take(1).collect();
        assert!(differing.is_empty() && first.len() == second.len(), "{differing:#?}");
    }
    assert_ne!(first, history(8));
}
