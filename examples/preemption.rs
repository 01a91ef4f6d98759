//! A critical pod takes the place of less important ones, as few and as unimportant as will do. Time is simulated.
//!
//!     cargo run --example preemption
//!
//! prints who runs, who is asked to leave, and who has the room in the end; it ends by itself.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::{
    core::v1::{Event, Pod},
    policy::v1::PodDisruptionBudget,
    scheduling::v1::PriorityClass,
};
use kube::{Api, ResourceExt as _, api::PostParams, runtime::wait::await_condition};
use orchestra_core::{clock::TokioClock, control_plane::ControlPlane};
use orchestra_runtime::{MemoryRuntime, kubelet::Kubelet};
use orchestra_store::MemoryStore;
use serde_json::{Value, from_value, json};

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> anyhow::Result<()> {
    let clock = TokioClock::default();
    let cluster = ControlPlane::builder(MemoryStore::new()).clock(clock).seed(1).start();
    let runtime = MemoryRuntime::with_addresses(Arc::new(clock), [10, 0, 0, 1].into(), 250);
    let kubelet = Kubelet::builder(cluster.client(), Arc::new(runtime), "node-1").clock(Arc::new(clock));
    let kubelet = kubelet.capacity([("cpu", "4"), ("memory", "8Gi"), ("pods", "110")]).build();
    let _node = tokio::spawn(async move { kubelet.run().await });

    let classes = Api::<PriorityClass>::all(cluster.client());
    for (name, value) in [("batch", 10), ("web", 100), ("critical", 1_000)] {
        let class = from_value(json!({ "metadata": { "name": name }, "value": value }))?;
        classes.create(&PostParams::default(), &class).await?;
    }
    // Of the two batch jobs, one may not be disrupted while it can be helped.
    let budgets = Api::<PodDisruptionBudget>::default_namespaced(cluster.client());
    let selector = json!({ "matchLabels": { "app": "batch-1" } });
    let budget =
        from_value(json!({ "metadata": { "name": "guard" }, "spec": { "maxUnavailable": 0, "selector": selector } }))?;
    budgets.create(&PostParams::default(), &budget).await?;

    let pods = Api::<Pod>::default_namespaced(cluster.client());
    for (name, class, cpu) in [("batch-1", "batch", "1"), ("batch-2", "batch", "1"), ("web-1", "web", "2")] {
        pods.create(&PostParams::default(), &from_value(pod(name, class, cpu))?).await?;
        await_condition(pods.clone(), name, runs).await?;
    }
    println!("before: {}", names(&pods).await?);

    pods.create(&PostParams::default(), &from_value(pod("database", "critical", "1"))?).await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let database = pods.get("database").await?;
    let nominated = database.status.and_then(|status| status.nominated_node_name).unwrap_or_default();
    println!("database waits for room on {nominated}");
    await_condition(pods.clone(), "database", runs).await?;
    println!("after:  {}", names(&pods).await?);
    for event in Api::<Event>::default_namespaced(cluster.client()).list(&Default::default()).await? {
        if event.reason.as_deref() == Some("Preempted") {
            println!("{}: {}", event.involved_object.name.unwrap_or_default(), event.message.unwrap_or_default());
        }
    }
    Ok(())
}

fn pod(name: &str, class: &str, cpu: &str) -> Value {
    let resources = json!({ "requests": { "cpu": cpu } });
    let container = json!({ "name": "main", "image": "registry.example/main:1", "resources": resources });
    json!({ "metadata": { "name": name, "labels": { "app": name } },
        "spec": { "priorityClassName": class, "containers": [container] } })
}

fn runs(pod: Option<&Pod>) -> bool {
    let phase = pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref());
    phase == Some("Running")
}

async fn names(pods: &Api<Pod>) -> anyhow::Result<String> {
    let running = pods.list(&Default::default()).await?;
    Ok(running.iter().filter(|pod| runs(Some(pod))).map(|pod| pod.name_any()).collect::<Vec<_>>().join(", "))
}
