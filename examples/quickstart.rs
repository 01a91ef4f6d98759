//! A cluster of three nodes in memory: a deployment comes up, a node dies, the deployment heals. Time is simulated.
//!
//!     cargo run --example quickstart
//!
//! prints the pods by node before and after, and ends by itself.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{
    Api,
    api::PostParams,
    runtime::wait::{await_condition, conditions::is_deployment_completed},
};
use orchestra_core::{clock::TokioClock, control_plane::ControlPlane};
use orchestra_runtime::{MemoryRuntime, kubelet::Kubelet};
use orchestra_store::MemoryStore;
use serde_json::{from_value, json};

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> anyhow::Result<()> {
    let clock = TokioClock::default();
    let cluster = ControlPlane::builder(MemoryStore::new()).clock(clock).seed(1).start();
    let mut nodes: BTreeMap<_, _> = ["node-1", "node-2", "node-3"]
        .into_iter()
        .enumerate()
        .map(|(n, name)| {
            let runtime = MemoryRuntime::with_addresses(Arc::new(clock), [10, 0, n as u8, 1].into(), 250);
            let kubelet = Kubelet::builder(cluster.client(), Arc::new(runtime), name).clock(Arc::new(clock)).build();
            (name, tokio::spawn(async move { kubelet.run().await }))
        })
        .collect();

    let deployments = Api::<Deployment>::default_namespaced(cluster.client());
    let web: Deployment = from_value(json!({
        "metadata": { "name": "web" },
        "spec": { "replicas": 6, "selector": { "matchLabels": { "app": "web" } }, "template": {
            "metadata": { "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "web", "image": "registry.example/web:1" }] } } },
    }))?;
    deployments.create(&PostParams::default(), &web).await?;
    await_condition(deployments.clone(), "web", is_deployment_completed()).await?;
    println!("rolled out: {}", pods_by_node(&cluster).await?);

    nodes.remove("node-2").expect("it is there").abort();
    tokio::time::sleep(Duration::from_secs(600)).await;
    await_condition(deployments, "web", is_deployment_completed()).await?;
    println!("healed:     {}", pods_by_node(&cluster).await?);
    Ok(())
}

async fn pods_by_node(cluster: &ControlPlane) -> anyhow::Result<String> {
    let mut count = BTreeMap::new();
    for pod in Api::<Pod>::default_namespaced(cluster.client()).list(&Default::default()).await? {
        if pod.metadata.deletion_timestamp.is_none() {
            *count.entry(pod.spec.and_then(|spec| spec.node_name).unwrap_or_default()).or_insert(0) += 1;
        }
    }
    Ok(count.iter().map(|(node, pods)| format!("{node} {pods} pods")).collect::<Vec<_>>().join(", "))
}
