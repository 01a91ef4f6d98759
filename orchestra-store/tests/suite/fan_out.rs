//! Many watchers at once, some slow, some that come and go, while history is compacted under them.

#![allow(clippy::print_stdout, reason = "a campaign tells what its watchers met")]

use std::{env, fs, future::ready, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use orchestra_core::{
    rng::Entropy,
    store::{Batch, Change, Entry, Error, Key, Prefix, Revision, Store, Txn},
};
use orchestra_store::{DurableStore, MemoryStore};
use tokio::{
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};

/// How many commits there are; CONTRIBUTING.md has the command for a campaign.
const COMMITS_VARIABLE: &str = "ORCHESTRA_FAN_OUT_COMMITS";
const COMMITS: u64 = 20_000;
/// How many namespaces there are, and watchers.
const WATCHERS: u64 = 1_000;
/// Each watcher of this many watches all namespaces; the others watch their own.
const BROAD_EVERY: u64 = 50;
/// Each watcher of this many is slow; some of these watch all namespaces.
const SLOW_EVERY: u64 = 20;
/// Long enough that what was missed meanwhile is compacted.
const SLOW_PAUSE: Duration = Duration::from_millis(250);
/// A slow watcher pauses after one batch of this many, by chance.
const PAUSES_EVERY: u64 = 64;
/// A watcher leaves after one batch of this many, by chance, and comes back.
const LEAVES_EVERY: u64 = 50;
const WRITERS: u64 = 64;
const COMPACTION_INTERVAL: Duration = Duration::from_millis(100);
/// How many watches nobody reads until all is written.
const STALLED: usize = 20;
/// How many batches each of them may be told before it is told that it is behind: what a store keeps for one that is slow.
const STALLED_BATCHES_MAX: usize = 4_096;
/// How much the process may grow at any time, in a campaign: the history of a store and what 1,000 watches hold.
const GROWTH_BYTES_MAX: u64 = 192 << 20;
/// How long no watcher may hear anything.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// The two keys that each commit to a namespace writes.
const NAMES: [&str; 2] = ["a", "b"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_of_a_memory_store_miss_nothing() {
    fan_out(Arc::new(MemoryStore::new())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_of_a_durable_store_miss_nothing() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fan_out(Arc::new(DurableStore::open(directory.path()).expect("a store opens"))).await;
}

/// What a watcher met.
#[derive(Clone, Copy, Debug, Default)]
struct Met {
    batches: u64,
    disconnects: u64,
    compactions: u64,
}

/// Rules 10 to 15: each watcher is told of each commit in its namespaces once, whole and in order; one that fell behind
/// the history is told so.
async fn fan_out(store: Arc<dyn Store>) {
    let asked = env::var(COMMITS_VARIABLE).ok().map(|text| text.parse::<u64>().expect("a number of commits"));
    let each = (asked.unwrap_or(COMMITS) / WATCHERS).max(1);
    let resident = memory_bytes("VmRSS:");
    let entropy = Entropy::seeded(14);
    let start = store.revision().await.expect("a revision");
    let mut stalled = Vec::new();
    for _ in 0..STALLED {
        stalled.push(store.watch(&Prefix::all(), start).await.expect("a watch"));
    }
    let mut watchers = JoinSet::new();
    for number in 0..WATCHERS {
        let watcher = Watcher {
            store: Arc::clone(&store),
            prefix: if number % BROAD_EVERY == 0 { Prefix::all() } else { namespace(number) },
            slow: number % SLOW_EVERY == 0,
            entropy: entropy.fork(),
            seen: start,
            counts: if number % BROAD_EVERY == 0 {
                (0..WATCHERS).map(|at| (at, 0)).collect()
            } else {
                vec![(number, 0)]
            },
            met: Met::default(),
        };
        watchers.spawn(watcher.follow(each));
    }
    let mut writers = JoinSet::new();
    for first in 0..WRITERS {
        writers.spawn(write(Arc::clone(&store), first, each));
    }
    let compaction = tokio::spawn(compact(Arc::clone(&store)));
    while let Some(written) = writers.join_next().await {
        written.expect("a writer ends");
    }
    let mut met = Met::default();
    while let Some(one) = watchers.join_next().await {
        let one = one.expect("a watcher misses nothing");
        met.batches += one.batches;
        met.disconnects += one.disconnects;
        met.compactions += one.compactions;
    }
    compaction.abort();
    for watch in stalled {
        let told = watch.take(STALLED_BATCHES_MAX).take_while(|item| ready(item.is_ok())).count();
        let told = timeout(SILENCE_MAX, told).await.expect("the watch goes on");
        assert!(told < STALLED_BATCHES_MAX, "what nobody reads is kept for ever");
    }
    let growth = memory_bytes("VmHWM:").saturating_sub(resident);
    println!("{} commits, {met:?}, grown by {} KiB", each * WATCHERS, growth >> 10);
    assert!(met.disconnects > 0 && met.compactions > 0, "the watchers were spared: {met:?}");
    assert!(asked.is_none() || growth < GROWTH_BYTES_MAX, "grown by {growth} bytes");
}

fn namespace(number: u64) -> Prefix {
    Prefix::new([&*format!("{number:04}")]).expect("a valid segment")
}

/// Commits `each` times to each of one writer's namespaces.
async fn write(store: Arc<dyn Store>, first: u64, each: u64) {
    let mut seen = vec![None; usize::try_from(WATCHERS).expect("a small number")];
    for count in 1..=each {
        for (number, seen) in (0..WATCHERS).zip(&mut seen).filter(|(number, _)| number % WRITERS == first) {
            let value = Bytes::copy_from_slice(&count.to_be_bytes());
            let mut txn = Txn::default();
            for name in NAMES {
                let key = Key::new([&*format!("{number:04}"), name]).expect("a valid key");
                let Txn { checks, ops } = match *seen {
                    None => Txn::create(key, value.clone()),
                    Some(revision) => Txn::replace(key, revision, value.clone()),
                };
                txn.checks.extend(checks);
                txn.ops.extend(ops);
            }
            *seen = Some(store.commit(txn).await.expect("a commit"));
            yield_now().await;
        }
    }
}

/// Forgets all but the last moment of history, again and again.
async fn compact(store: Arc<dyn Store>) {
    loop {
        let floor = store.revision().await.expect("a revision");
        sleep(COMPACTION_INTERVAL).await;
        store.compact(floor).await.expect("a compaction");
    }
}

struct Watcher {
    store: Arc<dyn Store>,
    prefix: Prefix,
    slow: bool,
    entropy: Entropy,
    seen: Revision,
    /// The last count seen in each namespace that is watched.
    counts: Vec<(u64, u64)>,
    met: Met,
}

impl Watcher {
    /// Follows until each namespace has come to the count of `last`.
    async fn follow(mut self, last: u64) -> Met {
        while self.counts.iter().any(|(_, count)| *count < last) {
            let mut watch = self.store.watch(&self.prefix, self.seen).await.expect("a watch");
            while self.counts.iter().any(|(_, count)| *count < last) {
                let item = timeout(SILENCE_MAX, watch.next()).await.expect("the watch goes on");
                match item.expect("a watch does not end") {
                    Ok(batch) => self.take(&batch),
                    Err(Error::Compacted { floor }) => {
                        assert!(self.seen < floor, "{} is not before {floor}", self.seen);
                        self.list().await;
                        break;
                    }
                    Err(error) => panic!("{error}"),
                }
                if self.slow && self.chance(PAUSES_EVERY) {
                    sleep(SLOW_PAUSE).await;
                }
                if self.chance(LEAVES_EVERY) {
                    self.met.disconnects += 1;
                    break;
                }
            }
        }
        self.met
    }

    /// Whether something that happens once in `times` does.
    fn chance(&self, times: u64) -> bool {
        self.entropy.next_u64().is_multiple_of(times)
    }

    fn take(&mut self, batch: &Batch) {
        let first = self.met.batches == 0 && batch.changes.is_empty();
        assert!(batch.revision > self.seen || (first || batch.changes.is_empty()) && batch.revision == self.seen);
        self.seen = batch.revision;
        if batch.changes.is_empty() {
            return;
        }
        self.met.batches += 1;
        let entries = batch.changes.iter().map(|change| match change {
            Change::Put(entry) => entry,
            Change::Delete(key) => panic!("nobody deleted {key}"),
        });
        let told: Vec<_> = entries.map(|entry| (entry.modified, name_of(entry), count_of(entry))).collect();
        let count = self.count_mut(number_of(batch.changes[0].key()));
        *count += 1;
        let expected = NAMES.map(|name| (batch.revision, name, *count));
        assert_eq!(told, expected, "a commit came out of turn, or in part");
    }

    /// Begins anew from what there is, which is no older than what was seen.
    async fn list(&mut self) {
        self.met.compactions += 1;
        let listing = self.store.list(&self.prefix).await.expect("a listing");
        assert!(listing.revision >= self.seen, "a listing is older than a watch");
        self.seen = listing.revision;
        for pair in listing.entries.chunks(NAMES.len()) {
            let counts: Vec<_> = pair.iter().map(count_of).collect();
            assert!(counts.iter().all(|count| *count == counts[0]), "a listing splits a commit");
            let count = self.count_mut(number_of(&pair[0].key));
            assert!(*count <= counts[0], "a listing goes back");
            *count = counts[0];
        }
    }

    fn count_mut(&mut self, number: u64) -> &mut u64 {
        let at = self.counts.iter().position(|(at, _)| *at == number);
        &mut self.counts[at.expect("a namespace that is watched")].1
    }
}

fn number_of(key: &Key) -> u64 {
    key.segments().next().and_then(|segment| segment.parse().ok()).expect("a namespace of the test")
}

fn name_of(entry: &Entry) -> &str {
    entry.key.segments().last().expect("a segment")
}

fn count_of(entry: &Entry) -> u64 {
    u64::from_be_bytes(entry.value.as_ref().try_into().expect("eight bytes"))
}

/// What the process holds in memory, or held at most, as a line of its status tells; nothing where the system has no such.
fn memory_bytes(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}
