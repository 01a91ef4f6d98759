//! What a runtime writes down, so that another can carry on where it died.

use std::{fs, io, net::Ipv4Addr, path::Path};

use orchestra_core::{
    clock::Timestamp,
    runtime::{Error, ExitReason, Labels, Result},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct SandboxRecord {
    pub(super) hostname: Box<str>,
    pub(super) labels: Labels,
    pub(super) created_at: Timestamp,
    pub(super) address: Option<Ipv4Addr>,
}

/// A container and the processes that stand for it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct ContainerRecord {
    pub(super) image: Box<str>,
    pub(super) image_id: Box<str>,
    pub(super) labels: Labels,
    pub(super) started_at: Timestamp,
    /// The supervisor, which leads the process group.
    pub(super) supervisor: ProcessRecord,
    /// The program, the supervisor's child; absent if it ended before it could be looked at.
    pub(super) program: Option<ProcessRecord>,
}

/// A process, told from any other that gets its number later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ProcessRecord {
    pub(super) pid: i32,
    /// When it started, in ticks since boot.
    pub(super) started_ticks: u64,
    /// Which boot that was.
    pub(super) boot: Box<str>,
}

/// How a container ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ExitRecord {
    pub(super) code: i32,
    /// Whether nobody saw how.
    pub(super) lost: bool,
    pub(super) finished_at: Timestamp,
}

impl ExitRecord {
    pub(super) fn reason(&self) -> ExitReason {
        if self.lost { ExitReason::Lost } else { ExitReason::Ended }
    }
}

impl ProcessRecord {
    /// Describes a live process; none if there is none by that number.
    pub(super) fn of(pid: i32) -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let started_ticks = started_ticks(pid)?;
        Some(Self { pid, started_ticks, boot: boot.trim().into() })
    }

    /// Whether this very process still lives, or waits to be reaped.
    pub(super) fn lives(&self) -> bool {
        Self::of(self.pid).as_ref() == Some(self)
    }
}

/// When a process started, in ticks since boot; none if there is no such process.
fn started_ticks(pid: i32) -> Option<u64> {
    /// Its place after the parenthesized name, which may hold anything: proc_pid_stat(5).
    const STARTED_TICKS: usize = 19;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(STARTED_TICKS)?.parse().ok()
}

/// Writes a record so that a reader sees the old one or the new one, and only this user.
pub(super) fn write<T: Serialize>(path: &Path, record: &T) -> Result<()> {
    let text = serde_json::to_vec(record).map_err(Error::unavailable)?;
    let new = path.with_extension("new");
    fs::write(&new, text).and_then(|()| fs::rename(&new, path)).map_err(Error::unavailable)
}

/// Reads a record; none if there is none.
pub(super) fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        // Torn when the machine, and with it every process, went down: there is nothing that it could tell of.
        Ok(text) if text.iter().all(|&byte| byte == 0) => Ok(None),
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(Error::unavailable),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::unavailable(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::ProcessRecord;

    #[test]
    fn a_process_is_told_from_one_that_got_its_number() {
        let own = ProcessRecord::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(own.lives());
        assert!(!ProcessRecord { started_ticks: own.started_ticks + 1, ..own.clone() }.lives());
        assert!(!ProcessRecord { boot: "another".into(), ..own }.lives());
    }
}
