//! A file system that is really full (SEMANTICS 18).

use std::{
    env, fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Command,
};

use bytes::Bytes;
use futures::future::join_all;
use orchestra_core::store::{Error, Key, Prefix, Store, Txn};
use orchestra_store::{DurableOptions, DurableStore};

/// How often a commit is tried until the space that a checkpoint frees must be there.
const TRIES_MAX: usize = 1_000_000;

/// A small file system in memory, unmounted when dropped.
struct Mount(tempfile::TempDir);

impl Mount {
    /// Mounts one of so many KiB; `None` without the right to.
    fn new(kib: u32) -> Option<Self> {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let size = format!("size={kib}k");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(directory.path()).output();
        mount.is_ok_and(|output| output.status.success()).then(|| Self(directory))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A process that another test is about to start may hold its files for a moment longer.
        let unmounted = Command::new("umount").arg("--lazy").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()), "{} stays mounted", self.path().display());
    }
}

/// Takes all the space there is; removed, it gives that back.
fn fill(directory: &Path) -> PathBuf {
    let ballast = directory.join("ballast");
    let chunk = [b'x'; 4096];
    let mut file = fs::File::create(&ballast).expect("a file");
    while file.write_all(&chunk).is_ok() {}
    ballast
}

/// An error and its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Rule 18: however many keys there are, and however small the values.
#[tokio::test]
async fn all_can_be_deleted_of_a_store_that_has_filled_its_file_system() {
    let Some(mount) = Mount::new(6 << 10) else {
        skip();
        return;
    };
    let options = DurableOptions { reserve_bytes: 256 << 10, ..DurableOptions::default() };
    let store = DurableStore::open_with(mount.path().join("data"), options).expect("a store opens");
    let key = |index: u32| Key::new(["small", &format!("{index:06}")]).expect("a valid name");
    let mut seen = Vec::new();
    'full: for batch in 0.. {
        let creations = (batch * 500..(batch + 1) * 500).map(|index| Txn::create(key(index), Bytes::from_static(b"x")));
        for result in join_all(creations.map(|creation| store.commit(creation))).await {
            match result {
                Ok(revision) => seen.push(revision),
                Err(Error::Unavailable(_)) => break 'full,
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(seen.len() > 10_000, "only {} keys filled it", seen.len());
    for (index, seen) in (0..).zip(&seen) {
        store
            .commit(Txn::delete(key(index), *seen))
            .await
            .unwrap_or_else(|error| panic!("key {index}: {}", chain(&error)));
    }
    for _ in 0..TRIES_MAX {
        if store.commit(Txn::create(key(0), Bytes::from_static(b"again"))).await.is_ok() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("what was deleted makes no room");
}

/// Rule 18: it opens with no room to write anything, however large what it last wrote is, and then deletes.
#[tokio::test]
async fn a_store_that_was_killed_opens_on_a_full_file_system() {
    let Some(mount) = Mount::new(12 << 10) else {
        skip();
        return;
    };
    let (data, copy) = (mount.path().join("data"), tempfile::tempdir().expect("a temporary directory"));
    let store = DurableStore::open(&data).expect("a store opens");
    let key = |index: u32| Key::new([format!("{index:02}").as_str()]).expect("a valid name");
    let mut seen = Vec::new();
    while let Ok(revision) = store.commit(Txn::create(key(seen.len() as u32), vec![b'x'; 1_500_000].into())).await {
        seen.push(revision);
    }
    // What is left of it if the process is killed now.
    for file in fs::read_dir(&data).expect("a directory").map(|file| file.expect("a file")) {
        fs::copy(file.path(), copy.path().join(file.file_name())).expect("a copy");
    }
    drop(store);
    fs::remove_dir_all(&data).expect("a removal");
    fs::create_dir(&data).expect("a directory");
    for file in fs::read_dir(copy.path()).expect("a directory").map(|file| file.expect("a file")) {
        fs::copy(file.path(), data.join(file.file_name())).expect("a copy");
    }
    let ballast = fill(mount.path());
    let store = DurableStore::open(&data).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_eq!(store.revision().await.ok(), seen.last().copied());
    for (index, seen) in (0..).zip(&seen) {
        store.commit(Txn::delete(key(index), *seen)).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    }
    fs::remove_file(ballast).expect("a removal");
}

/// Rule 18: whoever else waits for space gets little of what is given up to deletions.
#[tokio::test]
async fn deletions_go_on_beside_one_that_takes_all_space_there_is() {
    let Some(mount) = Mount::new(6 << 10) else {
        skip();
        return;
    };
    let store = DurableStore::open(mount.path().join("data")).expect("a store opens");
    let key = |index: u32| Key::new([format!("{index:06}").as_str()]).expect("a valid name");
    let creations = (0..5_000).map(|index| store.commit(Txn::create(key(index), vec![b'x'; 100].into())));
    let seen: Vec<_> = join_all(creations).await.into_iter().map(|seen| seen.expect("there is space")).collect();
    let mut greedy = fs::File::create(mount.path().join("greedy")).expect("a file");
    for (index, seen) in (0..).zip(seen) {
        while greedy.write_all(&[b'x'; 4096]).is_ok() {}
        store.commit(Txn::delete(key(index), seen)).await.unwrap_or_else(|error| panic!("{index}: {}", chain(&error)));
    }
}

fn skip() {
    assert!(env::var_os("CI").is_none(), "CI can mount a tmpfs");
    writeln!(io::stderr(), "skipped: no right to mount a tmpfs").expect("a terminal, a file or a pipe");
}

/// Rule 18.
#[tokio::test]
async fn a_store_on_a_full_file_system_refuses_writes_deletes_and_recovers() {
    let Some(mount) = Mount::new(2048) else {
        skip();
        return;
    };
    let data = mount.path().join("data");
    let store =
        DurableStore::open_with(&data, DurableOptions { reserve_bytes: 256 << 10, ..DurableOptions::default() });
    let store = store.expect("a store opens");
    let key = |name: &str| Key::new([name]).expect("a valid name");
    let value = Bytes::from(vec![b'x'; 16 << 10]);
    let seen = store.commit(Txn::create(key("a"), value.clone())).await.expect("there is space");
    let ballast = fill(mount.path());
    let error = store.commit(Txn::create(key("b"), value.clone())).await.expect_err("there is none");
    assert!(matches!(error, Error::Unavailable(_)));
    let said = chain(&error);
    assert!(said.contains("no space left") && said.contains(&*data.to_string_lossy()), "it said {said}");
    assert_eq!(store.list(&Prefix::all()).await.expect("a listing").revision, seen);
    let deleted = store.commit(Txn::delete(key("a"), seen)).await.expect("deletions go on");
    assert!(store.commit(Txn::create(key("b"), value.clone())).await.is_err());
    fs::remove_file(ballast).expect("a removal");
    let created = store.commit(Txn::create(key("b"), value)).await.expect("there is space again");
    assert_eq!(created.0, deleted.0 + 1);
    drop(store);
    let store = DurableStore::open(&data).expect("it opens again");
    assert_eq!(store.revision().await.ok(), Some(created));
}
