//! Short words for what the cases do; each panics where the store does not do as asked.

use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;

use super::super::{Batch, Change, Check, Error, Key, Listing, Op, Prefix, Revision, Store, Txn, Watch};

pub(super) type Subject = Arc<dyn Store>;

pub(super) fn key(path: &str) -> Key {
    Key::parse(path).expect("a valid key")
}

pub(super) fn prefix(path: &str) -> Prefix {
    Prefix::new(path.split('/').filter(|segment| !segment.is_empty())).expect("a valid prefix")
}

pub(super) fn absent(path: &str) -> Check {
    Check::Absent(key(path))
}

pub(super) fn unchanged(path: &str, seen: Revision) -> Check {
    Check::Unchanged(key(path), seen)
}

pub(super) fn put(path: &str, value: &str) -> Op {
    Op::Put(key(path), Bytes::copy_from_slice(value.as_bytes()))
}

pub(super) fn delete_op(path: &str) -> Op {
    Op::Delete(key(path))
}

pub(super) async fn commit(store: &Subject, checks: Vec<Check>, ops: Vec<Op>) -> Revision {
    store.commit(Txn { checks, ops }).await.expect("the transaction commits")
}

pub(super) async fn create(store: &Subject, path: &str, value: &str) -> Revision {
    commit(store, vec![absent(path)], vec![put(path, value)]).await
}

pub(super) async fn replace(store: &Subject, path: &str, seen: Revision, value: &str) -> Revision {
    commit(store, vec![unchanged(path, seen)], vec![put(path, value)]).await
}

pub(super) async fn delete(store: &Subject, path: &str, seen: Revision) -> Revision {
    commit(store, vec![unchanged(path, seen)], vec![delete_op(path)]).await
}

pub(super) async fn revision(store: &Subject) -> Revision {
    store.revision().await.expect("the store tells its revision")
}

pub(super) async fn list(store: &Subject, path: &str) -> Listing {
    store.list(&prefix(path)).await.expect("the store lists")
}

/// The value at `path`, as text.
pub(super) async fn value(store: &Subject, path: &str) -> Option<String> {
    let entry = store.get(&key(path)).await.expect("the store reads");
    entry.map(|entry| String::from_utf8(entry.value.to_vec()).expect("the suite writes text"))
}

pub(super) fn paths(listing: &Listing) -> Vec<&str> {
    listing.entries.iter().map(|entry| entry.key.as_str()).collect()
}

pub(super) async fn watch(store: &Subject, path: &str, after: Revision) -> Watch {
    store.watch(&prefix(path), after).await.expect("the store watches")
}

/// The next batch that holds changes.
pub(super) async fn next(watch: &mut Watch) -> Batch {
    loop {
        let batch = watch.next().await.expect("a watch does not end").expect("the watch goes on");
        if !batch.changes.is_empty() {
            return batch;
        }
    }
}

/// Expects the next batches that hold changes to be those of `revisions`; the first other one ends it.
pub(super) async fn yields(watch: &mut Watch, revisions: &[Revision]) {
    for revision in revisions {
        assert_eq!(next(watch).await.revision, *revision);
    }
}

pub(super) fn changed_paths(batch: &Batch) -> Vec<&str> {
    batch.changes.iter().map(|change| change.key().as_str()).collect()
}

pub(super) fn is_delete_of(change: &Change, path: &str) -> bool {
    matches!(change, Change::Delete(deleted) if deleted.as_str() == path)
}

/// What `result` conflicts on: the key's path and when it was last written.
pub(super) fn conflict(result: Result<Revision, Error>) -> (String, Option<Revision>) {
    match result {
        Err(Error::Conflict { key, actual }) => (key.as_str().to_owned(), actual),
        other => panic!("expected a conflict, got {other:?}"),
    }
}
