//! Durable writes a second, by how many write at once.

use std::{io, sync::Arc, time::Duration};

use orchestra_core::store::{Revision, Store, Txn};
use tokio::{task::JoinSet, time::Instant};

use crate::{
    load::{count, key, value},
    measure::{Sizes, pairs},
    report::{Better, Report},
    subject::Subject,
};

const WRITERS: [usize; 3] = [1, 64, 1_000];
const DURATION: Duration = Duration::from_secs(1);

/// How many keys each commit writes.
const SHAPES: [(&str, usize); 2] = [("put", 1), ("transaction of 4", 4)];

pub(crate) async fn run(sizes: Sizes, report: &mut Report) -> io::Result<()> {
    for (shape, keys) in SHAPES {
        for writers in WRITERS {
            let subjects = Subject::both().await?;
            let duration = sizes.lasting(DURATION);
            let figures =
                pairs(sizes, &subjects, async |subject| write(subject, writers, keys, duration).await).await?;
            let noun = if writers == 1 { "writer" } else { "writers" };
            let name = format!("{shape}, {writers} {noun}");
            report.tell_pairs(&name, "1/s", Better::More, &figures, 0)?;
            report.tell_pairs(&format!("{name}, processor time"), "us", Better::Less, &figures, 1)?;
        }
    }
    Ok(())
}

/// Commits a second, and processor time of each in microseconds; afterwards every acknowledged value is read back.
pub(crate) async fn write(subject: &Subject, writers: usize, keys: usize, duration: Duration) -> io::Result<Vec<f64>> {
    let cpu = subject.cpu_seconds()?;
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let first = writer * keys;
        tasks.spawn(write_until(Arc::clone(&subject.store), first..first + keys, start + duration));
    }
    let mut commits = 0;
    let mut last = Vec::new();
    while let Some(done) = tasks.join_next().await {
        let (keys, counts) = done??;
        commits += counts.1 - counts.0;
        last.push((keys, counts.1));
    }
    let (seconds, cpu) = (start.elapsed().as_secs_f64(), subject.cpu_seconds()? - cpu);
    for (keys, acknowledged) in last {
        for number in keys {
            let entry = subject.store.get(&key("writes", number)).await.map_err(io::Error::other)?;
            assert_eq!(entry.map(|entry| count(&entry.value)), Some(acknowledged), "a write is lost");
        }
    }
    Ok(vec![commits as f64 / seconds, cpu * 1e6 / commits as f64])
}

/// Replaces the keys of `numbers` by values that count on, at least once; returns the counts before and after.
async fn write_until(
    store: Arc<dyn Store>,
    numbers: std::ops::Range<usize>,
    end: Instant,
) -> io::Result<(std::ops::Range<usize>, (u64, u64))> {
    let mut seen: Option<Revision> = None;
    let mut next = 0;
    if let Some(entry) = store.get(&key("writes", numbers.start)).await.map_err(io::Error::other)? {
        (seen, next) = (Some(entry.modified), count(&entry.value));
    }
    let before = next;
    loop {
        next += 1;
        let mut txn = Txn::default();
        for number in numbers.clone() {
            let key = key("writes", number);
            let Txn { checks, ops } = match seen {
                None => Txn::create(key, value(next)),
                Some(seen) => Txn::replace(key, seen, value(next)),
            };
            txn.checks.extend(checks);
            txn.ops.extend(ops);
        }
        seen = Some(store.commit(txn).await.map_err(io::Error::other)?);
        if Instant::now() >= end {
            return Ok((numbers, (before, next)));
        }
    }
}
