//! The store in memory: the reference of the contract.

use std::sync::Arc;

use async_trait::async_trait;
use orchestra_core::store::{Entry, Key, Listing, Prefix, Result, Revision, Store, Txn, Watch};

use crate::{
    state::{HistoryLimits, State, stage},
    view::View,
};

/// A store in the memory of this process, gone when it is dropped.
///
/// Values are shared, never copied: a read costs a reference count for each entry. No call waits for anything but a
/// short lock, so futures are ready at once, except a watch that has caught up. A new store is at revision 1.
///
/// A watch sends a bookmark when it has first caught up, and again when it has caught up after one to two thousand commits
/// that did not concern it. Those do not wake it otherwise, nor can it lag behind them.
///
/// # Examples
///
/// ```
/// # use orchestra_core::store::{Key, Prefix, Store, Txn};
/// # use orchestra_store::MemoryStore;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> orchestra_core::store::Result<()> {
/// let store = MemoryStore::new();
/// let key = Key::new(["pods", "default", "web-0"])?;
/// let revision = store.commit(Txn::create(key.clone(), "{}".into())).await?;
/// let listing = store.list(&Prefix::new(["pods"])?).await?;
/// assert_eq!((listing.revision, &listing.entries[0].key), (revision, &key));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct MemoryStore {
    view: Arc<View>,
}

impl MemoryStore {
    /// Makes an empty store.
    #[must_use]
    pub fn new() -> Self {
        Self::with_history(HistoryLimits::default())
    }

    /// Makes an empty store that keeps as much history as `limits` say.
    #[must_use]
    pub fn with_history(limits: HistoryLimits) -> Self {
        Self { view: Arc::new(View::new(State::new(limits))) }
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        Ok(self.view.get(key))
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        Ok(self.view.list(prefix))
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(self.view.state().revision())
    }

    async fn commit(&self, txn: Txn) -> Result<Revision> {
        txn.validate()?;
        self.view.commit(|state| {
            let next = Revision(state.revision().0 + 1);
            Ok(Vec::from_iter(stage(txn, next, |key| state.stamp(key))?))
        })
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch> {
        Ok(self.view.watch(prefix.clone(), after))
    }

    async fn compact(&self, floor: Revision) -> Result<()> {
        self.view.compact(floor);
        Ok(())
    }
}

#[cfg(test)]
mod conformance {
    use super::MemoryStore;

    orchestra_core::store_conformance!(|| async { MemoryStore::new() });
}
