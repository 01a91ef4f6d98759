//! Callers who get in each other's way, drawn from a seed.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use tokio::{
    task::{JoinSet, yield_now},
    time::sleep,
};

use super::super::super::{Batch, Change, Check, Entry, Error, Key, Op, Prefix, Result, Revision, Store, Txn, Watch};
use crate::rng::Entropy;

const FOLDERS: [&str; 2] = ["a", "b"];
/// The name, in each folder, of what is written when all clients are done.
const FENCE: &str = "fence";
/// How many turns of others a watcher lets pass before it watches, at most.
const TURNS_MAX: u64 = 12;
/// How long to wait until a call that was refused is made again.
const RETRY: Duration = Duration::from_millis(1);

/// Clients that read and write the same few keys at once, and watchers that follow them.
///
/// Clients know only what they were told, so that their transactions conflict as those of real ones do: they create,
/// replace and delete, one key or several at once, check keys that they don't write, list, and compact. Watchers list,
/// hesitate, watch, and sometimes drop a watch and resume it; they go on after any error as the contract says.
///
/// Everything is drawn from the seed; on a runtime of one thread with paused time the same history comes out each time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// How many clients there are.
    pub clients: usize,
    /// How many calls each makes.
    pub calls: usize,
    /// How many watchers there are.
    pub watchers: usize,
    /// How many keys there are in each of two folders.
    pub keys: usize,
    /// How often a client drops a commit that has just begun, of 100. Leave it at 0 where the next history begins on the
    /// same store, in which such a commit might happen.
    pub drops_percent: u64,
    /// How often a client compacts, of 100 calls.
    pub compactions_percent: u64,
    /// What everything is drawn from.
    pub seed: u64,
}

impl Workload {
    /// Three clients of twelve calls each, two watchers, two keys in each folder, a compaction now and then.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { clients: 3, calls: 12, watchers: 2, keys: 2, drops_percent: 0, compactions_percent: 2, seed }
    }

    /// Runs until all clients are done and all watchers have seen it, on tasks of the runtime it is called on.
    ///
    /// # Panics
    ///
    /// If a client or watcher does, or a watch ends without an error.
    pub async fn run(&self, store: &Arc<dyn Store>) {
        let entropy = Entropy::seeded(self.seed);
        let fence = Bytes::from(format!("fence {}", entropy.uuid()));
        let mut watchers = JoinSet::new();
        for number in 0..self.watchers {
            let folder = FOLDERS.get(number % (FOLDERS.len() + 1)).copied();
            let prefix = Prefix::new(folder).expect("a valid folder");
            let watcher = Watcher { store: store.clone(), prefix, fence: fence.clone(), entropy: entropy.fork() };
            watchers.spawn(watcher.run());
        }
        let mut clients = JoinSet::new();
        for number in 0..self.clients {
            let client = Client {
                workload: *self,
                name: format!("{}/{number}", self.seed),
                store: store.clone(),
                entropy: entropy.fork(),
                known: BTreeMap::new(),
                latest: Revision(0),
            };
            clients.spawn(client.run());
        }
        clients.join_all().await;
        write_fence(store, &fence).await;
        watchers.join_all().await;
    }

    /// Keys of the folders, by number.
    fn key(&self, number: usize) -> Key {
        let (folder, name) = (FOLDERS[number % FOLDERS.len()], number / FOLDERS.len() % self.keys);
        Key::new([folder, &name.to_string()]).expect("a valid key")
    }
}

/// Writes `fence` to every folder in one commit, however often that fails.
async fn write_fence(store: &Arc<dyn Store>, fence: &Bytes) {
    while try_fence(store, fence).await.is_err() {
        sleep(RETRY).await;
    }
}

async fn try_fence(store: &Arc<dyn Store>, fence: &Bytes) -> Result<Revision> {
    let mut txn = Txn::default();
    for folder in FOLDERS {
        let key = Key::new([folder, FENCE])?;
        let entry = store.get(&key).await?;
        txn.checks.push(
            entry.map_or_else(|| Check::Absent(key.clone()), |entry| Check::Unchanged(key.clone(), entry.modified)),
        );
        txn.ops.push(Op::Put(key, fence.clone()));
    }
    store.commit(txn).await
}

/// One of those who read and write.
struct Client {
    workload: Workload,
    name: String,
    store: Arc<dyn Store>,
    entropy: Entropy,
    /// When each key was last written, as far as it was told.
    known: BTreeMap<Key, Option<Revision>>,
    latest: Revision,
}

impl Client {
    async fn run(mut self) {
        for call in 0..self.workload.calls {
            // What fails tells nothing, and is no reason to stop.
            let _: Result<()> = self.call(call).await;
            // Where a store answers at once, others would never come between.
            yield_now().await;
        }
    }

    /// A number below `end`.
    fn draw(&self, end: usize) -> usize {
        (self.entropy.next_u64() % end as u64) as usize
    }

    fn happens(&self, percent: u64) -> bool {
        self.entropy.next_u64() % 100 < percent
    }

    fn key(&self) -> Key {
        self.workload.key(self.draw(self.workload.keys * FOLDERS.len()))
    }

    async fn call(&mut self, call: usize) -> Result<()> {
        if self.happens(self.workload.compactions_percent) {
            return self.store.compact(self.latest).await;
        }
        match self.draw(16) {
            0..2 => self.get().await,
            2..4 => self.list().await,
            4 => self.store.revision().await.map(|revision| self.latest = revision),
            5 => self.commit_nothing().await,
            6..9 => self.commit(call, 3).await,
            _ => self.commit(call, 1).await,
        }
    }

    async fn get(&mut self) -> Result<()> {
        let key = self.key();
        let entry = self.store.get(&key).await?;
        self.known.insert(key, entry.map(|entry| entry.modified));
        Ok(())
    }

    async fn list(&mut self) -> Result<()> {
        let folder = FOLDERS.get(self.draw(FOLDERS.len() + 1)).copied();
        let prefix = Prefix::new(folder)?;
        let listing = self.store.list(&prefix).await?;
        self.latest = listing.revision;
        self.known.retain(|key, _| !prefix.contains(key));
        self.known.extend(listing.entries.into_iter().map(|entry| (entry.key, Some(entry.modified))));
        Ok(())
    }

    /// Deletes what must not be there.
    async fn commit_nothing(&mut self) -> Result<()> {
        let key = self.key();
        self.send(Txn { checks: vec![Check::Absent(key.clone())], ops: vec![Op::Delete(key)] }).await
    }

    /// Checks up to `keys_max` keys against what is known of them, and writes most of them.
    async fn commit(&mut self, call: usize, keys_max: usize) -> Result<()> {
        let mut txn = Txn::default();
        for number in 0..keys_max {
            let key = self.key();
            if txn.checks.iter().any(|check| *check.key() == key) {
                continue;
            }
            let known = self.known.get(&key).copied().flatten();
            txn.checks
                .push(known.map_or_else(|| Check::Absent(key.clone()), |seen| Check::Unchanged(key.clone(), seen)));
            let value = Bytes::from(format!("{}/{call}/{number}", self.name));
            match self.draw(6) {
                0 if number > 0 => {}
                1 if known.is_some() => txn.ops.push(Op::Delete(key)),
                _ => txn.ops.push(Op::Put(key, value)),
            }
        }
        self.send(txn).await
    }

    async fn send(&mut self, txn: Txn) -> Result<()> {
        let ops = txn.ops.clone();
        let commit = self.store.commit(txn);
        let outcome = if self.happens(self.workload.drops_percent) {
            // One poll begins the commit; then its future is dropped.
            let Some(outcome) = commit.now_or_never() else { return Ok(()) };
            outcome
        } else {
            commit.await
        };
        match outcome {
            Ok(revision) => {
                self.latest = revision;
                self.known.extend(ops.into_iter().map(|op| match op {
                    Op::Put(key, _) => (key, Some(revision)),
                    Op::Delete(key) => (key, None),
                }));
                Ok(())
            }
            Err(Error::Conflict { key, actual }) => {
                self.known.insert(key, actual);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }
}

/// One of those who follow, until they see the fence.
struct Watcher {
    store: Arc<dyn Store>,
    prefix: Prefix,
    fence: Bytes,
    entropy: Entropy,
}

/// Why a watcher goes on in another way.
enum Next {
    /// From where it is.
    Resume,
    /// From a new listing.
    List,
    End,
}

impl Watcher {
    async fn run(self) {
        loop {
            let Ok(listing) = self.store.list(&self.prefix).await else {
                sleep(RETRY).await;
                continue;
            };
            if listing.entries.iter().any(|entry| self.is_fence(entry)) {
                return;
            }
            let mut after = listing.revision;
            loop {
                self.hesitate().await;
                match self.store.watch(&self.prefix, after).await {
                    Ok(watch) => match self.follow(watch, &mut after).await {
                        Next::Resume => {}
                        Next::List => break,
                        Next::End => return,
                    },
                    Err(_) => sleep(RETRY).await,
                }
            }
        }
    }

    /// Lets some time pass, in which a watch may fall behind.
    async fn hesitate(&self) {
        for _ in 0..self.entropy.next_u64() % TURNS_MAX {
            yield_now().await;
        }
    }

    async fn follow(&self, mut watch: Watch, after: &mut Revision) -> Next {
        loop {
            match watch.next().await.expect("a watch ends with an error only") {
                Ok(batch) => {
                    *after = batch.revision;
                    if self.has_fence(&batch) {
                        return Next::End;
                    }
                    if self.entropy.next_u64().is_multiple_of(8) {
                        return Next::Resume;
                    }
                }
                Err(Error::Compacted { .. }) => return Next::List,
                Err(_) => return Next::Resume,
            }
        }
    }

    fn has_fence(&self, batch: &Batch) -> bool {
        batch.changes.iter().any(|change| matches!(change, Change::Put(entry) if self.is_fence(entry)))
    }

    fn is_fence(&self, entry: &Entry) -> bool {
        entry.value == self.fence
    }
}
