//! Jobs whose pods are of use only together: as gangs they start whole, one after the other. Time is simulated.
//!
//!     cargo run --example gangs
//!
//! prints who has a place without gangs, where each job holds room that the other lacks, and with them; it ends by itself.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::api::{core::v1::Pod, scheduling::v1beta1::PodGroup};
use kube::{Api, ResourceExt as _, api::PostParams};
use orchestra_core::{clock::TokioClock, control_plane::ControlPlane};
use orchestra_runtime::{MemoryRuntime, kubelet::Kubelet};
use orchestra_store::MemoryStore;
use serde_json::{Value, from_value, json};
use tokio::time::sleep;

/// How many pods each job has, all of which it needs.
const PODS: u32 = 3;

#[tokio::main(flavor = "current_thread", start_paused = true)]
async fn main() -> anyhow::Result<()> {
    println!("room for 4 pods, and two jobs of {PODS} that can't start with fewer");
    println!("as pods by themselves: {}", run(false).await?);
    println!("as gangs:              {}", run(true).await?);
    Ok(())
}

/// Creates the pods of both jobs in turn, tells who has a place, and who has once the first to be whole has ended.
async fn run(as_gangs: bool) -> anyhow::Result<String> {
    let clock = TokioClock::default();
    let cluster = ControlPlane::builder(MemoryStore::new()).clock(clock).seed(1).start();
    let client = cluster.client();
    let runtime = MemoryRuntime::with_addresses(Arc::new(clock), [10, 0, 0, 1].into(), 250);
    let kubelet = Kubelet::builder(client.clone(), Arc::new(runtime), "node-1").clock(Arc::new(clock));
    let kubelet = kubelet.capacity([("cpu", "4"), ("memory", "8Gi"), ("pods", "110")]).build();
    let _node = tokio::spawn(async move { kubelet.run().await });
    if as_gangs {
        let groups = Api::<PodGroup>::default_namespaced(client.clone());
        for job in ["red", "blue"] {
            let policy = json!({ "gang": { "minCount": PODS } });
            let group = json!({ "metadata": { "name": job }, "spec": { "schedulingPolicy": policy } });
            groups.create(&PostParams::default(), &from_value(group)?).await?;
        }
    }
    let pods = Api::<Pod>::default_namespaced(client);
    for number in 0..PODS {
        for job in ["red", "blue"] {
            pods.create(&PostParams::default(), &from_value(pod(job, number, as_gangs))?).await?;
            sleep(Duration::from_secs(1)).await;
        }
    }
    sleep(Duration::from_secs(30)).await;
    let first = placed(&pods).await?;
    let Some((job, _)) = first.iter().find(|(_, count)| **count == PODS) else {
        return Ok(format!("{first:?}: none is whole, and none will ever be"));
    };
    for number in 0..PODS {
        pods.delete(&format!("{job}-{number}"), &Default::default()).await?;
    }
    sleep(Duration::from_secs(60)).await;
    Ok(format!("{first:?}, and once {job} has ended {:?}", placed(&pods).await?))
}

/// How many pods of each job have a place.
async fn placed(pods: &Api<Pod>) -> anyhow::Result<BTreeMap<String, u32>> {
    let mut counts = BTreeMap::new();
    for pod in pods.list(&Default::default()).await? {
        let job = pod.labels().get("job").cloned().unwrap_or_default();
        *counts.entry(job).or_default() += u32::from(pod.spec.is_some_and(|spec| spec.node_name.is_some()));
    }
    Ok(counts)
}

fn pod(job: &str, number: u32, as_gang: bool) -> Value {
    let resources = json!({ "requests": { "cpu": "1" } });
    let container = json!({ "name": "main", "image": "registry.example/main:1", "resources": resources });
    let mut pod = json!({ "metadata": { "name": format!("{job}-{number}"), "labels": { "job": job } },
        "spec": { "containers": [container], "terminationGracePeriodSeconds": 0 } });
    if as_gang {
        pod["spec"]["schedulingGroup"] = json!({ "podGroupName": job });
    }
    pod
}
