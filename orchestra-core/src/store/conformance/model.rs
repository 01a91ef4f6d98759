//! All laws at once, on random sequences, beside a model too plain to be wrong.

use std::{cell::Cell, collections::BTreeMap, future::Future, sync::Arc};

use bytes::Bytes;
use proptest::{
    prelude::*,
    test_runner::{Config, TestCaseError, TestRunner},
};

use super::{
    super::{Batch, Change, Check, Error, Key, Op, Prefix, Revision, Store, Txn},
    Subject, steps,
};

/// How many sequences are tried.
const SEQUENCES: u32 = 48;
/// How many transactions a sequence has at most.
const TRANSACTIONS_MAX: usize = 24;

/// Tries random sequences of transactions on one store that `open` makes, each under a prefix of its own, and compares
/// every answer, the listing and the whole watch with the model's.
///
/// # Panics
///
/// If they differ, with the shortest sequence found.
pub fn check<T, F>(open: impl FnOnce() -> F)
where
    T: Into<Subject>,
    F: Future<Output = T>,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let subject: Subject = runtime.block_on(open()).into();
    let mut runner = TestRunner::new(Config { cases: SEQUENCES, failure_persistence: None, ..Config::default() });
    let sequence = Cell::new(0);
    let result = runner.run(&prop::collection::vec(step(), 1..TRANSACTIONS_MAX), |steps| {
        sequence.set(sequence.get() + 1);
        runtime.block_on(try_sequence(&subject.store, &format!("sequence-{}", sequence.get()), &steps))
    });
    runtime.block_on(async { drop(subject) });
    if let Err(failure) = result {
        panic!("{failure}\n{runner}");
    }
}

/// One transaction: for each key what is checked, and what is written.
type Step = Vec<(usize, Seen, Write)>;

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

fn step() -> impl Strategy<Value = Step> {
    let seen = prop_oneof![2 => Just(Seen::Absent), 5 => Just(Seen::Now), 1 => Just(Seen::Stale)];
    let write = prop_oneof![1 => Just(Write::Nothing), 4 => any::<u8>().prop_map(Write::Put), 2 => Just(Write::Delete)];
    prop::collection::vec((0..NAMES.len(), seen, write), 0..4)
}

/// A commit and what it left at each key that it changed.
type PlainBatch = (Revision, Vec<(Key, Option<u8>)>);

/// The live values with their revisions of creation and last write, and what a watch should have yielded.
#[derive(Debug, Default)]
struct Model {
    live: BTreeMap<Key, (u8, Revision, Revision)>,
    last_deleted: BTreeMap<Key, Revision>,
    batches: Vec<PlainBatch>,
}

impl Model {
    fn modified(&self, key: &Key) -> Option<Revision> {
        self.live.get(key).map(|(_, _, modified)| *modified)
    }

    /// The transaction that `step` stands for; a key named twice counts once.
    fn txn(&self, folder: &str, step: &Step) -> Txn {
        let mut txn = Txn::default();
        for (index, seen, write) in step {
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

async fn try_sequence(store: &Arc<dyn Store>, folder: &str, steps: &[Step]) -> Result<(), TestCaseError> {
    let prefix = Prefix::new([folder]).expect("a valid prefix");
    let start = steps::revision(store).await;
    let mut model = Model::default();
    let mut current = start;
    for step in steps {
        let txn = model.txn(folder, step);
        let conflict = model.conflict(&txn);
        match (store.commit(txn.clone()).await, conflict) {
            (Ok(revision), None) => {
                let next = Revision(current.0 + 1);
                current = if model.apply(&txn, next) { next } else { current };
                prop_assert_eq!(revision, current);
            }
            (Err(Error::Conflict { key, actual }), Some(expected)) => prop_assert_eq!((key, actual), expected),
            (result, expected) => prop_assert!(false, "expected conflict {expected:?}, got {result:?}"),
        }
    }
    let listing = store.list(&prefix).await.expect("the store lists");
    prop_assert_eq!(listing.revision, current);
    let listed: BTreeMap<Key, _> =
        listing.entries.into_iter().map(|entry| (entry.key, (entry.value[0], entry.created, entry.modified))).collect();
    prop_assert_eq!(&listed, &model.live);
    let mut watch = store.watch(&prefix, start).await.expect("the store watches");
    for expected in model.batches {
        let batch = steps::next(&mut watch).await;
        prop_assert_eq!(plain(&batch), expected);
    }
    Ok(())
}

fn plain(batch: &Batch) -> PlainBatch {
    let changes = batch.changes.iter().map(|change| match change {
        Change::Put(entry) => (entry.key.clone(), Some(entry.value[0])),
        Change::Delete(key) => (key.clone(), None),
    });
    (batch.revision, changes.collect())
}
