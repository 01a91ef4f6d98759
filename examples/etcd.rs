//! Two API servers on an etcd of three members: one server and one member are killed, and nothing is lost. Controllers and
//! scheduler run beside each server; of both, one acts at a time.
//!
//!     cargo run --features etcd --example etcd
//!
//! needs `etcd` in `PATH`, and `protoc` to build. It prints `kubectl` lines for either server, what happens, and after half
//! a minute that `nothing was lost`; with `-- --stay` what is left stays until Ctrl-C.

use std::{convert::Infallible, net::Ipv4Addr, path::Path, process::Command, sync::Arc};

use anyhow::Context as _;
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease, core::v1::ConfigMap};
use kube::{
    Api, Client,
    api::{ListParams, Patch, PatchParams, PostParams},
    config::Kubeconfig,
    runtime::wait::await_condition,
};
use orchestra_core::{clock::SystemClock, control_plane::ControlPlane, controller::election::ELECTION_NAMESPACE};
use orchestra_net::{address::LoopbackPlan, pki::Subject, publish::publish};
use orchestra_runtime::{MemoryRuntime, kubelet::Kubelet};
use orchestra_store::{EtcdOptions, EtcdStore, etcd::testing::EtcdCluster};
use serde_json::{from_value, json};
use tokio::task::JoinSet;

/// How many are written before the kill, and looked for after it.
const OBJECTS: usize = 100;

/// One API server over HTTPS, with its controllers and scheduler; dropped, it is gone.
struct Server {
    plane: ControlPlane,
    /// Asks over HTTPS, as `kubectl` does.
    client: Client,
    _serving: JoinSet<Infallible>,
}

async fn server(name: &str, data: &Path, etcd: EtcdOptions) -> anyhow::Result<Server> {
    let (clock, ranges) = (SystemClock, LoopbackPlan::of(data).services());
    let published = publish(data, (Ipv4Addr::LOCALHOST, 0).into(), &ranges, &clock).await?;
    let kubeconfig = published.write_kubeconfig(&data.join(name), &Subject::admin(), &clock)?;
    let plane = ControlPlane::builder(EtcdStore::connect(etcd).await?)
        .ranges(ranges)
        .advertise(published.address)
        .root_ca(published.authority().certificate_pem())
        .elected(name)
        .start();
    let mut serving = JoinSet::new();
    serving.spawn(published.serve(plane.api().clone()));
    println!("{name}: kubectl --kubeconfig {} get deployments,pods,leases -A", kubeconfig.display());
    let config = Kubeconfig::read_from(&kubeconfig)?;
    let client = Client::try_from(kube::Config::from_custom_kubeconfig(config, &Default::default()).await?)?;
    client.apiserver_version().await?;
    Ok(Server { plane, client, _serving: serving })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::ERROR).init();
    tokio::select! {
        biased;
        stopped = orchestra_net::serve::asked_to_stop() => Ok(stopped?),
        done = demonstrate() => done,
    }
}

async fn demonstrate() -> anyhow::Result<()> {
    Command::new("etcd").arg("--version").output().context("no `etcd` in PATH: install it, as etcd-server")?;
    let (data, mut etcd) = (tempfile::tempdir()?, EtcdCluster::start().await);
    let first = server("server-1", data.path(), etcd.options()).await?;
    for lease in ["kube-controller-manager", "kube-scheduler"] {
        let leases = Api::<Lease>::namespaced(first.client.clone(), ELECTION_NAMESPACE);
        await_condition(leases, lease, |lease: Option<&Lease>| lease.is_some()).await?;
    }
    let second = server("server-2", data.path(), etcd.options()).await?;
    let runtime = Arc::new(MemoryRuntime::new(Arc::new(SystemClock)));
    let kubelet = Kubelet::builder(second.plane.client(), runtime, "node-1").build();
    tokio::spawn(async move { kubelet.run().await });

    for n in 0..OBJECTS {
        let map: ConfigMap = from_value(json!({ "metadata": { "name": format!("map-{n}") } }))?;
        Api::default_namespaced(first.client.clone()).create(&PostParams::default(), &map).await?;
    }
    let web: Deployment = from_value(json!({
        "metadata": { "name": "web" },
        "spec": { "replicas": 3, "selector": { "matchLabels": { "app": "web" } }, "template": {
            "metadata": { "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "web", "image": "registry.example/web:1" }] } } },
    }))?;
    Api::default_namespaced(first.client.clone()).create(&PostParams::default(), &web).await?;
    ready(&first.client, 3).await?;
    println!("server-1: {OBJECTS} config maps written, 3 pods run");

    let leader = etcd.leader().await.context("etcd has no leader")?;
    etcd.kill(leader)?;
    drop(first);
    println!("killed: server-1, whose controllers led, and the leader of etcd, member {leader}");

    let client = &second.client;
    let maps = Api::<ConfigMap>::default_namespaced(client.clone()).list(&ListParams::default()).await?;
    let left = maps.iter().filter(|map| map.metadata.name.iter().any(|name| name.starts_with("map-"))).count();
    anyhow::ensure!(left == OBJECTS, "config maps are lost");
    let scale = Patch::Merge(json!({ "spec": { "replicas": 5 } }));
    Api::<Deployment>::default_namespaced(client.clone()).patch("web", &PatchParams::default(), &scale).await?;
    println!("server-2: {OBJECTS} config maps are there, web is to have 5 pods once its controllers have the lease");
    ready(client, 5).await?;
    println!("server-2: 5 pods run; nothing was lost");
    if std::env::args().any(|argument| argument == "--stay") {
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Waits until so many pods of the deployment are ready.
async fn ready(client: &Client, replicas: i32) -> anyhow::Result<()> {
    let are_ready = move |web: Option<&Deployment>| {
        web.and_then(|web| web.status.as_ref()).and_then(|status| status.ready_replicas) == Some(replicas)
    };
    await_condition(Api::<Deployment>::default_namespaced(client.clone()), "web", are_ready).await?;
    Ok(())
}
