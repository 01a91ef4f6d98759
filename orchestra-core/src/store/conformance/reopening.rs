//! What a store that keeps its data holds after it was closed, or killed, and opened again (SEMANTICS 1, 3, 4, 11, 15, 17).
//!
//! Damage is not tried here, for it is done to files, and the suite knows of none.

use std::{any::Any, collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::LocalBoxFuture};

use super::{
    super::{Error, Listing, Revision, Store, Txn},
    Subject,
    history::{Log, Recorded, Workload},
    steps::{absent, commit, conflict, create, delete, key, list, put, replace, revision, value, watch},
};

/// How often a store is opened again where once might be luck.
const ROUNDS: u64 = 4;

/// A store that a case may open again.
pub struct Reopenable<'a> {
    /// Always there, but while it is opened again.
    subject: Option<Subject>,
    reopen: Box<dyn Fn(Box<dyn Any>) -> LocalBoxFuture<'a, Subject> + 'a>,
}

impl<'a> Reopenable<'a> {
    pub(super) fn new<S, G, F>(subject: Subject, reopen: impl Fn(G) -> F + 'a) -> Self
    where
        S: Store,
        G: 'static,
        F: Future<Output = (S, G)> + 'a,
    {
        let reopen = move |guard: Box<dyn Any>| -> LocalBoxFuture<'a, Subject> {
            let guard = guard.downcast::<G>().expect("the guard is the one that the store was opened with");
            reopen(*guard).map(Subject::from).boxed_local()
        };
        Self { subject: Some(subject), reopen: Box::new(reopen) }
    }

    /// The store as it is open now. No clone may be left when it is opened again.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.subject.as_ref().expect("it is open").store
    }

    /// Drops the store and opens another on the same data.
    pub async fn reopen(&mut self) {
        let Subject { store, guard } = self.subject.take().expect("it is open");
        assert_eq!(Arc::strong_count(&store), 1, "somebody still has the store that is to be opened again");
        drop(store);
        self.subject = Some((self.reopen)(guard.expect("the store was opened with a guard")).await);
    }

    pub(super) fn into_subject(self) -> Subject {
        self.subject.expect("it is open")
    }
}

impl fmt::Debug for Reopenable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reopenable").field("subject", &self.subject).finish_non_exhaustive()
    }
}

/// Creates `count` keys in `folder` and returns the revisions.
async fn create_some(store: &Arc<dyn Store>, folder: &str, count: u64) -> Vec<Revision> {
    let mut revisions = Vec::new();
    for index in 0..count {
        revisions.push(create(store, &format!("/{folder}/{index}"), "1").await);
    }
    revisions
}

/// Rules 3 and 17: what was acknowledged is there, with its revisions, and nothing else is.
pub async fn a_reopened_store_is_the_one_that_was_closed(opened: &mut Reopenable<'_>) {
    let mut before = list(opened.store(), "/").await;
    for round in 0..ROUNDS {
        opened.reopen().await;
        assert_eq!(list(opened.store(), "/").await, before);
        let store = opened.store();
        let folder = format!("round-{round}");
        let created = create_some(store, &folder, 5).await;
        replace(store, &format!("/{folder}/1"), created[1], "2").await;
        delete(store, &format!("/{folder}/2"), created[2]).await;
        let bytes = Bytes::from_iter((0..=255_u8).cycle().take(100_000));
        store.commit(Txn::create(key(&format!("/{folder}/large")), bytes)).await.expect("a commit");
        before = list(store, "/").await;
    }
    opened.reopen().await;
    assert_eq!(list(opened.store(), "/").await, before);
}

/// Rules 1 and 17: what failed or changed nothing leaves nothing behind, in the revision either.
pub async fn the_revision_of_a_reopened_store_is_that_of_its_last_commit(opened: &mut Reopenable<'_>) {
    let last = create(opened.store(), "/p/a", "1").await;
    conflict(opened.store().commit(Txn::create(key("/p/a"), Bytes::from_static(b"2"))).await);
    commit(opened.store(), vec![absent("/p/b")], vec![]).await;
    for _ in 0..ROUNDS {
        opened.reopen().await;
        assert_eq!(revision(opened.store()).await, last);
    }
    assert_eq!(create(opened.store(), "/p/b", "1").await.0, last.0 + 1);
}

/// Rule 1: though no entry bears the last revisions any more. Who has seen one would take another's commit for it.
pub async fn a_revision_is_not_used_again_after_reopening(opened: &mut Reopenable<'_>) {
    let mut last = revision(opened.store()).await;
    for _ in 0..ROUNDS {
        let store = opened.store();
        let created = create(store, "/p/a", "1").await;
        assert_eq!(created.0, last.0 + 1);
        last = delete(store, "/p/a", created).await;
        opened.reopen().await;
        assert_eq!(revision(opened.store()).await, last);
        assert_eq!(list(opened.store(), "/").await, Listing { revision: last, entries: Vec::new() });
    }
}

/// Rules 1 and 15: the history that bears them is gone as well.
pub async fn a_revision_is_not_used_again_after_compaction_and_reopening(opened: &mut Reopenable<'_>) {
    let mut last = revision(opened.store()).await;
    for _ in 0..ROUNDS {
        let created = create(opened.store(), "/p/a", "1").await;
        assert_eq!(created.0, last.0 + 1);
        last = delete(opened.store(), "/p/a", created).await;
        opened.store().compact(last).await.expect("the store compacts");
        opened.reopen().await;
        assert_eq!(revision(opened.store()).await, last);
    }
}

/// Rule 6: a revision that was seen before is good for a check after, and a stale one still conflicts.
pub async fn a_revision_seen_before_reopening_is_good_after_it(opened: &mut Reopenable<'_>) {
    let stale = create(opened.store(), "/p/a", "1").await;
    let seen = replace(opened.store(), "/p/a", stale, "2").await;
    let gone = create(opened.store(), "/p/b", "1").await;
    delete(opened.store(), "/p/b", gone).await;
    opened.reopen().await;
    let store = opened.store();
    let refused = store.commit(Txn::replace(key("/p/a"), stale, Bytes::from_static(b"3"))).await;
    assert_eq!(conflict(refused), ("/p/a".to_owned(), Some(seen)));
    let refused = store.commit(Txn::delete(key("/p/b"), gone)).await;
    assert_eq!(conflict(refused), ("/p/b".to_owned(), None));
    replace(store, "/p/a", seen, "3").await;
    assert_eq!(value(store, "/p/a").await.as_deref(), Some("3"));
}

/// Expects a watch of `/p` after `after` to yield those of `revisions` that are later. If that is before `reopened`, when the
/// store was opened again, it may own up that it can't, with a floor from which on one does.
async fn yields_or_owns_up(store: &Arc<dyn Store>, mut after: Revision, revisions: &[Revision], reopened: Revision) {
    let mut told = watch(store, "/p", after).await;
    let later = |after| revisions[revisions.partition_point(|revision| *revision <= after)..].iter().peekable();
    let mut due = later(after);
    while let Some(next) = due.peek() {
        match told.next().await.expect("a watch does not end") {
            Ok(batch) if batch.changes.is_empty() => assert!(batch.revision < **next, "a bookmark ahead of {next}"),
            Ok(batch) => assert_eq!(Some(&batch.revision), due.next()),
            Err(Error::Compacted { floor }) => {
                assert!(
                    floor > after && floor <= reopened,
                    "told to begin at {floor}, not {after}: it is at {reopened}"
                );
                after = floor;
                told = watch(store, "/p", after).await;
                due = later(after);
            }
            Err(error) => panic!("expected a batch or Compacted, got {error:?}"),
        }
    }
}

/// Rule 11: it goes on without loss or repeat, or is told that it can't; never is it told old events, or fewer.
pub async fn a_watch_resumes_over_reopening(opened: &mut Reopenable<'_>) {
    let mut revisions = vec![revision(opened.store()).await];
    for round in 0..ROUNDS {
        let folder = format!("p/{round}");
        revisions.extend(create_some(opened.store(), &folder, 3).await);
        let first = revisions[revisions.len() - 3];
        revisions.push(delete(opened.store(), &format!("/{folder}/0"), first).await);
        opened.reopen().await;
        let reopened = revision(opened.store()).await;
        revisions.push(create(opened.store(), &format!("/{folder}/after"), "1").await);
        for after in &revisions {
            yields_or_owns_up(opened.store(), *after, &revisions, reopened).await;
        }
    }
}

/// Rule 15: what is forgotten may come back whole, but not in part; what is not forgotten stays whole.
pub async fn compaction_and_reopening_leave_no_gap_in_a_watch(opened: &mut Reopenable<'_>) {
    let mut revisions = vec![revision(opened.store()).await];
    for round in 0..ROUNDS {
        revisions.extend(create_some(opened.store(), &format!("p/{round}"), 6).await);
        let floor = revisions[revisions.len() - 3];
        opened.store().compact(floor).await.expect("the store compacts");
        opened.reopen().await;
        opened.store().compact(floor).await.expect("the store compacts again");
        let reopened = revision(opened.store()).await;
        revisions.push(create(opened.store(), &format!("/p/{round}/after"), "1").await);
        for after in &revisions {
            yields_or_owns_up(opened.store(), *after, &revisions, reopened).await;
        }
    }
}

/// Rule 11: a watch from a revision of before waits for what comes after it, and takes nothing older for it.
pub async fn a_watch_on_a_future_revision_waits_over_reopening(opened: &mut Reopenable<'_>) {
    let start = revision(opened.store()).await;
    create_some(opened.store(), "p/before", 2).await;
    opened.reopen().await;
    let mut told = watch(opened.store(), "/p", Revision(start.0 + 4)).await;
    let created = create_some(opened.store(), "p/after", 4).await;
    let batch = loop {
        let batch = told.next().await.expect("a watch does not end").expect("the watch goes on");
        assert!(batch.revision.0 >= start.0 + 4, "{} is not after {start} and four more", batch.revision);
        if !batch.changes.is_empty() {
            break batch;
        }
    };
    assert_eq!(batch.revision, created[2]);
}

/// Rules 4 and 17: a commit that was begun and dropped just before is there whole or not at all, once, and is no more to come.
pub async fn an_unanswered_commit_has_happened_whole_or_not_at_all(opened: &mut Reopenable<'_>) {
    for round in 0..ROUNDS {
        let acknowledged = create(opened.store(), &format!("/fence/{round}"), "1").await;
        for number in 0..5 {
            let (a, b) = (format!("/{round}/{number}/a"), format!("/{round}/{number}/b"));
            let txn = Txn { checks: vec![absent(&a), absent(&b)], ops: vec![put(&a, "1"), put(&b, "1")] };
            // One poll begins the commit; then its future is dropped.
            let _: Option<_> = opened.store().commit(txn).now_or_never();
        }
        opened.reopen().await;
        assert!(value(opened.store(), &format!("/fence/{round}")).await.is_some(), "what was acknowledged is gone");
        let listing = list(opened.store(), &format!("/{round}")).await;
        let mut of_commits: BTreeMap<Revision, usize> = BTreeMap::new();
        for entry in &listing.entries {
            assert_eq!((entry.created, entry.value.as_ref()), (entry.modified, &b"1"[..]));
            *of_commits.entry(entry.modified).or_default() += 1;
        }
        assert!(of_commits.values().all(|count| *count == 2), "half of a commit in {listing:?}");
        // None of their revisions is one that was acknowledged, and there are no others.
        let expected = (acknowledged.0 + 1..=listing.revision.0).map(Revision);
        assert!(of_commits.into_keys().eq(expected), "{listing:?} after {acknowledged}");
        let next = create(opened.store(), &format!("/fence/{round}-after"), "1").await;
        assert_eq!(next.0, listing.revision.0 + 1, "something came later");
    }
}

/// Laws 1 to 5, whatever many callers ask before and after (SEMANTICS 1, 2, 4, 11, 17).
pub async fn generated_histories_go_on_over_reopening(opened: &mut Reopenable<'_>) {
    let log = Log::start(opened.store()).await.expect("a listing");
    for seed in 0..ROUNDS {
        let recorded: Arc<dyn Store> = Arc::new(Recorded::new(Arc::clone(opened.store()), log.clone()));
        Workload { drops_percent: 5, ..Workload::seeded(seed) }.run(&recorded).await;
        drop(recorded);
        opened.reopen().await;
    }
    let recorded: Arc<dyn Store> = Arc::new(Recorded::new(Arc::clone(opened.store()), log.clone()));
    Workload::seeded(ROUNDS).run(&recorded).await;
    if let Err(violation) = log.history().check() {
        panic!("{violation}");
    }
}
