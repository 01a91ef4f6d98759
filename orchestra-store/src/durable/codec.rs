//! How commits and entries look in a file: frames with checksums.
//!
//! A frame is `magic, length, payload checksum, head checksum` (little-endian `u32` each) and then as many bytes. Checksums
//! are CRC-32; that of the head is of where in the file the frame is (`u64`) and of the three words before it, so that a
//! length can be trusted, and a frame within a value is none. One frame is one sync: a frame that is not whole was never
//! acknowledged.

use bytes::{Buf, BufMut, Bytes};
use orchestra_core::store::{Change, Entry, Key, Revision};

use super::sectors::guard;
use crate::state::Commit;

/// The first bytes of every frame.
const MAGIC: [u8; 4] = *b"OrcS";
/// Those of format 1.
pub(super) const MAGIC_OF_FORMAT_1: [u8; 4] = *b"OrcF";
/// The bytes of a frame before its payload.
pub(super) const HEAD_BYTES: usize = 16;
/// The one format that this version writes and reads.
pub(super) const FORMAT: u32 = 2;
/// How many bytes a frame takes that deletes one key, beside those of the key, at most.
pub(super) const DELETION_BYTES: u64 = HEAD_BYTES as u64 + 1 + 4 + 8 + 4 + 1 + 4 + 1;
/// How many bytes an entry takes, beside those of its key and value.
pub(super) const ENTRY_BYTES: u64 = 4 + 8 + 8 + 4;
/// How much of a large group's buffer is kept for the next one.
const BUFFER_BYTES_KEPT: usize = 64 << 10;

/// What kind of file a header begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileKind {
    Log,
    Checkpoint,
    Seal,
}

/// What one frame holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// The first frame of a file. The commits after `revision` follow, the entries as of it, or, in a seal, how long the log
    /// of that revision is.
    Header { format: u32, kind: FileKind, revision: Revision },
    /// Commits that were synced together, in order.
    Commits(Vec<Commit>),
    /// Some entries of a checkpoint, in key order.
    Entries(Vec<Entry>),
    /// The last frame of a checkpoint, and how many entries came before; that of a seal, and the log's length.
    End { count: u64 },
}

const HEADER: u8 = 0;
const COMMITS: u8 = 1;
const ENTRIES: u8 = 2;
const END: u8 = 3;
const DELETE: u8 = 0;
const PUT: u8 = 1;

/// Frames that go to one place in a file, one after the other.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// Where the first one goes.
    position: u64,
    bytes: Vec<u8>,
    guarded: Vec<u8>,
}

impl Frames {
    /// Forgets all frames, for others that go to `position`.
    pub(super) fn begin(&mut self, position: u64) {
        self.position = position;
        for buffer in [&mut self.bytes, &mut self.guarded] {
            buffer.clear();
            buffer.shrink_to(BUFFER_BYTES_KEPT);
        }
    }

    /// The position after the last one.
    pub(super) fn end(&self) -> u64 {
        self.position + self.bytes.len() as u64
    }

    /// What the file has for them.
    pub(super) fn guarded(&mut self) -> &[u8] {
        self.guarded.clear();
        guard(&self.bytes, self.position, &mut self.guarded);
        &self.guarded
    }

    /// Adds one of `record`.
    pub(super) fn push(&mut self, record: &Record) {
        match record {
            Record::Header { format, kind, revision } => self.frame(HEADER, |out| {
                out.put_u32_le(*format);
                out.put_u8(*kind as u8);
                out.put_u64_le(revision.0);
            }),
            Record::Commits(commits) => self.push_commits(commits),
            Record::Entries(entries) => self.push_entries(entries),
            Record::End { count } => self.frame(END, |out| out.put_u64_le(*count)),
        }
    }

    /// Adds one of `commits`.
    pub(super) fn push_commits(&mut self, commits: &[Commit]) {
        self.frame(COMMITS, |out| {
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

    /// Adds one of `entries`.
    pub(super) fn push_entries(&mut self, entries: &[Entry]) {
        self.frame(ENTRIES, |out| {
            put_len(out, entries.len());
            for entry in entries {
                put_entry(out, entry);
            }
        });
    }

    fn frame(&mut self, tag: u8, payload: impl FnOnce(&mut Vec<u8>)) {
        let position = self.end();
        let out = &mut self.bytes;
        let start = out.len();
        out.extend_from_slice(&[0; HEAD_BYTES]);
        out.put_u8(tag);
        payload(out);
        let (head, payload) = out[start..].split_at_mut(HEAD_BYTES);
        let len = u32::try_from(payload.len()).expect("a frame is far below 4 GiB");
        head.copy_from_slice(&Head { len, sum: crc32fast::hash(payload) }.encode(position));
    }
}

/// What the bytes of a frame before its payload tell of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) len: u32,
    sum: u32,
}

impl Head {
    fn encode(self, position: u64) -> [u8; HEAD_BYTES] {
        let mut bytes = [0; HEAD_BYTES];
        let mut out = &mut bytes[..];
        out.put_slice(&MAGIC);
        out.put_u32_le(self.len);
        out.put_u32_le(self.sum);
        let sum = head_checksum(&bytes[..HEAD_BYTES - 4], position);
        bytes[HEAD_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// Reads that of the frame at `position`; `None` if none begins there.
    pub(super) fn decode(bytes: &[u8], position: u64) -> Option<Self> {
        let (told, mut sum) = bytes.get(..HEAD_BYTES)?.split_at(HEAD_BYTES - 4);
        let mut words = told.strip_prefix(&MAGIC)?;
        let head = Self { len: words.get_u32_le(), sum: words.get_u32_le() };
        (head_checksum(told, position) == sum.get_u32_le()).then_some(head)
    }

    /// Whether `payload` is as it was written.
    pub(super) fn is_of(self, payload: &[u8]) -> bool {
        payload.len() == self.len as usize && crc32fast::hash(payload) == self.sum
    }
}

fn head_checksum(told: &[u8], position: u64) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&position.to_le_bytes());
    hasher.update(told);
    hasher.finalize()
}

/// Reads the payload of a frame.
///
/// # Errors
///
/// What is wrong with it, if it is none of [`Frames`].
pub(super) fn decode(mut payload: &[u8]) -> Result<Record, &'static str> {
    const SHORT: &str = "a record is cut off";
    let input = &mut payload;
    let record = match input.try_get_u8().map_err(|_| SHORT)? {
        HEADER => Record::Header {
            format: input.try_get_u32_le().map_err(|_| SHORT)?,
            kind: kind(input.try_get_u8().map_err(|_| SHORT)?).ok_or("a file is of an unknown kind")?,
            revision: revision(input).ok_or(SHORT)?,
        },
        COMMITS => Record::Commits(many(input, commit).ok_or("a commit is malformed")?),
        ENTRIES => Record::Entries(many(input, entry).ok_or("an entry is malformed")?),
        END => Record::End { count: input.try_get_u64_le().map_err(|_| SHORT)? },
        _ => return Err("a record is of an unknown kind"),
    };
    if input.is_empty() { Ok(record) } else { Err("a record is too long") }
}

fn kind(byte: u8) -> Option<FileKind> {
    [FileKind::Log, FileKind::Checkpoint, FileKind::Seal].into_iter().find(|kind| *kind as u8 == byte)
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

    use super::{DELETION_BYTES, ENTRY_BYTES, FORMAT, FileKind, Frames, HEAD_BYTES, Head, Record, decode};
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
            any::<u64>().prop_map(|count| Record::End { count }),
        ]
    }

    /// The frame of a record at a position.
    fn frame(record: &Record, position: u64) -> Vec<u8> {
        let mut frames = Frames::default();
        frames.begin(position);
        frames.push(record);
        frames.bytes
    }

    proptest! {
        #[test]
        fn what_is_encoded_decodes(record in records(), position: u32) {
            let bytes = frame(&record, position.into());
            let (head, payload) = bytes.split_at(HEAD_BYTES);
            prop_assert!(Head::decode(head, position.into()).is_some_and(|head| head.is_of(payload)));
            prop_assert_eq!(decode(payload), Ok(record));
        }

        /// Rule 17: a frame within a value is none.
        #[test]
        fn a_frame_counts_where_it_was_written_only(record in records(), position: u32, elsewhere: u32) {
            let bytes = frame(&record, position.into());
            prop_assert_eq!(Head::decode(&bytes, elsewhere.into()).is_some(), position == elsewhere);
        }

        /// Rule 17.
        #[test]
        fn a_frame_with_any_bit_flipped_is_none(record in records(), bit in any::<prop::sample::Index>()) {
            let mut bytes = frame(&record, 0);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (head, payload) = bytes.split_at(HEAD_BYTES);
            prop_assert!(!Head::decode(head, 0).is_some_and(|head| head.is_of(payload)));
        }

        /// Rule 17: never a panic, whatever the disk returns.
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _: Result<Record, &str> = decode(&bytes);
        }

        #[test]
        fn a_record_cut_off_anywhere_is_refused(record in records(), cut in any::<prop::sample::Index>()) {
            let bytes = frame(&record, 0);
            let payload = &bytes[HEAD_BYTES..];
            prop_assert!(decode(&payload[..cut.index(payload.len())]).is_err());
        }

        /// What is held back for deletions, and what a checkpoint takes, is reckoned with these.
        #[test]
        fn an_entry_and_a_deletion_take_what_is_said(entry in entries()) {
            let (key, value) = (entry.key.as_str().len() as u64, entry.value.len() as u64);
            let alone = frame(&Record::Entries(Vec::new()), 0).len() as u64;
            let one = frame(&Record::Entries(vec![entry.clone()]), 0).len() as u64;
            prop_assert_eq!(one - alone, key + value + ENTRY_BYTES);
            let commit = Commit { revision: Revision(2), changes: vec![Change::Delete(entry.key)] };
            let deletion = frame(&Record::Commits(vec![commit]), 0).len() as u64;
            prop_assert!(deletion + deletion.div_ceil(511) <= key + key.div_ceil(511) + DELETION_BYTES);
        }
    }
}
