//! What can go wrong with files.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a durable store was not opened, backed up, restored or verified. Nothing was changed, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DurableError {
    /// Another store, of this process or another, has the directory open: end that one first.
    #[error("{} is open already", directory.display())]
    Locked {
        /// The directory.
        directory: PathBuf,
    },
    /// What is to be made is there already: choose another place.
    #[error("{} is there already", path.display())]
    Occupied {
        /// The file, or the directory of a store.
        path: PathBuf,
    },
    /// A backup to the same file is being written, or was killed: then remove what it left.
    #[error("{} is there: another backup writes it, or one that was killed has left it; then remove it", path.display())]
    Drafted {
        /// What it has written so far.
        path: PathBuf,
    },
    /// What is to be made has a name that a store gives to files of its own: choose another.
    #[error("{} is called as a store calls its own files", path.display())]
    Reserved {
        /// The file.
        path: PathBuf,
    },
    /// There is no store, and none was to be made.
    #[error("{} holds no store", directory.display())]
    Absent {
        /// The directory.
        directory: PathBuf,
    },
    /// What was once written is not what is read: the disk lost it, or something else wrote there. Restore a backup.
    #[error("{} is corrupt at byte {offset}: {reason}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where in it, in bytes from its start.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// The file is of another version of this program: use that one.
    #[error("{} has format {found}, this version reads {supported}: open it with the one that wrote it", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u32,
        /// The format that is understood.
        supported: u32,
    },
    /// The operating system refused.
    #[error("can't use {}", file.display())]
    Io {
        /// The file or directory.
        file: PathBuf,
        /// What it said.
        #[source]
        source: io::Error,
    },
}

impl DurableError {
    pub(super) fn io(file: &Path) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_owned();
        |source| Self::Io { file, source }
    }

    pub(super) fn corrupt(file: &Path, offset: u64, reason: &'static str) -> Self {
        Self::Corrupt { file: file.to_owned(), offset, reason }
    }
}

/// Why a commit was not acknowledged: the source of an `Unavailable`.
#[derive(Debug, thiserror::Error)]
pub(super) enum WriteError {
    /// Nothing was written, for want of space; what deletes only may succeed, and the rest once there is space.
    #[error("no space left to write {}", file.display())]
    Full {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    /// Nothing was written; the next commit may succeed.
    #[error("can't write {}", file.display())]
    Refused {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    /// What the disk holds is not known: no commit succeeds until the store is opened anew.
    #[error("{} could not be brought to the disk: open the store anew", file.display())]
    Poisoned {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    /// More commits wait than a store should hold.
    #[error("too many commits wait for the disk")]
    Overloaded,
    /// There is no runtime, it was shut down, or the writer panicked: in the latter cases the outcome is not known.
    #[error("the commit was abandoned: there is no tokio runtime to write on, or it has ended")]
    Abandoned,
}

impl WriteError {
    /// The error for a write to `file` of which nothing is left.
    pub(super) fn refused(file: &Path, source: io::Error) -> Self {
        let file = file.to_owned();
        if is_full(&source) { Self::Full { file, source } } else { Self::Refused { file, source } }
    }
}

/// Whether there is no space, on the disk or in what the user may take of it.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
