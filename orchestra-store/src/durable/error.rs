//! What can go wrong with files.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Why a [`DurableStore`](super::DurableStore) did not open. Nothing was changed, unless it says otherwise.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// Another store, of this process or another, has the directory open: end that one first.
    #[error("{} is open already", directory.display())]
    Locked {
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
    /// The file is of a later version of this program: use that one.
    #[error("{} has format {found}, but this version reads up to {supported}", file.display())]
    Format {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u32,
        /// The latest format that is understood.
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

impl OpenError {
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
    /// Nothing was written; the next commit may succeed, once there is space for example.
    #[error("can't write {}", file.display())]
    Refused {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    /// What the disk holds is not known: no commit succeeds until the store is opened anew.
    #[error("a sync of {} failed: open the store anew", file.display())]
    Poisoned { file: PathBuf },
    /// More commits wait than a store should hold.
    #[error("too many commits wait for the disk")]
    Overloaded,
    /// The runtime was shut down, or the writer panicked: the outcome is not known.
    #[error("the commit was abandoned")]
    Abandoned,
}
