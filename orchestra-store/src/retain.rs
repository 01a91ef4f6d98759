//! How much history a store keeps: compaction by age and by number of commits.

use std::{collections::VecDeque, convert::Infallible, time::Duration};

use orchestra_core::store::{Result, Revision, Store};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// The most revisions that are remembered with the time at which they were the last.
const SAMPLES_MAX: usize = 1_024;
/// The shortest interval that makes sense.
const INTERVAL_MIN: Duration = Duration::from_millis(1);

/// How much history [`retain`] leaves to watches; whichever limit is met first ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retain {
    /// How old a commit may become, give or take `interval`; `None` for any age.
    pub age: Option<Duration>,
    /// How many commits may be kept, at least one; `None` for any number.
    pub commits: Option<u64>,
    /// How often it is looked at.
    pub interval: Duration,
}

impl Default for Retain {
    /// Five minutes of history, looked at every half: what an API server of Kubernetes leaves in etcd.
    fn default() -> Self {
        Self { age: Some(Duration::from_secs(300)), commits: None, interval: Duration::from_secs(150) }
    }
}

/// Compacts `store` for as long as it is polled, so that it keeps as much history as `retain` says.
///
/// For stores that keep all they are not told to forget, as etcd does; several may do so to one store. Ages are counted from
/// when this began, so nothing is compacted by age before that long.
///
/// A store that can't be reached is tried again at the next interval.
///
/// # Examples
///
/// ```
/// # use orchestra_store::{MemoryStore, Retain, retain};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let store = std::sync::Arc::new(MemoryStore::new());
/// let keeping = tokio::spawn(retain(std::sync::Arc::clone(&store), Retain::default()));
/// # keeping.abort();
/// # }
/// ```
pub async fn retain(store: impl Store, retain: Retain) -> Infallible {
    let mut ticks = interval(retain.interval.max(INTERVAL_MIN));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut samples = Samples::new(retain);
    loop {
        let now = ticks.tick().await;
        if let Err(error) = compact(&store, now, &mut samples).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "can't compact a store; trying again");
        }
    }
}

async fn compact(store: &impl Store, now: Instant, samples: &mut Samples) -> Result<()> {
    let floor = samples.floor(now, store.revision().await?);
    if floor > samples.compacted {
        store.compact(floor).await?;
        samples.compacted = floor;
    }
    Ok(())
}

/// When which revision was the last.
///
/// Invariant: in the order of both, and at most [`SAMPLES_MAX`].
struct Samples {
    retain: Retain,
    seen: VecDeque<(Instant, Revision)>,
    /// What the store was last compacted to.
    compacted: Revision,
}

impl Samples {
    fn new(retain: Retain) -> Self {
        Self { retain, seen: VecDeque::new(), compacted: Revision::default() }
    }

    /// The oldest revision that a watch may have to start after, now that `revision` is the last.
    fn floor(&mut self, now: Instant, revision: Revision) -> Revision {
        let by_count = self.retain.commits.map_or(0, |commits| revision.0.saturating_sub(commits.max(1) - 1));
        let by_age = self.retain.age.map_or(Revision::default(), |age| self.last_before(now, age, revision));
        by_age.max(Revision(by_count))
    }

    /// The last revision that was seen at least `age` before `now`; remembers that `revision` is the last by now.
    fn last_before(&mut self, now: Instant, age: Duration, revision: Revision) -> Revision {
        let every = age / SAMPLES_MAX as u32;
        if self.seen.back().is_none_or(|(at, _)| now.duration_since(*at) > every) {
            self.seen.push_back((now, revision));
        }
        let is_old = |sample: &&(Instant, Revision)| now.duration_since(sample.0) >= age;
        let old = self.seen.iter().take_while(is_old).count();
        // The last of the old ones stays, for it is what was true until the next.
        self.seen.drain(..old.saturating_sub(1));
        self.seen.front().filter(is_old).map_or(Revision::default(), |(_, revision)| *revision)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use bytes::Bytes;
    use futures::StreamExt as _;
    use orchestra_core::store::{Error, Key, Prefix, Revision, Store, Txn};
    use proptest::prelude::*;
    use tokio::time::{Instant, sleep};

    use super::{Retain, SAMPLES_MAX, Samples, retain};
    use crate::MemoryStore;

    const SECOND: Duration = Duration::from_secs(1);

    async fn create(store: &MemoryStore) -> Revision {
        let name = store.revision().await.expect("a revision").0.to_string();
        let key = Key::new([name.as_str()]).expect("a valid name");
        store.commit(Txn::create(key, Bytes::new())).await.expect("a commit")
    }

    /// The oldest revision that a watch can start after.
    async fn floor(store: &MemoryStore) -> Revision {
        let mut watch = store.watch(&Prefix::all(), Revision(0)).await.expect("a watch");
        match watch.next().await.expect("an item") {
            Err(Error::Compacted { floor }) => floor,
            other => {
                assert!(other.is_ok(), "got {other:?}");
                Revision(1)
            }
        }
    }

    /// Rule 15: what is younger than the age, or among the last commits, is there to watch.
    #[tokio::test(start_paused = true)]
    async fn history_is_kept_for_its_age_and_no_longer() {
        let store = Arc::new(MemoryStore::new());
        let keep = Retain { age: Some(60 * SECOND), commits: None, interval: 10 * SECOND };
        let keeping = tokio::spawn(retain(Arc::clone(&store), keep));
        sleep(SECOND).await;
        for _ in 0..60 {
            create(&store).await;
            sleep(SECOND).await;
        }
        assert_eq!(floor(&store).await, Revision(1), "nothing is a minute old");
        sleep(30 * SECOND).await;
        let kept = floor(&store).await;
        // At 90 s those of the first 30 s go, the last of them but for what a watch after it needs.
        assert!((28..=31).contains(&kept.0), "it is {kept}");
        sleep(100 * SECOND).await;
        assert_eq!(floor(&store).await, Revision(60), "the last commit stays");
        keeping.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn history_is_kept_for_its_count_and_no_longer() {
        let store = Arc::new(MemoryStore::new());
        let keep = Retain { age: None, commits: Some(10), interval: SECOND };
        let keeping = tokio::spawn(retain(Arc::clone(&store), keep));
        for _ in 0..100 {
            create(&store).await;
        }
        sleep(2 * SECOND).await;
        assert_eq!(floor(&store).await, Revision(101 - 10), "ten commits can be watched");
        keeping.abort();
    }

    proptest! {
        /// Rule 15: no commit younger than the age is ever compacted, and the memory for it is bounded.
        #[test]
        fn a_floor_is_old_enough_and_never_falls(
            steps in prop::collection::vec((0_u64..40, 0_u64..5), 1..200),
            age in 0_u64..100,
        ) {
            let start = Instant::now();
            let retain = Retain { age: Some(Duration::from_secs(age)), commits: None, interval: SECOND };
            let mut samples = Samples::new(retain);
            let (mut now, mut revision, mut last) = (start, Revision(1), Revision(0));
            let mut made = vec![(start, revision)];
            for (seconds, commits) in steps {
                now += Duration::from_secs(seconds);
                for _ in 0..commits {
                    revision.0 += 1;
                    made.push((now, revision));
                }
                let floor = samples.floor(now, revision);
                prop_assert!(floor >= last && floor <= revision);
                let compacted = made.iter().filter(|(_, revision)| *revision <= floor);
                prop_assert!(compacted.clone().all(|(at, _)| now.duration_since(*at) >= Duration::from_secs(age)));
                prop_assert!(samples.seen.len() <= SAMPLES_MAX + 2);
                last = floor;
            }
        }
    }
}
