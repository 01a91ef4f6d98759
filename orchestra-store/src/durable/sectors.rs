//! What a crash kept from the disk can be told: each sector of a file begins with a byte that is never zero.
//!
//! A disk writes a sector whole or not at all, and what was never written reads as zeros. So a sector that begins with zero
//! was not written, whatever the values in it are, and no single flipped bit makes one look so. A file is the run of its
//! bytes, 511 to a sector; a *position* is a place in that run, an *offset* one in the file.

use std::io::{self, Read};

/// How much a disk writes whole or not at all.
pub(super) const SECTOR_BYTES: u64 = 512;
/// How much of a sector is not its guard.
const HELD_BYTES: u64 = SECTOR_BYTES - 1;
/// The first byte of each sector.
pub(super) const GUARD: u8 = 0xff;

/// How long a file is that holds `len` bytes: the offset at which what comes next is appended.
pub(super) const fn file_len(len: u64) -> u64 {
    len + len.div_ceil(HELD_BYTES)
}

/// How many bytes a file of that length holds.
const fn held_len(file_len: u64) -> u64 {
    file_len - file_len.div_ceil(SECTOR_BYTES)
}

/// The offset of the byte at `position`.
pub(super) const fn offset(position: u64) -> u64 {
    position + position / HELD_BYTES + 1
}

/// How many bytes there are from `position` to the end of its sector.
pub(super) const fn left_in_sector(position: u64) -> u64 {
    HELD_BYTES - position % HELD_BYTES
}

/// Appends to `out` what the file has for `bytes` that are at `position`, guards and all.
pub(super) fn guard(mut bytes: &[u8], position: u64, out: &mut Vec<u8>) {
    let mut in_sector = position % HELD_BYTES;
    while !bytes.is_empty() {
        if in_sector == 0 {
            out.push(GUARD);
        }
        let room = usize::try_from(HELD_BYTES - in_sector).expect("less than a sector");
        let (part, rest) = bytes.split_at(room.min(bytes.len()));
        out.extend_from_slice(part);
        (bytes, in_sector) = (rest, 0);
    }
}

/// Reads what a file holds, and notes which guards are not as they were written.
pub(super) struct Sectors<R> {
    input: R,
    position: u64,
    len: u64,
    /// Whether the guard of the sector that is being read is zero.
    is_unwritten: bool,
    pub(super) guards: Guards,
}

/// What the guards of some sectors were like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Guards {
    /// One was zero, and what was read of its sector, too: that was not written.
    pub(super) is_missing: bool,
    /// One was something else, or zero in a sector that was written.
    pub(super) is_damaged: bool,
}

impl Guards {
    /// Whether all were as they were written.
    pub(super) fn are_whole(self) -> bool {
        self == Self::default()
    }
}

impl<R: Read> Sectors<R> {
    /// Reads a file from its start, which is `file_len` bytes long.
    pub(super) fn new(input: R, file_len: u64) -> Self {
        Self { input, position: 0, len: held_len(file_len), is_unwritten: false, guards: Guards::default() }
    }

    /// How many bytes are left.
    pub(super) fn bytes_left(&self) -> u64 {
        self.len - self.position
    }

    /// Reads so many bytes, or all there are.
    pub(super) fn take(&mut self, len: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(len.min(self.bytes_left())).expect("a file that fits into memory")];
        let mut rest = &mut *bytes;
        while !rest.is_empty() {
            let in_sector = self.position % HELD_BYTES;
            if in_sector == 0 {
                self.read_guard()?;
            }
            let room = usize::try_from(HELD_BYTES - in_sector).expect("less than a sector");
            let (part, after) = rest.split_at_mut(room.min(rest.len()));
            self.input.read_exact(part)?;
            self.guards.is_damaged |= self.is_unwritten && part.iter().any(|byte| *byte != 0);
            self.position += part.len() as u64;
            rest = after;
        }
        Ok(bytes)
    }

    fn read_guard(&mut self) -> io::Result<()> {
        let mut guard = [0];
        self.input.read_exact(&mut guard)?;
        self.is_unwritten = guard == [0];
        self.guards.is_missing |= self.is_unwritten;
        self.guards.is_damaged |= !self.is_unwritten && guard != [GUARD];
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{GUARD, Guards, SECTOR_BYTES, Sectors, file_len, guard, offset};

    proptest! {
        #[test]
        fn what_was_guarded_reads_as_it_was(parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1200), 0..5)) {
            let (mut file, mut held) = (Vec::new(), Vec::new());
            for part in &parts {
                guard(part, held.len() as u64, &mut file);
                held.extend_from_slice(part);
                prop_assert_eq!(file.len() as u64, file_len(held.len() as u64));
            }
            for (position, byte) in held.iter().enumerate().step_by(97) {
                prop_assert_eq!(file[usize::try_from(offset(position as u64))?], *byte);
            }
            prop_assert!(file.iter().step_by(usize::try_from(SECTOR_BYTES)?).all(|byte| *byte == GUARD));
            let mut sectors = Sectors::new(&*file, file.len() as u64);
            for part in &parts {
                prop_assert_eq!(&sectors.take(part.len() as u64)?, part);
            }
            prop_assert_eq!((sectors.bytes_left(), sectors.guards), (0, Guards::default()));
        }
    }

    #[test]
    fn a_file_that_ends_with_a_guard_holds_what_is_before() {
        let mut file = Vec::new();
        guard(&[7; 511], 0, &mut file);
        file.push(GUARD);
        let mut sectors = Sectors::new(&*file, file.len() as u64);
        assert_eq!(sectors.take(600).ok(), Some(vec![7; 511]));
        assert_eq!(sectors.bytes_left(), 0);
    }
}
