//! An etcd of one's own, for tests.

use std::{
    io,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use etcd_client::Client;
use tempfile::TempDir;
use tokio::time::{sleep, timeout};

use super::{EtcdOptions, EtcdTls};

/// How often to try other ports, and how often to ask whether it answers.
const STARTS_MAX: usize = 5;
const PROBES_MAX: usize = 600;
const PROBE: Duration = Duration::from_millis(25);
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);

/// An etcd of one member on free ports of the loopback, with its data in a temporary directory; dropped, it is killed.
#[derive(Debug)]
pub struct Etcd {
    child: Child,
    arguments: Vec<String>,
    endpoint: String,
    tls: Option<EtcdTls>,
    _data: TempDir,
}

impl Etcd {
    /// Starts the `etcd` that is found in `PATH`, and waits until it answers.
    ///
    /// # Panics
    ///
    /// If there is none, or it does not come to answer.
    pub async fn start() -> Self {
        Self::start_with(&[], None).await
    }

    /// The same with more flags, such as `--max-txn-ops=4`, which clients reach by `tls` if there is any.
    ///
    /// # Panics
    ///
    /// If there is none, or it does not come to answer.
    pub async fn start_with(flags: &[&str], tls: Option<EtcdTls>) -> Self {
        for _ in 0..STARTS_MAX {
            let started = Self::try_start(flags, tls.clone()).await;
            if let Some(etcd) = started.expect("etcd starts: is it installed, and in PATH?") {
                return etcd;
            }
        }
        panic!("etcd came to no ports of its own")
    }

    /// The URL for clients.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// How to reach it.
    #[must_use]
    pub fn options(&self) -> EtcdOptions {
        EtcdOptions { tls: self.tls.clone(), ..EtcdOptions::new([self.endpoint()]) }
    }

    /// Kills it, as `kill -9` does.
    ///
    /// # Errors
    ///
    /// The system's, if it can't be killed.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    /// Starts it again on its data and ports, and waits until it answers; kills it before, if it runs.
    ///
    /// # Errors
    ///
    /// The system's; one of the kind `Other` if it does not come to answer.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        self.child = spawn(&self.arguments)?;
        if self.answers().await? { Ok(()) } else { Err(io::Error::other("etcd does not answer")) }
    }

    /// Stops it where it is, or lets it go on: a member that is there and silent.
    ///
    /// # Errors
    ///
    /// The system's, if it can't be signalled.
    pub fn pause(&self, paused: bool) -> io::Result<()> {
        let signal = if paused { "-STOP" } else { "-CONT" };
        let status = Command::new("kill").args([signal, &self.child.id().to_string()]).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other("etcd can't be signalled")) }
    }

    /// Starts one; `None` if it ended, as when another program was faster to take a port.
    async fn try_start(flags: &[&str], tls: Option<EtcdTls>) -> io::Result<Option<Self>> {
        let data = tempfile::tempdir()?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let [client, peer] = [free_url(scheme)?, free_url("http")?];
        let mut arguments =
            vec![format!("--data-dir={}", data.path().display()), format!("--initial-cluster=one={peer}")];
        arguments.extend(["--name=one", "--heartbeat-interval=10", "--election-timeout=100"].map(Into::into));
        for (flag, url) in [
            ("listen-client-urls", &client),
            ("advertise-client-urls", &client),
            ("listen-peer-urls", &peer),
            ("initial-advertise-peer-urls", &peer),
        ] {
            arguments.push(format!("--{flag}={url}"));
        }
        arguments.extend(flags.iter().map(|&flag| flag.into()));
        let child = spawn(&arguments)?;
        let mut etcd = Self { child, arguments, endpoint: client, tls, _data: data };
        Ok(etcd.answers().await?.then_some(etcd))
    }

    /// Whether it comes to answer, and to have a leader; needs no user.
    async fn answers(&mut self) -> io::Result<bool> {
        let options = self.options().connect_options();
        for _ in 0..PROBES_MAX {
            let status = async { Client::connect([&self.endpoint], Some(options.clone())).await?.status().await };
            let answers = matches!(timeout(PROBE_TIMEOUT, status).await, Ok(Ok(status)) if status.leader() != 0);
            if self.child.try_wait()?.is_some() {
                return Ok(false);
            }
            if answers {
                return Ok(true);
            }
            sleep(PROBE).await;
        }
        Ok(false)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill();
    }
}

fn spawn(arguments: &[String]) -> io::Result<Child> {
    Command::new("etcd").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}

fn free_url(scheme: &str) -> io::Result<String> {
    Ok(format!("{scheme}://{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?))
}
