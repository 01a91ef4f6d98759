//! From `kill -9` to an answer, with many objects; what they take in memory; and whether all are there.

use std::{
    env,
    io::{self, BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

use orchestra_core::store::Store;
use orchestra_store::{DurableStore, EtcdStore, etcd::testing::Etcd};
use tokio::time::Instant;

use crate::{
    load::{fill, key, prefix},
    measure::{children, resident_bytes},
    report::{Better, Report},
};

/// The first argument of the process that is killed.
pub(crate) const CHILD: &str = "serve";

/// The objects of the smaller and of the larger store.
const OBJECTS: [usize; 2] = [50_000, 150_000];
const RESTARTS: usize = 5;

pub(crate) async fn run(report: &mut Report) -> io::Result<()> {
    let directory = tempfile::tempdir()?;
    let mut etcd = Etcd::start().await;
    let mut seconds = [Vec::new(), Vec::new()];
    let mut bytes = [Vec::new(), Vec::new()];
    let mut filled = 0;
    for objects in OBJECTS {
        {
            let store = DurableStore::open(directory.path()).map_err(io::Error::other)?;
            fill(&store, "restart", filled, objects).await?;
            let store = EtcdStore::connect(etcd.options()).await.map_err(io::Error::other)?;
            fill(&store, "restart", filled, objects).await?;
        }
        filled = objects;
        for times in &mut seconds {
            times.clear();
        }
        let mut resident = [Vec::new(), Vec::new()];
        for _ in 0..RESTARTS {
            let (took, held) = restart_durable(directory.path())?;
            seconds[0].push(took);
            resident[0].push(held);
            let (took, held) = restart_etcd(&mut etcd, objects).await?;
            seconds[1].push(took);
            resident[1].push(held);
        }
        for (bytes, resident) in bytes.iter_mut().zip(resident) {
            bytes.push(resident);
        }
        let store = DurableStore::open(directory.path()).map_err(io::Error::other)?;
        let listing = store.list(&prefix("restart")).await.map_err(io::Error::other)?;
        assert_eq!(listing.entries.len(), objects, "objects are lost");
    }
    let [ours, peer] = &seconds;
    report.tell("kill -9 to an answer, 150,000 objects", "s", Better::Less, [ours, peer])?;
    let more = (OBJECTS[1] - OBJECTS[0]) as f64;
    let slope = |bytes: &[Vec<f64>]| -> Vec<f64> {
        bytes[1].iter().zip(&bytes[0]).map(|(large, small)| (large - small) / more).collect()
    };
    report.tell("memory of an object of 1 KiB", "bytes", Better::Less, [&slope(&bytes[0]), &slope(&bytes[1])])
}

/// Opens the store in `directory`, says so, and waits to be killed.
pub(crate) async fn serve(directory: &str) -> io::Result<()> {
    let store = DurableStore::open(directory).map_err(io::Error::other)?;
    let entry = store.get(&key("restart", 0)).await.map_err(io::Error::other)?;
    assert!(entry.is_some(), "objects are lost");
    println!("ready");
    std::future::pending().await
}

/// The seconds from the start of a process to its first answer, and the bytes it holds; it is killed.
fn restart_durable(directory: &Path) -> io::Result<(f64, f64)> {
    let start = Instant::now();
    let mut child = Killed(Command::new(env::current_exe()?).arg(CHILD).arg(directory).stdout(Stdio::piped()).spawn()?);
    let mut line = String::new();
    let output = child.0.stdout.take().ok_or_else(|| io::Error::other("no output"))?;
    BufReader::new(output).read_line(&mut line)?;
    assert_eq!(line, "ready\n");
    Ok((start.elapsed().as_secs_f64(), resident_bytes(&child.0.id().to_string())? as f64))
}

/// The same of etcd.
async fn restart_etcd(etcd: &mut Etcd, objects: usize) -> io::Result<(f64, f64)> {
    etcd.kill()?;
    let start = Instant::now();
    etcd.restart().await?;
    let store = EtcdStore::connect(etcd.options()).await.map_err(io::Error::other)?;
    let entry = store.get(&key("restart", objects - 1)).await.map_err(io::Error::other)?;
    assert!(entry.is_some(), "objects are lost");
    let seconds = start.elapsed().as_secs_f64();
    let process = children()?.pop().ok_or_else(|| io::Error::other("etcd has ended"))?;
    Ok((seconds, resident_bytes(&process)? as f64))
}

/// A child that is killed when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself, of which the caller has been told.
        let _: io::Result<()> = self.0.kill();
        let _: io::Result<std::process::ExitStatus> = self.0.wait();
    }
}
