//! The files of a store: what they are called, how one comes to be whole, and which go.

use std::{io, path::PathBuf, sync::Arc};

use orchestra_core::store::Revision;

use super::{
    codec::{FORMAT, FileKind, Frames, Record},
    disk::{Disk, Media},
    error::DurableError,
    lock::LOCK,
    log::{End, Log},
    reserve::RESERVE,
    seal::SEAL,
};
use crate::state::Commit;

/// The extension of a file that is not whole yet.
const DRAFT: &str = ".draft";

/// The name of the log of the commits after `base`, or of the checkpoint as of it.
pub(super) fn file_name(kind: FileKind, base: Revision) -> String {
    let stem = match kind {
        FileKind::Log => "log",
        FileKind::Checkpoint => "checkpoint",
        FileKind::Seal => return SEAL.to_owned(),
    };
    format!("{stem}-{:020}", base.0)
}

/// The path of that file.
pub(super) fn file_path(disk: &dyn Disk, kind: FileKind, base: Revision) -> PathBuf {
    disk.path().join(file_name(kind, base))
}

/// The revisions of the files of `kind`, in order. What has another name is not looked at.
pub(super) fn revisions(disk: &dyn Disk, kind: FileKind) -> Result<Vec<Revision>, DurableError> {
    let names = disk.names().map_err(DurableError::io(disk.path()))?;
    let mut revisions: Vec<Revision> = names.iter().filter_map(|name| revision_of(kind, name)).collect();
    revisions.sort_unstable();
    Ok(revisions)
}

/// The revision of a file of `kind`, by its name; `None` for the name of anything else.
fn revision_of(kind: FileKind, name: &str) -> Option<Revision> {
    let revision = Revision(name.rsplit_once('-')?.1.parse().ok()?);
    (*name == file_name(kind, revision)).then_some(revision)
}

/// Whether there is any file of a store.
pub(super) fn holds_store(disk: &dyn Disk) -> Result<bool, DurableError> {
    let names = disk.names().map_err(DurableError::io(disk.path()))?;
    Ok(names.iter().any(|name| is_file(name)))
}

/// Whether a file of that name is a store's.
fn is_file(name: &str) -> bool {
    name == SEAL || [FileKind::Log, FileKind::Checkpoint].iter().any(|kind| revision_of(*kind, name).is_some())
}

/// Whether a store gives that name to a file of its own, be it not whole yet.
pub(super) fn is_own_file(name: &str) -> bool {
    let name = name.strip_suffix(DRAFT).unwrap_or(name);
    is_file(name) || [LOCK, RESERVE].contains(&name)
}

/// The name of a file until it is whole.
pub(super) fn draft_name(name: &str) -> String {
    format!("{name}{DRAFT}")
}

/// Writes a file that is there whole or not at all, even after a crash.
pub(super) fn create_whole(
    disk: &dyn Disk,
    name: &str,
    write: impl FnOnce(&mut dyn Media) -> io::Result<()>,
) -> io::Result<()> {
    let draft = draft_name(name);
    let mut media = disk.create(&draft)?;
    let written = write(&mut *media).and_then(|()| media.sync()).and_then(|()| disk.rename(&draft, name));
    if written.is_err() {
        // It holds space that others may want; one that stays is removed when the store next opens.
        let _: io::Result<()> = disk.remove(&draft);
    }
    written?;
    disk.sync_names()
}

/// Makes a log of the commits after `base`, which begins with `commits`; one that was there goes.
pub(super) fn create_log(disk: &Arc<dyn Disk>, base: Revision, commits: &[Commit]) -> io::Result<Log> {
    let name = file_name(FileKind::Log, base);
    let mut frames = Frames::default();
    frames.push(&Record::Header { format: FORMAT, kind: FileKind::Log, revision: base });
    let mut end = End::Empty;
    if !commits.is_empty() {
        frames.push_commits(commits);
        end = End::Open;
    }
    create_whole(&**disk, &name, |media| media.write_all(frames.guarded()))?;
    Log::open(disk, base, frames.end(), end)
}

/// Removes the logs and checkpoints before `base`.
///
/// One that stays, for example after a crash, does no harm and is removed when the store next opens.
pub(super) fn remove_before(disk: &dyn Disk, base: Revision) -> Result<(), DurableError> {
    for kind in [FileKind::Log, FileKind::Checkpoint] {
        for revision in revisions(disk, kind)?.into_iter().filter(|revision| *revision < base) {
            remove(disk, &file_name(kind, revision))?;
        }
    }
    Ok(())
}

/// Removes the files that a crash kept from becoming whole, and nobody else's that are called alike.
pub(super) fn remove_drafts(disk: &dyn Disk) -> Result<(), DurableError> {
    let names = disk.names().map_err(DurableError::io(disk.path()))?;
    let is_ours = |name: &str| name.strip_suffix(DRAFT).is_some_and(is_file);
    names.iter().filter(|name| is_ours(name)).try_for_each(|name| remove(disk, name))
}

/// Removes one file.
pub(super) fn remove(disk: &dyn Disk, name: &str) -> Result<(), DurableError> {
    disk.remove(name).map_err(DurableError::io(&disk.path().join(name)))
}
