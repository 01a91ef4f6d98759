//! A store that is far away.

use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt as _;
use orchestra_core::{
    rng::Entropy,
    store::{Entry, Key, Listing, Prefix, Result, Revision, Store, Txn, Watch},
};
use tokio::time::sleep;

/// How long one thing takes: `min`, and up to `jitter` more, evenly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delay {
    /// The least.
    pub min: Duration,
    /// The most that comes to it.
    pub jitter: Duration,
}

impl Delay {
    fn draw(self, entropy: &Entropy) -> Duration {
        self.min + self.jitter.mul_f64(entropy.next_f64())
    }
}

/// How long each call of a [`Slow`] store takes more than it would. By default nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delays {
    /// Each read, and the opening of each watch.
    pub reads: Delay,
    /// Each commit and compaction.
    pub writes: Delay,
    /// Each batch of a watch, one after the other: a watch yields at most one in this time.
    pub batches: Delay,
}

/// A store that takes its time: half of a delay passes before a call reaches the store underneath, half after it.
///
/// The waiting is tokio's, so that it costs nothing under paused time, and needs a runtime with timers. A commit whose
/// future is dropped in the first half doesn't happen.
///
/// # Examples
///
/// ```
/// # use std::time::Duration;
/// # use orchestra_core::{rng::Entropy, store::Store};
/// # use orchestra_store::{MemoryStore, Slow, wrap::{Delay, Delays}};
/// # use tokio::time::Instant;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() -> orchestra_core::store::Result<()> {
/// let reads = Delay { min: Duration::from_millis(80), jitter: Duration::from_millis(40) };
/// let store = Slow::new(MemoryStore::new(), Delays { reads, ..Delays::default() }, Entropy::seeded(1));
/// let begun = Instant::now();
/// store.revision().await?;
/// assert!((80..=122).contains(&begun.elapsed().as_millis()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Slow<S> {
    inner: S,
    delays: Delays,
    entropy: Entropy,
}

impl<S: Store> Slow<S> {
    /// Makes `inner` slow by `delays`; `entropy` draws the jitter.
    #[must_use]
    pub fn new(inner: S, delays: Delays, entropy: Entropy) -> Self {
        Self { inner, delays, entropy }
    }

    async fn slowly<T: Send>(&self, delay: Delay, call: impl Future<Output = T> + Send) -> T {
        let half = delay.draw(&self.entropy) / 2;
        pass(half).await;
        let answer = call.await;
        pass(half).await;
        answer
    }
}

/// Lets `time` pass; a call that takes none is not put off to another turn.
async fn pass(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

#[async_trait]
impl<S: Store> Store for Slow<S> {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.slowly(self.delays.reads, self.inner.get(key)).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        self.slowly(self.delays.reads, self.inner.list(prefix)).await
    }

    async fn revision(&self) -> Result<Revision> {
        self.slowly(self.delays.reads, self.inner.revision()).await
    }

    async fn commit(&self, txn: Txn) -> Result<Revision> {
        self.slowly(self.delays.writes, self.inner.commit(txn)).await
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch> {
        let watch = self.slowly(self.delays.reads, self.inner.watch(prefix, after)).await?;
        // Of its own, so that how one watch is read doesn't shift the delays of others.
        let (delay, entropy) = (self.delays.batches, self.entropy.fork());
        let slowly = watch.then(move |item| {
            let time = delay.draw(&entropy);
            async move {
                pass(time).await;
                item
            }
        });
        Ok(slowly.boxed())
    }

    async fn compact(&self, floor: Revision) -> Result<()> {
        self.slowly(self.delays.writes, self.inner.compact(floor)).await
    }
}
