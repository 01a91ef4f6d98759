//! A whole cluster in one process: store, API server over HTTPS, controllers, scheduler, nodes, service proxy. Pods are
//! plain processes of this machine; neither root nor a container engine is needed.
//!
//!     cargo run --example cluster -- examples/manifests/web.yaml
//!
//! prints `export KUBECONFIG=…` once it answers, and `ready…` once the manifest is rolled out. Ctrl-C stops it all.

use std::{convert::Infallible, fs, io, io::Write as _, net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::{Parser, value_parser};
use hyper::{Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use indicatif::ProgressBar;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::{Api, ResourceExt as _, api::ListParams};
use orchestra_core::{clock::SystemClock, control_plane::ControlPlane, manifest, proxy::NodeView, runtime};
use orchestra_net::{address::LoopbackPlan, proxy, publish::publish};
use orchestra_runtime::{MemoryRuntime, ProcessRuntime, kubelet, stop_all};
use orchestra_store::DurableStore;
use tokio::{net::TcpListener, task::JoinSet};

/// A Kubernetes-shaped cluster in one process.
#[derive(Parser)]
struct Args {
    /// What to apply once the cluster answers: YAML documents.
    manifest: Option<PathBuf>,
    /// Where the cluster is kept; a temporary directory unless said.
    #[arg(long)]
    data: Option<PathBuf>,
    /// How many nodes it has.
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u8).range(1..=15))]
    nodes: u8,
    /// What runs its pods.
    #[arg(long, default_value = "process", value_parser = ["process", "memory"])]
    runtime: String,
    #[arg(long, hide = true)] // Be the manifest's web server instead, at this port.
    serve_web: Option<u16>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if let Some(port) = args.serve_web {
        return serve_web(port).await;
    }
    tracing_subscriber::fmt().with_writer(io::stderr).with_max_level(tracing::Level::WARN).init();
    let read = |path: PathBuf| fs::read_to_string(&path).context(format!("can't read {}", path.display()));
    let text = args.manifest.map_or(Ok(String::new()), read)?;
    let temporary = args.data.is_none().then(tempfile::tempdir).transpose()?;
    let data = std::path::absolute(args.data.or_else(|| Some(temporary.as_ref()?.path().into())).unwrap_or_default())?;
    let (clock, plan, local) = (Arc::new(SystemClock), LoopbackPlan::of(&data), kubelet::LocalNodes::default());
    let store = DurableStore::open(data.join("store"))?;
    let published = publish(&data, (Ipv4Addr::LOCALHOST, 0).into(), &plan.services(), &clock).await?;
    let cluster = ControlPlane::builder(store).ranges(plan.services()).advertise(published.address);
    let cluster = cluster.dialer(local.clone()).root_ca(published.authority().certificate_pem()).start();
    writeln!(io::stdout(), "{}", published.export_line()).ok();

    let mut tasks = JoinSet::new();
    tasks.spawn(published.serve(cluster.api().clone()));
    let mut runtimes: Vec<Arc<dyn runtime::ContainerRuntime>> = Vec::new();
    for n in 1..=args.nodes {
        let (name, dir) = (format!("node-{n}"), data.join(format!("node-{n}")));
        let runtime: Arc<dyn runtime::ContainerRuntime> = match args.runtime.as_str() {
            "memory" => Arc::new(MemoryRuntime::with_addresses(clock.clone(), plan.pods(n), 250)),
            _ => Arc::new(ProcessRuntime::open(&dir, plan.pods(n), 250, clock.clone())?),
        };
        runtimes.push(runtime.clone());
        let kubelet = kubelet::Kubelet::builder(cluster.client(), runtime, name).root_dir(dir.join("pods")).build();
        local.insert(&kubelet);
        tasks.spawn(async move { kubelet.run().await });
    }
    let node = NodeView { name: "node-1".into(), node_port_addresses: vec![Ipv4Addr::LOCALHOST.into()] };
    tasks.spawn(proxy::ServiceProxy::new(cluster.informers(), Arc::new(proxy::UserspaceProxy::new()), node).run());
    let outcome = tokio::select! {
        biased;
        asked = orchestra_net::serve::asked_to_stop() => asked.map_err(Into::into),
        failed = roll_out(&cluster, &text) => failed,
    };
    tasks.shutdown().await;
    for runtime in runtimes {
        stop_all(&*runtime, Duration::from_secs(2)).await?;
    }
    outcome
}

/// Applies the manifest, shows how it comes up, then stays, even if nobody reads what it says any more.
async fn roll_out(cluster: &ControlPlane, text: &str) -> anyhow::Result<()> {
    let (client, bar, mut out) = (cluster.client(), ProgressBar::new_spinner(), io::stdout());
    let applied = manifest::apply(&client, manifest::parse(text)?).await?;
    manifest::rolled_out(cluster.informers(), &applied, move |now| bar.set_message(now.to_string())).await;
    writeln!(out, "{:32}{:10}{:16}STATE", "POD", "NODE", "ADDRESS").ok();
    for pod in Api::<Pod>::all(client.clone()).list(&ListParams::default()).await? {
        let (name, spec, status) = (pod.name_any(), pod.spec.unwrap_or_default(), pod.status.unwrap_or_default());
        let [node, address, phase] = [spec.node_name, status.pod_ip, status.phase].map(Option::unwrap_or_default);
        writeln!(out, "{name:32}{node:10}{address:16}{phase}").ok();
    }
    for service in Api::<Service>::all(client).list(&ListParams::default().fields("metadata.name!=kubernetes")).await? {
        let (name, spec) = (service.name_any(), service.spec.unwrap_or_default());
        let port = spec.ports.iter().flatten().next().map_or(80, |port| port.port);
        writeln!(out, "service {name}: curl http://{}:{port}", spec.cluster_ip.unwrap_or_default()).ok();
    }
    writeln!(out, "ready; Ctrl-C stops the cluster").ok();
    std::future::pending().await
}

/// The web server of the manifest: greets, and names the pod it runs in.
async fn serve_web(port: u16) -> anyhow::Result<()> {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let listener = TcpListener::bind((variable("POD_IP"), port)).await?;
    let greeting: &str = format!("{} from {}\n", variable("GREETING"), variable("POD_NAME")).leak();
    loop {
        let (stream, client) = listener.accept().await?;
        let greet = service_fn(move |request: Request<Incoming>| {
            println!("{} {} from {client}", request.method(), request.uri());
            std::future::ready(Ok::<_, Infallible>(Response::new(greeting.to_owned())))
        });
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), greet));
    }
}
