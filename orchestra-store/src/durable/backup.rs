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
    files::{create_log, draft_name, file_name, holds_store, is_own_file, remove_drafts},
    lock::Lock,
    reader::Reader,
    recover,
};
use crate::state::HistoryLimits;

/// How far a restored store is ahead of its backup at least, where the clock is behind the backup: at a thousand commits a
/// second, those of eleven days.
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
    /// [`DurableError::Occupied`] if there is the file; [`DurableError::Drafted`] if there is the draft of another backup to it,
    /// which may be one that a crash ended; [`DurableError::Reserved`] if its name is one of a store's own files; and [`DurableError::Io`].
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
        io::ErrorKind::AlreadyExists => DurableError::Drafted { path: directory.path().join(draft_name(&name)) },
        _ => DurableError::io(file)(source),
    })
}

/// Makes a store in `directory`, which must hold none, of a backup; returns its revision.
///
/// It is the microseconds from 1970 to now by `clock`: so, of stores that had less than a million commits a second, it is ahead
/// of the lost one and of all that were restored before, of this backup or another. A watch of such a store fails with
/// `Compacted` and lists again, whatever it had seen, and no revision comes twice. Where the clock is behind the backup, it is
/// further ahead of that by as much. Entries keep the revisions that they had. It blocks while it reads and writes.
///
/// # Errors
///
/// [`DurableError::Occupied`] if there is a store. Whatever the error, there is none afterwards unless there was one before, or
/// the disk lets nothing be removed either.
pub fn restore(
    backup: impl AsRef<Path>,
    directory: impl AsRef<Path>,
    clock: &dyn Clock,
) -> Result<Revision, DurableError> {
    let (mut listing, _) = read(backup.as_ref())?;
    let now = u64::try_from(clock.now().as_microsecond()).unwrap_or(0);
    let out_of_range = || DurableError::corrupt(backup.as_ref(), 0, "the revision is out of range");
    listing.revision = restored_at(listing.revision, now).ok_or_else(out_of_range)?;
    let lock = Lock::acquire(directory.as_ref())?;
    let disk: Arc<dyn Disk> = Arc::new(lock.disk()?);
    restore_to(&disk, &listing)?;
    Ok(listing.revision)
}

/// The revision of a store that is restored of a backup, so many microseconds after 1970; `None` if there is none so large.
fn restored_at(backup: Revision, now: u64) -> Option<Revision> {
    if now > backup.0 {
        return Some(Revision(now));
    }
    // The clock was set back, or knows no date: all that it tells is that this is another restore.
    backup.0.checked_add(RESTORE_SKIPS_REVISIONS)?.checked_add(now).map(Revision)
}

/// Writes the log first: alone it opens as a store whose checkpoint is gone, not as one that is empty.
fn restore_to(disk: &Arc<dyn Disk>, listing: &Listing) -> Result<(), DurableError> {
    if holds_store(&**disk)? {
        return Err(DurableError::Occupied { path: disk.path().to_owned() });
    }
    remove_drafts(&**disk)?;
    let [log, checkpoint] = [FileKind::Log, FileKind::Checkpoint].map(|kind| file_name(kind, listing.revision));
    let written = create_log(disk, listing.revision, &[])
        .and_then(|_| checkpoint::write(&**disk, &checkpoint, listing, || false));
    written.map_err(|source| {
        // The log last: alone it tells what it is.
        for name in [&checkpoint, &log] {
            if let Err(error) = disk.remove(name)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(%error, file = name, "can't remove what a failed restore has begun");
            }
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

    use super::{restore_to, restored_at, write_new};
    use crate::{
        durable::{
            DurableError,
            disk::Disk,
            recover,
            simulated::{Content, Crash, Faults, SimulatedDisk},
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
        assert!(matches!(&result, Err(DurableError::Drafted { path }) if *path == draft), "got {result:?}");
        assert_eq!(std::fs::read(&draft).expect("a file"), b"of another");
    }

    /// Rule 1, whatever the clock says.
    #[test]
    fn what_is_restored_later_is_ahead_of_what_was_restored_before() {
        let of = |backup, now| restored_at(Revision(backup), now).expect("in range").0;
        // Of one backup twice, of a restore, of a restore of a restore, and of the first backup once more.
        let (now, second) = (1_800_000_000_000_000, 1_000_000);
        assert_eq!(of(17, now), now);
        assert_eq!(of(now + 5, now + second), now + second);
        assert_eq!(of(now + second + 9, now + 2 * second), now + 2 * second);
        assert_eq!(of(17, now + 3 * second), now + 3 * second);
        // Without a date, a microsecond tells one from the next.
        assert!(of(now, 60) > now && of(now, 61) > of(now, 60));
        assert_eq!(restored_at(Revision(u64::MAX - 1), 5), None);
    }

    /// Whichever sync or space fails, there is no store, and the next restore is not in its way.
    #[test]
    fn a_restore_that_fails_leaves_no_store() {
        for failed in 0..4 {
            let disk = SimulatedDisk::default();
            let shared: Arc<dyn Disk> = Arc::new(disk.clone());
            disk.fail(Faults { failed_sync: Some(failed), truncate: false });
            restore_to(&shared, &listing()).expect_err("a sync fails");
            let found = recover::read(&disk, HistoryLimits::default()).expect("nothing is damaged");
            assert!(found.is_none(), "sync {failed}");
            restore_to(&shared, &listing()).expect("nothing is in its way");
        }
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
