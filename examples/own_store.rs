//! A store of your own, under the suite: this one keeps its history in a list, and watchers read on in it.
//!
//!     cargo run --example own_store
//!
//! prints `87 laws and rules hold for ListStore`.

use std::collections::{BTreeMap, VecDeque};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use orchestra_core::store::{
    Batch, Change, Entry, Error, Key, Listing, Op, Prefix, Result, Revision, Store, Txn, Watch,
};
use tokio::sync::watch::Sender;

/// Invariant: the commits are those after the forgotten ones, in order; the very first has revision 2.
#[derive(Debug, Default)]
struct History {
    live: BTreeMap<Key, Entry>,
    forgotten: u64,
    commits: VecDeque<Batch>,
}

impl History {
    fn revision(&self) -> Revision {
        Revision(1 + self.forgotten + self.commits.len() as u64)
    }

    fn commit(&mut self, txn: Txn) -> Result<Revision> {
        let modified = |key: &Key| self.live.get(key).map(|entry| entry.modified);
        txn.checks.iter().try_for_each(|check| check.hold(modified(check.key())))?;
        let revision = Revision(self.revision().0 + 1);
        let mut changes: Vec<_> = txn.ops.into_iter().filter_map(|op| self.apply(op, revision)).collect();
        changes.sort_by(|a, b| a.key().cmp(b.key()));
        self.commits.extend((!changes.is_empty()).then_some(Batch { revision, changes }));
        Ok(self.revision())
    }

    fn apply(&mut self, op: Op, modified: Revision) -> Option<Change> {
        match op {
            Op::Put(key, value) => {
                let created = self.live.get(&key).map_or(modified, |old| old.created);
                let entry = Entry { key: key.clone(), value, created, modified };
                self.live.insert(key, entry.clone());
                Some(Change::Put(entry))
            }
            Op::Delete(key) => self.live.remove(&key).map(|_| Change::Delete(key)),
        }
    }

    /// The first commit after `after` that changes something under `prefix`.
    fn next(&self, prefix: &Prefix, after: Revision) -> Result<Option<Batch>> {
        let floor = Revision(1 + self.forgotten);
        let known = after.0.max(1).checked_sub(floor.0).ok_or(Error::Compacted { floor })?;
        let under = |change: &&Change| prefix.contains(change.key());
        let part = |batch: &Batch| Batch { changes: batch.changes.iter().filter(under).cloned().collect(), ..*batch };
        Ok(self.commits.iter().skip(known as usize).map(part).find(|batch| !batch.changes.is_empty()))
    }
}

/// The history in a channel, which is a lock that tells those who wait.
#[derive(Debug, Default)]
struct ListStore(Sender<History>);

#[async_trait]
impl Store for ListStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        Ok(self.0.borrow().live.get(key).cloned())
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        let history = self.0.borrow();
        let entries = history.live.values().filter(|entry| prefix.contains(&entry.key)).cloned().collect();
        Ok(Listing { revision: history.revision(), entries })
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(self.0.borrow().revision())
    }

    async fn commit(&self, txn: Txn) -> Result<Revision> {
        txn.validate()?;
        let mut result = Ok(Revision(0));
        self.0.send_modify(|history| result = history.commit(txn));
        result
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch> {
        let start = (self.0.subscribe(), prefix.clone(), after);
        let batches = stream::try_unfold(start, |(mut history, prefix, after)| async move {
            loop {
                let next = history.borrow_and_update().next(&prefix, after)?;
                if let Some(batch) = next {
                    let after = batch.revision;
                    return Ok(Some((batch, (history, prefix, after))));
                }
                history.changed().await.map_err(|gone| Error::Unavailable(gone.into()))?;
            }
        });
        Ok(batches.boxed())
    }

    async fn compact(&self, floor: Revision) -> Result<()> {
        self.0.send_modify(|history| {
            while 1 + history.forgotten < floor.0 && history.commits.pop_front().is_some() {
                history.forgotten += 1;
            }
        });
        Ok(())
    }
}

mod laws {
    orchestra_core::store_conformance!(|| async { crate::ListStore::default() });
}

fn main() {
    println!("{} laws and rules hold for ListStore", laws::all());
}
