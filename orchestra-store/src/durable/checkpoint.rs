//! Checkpoints: all entries as of one revision, so that the log before it can go.

use std::{collections::BTreeMap, io};

use orchestra_core::store::{Entry, Key, Listing};

use super::{
    codec::{FORMAT, FileKind, Frames, Record},
    disk::Disk,
    error::DurableError,
    files::create_whole,
    reader::{Next, Reader},
};

/// About how many bytes of entries go into one frame.
const FRAME_BYTES: usize = 256 << 10;

/// Writes the checkpoint of a listing, of all there is, to the file `name`.
///
/// `stop` is asked now and then; the checkpoint is given up once it says so.
pub(super) fn write(
    disk: &dyn Disk,
    name: &str,
    Listing { revision, entries }: &Listing,
    stop: impl Fn() -> bool,
) -> io::Result<()> {
    create_whole(disk, name, |media| {
        let mut frames = Frames::default();
        frames.push(&Record::Header { format: FORMAT, kind: FileKind::Checkpoint, revision: *revision });
        for chunk in chunks(entries) {
            if stop() {
                return Err(io::Error::new(io::ErrorKind::Interrupted, "nobody waits for it any more"));
            }
            frames.push_entries(chunk);
            media.write_all(frames.guarded())?;
            frames.begin(frames.end());
        }
        frames.push(&Record::End { count: entries.len() as u64 });
        media.write_all(frames.guarded())
    })
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

/// Reads the entries of the checkpoint that `reader` is at the beginning of, to its very end.
pub(super) fn read(reader: &mut Reader) -> Result<BTreeMap<Key, Entry>, DurableError> {
    let mut live: BTreeMap<Key, Entry> = BTreeMap::new();
    loop {
        match reader.next()? {
            Next::Record(Record::Entries(entries)) => {
                live.extend(entries.into_iter().map(|entry| (entry.key.clone(), entry)));
            }
            Next::Record(Record::End { count }) if count == live.len() as u64 && reader.bytes_left() == 0 => {
                return Ok(live);
            }
            Next::Record(_) => return Err(reader.corrupt("a checkpoint does not add up")),
            Next::End | Next::Torn => return Err(reader.corrupt("a checkpoint is cut off")),
        }
    }
}
