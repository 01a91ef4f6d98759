//! The work queue as plain data: which key is next, which wait for their time, which are being worked on.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use tokio::time::Instant;

use super::ObjectKey;

/// What a key waits after its first failure; doubled by each further one.
pub const BACKOFF_MIN: Duration = Duration::from_millis(5);
/// What a key waits at most: as Kubernetes' workqueue, 1,000 s.
pub const BACKOFF_MAX: Duration = Duration::from_secs(1_000);

/// A queue of keys in which each is at most once, and none is worked on twice at a time (SEMANTICS 40).
#[derive(Debug, Default)]
pub struct Queue {
    ready: VecDeque<ObjectKey>,
    /// Invariant: holds what `ready` holds.
    queued: BTreeSet<ObjectKey>,
    in_flight: BTreeSet<ObjectKey>,
    /// Changed while in flight: to be done once more.
    dirty: BTreeSet<ObjectKey>,
    /// The earliest time each waiting key asked for.
    waiting: BTreeMap<ObjectKey, Instant>,
    failures: BTreeMap<ObjectKey, u32>,
}

impl Queue {
    /// Adds a key, unless it is there already; one that is being worked on comes again afterwards.
    pub fn add(&mut self, key: ObjectKey) {
        self.waiting.remove(&key);
        if self.in_flight.contains(&key) {
            self.dirty.insert(key);
        } else if self.queued.insert(key.clone()) {
            self.ready.push_back(key);
        }
    }

    /// Adds a key once `at` has come; an earlier time that it waits for already stands.
    pub fn add_at(&mut self, key: ObjectKey, at: Instant) {
        if !self.queued.contains(&key) && !self.dirty.contains(&key) {
            let earliest = self.waiting.entry(key).or_insert(at);
            *earliest = at.min(*earliest);
        }
    }

    /// Takes the next key that is ready at `now`.
    pub fn take(&mut self, now: Instant) -> Option<ObjectKey> {
        let due: Vec<_> = self.waiting.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        for key in due {
            self.add(key);
        }
        let key = self.ready.pop_front()?;
        self.queued.remove(&key);
        self.in_flight.insert(key.clone());
        Some(key)
    }

    /// Ends the work on a key that [`take`](Self::take) gave.
    pub fn done(&mut self, key: &ObjectKey) {
        self.in_flight.remove(key);
        if self.dirty.remove(key) {
            self.add(key.clone());
        }
    }

    /// Forgets that a key has failed.
    pub fn succeeded(&mut self, key: &ObjectKey) {
        self.failures.remove(key);
    }

    /// Adds a key that failed, after its backoff; `jitter`, in `0..1`, lengthens it by up to a tenth.
    pub fn failed(&mut self, key: &ObjectKey, now: Instant, jitter: f64) -> Duration {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let backoff = BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(*failures)).min(BACKOFF_MAX);
        *failures = failures.saturating_add(1);
        let backoff = backoff.mul_f64(1.0 + jitter.clamp(0.0, 1.0) / 10.0);
        self.add_at(key.clone(), now + backoff);
        backoff
    }

    /// When the next waiting key is due; `None` if none waits.
    #[must_use]
    pub fn next_at(&self) -> Option<Instant> {
        self.waiting.values().min().copied()
    }

    /// How many keys are ready.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ready.len()
    }

    /// Whether no key is ready.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::{BACKOFF_MAX, ObjectKey, Queue};

    fn key(n: u8) -> ObjectKey {
        ObjectKey::new("", n.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn failures_back_off_up_to_a_bound_until_one_success() {
        let mut queue = Queue::default();
        let now = Instant::now();
        let waits: Vec<_> = (0..30).map(|_| queue.failed(&key(1), now, 0.0)).collect();
        assert_eq!(waits[..3], [5, 10, 20].map(Duration::from_millis));
        assert_eq!(waits.last(), Some(&BACKOFF_MAX));
        queue.succeeded(&key(1));
        assert_eq!(queue.failed(&key(1), now, 0.0), waits[0]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Add(u8),
        AddLater(u8, u64),
        Take,
        Done,
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4_u8).prop_map(Step::Add),
            (0..4_u8, 0..50_u64).prop_map(|(key, wait)| Step::AddLater(key, wait)),
            Just(Step::Take),
            Just(Step::Done),
            (0..50_u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// SEMANTICS 40: no key is worked on twice at a time, and each change is followed by a run that began after it.
        #[test]
        fn every_change_is_followed_by_one_run(steps in proptest::collection::vec(step(), 0..200)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            let mut now = runtime.block_on(async { Instant::now() });
            let mut queue = Queue::default();
            let mut in_flight: Vec<ObjectKey> = Vec::new();
            // What must still be started, for each key.
            let mut owed: BTreeMap<ObjectKey, bool> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Add(n) => {
                        queue.add(key(n));
                        owed.insert(key(n), true);
                    }
                    Step::AddLater(n, wait) => {
                        queue.add_at(key(n), now + Duration::from_millis(wait));
                        owed.insert(key(n), true);
                    }
                    Step::Take => {
                        if let Some(taken) = queue.take(now) {
                            prop_assert!(!in_flight.contains(&taken));
                            owed.insert(taken.clone(), false);
                            in_flight.push(taken);
                        }
                    }
                    Step::Done => {
                        if let Some(done) = in_flight.pop() {
                            queue.done(&done);
                        }
                    }
                    Step::Wait(wait) => now += Duration::from_millis(wait),
                }
            }
            now += Duration::from_secs(1);
            for key in in_flight.drain(..) {
                queue.done(&key);
            }
            while let Some(taken) = queue.take(now) {
                owed.insert(taken.clone(), false);
                queue.done(&taken);
            }
            prop_assert!(owed.values().all(|owed| !owed), "left out: {owed:?}");
        }
    }
}
