//! Backups of a durable store: taken while it is written to, verified, and restored elsewhere.
//!
//!     cargo run --example backup
//!
//! runs through it in a temporary directory, and prints `the restored store holds what the backup held`. On the data of a
//! cluster, which must be stopped for all but `verify` of a backup:
//!
//!     cargo run --example backup -- save --data /tmp/c/store --out /tmp/backup
//!     cargo run --example backup -- verify --path /tmp/backup
//!     cargo run --example backup -- restore --from /tmp/backup --data /tmp/d/store

use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand};
use futures::future::try_join;
use orchestra_core::{
    clock::SystemClock,
    store::{Key, Prefix, Revision, Store, Txn},
};
use orchestra_store::{DurableOptions, DurableStore, durable};

#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Writes all that a store holds to one file.
    Save {
        /// The directory of the store.
        #[arg(long)]
        data: PathBuf,
        /// The file to write, which must not be there.
        #[arg(long)]
        out: PathBuf,
    },
    /// Reads a backup, or the directory of a store, from end to end.
    Verify {
        /// The file or directory.
        #[arg(long)]
        path: PathBuf,
    },
    /// Makes a store of a backup.
    Restore {
        /// The backup.
        #[arg(long)]
        from: PathBuf,
        /// The directory to make it in, which must hold no store.
        #[arg(long)]
        data: PathBuf,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    match Args::parse().command {
        None => demonstrate(tempfile::tempdir()?.path()).await,
        Some(Command::Save { data, out }) => {
            let options = DurableOptions { create: false, ..DurableOptions::default() };
            save(&DurableStore::open_with(data, options)?, &out).await.map(drop)
        }
        Some(Command::Verify { path }) => verify(&path).map(drop),
        Some(Command::Restore { from, data }) => restore(&from, &data).map(drop),
    }
}

async fn save(store: &DurableStore, out: &Path) -> anyhow::Result<Revision> {
    let revision = store.backup(out).await?;
    println!("saved {} at {revision}", out.display());
    Ok(revision)
}

fn verify(path: &Path) -> anyhow::Result<durable::Report> {
    let report = durable::verify(path)?;
    let durable::Report { revision, keys, records, bytes, torn_bytes } = report;
    println!("verified {}: {keys} keys at {revision}, {records} records, {bytes} bytes", path.display());
    if torn_bytes > 0 {
        println!("the last {torn_bytes} bytes are of a write that a crash cut off");
    }
    Ok(report)
}

fn restore(from: &Path, data: &Path) -> anyhow::Result<Revision> {
    let revision = durable::restore(from, data, &SystemClock)?;
    println!("restored {} at {revision}", data.display());
    Ok(revision)
}

/// A store is written to while it is saved; what was saved comes back elsewhere.
async fn demonstrate(directory: &Path) -> anyhow::Result<()> {
    let store = DurableStore::open(directory.join("store"))?;
    write(&store, 0..1_000).await?;
    let before = store.list(&Prefix::all()).await?;

    let out = directory.join("backup");
    let (saved, ()) = try_join(save(&store, &out), write(&store, 1_000..2_000)).await?;
    let report = verify(&out)?;
    anyhow::ensure!((report.revision, report.keys) == (saved, before.entries.len() as u64));

    let data = directory.join("restored");
    let revision = restore(&out, &data)?;
    anyhow::ensure!(revision > store.revision().await?, "no revision comes twice");
    let restored = DurableStore::open(data)?.list(&Prefix::all()).await?;
    anyhow::ensure!(restored.entries == before.entries);
    println!("the restored store holds what the backup held");
    Ok(())
}

async fn write(store: &DurableStore, range: std::ops::Range<u32>) -> anyhow::Result<()> {
    let create = async |n: u32| {
        let key = Key::new(["pods", "default", &format!("web-{n}")])?;
        store.commit(Txn::create(key, format!(r#"{{"n":{n}}}"#).into())).await
    };
    futures::future::try_join_all(range.map(create)).await?;
    Ok(())
}
