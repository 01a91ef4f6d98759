//! Backups of a running store, and stores made of them.

use std::{fs, path::Path};

use bytes::Bytes;
use futures::{StreamExt as _, future::join};
use orchestra_core::{
    clock::SystemClock,
    store::{Error, Key, Listing, Prefix, Revision, Store, Txn},
};
use orchestra_store::{
    DurableError, DurableStore,
    durable::{self, verify},
};

use super::reopen::{open, write};

fn restore(backup: impl AsRef<Path>, directory: impl AsRef<Path>) -> Result<Revision, DurableError> {
    durable::restore(backup, directory, &SystemClock)
}

async fn list(store: &DurableStore) -> Listing {
    store.list(&Prefix::all()).await.expect("a listing")
}

/// Rule 1: no revision that the lost store gave out comes again.
#[tokio::test]
async fn a_restored_store_has_the_entries_of_the_backup_and_later_revisions() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (data, file, restored) =
        (directory.path().join("data"), directory.path().join("backup"), directory.path().join("restored"));
    let store = open(&data);
    let before = write(&store, 20).await;
    assert_eq!(store.backup(&file).await.ok(), Some(before.revision));
    let lost = write(&store, 20).await.revision;

    let revision = restore(&file, &restored).expect("a restore");
    let store = open(&restored);
    assert_eq!(list(&store).await, Listing { revision, ..before.clone() });
    assert!(revision > lost);
    for seen in [Revision(0), before.revision, lost] {
        let mut watch = store.watch(&Prefix::all(), seen).await.expect("a watch");
        let item = watch.next().await.expect("an item");
        assert!(matches!(item, Err(Error::Compacted { floor }) if floor == revision), "from {seen}: {item:?}");
    }
    let after = write(&store, 5).await;
    drop(store);
    assert_eq!(list(&open(&restored)).await, after);
}

/// Rule 1: what was restored may be lost as well, and the backup be restored once more.
#[tokio::test]
async fn a_backup_that_is_restored_again_is_later_than_what_was_restored_before() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("backup");
    let store = open(&directory.path().join("data"));
    write(&store, 3).await;
    store.backup(&file).await.expect("a backup");
    let again = directory.path().join("again");
    let mut last = Revision(0);
    // Of a restored store there is a backup, too: that is restored twice, and then the first once more.
    for (round, file) in [&file, &file, &again, &again, &file].into_iter().enumerate() {
        let restored = directory.path().join(round.to_string());
        let revision = restore(file, &restored).expect("a restore");
        let store = open(&restored);
        let mut watch = store.watch(&Prefix::all(), last).await.expect("a watch");
        let item = watch.next().await.expect("an item");
        assert!(matches!(item, Err(Error::Compacted { floor }) if floor == revision), "from {last}: {item:?}");
        if round == 1 {
            store.backup(&again).await.expect("a backup");
        }
        last = write(&store, 20).await.revision;
    }
}

/// Then the store would take it for its own.
#[tokio::test]
async fn a_backup_is_not_called_as_a_file_of_a_store() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(&directory.path().join("data"));
    let last = write(&store, 3).await;
    let names = files(store.directory()).into_iter().map(|(name, _)| name);
    let others = ["log-00000000000000000900", "checkpoint-00000000000000000006.draft", "SEAL", "RESERVE", "LOCK"];
    let others = others.map(|name| store.directory().join(name).display().to_string());
    for name in names.chain(others).collect::<Vec<_>>() {
        let refused = store.backup(&name).await;
        assert!(matches!(&refused, Err(DurableError::Reserved { path }) if *path == Path::new(&name)), "{refused:?}");
    }
    store.backup(store.directory().join("log-of-today")).await.expect("a store does not know that name");
    let data = store.directory().to_owned();
    drop(store);
    assert_eq!(list(&open(&data)).await, last);
}

/// A backup is as of one revision, whatever is written meanwhile.
#[tokio::test]
async fn a_backup_under_load_is_what_was_listed_at_its_revision() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let store = open(&directory.path().join("data"));
    write(&store, 10).await;
    for round in 0..5 {
        let file = directory.path().join(format!("backup-{round}"));
        let before = list(&store).await;
        let (backup, _) = join(store.backup(&file), write(&store, 20)).await;
        assert_eq!(backup.ok(), Some(before.revision));
        let report = verify(&file).expect("a whole backup");
        assert_eq!((report.revision, report.keys), (before.revision, before.entries.len() as u64));
    }
}

#[tokio::test]
async fn neither_a_backup_nor_a_restore_replaces_anything() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (data, file) = (directory.path().join("data"), directory.path().join("backup"));
    let store = open(&data);
    let before = write(&store, 3).await;
    store.backup(&file).await.expect("a backup");
    let whole = fs::read(&file).expect("a file");
    let again = store.backup(&file).await;
    assert!(matches!(&again, Err(DurableError::Occupied { path }) if *path == file), "got {again:?}");
    assert_eq!(fs::read(&file).expect("a file"), whole);
    assert!(matches!(restore(&file, &data), Err(DurableError::Locked { .. })));
    drop(store);
    let again = restore(&file, &data);
    assert!(matches!(&again, Err(DurableError::Occupied { path }) if *path == data), "got {again:?}");
    assert_eq!(list(&open(&data)).await, before);
}

/// Rule 17: a restore of what is not whole makes nothing.
#[tokio::test]
async fn a_damaged_backup_is_told_and_not_restored() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (file, restored) = (directory.path().join("backup"), directory.path().join("restored"));
    let store = open(&directory.path().join("data"));
    write(&store, 3).await;
    store.backup(&file).await.expect("a backup");
    let whole = fs::read(&file).expect("a file");
    for position in 0..whole.len() {
        let mut flipped = whole.clone();
        flipped[position] ^= 1 << (position % 8);
        fs::write(&file, &flipped).expect("a write");
        for result in [verify(&file).map(|_| ()), restore(&file, &restored).map(|_| ())] {
            assert!(
                matches!(&result, Err(DurableError::Corrupt { file: told, .. }) if *told == file),
                "got {result:?}"
            );
        }
        fs::write(&file, &whole[..position]).expect("a write");
        assert!(matches!(verify(&file), Err(DurableError::Corrupt { .. })), "{position} bytes of it");
    }
    assert!(!restored.exists());
    let log = fs::read_dir(store.directory()).expect("a directory").map(|file| file.expect("a file").path());
    let log = log.filter(|path| path.to_string_lossy().contains("/log-")).min().expect("a log");
    assert!(matches!(restore(log, &restored), Err(DurableError::Corrupt { reason, .. }) if reason.contains("log")));
    assert!(matches!(restore(directory.path().join("none"), &restored), Err(DurableError::Io { .. })));
}

/// What is in a directory, by name, with its bytes.
fn files(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let paths = fs::read_dir(directory).expect("a directory").map(|file| file.expect("a file").path());
    let mut files: Vec<_> = paths.map(|path| (path.display().to_string(), fs::read(&path).expect("a file"))).collect();
    files.sort();
    files
}

#[tokio::test]
async fn verifying_changes_nothing_and_tells_what_is_there() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let store = open(&data);
    let listing = write(&store, 30).await;
    assert!(matches!(verify(&data), Err(DurableError::Locked { .. })), "it may be written to");
    drop(store);
    let before = files(&data);
    let report = verify(&data).expect("a whole store");
    assert_eq!((report.revision, report.keys), (listing.revision, listing.entries.len() as u64));
    assert!(report.records >= 3 && report.bytes > 0 && report.torn_bytes == 0, "got {report:?}");
    assert_eq!(files(&data), before);

    let log = before.iter().rfind(|(name, _)| name.contains("/log-")).expect("a log");
    fs::write(&log.0, [&log.1[..], b"OrcS no more"].concat()).expect("a write");
    assert!(matches!(verify(&data), Err(DurableError::Corrupt { .. })), "it was closed without that");
    fs::remove_file(data.join("SEAL")).expect("a seal");
    assert_eq!(verify(&data).ok().map(|report| report.torn_bytes), Some(12));
    fs::write(&log.0, [&log.1[..5], b"\xff", &log.1[6..]].concat()).expect("a write");
    assert!(matches!(verify(&data), Err(DurableError::Corrupt { file, .. }) if file == Path::new(&log.0)));
}

#[test]
fn verifying_where_there_is_no_store_says_so() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    assert!(matches!(verify(directory.path()), Err(DurableError::Absent { .. })));
    assert!(matches!(verify(directory.path().join("none")), Err(DurableError::Io { .. })));
    assert!(files(directory.path()).is_empty());
}

/// A backup of nothing restores to nothing, of which it is known.
#[tokio::test]
async fn an_empty_store_is_backed_up_and_restored() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (file, restored) = (directory.path().join("backup"), directory.path().join("restored"));
    let store = open(&directory.path().join("data"));
    assert_eq!(store.backup(&file).await.ok(), Some(Revision(1)));
    let revision = restore(&file, &restored).expect("a restore");
    let store = open(&restored);
    let key = Key::new(["a"]).expect("a valid key");
    assert_eq!(store.commit(Txn::create(key, Bytes::new())).await.ok(), Some(Revision(revision.0 + 1)));
}
