//! All laws at once, on random sequences, beside a model too plain to be wrong (SEMANTICS 20).

use std::{cell::Cell, collections::BTreeMap, future::Future, sync::Arc};

use bytes::Bytes;
use futures::StreamExt as _;
use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed, TestCaseError, TestRunner},
};

use super::{
    super::{Batch, Change, Check, Entry, Error, Key, Op, Prefix, Revision, Store, Txn, Watch},
    Subject, steps,
};

/// What the sequences are drawn from.
const SEED: u64 = 20;

/// How many sequences the suite tries.
const SEQUENCES: u32 = 48;
/// How many steps a sequence has at most.
const STEPS_MAX: usize = 16;

/// Rule 20: tries random sequences of commits, reads, watches and compactions on one store that `open` makes, and compares every
/// answer, the listing and all that the watches tell with the model's.
///
/// # Panics
///
/// If they differ, with the shortest sequence found.
pub fn check<T, F>(open: impl FnOnce() -> F)
where
    T: Into<Subject>,
    F: Future<Output = T>,
{
    check_sequences(open, SEQUENCES);
}

/// A part of the sequences: every `of`th one, beginning with the number `first`, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// The number of the first sequence.
    pub first: u32,
    /// How many shares make the whole.
    pub of: u32,
}

/// The same with a number of sequences: stores that all pass give the same answers to the same questions.
///
/// # Panics
///
/// As [`check`].
pub fn check_sequences<T, F>(open: impl FnOnce() -> F, sequences: u32)
where
    T: Into<Subject>,
    F: Future<Output = T>,
{
    check_share(open, sequences, Share { first: 0, of: 1 });
}

/// The same with a share of them: several stores of a kind can be asked at once, for a store that mostly waits.
///
/// # Panics
///
/// As [`check`].
pub fn check_share<T, F>(open: impl FnOnce() -> F, sequences: u32, share: Share)
where
    T: Into<Subject>,
    F: Future<Output = T>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let subject: Subject = runtime.block_on(open()).into();
    // What one store is asked, every other one is, too.
    let rng_seed = RngSeed::Fixed(SEED);
    let mut runner =
        TestRunner::new(Config { cases: sequences, failure_persistence: None, rng_seed, ..Config::default() });
    let (sequence, failed) = (Cell::new(0), Cell::new(false));
    let result = runner.run(&prop::collection::vec(step(), 1..STEPS_MAX), |steps| {
        let number = sequence.replace(sequence.get() + 1);
        // After a failure come its simpler forms.
        if !failed.get() && number % share.of != share.first {
            return Ok(());
        }
        let trial = Trial::start(&subject.store, format!("sequence-{number}"));
        let result = runtime.block_on(trial.run(&steps));
        failed.set(failed.get() || result.is_err());
        result
    });
    runtime.block_on(async { drop(subject) });
    if let Err(failure) = result {
        panic!("{failure}\n{runner}");
    }
}

/// What is asked of the store.
#[derive(Clone, Debug)]
enum Step {
    Commit(Vec<(usize, Seen, Write)>),
    Get(usize),
    List,
    /// Follows from so many commits ago.
    Watch(u64),
    /// Forgets what is older than so many commits.
    Compact(u64),
}

/// What a check expects of a key, relative to the model: how long ago the value seen was written.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Absent,
    Now,
    Stale,
}

#[derive(Clone, Copy, Debug)]
enum Write {
    Nothing,
    Put(u8),
    Delete,
}

/// Few keys, so that transactions meet.
const NAMES: [&str; 4] = ["a", "a-b", "b", "c"];
/// The key of the last commit, at which every watch has to arrive.
const LAST: &str = "last";

fn step() -> impl Strategy<Value = Step> {
    let seen = prop_oneof![2 => Just(Seen::Absent), 5 => Just(Seen::Now), 1 => Just(Seen::Stale)];
    let write = prop_oneof![1 => Just(Write::Nothing), 4 => any::<u8>().prop_map(Write::Put), 2 => Just(Write::Delete)];
    prop_oneof![
        16 => prop::collection::vec((0..NAMES.len(), seen, write), 0..4).prop_map(Step::Commit),
        2 => (0..NAMES.len()).prop_map(Step::Get),
        1 => Just(Step::List),
        1 => (0_u64..9).prop_map(Step::Watch),
        1 => (0_u64..9).prop_map(Step::Compact),
    ]
}

/// A commit and what it left at each key that it changed.
type PlainBatch = (Revision, Vec<(Key, Option<u8>)>);

/// The live values with their revisions of creation and last write, and what a watch should have yielded.
#[derive(Debug, Default)]
struct Model {
    live: BTreeMap<Key, (u8, Revision, Revision)>,
    last_deleted: BTreeMap<Key, Revision>,
    batches: Vec<PlainBatch>,
    /// The last compaction.
    floor: Revision,
}

impl Model {
    fn modified(&self, key: &Key) -> Option<Revision> {
        self.live.get(key).map(|(_, _, modified)| *modified)
    }

    /// The transaction that `writes` stand for; a key named twice counts once.
    fn txn(&self, folder: &str, writes: &[(usize, Seen, Write)]) -> Txn {
        let mut txn = Txn::default();
        for (index, seen, write) in writes {
            let key = Key::new([folder, NAMES[*index]]).expect("a valid key");
            if txn.checks.iter().any(|check| *check.key() == key) {
                continue;
            }
            let modified = self.modified(&key);
            txn.checks.push(match (seen, modified) {
                (Seen::Now, Some(modified)) => Check::Unchanged(key.clone(), modified),
                (Seen::Stale, Some(modified)) => Check::Unchanged(key.clone(), Revision(modified.0 - 1)),
                (Seen::Stale, None) => {
                    Check::Unchanged(key.clone(), self.last_deleted.get(&key).copied().unwrap_or(Revision(1)))
                }
                (Seen::Absent, _) | (Seen::Now, None) => Check::Absent(key.clone()),
            });
            match write {
                Write::Nothing => {}
                Write::Put(byte) => txn.ops.push(Op::Put(key, Bytes::copy_from_slice(&[*byte]))),
                Write::Delete => txn.ops.push(Op::Delete(key)),
            }
        }
        txn
    }

    /// The key and actual revision of the first check that fails.
    fn conflict(&self, txn: &Txn) -> Option<(Key, Option<Revision>)> {
        txn.checks.iter().find_map(|check| {
            let actual = self.modified(check.key());
            let expected = match check {
                Check::Absent(_) => None,
                Check::Unchanged(_, seen) => Some(*seen),
            };
            (actual != expected).then(|| (check.key().clone(), actual))
        })
    }

    /// Applies the writes at `next`; returns whether there was a change.
    fn apply(&mut self, txn: &Txn, next: Revision) -> bool {
        let mut changes = BTreeMap::new();
        for op in &txn.ops {
            match op {
                Op::Put(key, value) => {
                    let created = self.live.get(key).map_or(next, |(_, created, _)| *created);
                    self.live.insert(key.clone(), (value[0], created, next));
                    changes.insert(key.clone(), Some(value[0]));
                }
                Op::Delete(key) => {
                    if self.live.remove(key).is_some() {
                        self.last_deleted.insert(key.clone(), next);
                        changes.insert(key.clone(), None);
                    }
                }
            }
        }
        let changed = !changes.is_empty();
        if changed {
            self.batches.push((next, changes.into_iter().collect()));
        }
        changed
    }
}

/// One sequence under a prefix of its own, in a store that nobody else writes to.
struct Trial<'a> {
    store: &'a Arc<dyn Store>,
    folder: String,
    model: Model,
    current: Revision,
    /// Each watch with the revision it began after.
    watches: Vec<(Revision, Watch)>,
}

impl<'a> Trial<'a> {
    fn start(store: &'a Arc<dyn Store>, folder: String) -> Self {
        Self { store, folder, model: Model::default(), current: Revision(0), watches: Vec::new() }
    }

    async fn run(mut self, steps: &[Step]) -> Result<(), TestCaseError> {
        self.current = steps::revision(self.store).await;
        // Sequences before this one may have compacted all that they wrote.
        self.model.floor = self.current;
        self.watch(self.current).await;
        for step in steps {
            match step {
                Step::Commit(writes) => self.commit(self.model.txn(&self.folder, writes)).await?,
                Step::Get(index) => self.get(NAMES[*index]).await?,
                Step::List => self.list().await?,
                Step::Watch(ago) => self.watch(Revision(self.current.0.saturating_sub(*ago))).await,
                Step::Compact(ago) => {
                    let floor = Revision(self.current.0.saturating_sub(*ago));
                    self.store.compact(floor).await.expect("the store compacts");
                    self.model.floor = self.model.floor.max(floor);
                }
            }
        }
        self.list().await?;
        self.commit(Txn::create(self.key(LAST), Bytes::from_static(b"!"))).await?;
        let Self { model, watches, .. } = self;
        for (after, watch) in watches {
            arrives(watch, after, &model).await?;
        }
        Ok(())
    }

    fn key(&self, name: &str) -> Key {
        Key::new([&self.folder, name]).expect("a valid key")
    }

    fn prefix(&self) -> Prefix {
        Prefix::new([&*self.folder]).expect("a valid prefix")
    }

    async fn watch(&mut self, after: Revision) {
        let watch = self.store.watch(&self.prefix(), after).await.expect("the store watches");
        self.watches.push((after, watch));
    }

    async fn commit(&mut self, txn: Txn) -> Result<(), TestCaseError> {
        let conflict = self.model.conflict(&txn);
        match (self.store.commit(txn.clone()).await, conflict) {
            (Ok(revision), None) => {
                let next = Revision(self.current.0 + 1);
                self.current = if self.model.apply(&txn, next) { next } else { self.current };
                prop_assert_eq!(revision, self.current);
            }
            (Err(Error::Conflict { key, actual }), Some(expected)) => prop_assert_eq!((key, actual), expected),
            (result, expected) => prop_assert!(false, "expected conflict {expected:?}, got {result:?}"),
        }
        Ok(())
    }

    async fn get(&self, name: &str) -> Result<(), TestCaseError> {
        let key = self.key(name);
        let entry = self.store.get(&key).await.expect("the store reads");
        prop_assert_eq!(entry.as_ref().map(plain_entry), self.model.live.get(&key).copied());
        Ok(())
    }

    async fn list(&self) -> Result<(), TestCaseError> {
        let listing = self.store.list(&self.prefix()).await.expect("the store lists");
        prop_assert_eq!(listing.revision, self.current);
        let listed: BTreeMap<Key, _> =
            listing.entries.iter().map(|entry| (entry.key.clone(), plain_entry(entry))).collect();
        prop_assert_eq!(&listed, &self.model.live);
        Ok(())
    }
}

/// Expects a watch to tell all that came after `after`, or, if that was compacted, that it can't.
async fn arrives(mut watch: Watch, after: Revision, model: &Model) -> Result<(), TestCaseError> {
    for expected in model.batches.iter().filter(|(revision, _)| *revision > after) {
        let batch = loop {
            match watch.next().await.expect("a watch does not end") {
                Ok(batch) if batch.changes.is_empty() => {}
                Ok(batch) => break batch,
                Err(Error::Compacted { .. }) if after < model.floor => return Ok(()),
                Err(error) => return Err(TestCaseError::fail(format!("watching after {after}: {error}"))),
            }
        };
        prop_assert_eq!(&plain(&batch), expected);
    }
    Ok(())
}

/// A value with its revisions of creation and of its last write.
fn plain_entry(entry: &Entry) -> (u8, Revision, Revision) {
    (entry.value[0], entry.created, entry.modified)
}

fn plain(batch: &Batch) -> PlainBatch {
    let changes = batch.changes.iter().map(|change| match change {
        Change::Put(entry) => (entry.key.clone(), Some(entry.value[0])),
        Change::Delete(key) => (key.clone(), None),
    });
    (batch.revision, changes.collect())
}
