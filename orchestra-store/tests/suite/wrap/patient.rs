//! What every caller does who wants to get through.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use orchestra_core::store::{Entry, Error, Key, Listing, Prefix, Result, Revision, Store, Txn, Watch};
use tokio::task::yield_now;

/// Asks a store again for what was refused before it happened, and resumes a watch that was cut after the last revision that it
/// told: who does so never knows of the faults.
///
/// A commit whose answer was lost can't be asked for again so: it may have happened, and would conflict with itself
/// (SEMANTICS 4).
#[derive(Debug)]
pub(super) struct Patient<S>(Arc<S>);

impl<S: Store> Patient<S> {
    pub(super) fn new(inner: S) -> Self {
        Self(Arc::new(inner))
    }
}

async fn again<T, F: Future<Output = Result<T>>>(mut call: impl FnMut() -> F) -> Result<T> {
    loop {
        match call().await {
            Err(Error::Unavailable(_)) => yield_now().await,
            answer => return answer,
        }
    }
}

#[async_trait]
impl<S: Store> Store for Patient<S> {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        again(|| self.0.get(key)).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        again(|| self.0.list(prefix)).await
    }

    async fn revision(&self) -> Result<Revision> {
        again(|| self.0.revision()).await
    }

    async fn commit(&self, txn: Txn) -> Result<Revision> {
        again(|| self.0.commit(txn.clone())).await
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch> {
        let watch = again(|| self.0.watch(prefix, after)).await?;
        let state = (Arc::clone(&self.0), prefix.clone(), after, Some(watch));
        let resumed = stream::unfold(state, |(store, prefix, mut after, watch)| async move {
            let mut watch = watch?;
            loop {
                match watch.next().await? {
                    Ok(batch) => {
                        after = batch.revision;
                        return Some((Ok(batch), (store, prefix, after, Some(watch))));
                    }
                    Err(Error::Unavailable(_)) => match again(|| store.watch(&prefix, after)).await {
                        Ok(resumed) => watch = resumed,
                        Err(error) => return Some((Err(error), (store, prefix, after, None))),
                    },
                    Err(error) => return Some((Err(error), (store, prefix, after, None))),
                }
            }
        });
        Ok(resumed.boxed())
    }

    async fn compact(&self, floor: Revision) -> Result<()> {
        again(|| self.0.compact(floor)).await
    }
}
