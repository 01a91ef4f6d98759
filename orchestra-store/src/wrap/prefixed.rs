//! Many stores in one, told apart by the beginning of their keys.

use async_trait::async_trait;
use orchestra_core::store::{
    Batch, Change, Check, Entry, Error, Key, Listing, Op, Prefix, Result, Revision, Store, Txn, Watch,
};

use super::mapped;

/// A store whose keys are all under one prefix of another store.
///
/// Keys are told as without the prefix: in entries, in watches and in errors. What is not under the prefix can be neither
/// seen nor written. The keys of the other store are as much longer, and bounded as before.
///
/// Revisions are those of the other store, and so is its history: commits elsewhere raise the revision here too, and
/// [`compact`](Store::compact) forgets the history of all.
///
/// A watch here is a narrow one there, and hears of commits elsewhere now and then only: on a store that others write to
/// under prefixes of their own, what waits until a watch has come to a [`revision`](Store::revision) may wait long. An
/// `EtcdStore` with a prefix of its own asks etcd to be brought on, and is the one to put API servers on.
///
/// # Examples
///
/// ```
/// # use std::sync::Arc;
/// # use orchestra_core::store::{Key, Prefix, Store, Txn};
/// # use orchestra_store::{MemoryStore, Prefixed};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> orchestra_core::store::Result<()> {
/// let all = Arc::new(MemoryStore::new());
/// let blue = Prefixed::new(all.clone(), Prefix::new(["blue"])?);
/// let revision = blue.commit(Txn::create(Key::new(["pods", "web-0"])?, "{}".into())).await?;
/// let entry = all.get(&Key::new(["blue", "pods", "web-0"])?).await?;
/// assert_eq!(entry.map(|entry| entry.modified), Some(revision));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Prefixed<S> {
    inner: S,
    root: Root,
}

impl<S: Store> Prefixed<S> {
    /// Makes a store of what is under `prefix` of `inner`.
    #[must_use]
    pub fn new(inner: S, prefix: Prefix) -> Self {
        Self { inner, root: Root(prefix) }
    }

    /// The store that holds this one.
    #[must_use]
    pub fn inner(&self) -> &S {
        &self.inner
    }
}

#[async_trait]
impl<S: Store> Store for Prefixed<S> {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let entry = self.inner.get(&self.root.inside(key)?).await?;
        entry.map(|entry| self.root.entry(entry)).transpose()
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        let listing = self.inner.list(&self.root.prefix_inside(prefix)?).await?;
        let entries = listing.entries.into_iter().map(|entry| self.root.entry(entry));
        Ok(Listing { revision: listing.revision, entries: entries.collect::<Result<_>>()? })
    }

    async fn revision(&self) -> Result<Revision> {
        self.inner.revision().await
    }

    async fn commit(&self, txn: Txn) -> Result<Revision> {
        txn.validate()?;
        self.inner.commit(self.root.txn(txn)?).await.map_err(|error| self.root.error(error))
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch> {
        let watch = self.inner.watch(&self.root.prefix_inside(prefix)?, after).await?;
        let root = self.root.clone();
        Ok(mapped(watch, move |batch| root.batch(batch)))
    }

    async fn compact(&self, floor: Revision) -> Result<()> {
        self.inner.compact(floor).await
    }
}

/// Where the keys are.
#[derive(Clone, Debug)]
struct Root(Prefix);

impl Root {
    /// The key that `key` is in the store underneath.
    fn inside(&self, key: &Key) -> Result<Key> {
        Key::new(self.segments().chain(key.segments()))
    }

    fn prefix_inside(&self, prefix: &Prefix) -> Result<Prefix> {
        Prefix::new(self.segments().chain(segments(prefix)))
    }

    fn segments(&self) -> impl Iterator<Item = &str> {
        segments(&self.0)
    }

    fn txn(&self, txn: Txn) -> Result<Txn> {
        let checks = txn.checks.into_iter().map(|check| {
            Ok(match check {
                Check::Absent(key) => Check::Absent(self.inside(&key)?),
                Check::Unchanged(key, seen) => Check::Unchanged(self.inside(&key)?, seen),
            })
        });
        let ops = txn.ops.into_iter().map(|op| {
            Ok(match op {
                Op::Put(key, value) => Op::Put(self.inside(&key)?, value),
                Op::Delete(key) => Op::Delete(self.inside(&key)?),
            })
        });
        Ok(Txn { checks: checks.collect::<Result<_>>()?, ops: ops.collect::<Result<_>>()? })
    }

    /// The key that `inside` is out here.
    fn outside(&self, inside: &Key) -> Result<Key> {
        let path = inside.as_str().strip_prefix(self.0.as_str());
        let stray = || Error::Unavailable(format!("the store tells of {inside}, which is not under {}", self.0).into());
        Key::new(path.ok_or_else(stray)?.split('/'))
    }

    fn entry(&self, entry: Entry) -> Result<Entry> {
        Ok(Entry { key: self.outside(&entry.key)?, ..entry })
    }

    fn batch(&self, batch: Batch) -> Result<Batch> {
        let changes = batch.changes.into_iter().map(|change| {
            Ok(match change {
                Change::Put(entry) => Change::Put(self.entry(entry)?),
                Change::Delete(key) => Change::Delete(self.outside(&key)?),
            })
        });
        Ok(Batch { revision: batch.revision, changes: changes.collect::<Result<_>>()? })
    }

    fn error(&self, error: Error) -> Error {
        match error {
            Error::Conflict { key, actual } => match self.outside(&key) {
                Ok(key) => Error::Conflict { key, actual },
                Err(stray) => stray,
            },
            error => error,
        }
    }
}

fn segments(prefix: &Prefix) -> impl Iterator<Item = &str> {
    prefix.as_str().split('/').filter(|segment| !segment.is_empty())
}
