//! The scheduler alone, against any Kubernetes API that `KUBECONFIG` names.
//!
//!     cargo run --example scheduler
//!
//! runs until Ctrl-C, and binds the pods that name no other scheduler. Of several, one acts at a time: it holds the lease
//! `kube-scheduler`, and hands it over when it ends. With `--config FILE`, kube-scheduler's own configuration file says which
//! profiles there are, of which plugins, with which weights.

use std::{io::Write as _, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use clap::Parser;
use orchestra_core::{
    clock::SystemClock,
    controller::LeaderElection,
    informer::Informers,
    rng::Entropy,
    scheduler::{
        SchedulingLoop,
        configuration::{self, Profile},
    },
};

/// The scheduler, for the Kubernetes API that `KUBECONFIG` names.
#[derive(Parser)]
struct Args {
    /// A `KubeSchedulerConfiguration`.
    #[arg(long)]
    config: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let config = match Args::parse().config {
        None => String::from("{apiVersion: kubescheduler.config.k8s.io/v1, kind: KubeSchedulerConfiguration}"),
        Some(path) => {
            std::fs::read_to_string(&path).with_context(|| format!("--config: {} can't be read", path.display()))?
        }
    };
    let mut profiles = configuration::read(&config).context("--config")?.into_iter();
    let client =
        kube::Client::try_default().await.context("no API is named: export KUBECONFIG, as `api_server` prints it")?;
    writeln!(std::io::stdout(), "scheduling for {}", client.apiserver_version().await?.git_version)?;
    let (clock, entropy) = (Arc::new(SystemClock), Entropy::from_os());
    let host = format!("scheduler-{}", std::process::id());
    let election = LeaderElection::new(client.clone(), "kube-scheduler", &host, clock.clone(), entropy.fork());
    let informers = Informers::new(client.clone());
    let first = profiles.next().context("--config: a configuration has a profile")?;
    let scheduling = SchedulingLoop::new(client, &informers, Box::new(first.pipeline), clock, entropy);
    let scheduling = profiles.fold(scheduling.scheduler_name(&first.name), |scheduling, Profile { name, pipeline }| {
        scheduling.profile(&name, Box::new(pipeline))
    });
    tokio::select! {
        biased;
        interrupted = orchestra_net::serve::asked_to_stop() => interrupted?,
        never = scheduling.run_elected(&election) => match never {},
    }
    election.release().await;
    Ok(())
}
