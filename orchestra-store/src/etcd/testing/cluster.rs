//! An etcd of several members, of which one or the other may go.

use std::io;

use tempfile::TempDir;

use super::{
    STARTS_MAX,
    member::{Member, Urls},
};
use crate::etcd::EtcdOptions;

/// How many members an [`EtcdCluster`] has: of three, any one may be missing.
pub const MEMBERS: usize = 3;
/// A leader that is not heard of for half a second is replaced; a member that comes back does not call for an election.
const FLAGS: [&str; 3] = ["--heartbeat-interval=50", "--election-timeout=500", "--pre-vote"];

/// An etcd of [`MEMBERS`] members on free ports of the loopback, with their data in a temporary directory; dropped, they
/// are killed.
///
/// The members are numbered from 0.
#[derive(Debug)]
pub struct EtcdCluster {
    members: Vec<Member>,
    _data: TempDir,
}

impl EtcdCluster {
    /// Starts the `etcd` that is found in `PATH`, and waits until each member answers.
    ///
    /// # Panics
    ///
    /// If there is none, or one does not come to answer.
    pub async fn start() -> Self {
        for _ in 0..STARTS_MAX {
            if let Some(cluster) = Self::try_start().await.expect("etcd starts: is it installed, and in PATH?") {
                return cluster;
            }
        }
        panic!("etcd came to no ports of its own")
    }

    /// The URL for clients of one member.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    #[must_use]
    pub fn endpoint(&self, member: usize) -> &str {
        self.member(member).endpoint()
    }

    /// How to reach them all, in the order of their numbers.
    #[must_use]
    pub fn options(&self) -> EtcdOptions {
        EtcdOptions::new(self.members.iter().map(Member::endpoint))
    }

    /// The member that leads, as those that answer say; `None` while there is none, or it does not answer itself.
    pub async fn leader(&self) -> Option<usize> {
        let mut newest = None;
        for (number, member) in self.members.iter().enumerate() {
            let Some(status) = member.status().await else { continue };
            let leads = status.header().is_some_and(|header| header.member_id() == status.leader());
            // One that was deposed, and does not know yet, says so of an older term.
            newest = newest.max(leads.then(|| (status.raft_term(), number)));
        }
        newest.map(|(_, number)| number)
    }

    /// Kills a member, as `kill -9` does.
    ///
    /// # Errors
    ///
    /// The system's, if it can't be killed.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    pub fn kill(&mut self, member: usize) -> io::Result<()> {
        self.member_mut(member).kill()
    }

    /// Starts a member again on its data and ports, and waits until it answers; kills it before, if it runs.
    ///
    /// # Errors
    ///
    /// The system's; one of the kind `Other` if it does not come to answer, for example as most members are missing.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    pub async fn restart(&mut self, member: usize) -> io::Result<()> {
        self.member_mut(member).restart().await
    }

    /// Stops a member where it is, or lets it go on: it is there and silent.
    ///
    /// # Errors
    ///
    /// The system's, if it can't be signalled.
    ///
    /// # Panics
    ///
    /// If there is no such member.
    pub fn pause(&self, member: usize, paused: bool) -> io::Result<()> {
        self.member(member).pause(paused)
    }

    fn member(&self, number: usize) -> &Member {
        self.members.get(number).expect("members are numbered from 0 to 2")
    }

    fn member_mut(&mut self, number: usize) -> &mut Member {
        self.members.get_mut(number).expect("members are numbered from 0 to 2")
    }

    /// Starts them all; `None` if one ended, as when another program was faster to take a port.
    async fn try_start() -> io::Result<Option<Self>> {
        let data = tempfile::tempdir()?;
        let urls = (0..MEMBERS).map(|_| Urls::free(None)).collect::<io::Result<Vec<_>>>()?;
        let peers: Vec<_> = urls.iter().zip(0..).map(|(urls, number)| format!("{number}={}", urls.peer)).collect();
        let mut flags = vec![format!("--initial-cluster={}", peers.join(","))];
        flags.extend(FLAGS.map(Into::into));
        let spawn = |(urls, number): (&Urls, usize)| {
            let name = number.to_string();
            Member::spawn(&name, &data.path().join(&name), urls, &flags, None)
        };
        let mut members = urls.iter().zip(0..).map(spawn).collect::<io::Result<Vec<_>>>()?;
        for member in &mut members {
            if !member.answers().await? {
                return Ok(None);
            }
        }
        Ok(Some(Self { members, _data: data }))
    }
}
