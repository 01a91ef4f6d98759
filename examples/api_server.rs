//! An API server alone, over HTTPS: it serves `kubectl`, and waits for the other components.
//!
//!     cargo run --example api_server -- --data /tmp/cluster
//!
//! prints `serving https://…`, and `export KUBECONFIG=…` for the administrator and for the other components.

use std::{io::Write as _, net::SocketAddr, path::PathBuf, sync::Arc};

use clap::Parser;
use orchestra_core::{clock::SystemClock, server::ApiServer};
use orchestra_net::{address::LoopbackPlan, publish::publish};
use orchestra_store::{DurableStore, Retain, retain};

/// An API server over HTTPS.
#[derive(Parser)]
struct Args {
    /// Where the cluster's state and certificates are kept.
    #[arg(long)]
    data: PathBuf,
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let Args { data, listen } = Args::parse();
    let data = std::path::absolute(data)?;
    let ranges = LoopbackPlan::of(&data).services();
    // First: a second server on the same data must not change how the first one is found.
    let store = Arc::new(DurableStore::open(data.join("store"))?);
    let published = publish(&data, listen, &ranges, &SystemClock).await?;
    let api = ApiServer::builder(Arc::clone(&store) as _)
        .ranges(ranges)
        .advertise(published.address)
        .dialer(Arc::new(published.node_dialer(&SystemClock)?))
        .build();
    writeln!(std::io::stdout(), "serving {}\n{}", published.server, published.export_line())?;
    tokio::select! {
        biased;
        interrupted = orchestra_net::serve::asked_to_stop() => Ok(interrupted?),
        never = published.serve(api) => match never {},
        never = retain(store, Retain::default()) => match never {},
    }
}
