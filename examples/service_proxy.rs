//! The service proxy alone: forwards the cluster addresses of Services, for the API that `KUBECONFIG` names.
//!
//!     cargo run --example service_proxy
//!
//! runs until Ctrl-C. The addresses must be this machine's own, as those of 127.0.0.0/8 are.

use std::{io::Write as _, net::Ipv4Addr, sync::Arc};

use anyhow::Context as _;
use clap::Parser;
use orchestra_core::{informer::Informers, proxy::NodeView};
use orchestra_net::proxy::{ServiceProxy, UserspaceProxy};

/// The service proxy of a node, for the Kubernetes API that `KUBECONFIG` names.
#[derive(Parser)]
struct Args {}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Args {} = Args::parse();
    let client =
        kube::Client::try_default().await.context("no API is named: export KUBECONFIG, as `api_server` prints it")?;
    writeln!(std::io::stdout(), "forwarding for {}", client.apiserver_version().await?.git_version)?;
    let informers = Informers::new(client);
    let node = NodeView { name: "node-1".into(), node_port_addresses: vec![Ipv4Addr::LOCALHOST.into()] };
    let proxy = ServiceProxy::new(&informers, Arc::new(UserspaceProxy::new()), node);
    tokio::select! {
        biased;
        interrupted = orchestra_net::serve::asked_to_stop() => Ok(interrupted?),
        never = proxy.run() => match never {},
    }
}
