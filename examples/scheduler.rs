//! The scheduler alone, against any Kubernetes API that `KUBECONFIG` names.
//!
//!     cargo run --example scheduler
//!
//! runs until Ctrl-C, and binds the pods that name no other scheduler. Of several, one acts at a time: it holds the lease
//! `kube-scheduler`, and hands it over when it ends.

use std::io::Write as _;
use std::sync::Arc;

use anyhow::Context as _;
use clap::Parser;
use orchestra_core::{
    clock::SystemClock,
    controller::LeaderElection,
    informer::Informers,
    rng::Entropy,
    scheduler::{Pipeline, SchedulingLoop},
};

/// The scheduler, for the Kubernetes API that `KUBECONFIG` names.
#[derive(Parser)]
struct Args {}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Args {} = Args::parse();
    let client =
        kube::Client::try_default().await.context("no API is named: export KUBECONFIG, as `api_server` prints it")?;
    writeln!(std::io::stdout(), "scheduling for {}", client.apiserver_version().await?.git_version)?;
    let (clock, entropy) = (Arc::new(SystemClock), Entropy::from_os());
    let host = format!("scheduler-{}", std::process::id());
    let election = LeaderElection::new(client, "kube-scheduler", &host, clock.clone(), entropy.fork());
    let client = election.client();
    let informers = Informers::new(client.clone());
    let pipeline = Box::new(Pipeline::kubernetes_default());
    let scheduling = SchedulingLoop::new(client, &informers, pipeline, clock, entropy);
    tokio::select! {
        biased;
        interrupted = tokio::signal::ctrl_c() => interrupted?,
        never = scheduling.run_elected(&election) => match never {},
    }
    election.release().await;
    Ok(())
}
