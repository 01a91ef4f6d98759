//! The log: commits in the order of their revisions, durable before anyone sees them.

use std::{fmt, io, path::PathBuf, sync::Arc};

use orchestra_core::store::Revision;

use super::{
    codec::{FORMAT, FileKind, Record, encode, encode_commits},
    disk::Media,
    error::WriteError,
};
use crate::state::Commit;

/// What a log ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Its header: there are no commits.
    Empty,
    /// Commits.
    Open,
    /// The seal of a store that was closed: a frame of no commits.
    Sealed,
    /// The header of the next log, which holds the commits after.
    Continued(Revision),
}

/// The log that is being written.
pub(super) struct Log {
    media: Box<dyn Media>,
    path: PathBuf,
    /// Invariant: so many bytes are synced, and the media holds no more, unless poisoned.
    len: u64,
    end: End,
    /// Why what the disk holds is unknown, if it is; no commit is acknowledged then.
    poisoned: Option<Arc<WriteError>>,
    buffer: Vec<u8>,
}

/// How much of a large group's buffer is kept for the next one.
const BUFFER_BYTES_KEPT: usize = 64 << 10;

impl Log {
    /// A log without commits that appends to `media`, which holds `len` bytes.
    pub(super) fn new(media: Box<dyn Media>, path: PathBuf, len: u64) -> Self {
        Self { media, path, len, end: End::Empty, poisoned: None, buffer: Vec::new() }
    }

    /// A log that goes on after `end`.
    pub(super) fn resumed(self, end: End) -> Self {
        Self { end, ..self }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn end(&self) -> End {
        self.end
    }

    /// Writes `commits` as one frame and syncs it: one sync, however many they are.
    ///
    /// # Errors
    ///
    /// [`WriteError::Full`] and [`WriteError::Refused`] if nothing was written. [`WriteError::Poisoned`], now and ever
    /// after, if that is not sure: after a failed sync the system may drop what it could not write and report success the
    /// next time.
    pub(super) fn append(&mut self, commits: &[Commit]) -> Result<(), Arc<WriteError>> {
        let end = if commits.is_empty() { End::Sealed } else { End::Open };
        self.write(end, |buffer| encode_commits(commits, buffer))
    }

    /// Ends the log for good: what comes after is in the one at `next`, which must be there.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append); then the log goes on.
    pub(super) fn continue_in(&mut self, next: Revision) -> Result<(), Arc<WriteError>> {
        let header = Record::Header { format: FORMAT, kind: FileKind::Log, revision: next };
        self.write(End::Continued(next), |buffer| encode(&header, buffer))
    }

    fn write(&mut self, end: End, encode: impl FnOnce(&mut Vec<u8>)) -> Result<(), Arc<WriteError>> {
        if let Some(error) = &self.poisoned {
            return Err(Arc::clone(error));
        }
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        encode(&mut self.buffer);
        if let Err(source) = self.media.write_all(&self.buffer) {
            return Err(match self.media.truncate(self.len) {
                Ok(()) => Arc::new(WriteError::refused(&self.path, source)),
                Err(source) => self.poison(source),
            });
        }
        if let Err(source) = self.media.sync() {
            return Err(self.poison(source));
        }
        self.len += self.buffer.len() as u64;
        self.end = end;
        Ok(())
    }

    /// Seals the log, if it does not end so already.
    ///
    /// Damage to the last commits can then be told from a write that a crash cut off.
    pub(super) fn seal(&mut self) -> Result<(), Arc<WriteError>> {
        if self.end == End::Open { self.append(&[]) } else { Ok(()) }
    }

    /// Acknowledges nothing from now on, because of `source`; returns the error that says so.
    pub(super) fn poison(&mut self, source: io::Error) -> Arc<WriteError> {
        let error = Arc::new(WriteError::Poisoned { file: self.path.clone(), source });
        Arc::clone(self.poisoned.insert(error))
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, len, poisoned, .. } = self;
        f.debug_struct("Log").field("path", path).field("len", len).field("poisoned", poisoned).finish_non_exhaustive()
    }
}
