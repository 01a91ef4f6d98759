//! Time stays out of the store (SEMANTICS 16): what expires is deleted by somebody who has looked at it.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join;

use super::{
    super::Txn,
    Subject as Opened,
    steps::{Subject, conflict, create, delete, is_delete_of, key, list, next, replace, revision, value, watch},
};

const ROUNDS: usize = 25;
/// Longer than any lease, token or event lives.
const LONG: Duration = Duration::from_secs(366 * 24 * 60 * 60);
const TURNS: usize = 100;
/// How long, by the clock that goes on, a store may take to answer after that.
const ANSWER_MAX: Duration = Duration::from_secs(60);

/// Rule 16: it takes the next revision, watches are told, and there is no other way.
pub async fn an_expiry_is_an_ordinary_deletion(store: &Subject) {
    let created = create(store, "/leases/a", "until 10").await;
    let mut watch = watch(store, "/leases", created).await;
    let expired = delete(store, "/leases/a", created).await;
    assert_eq!(expired.0, created.0 + 1);
    create(store, "/leases/fence", "until 30").await;
    let batch = next(&mut watch).await;
    assert_eq!((batch.revision, batch.changes.len()), (expired, 1));
    assert!(is_delete_of(&batch.changes[0], "/leases/a"));
}

/// Rule 16: never before the deadline. Who has read an earlier one conflicts.
pub async fn an_expiry_of_what_was_renewed_conflicts(store: &Subject) {
    let created = create(store, "/leases/a", "until 10").await;
    let renewed = replace(store, "/leases/a", created, "until 20").await;
    let expiry = store.commit(Txn::delete(key("/leases/a"), created)).await;
    assert_eq!(conflict(expiry), ("/leases/a".to_owned(), Some(renewed)));
    assert_eq!(value(store, "/leases/a").await.as_deref(), Some("until 20"));
}

/// Rule 16: the holder knows whether it still has what it holds.
pub async fn of_a_renewal_and_an_expiry_one_wins(store: &Subject) {
    for round in 0..ROUNDS {
        let path = format!("/leases/{round}");
        let seen = create(store, &path, "until 10").await;
        let renewal = store.commit(Txn::replace(key(&path), seen, Bytes::from_static(b"until 20")));
        let expiry = store.commit(Txn::delete(key(&path), seen));
        let (renewal, expiry) = join(renewal, expiry).await;
        let is_there = value(store, &path).await.is_some();
        match (renewal, expiry) {
            (Ok(renewed), expiry) => assert_eq!((conflict(expiry), is_there), ((path, Some(renewed)), true)),
            (renewal, Ok(_)) => assert_eq!((conflict(renewal), is_there), ((path, None), false)),
            (renewal, expiry) => panic!("neither wins: {renewal:?}, {expiry:?}"),
        }
    }
}

/// Rule 16: lets a year pass by tokio's clock, on one store that `open` makes, and expects to find what was there.
///
/// # Panics
///
/// If anything has changed.
pub fn check<T, F>(open: impl FnOnce() -> F)
where
    T: Into<Opened>,
    F: Future<Output = T>,
{
    // The clock of several threads can't be put forward.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let Opened { store, guard } = open().await.into();
        let created = create(&store, "/leases/a", "until 10").await;
        let before = list(&store, "/").await;
        let mut watch = watch(&store, "/leases", created).await;
        give_turns().await;
        tokio::time::pause();
        tokio::time::advance(LONG).await;
        give_turns().await;
        tokio::time::resume();
        let after = async {
            assert_eq!(list(&store, "/").await, before);
            assert_eq!(revision(&store).await, created);
            let renewed = replace(&store, "/leases/a", created, "until 20").await;
            assert_eq!(renewed.0, created.0 + 1);
            assert_eq!(next(&mut watch).await.revision, renewed);
        };
        tokio::time::timeout(ANSWER_MAX, after).await.expect("the store answers in time");
        drop(watch);
        drop(store);
        drop(guard);
    });
}

/// Lets what waits in the background go on, as on one thread nothing else does.
async fn give_turns() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
}
