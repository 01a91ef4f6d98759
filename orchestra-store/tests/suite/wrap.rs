//! The wrappers: each is a store like any other; what each adds is shown case by case.

mod laws;
mod patient;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _};
use orchestra_core::{
    rng::Entropy,
    store::{Change, Check, Entry, Error, Key, Op, Prefix, Revision, Store, Txn, VALUE_BYTES_MAX},
};
use orchestra_store::{
    Counted, Encrypted, Faulty, MemoryStore, Prefixed, Slow,
    wrap::{DecryptError, Delay, Delays, EncryptionKey, Faults, Injected, KEY_ID_BYTES_MAX, KeyRing, Metrics, Nonces},
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::time::Instant;

fn key(path: &str) -> Key {
    Key::parse(path).expect("a valid key")
}

fn prefix(segments: &[&str]) -> Prefix {
    Prefix::new(segments.iter().copied()).expect("a valid prefix")
}

fn encryption_key(id: &str, byte: u8) -> EncryptionKey {
    EncryptionKey::new(id, &[byte; 32]).expect("a valid id")
}

fn encrypted<S: Store>(store: S) -> Encrypted<S> {
    Encrypted::new(store, KeyRing::new(encryption_key("one", 1)), Nonces::repeatable(Entropy::seeded(1)))
}

async fn create(store: &dyn Store, path: &str, value: &'static str) -> Revision {
    store.commit(Txn::create(key(path), Bytes::from_static(value.as_bytes()))).await.expect("a commit")
}

async fn read(store: &dyn Store, path: &str) -> Option<Entry> {
    store.get(&key(path)).await.expect("a read")
}

/// What a watch has to tell at once.
async fn told(store: &dyn Store, after: Revision) -> Vec<Result<(Revision, Vec<Change>), Error>> {
    let mut watch = store.watch(&Prefix::all(), after).await.expect("a watch");
    let mut told = Vec::new();
    while let Some(Some(item)) = watch.next().now_or_never() {
        told.push(item.map(|batch| (batch.revision, batch.changes)));
    }
    told
}

/// SEMANTICS 9.
#[tokio::test]
async fn a_prefixed_store_never_sees_its_sibling() {
    let all = Arc::new(MemoryStore::new());
    let [a, ab] = ["a", "ab"].map(|name| Prefixed::new(all.clone(), prefix(&[name])));
    let of_a = create(&a, "/p/x", "a").await;
    create(&all, "/a", "beside").await;
    let of_ab = create(&ab, "/p/x", "ab").await;
    let listing = a.list(&Prefix::all()).await.expect("a listing");
    assert_eq!(listing.revision, of_ab);
    let paths: Vec<_> = listing.entries.iter().map(|entry| (entry.key.as_str(), &entry.value[..])).collect();
    assert_eq!(paths, [("/p/x", &b"a"[..])]);
    let mut batches: Vec<_> = told(&a, Revision(1)).await.into_iter().flatten().collect();
    batches.retain(|(_, changes)| !changes.is_empty());
    let [(at, changes)] = &batches[..] else { panic!("got {batches:?}") };
    assert_eq!((*at, changes[0].key()), (of_a, &key("/p/x")));
    let refused = ab.commit(Txn::delete(key("/p/x"), of_a)).await;
    assert!(matches!(refused, Err(Error::Conflict { key: at, actual }) if at == key("/p/x") && actual == Some(of_ab)));
}

/// SEMANTICS 9: a key that is too long for the store underneath is refused, not cut.
#[tokio::test]
async fn a_key_that_the_prefix_makes_too_long_is_refused() {
    let store = Prefixed::new(MemoryStore::new(), prefix(&[&"p".repeat(500)]));
    let long = Key::new([&*"k".repeat(600)]).expect("a valid key");
    assert!(matches!(store.commit(Txn::create(long, Bytes::new())).await, Err(Error::Invalid(_))));
}

#[tokio::test(start_paused = true)]
async fn a_slow_store_takes_its_time_and_no_other_thread_with_it() {
    let delay = |millis| Delay { min: Duration::from_millis(millis), jitter: Duration::from_millis(10) };
    let delays = Delays { reads: delay(100), writes: delay(200), batches: delay(300) };
    let store = Slow::new(MemoryStore::new(), delays, Entropy::seeded(1));
    let begun = Instant::now();
    let at = create(&store, "/p/a", "1").await;
    assert!((200..=212).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    let begun = Instant::now();
    futures::future::join_all((0..10).map(|_| read(&store, "/p/a"))).await;
    assert!((100..=112).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
    let mut watch = store.watch(&Prefix::all(), Revision(1)).await.expect("a watch");
    let begun = Instant::now();
    assert_eq!(watch.next().await.expect("an item").expect("a batch").revision, at);
    assert!((300..=312).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
}

/// SEMANTICS 4: the store underneath never hears of it.
#[tokio::test(start_paused = true)]
async fn a_commit_that_is_dropped_on_its_way_to_a_slow_store_does_not_happen() {
    let writes = Delay { min: Duration::from_secs(1), ..Delay::default() };
    let store = Slow::new(MemoryStore::new(), Delays { writes, ..Delays::default() }, Entropy::seeded(1));
    let commit = store.commit(Txn::create(key("/p/a"), Bytes::new()));
    assert!(tokio::time::timeout(Duration::from_millis(100), commit).await.is_err());
    tokio::time::advance(Duration::from_secs(9)).await;
    assert_eq!(read(&store, "/p/a").await, None);
}

#[tokio::test(start_paused = true)]
async fn a_counted_store_shows_calls_bytes_watches_and_their_lag() {
    let mut registry = Registry::default();
    let writes = Delay { min: Duration::from_secs(1), ..Delay::default() };
    let slow = Slow::new(MemoryStore::new(), Delays { writes, ..Delays::default() }, Entropy::seeded(1));
    let store = Counted::new(slow, Metrics::registered(&mut registry));
    let at = create(&store, "/p/a", "12345").await;
    let conflict = store.commit(Txn::create(key("/p/a"), Bytes::new())).await;
    assert!(matches!(conflict, Err(Error::Conflict { .. })));
    assert!(store.commit(Txn::create(key("/p/b"), Bytes::new())).now_or_never().is_none());
    create(&store, "/p/c", "1").await;
    read(&store, "/p/a").await;
    let mut watch = store.watch(&Prefix::all(), Revision(1)).await.expect("a watch");
    assert_eq!(watch.next().await.expect("an item").expect("a batch").revision, at);
    let shown = || {
        let mut text = String::new();
        encode(&mut text, &registry).expect("text");
        text
    };
    let text = shown();
    for line in [
        r#"orchestra_store_call_duration_seconds_sum{operation="commit",result="ok"} 2.0"#,
        r#"orchestra_store_call_duration_seconds_count{operation="commit",result="conflict"} 1"#,
        r#"orchestra_store_call_duration_seconds_count{operation="commit",result="dropped"} 1"#,
        r#"orchestra_store_value_bytes_total{operation="commit"} 6"#,
        r#"orchestra_store_value_bytes_total{operation="get"} 5"#,
        r#"orchestra_store_value_bytes_total{operation="watch"} 5"#,
        "orchestra_store_watches 1",
        "orchestra_store_watch_lag_revisions_sum 1.0",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
    }
    drop(watch);
    assert!(shown().contains("orchestra_store_watches 0"));
}

/// What is wrong with a value, as an encrypted store tells it.
fn decrypt_error<T: std::fmt::Debug>(result: Result<T, Error>) -> DecryptError {
    match result {
        Err(Error::Unavailable(why)) => *why.downcast().expect("why it doesn't open"),
        other => panic!("expected an error, got {other:?}"),
    }
}

#[tokio::test]
async fn a_wrong_key_is_named_with_the_value_that_it_does_not_open() {
    let stored = Arc::new(MemoryStore::new());
    create(&encrypted(stored.clone()), "/p/a", "hush").await;
    create(&*stored, "/q/a", "plain").await;
    let with = |key| Encrypted::new(stored.clone(), KeyRing::new(key), Nonces::from_os());
    let unknown = DecryptError::UnknownKey { key: key("/p/a"), id: "one".into() };
    assert_eq!(decrypt_error(with(encryption_key("two", 1)).get(&key("/p/a")).await), unknown);
    assert_eq!(unknown.to_string(), r#"/p/a is encrypted with the key "one", which is not in the key ring"#);
    let wrong = with(encryption_key("one", 2));
    let refused = DecryptError::Refused { key: key("/p/a"), id: "one".into() };
    assert_eq!(decrypt_error(wrong.list(&prefix(&["p"])).await), refused);
    let mut watched = told(&wrong, Revision(1)).await;
    assert_eq!((watched.len(), decrypt_error(watched.remove(0))), (1, refused));
    assert_eq!(decrypt_error(wrong.get(&key("/q/a")).await), DecryptError::NotEncrypted { key: key("/q/a") });
}

/// Who can write to the store underneath can't pass one secret off as another.
#[tokio::test]
async fn a_value_that_was_moved_does_not_open() {
    let stored = Arc::new(MemoryStore::new());
    let store = encrypted(stored.clone());
    create(&store, "/secrets/admin", "hush").await;
    let value = read(&*stored, "/secrets/admin").await.expect("an entry").value;
    stored.commit(Txn::create(key("/secrets/guest"), value)).await.expect("a commit");
    let refused = DecryptError::Refused { key: key("/secrets/guest"), id: "one".into() };
    assert_eq!(decrypt_error(store.get(&key("/secrets/guest")).await), refused);
}

#[tokio::test]
async fn keys_are_rotated_without_a_value_that_can_not_be_read() {
    let stored = Arc::new(MemoryStore::new());
    let [one, two] = [encryption_key("one", 1), encryption_key("two", 2)];
    let with = |ring| Encrypted::new(stored.clone(), ring, Nonces::from_os());
    let before = with(KeyRing::new(one.clone()));
    for path in ["/p/a", "/p/b", "/q/a"] {
        create(&before, path, "hush").await;
    }
    let both = with(KeyRing::new(two.clone()).with(one.clone()).expect("two ids"));
    create(&both, "/p/new", "hush").await;
    assert_eq!(both.rotate(&prefix(&["p"])).await.expect("a rotation"), 2);
    assert_eq!(both.rotate(&prefix(&["p"])).await.expect("a rotation"), 0);
    let after = with(KeyRing::new(two));
    assert_eq!(after.list(&prefix(&["p"])).await.expect("a listing").entries.len(), 3);
    assert!(matches!(decrypt_error(after.get(&key("/q/a")).await), DecryptError::UnknownKey { .. }));
    assert!(matches!(KeyRing::new(one.clone()).with(one), Err(Error::Invalid(_))));
}

/// However long the new key's id is, and with one value that can't be.
#[tokio::test]
async fn the_largest_value_is_rotated_to_any_key() {
    let stored = Arc::new(MemoryStore::new());
    let [short, long] = [encryption_key("a", 1), encryption_key(&"b".repeat(KEY_ID_BYTES_MAX), 2)];
    let with = |ring| Encrypted::new(stored.clone(), ring, Nonces::from_os());
    let before = with(KeyRing::new(short.clone()));
    let value = Bytes::from(vec![b'x'; before.value_bytes_max()]);
    before.commit(Txn::create(key("/p/b"), value)).await.expect("a commit");
    let after = with(KeyRing::new(long).with(short).expect("two ids"));
    assert_eq!(after.rotate(&prefix(&["p"])).await.expect("a rotation"), 1);
}

/// SEMANTICS 19: the limit is kept by the wrapper, which says whose it is.
#[tokio::test]
async fn encryption_leaves_less_room_for_a_value_and_says_so() {
    let store = encrypted(MemoryStore::new());
    let refused = store.commit(Txn::create(key("/p/a"), Bytes::from(vec![0; VALUE_BYTES_MAX]))).await;
    assert!(matches!(refused, Err(Error::Invalid(why)) if why.contains("encryption")), "got {refused:?}");
}

fn faulty(faults: Faults) -> Faulty<MemoryStore> {
    Faulty::new(MemoryStore::new(), faults, Entropy::seeded(1))
}

fn is_unavailable<T>(result: &Result<T, Error>) -> bool {
    matches!(result, Err(Error::Unavailable(_)))
}

/// SEMANTICS 4.
#[tokio::test]
async fn an_unavailable_commit_has_happened_or_not() {
    let before = faulty(Faults { unavailable_before: 1.0, ..Faults::default() });
    let after = faulty(Faults { unavailable_after: 1.0, ..Faults::default() });
    for (store, happened) in [(before, false), (after, true)] {
        assert!(is_unavailable(&store.commit(Txn::create(key("/p/a"), Bytes::new())).await));
        store.calm();
        assert_eq!(read(&store, "/p/a").await.is_some(), happened);
        store.resume();
        assert!(is_unavailable(&store.compact(Revision(1)).await));
    }
}

/// SEMANTICS 6: the conflict names a revision at which someone did write.
#[tokio::test]
async fn an_injected_conflict_is_a_true_one() {
    let store = faulty(Faults { conflict: 1.0, ..Faults::default() });
    let created = create(&store, "/p/a", "1").await;
    let refused = store.commit(Txn::replace(key("/p/a"), created, Bytes::new())).await;
    let Err(Error::Conflict { actual: Some(actual), .. }) = refused else { panic!("got {refused:?}") };
    let entry = read(&store, "/p/a").await.expect("an entry");
    assert_eq!((entry.created, entry.modified, &entry.value[..]), (created, actual, &b"1"[..]));
    assert_eq!(store.injected(), Injected { conflicts: 1, ..Injected::default() });
}

/// SEMANTICS 11: what was to be yielded is yielded to who resumes.
#[tokio::test]
async fn a_watch_that_is_cut_ends_with_an_error_and_can_be_resumed() {
    let store = faulty(Faults { watch_cut: 1.0, ..Faults::default() });
    let created = create(&store, "/p/a", "1").await;
    let cut = told(&store, Revision(1)).await;
    assert!(cut.len() == 1 && is_unavailable(&cut[0]), "got {cut:?}");
    store.calm();
    assert_eq!(told(&store, Revision(1)).await[0].as_ref().expect("a batch").0, created);
}

/// Law 5: history is gone for this watch and for others, and the floor told is one to watch from.
#[tokio::test]
async fn a_watch_that_compaction_overtakes_is_told_a_floor_to_watch_from() {
    let store = faulty(Faults { compaction: 1.0, ..Faults::default() });
    create(&store, "/p/a", "1").await;
    create(&store, "/p/b", "1").await;
    let overtaken = told(&store, Revision(1)).await;
    let [Err(Error::Compacted { floor })] = overtaken[..] else { panic!("got {overtaken:?}") };
    store.calm();
    assert!(matches!(told(&store, Revision(1)).await[..], [Err(Error::Compacted { .. })]));
    let after = create(&store, "/p/c", "1").await;
    let resumed = told(&store, floor).await;
    assert_eq!(resumed[0].as_ref().expect("a batch").0, after);
}

/// SEMANTICS 60.
#[tokio::test(start_paused = true)]
async fn equal_seeds_make_equal_faults() {
    async fn run(seed: u64) -> (Injected, Duration, Vec<bool>) {
        let begun = Instant::now();
        let store = Faulty::new(MemoryStore::new(), Faults::each(0.2), Entropy::seeded(seed));
        let mut outcomes = Vec::new();
        for round in 0..200 {
            let key = key(&format!("/p/{}", round % 5));
            let entry = store.get(&key).await.ok().flatten();
            let (check, op) = match entry {
                Some(entry) => (Check::Unchanged(key.clone(), entry.modified), Op::Put(key, Bytes::new())),
                None => (Check::Absent(key.clone()), Op::Put(key, Bytes::new())),
            };
            outcomes.push(store.commit(Txn { checks: vec![check], ops: vec![op] }).await.is_ok());
        }
        (store.injected(), begun.elapsed(), outcomes)
    }
    let first = run(1).await;
    assert_eq!(first, run(1).await);
    assert_ne!(first, run(2).await);
    let Injected { conflicts, unavailable_before, unavailable_after, delays, .. } = first.0;
    assert!(
        [conflicts, unavailable_before, unavailable_after, delays].iter().all(|&count| count > 10),
        "{:?}",
        first.0
    );
}
