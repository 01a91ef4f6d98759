//! Backups: all entries of a store in one file, and a store made of such a file.
//!
//! A backup is a checkpoint under a name of the user's choice.

use std::{io, path::Path, sync::Arc};

use orchestra_core::{
    clock::Clock,
    store::{Listing, Prefix, Revision},
};
use tokio::{sync::oneshot, task::spawn_blocking};

use super::{
    DurableStore, checkpoint,
    codec::FileKind,
    disk::{Directory, Disk},
    error::DurableError,
    files::{create_log, draft_name, file_name, holds_store, is_own_file, remove, remove_drafts},
    lock::Lock,
    reader::Reader,
    recover,
};
use crate::state::HistoryLimits;

/// How far a restored store is ahead of its backup at least, so that no revision is used again that the lost store gave out
/// after it: at a thousand commits a second, those of eleven days.
const RESTORE_SKIPS_REVISIONS: u64 = 1_000_000_000;

/// What [`verify`] has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The last revision.
    pub revision: Revision,
    /// How many keys have a value.
    pub keys: u64,
    /// How many records the files hold, headers among them.
    pub records: u64,
    /// How many bytes were read.
    pub bytes: u64,
    /// How many of them, at the very end, are what a crash left of a write that was never acknowledged.
    pub torn_bytes: u64,
}

impl DurableStore {
    /// Writes all entries, as of one revision, to `file`, which must not be there; returns the revision.
    ///
    /// The store goes on meanwhile: no commit waits for it, and the entries are not copied in memory. The file has its name
    /// only once it is whole and on the disk. Needs a tokio runtime, on whose blocking threads it writes.
    ///
    /// # Cancellation
    ///
    /// A dropped backup is given up soon; it leaves no file, unless it was whole already.
    ///
    /// # Errors
    ///
    /// [`DurableError::Occupied`] if there is the file, or the draft of another backup to it, which may be one that a crash
    /// ended; [`DurableError::Reserved`] if its name is one of a store's own files; and [`DurableError::Io`].
    pub async fn backup(&self, file: impl AsRef<Path>) -> Result<Revision, DurableError> {
        let file = file.as_ref().to_owned();
        let listing = self.view.list(&Prefix::all());
        let (answer, answered) = oneshot::channel();
        spawn_blocking(move || {
            let written = write_new(&file, &listing, || answer.is_closed());
            // Whoever asked may have left.
            let _: Result<(), _> = answer.send(written.map(|()| listing.revision));
        });
        let gone = |_| DurableError::io(&self.directory)(io::Error::other("the runtime was shut down"));
        answered.await.map_err(gone)?
    }
}

/// Writes a listing to a file that is not there, nor is its draft, which another backup may be writing.
fn write_new(file: &Path, listing: &Listing, stop: impl Fn() -> bool) -> Result<(), DurableError> {
    let (directory, name) = split(file).map_err(DurableError::io(file))?;
    if is_own_file(&name) {
        return Err(DurableError::Reserved { path: file.to_owned() });
    }
    if file.try_exists().map_err(DurableError::io(file))? {
        return Err(DurableError::Occupied { path: file.to_owned() });
    }
    checkpoint::write(&directory, &name, listing, stop).map_err(|source| match source.kind() {
        io::ErrorKind::AlreadyExists => DurableError::Occupied { path: directory.path().join(draft_name(&name)) },
        _ => DurableError::io(file)(source),
    })
}

/// Makes a store in `directory`, which must hold none, of a backup; returns its revision.
///
/// It is far ahead of that of the backup, and at least the microseconds from 1970 to now by `clock`: so it is ahead of every
/// store that had less than a million commits a second, be it one that was restored of the same backup before. A watch of
/// such a store fails with `Compacted` and lists again, whatever it had seen, and no revision comes twice. Entries keep the
/// revisions that they had. It blocks while it reads and writes.
///
/// # Errors
///
/// [`DurableError::Occupied`] if there is a store. Whatever the error, there is none afterwards unless there was one before.
pub fn restore(
    backup: impl AsRef<Path>,
    directory: impl AsRef<Path>,
    clock: &dyn Clock,
) -> Result<Revision, DurableError> {
    let (mut listing, _) = read(backup.as_ref())?;
    let revision = listing.revision.0.checked_add(RESTORE_SKIPS_REVISIONS);
    let out_of_range = || DurableError::corrupt(backup.as_ref(), 0, "the revision is out of range");
    let now = u64::try_from(clock.now().as_microsecond()).unwrap_or(0);
    listing.revision = Revision(revision.ok_or_else(out_of_range)?.max(now));
    let lock = Lock::acquire(directory.as_ref())?;
    let disk: Arc<dyn Disk> = Arc::new(lock.disk()?);
    restore_to(&disk, &listing)?;
    Ok(listing.revision)
}

/// Writes the log first: alone it opens as a store whose checkpoint is gone, not as one that is empty.
fn restore_to(disk: &Arc<dyn Disk>, listing: &Listing) -> Result<(), DurableError> {
    if holds_store(&**disk)? {
        return Err(DurableError::Occupied { path: disk.path().to_owned() });
    }
    remove_drafts(&**disk)?;
    create_log(disk, listing.revision, &[]).map_err(DurableError::io(disk.path()))?;
    let checkpoint = file_name(FileKind::Checkpoint, listing.revision);
    checkpoint::write(&**disk, &checkpoint, listing, || false).map_err(|source| {
        if let Err(error) = remove(&**disk, &file_name(FileKind::Log, listing.revision)) {
            tracing::warn!(%error, "can't remove what a failed restore has begun");
        }
        DurableError::io(disk.path())(source)
    })
}

/// Reads all of a store's directory, or of a backup, and changes nothing.
///
/// While a store has the directory open it is [`DurableError::Locked`]: verify a backup of it instead. A store that is to be
/// opened meanwhile waits for a second, as for another store. It blocks while it reads.
///
/// # Errors
///
/// [`DurableError::Absent`] if there is no store in the directory; else as [`DurableStore::open`].
pub fn verify(path: impl AsRef<Path>) -> Result<Report, DurableError> {
    let path = path.as_ref();
    if !path.is_dir() {
        return read(path).map(|(_, report)| report);
    }
    let disk = Directory::new(path);
    let _lock = Lock::share(path)?;
    let found = recover::read(&disk, HistoryLimits { commits_max: 0, bytes_max: 0 })?;
    found.map(|found| found.report()).ok_or_else(|| DurableError::Absent { directory: path.to_owned() })
}

/// Reads a backup.
fn read(file: &Path) -> Result<(Listing, Report), DurableError> {
    let (directory, name) = split(file).map_err(DurableError::io(file))?;
    let mut reader = Reader::open_any(&directory, &name)?;
    if reader.kind() != FileKind::Checkpoint {
        return Err(reader.corrupt("a log is no backup; verify its directory"));
    }
    let entries: Vec<_> = checkpoint::read(&mut reader)?.into_values().collect();
    let (revision, keys) = (reader.base(), entries.len() as u64);
    let report = Report { revision, keys, records: reader.records(), bytes: reader.bytes_read(), torn_bytes: 0 };
    Ok((Listing { revision, entries }, report))
}

/// The directory of a file, and its name in it.
fn split(file: &Path) -> io::Result<(Directory, String)> {
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the name is not text"))?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((Directory::new(parent.unwrap_or(Path::new("."))), name.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use bytes::Bytes;
    use orchestra_core::{
        rng::Entropy,
        store::{Entry, Key, Listing, Revision},
    };

    use super::{restore_to, write_new};
    use crate::{
        durable::{
            DurableError,
            disk::Disk,
            recover,
            simulated::{Content, Crash, SimulatedDisk},
        },
        state::{FIRST, HistoryLimits},
    };

    fn listing() -> Listing {
        let revision = Revision(1_000);
        let entry = |name| Entry {
            key: Key::new([name]).expect("a valid name"),
            value: Bytes::from_static(b"value"),
            created: Revision(2),
            modified: Revision(3),
        };
        Listing { revision, entries: ["a", "b"].map(entry).to_vec() }
    }

    #[test]
    fn a_backup_that_nobody_waits_for_leaves_nothing() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let result = write_new(&directory.path().join("backup"), &listing(), || true);
        assert!(matches!(result, Err(DurableError::Io { .. })), "got {result:?}");
        assert_eq!(std::fs::read_dir(directory.path()).expect("a directory").count(), 0);
    }

    #[test]
    fn two_backups_to_one_file_do_not_mix() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let (file, draft) = (directory.path().join("backup"), directory.path().join("backup.draft"));
        std::fs::write(&draft, b"of another").expect("a write");
        let result = write_new(&file, &listing(), || false);
        assert!(matches!(&result, Err(DurableError::Occupied { path }) if *path == draft), "got {result:?}");
        assert_eq!(std::fs::read(&draft).expect("a file"), b"of another");
    }

    /// Rule 17: never a part of what is restored, and never, once there is a file, a store without entries.
    #[test]
    fn a_restore_that_a_crash_cut_off_is_whole_or_told_or_not_there() {
        let disk = SimulatedDisk::holding(Content::default().recorded());
        let shared: Arc<dyn Disk> = Arc::new(disk.clone());
        restore_to(&shared, &listing()).expect("a restore");
        let mut outcomes = BTreeMap::new();
        for content in disk.history() {
            for crash in [Crash::DropAll, Crash::KeepNames, Crash::KeepAll, Crash::Tear(Entropy::seeded(1))] {
                let image = SimulatedDisk::holding(content.after(&crash));
                let outcome = match recover::read(&image, HistoryLimits::default()) {
                    Ok(None) => "not there",
                    Ok(Some(found)) if found.report().revision == Revision(1_000) => {
                        assert_eq!(found.report().keys, 2);
                        "whole"
                    }
                    Ok(Some(found)) => panic!("{crash:?}: {:?}, the first is {FIRST}", found.report()),
                    Err(DurableError::Corrupt { reason, .. }) if reason.contains("restore again") => "told",
                    Err(error) => panic!("{crash:?}: {error}"),
                };
                *outcomes.entry(outcome).or_insert(0) += 1;
            }
        }
        assert_eq!(outcomes.keys().copied().collect::<Vec<_>>(), ["not there", "told", "whole"]);
    }
}
