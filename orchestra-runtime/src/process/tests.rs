//! The suite on processes, and what is theirs alone.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::StreamExt as _;
use orchestra_core::{
    clock::SystemClock,
    runtime::{
        ContainerId, ContainerRuntime, ContainerSpec, ContainerState, EnvVar, Error, ExecSpec, ExitReason, LogOptions,
        Mount, Resources, SandboxId, SandboxSpec, TerminalSize, User,
        conformance::{Fixture, Time},
    },
    runtime_conformance,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::ProcessRuntime;

const FIRST: Ipv4Addr = Ipv4Addr::new(127, 201, 7, 1);
const FOLLOW: LogOptions = LogOptions { tail_lines: None, since: None, follow: true };
/// Tells the kubelet that a test kills where its state is.
const KUBELET_DIR: &str = "ORCHESTRA_TEST_KUBELET_DIR";

struct Node(TempDir);

#[async_trait]
impl Fixture for Node {
    async fn open(&self) -> Arc<dyn ContainerRuntime> {
        Arc::new(open(self.0.path()))
    }

    fn image(&self) -> Box<str> {
        "host".into()
    }

    fn missing_image(&self) -> Box<str> {
        "docker.io/library/nginx:1.27".into()
    }

    fn shared_dir(&self) -> Option<PathBuf> {
        Some(self.0.path().into())
    }

    async fn close(&self) {
        // The case's own runtime has gone with the case.
        crate::remove_all(&open(self.0.path()), Duration::ZERO).await.unwrap();
    }
}

runtime_conformance!(Time::Real, Node(TempDir::new().unwrap()));

fn open(dir: &Path) -> ProcessRuntime {
    ProcessRuntime::open(dir, FIRST, 8, Arc::new(SystemClock)).unwrap()
}

/// A node with a sandbox, and the id of a container to start there.
async fn node(dir: &TempDir) -> (ProcessRuntime, ContainerId) {
    let node = open(dir.path());
    let sandbox = SandboxId("a".into());
    node.create_sandbox(&sandbox, &SandboxSpec { hostname: "web-0".into(), ..SandboxSpec::default() }).await.unwrap();
    (node, ContainerId { sandbox, name: "main".into(), attempt: 0 })
}

fn script(script: &str) -> ContainerSpec {
    let command = ["sh", "-c", script].map(Into::into).into();
    ContainerSpec { image: "host".into(), command, ..ContainerSpec::default() }
}

/// All the lines of a container, once it has ended.
async fn output(node: &ProcessRuntime, id: &ContainerId) -> Vec<String> {
    let log = node.logs().unwrap().open(id, FOLLOW).await.unwrap();
    log.map(|line| String::from_utf8(line.unwrap().text.to_vec()).unwrap()).collect().await
}

async fn state(node: &ProcessRuntime) -> ContainerState {
    node.list().await.unwrap()[0].containers[0].state.clone()
}

fn signal(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

fn lives(pid: &str) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z ")
}

#[tokio::test]
async fn a_container_is_told_its_address_and_name() {
    let dir = TempDir::new().unwrap();
    let (node, id) = node(&dir).await;
    node.start_container(&id, &script("echo $POD_IP $HOSTNAME")).await.unwrap();
    assert_eq!(output(&node, &id).await, ["127.201.7.1 web-0"]);
    crate::remove_all(&node, Duration::ZERO).await.unwrap();
}

/// Kubernetes takes such names from config maps and secrets; shells don't.
#[tokio::test]
async fn a_variable_may_have_a_dot_in_its_name() {
    let dir = TempDir::new().unwrap();
    let (node, id) = node(&dir).await;
    let odd = EnvVar { name: "tls.crt".into(), value: "it's odd".into() };
    let spec = ContainerSpec { command: vec!["env".into()], env: vec![odd], ..script("") };
    node.start_container(&id, &spec).await.unwrap();
    assert!(output(&node, &id).await.contains(&"tls.crt=it's odd".into()));
    crate::remove_all(&node, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_mount_appears_below_the_mount_point() {
    let dir = TempDir::new().unwrap();
    let (node, id) = node(&dir).await;
    fs::write(dir.path().join("index.html"), "hello\n").unwrap();
    let mount =
        Mount { host_path: dir.path().join("index.html"), container_path: "/srv/index.html".into(), read_only: true };
    let spec =
        ContainerSpec { mounts: vec![mount.clone()], ..script("cat $CONTAINER_SANDBOX_MOUNT_POINT/srv/*; cat srv/*") };
    node.start_container(&id, &spec).await.unwrap();
    assert_eq!(output(&node, &id).await, ["hello", "hello"]);
    let escaping = Mount { container_path: "/srv/../../../up".into(), ..mount };
    let spec = ContainerSpec { mounts: vec![escaping], ..script("true") };
    let outcome = node.start_container(&ContainerId { attempt: 1, ..id }, &spec).await;
    assert!(matches!(outcome, Err(Error::Invalid(_))));
    crate::remove_all(&node, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn what_a_process_cannot_have_is_refused_or_told() {
    let dir = TempDir::new().unwrap();
    let (node, id) = node(&dir).await;
    let other = User { uid: 65_534, gid: None };
    let other_group = User { uid: rustix::process::geteuid().as_raw(), gid: Some(65_534) };
    for spec in [
        ContainerSpec { user: Some(other), ..script("true") },
        ContainerSpec { user: Some(other_group), ..script("true") },
        ContainerSpec { tty: true, ..script("true") },
    ] {
        assert!(matches!(node.start_container(&id, &spec).await, Err(Error::Invalid(_))));
    }
    let non_root = ContainerSpec { non_root: true, ..script("true") };
    let outcome = node.start_container(&id, &non_root).await;
    assert_eq!(matches!(outcome, Err(Error::AsRoot { .. })), rustix::process::geteuid().is_root(), "{outcome:?}");
    let id = ContainerId { attempt: 1, ..id };
    assert!(!node.capabilities().limits);
    let limits = Resources { cpu_millis: Some(10), memory_bytes: None };
    node.start_container(&id, &ContainerSpec { resources: limits, ..script("true") }).await.unwrap();
    crate::remove_all(&node, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn grandchildren_end_with_their_container() {
    let dir = TempDir::new().unwrap();
    let (node, id) = node(&dir).await;
    node.start_container(&id, &script("sleep 1000 & echo $!; exit 3")).await.unwrap();
    let child = output(&node, &id).await.remove(0);
    assert_eq!(state(&node).await.exit_code(), Some(3));
    // Killed with its group before the end was told; the kernel may take a moment to bury it.
    let buried = async {
        while lives(&child) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), buried).await.expect("it does not live on");
    crate::remove_all(&node, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_program_killed_from_outside_has_its_signal_as_code() {
    let dir = TempDir::new().unwrap();
    let (node, id) = node(&dir).await;
    node.start_container(&id, &script("sleep 1000")).await.unwrap();
    let ContainerState::Running { pid: Some(pid), .. } = state(&node).await else { panic!("it runs as a process") };
    signal(pid, Signal::KILL);
    output(&node, &id).await;
    assert!(matches!(state(&node).await, ContainerState::Exited { code: 137, reason: ExitReason::Ended, .. }));
    crate::remove_all(&node, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_program_does_not_outlive_a_killed_supervisor() {
    let dir = TempDir::new().unwrap();
    let (node, id) = node(&dir).await;
    node.start_container(&id, &script("echo $PPID $$; sleep 1000")).await.unwrap();
    let log = node.logs().unwrap().open(&id, FOLLOW).await.unwrap();
    let line =
        log.take(1).map(|line| String::from_utf8(line.unwrap().text.to_vec()).unwrap()).collect::<String>().await;
    let (supervisor, program) = line.split_once(' ').unwrap();
    signal(supervisor.parse().unwrap(), Signal::KILL);
    output(&node, &id).await;
    assert!(matches!(state(&node).await, ContainerState::Exited { code: 137, reason: ExitReason::Lost, .. }));
    crate::remove_all(&node, Duration::ZERO).await.unwrap();
    assert!(!lives(program));
}

#[tokio::test]
async fn a_directory_has_one_runtime_at_a_time() {
    let dir = TempDir::new().unwrap();
    let node = open(dir.path());
    let second = ProcessRuntime::open(dir.path(), FIRST, 8, Arc::new(SystemClock));
    assert!(matches!(second, Err(Error::Unavailable(_))));
    drop(node);
    open(dir.path());
}

/// A kubelet that was killed may still be ending when the next one starts.
#[tokio::test]
async fn a_runtime_waits_for_the_one_before_it_to_end() {
    let dir = TempDir::new().unwrap();
    let node = open(dir.path());
    let ending = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_millis(200));
        drop(node);
    });
    open(dir.path());
    ending.await.unwrap();
}

/// What a kubelet looks like to the next test, which kills it; by itself it does nothing.
#[tokio::test]
async fn a_kubelet_to_be_killed() {
    let Some(dir) = std::env::var_os(KUBELET_DIR) else { return };
    let node = open(Path::new(&dir));
    let sandbox = SandboxId("a".into());
    node.create_sandbox(&sandbox, &SandboxSpec::default()).await.unwrap();
    let id = ContainerId { sandbox, name: "main".into(), attempt: 0 };
    let spec = script("echo before; while ! [ -e ../go ]; do sleep 0.02; done; echo after; exit 12");
    node.start_container(&id, &spec).await.unwrap();
    fs::write(Path::new(&dir).join("up"), "").unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_container_survives_the_kill_of_its_kubelet() {
    let dir = TempDir::new().unwrap();
    let mut kubelet = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::tests::a_kubelet_to_be_killed"])
        .env(KUBELET_DIR, dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    while !dir.path().join("up").exists() {
        assert_eq!(kubelet.try_wait().unwrap(), None, "it runs until it is killed");
        tokio::task::yield_now().await;
    }
    kubelet.kill().await.unwrap();
    let node = open(dir.path());
    assert!(state(&node).await.is_running());
    let id = node.list().await.unwrap()[0].containers[0].id.clone();
    fs::write(dir.path().join("sandboxes/a/main.0/go"), "").unwrap();
    assert_eq!(output(&node, &id).await, ["before", "after"]);
    assert_eq!(state(&node).await.exit_code(), Some(12));
    crate::remove_all(&node, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn output_of_a_time_without_a_runtime_is_logged_later() {
    let dir = TempDir::new().unwrap();
    let (node, id) = node(&dir).await;
    node.start_container(&id, &script("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); echo line $i; done; exit 5"))
        .await
        .unwrap();
    drop(node);
    let node = open(dir.path());
    let lines = output(&node, &id).await;
    assert_eq!((lines.len(), lines[0].as_str(), lines[19_999].as_str()), (20_000, "line 1", "line 20000"));
    assert_eq!(state(&node).await.exit_code(), Some(5));
    crate::remove_all(&node, Duration::ZERO).await.unwrap();
}

#[tokio::test]
async fn a_command_in_a_terminal_knows_its_size_and_ends_with_its_code() {
    let dir = TempDir::new().unwrap();
    let (node, id) = node(&dir).await;
    node.start_container(&id, &script("sleep 1000")).await.unwrap();
    let command = ["sh", "-c", "read x; stty size; test -t 0 && exit 9"].map(Into::into).into();
    let mut session = node.exec().unwrap().exec(&id, &ExecSpec { command, stdin: true, tty: true }).await.unwrap();
    session.control.resize(TerminalSize { width: 132, height: 43 }).await.unwrap();
    session.stdin.as_mut().unwrap().write_all(b"go\n").await.unwrap();
    let mut output = String::new();
    session.stdout.read_to_string(&mut output).await.unwrap();
    assert!(output.contains("43 132"), "{output:?}");
    assert_eq!(session.control.wait().await.unwrap(), 9);
    crate::remove_all(&node, Duration::ZERO).await.unwrap();
}
