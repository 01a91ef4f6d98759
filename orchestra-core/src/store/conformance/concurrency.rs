//! Laws 1 to 4 with many at work at once (SEMANTICS 2, 4, 10).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use futures::{FutureExt as _, future::join_all};

use super::{
    super::{Change, Entry, Error, Key, Revision, Txn},
    history::{Log, Recorded, Workload},
    steps::{Subject, absent, commit, create, key, list, next, put, revision, unchanged, value, watch},
};

const TASKS: usize = 8;
const ROUNDS: usize = 25;
const HISTORIES: u64 = 10;

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

/// Law 4: a listing and the watch after it add up to any later listing.
pub async fn a_watch_under_load_rebuilds_the_listing(store: &Subject) {
    create(store, "/p/counter", "0").await;
    create(store, "/counter", "0").await;
    let listing = list(store, "/p").await;
    let mut watch = watch(store, "/p", listing.revision).await;
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
    create(store, "/p/fence", "1").await;
    let end = list(store, "/p").await;
    let mut rebuilt: BTreeMap<Key, Entry> =
        listing.entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect();
    loop {
        let batch = next(&mut watch).await;
        for change in batch.changes {
            match change {
                Change::Put(entry) => rebuilt.insert(entry.key.clone(), entry),
                Change::Delete(key) => rebuilt.remove(&key),
            };
        }
        if batch.revision == end.revision {
            break;
        }
    }
    assert!(rebuilt.into_values().eq(end.entries));
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
