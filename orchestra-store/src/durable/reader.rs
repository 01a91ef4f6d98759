//! How a file is read, record by record, and what damage is told from what a crash leaves.

use std::{
    io::{self, BufReader, Read},
    path::PathBuf,
};

use orchestra_core::store::Revision;

use super::{
    codec::{FORMAT, FRAME_HEAD_BYTES, FileKind, MAGIC, Record, checksum, decode},
    disk::Disk,
    error::DurableError,
    files::file_name,
};

/// How much of a file is read at once.
const BUFFER_BYTES: usize = 1 << 16;

/// What a look for the next frame came to.
#[derive(Debug)]
pub(super) enum Next {
    /// A whole record.
    Record(Record),
    /// The file ends here.
    End,
    /// No whole frame begins here, nor anywhere after: what a crash leaves of a write that was not synced.
    Torn,
}

/// Reads a file record by record.
pub(super) struct Reader {
    path: PathBuf,
    input: BufReader<Box<dyn Read + Send>>,
    kind: FileKind,
    base: Revision,
    /// Where the next frame begins.
    offset: u64,
    len: u64,
    records: u64,
}

impl Reader {
    /// Opens the file of a store that holds `kind` from `base` on.
    pub(super) fn open(disk: &dyn Disk, kind: FileKind, base: Revision) -> Result<Self, DurableError> {
        let reader = Self::open_any(disk, &file_name(kind, base))?;
        if (reader.kind, reader.base) != (kind, base) {
            return Err(DurableError::corrupt(&reader.path, 0, "the header is not this file's"));
        }
        Ok(reader)
    }

    /// Opens a file of any name and reads its header.
    pub(super) fn open_any(disk: &dyn Disk, name: &str) -> Result<Self, DurableError> {
        let path = disk.path().join(name);
        let (input, len) = disk.read(name).map_err(DurableError::io(&path))?;
        let input = BufReader::with_capacity(BUFFER_BYTES, input);
        let (kind, base) = (FileKind::Log, Revision::default());
        let mut reader = Self { path, input, kind, base, offset: 0, len, records: 0 };
        match reader.next()? {
            Next::Record(Record::Header { format, .. }) if format > FORMAT => {
                Err(DurableError::Format { file: reader.path, found: format, supported: FORMAT })
            }
            Next::Record(Record::Header { kind, revision, .. }) => Ok(Self { kind, base: revision, ..reader }),
            _ => Err(DurableError::corrupt(&reader.path, 0, "there is no header")),
        }
    }

    /// What the file holds, by its header.
    pub(super) fn kind(&self) -> FileKind {
        self.kind
    }

    /// The revision in the header.
    pub(super) fn base(&self) -> Revision {
        self.base
    }

    /// How many bytes have been read as whole frames.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// How many records have been read, the header among them.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// How many bytes follow.
    pub(super) fn bytes_left(&self) -> u64 {
        self.len - self.offset
    }

    /// An error that names this file and the place before the next frame.
    pub(super) fn corrupt(&self, reason: &'static str) -> DurableError {
        DurableError::corrupt(&self.path, self.offset, reason)
    }

    /// Reads the next record.
    ///
    /// # Errors
    ///
    /// [`DurableError::Corrupt`] for a broken frame with a whole one after it: as each was synced before the next was
    /// written, the disk lost something. It also is for a broken frame that would be whole but for one bit, which no cut
    /// makes of one.
    pub(super) fn next(&mut self) -> Result<Next, DurableError> {
        if self.bytes_left() == 0 {
            return Ok(Next::End);
        }
        match self.read_frame().map_err(DurableError::io(&self.path))? {
            Ok(payload) => {
                let record = decode(&payload).map_err(|reason| self.corrupt(reason))?;
                self.offset += (FRAME_HEAD_BYTES + payload.len()) as u64;
                self.records += 1;
                Ok(Next::Record(record))
            }
            Err(rest) if has_whole_frame(rest.get(1..).unwrap_or_default()) => {
                Err(self.corrupt("a checksum does not match"))
            }
            Err(rest) if is_one_bit_off(&rest, self.offset) => Err(self.corrupt("a bit is flipped")),
            Err(_) => Ok(Next::Torn),
        }
    }

    /// The payload of the next frame, or, if it is broken, all that is left of the file.
    fn read_frame(&mut self) -> io::Result<Result<Vec<u8>, Vec<u8>>> {
        let left = self.bytes_left();
        let mut bytes = vec![0; FRAME_HEAD_BYTES.min(usize::try_from(left).unwrap_or(usize::MAX))];
        self.input.read_exact(&mut bytes)?;
        if let Some(Head { magic: MAGIC, len, sum }) = Head::of(&bytes)
            && u64::from(u32::from_le_bytes(len)) <= left - FRAME_HEAD_BYTES as u64
        {
            let mut payload = vec![0; u32::from_le_bytes(len) as usize];
            self.input.read_exact(&mut payload)?;
            if checksum(len, &payload) == sum {
                return Ok(Ok(payload));
            }
            bytes.append(&mut payload);
        }
        self.input.read_to_end(&mut bytes)?;
        Ok(Err(bytes))
    }
}

/// The bytes of a frame before its payload.
struct Head {
    magic: [u8; 4],
    len: [u8; 4],
    sum: u32,
}

impl Head {
    /// What `bytes` begin with.
    fn of(bytes: &[u8]) -> Option<Self> {
        let (magic, rest) = bytes.split_first_chunk::<4>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let sum = u32::from_le_bytes(*rest.first_chunk::<4>()?);
        Some(Self { magic: *magic, len: *len, sum })
    }
}

/// Whether a whole frame begins anywhere in `bytes`.
fn has_whole_frame(bytes: &[u8]) -> bool {
    bytes.windows(FRAME_HEAD_BYTES).enumerate().any(|(start, head)| {
        Head::of(head).is_some_and(|Head { magic, len, sum }| {
            let payload = bytes[start + FRAME_HEAD_BYTES..].get(..u32::from_le_bytes(len) as usize);
            magic == MAGIC && payload.is_some_and(|payload| checksum(len, payload) == sum)
        })
    })
}

/// How much a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// Whether `bytes`, which are at `offset` of a file and do not begin with a whole frame, would with one bit flipped.
fn is_one_bit_off(bytes: &[u8], offset: u64) -> bool {
    let Some(Head { magic, len, sum }) = Head::of(bytes) else { return false };
    let rest = &bytes[FRAME_HEAD_BYTES..];
    let payload_of = |len: [u8; 4]| rest.get(..u32::from_le_bytes(len) as usize);
    let magic_bits = (u32::from_le_bytes(magic) ^ u32::from_le_bytes(MAGIC)).count_ones();
    if magic_bits > 0 {
        return magic_bits == 1 && payload_of(len).is_some_and(|payload| checksum(len, payload) == sum);
    }
    let is_length_off = (0..u32::BITS).any(|bit| {
        let len = (u32::from_le_bytes(len) ^ 1 << bit).to_le_bytes();
        payload_of(len).is_some_and(|payload| checksum(len, payload) == sum)
    });
    is_length_off
        || payload_of(len).is_some_and(|payload| {
            !has_unwritten_sector(payload, offset + FRAME_HEAD_BYTES as u64)
                && is_one_bit(checksum(len, payload) ^ sum, payload.len())
        })
}

/// Whether of `payload`, which is at `offset` of a file, a crash kept a sector from the disk: it is all zeros then, and what
/// is missing may be a single bit.
fn has_unwritten_sector(payload: &[u8], offset: u64) -> bool {
    let sector = SECTOR_BYTES as u64;
    let first = usize::try_from(offset.next_multiple_of(sector) - offset).expect("less than a sector");
    payload.get(first..).unwrap_or_default().chunks(SECTOR_BYTES).any(|part| part.iter().all(|byte| *byte == 0))
}

/// Whether `difference`, between the checksum of a payload of `len` bytes and the one it should have, is that of one bit
/// of either.
///
/// The checksum is linear: a flipped bit changes it by a value that depends on its distance from the end only, and that of
/// each bit is one step of CRC-32's shift register on from that of the bit after it.
fn is_one_bit(difference: u32, len: usize) -> bool {
    const POLYNOMIAL: u32 = 0xedb8_8320;
    let step = |register: &u32| Some((register >> 1) ^ (if register & 1 == 1 { POLYNOMIAL } else { 0 }));
    let of_payload = std::iter::successors(Some(POLYNOMIAL), step).take(len.saturating_mul(8));
    difference.count_ones() == 1 || of_payload.into_iter().any(|register| register == difference)
}

#[cfg(test)]
mod tests {
    use super::{SECTOR_BYTES, has_whole_frame, is_one_bit_off};
    use crate::durable::codec::{Record, encode};

    fn frame(entries: u64) -> Vec<u8> {
        let mut out = Vec::new();
        encode(&Record::End { entries }, &mut out);
        out
    }

    #[test]
    fn a_frame_with_any_bit_flipped_is_told_from_one_that_is_cut_off() {
        let whole = frame(0x1234_5678_9abc_def0);
        assert!(has_whole_frame(&whole));
        for bit in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(is_one_bit_off(&flipped, 0), "bit {bit}");
            flipped.extend_from_slice(b"OrcF and what a crash left of the next");
            assert!(is_one_bit_off(&flipped, 0), "bit {bit} before a torn frame");
        }
        for len in 0..whole.len() {
            assert!(!is_one_bit_off(&whole[..len], 0), "{len} bytes of it");
        }
    }

    /// Rule 17: what a crash makes of the last write is no damage, even if what is missing is one bit.
    #[test]
    fn a_sector_that_was_not_written_is_no_flipped_bit() {
        let mut torn = frame(1 << 56);
        let last = torn.len() - 1;
        torn[last] = 0;
        for offset in 0..2 * SECTOR_BYTES {
            let begins_sector = (offset + last).is_multiple_of(SECTOR_BYTES);
            let begins_zeros = (1..8).any(|zeros| (offset + last - zeros).is_multiple_of(SECTOR_BYTES));
            assert_eq!(is_one_bit_off(&torn, offset as u64), !begins_sector && !begins_zeros, "at {offset}");
        }
    }
}
