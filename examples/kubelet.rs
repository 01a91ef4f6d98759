//! A kubelet alone: runs the pods of one node as processes, for the API server that `KUBECONFIG` names.
//!
//!     cargo run --example kubelet -- --data /tmp/cluster --number 1
//!
//! takes its certificate from the authority in `--data`, which it shares with `api_server`. Its pods outlive it, and are adopted
//! by the next one; `--stop-pods` stops them with it.

use std::{io::Write as _, net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use orchestra_core::clock::SystemClock;
use orchestra_net::{
    address::{LoopbackPlan, POD_ADDRESSES},
    guard,
    pki::{self, CertificateAuthority, ClientCertificates, Subject},
    serve::{asked_to_stop, serve},
};
use orchestra_runtime::{ProcessRuntime, kubelet::Kubelet, stop_all};
use tokio::net::TcpListener;

/// A kubelet that runs pods as processes.
#[derive(Parser)]
struct Args {
    /// The directory of the cluster; the node is kept below it.
    #[arg(long)]
    data: PathBuf,
    /// Which node of the cluster this is.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=15))]
    number: u8,
    /// Stop the pods when asked to stop, as for a trial on one's own machine; they start again with the next kubelet.
    #[arg(long)]
    stop_pods: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Args { data, number, stop_pods } = Args::parse();
    let (data, clock, name) = (std::path::absolute(data)?, Arc::new(SystemClock), format!("node-{number}"));
    let client =
        kube::Client::try_default().await.context("no API is named: export KUBECONFIG, as `api_server` prints it")?;
    let dir = data.join(&name);
    let runtime = ProcessRuntime::open(&dir, LoopbackPlan::of(&data).pods(number), POD_ADDRESSES, clock.clone())?;

    let authority = CertificateAuthority::load_or_generate(&data, &clock)?;
    let credential = authority.issue_server(&Subject::node(&name), &["127.0.0.1"], &clock)?;
    let tls = pki::server_config(&credential, authority.certificate_pem(), ClientCertificates::Required)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let kubelet = Kubelet::builder(client, Arc::new(runtime.clone()), &name)
        .root_dir(dir.join("pods"))
        .port(listener.local_addr()?.port())
        .build();
    let service = guard::only(kubelet.service(), [Subject::component("kube-apiserver")]);
    writeln!(std::io::stdout(), "{name} serves https://{}", listener.local_addr()?)?;
    tokio::select! {
        biased;
        asked = asked_to_stop() => asked?,
        never = serve(listener, tls, service) => match never {},
        never = kubelet.run() => match never {},
    }
    if stop_pods {
        stop_all(&runtime, Duration::from_secs(2)).await?;
    }
    Ok(())
}
