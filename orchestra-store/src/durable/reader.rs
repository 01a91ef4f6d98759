//! How a file is read, record by record, and what damage is told from what a crash leaves.

use std::{
    io::{self, BufReader, Read},
    path::PathBuf,
};

use orchestra_core::store::Revision;

use super::{
    codec::{FORMAT, FileKind, HEAD_BYTES, Head, MAGIC_OF_FORMAT_1, Record, decode},
    disk::Disk,
    error::DurableError,
    files::file_name,
    sectors::{Guards, Sectors, file_len, left_in_sector, offset},
};

/// How much of a file is read at once.
const BUFFER_BYTES: usize = 1 << 16;

/// The most that a crash leaves of one write: a group of commits, of which the last may be as large as they come.
const TORN_BYTES_MAX: u64 = 256 << 20;

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
    input: Sectors<BufReader<Box<dyn Read + Send>>>,
    kind: FileKind,
    base: Revision,
    /// Where the next frame begins.
    position: u64,
    file_len: u64,
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
        let (mut input, file_len) = disk.read(name).map_err(DurableError::io(&path))?;
        let mut start = Vec::new();
        input.by_ref().take(MAGIC_OF_FORMAT_1.len() as u64).read_to_end(&mut start).map_err(DurableError::io(&path))?;
        if start == MAGIC_OF_FORMAT_1 {
            return Err(DurableError::Format { file: path, found: 1, supported: FORMAT });
        }
        let input: Box<dyn Read + Send> = Box::new(io::Cursor::new(start).chain(input));
        let input = Sectors::new(BufReader::with_capacity(BUFFER_BYTES, input), file_len);
        let (kind, base) = (FileKind::Log, Revision::default());
        let mut reader = Self { path, input, kind, base, position: 0, file_len, records: 0 };
        match reader.next()? {
            Next::Record(Record::Header { format, .. }) if format != FORMAT => {
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

    /// The position after the last whole frame.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// How many records have been read, the header among them.
    pub(super) fn records(&self) -> u64 {
        self.records
    }

    /// How many bytes of the file have been read as whole frames.
    pub(super) fn bytes_read(&self) -> u64 {
        file_len(self.position)
    }

    /// How many bytes of the file follow.
    pub(super) fn bytes_left(&self) -> u64 {
        self.file_len - self.bytes_read()
    }

    /// An error that names this file and the place before the next frame.
    pub(super) fn corrupt(&self, reason: &'static str) -> DurableError {
        DurableError::corrupt(&self.path, offset(self.position), reason)
    }

    /// Reads the next record.
    ///
    /// # Errors
    ///
    /// [`DurableError::Corrupt`] for a broken frame of which every sector was written, or with another frame after it: as
    /// each was synced before the next was written, the disk lost something.
    pub(super) fn next(&mut self) -> Result<Next, DurableError> {
        if self.bytes_left() == 0 {
            return Ok(Next::End);
        }
        match self.read_frame().map_err(DurableError::io(&self.path))? {
            Found::Whole(payload) => {
                let record = decode(&payload).map_err(|reason| self.corrupt(reason))?;
                self.position += (HEAD_BYTES + payload.len()) as u64;
                self.records += 1;
                Ok(Next::Record(record))
            }
            Found::Unwritten { then: false } => Ok(Next::Torn),
            Found::Unwritten { then: true } => {
                Err(self.corrupt("a part is gone, and what was written after it is there"))
            }
            Found::Damaged => Err(self.corrupt("a checksum does not match")),
        }
    }

    fn read_frame(&mut self) -> io::Result<Found> {
        let position = self.position;
        self.input.guards = Guards::default();
        let mut bytes = self.input.take(HEAD_BYTES as u64)?;
        if bytes.len() < HEAD_BYTES {
            return Ok(Found::Unwritten { then: false });
        }
        let Some(head) = Head::decode(&bytes, position) else {
            let part = usize::try_from(left_in_sector(position)).map_or(HEAD_BYTES, |left| left.min(HEAD_BYTES));
            let is_unwritten = self.input.guards.is_missing || bytes[..part].iter().all(|byte| *byte == 0);
            if self.input.guards.is_damaged || !is_unwritten {
                return Ok(Found::Damaged);
            }
            return self.unwritten(position + 1, bytes.split_off(1));
        };
        let payload = self.input.take(head.len.into())?;
        if head.is_of(&payload) && self.input.guards.are_whole() {
            return Ok(Found::Whole(payload));
        }
        let Guards { is_missing, is_damaged } = self.input.guards;
        if is_damaged || payload.len() == head.len as usize && !is_missing {
            return Ok(Found::Damaged);
        }
        self.unwritten(position + (HEAD_BYTES + payload.len()) as u64, Vec::new())
    }

    /// Looks for a frame in `bytes`, which are at `position`, and in what follows them.
    fn unwritten(&mut self, position: u64, mut bytes: Vec<u8>) -> io::Result<Found> {
        if self.input.bytes_left() > TORN_BYTES_MAX {
            return Ok(Found::Damaged);
        }
        bytes.extend(self.input.take(self.input.bytes_left())?);
        let mut starts = (position..).zip(bytes.windows(HEAD_BYTES));
        Ok(Found::Unwritten { then: starts.any(|(start, bytes)| Head::decode(bytes, start).is_some()) })
    }
}

/// What there is where a frame should be.
enum Found {
    /// The payload of one that is as it was written.
    Whole(Vec<u8>),
    /// One whose end, or some sector, was not written, and perhaps another after it.
    Unwritten { then: bool },
    /// One that was written whole, and is another now.
    Damaged,
}

#[cfg(test)]
mod tests {
    use std::{path::Path, sync::Arc};

    use bytes::Bytes;
    use orchestra_core::store::{Change, Entry, Key, Revision};
    use proptest::prelude::*;

    use super::{Next, Reader};
    use crate::{
        durable::{
            DurableError,
            codec::{FORMAT, FileKind, Frames, Record},
            disk::Disk,
            sectors::SECTOR_BYTES,
            simulated::SimulatedDisk,
        },
        state::Commit,
    };

    /// The bytes of a log of two frames, the second of which puts `value`; and where that begins.
    fn log(value: Vec<u8>) -> (Vec<u8>, usize) {
        let header = Record::Header { format: FORMAT, kind: FileKind::Log, revision: Revision(1) };
        let mut frames = Frames::default();
        frames.push(&header);
        let start = frames.guarded().len();
        let key = Key::new(["a"]).expect("a valid key");
        let entry = Entry { key, value: Bytes::from(value), created: Revision(2), modified: Revision(2) };
        frames.push_commits(&[Commit { revision: Revision(2), changes: vec![Change::Put(entry)] }]);
        (frames.guarded().to_vec(), start)
    }

    /// What the second frame of a file reads as.
    fn second(bytes: &[u8]) -> Result<Next, DurableError> {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::default());
        disk.create("file").and_then(|mut media| media.write_all(bytes)).expect("a file");
        Reader::open_any(&*disk, "file")?.next()
    }

    fn is_corrupt(result: &Result<Next, DurableError>) -> bool {
        matches!(result, Err(DurableError::Corrupt { file, .. }) if file == Path::new("simulated/file"))
    }

    /// Values of many zeros, which are no sectors that were not written.
    fn values() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(
            prop_oneof![3 => Just(vec![0; 700]), 1 => prop::collection::vec(any::<u8>(), 0..300)],
            0..4,
        )
        .prop_map(|parts| parts.concat())
    }

    proptest! {
        /// Rule 17: whatever the value.
        #[test]
        fn a_flipped_bit_of_the_last_frame_is_told(value in values(), bit in any::<prop::sample::Index>()) {
            let (mut bytes, start) = log(value);
            let bit = start * 8 + bit.index((bytes.len() - start) * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(is_corrupt(&second(&bytes)), "bit {bit}");
        }

        /// Rule 17: what a crash makes of the last write is no damage.
        #[test]
        fn a_last_frame_that_was_not_written_whole_is_torn(value in values(), cut in any::<prop::sample::Index>(), lost: u16) {
            let (mut bytes, start) = log(value);
            let cut_off = &bytes[..start + cut.index(bytes.len() - start)];
            let is_torn = matches!(second(cut_off), Ok(Next::Torn | Next::End));
            prop_assert!(is_torn);

            let sector = usize::try_from(SECTOR_BYTES)?;
            let mut any_lost = false;
            for (index, part) in bytes.chunks_mut(sector).enumerate() {
                if lost & 1 << index == 0 {
                    let from = start.saturating_sub(index * sector).min(part.len());
                    part[from..].fill(0);
                    any_lost |= from < part.len();
                }
            }
            let result = second(&bytes);
            prop_assert!(matches!(result, Ok(Next::Torn)) == any_lost && !is_corrupt(&result), "got {result:?}");
        }
    }

    /// Rule 17: a value is no frame, wherever it was copied from.
    #[test]
    fn a_torn_write_of_a_value_that_holds_a_frame_is_torn() {
        let (inner, _) = log(vec![1; 40]);
        let (bytes, _) = log(inner);
        for len in bytes.len() - 80..bytes.len() {
            assert!(matches!(second(&bytes[..len]), Ok(Next::Torn)), "{len} bytes");
        }
    }

    /// Rule 17: each frame was synced before the next one.
    #[test]
    fn a_lost_sector_before_another_frame_is_told() {
        let (_, start) = log(Vec::new());
        let mut frames = Frames::default();
        frames.push(&Record::Header { format: FORMAT, kind: FileKind::Log, revision: Revision(1) });
        for revision in 2..5 {
            let entry = Entry {
                key: Key::new(["a"]).expect("a valid key"),
                value: Bytes::from(vec![0; 700]),
                created: Revision(2),
                modified: Revision(revision),
            };
            frames.push_commits(&[Commit { revision: Revision(revision), changes: vec![Change::Put(entry)] }]);
        }
        let whole = frames.guarded();
        for (from, to) in [(start, 512), (512, 1024), (start, 1024)] {
            let mut bytes = whole.to_vec();
            bytes[from..to].fill(0);
            assert!(is_corrupt(&second(&bytes)), "{from}..{to}");
        }
    }
}
