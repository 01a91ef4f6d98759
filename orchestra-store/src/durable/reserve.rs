//! Space that is held back, so that on a full disk deletions go on (SEMANTICS 18).
//!
//! It is enough to delete each key by itself, in a log that nothing shortens meanwhile, and grows with the keys.

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
    /// How many bytes there are beside those that deletions need; if 0, none is held at all.
    min: u64,
    held: u64,
    /// How many bytes were given up and not used since.
    given_up: u64,
    /// Whether the last that wrote values found no space.
    pub(super) short: bool,
}

/// Leaves the space of a store that is not open yet.
pub(super) fn give_up(disk: &dyn Disk) -> io::Result<()> {
    match disk.remove(RESERVE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Reserve {
    /// Holds space for deletions that need `needed` bytes, as the last process may have done already, and `min` more; on a
    /// full disk it holds what there is.
    ///
    /// # Errors
    ///
    /// Any but that the disk is full.
    pub(super) fn open(disk: Arc<dyn Disk>, min: u64, needed: u64) -> io::Result<Self> {
        let mut reserve = Self { disk, min, held: 0, given_up: 0, short: false };
        reserve.held = reserve.len()?;
        reserve.trim(needed)?;
        match reserve.hold(needed) {
            Err(error) if !is_full(&error) => Err(error),
            held => {
                reserve.short = held.is_err();
                Ok(reserve)
            }
        }
    }

    /// How many bytes there are beside those that deletions need.
    pub(super) fn min(&self) -> u64 {
        self.min
    }

    /// How many bytes are held, or given up and not used.
    pub(super) fn bytes(&self) -> u64 {
        self.held + self.given_up
    }

    /// Takes the space for deletions that need `needed` bytes, if less is held; a quarter more, so as not to be asked often.
    ///
    /// # Errors
    ///
    /// For want of it, in most cases; what there is, is held then.
    pub(super) fn hold(&mut self, needed: u64) -> io::Result<()> {
        if self.min == 0 || self.held >= self.min + needed {
            return Ok(());
        }
        match self.fill(self.min + needed + needed / 4) {
            Err(error) if self.held < self.min + needed => Err(error),
            _ => {
                self.given_up = 0;
                Ok(())
            }
        }
    }

    /// Leaves the space to others, which may be those who delete.
    pub(super) fn give_up(&mut self) {
        if self.held > 0 && self.disk.remove(RESERVE).is_ok() {
            self.given_up += std::mem::take(&mut self.held);
        }
    }

    /// Notes that so many bytes were written.
    pub(super) fn used(&mut self, bytes: u64) {
        self.given_up = self.given_up.saturating_sub(bytes);
    }

    /// Gives back what is more than twice as much as deletions that need `needed` bytes could make use of.
    pub(super) fn trim(&mut self, needed: u64) -> io::Result<()> {
        let enough = if self.min == 0 { 0 } else { self.min + needed + needed / 4 };
        if self.held > 2 * enough {
            self.disk.append(RESERVE)?.truncate(enough)?;
            self.held = enough;
        }
        Ok(())
    }

    /// How long the file is, if there is one.
    fn len(&self) -> io::Result<u64> {
        match self.disk.read(RESERVE) {
            Ok((_, len)) => Ok(len),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    fn fill(&mut self, bytes: u64) -> io::Result<()> {
        let filled = self.try_fill(bytes);
        let held = self.len()?;
        self.used(held.saturating_sub(self.held));
        self.held = held;
        filled
    }

    fn try_fill(&self, bytes: u64) -> io::Result<()> {
        let mut media = match self.disk.append(RESERVE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.disk.create(RESERVE)?,
            opened => opened?,
        };
        let chunk = vec![0; usize::try_from(CHUNK_BYTES).expect("it fits into memory")];
        let mut left = bytes.saturating_sub(self.held);
        while left > 0 {
            let len = left.min(CHUNK_BYTES);
            media.write_all(&chunk[..usize::try_from(len).expect("no more than a chunk")])?;
            left -= len;
        }
        media.sync()
    }
}
