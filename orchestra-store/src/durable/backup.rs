//! Backups: all entries of a store in one file, and a store made of such a file.
//!
//! A backup is a checkpoint under a name of the user's choice.

use std::{io, path::Path, sync::Arc};

use orchestra_core::store::{Listing, Prefix, Revision};
use tokio::{sync::oneshot, task::spawn_blocking};

use super::{
    DurableStore, checkpoint,
    codec::FileKind,
    disk::{Directory, Disk},
    error::DurableError,
    files::{create_log, file_name, holds_store, remove, remove_drafts},
    lock::Lock,
    reader::Reader,
    recover,
};
use crate::state::HistoryLimits;

/// How far a restored store is ahead of its backup, so that no revision is used again that the lost store gave out after
/// it: at a thousand commits a second, those of eleven days.
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
    /// [`DurableError::Occupied`] if there is a file, and [`DurableError::Io`].
    pub async fn backup(&self, file: impl AsRef<Path>) -> Result<Revision, DurableError> {
        let file = file.as_ref().to_owned();
        let listing = self.view.list(&Prefix::all());
        let (answer, answered) = oneshot::channel();
        spawn_blocking(move || {
            let written = write_new(&file, &listing, || answer.is_closed());
            // Whoever asked may have left.
            let _: Result<(), _> = answer.send(written.map(|()| listing.revision).map_err(|error| (file, error)));
        });
        match answered.await {
            Ok(Ok(revision)) => Ok(revision),
            Ok(Err((path, error))) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(DurableError::Occupied { path })
            }
            Ok(Err((file, source))) => Err(DurableError::Io { file, source }),
            Err(_) => Err(DurableError::io(&self.directory)(io::Error::other("the runtime was shut down"))),
        }
    }
}

fn write_new(file: &Path, listing: &Listing, stop: impl Fn() -> bool) -> io::Result<()> {
    let (directory, name) = split(file)?;
    if file.try_exists()? {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    checkpoint::write(&directory, &name, listing, stop)
}

/// Makes a store in `directory`, which must hold none, of a backup; returns its revision.
///
/// It is far ahead of that of the backup: a watch of the lost store fails with `Compacted` and lists again, whatever it had
/// seen, and no revision comes twice. Entries keep the revisions that they had. It blocks while it reads and writes.
///
/// # Errors
///
/// [`DurableError::Occupied`] if there is a store. Whatever the error, there is none afterwards unless there was one before.
pub fn restore(backup: impl AsRef<Path>, directory: impl AsRef<Path>) -> Result<Revision, DurableError> {
    let (mut listing, _) = read(backup.as_ref())?;
    let revision = listing.revision.0.checked_add(RESTORE_SKIPS_REVISIONS);
    let out_of_range = || DurableError::corrupt(backup.as_ref(), 0, "the revision is out of range");
    listing.revision = Revision(revision.ok_or_else(out_of_range)?);
    let lock = Lock::acquire(directory.as_ref())?;
    let disk: Arc<dyn Disk> = Arc::new(Directory::new(lock.directory()));
    restore_to(&disk, &listing)?;
    Ok(listing.revision)
}

/// Writes the log first: alone it opens as a store whose checkpoint is gone, not as one that is empty.
fn restore_to(disk: &Arc<dyn Disk>, listing: &Listing) -> Result<(), DurableError> {
    if holds_store(&**disk)? {
        return Err(DurableError::Occupied { path: disk.path().to_owned() });
    }
    remove_drafts(&**disk)?;
    create_log(disk, listing.revision).map_err(DurableError::io(disk.path()))?;
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
    let lock = Lock::share(path)?;
    lock.iter().try_for_each(|lock| lock.assert_kept(&disk))?;
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
    let report = Report { revision, keys, records: reader.records(), bytes: reader.offset(), torn_bytes: 0 };
    Ok((Listing { revision, entries }, report))
}

/// The directory of a file, and its name in it.
fn split(file: &Path) -> io::Result<(Directory, String)> {
    let name = file.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the name is not text"))?;
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    Ok((Directory::new(parent.unwrap_or(Path::new("."))), name.to_owned()))
}
