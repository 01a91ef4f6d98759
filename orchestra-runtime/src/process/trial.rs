//! The suite on images other than the node's files, and the runtime over many starts.

use std::{collections::BTreeSet, fs, net::Ipv4Addr, path::PathBuf, process::Command, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures::StreamExt as _;
use orchestra_core::{
    clock::SystemClock,
    runtime::{
        ContainerId, ContainerRuntime, ContainerSpec, Error, LogOptions, SandboxId, SandboxSpec,
        conformance::{CASES, Fixture, Time, run},
    },
};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::{ProcessRuntime, spool::Spool};

const FIRST: Ipv4Addr = Ipv4Addr::new(127, 201, 8, 1);

/// A node whose containers have a root of their own.
struct Node {
    dir: TempDir,
    image: PathBuf,
}

impl Node {
    fn runtime(&self) -> ProcessRuntime {
        ProcessRuntime::open(self.dir.path(), FIRST, 8, Arc::new(SystemClock)).unwrap()
    }
}

#[async_trait]
impl Fixture for Node {
    async fn open(&self) -> Arc<dyn ContainerRuntime> {
        Arc::new(self.runtime())
    }

    fn image(&self) -> Box<str> {
        self.image.to_string_lossy().into()
    }

    fn missing_image(&self) -> Box<str> {
        "/no/such/image.tar".into()
    }

    fn shared_dir(&self) -> Option<PathBuf> {
        Some(self.dir.path().into())
    }

    async fn close(&self) {
        crate::remove_all(&self.runtime(), Duration::ZERO).await.unwrap();
    }
}

/// The machine's own shell and the few programs that the suite's scripts call, with their libraries.
fn shell_tarball(dir: &TempDir) -> PathBuf {
    let mut files = BTreeSet::new();
    for program in ["/bin/sh", "/bin/sleep", "/bin/cat", "/usr/bin/env"] {
        let linked = Command::new("ldd").arg(program).output().unwrap().stdout;
        let linked = String::from_utf8(linked).unwrap();
        files.insert(PathBuf::from(program));
        files.extend(linked.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from));
    }
    let path = dir.path().join("shell.tar.gz");
    let gzip = flate2::write::GzEncoder::new(fs::File::create(&path).unwrap(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    for file in files {
        let mut content = fs::File::open(&file).unwrap();
        tar.append_file(file.strip_prefix("/").unwrap(), &mut content).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap();
    path
}

#[test]
#[allow(clippy::print_stdout, reason = "a skipped test says so")]
fn every_law_holds_in_a_root_of_its_own() {
    let may = Command::new("unshare").args(["--mount", "true"]).status().is_ok_and(|status| status.success());
    if !may {
        assert!(std::env::var_os("CI").is_none(), "CI runs as root");
        println!("skipped: only root may give a container a root of its own");
        return;
    }
    let images = TempDir::new().unwrap();
    let tarball = shell_tarball(&images);
    let directory = images.path().join("root");
    fs::create_dir(&directory).unwrap();
    super::unpack::unpack_until(&tarball, &directory, CancellationToken::new()).unwrap();
    for case in CASES {
        for image in [&tarball, &directory] {
            run(case.name, Time::Real, &Node { dir: TempDir::new().unwrap(), image: image.clone() });
        }
    }
    assert!(!directory.join("shared").exists(), "each container has a copy of its own");
}

/// A tarball of one file of four gigabytes, which takes no room and long to unpack.
fn long_tarball(dir: &TempDir) -> PathBuf {
    const SIZE: u64 = 4 << 30;
    let path = dir.path().join("long.tar");
    let mut header = tar::Header::new_gnu();
    header.set_path("file").unwrap();
    header.set_size(SIZE);
    header.set_cksum();
    fs::write(&path, header.as_bytes()).unwrap();
    fs::File::options().write(true).open(&path).unwrap().set_len(SIZE + 4 * 512).unwrap();
    path
}

#[tokio::test]
async fn the_removal_of_a_sandbox_does_not_wait_for_its_image() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let image = long_tarball(&dir).to_string_lossy().into();
    let node = ProcessRuntime::open(dir.path().join("node"), FIRST, 8, Arc::new(SystemClock)).unwrap();
    let sandbox = SandboxId("a".into());
    node.create_sandbox(&sandbox, &SandboxSpec::default()).await.unwrap();
    let id = ContainerId { sandbox: sandbox.clone(), name: "main".into(), attempt: 0 };
    let spec = ContainerSpec { image, command: vec!["true".into()], ..ContainerSpec::default() };
    let removal = async {
        while !dir.path().join("node/sandboxes/a/main.0/root/file").exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        node.remove_sandbox(&sandbox).await
    };
    let (started, removed) = tokio::join!(node.start_container(&id, &spec), removal);
    assert!(matches!(started, Err(Error::NoSandbox(_))), "{started:?}");
    removed.unwrap();
    assert!(!dir.path().join("node/sandboxes/a").exists());
}

/// Descriptors and children of this process.
fn held() -> (usize, usize) {
    let own = std::process::id();
    let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
    (fs::read_dir("/proc/self/fd").unwrap().count(), children.split_whitespace().count())
}

/// What the test that counts runs in: alone, for others in its process have files open as well.
const COUNTS: &str = "ORCHESTRA_TEST_COUNTS";

#[tokio::test]
async fn a_node_that_has_started_a_thousand_containers() {
    const STARTS: u32 = 1_000;
    if std::env::var_os(COUNTS).is_none() {
        return;
    }
    let dir = TempDir::new().unwrap();
    let node = ProcessRuntime::open(dir.path(), FIRST, 8, Arc::new(SystemClock)).unwrap();
    let sandbox = SandboxId("a".into());
    node.create_sandbox(&sandbox, &SandboxSpec::default()).await.unwrap();
    let before = held();
    for attempt in 0..STARTS {
        let id = ContainerId { sandbox: sandbox.clone(), name: "main".into(), attempt };
        let spec = ContainerSpec { image: "host".into(), command: vec!["true".into()], ..ContainerSpec::default() };
        node.start_container(&id, &spec).await.unwrap();
        let follow = LogOptions { follow: true, ..LogOptions::default() };
        let log = node.logs().unwrap().open(&id, follow).await.unwrap();
        assert_eq!(log.count().await, 0);
        node.remove_container(&id).await.unwrap();
    }
    // The last one's task may be about to end.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(held(), before);
    crate::remove_all(&node, Duration::ZERO).await.unwrap();
}

#[test]
fn a_thousand_starts_leave_neither_descriptors_nor_zombies() {
    let alone = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::trial::a_node_that_has_started_a_thousand_containers"])
        .env(COUNTS, "1")
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&alone.stdout);
    assert!(alone.status.success() && output.contains("1 passed"), "{output}");
}

/// A log on a full disk: /dev/full says so of every write.
#[test]
fn what_a_full_disk_did_not_take_is_logged_once_there_is_room() {
    let dir = TempDir::new().unwrap();
    let now = orchestra_core::clock::Timestamp::UNIX_EPOCH;
    let mut spool = Spool::open(dir.path()).unwrap();
    fs::write(dir.path().join("stdout"), "one\ntwo\nthr").unwrap();
    spool.redirect_log(fs::File::options().write(true).open("/dev/full").unwrap());
    for _ in 0..2 {
        assert_eq!(spool.advance(now).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    }
    spool.redirect_log(fs::File::options().append(true).open(dir.path().join("log")).unwrap());
    fs::write(dir.path().join("stdout"), "one\ntwo\nthree\n").unwrap();
    spool.finish(now).unwrap();
    let log = fs::read_to_string(dir.path().join("log")).unwrap();
    let texts: Vec<_> = log.lines().map(|line| line.rsplit(' ').next().unwrap()).collect();
    assert_eq!(texts, ["one", "two", "three"]);
}
