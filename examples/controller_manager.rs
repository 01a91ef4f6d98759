//! The controllers alone, against any Kubernetes API that `KUBECONFIG` names.
//!
//!     cargo run --example controller_manager
//!
//! runs until Ctrl-C. Against `api_server` it makes deployments, services, nodes and namespaces work. Of several, one acts
//! at a time: it holds the lease `kube-controller-manager`, and hands it over when it ends.

use std::io::Write as _;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use orchestra_core::{
    clock::SystemClock,
    controller::LeaderElection,
    controllers::{self, Parts, root_ca},
    rng::Entropy,
};

/// The controllers, for the Kubernetes API that `KUBECONFIG` names.
#[derive(Parser)]
struct Args {}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Args {} = Args::parse();
    let config =
        kube::Config::infer().await.context("no API is named: export KUBECONFIG, as `api_server` prints it")?;
    let root_ca = config.root_cert.as_deref().map(root_ca::pem);
    let client = kube::Client::try_from(config)?;
    writeln!(std::io::stdout(), "controllers for {}", client.apiserver_version().await?.git_version)?;
    let (clock, entropy) = (Arc::new(SystemClock), Entropy::from_os());
    let host = format!("controllers-{}", std::process::id());
    let election = LeaderElection::new(client.clone(), "kube-controller-manager", &host, clock.clone(), entropy.fork());
    let parts = Parts { root_ca, ..Parts::new(client, clock, entropy) };
    tokio::select! {
        biased;
        interrupted = orchestra_net::serve::asked_to_stop() => interrupted?,
        never = election.run(|client| controllers::run(Parts { client, ..parts.clone() })) => match never {},
    }
    election.release().await;
    Ok(())
}
