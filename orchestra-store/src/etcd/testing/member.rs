//! One etcd process.

use std::{
    io,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use etcd_client::{Client, StatusResponse};
use tokio::time::{sleep, timeout};

use crate::etcd::{EtcdOptions, EtcdTls};

/// How often to ask whether it answers.
const PROBES_MAX: usize = 600;
const PROBE: Duration = Duration::from_millis(25);
const PROBE_TIMEOUT: Duration = Duration::from_millis(200);

/// Where a member is found, by clients and by the other members.
#[derive(Debug)]
pub(super) struct Urls {
    pub(super) client: String,
    pub(super) peer: String,
}

impl Urls {
    /// Ports of the loopback that nobody has at this moment.
    pub(super) fn free(tls: Option<&EtcdTls>) -> io::Result<Self> {
        let url =
            |scheme| Ok::<_, io::Error>(format!("{scheme}://{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?));
        Ok(Self { client: url(if tls.is_some() { "https" } else { "http" })?, peer: url("http")? })
    }
}

/// One etcd process and what it was started with; dropped, it is killed.
#[derive(Debug)]
pub(super) struct Member {
    child: Child,
    arguments: Vec<String>,
    endpoint: String,
    tls: Option<EtcdTls>,
}

impl Member {
    /// Starts it with its data in `data` and more `flags`, `--initial-cluster` among them, and does not wait.
    pub(super) fn spawn(
        name: &str,
        data: &Path,
        urls: &Urls,
        flags: &[String],
        tls: Option<EtcdTls>,
    ) -> io::Result<Self> {
        let mut arguments = vec![format!("--name={name}"), format!("--data-dir={}", data.display())];
        for (flag, url) in [
            ("listen-client-urls", &urls.client),
            ("advertise-client-urls", &urls.client),
            ("listen-peer-urls", &urls.peer),
            ("initial-advertise-peer-urls", &urls.peer),
        ] {
            arguments.push(format!("--{flag}={url}"));
        }
        arguments.extend_from_slice(flags);
        Ok(Self { child: spawn(&arguments)?, arguments, endpoint: urls.client.clone(), tls })
    }

    pub(super) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn options(&self) -> EtcdOptions {
        EtcdOptions { tls: self.tls.clone(), ..EtcdOptions::new([self.endpoint()]) }
    }

    pub(super) fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }

    pub(super) async fn restart(&mut self) -> io::Result<()> {
        self.kill()?;
        self.child = spawn(&self.arguments)?;
        if self.answers().await? { Ok(()) } else { Err(io::Error::other("etcd does not answer")) }
    }

    pub(super) fn pause(&self, paused: bool) -> io::Result<()> {
        let signal = if paused { "-STOP" } else { "-CONT" };
        let id = self.child.id().to_string();
        if !Command::new("kill").args([signal, &id]).status()?.success() {
            return Err(io::Error::other("etcd can't be signalled"));
        }
        // One of its threads takes the signal and stops the others: on a busy machine they may answer until then.
        for _ in 0..PROBES_MAX {
            if !paused || Command::new("ps").args(["-o", "stat=", "-p", &id]).output()?.stdout.starts_with(b"T") {
                return Ok(());
            }
        }
        Err(io::Error::other("etcd does not stop"))
    }

    /// What it says of itself and its cluster, if it answers at once; needs no user.
    pub(super) async fn status(&self) -> Option<StatusResponse> {
        let options = self.options().connect_options();
        let status = async { Client::connect([&self.endpoint], Some(options)).await?.status().await };
        timeout(PROBE_TIMEOUT, status).await.ok()?.ok()
    }

    /// Whether it comes to answer, and to have a leader; not if it ends, as when another program was faster to take a port.
    pub(super) async fn answers(&mut self) -> io::Result<bool> {
        for _ in 0..PROBES_MAX {
            let answers = self.status().await.is_some_and(|status| status.leader() != 0);
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

impl Drop for Member {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill();
    }
}

fn spawn(arguments: &[String]) -> io::Result<Child> {
    Command::new("etcd").args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn()
}
