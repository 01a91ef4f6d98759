//! The log: commits in the order of their revisions, durable before anyone sees them.

use std::{fmt, io, path::PathBuf, sync::Arc};

use orchestra_core::store::Revision;

use super::{
    codec::{FORMAT, FileKind, Frames, Record},
    disk::{Disk, Media, moved},
    error::WriteError,
    files::file_name,
    seal::Seal,
    sectors::file_len,
};
use crate::state::Commit;

/// What a log ends with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum End {
    /// Its header: there are no commits.
    #[default]
    Empty,
    /// Commits.
    Open,
    /// The header of the next log, which holds the commits after.
    Continued(Revision),
}

/// The log that is being written.
pub(super) struct Log {
    disk: Arc<dyn Disk>,
    media: Box<dyn Media>,
    path: PathBuf,
    base: Revision,
    /// Invariant: so many bytes are synced, and the media holds no more, unless poisoned.
    len: u64,
    end: End,
    /// Why what the disk holds is unknown, if it is; no commit is acknowledged then.
    poisoned: Option<Arc<WriteError>>,
    frames: Frames,
}

impl Log {
    /// Goes on with the log of the commits after `base`, which holds `len` bytes and ends so.
    pub(super) fn open(disk: &Arc<dyn Disk>, base: Revision, len: u64, end: End) -> io::Result<Self> {
        let name = file_name(FileKind::Log, base);
        let (media, path, disk) = (disk.append(&name)?, disk.path().join(name), Arc::clone(disk));
        Ok(Self { disk, media, path, base, len, end, poisoned: None, frames: Frames::default() })
    }

    /// The revision that the first commit comes after.
    pub(super) fn base(&self) -> Revision {
        self.base
    }

    /// How many bytes the file takes.
    pub(super) fn file_len(&self) -> u64 {
        file_len(self.len)
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
        self.write(End::Open, |frames| frames.push_commits(commits))
    }

    /// Ends the log for good: what comes after is in the one at `next`, which must be there.
    ///
    /// # Errors
    ///
    /// As [`append`](Self::append); then the log goes on.
    pub(super) fn continue_in(&mut self, next: Revision) -> Result<(), Arc<WriteError>> {
        let header = Record::Header { format: FORMAT, kind: FileKind::Log, revision: next };
        self.write(End::Continued(next), |frames| frames.push(&header))
    }

    fn write(&mut self, end: End, push: impl FnOnce(&mut Frames)) -> Result<(), Arc<WriteError>> {
        if let Some(error) = &self.poisoned {
            return Err(Arc::clone(error));
        }
        let in_place = self.media.is_at(&self.path).and_then(|is_at| if is_at { Ok(()) } else { Err(moved()) });
        in_place.map_err(|source| WriteError::refused(&self.path, source))?;
        self.frames.begin(self.len);
        push(&mut self.frames);
        if let Err(source) = self.media.write_all(self.frames.guarded()) {
            return Err(match self.media.truncate(file_len(self.len)) {
                Ok(()) => Arc::new(WriteError::refused(&self.path, source)),
                Err(source) => self.poison(source),
            });
        }
        if let Err(source) = self.media.sync() {
            return Err(self.poison(source));
        }
        (self.len, self.end) = (self.frames.end(), end);
        Ok(())
    }

    /// What a store that is closed now may be sealed with: that all of the log is there the next time.
    pub(super) fn seal(&self) -> Option<Seal> {
        self.poisoned.is_none().then_some(Seal { log: self.base, len: Some(self.len) })
    }

    /// Cuts off what is after the last whole frame, and brings the rest to the disk.
    ///
    /// A sync that failed and that nobody was told of fails here.
    pub(super) fn settle(&mut self) -> io::Result<()> {
        self.media.truncate(self.file_len()).and_then(|()| self.media.sync())
    }

    /// Acknowledges nothing from now on, because of `source`; returns the error that says so.
    ///
    /// The seal goes, so that the next process does not trust what it sees.
    pub(super) fn poison(&mut self, source: io::Error) -> Arc<WriteError> {
        if let Err(error) = Seal::remove(&*self.disk) {
            tracing::warn!(%error, log = %self.path.display(), "can't note that a sync has failed");
        }
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
