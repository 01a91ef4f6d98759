//! The process that sees a container's program end.

use std::{io, path::Path, process::Stdio};

use orchestra_core::runtime::{ContainerId, Error, Result};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::unix::pipe,
    process::{Child, Command},
};

use super::record::ProcessRecord;

/// A container's supervisor, of this runtime or of one before.
pub(super) enum Supervisor {
    /// A child, to be reaped.
    Child(Box<Child>),
    /// A process that another runtime started.
    Adopted(pipe::Receiver),
    /// None anymore.
    Gone,
}

impl Supervisor {
    /// Starts one that waits for its script; nothing runs until it has all of it.
    pub(super) fn spawn(id: &ContainerId, dir: &Path, env: &[(Box<str>, Box<str>)]) -> io::Result<Child> {
        Command::new("/bin/sh")
            .args(["-s", "--", &id.to_string()])
            .current_dir(dir)
            .env_clear()
            .envs(env.iter().map(|(name, value)| (&**name, &**value)))
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
    }

    /// Hands a spawned one its script; returns the program's process, if it still lives.
    pub(super) async fn begin(child: &mut Child, script: &str) -> Result<Option<ProcessRecord>> {
        let mut stdin = child.stdin.take().expect("the supervisor was spawned with a pipe");
        stdin.write_all(script.as_bytes()).await.map_err(Error::unavailable)?;
        drop(stdin);
        let stdout = child.stdout.take().expect("the supervisor was spawned with a pipe");
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).await.map_err(Error::unavailable)?;
        let pid = line.trim().parse().map_err(|_| Error::unavailable("the supervisor could not start the program"))?;
        Ok(ProcessRecord::of(pid))
    }

    /// Finds the one that another runtime wrote down.
    pub(super) fn adopt(record: &ProcessRecord) -> Self {
        let pidfd = Pid::from_raw(record.pid).filter(|_| record.lives());
        let pidfd = pidfd.and_then(|pid| pidfd_open(pid, PidfdFlags::NONBLOCK).ok());
        // Not a pipe, but it becomes readable like one: the type is tokio's safe way to wait for a descriptor.
        // Looked at again, for the number may have changed hands before the descriptor was there.
        let pidfd = pidfd.filter(|_| record.lives());
        let pidfd = pidfd.and_then(|pidfd| pipe::Receiver::from_owned_fd_unchecked(pidfd).ok());
        pidfd.map_or(Self::Gone, Self::Adopted)
    }

    /// Waits for it to end.
    pub(super) async fn gone(&mut self) {
        // An error means that there is nothing to wait for.
        match self {
            Self::Child(child) => drop(child.wait().await),
            Self::Adopted(pidfd) => drop(pidfd.readable().await),
            Self::Gone => {}
        }
    }
}
