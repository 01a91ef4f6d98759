//! Laws 1 and 2: order, and all or nothing (SEMANTICS 1, 2, 5, 6).

use bytes::Bytes;

use super::{
    super::{TXN_OPS_MAX, Txn},
    steps::{
        Subject, absent, commit, conflict, create, delete, delete_op, key, list, put, replace, revision, unchanged,
        value,
    },
};

/// Rule 1: revisions begin at 1, so that 0 is free to mean "any".
pub async fn an_empty_store_has_a_revision(store: &Subject) {
    assert!(revision(store).await.0 >= 1);
}

/// Rules 1 and 5.
pub async fn each_commit_takes_the_next_revision(store: &Subject) {
    let start = revision(store).await;
    let created = create(store, "/a", "1").await;
    assert_eq!(created.0, start.0 + 1);
    let replaced = replace(store, "/a", created, "2").await;
    assert_eq!(replaced.0, start.0 + 2);
    let deleted = delete(store, "/a", replaced).await;
    assert_eq!(deleted.0, start.0 + 3);
    assert_eq!(revision(store).await, deleted);
}

/// Rule 6.
pub async fn a_create_stamps_the_entry_with_its_commit(store: &Subject) {
    let created = create(store, "/a", "1").await;
    let entry = store.get(&key("/a")).await.expect("a read").expect("an entry");
    assert_eq!((entry.created, entry.modified), (created, created));
    assert_eq!(entry.key, key("/a"));
}

/// Rule 6.
pub async fn a_replace_keeps_the_revision_of_creation(store: &Subject) {
    let created = create(store, "/a", "1").await;
    let replaced = replace(store, "/a", created, "2").await;
    let entry = store.get(&key("/a")).await.expect("a read").expect("an entry");
    assert_eq!((entry.created, entry.modified), (created, replaced));
}

/// Rule 6.
pub async fn a_key_created_again_has_a_new_revision_of_creation(store: &Subject) {
    let created = create(store, "/a", "1").await;
    delete(store, "/a", created).await;
    let again = create(store, "/a", "2").await;
    let entry = store.get(&key("/a")).await.expect("a read").expect("an entry");
    assert_eq!(entry.created, again);
}

/// Rule 6.
pub async fn a_create_of_a_present_key_conflicts(store: &Subject) {
    let created = create(store, "/a", "1").await;
    let result = store.commit(Txn::create(key("/a"), Bytes::from_static(b"2"))).await;
    assert_eq!(conflict(result), ("/a".to_owned(), Some(created)));
    assert_eq!(value(store, "/a").await.as_deref(), Some("1"));
}

/// Rule 6.
pub async fn a_replace_of_what_was_replaced_conflicts(store: &Subject) {
    let created = create(store, "/a", "1").await;
    let replaced = replace(store, "/a", created, "2").await;
    let result = store.commit(Txn::replace(key("/a"), created, Bytes::from_static(b"3"))).await;
    assert_eq!(conflict(result), ("/a".to_owned(), Some(replaced)));
    assert_eq!(value(store, "/a").await.as_deref(), Some("2"));
}

/// Rule 6: a conflict on an absent key says that it is absent.
pub async fn a_replace_of_an_absent_key_conflicts(store: &Subject) {
    let start = revision(store).await;
    let result = store.commit(Txn::replace(key("/a"), start, Bytes::from_static(b"1"))).await;
    assert_eq!(conflict(result), ("/a".to_owned(), None));
    assert_eq!(value(store, "/a").await, None);
}

/// Rule 6.
pub async fn a_delete_of_what_was_replaced_conflicts(store: &Subject) {
    let created = create(store, "/a", "1").await;
    let replaced = replace(store, "/a", created, "2").await;
    let result = store.commit(Txn::delete(key("/a"), created)).await;
    assert_eq!(conflict(result), ("/a".to_owned(), Some(replaced)));
    assert_eq!(value(store, "/a").await.as_deref(), Some("2"));
}

/// Rule 1: as no revision is used twice, no value is mistaken for an earlier equal one.
pub async fn a_value_that_went_and_came_back_is_not_the_one_seen(store: &Subject) {
    let seen = create(store, "/a", "1").await;
    delete(store, "/a", seen).await;
    let again = create(store, "/a", "1").await;
    let result = store.commit(Txn::delete(key("/a"), seen)).await;
    assert_eq!(conflict(result), ("/a".to_owned(), Some(again)));
}

/// Law 2.
pub async fn a_failed_check_applies_nothing(store: &Subject) {
    create(store, "/taken", "1").await;
    let txn = Txn {
        checks: vec![absent("/a"), absent("/taken"), absent("/b")],
        ops: vec![put("/a", "2"), put("/taken", "2"), put("/b", "2")],
    };
    conflict(store.commit(txn).await);
    let listing = list(store, "/").await;
    assert_eq!(listing.entries.len(), 1);
    assert_eq!(value(store, "/taken").await.as_deref(), Some("1"));
}

/// Rule 1.
pub async fn a_failed_commit_takes_no_revision(store: &Subject) {
    let created = create(store, "/a", "1").await;
    conflict(store.commit(Txn::create(key("/a"), Bytes::from_static(b"2"))).await);
    assert_eq!(revision(store).await, created);
    assert_eq!(create(store, "/b", "1").await.0, created.0 + 1);
}

/// Rule 6.
pub async fn a_conflict_names_the_first_failed_check(store: &Subject) {
    let b = create(store, "/b", "1").await;
    create(store, "/a", "1").await;
    let txn = Txn { checks: vec![absent("/free"), absent("/b"), absent("/a")], ops: vec![put("/free", "1")] };
    assert_eq!(conflict(store.commit(txn).await), ("/b".to_owned(), Some(b)));
}

/// Law 2: a move is one transaction.
pub async fn checks_see_the_state_before_the_commit(store: &Subject) {
    let seen = create(store, "/from", "1").await;
    let checks = vec![unchanged("/from", seen), absent("/to")];
    commit(store, checks, vec![delete_op("/from"), put("/to", "1")]).await;
    assert_eq!(value(store, "/from").await, None);
    assert_eq!(value(store, "/to").await.as_deref(), Some("1"));
}

/// Rule 6: what a decision rests on need not be what it writes.
pub async fn a_check_guards_the_writes_of_other_keys(store: &Subject) {
    let seen = create(store, "/guard", "1").await;
    commit(store, vec![unchanged("/guard", seen), absent("/a")], vec![put("/a", "1")]).await;
    let moved = replace(store, "/guard", seen, "2").await;
    let txn = Txn { checks: vec![unchanged("/guard", seen), absent("/b")], ops: vec![put("/b", "1")] };
    assert_eq!(conflict(store.commit(txn).await), ("/guard".to_owned(), Some(moved)));
    assert_eq!(value(store, "/b").await, None);
}

/// Laws 1 and 2.
pub async fn the_largest_transaction_commits_at_one_revision(store: &Subject) {
    let paths: Vec<String> = (0..TXN_OPS_MAX).map(|index| format!("/many/{index:03}")).collect();
    let checks = paths.iter().map(|path| absent(path)).collect();
    let at = commit(store, checks, paths.iter().map(|path| put(path, "1")).collect()).await;
    let listing = list(store, "/many").await;
    assert_eq!(listing.entries.len(), TXN_OPS_MAX);
    assert_eq!(listing.revision, at);
    assert!(listing.entries.iter().all(|entry| entry.modified == at && entry.created == at));
}

/// Rule 1: no write, no revision.
pub async fn deleting_an_absent_key_changes_nothing(store: &Subject) {
    let before = create(store, "/other", "1").await;
    assert_eq!(commit(store, vec![absent("/a")], vec![delete_op("/a")]).await, before);
    assert_eq!(revision(store).await, before);
}

/// Rule 1: no write, no revision; but the checks are made.
pub async fn a_transaction_without_writes_changes_nothing(store: &Subject) {
    let before = create(store, "/a", "1").await;
    assert_eq!(commit(store, vec![unchanged("/a", before)], vec![]).await, before);
    assert_eq!(commit(store, vec![], vec![]).await, before);
    conflict(store.commit(Txn { checks: vec![absent("/a")], ops: vec![] }).await);
    assert_eq!(revision(store).await, before);
}

/// Rule 1: the store does not look into values; who wants no event for no difference compares first.
pub async fn a_put_of_the_same_value_is_a_change(store: &Subject) {
    let created = create(store, "/a", "1").await;
    let replaced = replace(store, "/a", created, "1").await;
    assert_eq!(replaced.0, created.0 + 1);
}
