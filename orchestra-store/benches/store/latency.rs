//! How long a durable write takes under a steady load that waits for nobody.

use std::{io, sync::Arc, time::Duration};

use orchestra_core::store::Txn;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    load::{key, value},
    measure::pairs,
    report::{Better, Report},
    subject::Subject,
};

/// Below a half of what an etcd takes on a slow disk.
const WRITES_PER_SECOND: u32 = 500;
const WRITES: u32 = 500;

pub(crate) async fn run(report: &mut Report) -> io::Result<()> {
    let subjects = Subject::both().await?;
    let round = std::sync::atomic::AtomicU32::new(0);
    let figures = pairs(&subjects, async |subject| {
        let first = round.fetch_add(1, std::sync::atomic::Ordering::Relaxed) * WRITES;
        write(subject, first).await
    })
    .await?;
    for (index, name) in ["median", "99 of 100"].into_iter().enumerate() {
        let name = format!("put at {WRITES_PER_SECOND}/s, {name}");
        report.tell_pairs(&name, "ms", Better::Less, &figures, index)?;
    }
    Ok(())
}

/// The median and the 99th percentile of what a write takes from when it was due, in milliseconds.
async fn write(subject: &Subject, first: u32) -> io::Result<Vec<f64>> {
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for number in 0..WRITES {
        let due = start + Duration::from_secs(1) / WRITES_PER_SECOND * number;
        sleep_until(due).await;
        let store = Arc::clone(&subject.store);
        tasks.spawn(async move {
            let number = usize::try_from(first + number).map_err(io::Error::other)?;
            store.commit(Txn::create(key("latency", number), value(0))).await.map_err(io::Error::other)?;
            Ok::<_, io::Error>(due.elapsed().as_secs_f64() * 1e3)
        });
    }
    let mut took = Vec::new();
    while let Some(done) = tasks.join_next().await {
        took.push(done??);
    }
    took.sort_by(f64::total_cmp);
    Ok(vec![took[took.len() / 2], took[took.len() * 99 / 100]])
}
