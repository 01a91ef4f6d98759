//! What it costs to tell a watcher of an event.

use std::{io, sync::Arc};

use futures::StreamExt as _;
use orchestra_core::store::{Revision, Store, Txn};
use tokio::task::JoinSet;

use crate::{
    load::{key, prefix, value},
    measure::{Sizes, pairs},
    report::{Better, Report},
    subject::Subject,
};

/// How many watch, and how many events each is told of in a run.
const FAN_OUTS: [(usize, usize); 2] = [(100, 8_192), (1_000, 1_024)];
/// How many events one watcher is told of, whose share is lost in the noise of the writes: it is told with them.
const EVENTS_OF_ONE: usize = 8_192;
const WRITERS: u64 = 64;

pub(crate) async fn run(sizes: Sizes, report: &mut Report) -> io::Result<()> {
    let subjects = Subject::both().await?;
    let events = sizes.of(EVENTS_OF_ONE) as u64;
    let figures =
        pairs(sizes, &subjects, async |subject| Ok(vec![watch(subject, 1, events).await? * 1e6 / events as f64]))
            .await?;
    report.tell_pairs("commit and its event to one watcher, processor time", "us", Better::Less, &figures, 0)?;
    drop(subjects);
    for (watchers, events) in FAN_OUTS {
        let subjects = Subject::both().await?;
        let events = sizes.of(events) as u64;
        let figures = pairs(sizes, &subjects, async |subject| {
            let alone = watch(subject, 0, events).await?;
            let watched = watch(subject, watchers, events).await?;
            let deliveries = watchers as f64 * events as f64;
            Ok(vec![(watched - alone) * 1e6 / deliveries])
        })
        .await?;
        let name = format!("event to one of {watchers} watchers, processor time");
        report.tell_pairs(&name, "us", Better::Less, &figures, 0)?;
    }
    Ok(())
}

/// The processor time, in seconds, of `events` commits that `watchers` are told of: each once, in order.
async fn watch(subject: &Subject, watchers: usize, events: u64) -> io::Result<f64> {
    let start = subject.store.revision().await.map_err(io::Error::other)?;
    let mut followers = JoinSet::new();
    for _ in 0..watchers {
        let watch = subject.store.watch(&prefix("watches"), start).await.map_err(io::Error::other)?;
        followers.spawn(follow(watch, events));
    }
    let cpu = subject.cpu_seconds()?;
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(Arc::clone(&subject.store), writer, events / WRITERS));
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    while let Some(done) = followers.join_next().await {
        done??;
    }
    Ok(subject.cpu_seconds()? - cpu)
}

async fn follow(mut watch: orchestra_core::store::Watch, events: u64) -> io::Result<()> {
    let mut seen = Revision(0);
    let mut told = 0;
    while told < events {
        let batch = watch.next().await.expect("a watch does not end").map_err(io::Error::other)?;
        assert!(batch.revision > seen || batch.changes.is_empty(), "an event came twice, or out of turn");
        seen = batch.revision;
        told += batch.changes.len() as u64;
    }
    assert_eq!(told, events, "an event came twice");
    Ok(())
}

async fn write(store: Arc<dyn Store>, writer: u64, events: u64) -> io::Result<()> {
    let key = key("watches", usize::try_from(writer).map_err(io::Error::other)?);
    let mut seen = store.get(&key).await.map_err(io::Error::other)?.map(|entry| entry.modified);
    for _ in 0..events {
        let txn = match seen {
            None => Txn::create(key.clone(), value(0)),
            Some(seen) => Txn::replace(key.clone(), seen, value(0)),
        };
        seen = Some(store.commit(txn).await.map_err(io::Error::other)?);
    }
    Ok(())
}
