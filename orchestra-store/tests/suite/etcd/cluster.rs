//! The store on an etcd of three members, of which one or the other is killed.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use etcd_client::{Client, GetOptions};
use orchestra_core::store::{Batch, Change, Error, Key, Prefix, Revision, Store, Txn};
use orchestra_store::{
    EtcdOptions, EtcdStore,
    etcd::testing::{EtcdCluster, MEMBERS},
};
use tokio::{
    sync::{Mutex, OwnedMutexGuard},
    task::JoinSet,
};

use super::{connect, next, watch};

mod conformance {
    use super::Shared;

    orchestra_core::store_conformance!(Shared::open);
}

/// The cluster of the cases that run or wait at this moment; when there are none, it goes.
static SHARED: Mutex<Weak<Shared>> = Mutex::const_new(Weak::new());

/// A cluster that cases have one after another, each under a prefix of its own, until one has compacted it: they expect
/// that nobody else writes, and that all history is there.
struct Shared {
    options: EtcdOptions,
    cluster: Arc<Mutex<EtcdCluster>>,
    /// The member that is killed again and again: neither the leader, nor the one that is asked.
    victim: usize,
    turn: Arc<Mutex<()>>,
    cases: AtomicUsize,
}

/// A case's turn, in which a member is killed.
struct Turn {
    _killing: JoinSet<()>,
    _turn: OwnedMutexGuard<()>,
    _shared: Arc<Shared>,
}

impl Shared {
    async fn open() -> (EtcdStore, Turn) {
        loop {
            let shared = Self::current().await;
            let turn = Arc::clone(&shared.turn).lock_owned().await;
            if shared.is_compacted().await {
                continue;
            }
            let (mut killing, cluster, victim) = (JoinSet::new(), Arc::clone(&shared.cluster), shared.victim);
            killing.spawn(async move {
                let mut cluster = cluster.lock().await;
                loop {
                    cluster.restart(victim).await.expect("it comes back");
                }
            });
            let case = format!("case-{}", shared.cases.fetch_add(1, Ordering::Relaxed));
            let prefix = Prefix::new([&*case]).expect("a valid segment");
            let store = EtcdStore::connect(EtcdOptions { prefix, ..shared.options.clone() }).await;
            return (store.expect("etcd answers"), Turn { _killing: killing, _turn: turn, _shared: shared });
        }
    }

    /// The cluster there is, or a new one.
    async fn current() -> Arc<Self> {
        let mut current = SHARED.lock().await;
        if let Some(shared) = current.upgrade()
            && !shared.is_compacted().await
        {
            return shared;
        }
        let cluster = EtcdCluster::start().await;
        let leader = leader(&cluster).await;
        let order = from(leader).map(|member| cluster.endpoint(member).to_owned());
        let shared = Arc::new(Self {
            options: EtcdOptions::new(order),
            victim: (leader + MEMBERS - 1) % MEMBERS,
            cluster: Arc::new(Mutex::new(cluster)),
            turn: Arc::default(),
            cases: AtomicUsize::new(0),
        });
        *current = Arc::downgrade(&shared);
        shared
    }

    async fn is_compacted(&self) -> bool {
        let first = GetOptions::new().with_revision(1);
        let mut client = Client::connect(&self.options.endpoints[..1], None).await.expect("etcd is there");
        client.get("/", Some(first)).await.is_err_and(|error| error.to_string().contains("compacted"))
    }
}

/// The members, beginning with `first`.
fn from(first: usize) -> impl Iterator<Item = usize> {
    (first..first + MEMBERS).map(|number| number % MEMBERS)
}

pub(super) async fn leader(cluster: &EtcdCluster) -> usize {
    loop {
        if let Some(leader) = cluster.leader().await {
            return leader;
        }
    }
}

/// How many keys each writer has to write before the leader is killed, and how many after.
const ROUNDS: usize = 30;
const WRITERS: usize = 4;

/// Creates keys, each tried once, until told that it is enough; returns those that were acknowledged.
async fn write(
    store: EtcdStore,
    writer: usize,
    count: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
) -> BTreeMap<Key, Revision> {
    let mut acknowledged = BTreeMap::new();
    for number in 0.. {
        if enough.load(Ordering::Relaxed) {
            break;
        }
        let key = Key::new(["p", &writer.to_string(), &number.to_string()]).expect("a valid key");
        match store.commit(Txn::create(key.clone(), Bytes::from_static(b"x"))).await {
            Ok(revision) => {
                acknowledged.insert(key, revision);
                count.fetch_add(1, Ordering::Relaxed);
            }
            // It may have happened; asked again it would be said to be there.
            Err(Error::Unavailable(_)) => {}
            Err(error) => panic!("expected a commit or none, got {error:?}"),
        }
    }
    acknowledged
}

/// Notes what a watch tells of writers that each write a key once.
fn note(told: &mut BTreeMap<Revision, Key>, batch: Batch) {
    assert!(told.last_key_value().is_none_or(|(last, _)| *last < batch.revision), "a repeat: {batch:?}");
    for change in batch.changes {
        assert!(matches!(change, Change::Put(_)), "got {change:?}");
        told.insert(batch.revision, change.key().clone());
    }
}

/// SEMANTICS 3, 4, 11: what is acknowledged stays, what is in doubt is said to be, a watch has neither gap nor repeat.
#[tokio::test]
async fn nothing_is_lost_when_the_leader_is_killed() {
    let mut cluster = EtcdCluster::start().await;
    let leader = leader(&cluster).await;
    let order = from(leader).map(|member| cluster.endpoint(member).to_owned());
    let store = connect(EtcdOptions::new(order)).await.expect("etcd answers");
    let mut watch = watch(&store).await;
    let (enough, mut writers) = (Arc::new(AtomicBool::new(false)), JoinSet::new());
    let counts: Vec<_> = (0..WRITERS).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    for (writer, count) in counts.iter().enumerate() {
        writers.spawn(write(store.clone(), writer, Arc::clone(count), Arc::clone(&enough)));
    }
    let mut told = BTreeMap::new();
    let counted = || counts.iter().map(|count| count.load(Ordering::Relaxed));
    while counted().any(|count| count < ROUNDS) {
        note(&mut told, next(&mut watch).await);
    }
    cluster.kill(leader).expect("it is killed");
    let before: Vec<_> = counted().collect();
    while counted().zip(&before).any(|(count, before)| count < before + ROUNDS) {
        note(&mut told, next(&mut watch).await);
    }
    cluster.restart(leader).await.expect("it comes back");
    enough.store(true, Ordering::Relaxed);
    let acknowledged: BTreeMap<_, _> = writers.join_all().await.into_iter().flatten().collect();

    let listing = store.list(&Prefix::all()).await.expect("a listing");
    let listed: BTreeMap<_, _> = listing.entries.into_iter().map(|entry| (entry.modified, entry.key)).collect();
    while told.last_key_value() < listed.last_key_value() {
        note(&mut told, next(&mut watch).await);
    }
    assert_eq!(told, listed);
    let lost: Vec<_> = acknowledged.iter().filter(|(key, revision)| listed.get(revision) != Some(key)).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
}
