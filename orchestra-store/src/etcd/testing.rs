//! An etcd of one's own, for tests.

use std::{
    io,
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::sleep;

use super::{EtcdOptions, EtcdStore};

/// How often to try other ports, and how often to ask whether it answers.
const STARTS_MAX: usize = 5;
const PROBES_MAX: usize = 600;
const PROBE: Duration = Duration::from_millis(25);

/// An etcd of one member on free ports of the loopback, with its data in a temporary directory; dropped, it is killed.
#[derive(Debug)]
pub struct Etcd {
    child: Child,
    endpoint: String,
    _data: TempDir,
}

impl Etcd {
    /// Starts the `etcd` that is found in `PATH`, and waits until it answers.
    ///
    /// # Panics
    ///
    /// If there is none, or it does not come to answer.
    pub async fn start() -> Self {
        for _ in 0..STARTS_MAX {
            if let Some(etcd) = Self::try_start().await.expect("etcd starts: is it installed, and in PATH?") {
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

    /// Starts one; `None` if it ended, as when another program was faster to take a port.
    async fn try_start() -> io::Result<Option<Self>> {
        let data = tempfile::tempdir()?;
        let [client, peer] = [free_url()?, free_url()?];
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(data.path())
            .args(["--name", "one", "--initial-cluster", &format!("one={peer}")])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--heartbeat-interval", "10", "--election-timeout", "100"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let mut etcd = Self { child, endpoint: client, _data: data };
        for _ in 0..PROBES_MAX {
            let options =
                EtcdOptions { request_timeout: Duration::from_millis(200), ..EtcdOptions::new([&etcd.endpoint]) };
            let answers = EtcdStore::connect(options).await.is_ok();
            if etcd.child.try_wait()?.is_some() {
                return Ok(None);
            }
            if answers {
                return Ok(Some(etcd));
            }
            sleep(PROBE).await;
        }
        Ok(None)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_url() -> io::Result<String> {
    Ok(format!("http://{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?))
}
