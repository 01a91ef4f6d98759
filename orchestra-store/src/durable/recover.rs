//! From files back to a state, whatever moment they were left at (SEMANTICS 17).

use std::{collections::BTreeMap, sync::Arc};

use orchestra_core::store::{Prefix, Revision};

use super::{
    backup::Report,
    checkpoint,
    codec::{FileKind, Record},
    disk::Disk,
    error::DurableError,
    files::{create_log, file_name, file_path, remove, remove_before, remove_drafts, revisions},
    log::{End, Log},
    reader::{Next, Reader},
};
use crate::state::{Commit, FIRST, HistoryLimits, State};

/// What the files of a store come to.
pub(super) struct Found {
    /// Every acknowledged commit, and perhaps some at the end that were written but not acknowledged.
    state: State,
    /// Where the first log that counts begins; what is older is not needed.
    base: Revision,
    /// The logs before the last.
    ended: Vec<Revision>,
    /// The last log, and where its whole frames end.
    tail: Tail,
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
#[derive(Clone, Copy)]
struct Tail {
    base: Revision,
    len: u64,
    torn_bytes: u64,
    end: End,
}

/// Reads the newest checkpoint and the logs since, and opens the last log to go on with.
///
/// Commits that were written but not acknowledged are made durable before they are shown.
pub(super) fn recover(disk: &Arc<dyn Disk>, limits: HistoryLimits) -> Result<(State, Log), DurableError> {
    let Some(found) = read(&**disk, limits)? else {
        remove_drafts(&**disk)?;
        let log = create_log(disk, FIRST).map_err(DurableError::io(disk.path()))?;
        return Ok((State::new(limits), log));
    };
    remove_drafts(&**disk)?;
    for base in found.unused {
        remove(&**disk, &file_name(FileKind::Log, base))?;
    }
    // The last process may have ended between writing that a log goes on in the next and syncing that.
    for base in found.ended {
        let name = file_name(FileKind::Log, base);
        let synced = disk.append(&name).and_then(|mut media| media.sync());
        synced.map_err(DurableError::io(&disk.path().join(name)))?;
    }
    let log = resume(&**disk, found.tail)?;
    // Or between giving a file its name and syncing that.
    disk.sync_names().map_err(DurableError::io(disk.path()))?;
    remove_before(&**disk, found.base)?;
    Ok((found.state, log))
}

/// Reads the newest checkpoint and the logs since, and changes nothing; `None` if there is no store.
pub(super) fn read(disk: &dyn Disk, limits: HistoryLimits) -> Result<Option<Found>, DurableError> {
    let checkpoint = revisions(disk, FileKind::Checkpoint)?.pop();
    let mut logs = revisions(disk, FileKind::Log)?;
    if checkpoint.is_none() && logs.is_empty() {
        return Ok(None);
    }
    let base = checkpoint.unwrap_or(FIRST);
    logs.retain(|log| *log >= base);
    if logs.first() != Some(&base) {
        return Err(DurableError::corrupt(&file_path(disk, FileKind::Log, base), 0, "the file is gone"));
    }
    let (mut records, mut bytes, mut live) = (0, 0, BTreeMap::new());
    if let Some(revision) = checkpoint {
        let mut reader = Reader::open(disk, FileKind::Checkpoint, revision)?;
        live = checkpoint::read(&mut reader)?;
        (records, bytes) = (reader.records(), reader.offset());
    }
    let tail = Tail { base, len: 0, torn_bytes: 0, end: End::Empty };
    let state = State::restore(base, live, limits);
    let mut found = Found { state, base, ended: Vec::new(), tail, unused: Vec::new(), records, bytes };
    for log in logs {
        found.replay(disk, log)?;
    }
    if let End::Continued(next) = found.tail.end {
        return Err(DurableError::corrupt(&file_path(disk, FileKind::Log, next), 0, "the file is gone"));
    }
    Ok(Some(found))
}

impl Found {
    /// Applies the commits of the log at `base`, which is the next.
    fn replay(&mut self, disk: &dyn Disk, base: Revision) -> Result<(), DurableError> {
        let mut reader = Reader::open(disk, FileKind::Log, base)?;
        let is_torn = self.tail.torn_bytes > 0;
        if reader.bytes_left() == 0 && (base < self.state.revision() || base == self.state.revision() && is_torn) {
            // It was begun, but an error kept the store with the log before, which tells what came after.
            self.unused.push(base);
            return Ok(());
        }
        if is_torn {
            let ended = file_path(disk, FileKind::Log, self.tail.base);
            return Err(DurableError::corrupt(&ended, self.tail.len, "a log that was ended is cut off"));
        }
        if self.state.revision() != base {
            return Err(reader.corrupt("the log before this one is not whole"));
        }
        let mut end = End::Empty;
        loop {
            match reader.next()? {
                Next::Record(Record::Commits(commits)) => {
                    end = if commits.is_empty() { End::Sealed } else { End::Open };
                    self.apply(&reader, commits)?;
                }
                Next::Record(Record::Header { revision, .. }) if reader.bytes_left() == 0 => {
                    end = End::Continued(revision);
                }
                Next::Record(_) => return Err(reader.corrupt("a log holds something else than commits")),
                Next::End | Next::Torn => break,
            }
        }
        self.records += reader.records();
        self.bytes += reader.offset() + reader.bytes_left();
        self.ended.extend((self.tail.len > 0).then_some(self.tail.base));
        self.tail = Tail { base, len: reader.offset(), torn_bytes: reader.bytes_left(), end };
        Ok(())
    }

    fn apply(&mut self, reader: &Reader, commits: Vec<Commit>) -> Result<(), DurableError> {
        for commit in commits {
            if commit.revision.0 != self.state.revision().0 + 1 {
                return Err(reader.corrupt("a revision does not follow the one before"));
            }
            self.state.apply(commit);
        }
        Ok(())
    }
}

/// Cuts off what is torn and syncs the rest, which may have been written but not synced when the last process ended.
fn resume(disk: &dyn Disk, tail: Tail) -> Result<Log, DurableError> {
    let name = file_name(FileKind::Log, tail.base);
    let path = disk.path().join(&name);
    let mut media = disk.append(&name).map_err(DurableError::io(&path))?;
    media.truncate(tail.len).and_then(|()| media.sync()).map_err(DurableError::io(&path))?;
    Ok(Log::new(media, path, tail.len).resumed(tail.end))
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
        let mut log = create_log(&disk, FIRST).expect("a log");
        let commit = |revision| [Commit { revision: Revision(revision), changes: changes.clone() }];
        log.append(&commit(2)).expect("a commit");
        let mut next = create_log(&disk, Revision(2)).expect("a log");
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
