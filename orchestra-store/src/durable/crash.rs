//! What is there after a crash at any step, of a disk that drops or tears what was not synced (SEMANTICS 1, 3, 17).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::future::join_all;
use orchestra_core::{
    rng::Entropy,
    store::{Error, Key, Prefix, Result, Revision, Store, Txn},
};
use proptest::prelude::*;
use tokio::runtime::Runtime;

use super::{
    DurableError, DurableOptions, DurableStore,
    simulated::{Content, Crash, Faults, SimulatedDisk},
};
use crate::state::{FIRST, HistoryLimits};

/// Checkpoints every few commits, and a reserve of a few bytes.
pub(super) const OPTIONS: DurableOptions = DurableOptions {
    history: HistoryLimits { commits_max: 100, bytes_max: 1 << 20 },
    log_bytes_min: 400,
    reserve_bytes: 64,
    create: true,
};
const KEYS: [&str; 4] = ["a", "b", "c", "d"];

/// The values of all keys.
pub(super) type Values = BTreeMap<Key, Bytes>;

/// What one key is to become, in a group of commits that share a sync: a value of so many bytes, or nothing.
pub(super) type Step = BTreeMap<usize, Option<usize>>;

pub(super) fn steps(count: std::ops::Range<usize>) -> impl Strategy<Value = Vec<Step>> {
    let step = prop::collection::btree_map(0..KEYS.len(), prop::option::of(0_usize..300), 1..4);
    prop::collection::vec(step, count)
}

/// A store that was used for a while, and what of that has to survive.
#[derive(Default)]
pub(super) struct Run {
    pub(super) disk: SimulatedDisk,
    /// What is stored as of each revision, acknowledged or not.
    pub(super) states: BTreeMap<Revision, Values>,
    /// After how many steps of the disk a revision was acknowledged.
    acks: Vec<(usize, Revision)>,
}

impl Run {
    /// Goes on from what a disk holds; `states` is what that may be.
    pub(super) fn from(content: Content, states: BTreeMap<Revision, Values>) -> Self {
        Self { disk: SimulatedDisk::holding(content.recorded()), states, acks: Vec::new() }
    }

    pub(super) fn new() -> Self {
        Self::from(Content::default(), BTreeMap::from([(FIRST, Values::new())]))
    }

    pub(super) fn open(&self) -> std::result::Result<DurableStore, DurableError> {
        DurableStore::on(Arc::new(self.disk.clone()), OPTIONS)
    }

    /// Commits `step` as one group, each key by itself; returns the last error.
    pub(super) async fn commit(&mut self, store: &DurableStore, step: &Step) -> Result<()> {
        let before = store.revision().await?;
        let (mut changes, mut txns) = (Vec::new(), Vec::new());
        for (index, size) in step {
            let key = Key::new([KEYS[*index]])?;
            let value = size.map(|size| Bytes::from(vec![b'a' + (before.0 % 26) as u8; size]));
            if let Some(txn) = txn(store, key.clone(), value.clone()).await? {
                changes.push((key, value));
                txns.push(txn);
            }
        }
        self.expect(before, &changes);
        let mut outcome = Ok(());
        let mut committed = Vec::new();
        for (result, change) in join_all(txns.into_iter().map(|txn| store.commit(txn))).await.into_iter().zip(changes) {
            match result {
                Ok(revision) => {
                    committed.push(change);
                    assert_eq!(revision, Revision(before.0 + committed.len() as u64));
                    self.acks.push((self.disk.steps(), revision));
                }
                Err(error) => outcome = Err(error),
            }
        }
        // A group that failed for want of space is not there; one whose sync failed may be.
        if outcome.as_ref().is_err_and(|error| chain(error).contains("no space left")) {
            self.expect(before, &committed);
        }
        outcome
    }

    /// Notes what is stored as of the revisions after `before` if `changes` are made.
    fn expect(&mut self, before: Revision, changes: &[(Key, Option<Bytes>)]) {
        self.states.split_off(&Revision(before.0 + 1));
        let mut values = self.states[&before].clone();
        for ((key, value), revision) in changes.iter().zip(before.0 + 1..) {
            match value {
                Some(value) => values.insert(key.clone(), value.clone()),
                None => values.remove(key),
            };
            self.states.insert(Revision(revision), values.clone());
        }
    }

    /// Opens what each crash leaves of the disk after each step, and goes on with it.
    pub(super) fn survives(&self, runtime: &Runtime, crashes: &[Crash]) {
        for (at, content) in self.disk.history().iter().enumerate() {
            let acked = self.acks.iter().filter(|(steps, _)| *steps <= at + 1).map(|(_, revision)| *revision).max();
            for crash in crashes {
                let image = Self::from(content.after(crash), self.states.clone());
                runtime.block_on(image.goes_on(acked.unwrap_or(FIRST), &format!("{crash:?} after step {at}")));
            }
        }
    }

    /// Opens the disk, where all up to `acked` must be, and what is there must be as of some revision.
    async fn goes_on(mut self, acked: Revision, what: &str) {
        let store = self.open().unwrap_or_else(|error| panic!("{what}: {error}"));
        let revision = self.assert_whole(&store, what).await;
        assert!(revision >= acked, "{what}: {acked} was acknowledged, but {revision} is the last");
        let fence = self.commit(&store, &Step::from([(0, Some(7))])).await;
        assert!(fence.is_ok(), "{what}: {fence:?}");
        drop(store);
        let store = self.open().unwrap_or_else(|error| panic!("{what}, again: {error}"));
        assert_eq!(self.assert_whole(&store, what).await, Revision(revision.0 + 1));
    }

    /// What is stored must be as of its revision.
    pub(super) async fn assert_whole(&self, store: &DurableStore, what: &str) -> Revision {
        let listing = store.list(&Prefix::all()).await.expect("a listing");
        let values: Values = listing.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
        assert_eq!(Some(&values), self.states.get(&listing.revision), "{what}: at {}", listing.revision);
        listing.revision
    }
}

/// What gives `key` that value, or takes it; `None` if there is nothing to take.
async fn txn(store: &DurableStore, key: Key, value: Option<Bytes>) -> Result<Option<Txn>> {
    let seen = store.get(&key).await?.map(|entry| entry.modified);
    Ok(match (seen, value) {
        (None, None) => None,
        (None, Some(value)) => Some(Txn::create(key, value)),
        (Some(seen), Some(value)) => Some(Txn::replace(key, seen, value)),
        (Some(seen), None) => Some(Txn::delete(key, seen)),
    })
}

pub(super) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

/// A new store to which each of `steps` was committed, and which was closed.
fn written(runtime: &Runtime, steps: &[Step]) -> Run {
    let mut run = Run::new();
    runtime.block_on(async {
        let store = run.open().expect("a new store opens");
        for step in steps {
            run.commit(&store, step).await.expect("a commit");
        }
    });
    run
}

/// The crashes to try; what is torn, and where, depends on `seed`.
pub(super) fn crashes(seed: u64) -> Vec<Crash> {
    let tears = (0..3).map(|nth| Crash::Tear(Entropy::seeded(seed ^ nth)));
    [Crash::DropAll, Crash::KeepNames, Crash::KeepAll].into_iter().chain(tears).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Rules 1, 3 and 17: at every sync, and between.
    #[test]
    fn no_acknowledged_commit_is_lost_to_a_crash(steps in steps(1..10), seed: u64) {
        let runtime = runtime();
        let run = written(&runtime, &steps);
        run.survives(&runtime, &crashes(seed));
    }

    /// Rules 1, 3 and 17: what the next process found in the cache is not on the disk yet.
    #[test]
    fn no_acknowledged_commit_is_lost_to_a_kill_and_then_a_crash(steps in steps(1..6), seed: u64) {
        let runtime = runtime();
        let run = written(&runtime, &steps);
        for content in run.disk.history().iter().step_by(3) {
            let mut next = Run::from(content.after_kill(), run.states.clone());
            runtime.block_on(async {
                let store = next.open().expect("a killed store opens");
                // It shows what was written but not acknowledged, so from now on that has to stay.
                next.acks.push((next.disk.steps(), store.revision().await.expect("a revision")));
                next.commit(&store, &Step::from([(1, Some(200)), (2, Some(300))])).await.expect("a commit");
            });
            next.survives(&runtime, &crashes(seed)[..4]);
        }
    }

    /// Rule 3: after a failed sync of the log nothing more is acknowledged; one of another file costs nothing.
    ///
    /// Nor is anything lost by the process after, to which the cache shows what the disk never got.
    #[test]
    fn no_acknowledged_commit_is_lost_to_a_failed_sync(steps in steps(4..10), nth in 0_u64..20, seed: u64) {
        let runtime = runtime();
        let mut run = Run::new();
        runtime.block_on(async {
            let store = run.open().expect("a new store opens");
            run.disk.fail(Faults { failed_sync: Some(nth), ..Faults::default() });
            for step in &steps {
                let Err(error) = run.commit(&store, step).await else { continue };
                assert!(chain(&error).contains("open the store anew: a dead sector"), "got {}", chain(&error));
                let states = run.states.clone();
                let again = run.commit(&store, &Step::from([(3, Some(1))])).await;
                assert!(matches!(again, Err(Error::Unavailable(_))), "got {again:?}");
                run.states = states;
                run.assert_whole(&store, "after the failed sync").await;
                break;
            }
        });
        run.survives(&runtime, &crashes(seed));
        let left = run.disk.history().pop().expect("a store was opened");
        let mut next = Run::from(left.after_kill(), run.states);
        runtime.block_on(async {
            let store = next.open().expect("a store opens after a failed sync");
            next.acks.push((next.disk.steps(), store.revision().await.expect("a revision")));
            next.commit(&store, &Step::from([(1, Some(200)), (2, Some(300))])).await.expect("a commit");
        });
        next.survives(&runtime, &crashes(seed));
    }
}

/// An error and its causes.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
