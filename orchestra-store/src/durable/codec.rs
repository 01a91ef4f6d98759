//! How commits and entries look in a file: frames with a checksum.
//!
//! A frame is `magic, length, checksum` (little-endian `u32` each) and then as many bytes. The checksum is CRC-32 of
//! length and bytes. One frame is one sync: a frame that is not whole was never acknowledged.

use bytes::{Buf, BufMut, Bytes};
use orchestra_core::store::{Change, Entry, Key, Revision};

use crate::state::Commit;

/// The first bytes of every frame.
pub(super) const MAGIC: [u8; 4] = *b"OrcF";
/// The bytes of a frame before its payload.
pub(super) const FRAME_HEAD_BYTES: usize = 12;
/// The format this version writes, and the latest that it reads.
pub(super) const FORMAT: u32 = 1;

/// What kind of file a header begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Log,
    Checkpoint,
}

/// What one frame holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// The first frame of a file: the commits after, or the entries as of, a revision follow.
    Header { format: u32, kind: FileKind, revision: Revision },
    /// Commits that were synced together, in order.
    Commits(Vec<Commit>),
    /// Some entries of a checkpoint, in key order.
    Entries(Vec<Entry>),
    /// The last frame of a checkpoint: how many entries came before.
    End { entries: u64 },
}

const HEADER: u8 = 0;
const COMMITS: u8 = 1;
const ENTRIES: u8 = 2;
const END: u8 = 3;
const DELETE: u8 = 0;
const PUT: u8 = 1;

/// Appends `record` to `out` as one frame.
pub(super) fn encode(record: &Record, out: &mut Vec<u8>) {
    match record {
        Record::Header { format, kind, revision } => frame(out, HEADER, |out| {
            out.put_u32_le(*format);
            out.put_u8(u8::from(*kind == FileKind::Checkpoint));
            out.put_u64_le(revision.0);
        }),
        Record::Commits(commits) => encode_commits(commits, out),
        Record::Entries(entries) => encode_entries(entries, out),
        Record::End { entries } => frame(out, END, |out| out.put_u64_le(*entries)),
    }
}

/// Appends a frame of `commits` to `out`.
pub(super) fn encode_commits(commits: &[Commit], out: &mut Vec<u8>) {
    frame(out, COMMITS, |out| {
        put_len(out, commits.len());
        for commit in commits {
            out.put_u64_le(commit.revision.0);
            put_len(out, commit.changes.len());
            for change in &commit.changes {
                match change {
                    Change::Put(entry) => {
                        out.put_u8(PUT);
                        put_entry(out, entry);
                    }
                    Change::Delete(key) => {
                        out.put_u8(DELETE);
                        put_slice(out, key.as_str().as_bytes());
                    }
                }
            }
        }
    });
}

/// Appends a frame of `entries` to `out`.
pub(super) fn encode_entries(entries: &[Entry], out: &mut Vec<u8>) {
    frame(out, ENTRIES, |out| {
        put_len(out, entries.len());
        for entry in entries {
            put_entry(out, entry);
        }
    });
}

fn frame(out: &mut Vec<u8>, tag: u8, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[0; 8]);
    out.put_u8(tag);
    payload(out);
    let len = u32::try_from(out.len() - start - FRAME_HEAD_BYTES).expect("a frame is far below 4 GiB").to_le_bytes();
    out[start + 4..start + 8].copy_from_slice(&len);
    let sum = checksum(len, &out[start + FRAME_HEAD_BYTES..]).to_le_bytes();
    out[start + 8..start + FRAME_HEAD_BYTES].copy_from_slice(&sum);
}

/// The checksum of a frame with these length bytes and this payload.
pub(super) fn checksum(len: [u8; 4], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&len);
    hasher.update(payload);
    hasher.finalize()
}

/// Reads the payload of a frame.
///
/// # Errors
///
/// What is wrong with it, if it was not written by [`encode`].
pub(super) fn decode(mut payload: &[u8]) -> Result<Record, &'static str> {
    const SHORT: &str = "a record is cut off";
    let input = &mut payload;
    let record = match input.try_get_u8().map_err(|_| SHORT)? {
        HEADER => Record::Header {
            format: input.try_get_u32_le().map_err(|_| SHORT)?,
            kind: if input.try_get_u8().map_err(|_| SHORT)? == 0 { FileKind::Log } else { FileKind::Checkpoint },
            revision: revision(input).ok_or(SHORT)?,
        },
        COMMITS => Record::Commits(many(input, commit).ok_or("a commit is malformed")?),
        ENTRIES => Record::Entries(many(input, entry).ok_or("an entry is malformed")?),
        END => Record::End { entries: input.try_get_u64_le().map_err(|_| SHORT)? },
        _ => return Err("a record is of an unknown kind"),
    };
    if input.is_empty() { Ok(record) } else { Err("a record is too long") }
}

fn put_len(out: &mut Vec<u8>, len: usize) {
    out.put_u32_le(u32::try_from(len).expect("counts and sizes are bounded by the transaction limits"));
}

fn put_slice(out: &mut Vec<u8>, slice: &[u8]) {
    put_len(out, slice.len());
    out.extend_from_slice(slice);
}

fn put_entry(out: &mut Vec<u8>, entry: &Entry) {
    put_slice(out, entry.key.as_str().as_bytes());
    out.put_u64_le(entry.created.0);
    out.put_u64_le(entry.modified.0);
    put_slice(out, &entry.value);
}

fn many<T>(input: &mut &[u8], one: impl Fn(&mut &[u8]) -> Option<T>) -> Option<Vec<T>> {
    let count = input.try_get_u32_le().ok()?;
    (0..count).map(|_| one(input)).collect()
}

fn commit(input: &mut &[u8]) -> Option<Commit> {
    let revision = revision(input)?;
    Some(Commit { revision, changes: many(input, change)? })
}

fn change(input: &mut &[u8]) -> Option<Change> {
    match input.try_get_u8().ok()? {
        PUT => entry(input).map(Change::Put),
        DELETE => key(input).map(Change::Delete),
        _ => None,
    }
}

/// The value is copied, or a small one would keep its whole frame in memory.
fn entry(input: &mut &[u8]) -> Option<Entry> {
    Some(Entry {
        key: key(input)?,
        created: revision(input)?,
        modified: revision(input)?,
        value: Bytes::copy_from_slice(slice(input)?),
    })
}

fn revision(input: &mut &[u8]) -> Option<Revision> {
    input.try_get_u64_le().ok().map(Revision)
}

fn key(input: &mut &[u8]) -> Option<Key> {
    Key::parse(std::str::from_utf8(slice(input)?).ok()?).ok()
}

fn slice<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let len = usize::try_from(input.try_get_u32_le().ok()?).ok()?;
    let (head, tail) = input.split_at_checked(len)?;
    *input = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use orchestra_core::store::{Change, Entry, Key, Revision};
    use proptest::prelude::*;

    use super::{FORMAT, FRAME_HEAD_BYTES, FileKind, Record, decode, encode};
    use crate::state::Commit;

    fn entries() -> impl Strategy<Value = Entry> {
        ("[a-z日]{1,8}", any::<u64>(), any::<u64>(), prop::collection::vec(any::<u8>(), 0..50)).prop_map(
            |(name, created, modified, value)| Entry {
                key: Key::new(["p", &name]).expect("a valid key"),
                value: Bytes::from(value),
                created: Revision(created),
                modified: Revision(modified),
            },
        )
    }

    fn commits() -> impl Strategy<Value = Commit> {
        let change = (entries(), any::<bool>())
            .prop_map(|(entry, delete)| if delete { Change::Delete(entry.key) } else { Change::Put(entry) });
        (any::<u64>(), prop::collection::vec(change, 0..5))
            .prop_map(|(revision, changes)| Commit { revision: Revision(revision), changes })
    }

    fn records() -> impl Strategy<Value = Record> {
        prop_oneof![
            any::<u64>().prop_map(|revision| Record::Header {
                format: FORMAT,
                kind: FileKind::Checkpoint,
                revision: Revision(revision)
            }),
            prop::collection::vec(commits(), 0..5).prop_map(Record::Commits),
            prop::collection::vec(entries(), 0..5).prop_map(Record::Entries),
            any::<u64>().prop_map(|entries| Record::End { entries }),
        ]
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(record in records()) {
            let mut out = Vec::new();
            encode(&record, &mut out);
            prop_assert_eq!(decode(&out[FRAME_HEAD_BYTES..]), Ok(record));
        }

        /// Rule 17: never a panic, whatever the disk returns.
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _: Result<Record, &str> = decode(&bytes);
        }

        #[test]
        fn a_record_cut_off_anywhere_is_refused(record in records(), cut in any::<prop::sample::Index>()) {
            let mut out = Vec::new();
            encode(&record, &mut out);
            let payload = &out[FRAME_HEAD_BYTES..];
            prop_assert!(decode(&payload[..cut.index(payload.len())]).is_err());
        }
    }
}
