//! Law 4: no gap, no repeat (SEMANTICS 3, 10–14).

use futures::{FutureExt as _, StreamExt as _};

use super::{
    super::{Change, Revision, Txn},
    steps::{
        Subject, absent, changed_paths, commit, conflict, create, delete, delete_op, is_delete_of, key, list, next,
        put, replace, revision, unchanged, value, watch, yields,
    },
};

/// Creates `count` keys under `/p/` and returns the revisions.
async fn create_some(store: &Subject, name: &str, count: usize) -> Vec<Revision> {
    let mut revisions = Vec::new();
    for index in 0..count {
        revisions.push(create(store, &format!("/p/{name}-{index}"), "1").await);
    }
    revisions
}

/// Law 4, as it is written.
pub async fn a_watch_from_a_listing_yields_every_later_commit(store: &Subject) {
    create_some(store, "before", 3).await;
    let listing = list(store, "/p").await;
    let mut watch = watch(store, "/p", listing.revision).await;
    let after = create_some(store, "after", 5).await;
    yields(&mut watch, &after).await;
}

/// Rule 10: later means later.
pub async fn a_watch_does_not_repeat_what_it_starts_after(store: &Subject) {
    let revisions = create_some(store, "a", 3).await;
    let mut watch = watch(store, "/p", revisions[1]).await;
    assert_eq!(next(&mut watch).await.revision, revisions[2]);
}

/// Rule 11.
pub async fn a_watch_from_the_past_yields_history_first(store: &Subject) {
    let start = revision(store).await;
    let mut expected = create_some(store, "past", 4).await;
    let mut watch = watch(store, "/p", start).await;
    expected.extend(create_some(store, "present", 4).await);
    yields(&mut watch, &expected).await;
}

/// Rule 11: revision 0 is before the first, not "now".
pub async fn a_watch_from_before_everything_yields_everything(store: &Subject) {
    let expected = create_some(store, "a", 3).await;
    let mut watch = watch(store, "/p", Revision(0)).await;
    yields(&mut watch, &expected).await;
}

/// Rules 10 and 13.
pub async fn a_batch_holds_one_whole_commit_in_key_order(store: &Subject) {
    let gone = create(store, "/p/gone", "1").await;
    let mut watch = watch(store, "/p", gone).await;
    let checks = vec![absent("/p/z"), absent("/p/a"), unchanged("/p/gone", gone)];
    let at = commit(store, checks, vec![put("/p/z", "1"), delete_op("/p/gone"), put("/p/a", "2")]).await;
    let batch = next(&mut watch).await;
    assert_eq!(batch.revision, at);
    assert_eq!(changed_paths(&batch), ["/p/a", "/p/gone", "/p/z"]);
    let Change::Put(entry) = &batch.changes[0] else { panic!("a put comes as a put") };
    assert_eq!((entry.value.as_ref(), entry.created, entry.modified), (&b"2"[..], at, at));
}

/// Rules 9 and 10: the rest of a commit is not the watch's business.
pub async fn a_watch_yields_only_what_is_under_its_prefix(store: &Subject) {
    let start = revision(store).await;
    let mut watch = watch(store, "/p", start).await;
    create(store, "/pq/a", "1").await;
    create(store, "/p", "1").await;
    let checks = vec![absent("/o/a"), absent("/p/a"), absent("/q/a")];
    let at = commit(store, checks, vec![put("/o/a", "1"), put("/p/a", "1"), put("/q/a", "1")]).await;
    let batch = next(&mut watch).await;
    assert_eq!((batch.revision, changed_paths(&batch)), (at, vec!["/p/a"]));
}

/// Rule 10.
pub async fn a_deletion_is_yielded(store: &Subject) {
    let created = create(store, "/p/a", "1").await;
    let mut watch = watch(store, "/p", created).await;
    let deleted = delete(store, "/p/a", created).await;
    create(store, "/p/fence", "1").await;
    let batch = next(&mut watch).await;
    assert_eq!(batch.revision, deleted);
    assert!(is_delete_of(&batch.changes[0], "/p/a"));
}

/// Rule 10: exactly the events.
pub async fn what_failed_or_changed_nothing_is_not_yielded(store: &Subject) {
    let created = create(store, "/p/a", "1").await;
    let mut watch = watch(store, "/p", created).await;
    conflict(store.commit(Txn::create(key("/p/a"), "2".into())).await);
    commit(store, vec![absent("/p/b")], vec![delete_op("/p/b")]).await;
    commit(store, vec![], vec![]).await;
    let fence = create(store, "/p/fence", "1").await;
    assert_eq!(next(&mut watch).await.revision, fence);
}

/// Rule 11.
pub async fn a_watch_resumes_after_any_batch(store: &Subject) {
    let start = revision(store).await;
    let revisions = create_some(store, "a", 6).await;
    let mut first = watch(store, "/p", start).await;
    for (index, expected) in revisions.iter().enumerate() {
        let batch = next(&mut first).await;
        assert_eq!(batch.revision, *expected);
        let mut resumed = watch(store, "/p", batch.revision).await;
        yields(&mut resumed, &revisions[index + 1..]).await;
    }
}

/// Rules 11 and 12: nothing at or before the revision asked for, and no bookmark before the store has come there, or ahead of
/// what it covers.
pub async fn a_watch_on_a_future_revision_waits_for_what_follows_it(store: &Subject) {
    let start = revision(store).await;
    let future = Revision(start.0 + 3);
    let mut watch = watch(store, "/p", future).await;
    let mut revisions = Vec::new();
    for name in ["a", "b"] {
        let early = watch.next().now_or_never();
        assert!(early.is_none(), "before {future} there is nothing to say, but it says {early:?}");
        revisions.extend(create_some(store, name, 1).await);
    }
    revisions.extend(create_some(store, "c", 3).await);
    let mut expected = revisions.into_iter().filter(|revision| *revision > future).peekable();
    while let Some(due) = expected.peek() {
        let batch = watch.next().await.expect("a watch does not end").expect("the watch goes on");
        if batch.changes.is_empty() {
            assert!((future..*due).contains(&batch.revision), "a bookmark of {}, with {due} due", batch.revision);
        } else {
            assert_eq!(Some(batch.revision), expected.next());
        }
    }
}

/// Rules 10 and 12: strictly for changes; a bookmark may repeat where the watch is.
pub async fn revisions_of_a_watch_only_rise(store: &Subject) {
    let start = revision(store).await;
    let mut watch = watch(store, "/p", start).await;
    for index in 0..40 {
        create(store, &format!("/q/{index}"), "1").await;
        create(store, &format!("/p/{index}"), "1").await;
    }
    let (mut last, mut seen) = (start, 0);
    while seen < 40 {
        let batch = watch.next().await.expect("a watch does not end").expect("the watch goes on");
        if batch.changes.is_empty() {
            assert!(batch.revision >= last);
        } else {
            assert!(batch.revision > last);
            seen += 1;
        }
        last = batch.revision;
    }
}

/// Rule 12: whatever a bookmark covers has been yielded.
pub async fn a_bookmark_is_not_ahead_of_the_changes(store: &Subject) {
    let start = revision(store).await;
    let expected = create_some(store, "a", 30).await;
    let mut watch = watch(store, "/p", start).await;
    let mut yielded = Vec::new();
    while yielded.len() < expected.len() {
        let batch = watch.next().await.expect("a watch does not end").expect("the watch goes on");
        if batch.changes.is_empty() {
            let covered = expected.iter().filter(|revision| **revision <= batch.revision).count();
            assert_eq!(yielded.len(), covered);
        } else {
            yielded.push(batch.revision);
        }
    }
    assert_eq!(yielded, expected);
}

/// Rule 10.
pub async fn two_watches_yield_the_same(store: &Subject) {
    let start = revision(store).await;
    let mut one = watch(store, "/p", start).await;
    let mut other = watch(store, "/p", start).await;
    create_some(store, "a", 10).await;
    for _ in 0..10 {
        assert_eq!(next(&mut one).await, next(&mut other).await);
    }
}

/// Rule 14: a reader that takes its time delays no writer, and loses nothing that is still history.
pub async fn a_watch_that_lags_loses_nothing(store: &Subject) {
    let mut seen = create(store, "/p/a", "0").await;
    let mut watch = watch(store, "/p", seen).await;
    let mut expected = Vec::new();
    for round in 0..500 {
        seen = replace(store, "/p/a", seen, &round.to_string()).await;
        expected.push(seen);
    }
    yields(&mut watch, &expected).await;
}

/// Rule 14.
pub async fn dropping_a_watch_disturbs_no_other(store: &Subject) {
    let start = revision(store).await;
    let dropped = watch(store, "/p", start).await;
    let mut kept = watch(store, "/p", start).await;
    let first = create(store, "/p/a", "1").await;
    drop(dropped);
    let second = create(store, "/p/b", "1").await;
    yields(&mut kept, &[first, second]).await;
}

/// Rules 3 and 5: news is never older in a read than in a watch.
pub async fn what_a_watch_has_told_a_read_shows(store: &Subject) {
    let start = create(store, "/p/a", "0").await;
    let mut watch = watch(store, "/p", start).await;
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut seen = start;
            for round in 1..50 {
                seen = replace(&store, "/p/a", seen, &round.to_string()).await;
            }
        })
    };
    for round in 1..50 {
        let batch = next(&mut watch).await;
        assert!(revision(store).await >= batch.revision);
        let read: u32 = value(store, "/p/a").await.and_then(|text| text.parse().ok()).expect("a number");
        assert!(read >= round);
    }
    writer.await.expect("the writer ends well");
}
