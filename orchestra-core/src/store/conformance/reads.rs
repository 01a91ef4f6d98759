//! Law 3: one instant (SEMANTICS 5, 7, 8, 9).

use bytes::Bytes;

use super::{
    super::{TXN_OPS_MAX, Txn},
    steps::{Subject, absent, commit, create, delete, key, list, paths, put, replace, revision, value},
};

/// Rule 7.
pub async fn an_absent_key_holds_nothing(store: &Subject) {
    create(store, "/a/b", "1").await;
    assert_eq!(value(store, "/a").await, None);
    assert_eq!(value(store, "/a/b/c").await, None);
}

/// Rule 7.
pub async fn a_commit_is_read_at_once(store: &Subject) {
    let mut seen = create(store, "/a", "0").await;
    for round in 1..20 {
        let text = round.to_string();
        seen = replace(store, "/a", seen, &text).await;
        assert_eq!(value(store, "/a").await, Some(text));
        assert_eq!(revision(store).await, seen);
    }
}

/// Rule 7.
pub async fn a_deletion_is_read_at_once(store: &Subject) {
    let seen = create(store, "/a", "1").await;
    delete(store, "/a", seen).await;
    assert_eq!(value(store, "/a").await, None);
    assert!(list(store, "/").await.entries.is_empty());
}

/// Rule 8: byte order of the whole path.
pub async fn a_listing_is_in_key_order(store: &Subject) {
    for path in ["/p/b", "/p/a-1", "/p/a", "/p/B", "/p/a/x", "/p/ä"] {
        create(store, path, "1").await;
    }
    assert_eq!(paths(&list(store, "/p").await), ["/p/B", "/p/a", "/p/a-1", "/p/a/x", "/p/b", "/p/ä"]);
}

/// Rule 5.
pub async fn a_listing_is_as_of_the_last_commit(store: &Subject) {
    let first = create(store, "/p/a", "1").await;
    assert_eq!(list(store, "/p").await.revision, first);
    let elsewhere = create(store, "/q/a", "1").await;
    let listing = list(store, "/p").await;
    assert_eq!(listing.revision, elsewhere);
    assert_eq!(listing.entries[0].modified, first);
}

/// Rule 5.
pub async fn a_listing_of_nothing_has_a_revision_too(store: &Subject) {
    let at = create(store, "/p/a", "1").await;
    let listing = list(store, "/nothing").await;
    assert_eq!((listing.revision, listing.entries.len()), (at, 0));
}

/// Rule 9.
pub async fn a_prefix_ends_at_a_segment(store: &Subject) {
    for path in ["/p/a", "/p/ab/x", "/p/a/x", "/p/a/y/z", "/p/a-b/x", "/p/b/a/x"] {
        create(store, path, "1").await;
    }
    assert_eq!(paths(&list(store, "/p/a").await), ["/p/a/x", "/p/a/y/z"]);
}

/// Rule 9.
pub async fn the_empty_prefix_lists_every_key(store: &Subject) {
    for path in ["/p/a", "/q", "/r/a/b"] {
        create(store, path, "1").await;
    }
    assert_eq!(paths(&list(store, "/").await), ["/p/a", "/q", "/r/a/b"]);
}

/// Rule 8: however many pages a store reads it in.
pub async fn a_long_listing_is_whole(store: &Subject) {
    const ROUNDS: usize = 20;
    for round in 0..ROUNDS {
        let paths: Vec<String> = (0..TXN_OPS_MAX).map(|index| format!("/p/{round:02}-{index:03}")).collect();
        let checks = paths.iter().map(|path| absent(path)).collect();
        commit(store, checks, paths.iter().map(|path| put(path, &"x".repeat(512))).collect()).await;
    }
    let listing = list(store, "/p").await;
    assert_eq!(listing.entries.len(), ROUNDS * TXN_OPS_MAX);
    assert!(listing.entries.is_sorted_by(|a, b| a.key < b.key));
}

/// Values are opaque.
pub async fn a_value_of_any_bytes_comes_back(store: &Subject) {
    let values = [Bytes::new(), Bytes::from_iter(0..=255_u8), Bytes::from(vec![0; 4096])];
    for (index, bytes) in values.into_iter().enumerate() {
        let key = key(&format!("/values/{index}"));
        store.commit(Txn::create(key.clone(), bytes.clone())).await.expect("a commit");
        assert_eq!(store.get(&key).await.expect("a read").expect("an entry").value, bytes);
    }
}

/// Rule 9: only what a segment may not hold is refused.
pub async fn a_key_of_any_script_comes_back(store: &Subject) {
    let segments = [" ", "日本", "a:b", "…", "a\\b", "a\nb", "a\u{10ffff}", "...", "*?[", "é"];
    for segment in segments {
        let path = format!("/scripts/{segment}");
        create(store, &path, segment).await;
        assert_eq!(value(store, &path).await.as_deref(), Some(segment));
    }
    assert_eq!(list(store, "/scripts").await.entries.len(), segments.len());
}
