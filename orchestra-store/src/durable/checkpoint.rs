//! Checkpoints: all entries as of one revision, so that the log before it can go.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    path::Path,
};

use orchestra_core::store::{Entry, Key, Revision};

use super::{
    codec::{FORMAT, FileKind, Record, encode, encode_entries},
    error::OpenError,
    files::{Next, Reader, create_whole, file_path},
};
use crate::state::{HistoryLimits, State};

/// About how many bytes of entries go into one frame.
const FRAME_BYTES: usize = 256 << 10;

/// Writes the checkpoint of `entries`, which are in key order, as of `revision`.
///
/// `stop` is asked now and then; the checkpoint is given up once it says so.
pub(super) fn write(
    directory: &Path,
    revision: Revision,
    entries: &[Entry],
    stop: impl Fn() -> bool,
) -> io::Result<()> {
    let path = file_path(directory, FileKind::Checkpoint, revision);
    create_whole(&path, |file| {
        let mut buffer = Vec::new();
        encode(&Record::Header { format: FORMAT, kind: FileKind::Checkpoint, revision }, &mut buffer);
        for chunk in chunks(entries) {
            if stop() {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "the store is being closed"));
            }
            encode_entries(chunk, &mut buffer);
            file.write_all(&buffer)?;
            buffer.clear();
        }
        encode(&Record::End { entries: entries.len() as u64 }, &mut buffer);
        file.write_all(&buffer)
    })?;
    Ok(())
}

/// Cuts `entries` into runs of about [`FRAME_BYTES`].
fn chunks(entries: &[Entry]) -> impl Iterator<Item = &[Entry]> {
    let mut rest = entries;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let full = rest.iter().position(|entry| {
            bytes += entry.key.as_str().len() + entry.value.len();
            bytes >= FRAME_BYTES
        });
        let (chunk, tail) = rest.split_at(full.map_or(rest.len(), |last| last + 1));
        rest = tail;
        (!chunk.is_empty()).then_some(chunk)
    })
}

/// Reads the checkpoint as of `revision`.
pub(super) fn read(directory: &Path, revision: Revision, limits: HistoryLimits) -> Result<State, OpenError> {
    let mut reader = Reader::open(directory, FileKind::Checkpoint, revision)?;
    let mut live: BTreeMap<Key, Entry> = BTreeMap::new();
    loop {
        match reader.next()? {
            Next::Record(Record::Entries(entries)) => {
                live.extend(entries.into_iter().map(|entry| (entry.key.clone(), entry)));
            }
            Next::Record(Record::End { entries }) if entries == live.len() as u64 => {
                return Ok(State::restore(revision, live, limits));
            }
            Next::Record(_) => return Err(reader.corrupt("a checkpoint does not add up")),
            Next::End | Next::Torn => return Err(reader.corrupt("a checkpoint is cut off")),
        }
    }
}
