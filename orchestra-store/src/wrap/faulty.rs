//! A store on which everything goes wrong that the contract allows to.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use orchestra_core::{
    rng::Entropy,
    store::{Batch, Check, Entry, Error, Key, Listing, Prefix, Result, Revision, Store, Txn, Watch},
};
use tokio::time::sleep;

/// How often each fault happens, where it can: never at 0, always at 1. By default none does.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// A commit that replaces or deletes something finds that a rival has written the same value again, and conflicts.
    pub conflict: f64,
    /// A call fails as unavailable, and has not happened.
    pub unavailable_before: f64,
    /// A commit or compaction happens, whatever it comes to, and fails as unavailable.
    pub unavailable_after: f64,
    /// A call, or a batch of a watch, comes late by up to [`delay_max`](Self::delay_max).
    pub delay: f64,
    /// The longest that a delay takes.
    pub delay_max: Duration,
    /// The history is compacted just before a watch yields a batch, which it then can't.
    pub compaction: f64,
    /// A watch fails as unavailable in place of a batch.
    pub watch_cut: f64,
}

impl Faults {
    /// Each fault as often as the others; delays of up to 10 ms.
    #[must_use]
    pub fn each(rate: f64) -> Self {
        Self {
            conflict: rate,
            unavailable_before: rate,
            unavailable_after: rate,
            delay: rate,
            delay_max: Duration::from_millis(10),
            compaction: rate,
            watch_cut: rate,
        }
    }
}

/// How often each fault has happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Injected {
    /// Conflicts with a rival.
    pub conflicts: u64,
    /// Calls that did not happen.
    pub unavailable_before: u64,
    /// Calls that happened and failed.
    pub unavailable_after: u64,
    /// Delays.
    pub delays: u64,
    /// Watches that were overtaken by compaction.
    pub compactions: u64,
    /// Watches that were cut.
    pub watch_cuts: u64,
}

/// A store with faults, drawn from a seed: equal seeds and equal calls in equal order give equal faults.
///
/// It keeps every law of the contract, so that what breaks on it is whoever expected more. The faults are those of a real
/// store: after a commit that is unavailable nobody knows whether it happened; a conflict has a rival's write behind it, and
/// tells its revision; a watch is overtaken by a compaction that has really happened, to all watches; a watch that is cut
/// ends with an error as its last item, and can be resumed after the last batch that it yielded.
///
/// Transactions that break a limit are refused as ever, before any fault.
///
/// # Examples
///
/// ```
/// # use orchestra_core::{rng::Entropy, store::{Error, Key, Store, Txn}};
/// # use orchestra_store::{Faulty, MemoryStore, wrap::Faults};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> orchestra_core::store::Result<()> {
/// let faults = Faults { unavailable_after: 1.0, ..Faults::default() };
/// let store = Faulty::new(MemoryStore::new(), faults, Entropy::seeded(1));
/// let key = Key::new(["pods", "default", "web-0"])?;
/// let outcome = store.commit(Txn::create(key.clone(), "{}".into())).await;
/// assert!(matches!(outcome, Err(Error::Unavailable(_))));
/// store.calm();
/// assert!(store.get(&key).await?.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Faulty<S> {
    inner: Arc<S>,
    rival: Arc<dyn Store>,
    chance: Chance,
}

impl<S: Store> Faulty<S> {
    /// Makes `inner` fail as `faults` say and `entropy` draws, from now on.
    #[must_use]
    pub fn new(inner: S, faults: Faults, entropy: Entropy) -> Self {
        let inner = Arc::new(inner);
        let chance = Chance { faults, entropy, shared: Arc::default() };
        Self { rival: inner.clone(), inner, chance }
    }

    /// Lets the rival behind conflicts write by `rival`: the same store, by a way on which its writes are seen.
    #[must_use]
    pub fn with_rival(self, rival: impl Store) -> Self {
        Self { rival: Arc::new(rival), ..self }
    }

    /// The store underneath, which doesn't fail.
    #[must_use]
    pub fn inner(&self) -> &S {
        &self.inner
    }

    /// Stops all faults, also those of watches that are open.
    pub fn calm(&self) {
        self.chance.shared.calm.store(true, Ordering::Relaxed);
    }

    /// Lets faults happen again.
    pub fn resume(&self) {
        self.chance.shared.calm.store(false, Ordering::Relaxed);
    }

    /// How often each fault has happened until now.
    #[must_use]
    pub fn injected(&self) -> Injected {
        let counted = |fault: Fault| self.chance.shared.counts[fault as usize].load(Ordering::Relaxed);
        Injected {
            conflicts: counted(Fault::Conflict),
            unavailable_before: counted(Fault::UnavailableBefore),
            unavailable_after: counted(Fault::UnavailableAfter),
            delays: counted(Fault::Delay),
            compactions: counted(Fault::Compaction),
            watch_cuts: counted(Fault::WatchCut),
        }
    }

    async fn read<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        self.chance.delay().await;
        self.chance.refuse(Fault::UnavailableBefore)?;
        let answer = call.await;
        self.chance.delay().await;
        answer
    }

    async fn write<T>(&self, call: impl Future<Output = Result<T>> + Send) -> Result<T> {
        let answer = async {
            let answer = call.await;
            self.chance.refuse(Fault::UnavailableAfter)?;
            answer
        };
        self.read(answer).await
    }

    /// Writes again, as it is, what `txn` wants to replace or delete, so that it conflicts.
    async fn contend(&self, txn: &Txn) {
        let Some((key, seen)) = txn.checks.iter().find_map(seen) else { return };
        if !self.chance.draws(Fault::Conflict) {
            return;
        }
        // Where the rival comes too late, the commit conflicts with someone else; where it fails, with nobody.
        if let Ok(Some(entry)) = self.inner.get(key).await
            && self.rival.commit(Txn::replace(key.clone(), seen, entry.value)).await.is_ok()
        {
            self.chance.count(Fault::Conflict);
        }
    }
}

fn seen(check: &Check) -> Option<(&Key, Revision)> {
    match check {
        Check::Unchanged(key, seen) => Some((key, *seen)),
        Check::Absent(_) => None,
    }
}

#[async_trait]
impl<S: Store> Store for Faulty<S> {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.read(self.inner.get(key)).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        self.read(self.inner.list(prefix)).await
    }

    async fn revision(&self) -> Result<Revision> {
        self.read(self.inner.revision()).await
    }

    async fn commit(&self, txn: Txn) -> Result<Revision> {
        txn.validate()?;
        self.write(async {
            self.contend(&txn).await;
            self.inner.commit(txn).await
        })
        .await
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch> {
        let watch = self.read(self.inner.watch(prefix, after)).await?;
        // Of its own, so that how one watch is read doesn't shift the faults of others.
        let chance = Chance { entropy: self.chance.entropy.fork(), ..self.chance.clone() };
        let state = Some(FaultyWatch { inner: Arc::clone(&self.inner), watch, after, chance });
        let faulty = stream::unfold(state, |state| async {
            let mut state = state?;
            let item = state.next().await?;
            let next = item.is_ok().then_some(state);
            Some((item, next))
        });
        Ok(faulty.boxed())
    }

    async fn compact(&self, floor: Revision) -> Result<()> {
        self.write(self.inner.compact(floor)).await
    }
}

/// A watch, how far it has come, and what may become of it.
struct FaultyWatch<S> {
    inner: Arc<S>,
    watch: Watch,
    after: Revision,
    chance: Chance,
}

impl<S: Store> FaultyWatch<S> {
    async fn next(&mut self) -> Option<Result<Batch>> {
        let item = self.watch.next().await?;
        self.chance.delay().await;
        let Ok(batch) = item else { return Some(item) };
        if self.chance.hits(Fault::WatchCut) {
            return Some(Err(unavailable(Fault::WatchCut)));
        }
        if !batch.changes.is_empty() && self.chance.draws(Fault::Compaction) {
            // Where the store can't be reached, nothing is forgotten.
            if let Ok(floor) = overtake(&*self.inner).await {
                self.chance.count(Fault::Compaction);
                return Some(Err(Error::Compacted { floor }));
            }
        }
        self.after = batch.revision;
        Some(Ok(batch))
    }
}

/// Forgets all history of `store`, the batch that was to come with it.
async fn overtake(store: &impl Store) -> Result<Revision> {
    let floor = store.revision().await?;
    store.compact(floor).await?;
    Ok(floor)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Conflict,
    UnavailableBefore,
    UnavailableAfter,
    Delay,
    Compaction,
    WatchCut,
}

const FAULTS: usize = 6;

#[derive(Debug, Default)]
struct Shared {
    calm: AtomicBool,
    /// By [`Fault`].
    counts: [AtomicU64; FAULTS],
}

/// Decides what goes wrong; clones draw from one stream.
#[derive(Clone, Debug)]
struct Chance {
    faults: Faults,
    entropy: Entropy,
    shared: Arc<Shared>,
}

impl Chance {
    fn draws(&self, fault: Fault) -> bool {
        let rate = match fault {
            Fault::Conflict => self.faults.conflict,
            Fault::UnavailableBefore => self.faults.unavailable_before,
            Fault::UnavailableAfter => self.faults.unavailable_after,
            Fault::Delay => self.faults.delay,
            Fault::Compaction => self.faults.compaction,
            Fault::WatchCut => self.faults.watch_cut,
        };
        !self.shared.calm.load(Ordering::Relaxed) && self.entropy.next_f64() < rate
    }

    fn count(&self, fault: Fault) {
        self.shared.counts[fault as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn hits(&self, fault: Fault) -> bool {
        let hits = self.draws(fault);
        if hits {
            self.count(fault);
        }
        hits
    }

    fn refuse(&self, fault: Fault) -> Result<()> {
        if self.hits(fault) { Err(unavailable(fault)) } else { Ok(()) }
    }

    async fn delay(&self) {
        if self.hits(Fault::Delay) {
            sleep(self.faults.delay_max.mul_f64(self.entropy.next_f64())).await;
        }
    }
}

fn unavailable(fault: Fault) -> Error {
    let why = match fault {
        Fault::UnavailableBefore => "the call was refused",
        Fault::UnavailableAfter => "the answer was lost",
        _ => "the watch was cut",
    };
    Error::Unavailable(why.into())
}
