//! Space that is held back, so that on a full disk deletions go on (SEMANTICS 18).

use std::{io, sync::Arc};

use super::{disk::Disk, error::is_full};

/// The file that holds the space.
const RESERVE: &str = "RESERVE";
/// How much of the reserve is written at once.
const CHUNK_BYTES: u64 = 64 << 10;

/// Some bytes of a disk that are held, or were given up to those who delete.
#[derive(Debug)]
pub(super) struct Reserve {
    disk: Arc<dyn Disk>,
    bytes: u64,
    held: bool,
    /// Whether the last that wrote values found no space.
    pub(super) short: bool,
}

impl Reserve {
    /// Holds `bytes` of `disk`, as the last process may have done already; on a full disk it holds none.
    ///
    /// # Errors
    ///
    /// Any but that the disk is full.
    pub(super) fn open(disk: Arc<dyn Disk>, bytes: u64) -> io::Result<Self> {
        let mut reserve = Self { disk, bytes, held: bytes == 0, short: false };
        match reserve.hold() {
            Err(error) if !is_full(&error) => Err(error),
            held => {
                reserve.short = held.is_err();
                Ok(reserve)
            }
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Takes the space if it is not held.
    ///
    /// # Errors
    ///
    /// For want of it, in most cases; then none is held.
    pub(super) fn hold(&mut self) -> io::Result<()> {
        if !self.held {
            if !self.is_there()? {
                self.fill().inspect_err(|_| self.release())?;
            }
            self.held = true;
        }
        Ok(())
    }

    /// Leaves the space to others, which may be those who delete.
    pub(super) fn give_up(&mut self) {
        if self.bytes > 0 {
            self.release();
            self.held = false;
        }
    }

    fn is_there(&self) -> io::Result<bool> {
        match self.disk.read(RESERVE) {
            Ok((_, len)) if len == self.bytes => Ok(true),
            Ok(_) => self.disk.remove(RESERVE).map(|()| false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn fill(&self) -> io::Result<()> {
        let mut media = self.disk.create(RESERVE)?;
        let chunk = vec![0; usize::try_from(CHUNK_BYTES.min(self.bytes)).unwrap_or(usize::MAX)];
        let mut left = self.bytes;
        while left > 0 {
            let len = left.min(CHUNK_BYTES);
            media.write_all(&chunk[..usize::try_from(len).unwrap_or(usize::MAX)])?;
            left -= len;
        }
        media.sync()
    }

    /// If it stays, there is no space to gain.
    fn release(&self) {
        let _: io::Result<()> = self.disk.remove(RESERVE);
    }
}
