//! The lock that says that a store is open.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    disk::{Directory, Disk as _, for_its_owner},
    error::DurableError,
};

/// The file that is locked.
pub(super) const LOCK: &str = "LOCK";
/// How often a lock that another process has is tried again, and what is waited before each: a second in all, for a process
/// that was killed holds its lock until the kernel has cleared it away.
const LOCK_TRIES: u32 = 50;
const LOCK_WAIT: Duration = Duration::from_millis(20);

/// A directory that nobody else has open.
#[derive(Debug)]
pub(super) struct Lock {
    directory: PathBuf,
    /// The locks are the operating system's, and so end with the process, however it ends.
    file: File,
    /// The directory itself, where that can be locked: should somebody remove the file, another one lets nobody in.
    held: Option<File>,
}

impl Lock {
    /// Makes the directory if it is not there, and locks it; waits a second for one that is locked.
    pub(super) fn acquire(directory: &Path) -> Result<Self, DurableError> {
        make(directory).map_err(DurableError::io(directory))?;
        let path = directory.join(LOCK);
        let file = for_its_owner(OpenOptions::new().create(true).truncate(false).write(true)).open(&path);
        Self::taken(directory, file.map_err(DurableError::io(&path))?, |file| {
            let mut locked = file.try_lock();
            for _ in 0..LOCK_TRIES {
                if !matches!(locked, Err(TryLockError::WouldBlock)) {
                    break;
                }
                std::thread::sleep(LOCK_WAIT);
                locked = file.try_lock();
            }
            locked
        })
    }

    /// Locks a directory against those who write, but not against those who do this; `None` if no store was ever in it.
    pub(super) fn share(directory: &Path) -> Result<Option<Self>, DurableError> {
        let path = directory.join(LOCK);
        match File::open(&path) {
            Ok(file) => Self::taken(directory, file, File::try_lock_shared).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(DurableError::io(&path)(error)),
        }
    }

    fn taken(
        directory: &Path,
        file: File,
        lock: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> Result<Self, DurableError> {
        let directory = directory.to_owned();
        let told = |error| match error {
            TryLockError::WouldBlock => DurableError::Locked { directory: directory.clone() },
            TryLockError::Error(source) => DurableError::Io { file: directory.join(LOCK), source },
        };
        lock(&file).map_err(told)?;
        // Not every system opens a directory, nor does every file system lock one.
        let mut held = File::open(&directory).ok();
        match held.as_ref().map(lock) {
            Some(Err(error @ TryLockError::WouldBlock)) => return Err(told(error)),
            Some(Err(TryLockError::Error(_))) => held = None,
            Some(Ok(())) | None => {}
        }
        Ok(Self { directory, file, held })
    }

    /// The directory that is locked, and no other that comes to its place.
    pub(super) fn disk(&self) -> Result<Directory, DurableError> {
        let directory = &self.directory;
        match &self.held {
            Some(held) => Directory::held(directory, held).map_err(DurableError::io(directory)),
            None => Ok(Directory::new(directory)),
        }
    }
}

impl Drop for Lock {
    /// Closing the files alone would leave the locks to a child that another thread has forked and that has not yet
    /// executed its program.
    fn drop(&mut self) {
        for file in self.held.iter().chain([&self.file]) {
            if let Err(error) = file.unlock() {
                tracing::warn!(%error, directory = %self.directory.display(), "can't unlock a store");
            }
        }
    }
}

/// Makes a directory and those it is in, each of which is on the disk then.
fn make(directory: &Path) -> io::Result<()> {
    let missing = directory.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists());
    let missing: Vec<&Path> = missing.collect();
    fs::create_dir_all(directory)?;
    for made in missing {
        let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty());
        Directory::new(parent.unwrap_or(Path::new("."))).sync_names()?;
    }
    Ok(())
}
