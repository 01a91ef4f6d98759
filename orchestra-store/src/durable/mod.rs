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
//! ```

mod checkpoint;
mod codec;
mod commit;
mod error;
mod files;
mod log;
mod recover;

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use orchestra_core::store::{Entry, Key, Listing, Prefix, Result, Revision, Store, Txn, Watch};

use self::{commit::Committer, files::Directory};
use crate::{state::HistoryLimits, view::View};

pub use self::error::OpenError;

/// What can be chosen when a [`DurableStore`] is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DurableOptions {
    /// How much history is kept in memory for watches.
    pub history: HistoryLimits,
    /// How many bytes the log must have before a checkpoint replaces it; it must also be larger than the live entries.
    pub log_bytes_min: u64,
}

impl Default for DurableOptions {
    /// The default history, and checkpoints from 16 MiB of log on.
    fn default() -> Self {
        Self { history: HistoryLimits::default(), log_bytes_min: 16 << 20 }
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
/// anew. A write that fails cleanly, for want of space for example, fails that commit only. Reads go on in both cases.
///
/// Damage in the middle of a file is told when it opens. Damage to the very last group of commits can't be told from a
/// write that a crash cut off, and takes that group.
///
/// Dropping the store blocks until the writes under way are done, at most about as long as one sync takes; then the
/// directory can be opened again.
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
    /// Dropped last, after the files are at rest.
    directory: Directory,
}

impl DurableStore {
    /// Opens the store in `directory`, which is made if it is not there.
    ///
    /// It blocks while it reads the files, some hundred MB a second, and needs no runtime. It waits up to a second for a
    /// process that has the store open to end, as one that was just killed does.
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_with(directory, DurableOptions::default())
    }

    /// Opens the store in `directory` as `options` say; see [`open`](Self::open).
    ///
    /// # Errors
    ///
    /// See [`OpenError`].
    pub fn open_with(directory: impl AsRef<Path>, options: DurableOptions) -> Result<Self, OpenError> {
        let directory = Directory::lock(directory.as_ref())?;
        let (state, log) = recover::recover(directory.path(), options.history)?;
        tracing::info!(directory = %directory.path().display(), revision = %state.revision(), "store opened");
        let view = Arc::new(View::new(state));
        let path = directory.path().to_owned();
        let committer = Arc::new(Committer::new(Arc::clone(&view), log, path, options.log_bytes_min));
        Ok(Self { view, committer, directory })
    }

    /// The directory of the store.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
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

    /// Needs a tokio runtime, on whose blocking threads it writes.
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

    orchestra_core::store_conformance!(|| async {
        let directory = tempfile::tempdir().expect("a temporary directory");
        (DurableStore::open(directory.path()).expect("a store opens"), directory)
    });
}

/// The same with a checkpoint every few commits, so that each law is tried across them.
#[cfg(test)]
mod conformance_with_checkpoints {
    use super::{DurableOptions, DurableStore};

    orchestra_core::store_conformance!(|| async {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let options = DurableOptions { log_bytes_min: 256, ..DurableOptions::default() };
        (DurableStore::open_with(directory.path(), options).expect("a store opens"), directory)
    });
}
