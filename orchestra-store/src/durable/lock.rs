//! The lock that says that a store is open.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    codec::FileKind,
    disk::{Disk, for_its_owner},
    error::DurableError,
    files::{file_path, holds_store},
};
use crate::state::FIRST;

/// The file that is locked.
const LOCK: &str = "LOCK";
/// What it holds once there was a store; what is there is overwritten by the same.
const MARK: &[u8] = b"orchestra-store\n";
/// How often a lock that another process has is tried again, and what is waited before each: a second in all, for a process
/// that was killed holds its lock until the kernel has cleared it away.
const LOCK_TRIES: u32 = 50;
const LOCK_WAIT: Duration = Duration::from_millis(20);

/// A directory that nobody else has open.
#[derive(Debug)]
pub(super) struct Lock {
    directory: PathBuf,
    /// The lock is the operating system's, and so ends with the process, however it ends.
    file: File,
}

impl Lock {
    /// Makes the directory if it is not there, and locks it; waits a second for one that is locked.
    pub(super) fn acquire(directory: &Path) -> Result<Self, DurableError> {
        fs::create_dir_all(directory).map_err(DurableError::io(directory))?;
        let path = directory.join(LOCK);
        let file = for_its_owner(OpenOptions::new().create(true).truncate(false).write(true)).open(&path);
        let file = file.map_err(DurableError::io(&path))?;
        let mut locked = file.try_lock();
        for _ in 0..LOCK_TRIES {
            if !matches!(locked, Err(TryLockError::WouldBlock)) {
                break;
            }
            std::thread::sleep(LOCK_WAIT);
            locked = file.try_lock();
        }
        Self::taken(directory, file, locked)
    }

    /// Locks a directory against those who write, but not against those who do this; `None` if no store was ever in it.
    pub(super) fn share(directory: &Path) -> Result<Option<Self>, DurableError> {
        let path = directory.join(LOCK);
        match File::open(&path) {
            Ok(file) => {
                let locked = file.try_lock_shared();
                Self::taken(directory, file, locked).map(Some)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(DurableError::io(&path)(error)),
        }
    }

    /// Fails if there was a store, and all its files are gone.
    pub(super) fn assert_kept(&self, disk: &dyn Disk) -> Result<(), DurableError> {
        let marked = self.file.metadata().map_err(DurableError::io(&self.directory.join(LOCK)))?.len() > 0;
        if marked && !holds_store(disk)? {
            return Err(DurableError::corrupt(&file_path(disk, FileKind::Log, FIRST), 0, "the file is gone"));
        }
        Ok(())
    }

    /// Notes that there is a store, which is on the disk by now. Should the note be lost, on a full disk say, nothing else is.
    pub(super) fn mark(&self) {
        if let Err(error) = (&self.file).write_all(MARK) {
            tracing::debug!(%error, directory = %self.directory.display(), "can't note that there is a store");
        }
    }

    fn taken(directory: &Path, file: File, locked: Result<(), TryLockError>) -> Result<Self, DurableError> {
        let directory = directory.to_owned();
        match locked {
            Ok(()) => Ok(Self { directory, file }),
            Err(TryLockError::WouldBlock) => Err(DurableError::Locked { directory }),
            Err(TryLockError::Error(source)) => Err(DurableError::Io { file: directory.join(LOCK), source }),
        }
    }

    /// The directory that is locked.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Lock {
    /// Closing the file alone would leave the lock to a child that another thread has forked and that has not yet
    /// executed its program.
    fn drop(&mut self) {
        if let Err(error) = self.file.unlock() {
            tracing::warn!(%error, directory = %self.directory.display(), "can't unlock a store");
        }
    }
}
