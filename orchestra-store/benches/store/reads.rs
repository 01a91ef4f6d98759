//! Reads: one object, and ten thousand.

use std::{io, sync::Arc, time::Duration};

use orchestra_core::store::Store;
use tokio::{task::JoinSet, time::Instant};

use crate::{
    load::{fill, key, prefix},
    measure::{Sizes, pairs},
    report::{Better, Report},
    subject::Subject,
};

const OBJECTS: usize = 10_000;
const READERS: usize = 16;
const DURATION: Duration = Duration::from_secs(1);
const LISTS: usize = 100;

pub(crate) async fn run(sizes: Sizes, report: &mut Report) -> io::Result<()> {
    let subjects = Subject::both().await?;
    for subject in &subjects {
        fill(&*subject.store, "reads", 0, OBJECTS).await?;
    }
    let figures = pairs(sizes, &subjects, async |subject| get(subject, sizes.lasting(DURATION)).await).await?;
    report.tell_pairs("get, 16 readers", "1/s", Better::More, &figures, 0)?;
    report.tell_pairs("get, 16 readers, processor time", "us", Better::Less, &figures, 1)?;
    let figures = pairs(sizes, &subjects, async |subject| list(subject, sizes.of(LISTS)).await).await?;
    report.tell_pairs("list of 10,000", "ms", Better::Less, &figures, 0)?;
    report.tell_pairs("list of 10,000, processor time", "ms", Better::Less, &figures, 1)
}

/// Reads a second, and processor time of each in microseconds.
async fn get(subject: &Subject, duration: Duration) -> io::Result<Vec<f64>> {
    let cpu = subject.cpu_seconds()?;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for reader in 0..READERS {
        tasks.spawn(get_until(Arc::clone(&subject.store), reader, start + duration));
    }
    let mut reads = 0;
    while let Some(done) = tasks.join_next().await {
        reads += done??;
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), subject.cpu_seconds()? - cpu);
    Ok(vec![f64::from(reads) / seconds, cpu * 1e6 / f64::from(reads)])
}

async fn get_until(store: Arc<dyn Store>, reader: usize, end: Instant) -> io::Result<u32> {
    let mut reads = 0;
    let mut number = reader;
    while Instant::now() < end {
        let entry = store.get(&key("reads", number)).await.map_err(io::Error::other)?;
        assert!(entry.is_some(), "object {number} is lost");
        number = (number + READERS) % OBJECTS;
        reads += 1;
    }
    Ok(reads)
}

/// What a listing takes, and its processor time, in milliseconds.
async fn list(subject: &Subject, lists: usize) -> io::Result<Vec<f64>> {
    let cpu = subject.cpu_seconds()?;
    let start = Instant::now();
    for _ in 0..lists {
        let listing = subject.store.list(&prefix("reads")).await.map_err(io::Error::other)?;
        assert_eq!(listing.entries.len(), OBJECTS, "objects are lost");
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), subject.cpu_seconds()? - cpu);
    Ok([seconds, cpu].map(|seconds| seconds * 1e3 / lists as f64).to_vec())
}
