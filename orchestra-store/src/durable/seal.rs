//! The seal of a store: which logs there must be, and where the last one of a closed store ends, so that none can be missing.
//!
//! It is a file of its own, as a log that was cut off between two commits looks whole.

use std::io;

use orchestra_core::store::Revision;

use super::{
    codec::{FORMAT, FileKind, Frames, Record},
    disk::Disk,
    error::DurableError,
    files::create_whole,
    reader::{Next, Reader},
    sectors::file_len,
};

/// The file.
pub(super) const SEAL: &str = "SEAL";

/// A log that is there, or was until a checkpoint replaced it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal {
    pub(super) log: Revision,
    /// How many bytes it holds, if it is the last one of a store that was closed.
    pub(super) len: Option<u64>,
}

impl Seal {
    /// Writes it, after all that it speaks of is on the disk.
    pub(super) fn write(self, disk: &dyn Disk) -> io::Result<()> {
        let mut frames = self.frames();
        create_whole(disk, SEAL, |media| media.write_all(frames.guarded()))
    }

    /// Notes that the log of a store that was closed goes on. It takes nothing but a cut: neither bytes nor a file.
    pub(super) fn open(self, disk: &dyn Disk) -> io::Result<()> {
        let mut media = disk.append(SEAL)?;
        media.truncate(file_len(Self { len: None, ..self }.frames().end()))?;
        media.sync()
    }

    fn frames(self) -> Frames {
        let mut frames = Frames::default();
        frames.push(&Record::Header { format: FORMAT, kind: FileKind::Seal, revision: self.log });
        if let Some(count) = self.len {
            frames.push(&Record::End { count });
        }
        frames
    }

    /// Reads that of a store; `None` if there is none, as in one that was just restored, or whose sync has failed.
    pub(super) fn read(disk: &dyn Disk) -> Result<Option<Self>, DurableError> {
        let names = disk.names().map_err(DurableError::io(disk.path()))?;
        if !names.iter().any(|name| name == SEAL) {
            return Ok(None);
        }
        let mut reader = Reader::open_any(disk, SEAL)?;
        let len = match reader.next()? {
            Next::Record(Record::End { count }) => Some(count),
            Next::End => None,
            _ => return Err(reader.corrupt("it is no seal")),
        };
        if reader.kind() != FileKind::Seal || reader.bytes_left() > 0 {
            return Err(reader.corrupt("it is no seal"));
        }
        Ok(Some(Self { log: reader.base(), len }))
    }

    /// Breaks it, which needs no space: what the logs end with is in doubt from now on.
    ///
    /// It is enough that the next process on this machine sees it. After a crash the cache, which is what may deceive, is gone.
    pub(super) fn remove(disk: &dyn Disk) -> io::Result<()> {
        match disk.remove(SEAL) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => disk.sync_names(),
        }
    }
}
