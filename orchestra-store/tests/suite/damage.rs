//! What is made of files that are not as they were written (SEMANTICS 17).

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use futures::FutureExt as _;
use orchestra_core::store::{Key, Listing, Prefix, Revision, Store, Txn};
use orchestra_store::{DurableError, DurableOptions, DurableStore, durable::verify};

use super::reopen::{open, write};

const COMMITS: u64 = 12;
/// About how many bits of one file are flipped.
const FLIPS: usize = 400;
/// The first frame of a file, after the guard of its sector: its head, a tag, the format, a kind and a revision.
const HEAD_BYTES: usize = 16;
const SECTOR_BYTES: usize = 512;
const HEADER_BYTES: usize = 1 + HEAD_BYTES + 1 + 4 + 1 + 8;
const FORMAT_AT: usize = 1 + HEAD_BYTES + 1;
const REVISION_AT: usize = FORMAT_AT + 4 + 1;

/// Makes a store of [`COMMITS`] creations, each synced for itself; returns the path of its log.
async fn log_of_creations(directory: &Path) -> PathBuf {
    let store = try_open(directory).expect("a store opens");
    for index in 0..COMMITS {
        let key = Key::new([format!("{index:02}").as_str()]).expect("a valid name");
        store.commit(Txn::create(key, Bytes::from(vec![b'x'; 40]))).await.expect("a commit");
    }
    drop(store);
    first_file(directory, "log-")
}

/// The files whose names begin so.
fn files_of(directory: &Path, start: &str) -> impl Iterator<Item = PathBuf> {
    let files = fs::read_dir(directory).expect("a directory").map(|file| file.expect("a file").path());
    files.filter(move |path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start)))
}

/// The file of the lowest revision whose name begins so; a later log is there when a checkpoint was given up.
fn first_file(directory: &Path, start: &str) -> PathBuf {
    files_of(directory, start).min().expect("such a file")
}

fn last_file(directory: &Path, start: &str) -> PathBuf {
    files_of(directory, start).max().expect("such a file")
}

async fn list(store: &DurableStore) -> Listing {
    store.list(&Prefix::all()).await.expect("a listing")
}

/// Rule 17: any prefix of the log is what some crash leaves, and opens as the commits that are whole in it.
#[tokio::test]
async fn a_log_cut_off_anywhere_opens_with_the_commits_before() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = log_of_creations(directory.path()).await;
    unseal(directory.path());
    let whole = fs::read(&log).expect("a log");
    let mut most = Revision(0);
    for len in (HEADER_BYTES..whole.len()).step_by(7).chain([whole.len() - 1]) {
        let image = image(directory.path(), &log, &whole[..len]);
        let mut listing = None;
        // What is added by one opener is there for the next, whose log is another.
        for added in 0..3 {
            let store = try_open(image.path()).expect("a crash image opens");
            let found = list(&store).await;
            let before = listing.replace(found.clone()).unwrap_or_else(|| found.clone());
            assert!(found.entries.len() as u64 + 1 == found.revision.0 && before.revision <= found.revision);
            assert!(
                found.entries.iter().map(|entry| entry.modified.0).max().is_none_or(|last| last == found.revision.0)
            );
            most = most.max(Revision(found.revision.0 - added));
            let next = Txn::create(Key::new(["next", &added.to_string()]).expect("a valid name"), Bytes::new());
            assert_eq!(store.commit(next).await.ok(), Some(Revision(found.revision.0 + 1)));
            drop(store);
            unseal(image.path());
        }
    }
    assert_eq!(most, Revision(COMMITS), "the last byte is of the last commit");
}

/// A copy of a store with another log.
fn image(directory: &Path, log: &Path, bytes: &[u8]) -> tempfile::TempDir {
    let image = tempfile::tempdir().expect("a temporary directory");
    copy(directory, image.path());
    fs::write(image.path().join(log.file_name().expect("a name")), bytes).expect("a write");
    image
}

/// Makes of a store that was closed one that was killed.
fn unseal(directory: &Path) {
    fs::remove_file(directory.join("SEAL")).expect("a seal");
}

/// Opens the store in `directory`, without checkpoints.
fn try_open(directory: &Path) -> Result<DurableStore, DurableError> {
    DurableStore::open_with(directory, DurableOptions { reserve_bytes: 4 << 10, ..DurableOptions::default() })
}

/// Copies the files of an open store: what is left of it if the process is killed now.
fn copy(from: &Path, to: &Path) {
    for file in fs::read_dir(from).expect("a directory") {
        let file = file.expect("a file");
        fs::copy(file.path(), to.join(file.file_name())).expect("a copy");
    }
}

/// Rule 17: of a store that was closed, and of one that was killed, in each file.
#[tokio::test]
async fn a_flipped_bit_is_told_or_takes_nothing() {
    let (closed, killed) = (tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory"));
    // So many that a checkpoint is done, though the last one may be given up.
    drop(write(&open(closed.path()), 40).await);
    let store = try_open(closed.path()).expect("a store opens");
    let key = Key::new(["last"]).expect("a valid key");
    store.commit(Txn::create(key, Bytes::from_static(b"the last word"))).await.expect("a commit");
    let expected = list(&store).await;
    copy(closed.path(), killed.path());
    drop(store);
    for directory in [closed.path(), killed.path()] {
        for name in ["log-", "checkpoint-", "LOCK", "RESERVE", "SEAL"] {
            flip_bits(directory, &last_file(directory, name), &expected);
        }
    }
}

/// Opens the store with each of some bits of a file flipped.
fn flip_bits(directory: &Path, path: &Path, expected: &Listing) {
    let whole = fs::read(path).expect("a file");
    // An odd step comes by each bit of a byte.
    let step = (whole.len() * 8 / FLIPS) | 1;
    for bit in (0..whole.len() * 8).step_by(step) {
        let image = tempfile::tempdir().expect("a temporary directory");
        copy(directory, image.path());
        let damaged = image.path().join(path.file_name().expect("a name"));
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&damaged, &flipped).expect("a write");
        match try_open(image.path()) {
            Err(DurableError::Corrupt { file, .. }) => assert_eq!(file, damaged),
            Err(error) => panic!("expected Corrupt, got {error:?}"),
            Ok(store) => {
                let listing = store.list(&Prefix::all()).now_or_never().expect("no wait").expect("a listing");
                assert_eq!(listing, *expected, "bit {bit} of {} was missed", path.display());
            }
        }
    }
}

fn assert_corrupt(directory: &Path, file: &Path, what: &str) {
    for result in [try_open(directory).map(drop), verify(directory).map(drop)] {
        assert!(matches!(&result, Err(DurableError::Corrupt { file: told, .. }) if told == file), "{what}: {result:?}");
    }
}

/// Rule 17: a byte may be another, at any place, and so may all of a sector.
#[tokio::test]
async fn damage_to_a_closed_store_is_told() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = log_of_creations(directory.path()).await;
    let whole = fs::read(&log).expect("a log");
    for position in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[position] ^= 0xa5;
        fs::write(&log, &damaged).expect("a write");
        assert_corrupt(directory.path(), &log, &format!("byte {position}"));
    }
    for start in (0..whole.len()).step_by(SECTOR_BYTES) {
        let mut damaged = whole.clone();
        let end = whole.len().min(start + SECTOR_BYTES);
        damaged[start..end].fill(0);
        fs::write(&log, &damaged).expect("a write");
        assert_corrupt(directory.path(), &log, &format!("the sector at {start}"));
    }
}

/// Rule 17: what a disk did not write is zeros as far as a sector reaches; a byte alone is damage, of a killed store too.
#[tokio::test]
async fn a_byte_that_became_zero_is_told_though_nobody_closed_the_store() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    log_of_creations(directory.path()).await;
    let store = try_open(directory.path()).expect("a store opens");
    store
        .commit(Txn::create(Key::new(["last"]).expect("a valid name"), vec![b'x'; 2_000].into()))
        .await
        .expect("a commit");
    let killed = tempfile::tempdir().expect("a temporary directory");
    copy(directory.path(), killed.path());
    drop(store);
    let log = last_file(killed.path(), "log-");
    let whole = fs::read(&log).expect("a log");
    let start = last_frame(&whole);
    for position in (start..whole.len()).filter(|position| whole[*position] != 0) {
        let mut damaged = whole.clone();
        damaged[position] = 0;
        fs::write(&log, &damaged).expect("a write");
        assert_corrupt(killed.path(), &log, &format!("byte {position}"));
    }
}

/// Where the last frame of a log begins.
fn last_frame(log: &[u8]) -> usize {
    log.windows(4).rposition(|bytes| bytes == b"OrcS").expect("a frame")
}

/// Rule 17: a length that can't be costs no memory.
#[tokio::test]
async fn a_file_of_terabytes_is_told() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = log_of_creations(directory.path()).await;
    for name in [log, directory.path().join("SEAL")] {
        let len = fs::metadata(&name).expect("a file").len();
        let file = fs::File::options().write(true).open(&name).expect("a file");
        file.set_len(3 << 40).expect("a sparse file");
        assert_corrupt(directory.path(), &name, "three terabytes");
        file.set_len(len).expect("the file as it was");
    }
}

/// Rule 17: a store that was closed was not cut off by a crash.
#[tokio::test]
async fn a_log_cut_off_after_the_store_was_closed_is_told() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = log_of_creations(directory.path()).await;
    let whole = fs::read(&log).expect("a log");
    for len in 0..whole.len() {
        fs::write(&log, &whole[..len]).expect("a write");
        assert_corrupt(directory.path(), &log, &format!("{len} bytes are left"));
    }
    fs::write(&log, [&*whole, b"more"].concat()).expect("a write");
    assert_corrupt(directory.path(), &log, "there is more");
    fs::write(&log, &whole).expect("a write");
    assert_eq!(verify(directory.path()).map(|report| report.revision).ok(), Some(Revision(COMMITS + 1)));
    assert_eq!(list(&open(directory.path())).await.revision, Revision(COMMITS + 1));
}

/// Rule 17.
#[tokio::test]
async fn a_damaged_checkpoint_is_told_and_never_read() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    write(&open(directory.path()), 40).await;
    drop(open(directory.path()));
    let checkpoint = first_file(directory.path(), "checkpoint-");
    let whole = fs::read(&checkpoint).expect("a checkpoint");
    let flips = (0..whole.len()).map(|position| {
        let mut flipped = whole.clone();
        flipped[position] ^= 1 << (position % 8);
        flipped
    });
    let cuts = (0..whole.len()).map(|len| whole[..len].to_vec());
    for damaged in flips.chain(cuts) {
        fs::write(&checkpoint, damaged).expect("a write");
        let result = try_open(directory.path());
        assert!(matches!(&result, Err(DurableError::Corrupt { file, .. }) if *file == checkpoint), "got {result:?}");
    }
}

/// Rule 17: never silently empty.
#[tokio::test]
async fn a_missing_or_empty_file_or_a_directory_in_its_place_is_told() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let before = write(&open(directory.path()), 40).await;
    drop(open(directory.path()));
    let aside = directory.path().join("aside");
    for start in ["log-", "checkpoint-"] {
        let path = last_file(directory.path(), start);
        fs::rename(&path, &aside).expect("a rename");
        let result = try_open(directory.path());
        assert!(matches!(result, Err(DurableError::Corrupt { .. })), "got {result:?}");
        fs::write(&path, b"").expect("a write");
        let result = try_open(directory.path());
        assert!(matches!(&result, Err(DurableError::Corrupt { file, .. }) if *file == path), "got {result:?}");
        fs::remove_file(&path).expect("a removal");
        fs::create_dir(&path).expect("a directory");
        let result = try_open(directory.path());
        assert!(matches!(&result, Err(DurableError::Io { file, .. }) if *file == path), "got {result:?}");
        fs::remove_dir(&path).expect("a removal");
        fs::rename(&aside, &path).expect("a rename");
    }
    for name in ["LOCK", "RESERVE"] {
        fs::write(directory.path().join(name), b"").expect("a write");
        assert_eq!(list(&open(directory.path())).await, before, "{name} holds nothing of the store");
        fs::remove_file(directory.path().join(name)).expect("a removal");
        assert_eq!(list(&open(directory.path())).await, before, "{name} holds nothing of the store");
    }
}

/// Rule 17: a store whose files are all gone is not a new one.
#[tokio::test]
async fn a_store_without_its_only_file_is_told_from_a_new_one() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = log_of_creations(directory.path()).await;
    fs::remove_file(&log).expect("a removal");
    for result in [try_open(directory.path()).map(drop), verify(directory.path()).map(drop)] {
        assert!(matches!(&result, Err(DurableError::Corrupt { file, .. }) if *file == log), "got {result:?}");
    }
}

#[test]
fn a_file_in_place_of_the_directory_is_told() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("file");
    fs::write(&file, b"").expect("a write");
    let result = DurableStore::open(&file);
    assert!(matches!(&result, Err(DurableError::Io { file: told, .. }) if *told == file), "got {result:?}");
}

/// Makes the header of a log from that of another, with some bytes of its payload replaced.
fn header_with(log: &Path, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut header = fs::read(log).expect("a log");
    header.truncate(HEADER_BYTES);
    header[at..at + bytes.len()].copy_from_slice(bytes);
    let sum = crc32fast::hash(&header[1 + HEAD_BYTES..]);
    header[9..13].copy_from_slice(&sum.to_le_bytes());
    let sum = crc32fast::hash(&[&[0; 8], &header[1..13]].concat());
    header[13..17].copy_from_slice(&sum.to_le_bytes());
    header
}

/// A file of another version is refused, not guessed at.
#[tokio::test]
async fn another_format_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = log_of_creations(directory.path()).await;
    for format in [0_u32, 3, 9] {
        fs::write(&log, header_with(&log, FORMAT_AT, &format.to_le_bytes())).expect("a write");
        let result = try_open(directory.path());
        let is_told = matches!(result, Err(DurableError::Format { found, supported: 2, .. }) if found == format);
        assert!(is_told, "got {result:?}");
    }
    fs::write(&log, b"OrcF\x0e\0\0\0what format 1 began with").expect("a write");
    let result = try_open(directory.path());
    assert!(matches!(result, Err(DurableError::Format { found: 1, supported: 2, .. })), "got {result:?}");
}

/// An error after a new log got its name leaves it empty, and the store with the old one.
#[tokio::test]
async fn a_log_that_was_begun_but_never_used_is_no_damage() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = log_of_creations(directory.path()).await;
    let whole = fs::read(&log).expect("a log");
    let last = last_frame(&whole);
    let base = COMMITS + 1;
    let sealed = directory.path().join(format!("log-{base:020}"));
    fs::write(&sealed, header_with(&log, REVISION_AT, &base.to_le_bytes())).expect("a write");
    assert_eq!(verify(directory.path()).map(|report| report.revision).ok(), Some(Revision(base)), "it was sealed");
    fs::remove_file(&sealed).expect("a removal");
    unseal(directory.path());
    for (len, expected) in [(whole.len(), COMMITS + 1), (last + 20, COMMITS)] {
        let image = image(directory.path(), &log, &whole[..len]);
        let unused = image.path().join(format!("log-{COMMITS:020}"));
        fs::write(&unused, header_with(&log, REVISION_AT, &COMMITS.to_le_bytes())).expect("a write");
        for _ in 0..2 {
            let store = try_open(image.path()).expect("a store opens");
            assert_eq!(list(&store).await.revision, Revision(expected));
        }
    }
}

/// Rule 17: the log before one that was begun had all that came before.
#[tokio::test]
async fn a_log_that_ends_before_the_next_begins_is_told() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = log_of_creations(directory.path()).await;
    let whole = fs::read(&log).expect("a log");
    let next = directory.path().join(format!("log-{:020}", COMMITS + 1));
    fs::write(&next, header_with(&log, REVISION_AT, &(COMMITS + 1).to_le_bytes())).expect("a write");
    unseal(directory.path());
    for len in [whole.len() - 20, whole.len() - 60] {
        fs::write(&log, &whole[..len]).expect("a write");
        let result = try_open(directory.path());
        assert!(matches!(result, Err(DurableError::Corrupt { .. })), "got {result:?}");
    }
}
