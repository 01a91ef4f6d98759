//! What a store does when there is no space (SEMANTICS 18).

use std::sync::Arc;

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, future::join_all};
use orchestra_core::store::{Error, Key, Prefix, Result, Revision, Store, Txn};
use proptest::prelude::*;

use super::{
    DurableOptions, DurableStore,
    crash::{OPTIONS, Run, Step, chain, crashes, runtime, steps},
    simulated::{Faults, SimulatedDisk},
};

/// How often a commit is tried until the space that a checkpoint frees must be there.
const TRIES_MAX: usize = 10_000;

fn open(disk: &SimulatedDisk, reserve_bytes: u64) -> DurableStore {
    let options = DurableOptions { reserve_bytes, ..OPTIONS };
    DurableStore::on(Arc::new(disk.clone()), options).expect("a store opens")
}

fn key(name: &str) -> Key {
    Key::new([name]).expect("a valid name")
}

async fn create(store: &DurableStore, name: &str, bytes: usize) -> Result<Revision> {
    store.commit(Txn::create(key(name), vec![b'x'; bytes].into())).await
}

async fn delete(store: &DurableStore, name: &str) -> Result<Revision> {
    let seen = store.get(&key(name)).await?.expect("it is there").modified;
    store.commit(Txn::delete(key(name), seen)).await
}

/// Leaves room for `bytes` more.
fn fill(disk: &SimulatedDisk, bytes: usize) {
    disk.resize(Some(disk.used() + bytes));
}

fn assert_full(result: &Result<Revision>) {
    let Err(error @ Error::Unavailable(_)) = result else { panic!("expected Unavailable, got {result:?}") };
    assert!(chain(error).starts_with("store unavailable: no space left to write simulated"), "got {}", chain(error));
}

#[tokio::test]
async fn commits_to_a_full_disk_change_nothing_until_there_is_space() {
    let disk = SimulatedDisk::default();
    let store = open(&disk, 0);
    let last = create(&store, "a", 10).await.expect("there is space");
    let before = disk.used();
    let mut watch = store.watch(&Prefix::all(), last).await.expect("a watch");
    assert_eq!(watch.next().await.and_then(Result::ok).map(|bookmark| bookmark.revision), Some(last));
    for room in [0, 1, 30] {
        fill(&disk, room);
        assert_full(&create(&store, "b", 100).await);
        assert_eq!(disk.used(), before, "what was written in part is cut off");
        assert_eq!(store.get(&key("b")).await.ok(), Some(None));
        assert!(watch.next().now_or_never().is_none());
    }
    disk.resize(None);
    let next = create(&store, "b", 100).await.expect("there is space again");
    assert_eq!(next.0, last.0 + 1);
    assert_eq!(watch.next().await.and_then(Result::ok).map(|batch| batch.revision), Some(next));
    drop((watch, store));
    assert_eq!(open(&disk, 0).revision().await.ok(), Some(next));
}

/// A file system has so many inodes, too.
#[tokio::test]
async fn a_disk_without_room_for_files_serves_all_but_checkpoints() {
    for reserve_bytes in [0, 64] {
        let disk = SimulatedDisk::default();
        let store = open(&disk, reserve_bytes);
        create(&store, "a", 10).await.expect("there is space");
        drop(store);
        disk.limit_files(true);
        for round in 0..4 {
            let store = open(&disk, reserve_bytes);
            let name = round.to_string();
            create(&store, &name, 300).await.expect("there are bytes");
            delete(&store, &name).await.expect("there are bytes");
            create(&store, &name, 10).await.expect("there are bytes");
            let image = SimulatedDisk::holding(disk.lock().after_kill());
            assert!(open(&image, reserve_bytes).get(&key(&name)).await.is_ok_and(|entry| entry.is_some()));
        }
        disk.limit_files(false);
        let store = open(&disk, reserve_bytes);
        assert_eq!(store.list(&Prefix::all()).await.expect("a listing").entries.len(), 5);
    }
}

/// Then a log begins that holds the last group, for want of another place in that of the reserve.
#[tokio::test]
async fn a_store_that_a_sync_has_failed_opens_without_room_for_files() {
    let disk = SimulatedDisk::default();
    let store = open(&disk, 64);
    create(&store, "a", 10).await.expect("there is space");
    create(&store, "b", 10).await.expect("there is space");
    disk.fail(Faults { failed_sync: Some(0), truncate: false });
    delete(&store, "b").await.expect_err("the sync fails");
    drop(store);
    disk.limit_files(true);
    let store = open(&disk, 64);
    assert!(store.get(&key("a")).await.is_ok_and(|entry| entry.is_some()));
    let seen = store.get(&key("a")).await.expect("a read").expect("it is there").modified;
    store.commit(Txn::delete(key("a"), seen)).await.expect("a deletion needs no file");
}

#[tokio::test]
async fn deletions_go_on_when_the_disk_is_full() {
    let disk = SimulatedDisk::default();
    let store = open(&disk, 1 << 10);
    for name in ["a", "b", "c"] {
        create(&store, name, 10).await.expect("there is space");
    }
    fill(&disk, 0);
    assert_full(&create(&store, "d", 10).await);
    delete(&store, "a").await.expect("the reserve is for deletions");
    assert_full(&create(&store, "a", 1).await);
    delete(&store, "b").await.expect("the reserve is for deletions");
    disk.resize(None);
    create(&store, "a", 10).await.expect("there is space again");
    fill(&disk, 0);
    delete(&store, "c").await.expect("the reserve was filled again");
}

/// They are answered as if those that were refused had not been there.
#[tokio::test]
async fn deletions_beside_refused_commits_are_decided_by_themselves() {
    let disk = SimulatedDisk::default();
    let store = open(&disk, 1 << 10);
    let seen = create(&store, "a", 10).await.expect("there is space");
    fill(&disk, 0);
    let put = Txn::create(key("b"), Bytes::from_static(b"x"));
    let stale = Txn::delete(key("b"), Revision(seen.0 + 1));
    let results = join_all([put, Txn::delete(key("a"), seen), stale].map(|txn| store.commit(txn))).await;
    assert_full(&results[0]);
    assert_eq!(results[1].as_ref().ok(), Some(&Revision(seen.0 + 1)));
    assert!(matches!(results[2], Err(Error::Conflict { actual: None, .. })), "got {:?}", results[2]);
}

#[tokio::test]
async fn deleting_makes_room_on_a_disk_that_the_store_has_filled() {
    let disk = SimulatedDisk::default();
    disk.resize(Some(8 << 10));
    let options = DurableOptions { reserve_bytes: 1 << 10, log_bytes_min: u64::MAX, ..OPTIONS };
    let store = DurableStore::on(Arc::new(disk.clone()), options).expect("a store opens");
    let names: Vec<String> = (0..100).map(|index| format!("{index:02}")).collect();
    let mut created = Vec::new();
    for name in &names {
        if create(&store, name, 500).await.is_err() {
            break;
        }
        created.push(name);
    }
    assert!((1..100).contains(&created.len()));
    for name in created {
        delete(&store, name).await.expect("the reserve is for deletions");
    }
    // The checkpoint that drops the log is written meanwhile.
    for _ in 0..TRIES_MAX {
        if create(&store, "again", 500).await.is_ok() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the log still takes all the space");
}

#[tokio::test]
async fn a_store_on_a_full_disk_opens() {
    let disk = SimulatedDisk::default();
    let last = create(&open(&disk, 0), "a", 10).await.expect("there is space");
    fill(&disk, 100);
    let store = open(&disk, 1 << 10);
    assert_eq!(store.revision().await.ok(), Some(last));
    assert_full(&create(&store, "b", 1).await);
    delete(&store, "a").await.expect("what room there is is for deletions");
}

/// Rule 3: what is at the end of the log is not known.
#[tokio::test]
async fn a_short_write_that_cannot_be_cut_off_poisons_the_store() {
    let disk = SimulatedDisk::default();
    let store = open(&disk, 0);
    let last = create(&store, "a", 10).await.expect("there is space");
    fill(&disk, 20);
    disk.fail(Faults { truncate: true, ..Faults::default() });
    for _ in 0..2 {
        let error = create(&store, "b", 100).await.expect_err("there is no space");
        assert!(chain(&error).contains("open the store anew"), "got {}", chain(&error));
        disk.fail(Faults::default());
        disk.resize(None);
    }
    assert_eq!(store.get(&key("a")).await.ok().flatten().map(|entry| entry.modified), Some(last));
    drop(store);
    create(&open(&disk, 0), "b", 100).await.expect("it was opened anew");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Rules 3, 17 and 18: whatever there is room for, at every step.
    #[test]
    fn no_acknowledged_commit_is_lost_to_a_full_disk_and_a_crash(
        steps in steps(1..10),
        rooms in prop::collection::vec(prop::option::of(0_usize..600), 10),
        seed: u64,
    ) {
        let runtime = runtime();
        let mut run = Run::new();
        runtime.block_on(async {
            let store = run.open().expect("a new store opens");
            for (step, room) in steps.iter().zip(&rooms) {
                run.disk.resize(room.map(|room| run.disk.used() + room));
                if let Err(error) = run.commit(&store, step).await {
                    assert!(chain(&error).contains("no space left"), "got {}", chain(&error));
                    run.assert_whole(&store, "a full disk").await;
                }
            }
            run.disk.resize(None);
            // A checkpoint that is under way has the space first.
            let mut last = run.commit(&store, &Step::from([(0, Some(1))])).await;
            for _ in 0..TRIES_MAX {
                if last.is_ok() {
                    break;
                }
                tokio::task::yield_now().await;
                last = run.commit(&store, &Step::from([(0, Some(1))])).await;
            }
            last.expect("there is space again");
        });
        run.survives(&runtime, &crashes(seed));
    }
}
