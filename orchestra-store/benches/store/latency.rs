//! How long a durable write takes under a steady load that waits for nobody.

use std::{io, sync::Arc, time::Duration};

use hdrhistogram::Histogram;
use orchestra_core::store::Txn;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    load::{key, value},
    measure::{Sizes, pairs},
    report::{Better, Report},
    subject::Subject,
    writes,
};

/// How many write at once to find out what a side takes at most, and for how long.
const SATURATING_WRITERS: usize = 64;
const SATURATING: Duration = Duration::from_secs(2);
/// The load, of what the slower side takes at most.
const LOAD: f64 = 0.5;
const DURATION: Duration = Duration::from_secs(2);

/// What is told of a run: names and quantiles.
const QUANTILES: [(&str, f64); 3] = [("median", 0.5), ("99 of 100", 0.99), ("999 of 1,000", 0.999)];
/// The longest that is told apart, in microseconds, and by how many digits.
const MICROSECONDS_MAX: u64 = 60_000_000;
const DIGITS: u8 = 3;

pub(crate) async fn run(sizes: Sizes, report: &mut Report) -> io::Result<()> {
    let subjects = Subject::both().await?;
    let mut slower = f64::INFINITY;
    for subject in &subjects {
        let figures = writes::write(subject, SATURATING_WRITERS, 1, sizes.lasting(SATURATING)).await?;
        slower = slower.min(figures[0]);
    }
    let interval = Duration::from_secs_f64(1.0 / (slower * LOAD));
    println!("(puts of the latencies: {:.0} a second, {LOAD} of what the slower side takes)", slower * LOAD);
    let written = std::sync::atomic::AtomicUsize::new(0);
    let figures = pairs(sizes, &subjects, async |subject| {
        let writes = (sizes.lasting(DURATION).as_secs_f64() / interval.as_secs_f64()).ceil() as usize;
        let first = written.fetch_add(writes, std::sync::atomic::Ordering::Relaxed);
        let took = write(subject, first..first + writes, interval).await?;
        Ok(QUANTILES.map(|(_, quantile)| took.value_at_quantile(quantile) as f64 / 1e3).to_vec())
    })
    .await?;
    for (index, (name, _)) in QUANTILES.into_iter().enumerate() {
        report.tell_pairs(&format!("put under half a load, {name}"), "ms", Better::Less, &figures, index)?;
    }
    Ok(())
}

/// What each write takes from when it was due, in microseconds.
async fn write(subject: &Subject, numbers: std::ops::Range<usize>, interval: Duration) -> io::Result<Histogram<u64>> {
    let mut due = Instant::now();
    let mut tasks = JoinSet::new();
    for number in numbers {
        sleep_until(due).await;
        let store = Arc::clone(&subject.store);
        tasks.spawn(async move {
            store.commit(Txn::create(key("latency", number), value(0))).await.map_err(io::Error::other)?;
            u64::try_from(due.elapsed().as_micros()).map_err(io::Error::other)
        });
        due += interval;
    }
    let mut took = Histogram::new_with_bounds(1, MICROSECONDS_MAX, DIGITS).map_err(io::Error::other)?;
    while let Some(done) = tasks.join_next().await {
        took.record(done??.max(1)).map_err(io::Error::other)?;
    }
    Ok(took)
}
