//! From files back to a state, whatever moment they were left at (SEMANTICS 17).

use std::{collections::BTreeMap, io, sync::Arc};

use orchestra_core::store::{Prefix, Revision};

use super::{
    backup::Report,
    checkpoint,
    codec::{FileKind, Record},
    disk::Disk,
    error::{DurableError, is_full},
    files::{create_log, file_name, file_path, remove, remove_before, remove_drafts, revisions},
    log::{End, Log},
    reader::{Next, Reader},
    reserve,
    seal::Seal,
    sectors::file_len,
};
use crate::state::{Commit, FIRST, HistoryLimits, State};

/// What is wrong with a file that there must be.
const GONE: &str = "the file is gone";
/// The same where a store was being restored and never opened.
const CUT_OFF: &str = "the file is gone, as if a restore was cut off: remove the directory and restore again";

/// What the files of a store come to.
pub(super) struct Found {
    /// Every acknowledged commit, and perhaps some at the end that were written but not acknowledged.
    state: State,
    /// Where the first log that counts begins; what is older is not needed.
    base: Revision,
    /// The last log, and where its whole frames end.
    tail: Tail,
    /// The log that there must be; none if a sync has failed.
    seal: Option<Seal>,
    /// How many bytes the logs before the last have.
    older_bytes: u64,
    /// The logs that were begun but never used, although the store went on.
    unused: Vec<Revision>,
    /// How many records were read.
    records: u64,
    /// How many bytes of files were read.
    bytes: u64,
}

impl Found {
    /// What of that a user may want to know.
    pub(super) fn report(&self) -> Report {
        let Self { records, bytes, .. } = *self;
        let (revision, torn_bytes) = (self.state.revision(), self.tail.torn_bytes);
        Report { revision, keys: self.state.under(&Prefix::all()).count() as u64, records, bytes, torn_bytes }
    }
}

/// The end of a log.
#[derive(Default)]
struct Tail {
    base: Revision,
    len: u64,
    torn_bytes: u64,
    end: End,
    /// The commits of the last frame: those of which nobody knows whether they are on the disk.
    last: Vec<Commit>,
}

/// A store that was opened.
pub(super) struct Recovered {
    pub(super) state: State,
    pub(super) log: Log,
    /// How many bytes of older logs wait for a checkpoint.
    pub(super) older_bytes: u64,
}

/// Reads the newest checkpoint and the logs since, and opens a log to go on with.
///
/// Commits that were written but not acknowledged are made durable before they are shown.
pub(super) fn recover(disk: &Arc<dyn Disk>, limits: HistoryLimits) -> Result<Recovered, DurableError> {
    let found = read(&**disk, limits)?;
    remove_drafts(&**disk)?;
    let Some(found) = found else {
        let log = create_log(disk, FIRST, &[]).map_err(DurableError::io(disk.path()))?;
        seal(&**disk, None, log.base())?;
        return Ok(Recovered { state: State::new(limits), log, older_bytes: 0 });
    };
    for base in &found.unused {
        remove(&**disk, &file_name(FileKind::Log, *base))?;
    }
    let log = resume(disk, &found)?;
    seal(&**disk, found.seal, log.base())?;
    remove_before(&**disk, found.base)?;
    Ok(Recovered { state: found.state, log, older_bytes: found.older_bytes })
}

/// Notes, before anything is appended to a log, that it is there and goes on.
///
/// On a full disk that may have to wait: what an older seal says is still so, and without one less is told.
fn seal(disk: &dyn Disk, found: Option<Seal>, log: Revision) -> Result<(), DurableError> {
    let sealed = match found {
        Some(seal) if seal.len.is_some() => seal.open(disk),
        Some(seal) if seal.log == log => return Ok(()),
        _ => Seal { log, len: None }.write(disk),
    };
    match sealed {
        Err(error) if !is_full(&error) => Err(DurableError::io(disk.path())(error)),
        _ => Ok(()),
    }
}

/// Opens the log to go on with: the last one, if all of it is on the disk or can be brought there.
///
/// That can't be trusted once a sync has failed and a process was told so. What it had written is in the cache, which takes it
/// for clean: another sync succeeds and brings nothing to the disk, and even to write it once more need not (Rebello et al.,
/// USENIX ATC 2020). Then the last frame is written to a new log, and the old one is left as it is; the frames before were
/// synced, or it would not be there.
fn resume(disk: &Arc<dyn Disk>, found: &Found) -> Result<Log, DurableError> {
    let Tail { base, len, torn_bytes, end, last } = &found.tail;
    let path = file_path(&**disk, FileKind::Log, *base);
    if *torn_bytes > 0 {
        tracing::warn!(log = %path.display(), torn_bytes, "left out what a crash left of a write that was not acknowledged");
    }
    if let (None, Some(first)) = (found.seal, last.first()) {
        let before = Revision(first.revision.0 - 1);
        let made = with_room(&**disk, file_len(*len), || create_log(disk, before, last));
        return made.map_err(DurableError::io(disk.path()));
    }
    let mut log = Log::open(disk, *base, *len, *end).map_err(DurableError::io(&path))?;
    log.settle().map_err(DurableError::io(&path))?;
    // The last process may have ended between giving it its name and syncing that.
    disk.sync_names().map_err(DurableError::io(disk.path()))?;
    Ok(log)
}

/// Makes something, on a full disk of so many bytes, or a few more, of the space that is held back, or in the place of the file
/// that held it.
fn with_room<T>(disk: &dyn Disk, bytes: u64, make: impl Fn() -> io::Result<T>) -> io::Result<T> {
    loop {
        match make() {
            Err(error) if is_full(&error) && (reserve::release(disk, bytes)? || reserve::remove(disk)?) => {}
            made => return made,
        }
    }
}

/// Reads the newest checkpoint and the logs since, and changes nothing; `None` if there is no store.
pub(super) fn read(disk: &dyn Disk, limits: HistoryLimits) -> Result<Option<Found>, DurableError> {
    let checkpoint = revisions(disk, FileKind::Checkpoint)?.pop();
    let mut logs = revisions(disk, FileKind::Log)?;
    let seal = Seal::read(disk)?;
    if checkpoint.is_none() && logs.is_empty() {
        return seal.map_or(Ok(None), |seal| Err(gone(disk, FileKind::Log, seal.log)));
    }
    let base = checkpoint.unwrap_or(FIRST);
    logs.retain(|log| *log >= base);
    match logs.first() {
        Some(first) if *first == base => {}
        Some(first) if checkpoint.is_none() => {
            let file = file_path(disk, FileKind::Checkpoint, *first);
            let is_cut_off = seal.is_none() && logs.len() == 1;
            let reason = if is_cut_off { CUT_OFF } else { GONE };
            return Err(DurableError::corrupt(&file, 0, reason));
        }
        _ => return Err(gone(disk, FileKind::Log, base)),
    }
    let (mut records, mut bytes, mut live) = (0, 0, BTreeMap::new());
    if let Some(revision) = checkpoint {
        let mut reader = Reader::open(disk, FileKind::Checkpoint, revision)?;
        live = checkpoint::read(&mut reader)?;
        (records, bytes) = (reader.records(), reader.bytes_read());
    }
    let state = State::restore(base, live, limits);
    let (tail, unused) = (Tail::default(), Vec::new());
    let mut found = Found { state, base, tail, seal, older_bytes: 0, unused, records, bytes };
    for log in logs {
        found.replay(disk, log)?;
    }
    if let End::Continued(next) = found.tail.end {
        return Err(gone(disk, FileKind::Log, next));
    }
    if let Some(seal) = seal {
        found.assert_sealed(disk, seal)?;
    }
    Ok(Some(found))
}

fn gone(disk: &dyn Disk, kind: FileKind, base: Revision) -> DurableError {
    DurableError::corrupt(&file_path(disk, kind, base), 0, GONE)
}

impl Found {
    /// Applies the commits of the log at `base`, which is the next.
    fn replay(&mut self, disk: &dyn Disk, base: Revision) -> Result<(), DurableError> {
        let mut reader = Reader::open(disk, FileKind::Log, base)?;
        let is_first = self.older_bytes + self.tail.len == 0;
        let is_told_of =
            is_first || self.tail.end == End::Continued(base) || self.seal.is_some_and(|seal| seal.log == base);
        if reader.bytes_left() == 0 && base <= self.state.revision() && !is_told_of {
            // It was begun, but an error kept the store with the log before, which tells what came after.
            self.unused.push(base);
            return Ok(());
        }
        if self.state.revision() < base && self.tail.torn_bytes > 0 {
            let ended = file_path(disk, FileKind::Log, self.tail.base);
            return Err(DurableError::corrupt(&ended, file_len(self.tail.len), "a log that was ended is cut off"));
        }
        if self.state.revision() < base {
            return Err(reader.corrupt("the log before this one is not whole"));
        }
        let (mut end, mut last, mut revision) = (End::Empty, Vec::new(), base);
        loop {
            match reader.next()? {
                Next::Record(Record::Commits(commits)) => {
                    end = End::Open;
                    last.clone_from(&commits);
                    for commit in commits {
                        revision = self.apply(&reader, revision, commit)?;
                    }
                }
                Next::Record(Record::Header { revision, .. }) if reader.bytes_left() == 0 => {
                    end = End::Continued(revision);
                }
                Next::Record(_) => return Err(reader.corrupt("a log holds something else than commits")),
                Next::End | Next::Torn => break,
            }
        }
        self.records += reader.records();
        self.bytes += reader.bytes_read() + reader.bytes_left();
        self.older_bytes += file_len(self.tail.len) + self.tail.torn_bytes;
        self.tail = Tail { base, len: reader.position(), torn_bytes: reader.bytes_left(), end, last };
        Ok(())
    }

    /// Fails unless there are the logs that a seal speaks of.
    fn assert_sealed(&self, disk: &dyn Disk, Seal { log, len }: Seal) -> Result<(), DurableError> {
        let Tail { base, len: found, torn_bytes, .. } = self.tail;
        if base < log {
            return Err(gone(disk, FileKind::Log, log));
        }
        let Some(len) = len else { return Ok(()) };
        if (base, found, torn_bytes) != (log, len, 0) {
            let offset = file_len(if base == log { found.min(len) } else { 0 });
            let reason = "it does not end where it did when the store was closed";
            return Err(DurableError::corrupt(&file_path(disk, FileKind::Log, base), offset, reason));
        }
        Ok(())
    }

    /// Applies a commit that follows `before` in its log, unless the log before has told of it.
    fn apply(&mut self, reader: &Reader, before: Revision, commit: Commit) -> Result<Revision, DurableError> {
        let revision = commit.revision;
        if revision.0 != before.0 + 1 {
            return Err(reader.corrupt("a revision does not follow the one before"));
        }
        if revision > self.state.revision() {
            self.state.apply(commit);
        }
        Ok(revision)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use orchestra_core::store::{Change, Key, Revision};

    use super::read;
    use crate::{
        durable::{
            DurableError,
            codec::FileKind,
            disk::Disk,
            files::{create_log, file_name, file_path, remove},
            simulated::SimulatedDisk,
        },
        state::{Commit, FIRST, HistoryLimits},
    };

    /// Rule 17: a log that went on in another does not do without it.
    #[test]
    fn a_lost_log_is_told() {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::default());
        let changes = vec![Change::Delete(Key::new(["a"]).expect("a valid key"))];
        let mut log = create_log(&disk, FIRST, &[]).expect("a log");
        let commit = |revision| [Commit { revision: Revision(revision), changes: changes.clone() }];
        log.append(&commit(2)).expect("a commit");
        let mut next = create_log(&disk, Revision(2), &[]).expect("a log");
        log.continue_in(Revision(2)).expect("a log that goes on");
        next.append(&commit(3)).expect("a commit");
        let found = read(&*disk, HistoryLimits::default()).expect("a whole store").expect("a store");
        assert_eq!(found.report().revision, Revision(3));

        remove(&*disk, &file_name(FileKind::Log, Revision(2))).expect("a removal");
        let lost = file_path(&*disk, FileKind::Log, Revision(2));
        let result = read(&*disk, HistoryLimits::default()).map(|found| found.map(|found| found.report()));
        assert!(matches!(&result, Err(DurableError::Corrupt { file, .. }) if *file == lost), "got {result:?}");
    }
}
