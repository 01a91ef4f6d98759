//! The scheduler alone, against any Kubernetes API that `KUBECONFIG` names.
//!
//!     cargo run --example scheduler
//!
//! runs until Ctrl-C, and binds the pods that name no other scheduler.

use std::sync::Arc;

use orchestra_core::{
    clock::SystemClock,
    informer::Informers,
    rng::Entropy,
    scheduler::{Pipeline, SchedulingLoop},
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let client = kube::Client::try_default().await?;
    println!("scheduling for {}", client.apiserver_version().await?.git_version);
    let informers = Informers::new(client.clone());
    let pipeline = Box::new(Pipeline::kubernetes_default());
    let scheduling = SchedulingLoop::new(client, &informers, pipeline, Arc::new(SystemClock), Entropy::from_os());
    tokio::select! {
        biased;
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
        never = scheduling.run() => match never {},
    }
}
