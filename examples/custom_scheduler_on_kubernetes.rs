//! A scheduler of your own on any Kubernetes cluster: it binds the pods that name it, and leaves all others alone.
//!
//!     cargo run --example custom_scheduler_on_kubernetes -- --name packer
//!
//! takes the cluster that `KUBECONFIG` names, and runs until Ctrl-C. Pods ask for it by `schedulerName: packer`.

use std::io::Write as _;
use std::sync::Arc;

use clap::Parser;
use orchestra_core::{
    clock::SystemClock,
    informer::Informers,
    rng::Entropy,
    scheduler::{NodeView, Pipeline, Scale, SchedulingLoop, Score, Shape, Ties},
};

/// A scheduler that fills one node before it takes the next.
#[derive(Parser)]
struct Args {
    /// The name by which pods ask for it.
    #[arg(long, default_value = "packer")]
    name: String,
}

/// Prefers the node with the least cpu left.
#[derive(Debug)]
struct MostAllocated;

impl Score for MostAllocated {
    fn name(&self) -> &str {
        "most-allocated"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        let taken = node.requested.amount("cpu") + pod.requests.amount("cpu");
        (100 * taken / node.allocatable.amount("cpu").max(1)).clamp(0, 100)
    }

    fn scale(&self) -> Scale {
        Scale::Points
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let args = Args::parse();
    let client = kube::Client::try_default().await?;
    writeln!(std::io::stdout(), "{} schedules for {}", args.name, client.apiserver_version().await?.git_version)?;
    let pipeline = Pipeline::new(args.name.as_str()).required().score(1, MostAllocated).ties(Ties::First);
    let informers = Informers::new(client.clone());
    let scheduling =
        SchedulingLoop::new(client, &informers, Box::new(pipeline), Arc::new(SystemClock), Entropy::from_os());
    tokio::select! {
        biased;
        interrupted = orchestra_net::serve::asked_to_stop() => Ok(interrupted?),
        never = scheduling.scheduler_name(&args.name).run() => match never {},
    }
}
