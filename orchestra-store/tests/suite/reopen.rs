//! What is there after the store was closed and opened again.

use bytes::Bytes;
use futures::{StreamExt as _, future::join_all};
use orchestra_core::store::{Error, Key, Listing, Prefix, Revision, Store, Txn};
use orchestra_store::{DurableError, DurableOptions, DurableStore};

fn key(name: &str) -> Key {
    Key::new(["p", name]).expect("a valid name")
}

/// Opens the store in `directory` with a checkpoint whenever the log outgrows the entries.
pub(crate) fn open(directory: &std::path::Path) -> DurableStore {
    let options = DurableOptions { log_bytes_min: 0, reserve_bytes: 4 << 10, ..DurableOptions::default() };
    DurableStore::open_with(directory, options).expect("a store opens")
}

/// Creates, replaces and deletes `rounds` times three entries, all at once in each round.
pub(crate) async fn write(store: &DurableStore, rounds: usize) -> Listing {
    for round in 0..rounds {
        let txns = ["a", "b", "c"].into_iter().enumerate().map(async |(index, name)| {
            let value = Bytes::from(format!("{round}-{name}").repeat(10));
            let txn = match store.get(&key(name)).await.expect("a read") {
                None => Txn::create(key(name), value),
                Some(entry) if (round + index).is_multiple_of(7) => Txn::delete(entry.key, entry.modified),
                Some(entry) => Txn::replace(entry.key, entry.modified, value),
            };
            store.commit(txn).await.expect("a commit")
        });
        join_all(txns).await;
    }
    store.list(&Prefix::all()).await.expect("a listing")
}

/// A store may hold secrets.
#[cfg(unix)]
#[tokio::test]
async fn a_store_is_read_by_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(&directory.path().join("store"));
    write(&store, 30).await;
    store.backup(directory.path().join("backup")).await.expect("a backup");
    let files = std::fs::read_dir(directory.path().join("store"))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path());
    for path in files.chain([directory.path().join("backup")]) {
        let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{} is {mode:o}", path.display());
    }
}

/// What others keep in its directory is none of its business.
#[tokio::test]
async fn a_file_of_others_is_left_alone() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for name in ["thesis.draft", "log-1.draft"] {
        std::fs::write(directory.path().join(name), "mine").expect("a file");
    }
    let ours = directory.path().join("log-00000000000000000007.draft");
    std::fs::write(&ours, "cut off").expect("a file");
    drop(open(directory.path()));
    assert!(directory.path().join("thesis.draft").exists() && directory.path().join("log-1.draft").exists());
    assert!(!ours.exists());
}

/// Rules 1 and 17.
#[tokio::test]
async fn a_reopened_store_is_the_one_that_was_closed() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    for rounds in [0, 1, 30, 3, 60] {
        let before = write(&open(directory.path()), rounds).await;
        let store = open(directory.path());
        assert_eq!(store.list(&Prefix::all()).await.expect("a listing"), before);
    }
}

/// Rule 11: a watcher of the closed store goes on where it was, while the log reaches back.
#[tokio::test]
async fn a_watch_resumes_over_a_restart() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = DurableStore::open(directory.path()).expect("a store opens");
    let before = write(&store, 5).await.revision;
    let expected = write(&store, 5).await.revision;
    drop(store);
    let store = DurableStore::open(directory.path()).expect("a store opens");
    let mut watch = store.watch(&Prefix::all(), before).await.expect("a watch");
    for revision in before.0 + 1..=expected.0 {
        let batch = watch.next().await.expect("an item").expect("a batch");
        assert_eq!(batch.revision, Revision(revision));
    }
}

/// Checkpoints replace the log: files do not grow with the number of commits.
#[tokio::test]
async fn files_stay_in_proportion_to_the_entries() {
    const BYTES_MAX: u64 = 64 << 10;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(directory.path());
    for _ in 0..20 {
        write(&store, 100).await;
    }
    drop(store);
    // Opening removes what the last checkpoint has replaced.
    drop(open(directory.path()));
    let files = std::fs::read_dir(directory.path()).expect("a directory");
    let bytes: u64 = files.map(|file| file.and_then(|file| file.metadata()).expect("a file").len()).sum();
    assert!(bytes < BYTES_MAX, "{bytes} bytes for three entries");
}

#[test]
fn a_second_opener_is_told_that_the_store_is_open() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let first = open(directory.path());
    let second = DurableStore::open(directory.path());
    assert!(matches!(second, Err(DurableError::Locked { directory }) if directory == first.directory()));
    std::fs::remove_file(first.directory().join("LOCK")).expect("a lock");
    let third = DurableStore::open(directory.path());
    assert!(matches!(third, Err(DurableError::Locked { .. })), "the file is gone, the lock is not: {third:?}");
}

/// Whoever opens a store where another one was is safe from it, and that one goes on when it is back.
#[cfg(unix)]
#[tokio::test]
async fn a_store_whose_directory_was_moved_refuses_commits_and_leaves_others_alone() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let (here, there) = (parent.path().join("store"), parent.path().join("moved"));
    let first = open(&here);
    write(&first, 3).await;
    std::fs::rename(&here, &there).expect("a move");
    assert_moved(&first).await;

    let second = open(&here);
    write(&second, 300).await;
    assert_moved(&first).await;
    let entries = second.list(&Prefix::all()).await.expect("a listing").entries;
    let files = || std::fs::read_dir(&here).expect("a directory").count();
    let before = files();
    drop(second);
    std::fs::rename(&here, parent.path().join("aside")).expect("a move");
    std::fs::rename(&there, &here).expect("a move");
    write(&first, 300).await;
    drop(first);
    std::fs::rename(&here, &there).expect("a move");
    std::fs::rename(parent.path().join("aside"), &here).expect("a move");
    assert_eq!(files(), before);
    assert_eq!(open(&here).list(&Prefix::all()).await.expect("a listing").entries, entries);
    assert!(!open(&there).list(&Prefix::all()).await.expect("a listing").entries.is_empty());
}

/// What is acknowledged must be found again: not in a file that no name leads to.
#[cfg(unix)]
#[tokio::test]
async fn a_store_whose_files_were_removed_refuses_commits() {
    for all in [true, false] {
        let parent = tempfile::tempdir().expect("a temporary directory");
        let here = parent.path().join("store");
        let store = DurableStore::open(&here).expect("a store opens");
        write(&store, 3).await;
        if all {
            std::fs::remove_dir_all(&here).expect("a removal");
        } else {
            let files = std::fs::read_dir(&here).expect("a directory").map(|file| file.expect("a file").path());
            let logs = files.filter(|file| file.to_string_lossy().contains("/log-"));
            logs.for_each(|log| std::fs::remove_file(log).expect("a removal"));
        }
        assert_moved(&store).await;
        assert!(!store.list(&Prefix::all()).await.expect("reads go on").entries.is_empty());
    }
}

async fn assert_moved(store: &DurableStore) {
    let key = Key::new(["late"]).expect("a valid key");
    let refused = store.commit(Txn::create(key.clone(), Bytes::new())).await;
    let Err(Error::Unavailable(source)) = &refused else { panic!("expected Unavailable, got {refused:?}") };
    let why = std::iter::successors(Some(&**source as &dyn std::error::Error), |error| error.source());
    let why = why.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    assert!(why.contains("it was moved, removed or replaced while the store has it open"), "{why}");
    assert_eq!(store.get(&key).await.expect("reads go on"), None);
}

/// A typing mistake makes no store.
#[test]
fn a_store_that_must_be_there_is_not_made() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options = DurableOptions { create: false, ..DurableOptions::default() };
    for path in [directory.path().to_owned(), directory.path().join("none")] {
        let result = DurableStore::open_with(&path, options);
        assert!(matches!(&result, Err(DurableError::Absent { directory }) if *directory == path), "got {result:?}");
    }
    assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 0);
    drop(open(directory.path()));
    DurableStore::open_with(directory.path(), options).expect("a store that is there opens");
}

/// A process that another thread has forked holds every lock of this one until it executes its program.
#[tokio::test]
async fn a_dropped_store_opens_again_while_processes_are_spawned() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let spawner = tokio::task::spawn_blocking(|| {
        for _ in 0..100 {
            assert!(std::process::Command::new("true").status().is_ok_and(|status| status.success()));
        }
    });
    while !spawner.is_finished() {
        drop(open(directory.path()));
        tokio::task::yield_now().await;
    }
    spawner.await.expect("every process ends well");
}

/// A process that was killed holds its lock for a moment longer.
#[tokio::test]
async fn an_opener_waits_for_one_that_is_ending() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let first = open(directory.path());
    let ending = tokio::task::spawn_blocking(move || {
        std::thread::sleep(std::time::Duration::from_millis(200));
        drop(first);
    });
    drop(open(directory.path()));
    ending.await.expect("it ends");
}
