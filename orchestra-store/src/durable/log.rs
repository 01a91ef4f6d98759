//! The log: commits in the order of their revisions, durable before anyone sees them.

use std::{
    fs::File,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use super::{codec::encode_commits, error::WriteError};
use crate::state::Commit;

/// What a log is written to: a file, or in tests one that fails.
pub(super) trait Media: Write + Send {
    /// Returns once all that was written is on the disk.
    fn sync(&mut self) -> io::Result<()>;

    /// Cuts off what is after `len` bytes.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

impl Media for File {
    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}

/// The log that is being written.
pub(super) struct Log {
    media: Box<dyn Media>,
    path: PathBuf,
    /// Invariant: so many bytes are synced, and the media holds no more, unless poisoned.
    len: u64,
    /// Whether what the disk holds is unknown; no commit is acknowledged then.
    poisoned: bool,
    buffer: Vec<u8>,
}

/// How much of a large group's buffer is kept for the next one.
const BUFFER_BYTES_KEPT: usize = 64 << 10;

impl Log {
    /// A log that appends to `media`, which holds `len` bytes.
    pub(super) fn new(media: impl Media + 'static, path: PathBuf, len: u64) -> Self {
        Self { media: Box::new(media), path, len, poisoned: false, buffer: Vec::new() }
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Writes `commits` as one frame and syncs it: one sync, however many they are.
    ///
    /// # Errors
    ///
    /// [`WriteError::Refused`] if nothing was written. [`WriteError::Poisoned`], now and ever after, if that is not sure:
    /// after a failed sync the system may drop what it could not write and report success the next time.
    pub(super) fn append(&mut self, commits: &[Commit]) -> Result<(), Arc<WriteError>> {
        if self.poisoned {
            return Err(self.poison());
        }
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_KEPT);
        encode_commits(commits, &mut self.buffer);
        if let Err(source) = self.media.write_all(&self.buffer) {
            return match self.media.truncate(self.len) {
                Ok(()) => Err(Arc::new(WriteError::Refused { file: self.path.clone(), source })),
                Err(_) => Err(self.poison()),
            };
        }
        if self.media.sync().is_err() {
            return Err(self.poison());
        }
        self.len += self.buffer.len() as u64;
        Ok(())
    }

    /// Acknowledges nothing from now on; returns the error that says so.
    pub(super) fn poison(&mut self) -> Arc<WriteError> {
        self.poisoned = true;
        Arc::new(WriteError::Poisoned { file: self.path.clone() })
    }
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, len, poisoned, .. } = self;
        f.debug_struct("Log").field("path", path).field("len", len).field("poisoned", poisoned).finish_non_exhaustive()
    }
}
