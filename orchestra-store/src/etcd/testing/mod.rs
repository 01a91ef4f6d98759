//! An etcd of one's own, for tests.

mod cluster;
mod member;

use std::io;

use tempfile::TempDir;

use super::{EtcdOptions, EtcdTls};

use self::member::{Member, Urls};

pub use self::cluster::{EtcdCluster, MEMBERS};

/// How often to try other ports.
const STARTS_MAX: usize = 5;

/// An etcd of one member on free ports of the loopback, with its data in a temporary directory; dropped, it is killed.
#[derive(Debug)]
pub struct Etcd {
    member: Member,
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
        self.member.endpoint()
    }

    /// How to reach it.
    #[must_use]
    pub fn options(&self) -> EtcdOptions {
        self.member.options()
    }

    /// Kills it, as `kill -9` does.
    ///
    /// # Errors
    ///
    /// The system's, if it can't be killed.
    pub fn kill(&mut self) -> io::Result<()> {
        self.member.kill()
    }

    /// Starts it again on its data and ports, and waits until it answers; kills it before, if it runs.
    ///
    /// # Errors
    ///
    /// The system's; one of the kind `Other` if it does not come to answer.
    pub async fn restart(&mut self) -> io::Result<()> {
        self.member.restart().await
    }

    /// Stops it where it is, or lets it go on: a member that is there and silent.
    ///
    /// # Errors
    ///
    /// The system's, if it can't be signalled.
    pub fn pause(&self, paused: bool) -> io::Result<()> {
        self.member.pause(paused)
    }

    /// Starts one; `None` if it ended, as when another program was faster to take a port.
    async fn try_start(flags: &[&str], tls: Option<EtcdTls>) -> io::Result<Option<Self>> {
        let (data, urls) = (tempfile::tempdir()?, Urls::free(tls.as_ref())?);
        let mut own = vec![format!("--initial-cluster=one={}", urls.peer)];
        own.extend(["--heartbeat-interval=10", "--election-timeout=100"].map(Into::into));
        own.extend(flags.iter().map(|&flag| flag.into()));
        let mut member = Member::spawn("one", data.path(), &urls, &own, tls)?;
        Ok(member.answers().await?.then_some(Self { member, _data: data }))
    }
}
