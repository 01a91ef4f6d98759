//! Writes a history down.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use futures::StreamExt as _;

use super::{
    super::super::{Entry, Error, Key, Listing, Prefix, Result, Revision, Store, Txn, Watch},
    Call, History, Moment, Operation, Outcome, Told, Watched,
};

/// Where a history is written; clones write to one.
#[derive(Clone, Debug)]
pub struct Log(Arc<Mutex<Recording>>);

#[derive(Debug)]
struct Recording {
    now: Moment,
    start: Listing,
    /// By the moment of invocation.
    operations: BTreeMap<Moment, Operation>,
    watches: Vec<Watched>,
}

impl Recording {
    fn tick(&mut self) -> Moment {
        self.now += 1;
        self.now
    }
}

impl Log {
    /// Begins with what `store` holds. From now on only those write to it who are recorded here.
    ///
    /// # Errors
    ///
    /// As for a listing.
    pub async fn start(store: &dyn Store) -> Result<Self> {
        let start = store.list(&Prefix::all()).await?;
        let recording = Recording { now: 0, start, operations: BTreeMap::new(), watches: Vec::new() };
        Ok(Self(Arc::new(Mutex::new(recording))))
    }

    /// What has been recorded until now.
    #[must_use]
    pub fn history(&self) -> History {
        let recording = self.lock();
        History {
            start: recording.start.clone(),
            operations: recording.operations.values().cloned().collect(),
            watches: recording.watches.clone(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Recording> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Moment {
        self.lock().tick()
    }

    fn end(&self, invoked: Moment, call: Call) {
        let mut recording = self.lock();
        let returned = Some(recording.tick());
        recording.operations.insert(invoked, Operation { invoked, returned, call });
    }

    /// Begins a commit, which stays with an unknown outcome until it has another.
    fn begin_commit(&self, txn: Txn) -> Moment {
        let mut recording = self.lock();
        let invoked = recording.tick();
        let call = Call::Commit { txn, outcome: Outcome::Unknown };
        recording.operations.insert(invoked, Operation { invoked, returned: None, call });
        invoked
    }

    fn forget(&self, invoked: Moment) {
        self.lock().operations.remove(&invoked);
    }
}

/// A store whose calls and watches are recorded, a watch as far as it is read.
#[derive(Debug)]
pub struct Recorded<S> {
    inner: S,
    log: Log,
}

impl<S: Store> Recorded<S> {
    /// Records what is asked of `inner` in `log`.
    #[must_use]
    pub fn new(inner: S, log: Log) -> Self {
        Self { inner, log }
    }

    async fn read<T>(&self, call: impl Future<Output = Result<T>> + Send, told: impl Fn(&T) -> Call) -> Result<T> {
        let invoked = self.log.begin();
        let answer = call.await?;
        self.log.end(invoked, told(&answer));
        Ok(answer)
    }
}

#[async_trait]
impl<S: Store> Store for Recorded<S> {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.read(self.inner.get(key), |entry| Call::Get { key: key.clone(), entry: entry.clone() }).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        let told = |listing: &Listing| Call::List { prefix: prefix.clone(), listing: listing.clone() };
        self.read(self.inner.list(prefix), told).await
    }

    async fn revision(&self) -> Result<Revision> {
        self.read(self.inner.revision(), |revision| Call::Revision(*revision)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Revision> {
        let invoked = self.log.begin_commit(txn.clone());
        let answer = self.inner.commit(txn.clone()).await;
        let outcome = match &answer {
            Ok(revision) => Outcome::Committed(*revision),
            Err(Error::Conflict { key, actual }) => Outcome::Conflict { key: key.clone(), actual: *actual },
            Err(Error::Invalid(_)) => {
                self.log.forget(invoked);
                return answer;
            }
            Err(_) => return answer,
        };
        self.log.end(invoked, Call::Commit { txn, outcome });
        answer
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch> {
        let watch = self.inner.watch(prefix, after).await?;
        let (log, number) = (self.log.clone(), {
            let mut recording = self.log.lock();
            let watched = Watched { prefix: prefix.clone(), after, told: Vec::new(), compacted: None };
            recording.watches.push(watched);
            recording.watches.len() - 1
        });
        let recorded = watch.inspect(move |item| {
            let mut recording = log.lock();
            let at = recording.tick();
            let watched = &mut recording.watches[number];
            match item {
                Ok(batch) => watched.told.push(Told { at, batch: batch.clone() }),
                Err(Error::Compacted { floor }) => watched.compacted = Some(*floor),
                Err(_) => {}
            }
        });
        Ok(recorded.boxed())
    }

    async fn compact(&self, floor: Revision) -> Result<()> {
        self.inner.compact(floor).await
    }
}
