//! Laws 1 to 4 with many at work at once (SEMANTICS 2, 4, 10, 14, 20).

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures::{
    FutureExt as _, StreamExt as _,
    future::{Either, join_all, select},
};
use tokio::task::JoinSet;

use super::{
    super::{Batch, Change, Entry, Error, Key, Listing, Revision, Txn},
    history::{Log, Recorded, Workload},
    steps::{
        Subject, absent, commit, create, delete, key, list, next, put, replace, revision, unchanged, value, watch,
    },
};

const TASKS: usize = 8;
const ROUNDS: usize = 25;
const HISTORIES: u64 = 10;
const QUIET_ROUNDS: usize = 5;
/// How many commits others may make before a watch has told its own: far more than are made while a thread waits for its turn.
const BUSY_COMMITS_MAX: usize = 100_000;

/// Runs `work` in [`TASKS`] tasks at once and returns what each came to.
async fn in_tasks<T, F>(store: &Subject, work: impl Fn(Subject, usize) -> F) -> Vec<T>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let tasks = (0..TASKS).map(|task| tokio::spawn(work(store.clone(), task)));
    join_all(tasks).await.into_iter().map(|result| result.expect("the task ends well")).collect()
}

/// Rule 2.
pub async fn of_many_creates_of_one_key_one_wins(store: &Subject) {
    for round in 0..ROUNDS {
        let path = format!("/race/{round}");
        let won = in_tasks(store, |store: Subject, task| {
            let txn = Txn::create(key(&path), Bytes::from(task.to_string()));
            async move { store.commit(txn).await.is_ok().then_some(task) }
        })
        .await;
        let winners: Vec<usize> = won.into_iter().flatten().collect();
        assert_eq!(winners.len(), 1);
        assert_eq!(value(store, &path).await, Some(winners[0].to_string()));
    }
}

/// Adds one to the number at `/counter`, however often another is faster.
async fn increment(store: &Subject) -> Revision {
    loop {
        let entry = store.get(&key("/counter")).await.expect("a read").expect("an entry");
        let count: usize = String::from_utf8_lossy(&entry.value).parse().expect("a number");
        // Where a store answers at once, others would never come between.
        tokio::task::yield_now().await;
        match store.commit(Txn::replace(entry.key, entry.modified, Bytes::from((count + 1).to_string()))).await {
            Ok(revision) => return revision,
            Err(Error::Conflict { .. }) => {}
            Err(error) => panic!("expected a commit or a conflict, got {error:?}"),
        }
    }
}

/// Rule 2.
pub async fn no_compare_and_swap_is_lost(store: &Subject) {
    create(store, "/counter", "0").await;
    in_tasks(store, |store: Subject, _| async move {
        for _ in 0..ROUNDS {
            increment(&store).await;
        }
    })
    .await;
    assert_eq!(value(store, "/counter").await, Some((TASKS * ROUNDS).to_string()));
}

/// Rules 1 and 2: distinct, without holes, and rising for each writer.
pub async fn concurrent_commits_take_distinct_revisions(store: &Subject) {
    let start = revision(store).await;
    let taken = in_tasks(store, |store: Subject, task| async move {
        let mut revisions = Vec::new();
        for round in 0..ROUNDS {
            revisions.push(create(&store, &format!("/p/{task}-{round}"), "1").await);
        }
        revisions
    })
    .await;
    assert!(taken.iter().all(|revisions| revisions.is_sorted_by(|a, b| a < b)));
    let all: BTreeSet<u64> = taken.into_iter().flatten().map(|revision| revision.0).collect();
    let expected = start.0 + 1..=start.0 + (TASKS * ROUNDS) as u64;
    assert!(all.into_iter().eq(expected));
}

/// Law 3: two keys always written together are never seen apart.
pub async fn no_listing_is_torn(store: &Subject) {
    let mut seen = commit(store, vec![absent("/p/a"), absent("/p/b")], vec![put("/p/a", "0"), put("/p/b", "0")]).await;
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            for round in 1..200 {
                let text = round.to_string();
                let checks = vec![unchanged("/p/a", seen), unchanged("/p/b", seen)];
                seen = commit(&store, checks, vec![put("/p/a", &text), put("/p/b", &text)]).await;
            }
        })
    };
    let mut last = Revision(0);
    while !writer.is_finished() {
        let listing = list(store, "/p").await;
        let [a, b] = &listing.entries[..] else { panic!("two entries, always") };
        assert_eq!((&a.value, a.modified), (&b.value, b.modified));
        assert!(listing.revision >= a.modified && listing.revision >= last);
        last = listing.revision;
        tokio::task::yield_now().await;
    }
    writer.await.expect("the writer ends well");
}

/// Creates, replaces and deletes a few keys under `/p` in each task, in each other's way and beside commits elsewhere.
async fn churn(store: &Subject) {
    in_tasks(store, |store: Subject, task| async move {
        for round in 0..ROUNDS {
            let path = format!("/p/{}", round % 3 + task);
            let txn = match store.get(&key(&path)).await.expect("a read") {
                None => Txn::create(key(&path), Bytes::from(round.to_string())),
                Some(entry) if round % 5 == 0 => Txn::delete(entry.key, entry.modified),
                Some(entry) => Txn::replace(entry.key, entry.modified, Bytes::from(round.to_string())),
            };
            // Losing a race to another task is part of the load.
            let _: Result<Revision, Error> = store.commit(txn).await;
            increment(&store).await;
        }
    })
    .await;
}

/// What who follows a watch makes of what it tells.
#[derive(Debug)]
struct Cache(BTreeMap<Key, Entry>);

impl Cache {
    fn of(listing: Listing) -> Self {
        Self(listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect())
    }

    fn apply(&mut self, batch: Batch) {
        for change in batch.changes {
            match change {
                Change::Put(entry) => self.0.insert(entry.key.clone(), entry),
                Change::Delete(key) => self.0.remove(&key),
            };
        }
    }

    fn assert_as(&self, listing: &Listing) {
        assert!(self.0.values().eq(&listing.entries), "{self:?} is not {listing:?}");
    }
}

/// Law 4: a listing and the watch after it add up to any later listing.
pub async fn a_watch_under_load_rebuilds_the_listing(store: &Subject) {
    create(store, "/p/counter", "0").await;
    create(store, "/counter", "0").await;
    let listing = list(store, "/p").await;
    let mut watch = watch(store, "/p", listing.revision).await;
    churn(store).await;
    create(store, "/p/fence", "1").await;
    let end = list(store, "/p").await;
    let mut cache = Cache::of(listing);
    loop {
        let batch = next(&mut watch).await;
        let revision = batch.revision;
        cache.apply(batch);
        if revision == end.revision {
            break;
        }
    }
    cache.assert_as(&end);
}

/// Rule 20: who follows a watch holds, at equal revisions, what is listed; a cache can be checked so at any time.
pub async fn a_cache_holds_at_each_revision_what_is_listed(store: &Subject) {
    create(store, "/counter", "0").await;
    let mut listings = vec![list(store, "/p").await];
    let mut watch = watch(store, "/p", listings[0].revision).await;
    let load = {
        let store = store.clone();
        tokio::spawn(async move { churn(&store).await })
    };
    while !load.is_finished() {
        listings.push(list(store, "/p").await);
        tokio::task::yield_now().await;
    }
    load.await.expect("the load ends well");
    let created = create(store, "/p/gone", "1").await;
    listings.push(list(store, "/p").await);
    delete(store, "/p/gone", created).await;
    listings.push(list(store, "/p").await);
    let fence = create(store, "/p/fence", "1").await;
    listings.push(list(store, "/p").await);
    let mut cache = Cache::of(listings[0].clone());
    let mut due = listings.iter().peekable();
    loop {
        let batch = next(&mut watch).await;
        while let Some(listing) = due.next_if(|listing| listing.revision < batch.revision) {
            cache.assert_as(listing);
        }
        let revision = batch.revision;
        cache.apply(batch);
        if revision == fence {
            break;
        }
    }
    due.for_each(|listing| cache.assert_as(listing));
}

/// Rule 14: who waits for something rare is told of it in time, though others write without end, and one of those who watch
/// them has stopped to read.
pub async fn a_quiet_watch_is_not_starved(store: &Subject) {
    let start = revision(store).await;
    let mut quiet = watch(store, "/quiet", start).await;
    let mut stuck = watch(store, "/busy", start).await;
    let mut watchers = JoinSet::new();
    for task in 0..TASKS {
        let mut busy = watch(store, &format!("/busy/{task}"), start).await;
        // One that falls behind a short history has done its part.
        watchers.spawn(async move { while let Some(Ok(_)) = busy.next().await {} });
    }
    let (mut writers, left) = (JoinSet::new(), Arc::new(AtomicUsize::new(BUSY_COMMITS_MAX)));
    for task in 0..TASKS {
        writers.spawn(write_on(store.clone(), format!("/busy/{task}/a"), Arc::clone(&left)));
    }
    next(&mut stuck).await;
    for round in 0..QUIET_ROUNDS {
        left.store(BUSY_COMMITS_MAX, Ordering::Relaxed);
        let created = create(store, &format!("/quiet/{round}"), "1").await;
        match select(pin!(next(&mut quiet)), pin!(writers.join_next())).await {
            Either::Left((batch, _)) => assert_eq!(batch.revision, created),
            Either::Right((ended, _)) => panic!("{created} is not told, and others have come to their end: {ended:?}"),
        }
    }
    writers.shutdown().await;
    watchers.shutdown().await;
}

/// Writes to `path` again and again, until there are no commits `left`.
async fn write_on(store: Subject, path: String, left: Arc<AtomicUsize>) {
    let mut seen = create(&store, &path, "1").await;
    while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        seen = replace(&store, &path, seen, "1").await;
        tokio::task::yield_now().await;
    }
}

/// Rule 4.
pub async fn a_dropped_commit_happens_whole_or_not_at_all(store: &Subject) {
    for round in 0..ROUNDS {
        let (a, b) = (format!("/dropped/{round}/a"), format!("/dropped/{round}/b"));
        let txn = Txn { checks: vec![absent(&a), absent(&b)], ops: vec![put(&a, "1"), put(&b, "1")] };
        // One poll begins the commit; then its future is dropped.
        let _: Option<_> = store.commit(txn).now_or_never();
        create(store, &format!("/fence/{round}"), "1").await;
        let count = list(store, &format!("/dropped/{round}")).await.entries.len();
        assert!(count == 0 || count == 2, "half of a commit");
    }
}

/// Laws 1 to 5, whatever many callers ask at once.
pub async fn generated_histories_are_as_the_laws_allow(store: &Subject) {
    for seed in 0..HISTORIES {
        let log = Log::start(store).await.expect("a listing");
        let recorded: Subject = Arc::new(Recorded::new(store.clone(), log.clone()));
        Workload::seeded(seed).run(&recorded).await;
        if let Err(violation) = log.history().check() {
            panic!("in the history of seed {seed}, {violation}");
        }
    }
}
