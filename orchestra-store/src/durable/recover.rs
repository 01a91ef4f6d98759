//! From files back to a state, whatever moment they were left at (SEMANTICS 17).

use std::{
    fs::{self, OpenOptions},
    path::Path,
};

use orchestra_core::store::Revision;

use super::{
    checkpoint,
    codec::{FileKind, Record},
    error::OpenError,
    files::{Next, Reader, create_log, file_path, remove_before, remove_drafts, revisions},
    log::Log,
};
use crate::state::{Commit, FIRST, HistoryLimits, State};

/// Reads the newest checkpoint and the logs since, and opens the last log to go on with.
///
/// The state holds every acknowledged commit, and may hold some at its end that were written but not acknowledged;
/// those are made durable before they are shown.
pub(super) fn recover(directory: &Path, limits: HistoryLimits) -> Result<(State, Log), OpenError> {
    remove_drafts(directory)?;
    let checkpoint = revisions(directory, FileKind::Checkpoint)?.pop();
    let mut logs = revisions(directory, FileKind::Log)?;
    if checkpoint.is_none() && logs.is_empty() {
        let (path, file, len) = create_log(directory, FIRST).map_err(OpenError::io(directory))?;
        return Ok((State::new(limits), Log::new(file, path, len)));
    }
    let base = checkpoint.unwrap_or(FIRST);
    logs.retain(|log| *log >= base);
    if logs.first() != Some(&base) {
        return Err(OpenError::corrupt(&file_path(directory, FileKind::Log, base), 0, "the file is gone"));
    }
    let mut state = match checkpoint {
        Some(revision) => checkpoint::read(directory, revision, limits)?,
        None => State::new(limits),
    };
    let reader = replay_all(directory, &logs, &mut state)?;
    let log = resume(&reader)?;
    remove_before(directory, base)?;
    Ok((state, log))
}

/// Applies the commits of `logs`, which begin at the state's revision; returns the reader at the end of what is whole.
fn replay_all(directory: &Path, logs: &[Revision], state: &mut State) -> Result<Reader, OpenError> {
    let mut last: Option<(Reader, Next)> = None;
    for &base in logs {
        let reader = Reader::open(directory, FileKind::Log, base)?;
        let is_torn = matches!(last, Some((_, Next::Torn)));
        if reader.is_at_end() && (base < state.revision() || is_torn) {
            // It was begun, but an error kept the store with the log before, which tells what came after.
            fs::remove_file(reader.path()).map_err(OpenError::io(reader.path()))?;
            continue;
        }
        if let Some((ended, Next::Torn)) = last {
            return Err(ended.corrupt("a log that was ended is cut off"));
        }
        last = Some(replay(reader, base, state)?);
    }
    let (reader, _) = last.expect("the log at the base is never passed over");
    Ok(reader)
}

/// Applies the commits of one log; returns the reader at the end of what is whole, and whether the file ends there.
fn replay(mut reader: Reader, base: Revision, state: &mut State) -> Result<(Reader, Next), OpenError> {
    if state.revision() != base {
        return Err(reader.corrupt("the log before this one is not whole"));
    }
    loop {
        match reader.next()? {
            Next::Record(Record::Commits(commits)) => apply(&reader, commits, state)?,
            Next::Record(_) => return Err(reader.corrupt("a log holds something else than commits")),
            end @ (Next::End | Next::Torn) => return Ok((reader, end)),
        }
    }
}

fn apply(reader: &Reader, commits: Vec<Commit>, state: &mut State) -> Result<(), OpenError> {
    for commit in commits {
        if commit.revision.0 != state.revision().0 + 1 {
            return Err(reader.corrupt("a revision does not follow the one before"));
        }
        state.apply(commit);
    }
    Ok(())
}

/// Cuts off what is torn and syncs the rest, which may have been written but not synced when the last process ended.
fn resume(reader: &Reader) -> Result<Log, OpenError> {
    let path = reader.path();
    let file = OpenOptions::new().append(true).open(path).map_err(OpenError::io(path))?;
    file.set_len(reader.offset()).map_err(OpenError::io(path))?;
    file.sync_all().map_err(OpenError::io(path))?;
    Ok(Log::new(file, path.to_owned(), reader.offset()))
}
