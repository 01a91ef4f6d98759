//! Law 5: honest forgetting (SEMANTICS 11, 15).

use futures::StreamExt as _;

use super::{
    super::{Error, Revision},
    steps::{Subject, create, delete, is_delete_of, list, next, paths, replace, revision, value, watch, yields},
};

async fn compact(store: &Subject, floor: Revision) {
    store.compact(floor).await.expect("the store compacts");
}

/// Replaces `/p/a` `count` times and returns the revisions, the creation first.
async fn write_some(store: &Subject, count: usize) -> Vec<Revision> {
    let mut revisions = vec![create(store, "/p/a", "0").await];
    for round in 1..=count {
        let seen = *revisions.last().expect("there is a first");
        revisions.push(replace(store, "/p/a", seen, &round.to_string()).await);
    }
    revisions
}

/// Law 5.
pub async fn a_watch_from_before_the_floor_fails_as_its_last_item(store: &Subject) {
    let revisions = write_some(store, 10).await;
    compact(store, revisions[8]).await;
    let mut watch = watch(store, "/p", revisions[2]).await;
    let item = watch.next().await.expect("an item");
    assert!(matches!(item, Err(Error::Compacted { .. })), "expected Compacted, got {item:?}");
    assert!(watch.next().await.is_none());
}

/// Rule 15.
pub async fn a_watch_from_the_floor_loses_nothing(store: &Subject) {
    let revisions = write_some(store, 10).await;
    compact(store, revisions[5]).await;
    let mut watch = watch(store, "/p", revisions[5]).await;
    yields(&mut watch, &revisions[6..]).await;
}

/// Rule 11: the error says where to go on.
pub async fn the_floor_told_is_one_to_watch_from(store: &Subject) {
    let revisions = write_some(store, 10).await;
    compact(store, revisions[5]).await;
    let mut early = watch(store, "/p", revisions[0]).await;
    let Some(Err(Error::Compacted { floor })) = early.next().await else { panic!("expected Compacted") };
    assert!(floor > revisions[0] && floor <= revisions[5]);
    let mut resumed = watch(store, "/p", floor).await;
    let expected: Vec<Revision> = revisions.into_iter().filter(|revision| *revision > floor).collect();
    yields(&mut resumed, &expected).await;
}

/// Rule 15.
pub async fn compaction_keeps_entries_and_revision(store: &Subject) {
    let revisions = write_some(store, 3).await;
    let before = list(store, "/").await;
    compact(store, revisions[3]).await;
    assert_eq!(list(store, "/").await, before);
    assert_eq!(revision(store).await, revisions[3]);
}

/// Rule 15.
pub async fn compaction_twice_is_as_once(store: &Subject) {
    let revisions = write_some(store, 6).await;
    compact(store, revisions[3]).await;
    compact(store, revisions[3]).await;
    let mut watch = watch(store, "/p", revisions[3]).await;
    yields(&mut watch, &revisions[4..]).await;
}

/// Rule 15: what is forgotten stays so.
pub async fn a_lower_floor_brings_nothing_back(store: &Subject) {
    let revisions = write_some(store, 6).await;
    compact(store, revisions[5]).await;
    compact(store, revisions[1]).await;
    let mut early = watch(store, "/p", revisions[1]).await;
    assert!(matches!(early.next().await, Some(Err(Error::Compacted { .. }))));
    let mut late = watch(store, "/p", revisions[5]).await;
    assert_eq!(next(&mut late).await.revision, revisions[6]);
}

/// The floor is lowered to the present, and takes no revision that is to come.
pub async fn a_floor_in_the_future_is_the_present(store: &Subject) {
    let revisions = write_some(store, 2).await;
    let present = revisions[2];
    compact(store, Revision(present.0 + 100)).await;
    assert_eq!(revision(store).await, present);
    let mut watch = watch(store, "/p", present).await;
    let created = create(store, "/p/b", "1").await;
    assert_eq!(created.0, present.0 + 1);
    assert_eq!(next(&mut watch).await.revision, created);
}

/// Rule 15: who has everything misses nothing.
pub async fn a_watch_that_has_caught_up_outlives_compaction(store: &Subject) {
    let revisions = write_some(store, 3).await;
    let mut watch = watch(store, "/p", revisions[2]).await;
    assert_eq!(next(&mut watch).await.revision, revisions[3]);
    for index in 0..20 {
        let created = create(store, &format!("/p/{index}"), "1").await;
        assert_eq!(next(&mut watch).await.revision, created);
        compact(store, created).await;
    }
}

/// Rule 15: etcd 3.4.23 silently skips this deletion.
pub async fn a_deletion_at_the_floor_is_yielded_or_owned_up_to(store: &Subject) {
    let created = create(store, "/p/a", "1").await;
    let before = create(store, "/p/b", "1").await;
    let deleted = delete(store, "/p/a", created).await;
    create(store, "/p/c", "1").await;
    compact(store, deleted).await;
    let mut watch = watch(store, "/p", before).await;
    match watch.next().await.expect("an item") {
        Ok(batch) => {
            assert_eq!(batch.revision, deleted);
            assert!(is_delete_of(&batch.changes[0], "/p/a"));
        }
        Err(error) => assert!(matches!(error, Error::Compacted { .. }), "expected Compacted, got {error:?}"),
    }
    assert_eq!(paths(&list(store, "/p").await), ["/p/b", "/p/c"]);
}

/// Rules 10 and 14: what comes before the error is a gapless beginning.
pub async fn a_watch_overtaken_by_compaction_leaves_no_gap(store: &Subject) {
    let start = revision(store).await;
    let mut watch = watch(store, "/p", start).await;
    let revisions = write_some(store, 200).await;
    compact(store, revisions[200]).await;
    let mut yielded = Vec::new();
    while yielded.len() < revisions.len() {
        match watch.next().await.expect("no end without an error") {
            Ok(batch) if batch.changes.is_empty() => {}
            Ok(batch) => yielded.push(batch.revision),
            Err(error) => {
                assert!(matches!(error, Error::Compacted { .. }), "expected Compacted, got {error:?}");
                break;
            }
        }
    }
    assert_eq!(yielded, revisions[..yielded.len()]);
    assert_eq!(value(store, "/p/a").await.as_deref(), Some("200"));
}
