//! What is made of files that are not as they were written (SEMANTICS 17).

use std::{
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use orchestra_core::store::{Key, Listing, Prefix, Revision, Store, Txn};
use orchestra_store::{DurableStore, OpenError};

use super::reopen::{open, write};

const COMMITS: u64 = 12;
/// The first frame of a file: its head, a tag, the format, a kind and a revision.
const HEADER_BYTES: usize = 12 + 1 + 4 + 1 + 8;
const FORMAT_AT: usize = 12 + 1;
const REVISION_AT: usize = FORMAT_AT + 4 + 1;

/// Makes a store of [`COMMITS`] creations, each synced for itself; returns the path of its log.
async fn log_of_creations(directory: &Path) -> PathBuf {
    let store = DurableStore::open(directory).expect("a store opens");
    for index in 0..COMMITS {
        let key = Key::new([format!("{index:02}").as_str()]).expect("a valid name");
        store.commit(Txn::create(key, Bytes::from(vec![b'x'; 40]))).await.expect("a commit");
    }
    drop(store);
    first_file(directory, "log-")
}

/// The file of the lowest revision whose name begins so; a later log is there when a checkpoint was given up.
fn first_file(directory: &Path, start: &str) -> PathBuf {
    let files = fs::read_dir(directory).expect("a directory").map(|file| file.expect("a file").path());
    let named = files.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start)));
    named.min().expect("such a file")
}

async fn list(store: &DurableStore) -> Listing {
    store.list(&Prefix::all()).await.expect("a listing")
}

/// Rule 17: any prefix of the log is what some crash leaves, and opens as the commits that are whole in it.
#[tokio::test]
async fn a_log_cut_off_anywhere_opens_with_the_commits_before() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = log_of_creations(directory.path()).await;
    let whole = fs::read(&log).expect("a log");
    let mut most = Revision(0);
    let head = whole.len() - 1;
    for len in (HEADER_BYTES..=head).step_by(7).chain([head]) {
        fs::write(&log, &whole[..len]).expect("a write");
        let store = DurableStore::open(directory.path()).expect("a crash image opens");
        let listing = list(&store).await;
        assert_eq!(listing.entries.len() as u64 + 1, listing.revision.0);
        assert!(listing.entries.iter().zip(2..).all(|(entry, revision)| entry.modified == Revision(revision)));
        assert!(listing.revision >= most);
        most = listing.revision;
        let fence = Txn::create(Key::new(["fence"]).expect("a valid name"), Bytes::new());
        assert_eq!(store.commit(fence).await.ok(), Some(Revision(listing.revision.0 + 1)));
    }
    assert_eq!(most, Revision(COMMITS));
}

/// Rule 17: a flipped bit before the last commit is told, with the file; in the last one it may look like a torn write.
#[tokio::test]
async fn a_flipped_bit_is_told_and_never_read() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = log_of_creations(directory.path()).await;
    let whole = fs::read(&log).expect("a log");
    let last = whole.windows(4).rposition(|bytes| bytes == b"OrcF").expect("a frame");
    for position in (0..whole.len()).step_by(3) {
        let mut flipped = whole.clone();
        flipped[position] ^= 1 << (position % 8);
        fs::write(&log, &flipped).expect("a write");
        match DurableStore::open(directory.path()) {
            Err(OpenError::Corrupt { file, .. }) => assert_eq!(file, log),
            Err(error) => panic!("expected Corrupt, got {error:?}"),
            Ok(store) => {
                assert!(position >= last, "byte {position} was not missed");
                assert_eq!(list(&store).await.revision, Revision(COMMITS));
            }
        }
    }
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
        let result = DurableStore::open(directory.path());
        assert!(matches!(&result, Err(OpenError::Corrupt { file, .. }) if *file == checkpoint), "got {result:?}");
    }
}

/// Rule 17: never silently empty.
#[tokio::test]
async fn a_missing_file_is_told() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    write(&open(directory.path()), 40).await;
    drop(open(directory.path()));
    for start in ["log-", "checkpoint-"] {
        let path = first_file(directory.path(), start);
        let aside = directory.path().join("aside");
        fs::rename(&path, &aside).expect("a rename");
        let result = DurableStore::open(directory.path());
        assert!(matches!(result, Err(OpenError::Corrupt { .. })), "got {result:?}");
        fs::rename(&aside, &path).expect("a rename");
    }
    DurableStore::open(directory.path()).expect("all is back");
}

/// Makes the header of a log from that of another, with some bytes of its payload replaced.
fn header_with(log: &Path, at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut header = fs::read(log).expect("a log");
    header.truncate(HEADER_BYTES);
    header[at..at + bytes.len()].copy_from_slice(bytes);
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&header[4..8]);
    hasher.update(&header[12..]);
    header[8..12].copy_from_slice(&hasher.finalize().to_le_bytes());
    header
}

/// A file of a later version is refused, not guessed at.
#[tokio::test]
async fn a_later_format_is_refused() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = log_of_creations(directory.path()).await;
    fs::write(&log, header_with(&log, FORMAT_AT, &9_u32.to_le_bytes())).expect("a write");
    let result = DurableStore::open(directory.path());
    assert!(matches!(result, Err(OpenError::Format { found: 9, supported: 1, .. })), "got {result:?}");
}

/// An error after a new log got its name leaves it empty, and the store with the old one.
#[tokio::test]
async fn a_log_that_was_begun_but_never_used_is_no_damage() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let log = log_of_creations(directory.path()).await;
    let whole = fs::read(&log).expect("a log");
    let last = whole.windows(4).rposition(|bytes| bytes == b"OrcF").expect("a frame");
    let unused = directory.path().join(format!("log-{COMMITS:020}"));
    for (len, expected) in [(whole.len(), COMMITS + 1), (last + 20, COMMITS)] {
        fs::write(&log, &whole[..len]).expect("a write");
        fs::write(&unused, header_with(&log, REVISION_AT, &COMMITS.to_le_bytes())).expect("a write");
        let store = DurableStore::open(directory.path()).expect("a store opens");
        assert_eq!(list(&store).await.revision, Revision(expected));
        assert!(!unused.exists());
    }
}
