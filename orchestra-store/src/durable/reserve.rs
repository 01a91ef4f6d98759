//! Space that is held back, so that on a full disk deletions go on (SEMANTICS 18).
//!
//! It is enough to delete each key by itself, in a log that nothing shortens meanwhile, and grows with the keys. It is given up
//! bit by bit, as others may be waiting for space, too.

use std::{io, sync::Arc};

use orchestra_core::rng::Entropy;

use super::{disk::Disk, error::is_full};

/// The file that holds the space.
pub(super) const RESERVE: &str = "RESERVE";
/// How much of the reserve is written at once.
const CHUNK_BYTES: u64 = 64 << 10;
/// How much of it is given up at least: what most file systems give to files at once.
const BLOCK_BYTES: u64 = 4 << 10;

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

/// Leaves `bytes` to others, or all there is, of the space of a store that is not open yet; tells whether there was any.
pub(super) fn release(disk: &dyn Disk, bytes: u64) -> io::Result<bool> {
    let held = len(disk)?;
    if held > 0 {
        disk.append(RESERVE)?.truncate(held.saturating_sub(bytes.max(BLOCK_BYTES)))?;
    }
    Ok(held > 0)
}

/// Leaves to others the file that holds the space of a store that is not open yet; tells whether there was one.
pub(super) fn remove(disk: &dyn Disk) -> io::Result<bool> {
    match disk.remove(RESERVE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        removed => removed.map(|()| true),
    }
}

/// How long the file is; 0 if there is none.
fn len(disk: &dyn Disk) -> io::Result<u64> {
    match disk.read(RESERVE) {
        Ok((_, len)) => Ok(len),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
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
        let held = len(&*disk)?;
        let mut reserve = Self { disk, min, held, given_up: 0, short: false };
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
        let least = self.min.saturating_add(needed);
        if self.min == 0 || self.held >= least {
            return Ok(());
        }
        match self.fill(least.saturating_add(needed / 4)) {
            Err(error) if self.held < least => Err(error),
            _ => {
                self.given_up = 0;
                Ok(())
            }
        }
    }

    /// Leaves `bytes` to others, who may be those who delete; tells whether there was any.
    pub(super) fn release(&mut self, bytes: u64) -> bool {
        let released = release(&*self.disk, bytes).and_then(|_| len(&*self.disk));
        let freed = released.map_or(0, |held| self.held.saturating_sub(held));
        self.held -= freed;
        self.given_up += freed;
        freed > 0
    }

    /// Notes that so many bytes were written.
    pub(super) fn used(&mut self, bytes: u64) {
        self.given_up = self.given_up.saturating_sub(bytes);
    }

    /// Gives back what is more than twice as much as deletions that need `needed` bytes could make use of.
    pub(super) fn trim(&mut self, needed: u64) -> io::Result<()> {
        let enough = if self.min == 0 { 0 } else { self.min.saturating_add(needed + needed / 4) };
        if self.held / 2 > enough {
            self.disk.append(RESERVE)?.truncate(enough)?;
            self.held = enough;
        }
        Ok(())
    }

    fn fill(&mut self, bytes: u64) -> io::Result<()> {
        let filled = self.try_fill(bytes);
        let held = len(&*self.disk)?;
        self.used(held.saturating_sub(self.held));
        self.held = held;
        filled
    }

    /// Writes what no file system stores in less space than it has.
    fn try_fill(&self, bytes: u64) -> io::Result<()> {
        let mut media = match self.disk.append(RESERVE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.disk.create(RESERVE)?,
            opened => opened?,
        };
        let noise = Entropy::seeded(self.held);
        let chunk: Vec<u8> = (0..CHUNK_BYTES / 8).flat_map(|_| noise.next_u64().to_le_bytes()).collect();
        let mut left = bytes.saturating_sub(self.held);
        while left > 0 {
            let len = left.min(CHUNK_BYTES);
            media.write_all(&chunk[..usize::try_from(len).expect("no more than a chunk")])?;
            left -= len;
        }
        media.sync()
    }
}
