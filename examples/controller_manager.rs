//! The controllers alone, against any Kubernetes API that `KUBECONFIG` names.
//!
//!     cargo run --example controller_manager
//!
//! runs until Ctrl-C. Against `api_server` it makes deployments, services, nodes and namespaces work.

use std::sync::Arc;

use orchestra_core::{
    clock::SystemClock,
    controllers::{self, Parts},
    rng::Entropy,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let client = kube::Client::try_default().await?;
    println!("controllers for {}", client.apiserver_version().await?.git_version);
    let parts = Parts::new(client, Arc::new(SystemClock), Entropy::from_os());
    tokio::select! {
        biased;
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
        never = controllers::run(parts) => match never {},
    }
}
