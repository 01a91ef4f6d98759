//! One scheduler in three places: in the laboratory, in a cluster in this process, and behind a kubeconfig.
//!
//!     cargo run --example three_places
//!
//! places the same pods on the same nodes in each, and prints `the same plan in three places`. The third is an API server of
//! its own over HTTPS, or with `-- --kubeconfig FILE` another, where it makes nodes and pods, and removes them.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use clap::Parser;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, PostParams},
    config::Kubeconfig,
};
use orchestra_core::{
    clock::SystemClock,
    informer::Informers,
    lab::simulation::{Agent, Arrival, Micros, Simulation, Work},
    rng::Entropy,
    scheduler::{NodeInfo, Op, Pipeline, Scheduler, SchedulingLoop, Shape, Ties},
    server::{ApiServer, UserInfo},
};
use orchestra_net::{address::LoopbackPlan, publish::publish};
use orchestra_store::MemoryStore;
use serde_json::{from_value, json};
use tokio::time::sleep;

const NAME: &str = "three-places";

#[derive(Parser)]
struct Args {
    /// A cluster whose schedulers leave pods of `three-places` alone.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

/// The scheduler: put your own here.
fn scheduler() -> impl Scheduler {
    Pipeline::kubernetes_default().ties(Ties::First)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let (nodes, pods) = cluster(&Entropy::seeded(1))?;
    let lab = in_the_laboratory(&nodes, &pods);
    println!("in the laboratory:   {} pods on {} nodes", lab.len(), nodes.len());
    let api = ApiServer::builder(Arc::new(MemoryStore::new())).build();
    let process = behind_an_api(api.client(UserInfo::master(NAME)), &nodes, &pods).await?;
    println!("in this process:     {} pods on {} nodes", process.len(), nodes.len());
    let data = tempfile::tempdir()?;
    let ranges = LoopbackPlan::of(data.path()).services();
    let published = publish(data.path(), ([127, 0, 0, 1], 0).into(), &ranges, &SystemClock).await?;
    let file = args.kubeconfig.unwrap_or_else(|| published.kubeconfig.clone());
    tokio::spawn(published.serve(ApiServer::builder(Arc::new(MemoryStore::new())).ranges(ranges).build()));
    let kubeconfig = Kubeconfig::read_from(file).context("--kubeconfig")?;
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.context("--kubeconfig")?;
    let remote = behind_an_api(Client::try_from(config)?, &nodes, &pods).await?;
    println!("behind a kubeconfig: {} pods on {} nodes", remote.len(), nodes.len());
    ensure!(lab == process && process == remote, "the plans differ:\n{lab:?}\n{process:?}\n{remote:?}");
    println!("the same plan in three places");
    Ok(())
}

/// Nodes of two sizes, and pods of many.
fn cluster(entropy: &Entropy) -> serde_json::Result<(Vec<Node>, Vec<Pod>)> {
    let draw = |most: u64| 1 + entropy.next_u64() % most;
    let labels = json!({ "part-of": NAME });
    let nodes = (0..8).map(|n| {
        let allocatable = json!({ "cpu": (4 * draw(2)).to_string(), "memory": "16Gi", "pods": "20" });
        let metadata = json!({ "name": format!("{NAME}-{n}"), "labels": labels });
        let status = json!({ "allocatable": allocatable, "conditions": [{ "type": "Ready", "status": "True" }] });
        from_value(json!({ "metadata": metadata, "status": status }))
    });
    let pods = (0..40).map(|n| {
        let requests = json!({ "cpu": format!("{}m", 100 * draw(15)), "memory": format!("{}Mi", 128 * draw(16)) });
        let container = json!({ "name": "main", "image": "none", "resources": { "requests": requests } });
        let spec = json!({ "schedulerName": NAME, "nodeSelector": labels, "containers": [container] });
        from_value(json!({ "metadata": { "name": format!("{NAME}-{n:02}"), "labels": labels }, "spec": spec }))
    });
    Ok((nodes.collect::<Result<_, _>>()?, pods.collect::<Result<_, _>>()?))
}

fn in_the_laboratory(nodes: &[Node], pods: &[Pod]) -> BTreeMap<String, String> {
    let nodes: Vec<NodeInfo> = nodes.iter().map(NodeInfo::of).collect();
    let work = |pod| Work::new(Shape::of(pod), None);
    let arrivals = pods.iter().map(|pod| Arrival::pod(pod.name_any(), Micros::ZERO, work(pod)));
    let outcome = Simulation::of(&nodes).run(arrivals, vec![Agent::new(scheduler())], |_| 0, &Entropy::seeded(1));
    let decided = outcome.log.decisions().filter_map(|decision| match &decision.ops[..] {
        [Op::Place { place, .. }] => Some((&pods[decision.unit.0 as usize], &nodes[place.node.0 as usize])),
        _ => None,
    });
    decided.map(|(pod, node)| (pod.name_any(), node.name.to_string())).collect()
}

async fn behind_an_api(client: Client, nodes: &[Node], pods: &[Pod]) -> anyhow::Result<BTreeMap<String, String>> {
    let (node_api, pod_api) = (Api::<Node>::all(client.clone()), Api::<Pod>::default_namespaced(client.clone()));
    for node in nodes {
        node_api.create(&PostParams::default(), node).await?;
    }
    for pod in pods {
        pod_api.create(&PostParams::default(), pod).await?;
    }
    let (informers, clock) = (Informers::new(client.clone()), Arc::new(SystemClock));
    let scheduling = SchedulingLoop::new(client, &informers, Box::new(scheduler()), clock, Entropy::seeded(1));
    let scheduling = tokio::spawn(scheduling.scheduler_name(NAME).run());
    let (mut places, ours) = (BTreeMap::new(), ListParams::default().labels(&format!("part-of={NAME}")));
    while places.len() < pods.len() {
        sleep(Duration::from_millis(100)).await;
        let bound = pod_api.list(&ours).await?.into_iter();
        places = bound.filter_map(|pod| Some((pod.name_any(), pod.spec?.node_name?))).collect();
    }
    scheduling.abort();
    pod_api.delete_collection(&DeleteParams::default().grace_period(0), &ours).await?;
    node_api.delete_collection(&DeleteParams::default(), &ours).await?;
    Ok(places)
}
