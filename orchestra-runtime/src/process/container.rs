//! A container: its processes, how they end, and who sees to that.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use orchestra_core::{
    clock::{Clock, Timestamp},
    runtime::{ContainerId, ContainerState, ContainerStatus, Error, ExitReason, Result},
};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::sync::{Notify, watch};

use super::{
    record::{self, ContainerRecord, ExitRecord, ProcessRecord},
    script::EXIT_FILE,
    spool::Spool,
    supervisor::Supervisor,
};

/// Where a container is written down.
pub(super) const CONTAINER_FILE: &str = "container.json";
/// Where its end is written down.
const ENDED_FILE: &str = "ended.json";
/// How long to wait before output that could not be logged is tried again.
const LOG_RETRY: Duration = Duration::from_secs(1);
/// How long a killed process may take to be gone: one that the kernel can't end is reported, not waited for.
const KILLED_WITHIN: Duration = Duration::from_secs(10);

/// One attempt to run a container.
pub(super) struct Container {
    pub(super) id: ContainerId,
    pub(super) dir: PathBuf,
    pub(super) record: ContainerRecord,
    pub(super) progress: watch::Sender<Progress>,
    /// Whether this runtime killed it, and so knows how it ended.
    killed: AtomicBool,
}

/// How far a container and its log are; each change is told to whoever waits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// How often the log was rotated.
    pub(super) rotations: u64,
    /// How it ended, once all it wrote is in the log.
    pub(super) exit: Option<ExitRecord>,
}

impl Container {
    pub(super) fn new(id: ContainerId, dir: PathBuf, record: ContainerRecord) -> Self {
        Self { id, dir, record, progress: watch::Sender::default(), killed: AtomicBool::new(false) }
    }

    /// Reads what another runtime wrote down; none if it was never started.
    pub(super) fn load(id: ContainerId, dir: &Path) -> Result<Option<Self>> {
        let Some(record) = record::read(&dir.join(CONTAINER_FILE))? else { return Ok(None) };
        let container = Self::new(id, dir.into(), record);
        if let Some(exit) = record::read(&dir.join(ENDED_FILE))? {
            container.progress.send_modify(|progress| progress.exit = Some(exit));
        }
        Ok(Some(container))
    }

    pub(super) fn is_running(&self) -> bool {
        self.progress.borrow().exit.is_none()
    }

    pub(super) fn status(&self) -> ContainerStatus {
        let record = &self.record;
        let pid = record.program.as_ref().and_then(|program| program.pid.try_into().ok());
        let state = match self.progress.borrow().exit {
            None => ContainerState::Running { started_at: record.started_at, pid },
            Some(exit) => ContainerState::Exited {
                code: exit.code,
                reason: exit.reason(),
                started_at: record.started_at,
                finished_at: exit.finished_at,
            },
        };
        ContainerStatus {
            id: self.id.clone(),
            labels: record.labels.clone(),
            image: record.image.clone(),
            image_id: record.image_id.clone(),
            state,
        }
    }

    /// Asks the program to end, kills it after `grace`, and waits for it to be gone.
    pub(super) async fn stop(&self, grace: Duration) -> Result<()> {
        if !self.is_running() {
            return Ok(());
        }
        if !grace.is_zero() {
            self.terminate();
            if tokio::time::timeout(grace, self.exited()).await.is_ok() {
                return Ok(());
            }
        }
        self.kill();
        let gone = tokio::time::timeout(KILLED_WITHIN, self.exited()).await;
        gone.map_err(|_| Error::unavailable(format!("container {} does not die", self.id)))
    }

    async fn exited(&self) {
        let mut progress = self.progress.subscribe();
        // The sender is in this very container, so the channel can't close meanwhile.
        let _exited = progress.wait_for(|progress| progress.exit.is_some()).await;
    }

    /// Sends the program the request to end; as in other runtimes, what it has started is its own affair.
    fn terminate(&self) {
        if let Some(pid) = self.record.program.as_ref().filter(|program| program.lives()).and_then(pid) {
            let _gone = kill_process(pid, Signal::TERM);
        }
    }

    /// Kills the supervisor, the program and all in their group.
    fn kill(&self) {
        let record = &self.record;
        let lives = record.supervisor.lives() || record.program.as_ref().is_some_and(ProcessRecord::lives);
        if let Some(group) = pid(&record.supervisor).filter(|_| lives) {
            self.killed.store(true, Ordering::Relaxed);
            let _gone = kill_process_group(group, Signal::KILL);
        }
    }

    /// Moves the program's output to the log until it ends, then records how it did.
    pub(super) async fn watch_over(
        &self,
        mut supervisor: Supervisor,
        mut spool: Spool,
        grown: &Notify,
        clock: &dyn Clock,
    ) {
        let mut full = false;
        loop {
            tokio::select! {
                biased;
                () = supervisor.gone() => break,
                () = grown.notified(), if !full => {}
                () = tokio::time::sleep(LOG_RETRY), if full => {}
            }
            match spool.advance(clock.now()) {
                Ok(moved) => {
                    full = false;
                    if moved.lines {
                        self.progress.send_modify(|progress| progress.rotations += u64::from(moved.rotated));
                    }
                    if moved.more {
                        grown.notify_one();
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) => {
                    if !full {
                        tracing::warn!(container = %self.id, %error, "container output can't be logged, trying again");
                    }
                    full = true;
                }
            }
        }
        self.settle(&mut spool, clock.now());
    }

    /// Records the end of a container whose supervisor is gone.
    pub(super) fn settle(&self, spool: &mut Spool, now: Timestamp) {
        let exit = self.left_behind().unwrap_or_else(|| {
            // The supervisor was killed; it must not leave the program behind.
            let lost = !self.killed.load(Ordering::Relaxed);
            self.kill();
            ExitRecord { code: ExitReason::LOST_CODE, lost, finished_at: now }
        });
        if let Err(error) = spool.finish(now) {
            tracing::warn!(container = %self.id, %error, "container output can't be logged");
        }
        if let Err(error) = record::write(&self.dir.join(ENDED_FILE), &exit) {
            tracing::warn!(container = %self.id, %error, "a container's end can't be written down");
        }
        self.progress.send_modify(|progress| progress.exit = Some(exit));
    }

    /// What the supervisor left behind: the exit code, and when.
    fn left_behind(&self) -> Option<ExitRecord> {
        let path = self.dir.join(EXIT_FILE);
        let code = fs::read_to_string(&path).ok()?.trim().parse().ok()?;
        let written: Timestamp = fs::metadata(&path).ok()?.modified().ok()?.try_into().ok()?;
        // File times are rounded down to the kernel's tick.
        Some(ExitRecord { code, lost: false, finished_at: written.max(self.record.started_at) })
    }
}

fn pid(record: &ProcessRecord) -> Option<Pid> {
    Pid::from_raw(record.pid)
}
