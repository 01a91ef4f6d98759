//! The durable store: all entries in memory, every commit in a log on disk before anyone sees it.
//!
//! The design is ZooKeeper's (Hunt et al., USENIX ATC 2010, section 4.3): reads never touch the disk; a write costs one
//! append, and a sync that it shares with all that wait (`commit`); now and then a checkpoint of the entries replaces
//! the log before it (`checkpoint`); opening reads the last checkpoint and the log since (`recover`). There is no
//! background thread and no page cache of our own: an idle store does nothing.
//!
//! ```text
//! DIR/LOCK                              held by the process that has the store open
//! DIR/checkpoint-00000000000000004711   the entries as of revision 4711; none in a young store
//! DIR/log-00000000000000004711          the commits after it
//! DIR/RESERVE                           space for deletions on a full disk
//! DIR/SEAL                              which log must be there, and where it ends if the store is closed
//! ```

mod backup;
mod checkpoint;
mod codec;
mod commit;
mod disk;
mod error;
mod files;
mod group;
mod jobs;
mod lock;
mod log;
mod reader;
mod recover;
mod reserve;
mod seal;
mod sectors;

#[cfg(test)]
mod crash;
#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod simulated;

use std::{
    path::{self, Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use orchestra_core::store::{Entry, Key, Listing, Prefix, Result, Revision, Store, Txn, Watch};

use self::{
    commit::{Committer, deletion_bytes},
    disk::{Directory, Disk},
    files::holds_store,
    lock::Lock,
    recover::Recovered,
    reserve::{RESERVE, Reserve},
};
use crate::{state::HistoryLimits, view::View};

pub use self::{
    backup::{Report, restore, verify},
    error::DurableError,
};

/// What can be chosen when a [`DurableStore`] is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurableOptions {
    /// How much history is kept in memory for watches.
    pub history: HistoryLimits,
    /// How many bytes the log must have before a checkpoint replaces it; it must also be larger than the live entries.
    pub log_bytes_min: u64,
    /// How many bytes of disk are held back for deletions, beside those that it takes to delete each key, to go on when it
    /// is full; 0 for none at all.
    pub reserve_bytes: u64,
    /// Whether to make a store where there is none; otherwise that is [`DurableError::Absent`].
    pub create: bool,
}

impl Default for DurableOptions {
    /// The default history, checkpoints from 16 MiB of log on, a reserve of 1 MiB, and a store that is made if need be.
    fn default() -> Self {
        Self { history: HistoryLimits::default(), log_bytes_min: 16 << 20, reserve_bytes: 1 << 20, create: true }
    }
}

/// A store in a directory of files: what it has acknowledged survives a crash of the process and of the machine.
///
/// Entries are held in memory too, so that reads cost what they cost in a [`MemoryStore`](crate::MemoryStore), and memory
/// is that of the live keys and values. A commit is on the disk before it is acknowledged and before any reader or watch
/// sees it; concurrent commits share one sync. Watches may start as far back as the history in memory reaches, which after
/// opening is the log since the last checkpoint; compaction forgets history in memory only.
///
/// Bookmarks are as with a [`MemoryStore`](crate::MemoryStore).
///
/// When a sync fails, what the disk holds is unknown: every later commit fails as unavailable until the store is opened
/// anew. Reads and watches go on.
///
/// On a full disk commits fail as unavailable and change nothing, while reads, watches and deletions go on: the store holds
/// some space back for them ([`reserve_bytes`](DurableOptions::reserve_bytes)). Other commits succeed again once there is
/// space.
///
/// If the directory is moved or removed while a store has it open, or the log in it, commits fail as unavailable until it is
/// back in its place; reads and watches go on.
///
/// Damage to a file is told when it opens. Only the loss of whole sectors, or of all bytes, at the very end of the log can't
/// be told from a write that a crash cut off, and takes what was there, unless the store was closed since. A file of another
/// store in the place of one of the same name and length is not told.
///
/// Dropping the store blocks until the writes under way are done, at most about as long as two syncs take; then the
/// directory can be opened again. A watch may outlive the store; it does not end, and tells nothing more.
///
/// # Examples
///
/// ```
/// # use orchestra_core::store::{Key, Store, Txn};
/// # use orchestra_store::DurableStore;
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let directory = tempfile::tempdir()?;
/// let key = Key::new(["pods", "default", "web-0"])?;
/// let store = DurableStore::open(directory.path())?;
/// let revision = store.commit(Txn::create(key.clone(), "{}".into())).await?;
/// drop(store);
///
/// let store = DurableStore::open(directory.path())?;
/// assert_eq!(store.get(&key).await?.map(|entry| entry.modified), Some(revision));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct DurableStore {
    view: Arc<View>,
    committer: Arc<Committer>,
    directory: PathBuf,
    /// Dropped last, after the files are at rest; a simulated disk needs none.
    _lock: Option<Lock>,
}

impl DurableStore {
    /// Opens the store in `directory`, which is made if it is not there.
    ///
    /// It blocks while it reads the files, some hundred MB a second, and needs no runtime. It waits up to a second for a
    /// process that has the store open to end, as one that was just killed does.
    ///
    /// # Errors
    ///
    /// See [`DurableError`].
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, DurableError> {
        Self::open_with(directory, DurableOptions::default())
    }

    /// Opens the store in `directory` as `options` say; see [`open`](Self::open).
    ///
    /// # Errors
    ///
    /// See [`DurableError`].
    pub fn open_with(directory: impl AsRef<Path>, options: DurableOptions) -> Result<Self, DurableError> {
        // Whatever becomes the current directory later.
        let directory = &path::absolute(directory.as_ref()).map_err(DurableError::io(directory.as_ref()))?;
        let may_open = options.create || directory.is_dir() && holds_store(&Directory::new(directory))?;
        if !may_open {
            return Err(DurableError::Absent { directory: directory.to_owned() });
        }
        let lock = Lock::acquire(directory)?;
        let mut store = Self::on(Arc::new(lock.disk()?), options)?;
        store._lock = Some(lock);
        Ok(store)
    }

    /// Opens the store on a disk that nobody else uses.
    fn on(disk: Arc<dyn Disk>, options: DurableOptions) -> Result<Self, DurableError> {
        let directory = disk.path().to_owned();
        let Recovered { state, log, older_bytes } = recover::recover(&disk, options.history)?;
        let needed = deletion_bytes(state.size());
        let reserve = Reserve::open(Arc::clone(&disk), options.reserve_bytes, needed);
        let reserve = reserve.map_err(DurableError::io(&directory.join(RESERVE)))?;
        tracing::info!(directory = %directory.display(), revision = %state.revision(), "store opened");
        let view = Arc::new(View::new(state));
        let committer = Committer::new(Arc::clone(&view), disk, log, reserve, options.log_bytes_min);
        let committer = Arc::new(committer.after(older_bytes));
        Ok(Self { view, committer, directory, _lock: None })
    }

    /// The directory of the store, as an absolute path.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for DurableStore {
    fn drop(&mut self) {
        self.committer.close();
    }
}

#[async_trait]
impl Store for DurableStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        Ok(self.view.get(key))
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        Ok(self.view.list(prefix))
    }

    async fn revision(&self) -> Result<Revision> {
        Ok(self.view.state().revision())
    }

    /// Needs a tokio runtime, on whose blocking threads it writes; without one it fails as unavailable.
    async fn commit(&self, txn: Txn) -> Result<Revision> {
        txn.validate()?;
        self.committer.commit(txn).await
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch> {
        Ok(self.view.watch(prefix.clone(), after))
    }

    async fn compact(&self, floor: Revision) -> Result<()> {
        self.view.compact(floor);
        Ok(())
    }
}

#[cfg(test)]
mod conformance {
    use super::DurableStore;

    async fn open(directory: tempfile::TempDir) -> (DurableStore, tempfile::TempDir) {
        (DurableStore::open(directory.path()).expect("a store opens"), directory)
    }

    orchestra_core::store_conformance!(
        || open(tempfile::tempdir().expect("a temporary directory")),
        reopen: open
    );
}

/// The same with a checkpoint every few commits, so that each law is tried across them.
#[cfg(test)]
mod conformance_with_checkpoints {
    use super::{DurableOptions, DurableStore};

    async fn open(directory: tempfile::TempDir) -> (DurableStore, tempfile::TempDir) {
        let options = DurableOptions { log_bytes_min: 256, ..DurableOptions::default() };
        (DurableStore::open_with(directory.path(), options).expect("a store opens"), directory)
    }

    orchestra_core::store_conformance!(
        || open(tempfile::tempdir().expect("a temporary directory")),
        reopen: open
    );
}
