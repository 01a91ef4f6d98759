//! Proof under concurrency: generated histories under faults break no law, and the checkers find it where one does.

mod mutations;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::future::join_all;
use orchestra_core::{
    rng::Entropy,
    store::{
        Batch, Change, Entry, Key, Listing, Prefix, Revision, Store, Txn,
        conformance::history::{
            Call, History, Log, Operation, Outcome, Property, Recorded, Told, Violation, Watched, Workload,
            check_by_revision, check_linearizable, check_watches,
        },
    },
};
use orchestra_store::{
    DurableStore, Faulty, MemoryStore,
    wrap::{Faults, Injected},
};

use tokio::task::JoinSet;

use self::mutations::{MUTATIONS, mutate};

const HISTORIES: u64 = 1_000;
/// How many histories a slow store is asked for at once, each on a store of its own.
const LANES: u64 = 8;

fn faults() -> Faults {
    Faults { delay: 0.5, delay_max: Duration::from_millis(4), ..Faults::each(0.05) }
}

fn workload(seed: u64) -> Workload {
    Workload { drops_percent: 5, ..Workload::seeded(seed) }
}

/// What came of histories, so that a test can tell that they were no easy ones.
#[derive(Debug, Default)]
struct Sum {
    commits: usize,
    conflicts: usize,
    unknown: usize,
    overlaps: usize,
    batches: usize,
    faults: [u64; 6],
}

impl Sum {
    fn add(&mut self, history: &History, injected: Injected) {
        for operation in &history.operations {
            match &operation.call {
                Call::Commit { outcome: Outcome::Committed(_), .. } => self.commits += 1,
                Call::Commit { outcome: Outcome::Conflict { .. }, .. } => self.conflicts += 1,
                Call::Commit { outcome: Outcome::Unknown, .. } => self.unknown += 1,
                _ => {}
            }
        }
        let calls = history.operations.windows(2);
        self.overlaps += calls.filter(|two| two[0].returned.is_none_or(|returned| returned > two[1].invoked)).count();
        self.batches += history.watches.iter().map(|watched| watched.told.len()).sum::<usize>();
        let Injected { conflicts, unavailable_before, unavailable_after, delays, compactions, watch_cuts } = injected;
        let counts = [conflicts, unavailable_before, unavailable_after, delays, compactions, watch_cuts];
        self.faults.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
    }

    /// Expects of each kind of trouble as much as `histories` can't do without.
    fn assert_hard(&self, histories: u64) {
        let least = histories as usize / 4;
        let counts = [self.commits, self.conflicts, self.unknown, self.overlaps, self.batches];
        assert!(counts.iter().all(|&count| count > least), "{self:?}");
        assert!(self.faults.iter().all(|&count| count > histories / 20), "{self:?}");
    }
}

/// One history of `store` under faults, whose rival writes are part of it.
async fn record(store: &Arc<dyn Store>, workload: Workload) -> (History, Injected) {
    let log = Log::start(&**store).await.expect("a listing");
    let rival = Recorded::new(store.clone(), log.clone());
    let faulty = Faulty::new(store.clone(), faults(), Entropy::seeded(workload.seed)).with_rival(rival);
    let faulty = Arc::new(faulty);
    let recorded: Arc<dyn Store> = Arc::new(Recorded::new(faulty.clone(), log.clone()));
    workload.run(&recorded).await;
    (log.history(), faulty.injected())
}

async fn try_histories(store: Arc<dyn Store>, workloads: impl Iterator<Item = Workload>) -> Sum {
    let mut sum = Sum::default();
    for workload in workloads {
        let (history, injected) = record(&store, workload).await;
        // A commit that was dropped is done before this one, or not at all, and so is no part of the next history.
        let fence = Key::new(["fence", &workload.seed.to_string()]).expect("a valid key");
        store.commit(Txn::create(fence, Bytes::new())).await.expect("nobody else writes there");
        if let Err(violation) = history.check() {
            panic!("with the seed {}, {violation}\n{history:#?}", workload.seed);
        }
        sum.add(&history, injected);
    }
    sum
}

/// Laws 1 to 5.
#[tokio::test(start_paused = true)]
async fn a_thousand_histories_on_memory_break_no_law() {
    let mut sum = Sum::default();
    for seed in 0..HISTORIES {
        let (history, injected) = record(&(Arc::new(MemoryStore::new()) as Arc<dyn Store>), workload(seed)).await;
        if let Err(violation) = history.check() {
            panic!("with the seed {seed}, {violation}\n{history:#?}");
        }
        sum.add(&history, injected);
    }
    sum.assert_hard(HISTORIES);
}

/// Laws 1 to 5, with whatever one history leaves behind under the next.
#[tokio::test(start_paused = true)]
async fn a_thousand_histories_on_disk_break_no_law() {
    let lanes = (0..LANES).map(async |lane| {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let store = Arc::new(DurableStore::open(directory.path()).expect("a store opens"));
        let seeds = (lane * HISTORIES / LANES)..((lane + 1) * HISTORIES / LANES);
        try_histories(store, seeds.map(workload)).await.assert_hard(HISTORIES / LANES);
    });
    join_all(lanes).await;
}

/// The same by threads that run at once, so that a seed tells what is asked, but not in which order it comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_histories_of_several_threads_break_no_law() {
    let mut lanes = JoinSet::new();
    for lane in 0..LANES {
        lanes.spawn(async move {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let durable = DurableStore::open(directory.path()).expect("a store opens");
            let stores: [Arc<dyn Store>; 2] = [Arc::new(MemoryStore::new()), Arc::new(durable)];
            for store in stores {
                let seeds = (lane * HISTORIES / LANES)..((lane + 1) * HISTORIES / LANES);
                try_histories(store, seeds.map(workload)).await.assert_hard(HISTORIES / LANES);
            }
        });
    }
    lanes.join_all().await;
}

/// The checkers are made for more than the short histories above.
#[tokio::test(start_paused = true)]
async fn a_long_history_of_many_clients_breaks_no_law() {
    let workload = Workload { clients: 8, calls: 400, watchers: 4, keys: 4, ..workload(1) };
    let (history, _) = record(&(Arc::new(MemoryStore::new()) as Arc<dyn Store>), workload).await;
    assert!(history.operations.len() > 2_000);
    history.check().expect("no violation");
}

/// Then what one of them was seen as tells nothing of the other.
#[test]
fn two_commits_without_an_answer_may_have_written_the_same_value() {
    let (key, value) = (Key::new(["a"]).expect("a valid key"), Bytes::from_static(b"same"));
    let (created, replaced) = (Revision(2), Revision(3));
    let create = Txn::create(key.clone(), value.clone());
    let conflict = Outcome::Conflict { key: key.clone(), actual: Some(created) };
    let replace = Txn::replace(key.clone(), created, value.clone());
    let entry = Some(Entry { key: key.clone(), value, created, modified: replaced });
    let calls = [
        (None, Call::Commit { txn: create.clone(), outcome: Outcome::Unknown }),
        (Some(3), Call::Commit { txn: create, outcome: conflict }),
        (None, Call::Commit { txn: replace, outcome: Outcome::Unknown }),
        (Some(6), Call::Get { key, entry }),
    ];
    let operations =
        [1, 2, 4, 5].into_iter().zip(calls).map(|(invoked, (returned, call))| Operation { invoked, returned, call });
    let start = Listing { revision: Revision(1), entries: Vec::new() };
    let history = History { start, operations: operations.collect(), watches: Vec::new() };
    assert_eq!(history.check(), Ok(()));
}

/// A watch that was told of nothing at a revision says who can't have written it.
#[test]
fn of_two_commits_without_an_answer_the_one_that_no_watch_missed_was_made() {
    let path = |path: &str| Key::parse(path).expect("a valid key");
    let create = |at: &str| Txn::create(path(at), Bytes::from_static(b"1"));
    let calls = [
        (None, Call::Commit { txn: create("/a/0"), outcome: Outcome::Unknown }),
        (None, Call::Commit { txn: create("/b/0"), outcome: Outcome::Unknown }),
        (Some(4), Call::Commit { txn: create("/a/1"), outcome: Outcome::Committed(Revision(3)) }),
    ];
    let operations =
        [1, 2, 3].into_iter().zip(calls).map(|(invoked, (returned, call))| Operation { invoked, returned, call });
    let entry =
        Entry { key: path("/a/1"), value: Bytes::from_static(b"1"), created: Revision(3), modified: Revision(3) };
    let batch = Batch { revision: Revision(3), changes: vec![Change::Put(entry)] };
    let (prefix, after) = (Prefix::new(["a"]).expect("a valid prefix"), Revision(1));
    let watched = Watched { prefix, after, told: vec![Told { at: 5, batch }], compacted: None };
    let start = Listing { revision: Revision(1), entries: Vec::new() };
    let history = History { start, operations: operations.collect(), watches: vec![watched] };
    assert_eq!(history.check(), Ok(()));
    let mut missed = history;
    missed.operations.remove(1);
    assert!(
        matches!(missed.check(), Err(violation) if violation.property == Property::Resumable),
        "{:?}",
        missed.check()
    );
}

/// The same on a real etcd, where a commit that is dropped may come after the next history has begun.
#[cfg(feature = "etcd")]
mod on_etcd {
    use std::sync::Arc;

    use orchestra_core::store::conformance::history::Workload;
    use orchestra_store::{EtcdStore, etcd::testing::Etcd};
    use tokio::task::JoinSet;

    use super::{HISTORIES, try_histories};

    /// Each has an etcd of its own, for its compactions.
    const ETCDS: u64 = 4;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_thousand_histories_break_no_law() {
        let mut lanes = JoinSet::new();
        for lane in 0..ETCDS {
            lanes.spawn(async move {
                let etcd = Etcd::start().await;
                let store = EtcdStore::connect(etcd.options()).await.expect("etcd answers");
                let seeds = (lane * HISTORIES / ETCDS)..((lane + 1) * HISTORIES / ETCDS);
                try_histories(Arc::new(store), seeds.map(Workload::seeded)).await.assert_hard(HISTORIES / ETCDS);
            });
        }
        lanes.join_all().await;
    }
}

/// SEMANTICS 60: a violation can be looked at again.
#[tokio::test(start_paused = true)]
async fn equal_seeds_make_equal_histories() {
    let run = async || record(&(Arc::new(MemoryStore::new()) as Arc<dyn Store>), workload(7)).await.0;
    let (one, other) = (run().await, run().await);
    assert_eq!((one.operations, one.watches), (other.operations, other.watches));
}

/// A checker and its name.
type Checker = (&'static str, fn(&History) -> Result<(), Violation>);

const CHECKERS: [Checker; 3] =
    [("by revision", check_by_revision), ("linearizable", check_linearizable), ("watches", check_watches)];

/// How many histories are changed in each way.
const MUTANTS_OF_A_KIND: usize = 10;

/// The checkers on trial: what no store can have answered is refused, by those whose business it is.
#[tokio::test(start_paused = true)]
async fn every_history_that_can_not_have_been_is_rejected() {
    let entropy = Entropy::seeded(1);
    let mut mutants = 0;
    for mutation in MUTATIONS {
        let (name, mut of_kind) = (mutation.name, 0);
        for seed in 0.. {
            assert!(seed < HISTORIES, "no {name} in {HISTORIES} histories");
            let (mut history, _) = record(&(Arc::new(MemoryStore::new()) as Arc<dyn Store>), workload(seed)).await;
            if !mutate(&mut history, mutation, &entropy) {
                continue;
            }
            for (checker, check) in CHECKERS.iter().filter(|(checker, _)| mutation.rejected_by.contains(checker)) {
                let verdict = check(&history);
                assert!(verdict.is_err(), "{name}, of the seed {seed}, is not rejected: {checker}\n{history:#?}");
            }
            of_kind += 1;
            if of_kind == MUTANTS_OF_A_KIND {
                break;
            }
        }
        mutants += of_kind;
    }
    assert!(mutants >= 200, "{mutants}");
}
