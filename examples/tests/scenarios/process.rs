//! The `cluster` example as a process, and the real `kubectl` against it.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
    time::Duration,
};

use super::crash::processes_below;

/// How long anything here may take on a busy machine; every wait ends at its event, not at this bound.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// An example that the build of this test has built as well.
pub(crate) fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a process knows its program");
    let path =
        test.ancestors().nth(2).expect("tests are built in a folder beside the examples").join("examples").join(name);
    assert!(path.exists(), "{} is not built: run `cargo build --examples`", path.display());
    path
}

/// Whether the tests that drive a cluster by `kubectl` can run; where they can't, that is printed, and fails in CI.
pub(crate) fn has_kubectl() -> bool {
    let there = Command::new("kubectl").args(["version", "--client"]).output().is_ok();
    if !there {
        assert!(std::env::var_os("CI").is_none(), "kubectl is missing");
        println!("skipped: kubectl is not on the PATH");
    }
    there
}

/// Whether the tests that run a program in Python can; where they can't, that is printed, and fails in CI.
pub(crate) fn has_python() -> bool {
    let there = Command::new("python3").arg("--version").output().is_ok();
    if !there {
        assert!(std::env::var_os("CI").is_none(), "python3 is missing");
        println!("skipped: python3 is not on the PATH");
    }
    there
}

/// A running cluster example; dropped, it is asked to stop, and waited for.
pub(crate) struct Cluster {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// What it has printed so far.
    pub(crate) printed: Vec<String>,
    kubeconfig: PathBuf,
}

impl Cluster {
    /// Starts the example and waits until it answers.
    pub(crate) fn start(args: &[&str]) -> Self {
        let mut child = Command::new(example("cluster"))
            .args(args)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the example starts");
        let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, lines) = mpsc::channel();
        #[allow(clippy::disallowed_methods, reason = "a pipe has no other way to be read while waiting with a bound")]
        std::thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        let mut cluster = Self { child, lines, printed: Vec::new(), kubeconfig: PathBuf::new() };
        let line = cluster.wait_for_line("export KUBECONFIG=");
        cluster.kubeconfig = line["export KUBECONFIG=".len()..].trim_matches(['"', '\'']).into();
        cluster
    }

    /// Waits for a line that begins with `start`.
    pub(crate) fn wait_for_line(&mut self, start: &str) -> String {
        if let Some(line) = self.printed.iter().find(|line| line.trim_start().starts_with(start)) {
            return line.trim_start().to_owned();
        }
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.printed.push(line.clone());
                    if line.trim_start().starts_with(start) {
                        return line.trim_start().to_owned();
                    }
                }
                Err(error) => panic!("no line begins with {start:?} ({error}); printed:\n{}", self.printed.join("\n")),
            }
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a killed child ends");
    }

    /// Asks it to stop, as Ctrl-C does, and waits until it has.
    pub(crate) fn stop(mut self) {
        self.interrupt();
    }

    fn interrupt(&mut self) {
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            let asked = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status();
            assert!(asked.is_ok_and(|status| status.success()), "the cluster can't be asked to stop");
            self.child.wait().expect("a child that was asked to stop ends");
        }
    }

    /// Runs `kubectl` against it.
    pub(crate) fn kubectl(&self, args: &[&str]) -> Output {
        self.kubectl_with_input(args, "")
    }

    /// Runs `kubectl` against it with `input` on its standard input.
    pub(crate) fn kubectl_with_input(&self, args: &[&str], input: &str) -> Output {
        let mut child = Command::new("kubectl")
            .args(args)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", self.kubeconfig.parent().unwrap_or(Path::new("/")))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("kubectl is on the PATH");
        child.stdin.take().expect("stdin is piped").write_all(input.as_bytes()).ok();
        child.wait_with_output().expect("kubectl ends")
    }

    /// Runs `kubectl`, which must succeed without a warning, and returns what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        self.ok_with_input(args, "")
    }

    /// As [`ok`](Self::ok), with `input` on its standard input.
    pub(crate) fn ok_with_input(&self, args: &[&str], input: &str) -> String {
        let output = self.kubectl_with_input(args, input);
        let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "kubectl {args:?} failed:\n{stdout}{stderr}");
        assert!(!stderr.contains("Warning"), "kubectl {args:?} warned:\n{stderr}");
        stdout
    }

    /// Runs `kubectl`, which must fail, and returns its complaint.
    pub(crate) fn refused(&self, args: &[&str], input: &str) -> String {
        let output = self.kubectl_with_input(args, input);
        assert!(!output.status.success(), "kubectl {args:?} succeeded:\n{}", text(&output.stdout));
        text(&output.stderr)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.interrupt();
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The cluster as separate programs, all ended when it is dropped.
pub(crate) struct SeparateCluster {
    children: Vec<Child>,
    data: tempfile::TempDir,
}

impl SeparateCluster {
    /// Starts the server alone, and waits until it answers.
    pub(crate) fn server() -> Self {
        let mut cluster = Self { children: Vec::new(), data: tempfile::tempdir().expect("a temporary directory") };
        let dir = cluster.directory();
        let server = cluster.run("api_server", &["--data", &dir, "--listen", "127.0.0.1:0"]);
        wait_for_output(server, "export KUBECONFIG=");
        cluster
    }

    /// Starts the programs, each once the server answers.
    pub(crate) fn start() -> Self {
        let mut cluster = Self::server();
        let dir = cluster.directory();
        for (name, args) in [
            ("controller_manager", &[][..]),
            ("scheduler", &[]),
            ("service_proxy", &[]),
            ("custom_scheduler_on_kubernetes", &["--name", "packer"]),
            ("kubelet", &["--data", &dir]),
        ] {
            let component = cluster.run(name, args);
            wait_for_output(component, "");
        }
        cluster
    }

    /// Asks the kubelet to stop, which leaves its pods alone, and starts another one, which takes them on.
    pub(crate) fn restarts_the_kubelet(&mut self) {
        let before = processes_below(self.data.path());
        assert!(!before.is_empty(), "pods run");
        stop(&mut self.children.pop().expect("the kubelet is the last"));
        assert_eq!(processes_below(self.data.path()), before);
        let dir = self.directory();
        let component = self.run("kubelet", &["--data", &dir, "--stop-pods"]);
        wait_for_output(component, "");
        assert_eq!(processes_below(self.data.path()), before);
    }

    fn directory(&self) -> String {
        self.data.path().to_str().expect("a plain path").to_owned()
    }

    /// Where the server says how it is reached.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.data.path().join("kubeconfig")
    }

    fn run(&mut self, name: &str, args: &[&str]) -> std::process::ChildStdout {
        let mut child = Command::new(example(name))
            .args(args)
            .env("KUBECONFIG", self.kubeconfig())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the example starts");
        let output = child.stdout.take().expect("stdout is piped");
        self.children.push(child);
        output
    }

    /// A second server on the same data ends, and leaves the kubeconfig to the first.
    pub(crate) fn refuses_a_second_server(&self) {
        let mut second = Command::new(example("api_server"));
        second.arg("--data").arg(self.data.path()).args(["--listen", "127.0.0.1:0"]);
        let kubeconfig = || std::fs::read(self.kubeconfig()).expect("a kubeconfig");
        let before = kubeconfig();
        let output = second.output().expect("the example starts");
        let said = text(&output.stderr);
        assert!(!output.status.success() && said.contains("is open already"), "it said: {said}");
        assert_eq!(kubeconfig(), before);
    }

    /// Applies the manifest with `kubectl`, and waits until all of it runs.
    pub(crate) fn rolls_out(&self) {
        let kubectl = |args: &[&str]| {
            let output = Command::new("kubectl")
                .args(args)
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .env("KUBECONFIG", self.kubeconfig())
                .output()
                .expect("kubectl is on the PATH");
            assert!(output.status.success(), "kubectl {args:?}:\n{}", text(&output.stderr));
            text(&output.stdout)
        };
        kubectl(&["apply", "-f", "examples/manifests/web.yaml"]);
        kubectl(&["-n", "web", "rollout", "status", "deployment/web", "--timeout=90s"]);
        let pods = kubectl(&["-n", "web", "get", "pods", "-o", "name"]);
        let pod = pods.lines().next().expect("three pods");
        assert_eq!(kubectl(&["-n", "web", "exec", pod, "--", "echo", "through TLS"]).trim(), "through TLS");
    }
}

impl Drop for SeparateCluster {
    fn drop(&mut self) {
        // The kubelet, which is the last, ends its pods while the server still answers.
        self.children.iter_mut().rev().for_each(stop);
    }
}

/// Asks a component to stop, and waits until it has.
fn stop(child: &mut Child) {
    let asked = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(asked.is_ok_and(|status| status.success()), "a component can't be asked to stop");
    child.wait().expect("a child that was asked to stop ends");
}

/// Waits for a line that begins with `start`, and goes on reading so that the program never blocks.
fn wait_for_output(output: std::process::ChildStdout, start: &str) {
    let mut lines = BufReader::new(output).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with(start)), "the program ended before it said {start:?}");
    #[allow(clippy::disallowed_methods, reason = "a pipe has no other way to be drained")]
    std::thread::spawn(move || lines.for_each(drop));
}
