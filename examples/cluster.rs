//! A whole cluster in one process: store, API server over HTTPS, controllers, scheduler, nodes, service proxy. Pods are
//! plain processes of this machine; neither root nor a container engine is needed.
//!
//!     cargo run --example cluster -- examples/manifests/web.yaml
//!
//! prints `export KUBECONFIG=…` once it answers, and `ready…` once the manifest is rolled out. Ctrl-C stops it all.

use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use clap::Parser;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, Client, ResourceExt as _, api::ListParams};
use orchestra_core::{clock::SystemClock, control_plane::ControlPlane, manifest, proxy::NodeView, runtime};
use orchestra_net::{address::LoopbackPlan, proxy, publish::publish};
use orchestra_runtime::{MemoryRuntime, ProcessRuntime, kubelet};
use orchestra_store::DurableStore;
use serde::Deserialize as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// A Kubernetes-shaped cluster in one process.
#[derive(Parser)]
struct Args {
    /// What to apply once the cluster answers: YAML documents.
    manifest: Option<PathBuf>,
    /// Where the cluster is kept; a temporary directory unless said.
    #[arg(long)]
    data: Option<PathBuf>,
    /// How many nodes it has.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=15))]
    nodes: u8,
    /// What runs its pods.
    #[arg(long, default_value = "process", value_parser = ["process", "memory"])]
    runtime: String,
    /// Be the manifest's web server instead, at this port.
    #[arg(long, hide = true)]
    serve_web: Option<u16>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(port) = args.serve_web {
        return serve_web(port).await;
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(tracing::Level::WARN).init();
    let temporary = tempfile::tempdir()?;
    let data = std::path::absolute(args.data.as_deref().unwrap_or(temporary.path()))?;
    let (clock, plan, local) = (Arc::new(SystemClock), LoopbackPlan::of(&data), kubelet::LocalNodes::default());
    let cluster = ControlPlane::builder(DurableStore::open(data.join("store"))?)
        .ranges(plan.services())
        .dialer(local.clone())
        .start();
    let published = publish(&data, (Ipv4Addr::LOCALHOST, 0).into(), &clock).await?;
    println!("export KUBECONFIG={}", published.kubeconfig.display());

    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(published.serve(cluster.api().clone()));
    let mut runtimes = Vec::new();
    for n in 1..=args.nodes {
        let (name, dir) = (format!("node-{n}"), data.join(format!("node-{n}")));
        let runtime: Arc<dyn runtime::ContainerRuntime> = if args.runtime == "memory" {
            Arc::new(MemoryRuntime::with_addresses(clock.clone(), plan.pods(n), 250))
        } else {
            runtimes.push(ProcessRuntime::open(&dir, plan.pods(n), 250, clock.clone())?);
            Arc::new(runtimes[runtimes.len() - 1].clone())
        };
        let kubelet = kubelet::Kubelet::builder(cluster.client(), runtime, name).root_dir(dir.join("pods")).build();
        local.insert(&kubelet);
        tasks.spawn(async move { kubelet.run().await });
    }
    let node = NodeView { name: "node-1".into(), node_port_addresses: vec![Ipv4Addr::LOCALHOST.into()] };
    let services = Arc::new(proxy::UserspaceProxy::new());
    tasks.spawn(proxy::ServiceProxy::new(cluster.informers(), services, node).run());
    let outcome = tokio::select! {
        biased;
        interrupted = tokio::signal::ctrl_c() => interrupted.map_err(Into::into),
        failed = run(cluster.client(), args.manifest) => failed,
    };
    tasks.shutdown().await;
    for runtime in runtimes {
        runtime.shutdown(Duration::from_secs(2)).await?;
    }
    outcome
}

/// Applies the manifest, shows how it comes up, then stays.
async fn run(client: Client, manifest: Option<PathBuf>) -> anyhow::Result<()> {
    if let Some(manifest) = manifest {
        let text = std::fs::read_to_string(&manifest)?;
        let documents: Result<Vec<_>, _> =
            serde_yaml_ng::Deserializer::from_str(&text).map(Value::deserialize).collect();
        manifest::apply(&client, documents?).await?;
        let (mut available, mut wanted) = (0, 1);
        while available < wanted {
            tokio::time::sleep(Duration::from_millis(20)).await;
            (available, wanted) = manifest::availability(&client).await?;
            eprint!("\r{available} of {wanted} pods available");
        }
        println!("\n{:32}{:10}{:16}STATE", "POD", "NODE", "ADDRESS");
        for pod in Api::<Pod>::all(client.clone()).list(&ListParams::default()).await? {
            let (name, spec, status) = (pod.name_any(), pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
            let [node, address, phase] = [spec.node_name, status.pod_ip, status.phase].map(Option::unwrap_or_default);
            println!("{name:32}{node:10}{address:16}{phase}");
        }
        for service in
            Api::<Service>::all(client).list(&ListParams::default().fields("metadata.name!=kubernetes")).await?
        {
            let (name, spec) = (service.name_any(), service.spec.unwrap_or_default());
            let port = spec.ports.iter().flatten().next().map_or(80, |port| port.port);
            println!("service {name}: curl http://{}:{port}", spec.cluster_ip.unwrap_or_default());
        }
    }
    println!("ready; Ctrl-C stops the cluster");
    std::future::pending().await
}

/// A web server that greets, and names the pod it runs in.
async fn serve_web(port: u16) -> anyhow::Result<()> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let body = format!("{} from {}\n", variable("GREETING"), variable("POD_NAME"));
    let listener = tokio::net::TcpListener::bind((variable("POD_IP"), port)).await?;
    loop {
        let (mut stream, client) = listener.accept().await?;
        let length = stream.read(&mut [0; 4096]).await.unwrap_or(0);
        println!("GET / from {client}, {length} bytes");
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await.ok();
    }
}
