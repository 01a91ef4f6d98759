//! What no store applies (SEMANTICS 6, 18, 19).

use bytes::Bytes;

use super::{
    super::{Change, Check, Error, KEY_BYTES_MAX, Op, TXN_OPS_MAX, Txn, VALUE_BYTES_MAX},
    steps::{Subject, absent, commit, create, delete, key, list, next, paths, put, revision, watch},
};

async fn assert_refused(store: &Subject, txn: Txn) {
    let result = store.commit(txn).await;
    assert!(matches!(result, Err(Error::Invalid(_))), "expected a refusal, got {result:?}");
}

/// Rule 19: `value_bytes_max` is [`VALUE_BYTES_MAX`], but for a wrapper that adds something to each value.
pub async fn the_largest_value_is_stored(store: &Subject, value_bytes_max: usize) {
    let value = Bytes::from(vec![b'x'; value_bytes_max]);
    store.commit(Txn::create(key("/large"), value.clone())).await.expect("a commit");
    assert_eq!(store.get(&key("/large")).await.expect("a read").expect("an entry").value, value);
}

/// Rule 19: a little less than [`KEY_BYTES_MAX`], as a wrapper may add something to each key; in one segment, and in many.
pub async fn a_long_key_is_stored(store: &Subject) {
    let bytes = KEY_BYTES_MAX * 7 / 8;
    for path in [format!("/{}", "k".repeat(bytes)), "/s".repeat(bytes / 2)] {
        create(store, &path, "1").await;
        assert_eq!(store.get(&key(&path)).await.expect("a read").expect("an entry").key, key(&path));
        assert!(paths(&list(store, "/").await).contains(&path.as_str()));
    }
}

/// Law 5: bytes are no text.
pub async fn a_value_is_any_bytes(store: &Subject) {
    let mut followed = watch(store, "/", revision(store).await).await;
    for (index, value) in
        [&b""[..], b"\0", b"\0\0a\0", b"\xff\xfe", &[0x80; 5_000], &[0; 300_000]].into_iter().enumerate()
    {
        let (value, key) = (Bytes::copy_from_slice(value), key(&format!("/bytes/{index}")));
        store.commit(Txn::create(key.clone(), value.clone())).await.expect("a commit");
        assert_eq!(store.get(&key).await.expect("a read").expect("an entry").value, value);
        assert_eq!(list(store, "/bytes/").await.entries[index].value, value);
        let batch = next(&mut followed).await;
        assert!(matches!(&batch.changes[..], [Change::Put(entry)] if entry.value == value), "value {index}: {batch:?}");
    }
}

/// Rule 19.
pub async fn too_large_a_value_is_refused(store: &Subject, value_bytes_max: usize) {
    assert_refused(store, Txn::create(key("/large"), Bytes::from(vec![b'x'; value_bytes_max + 1]))).await;
}

/// Rule 19.
pub async fn too_many_operations_are_refused(store: &Subject) {
    let paths: Vec<String> = (0..=TXN_OPS_MAX).map(|index| format!("/many/{index}")).collect();
    let checks: Vec<Check> = paths.iter().map(|path| absent(path)).collect();
    assert_refused(store, Txn { checks: checks.clone(), ops: vec![] }).await;
    let ops: Vec<Op> = paths.iter().map(|path| put(path, "1")).collect();
    assert_refused(store, Txn { checks, ops }).await;
}

/// Rule 6: or one revision would hold two values of a key.
pub async fn a_key_written_twice_is_refused(store: &Subject) {
    assert_refused(store, Txn { checks: vec![absent("/a")], ops: vec![put("/a", "1"), put("/a", "2")] }).await;
    let ops = vec![put("/a", "1"), Op::Delete(key("/a"))];
    assert_refused(store, Txn { checks: vec![absent("/a")], ops }).await;
}

/// Rule 6: there is no blind write.
pub async fn a_write_without_a_check_is_refused(store: &Subject) {
    assert_refused(store, Txn { checks: vec![], ops: vec![put("/a", "1")] }).await;
    assert_refused(store, Txn { checks: vec![absent("/b")], ops: vec![Op::Delete(key("/a"))] }).await;
}

/// Rule 19: before any side effect, and before any check.
pub async fn what_is_refused_changes_nothing(store: &Subject) {
    let before = create(store, "/a", "1").await;
    let ops = vec![put("/b", "1"), Op::Put(key("/c"), Bytes::from(vec![0; VALUE_BYTES_MAX + 1]))];
    assert_refused(store, Txn { checks: vec![absent("/a"), absent("/b"), absent("/c")], ops }).await;
    assert_eq!(revision(store).await, before);
    assert_eq!(commit(store, vec![absent("/b")], vec![put("/b", "1")]).await.0, before.0 + 1);
}

/// Rule 18, as far as one can tell without the store's own disk: what is refused for its size leaves no trace on reads, watches,
/// deletions and compaction, and what fits is written again at once.
pub async fn all_else_goes_on_after_a_refusal(store: &Subject) {
    let mut seen = create(store, "/a", "1").await;
    create(store, "/b", "1").await;
    for round in 0..5 {
        let mut watch = watch(store, "/", seen).await;
        assert_refused(store, Txn::create(key("/large"), Bytes::from(vec![b'x'; VALUE_BYTES_MAX + 1]))).await;
        assert_eq!(paths(&list(store, "/").await), ["/a", "/b"]);
        let deleted = delete(store, "/a", seen).await;
        store.compact(seen).await.expect("the store compacts");
        if round == 0 {
            // The other key's creation came first.
            next(&mut watch).await;
        }
        assert_eq!(next(&mut watch).await.revision, deleted);
        seen = create(store, "/a", "1").await;
        assert_eq!(next(&mut watch).await.revision, seen);
    }
}
