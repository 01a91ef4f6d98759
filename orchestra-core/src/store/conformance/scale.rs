//! What holds of a few holds of many, of the largest, and of the last (SEMANTICS 2, 6, 8–10, 14, 19).

use bytes::Bytes;
use futures::future::join_all;

use super::{
    super::{Change, KEY_BYTES_MAX, Op, Revision, TXN_OPS_MAX, Txn},
    steps::{
        Subject, absent, changed_paths, commit, conflict, create, key, list, next, put, replace, revision, unchanged,
        watch, yields,
    },
};

/// Rule 14: however far behind it is, a watch drops nothing that is still history.
pub async fn a_watch_that_is_far_behind_loses_nothing(store: &Subject) {
    const ROUNDS: usize = 60;
    const AT_ONCE: usize = 50;
    let mut watch = watch(store, "/p", revision(store).await).await;
    let mut expected = Vec::new();
    for round in 0..ROUNDS {
        let paths: Vec<String> = (0..AT_ONCE).map(|at| format!("/p/{round}-{at}")).collect();
        expected.extend(join_all(paths.iter().map(|path| create(store, path, "1"))).await);
    }
    expected.sort();
    yields(&mut watch, &expected).await;
}

/// Rule 14: nobody goes without because there are many.
pub async fn each_of_many_watches_yields_everything(store: &Subject) {
    let start = revision(store).await;
    let mut watches = Vec::new();
    for _ in 0..100 {
        watches.push(watch(store, "/p", start).await);
    }
    let mut expected = vec![create(store, "/p/a", "1").await];
    expected.push(replace(store, "/p/a", expected[0], "2").await);
    for watch in &mut watches {
        yields(watch, &expected).await;
    }
}

/// Rules 10 and 13: a commit of as many changes as there may be is one batch.
pub async fn the_largest_commit_is_one_batch(store: &Subject) {
    let mut watch = watch(store, "/p", revision(store).await).await;
    let paths: Vec<String> = (0..TXN_OPS_MAX).map(|at| format!("/p/{at:03}")).collect();
    let checks = paths.iter().map(|path| absent(path)).collect();
    let committed = commit(store, checks, paths.iter().map(|path| put(path, "1")).collect()).await;
    let batch = next(&mut watch).await;
    assert_eq!((batch.revision, changed_paths(&batch)), (committed, paths.iter().map(String::as_str).collect()));
}

/// Law 2, rule 6: the last of as many checks as there may be counts like the first.
pub async fn the_last_of_many_checks_counts(store: &Subject) {
    let there = create(store, "/p/there", "1").await;
    let mut checks: Vec<_> = (1..TXN_OPS_MAX).map(|at| absent(&format!("/p/{at:03}"))).collect();
    checks.push(unchanged("/p/there", Revision(there.0 + 1)));
    // What isn't checked can't be written.
    let ops: Vec<Op> = vec![put("/p/001", "2")];
    let refused = store.commit(Txn { checks: checks.clone(), ops: ops.clone() }).await;
    assert_eq!(conflict(refused), ("/p/there".into(), Some(there)));
    checks.pop();
    checks.push(unchanged("/p/there", there));
    commit(store, checks, ops).await;
}

/// Rule 6: no key was written by revision 0, one that is absent neither.
pub async fn revision_zero_is_nobodys(store: &Subject) {
    let never = || unchanged("/p/a", Revision(0));
    let refused = store.commit(Txn { checks: vec![never()], ops: vec![put("/p/a", "1")] }).await;
    assert_eq!(conflict(refused), ("/p/a".into(), None));
    let there = create(store, "/p/a", "1").await;
    let refused = store.commit(Txn { checks: vec![never()], ops: vec![put("/p/a", "2")] }).await;
    assert_eq!(conflict(refused), ("/p/a".into(), Some(there)));
}

/// Rules 9 and 10: a prefix may have many segments.
pub async fn a_deep_prefix_is_listed_and_watched(store: &Subject) {
    let start = revision(store).await;
    let mut deep = watch(store, "/a/b/c", start).await;
    create(store, "/a/b/x", "1").await;
    create(store, "/a/b/cc/d", "1").await;
    let below = [create(store, "/a/b/c/d", "1").await, create(store, "/a/b/c/e/f", "1").await];
    yields(&mut deep, &below).await;
    let listing = list(store, "/a/b/c").await;
    let listed: Vec<&str> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(listed, ["/a/b/c/d", "/a/b/c/e/f"]);
}

/// Rules 8, 10 and 19: what is large is watched and listed whole; together it is larger than any one message of a protocol.
pub async fn the_largest_values_are_watched_and_listed(store: &Subject, value_bytes_max: usize) {
    const VALUES: usize = 8;
    let mut watch = watch(store, "/large", revision(store).await).await;
    let value = Bytes::from(vec![b'x'; value_bytes_max]);
    for at in 0..VALUES {
        let key = key(&format!("/large/{at}"));
        let written = store.commit(Txn::create(key, value.clone())).await.expect("a commit");
        let batch = next(&mut watch).await;
        assert_eq!(batch.revision, written);
        assert!(matches!(&batch.changes[..], [Change::Put(entry)] if entry.value == value), "value {at} is another");
    }
    let listing = list(store, "/large").await;
    assert_eq!(listing.entries.len(), VALUES);
    assert!(listing.entries.iter().all(|entry| entry.value == value), "a value is another in the listing");
}

/// Rules 10 and 19: a little less than [`KEY_BYTES_MAX`], as a wrapper may add something to each key.
pub async fn a_long_key_is_watched(store: &Subject) {
    let path = format!("/p/{}", "k".repeat(KEY_BYTES_MAX * 7 / 8));
    let mut watch = watch(store, "/p", revision(store).await).await;
    let created = create(store, &path, "1").await;
    let batch = next(&mut watch).await;
    assert_eq!((batch.revision, changed_paths(&batch)), (created, vec![path.as_str()]));
}
