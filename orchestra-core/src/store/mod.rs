//! Contract: where the cluster remembers.
//!
//! Time stays out of the store: leases and expiry are objects and a loop over the API. Paging, retries, codecs and
//! read-modify-write loops belong to what stands on a store, not to the contract.

use std::{borrow::Borrow, collections::BTreeSet, fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

#[cfg(feature = "conformance")]
pub mod conformance;

/// The most operations one [`Txn`] may carry; etcd's default, so that every store accepts it.
pub const TXN_OPS_MAX: usize = 128;
/// The largest value, in bytes, a key may hold: 1.5 MiB, the request limit of etcd and so of Kubernetes, less what etcd
/// puts around a value.
pub const VALUE_BYTES_MAX: usize = 1_572_864 - 16 * 1_024;
/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 1_024;

/// A point in the history of a store; each commit that changes something raises it by one.
///
/// Revisions of one store are totally ordered; those of two stores are not comparable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "r{}", self.0)
    }
}

/// The name of one value: a path of segments, for example `/pods/default/web-0`.
///
/// Invariant: starts with `/`; no segment is empty, `.` or `..`, or holds `/`, `%` or NUL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// Makes a key of `segments`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if there is no segment, one is not allowed, or the whole is over [`KEY_BYTES_MAX`].
    pub fn new<'a>(segments: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let path = join(segments)?;
        if path.is_empty() {
            return Err(Error::Invalid("a key needs a segment"));
        }
        Ok(Self(path.into()))
    }

    /// Reads a key from its path, as [`as_str`](Self::as_str) gives it.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new).
    pub fn parse(path: &str) -> Result<Self> {
        let segments = path.strip_prefix('/').ok_or(Error::Invalid("a key starts with a slash"))?;
        Self::new(segments.split('/'))
    }

    /// The path.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The segments, in order.
    pub fn segments(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').skip(1)
    }
}

impl Borrow<str> for Key {
    /// The path: a map by key can be searched, and ranged over, by any string.
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A set of keys: those that begin with the same whole segments.
///
/// `/pods/a/` holds `/pods/a/x`, but neither `/pods/a` nor `/pods/ab/x`. Invariant: starts and ends with `/`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(Arc<str>);

impl Prefix {
    /// Makes the prefix of all keys that begin with `segments`; with none, of every key.
    ///
    /// # Errors
    ///
    /// As [`Key::new`].
    pub fn new<'a>(segments: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut path = join(segments)?;
        path.push('/');
        Ok(Self(path.into()))
    }

    /// The prefix of every key.
    #[must_use]
    pub fn all() -> Self {
        Self("/".into())
    }

    /// The path, with a slash at both ends.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `key` is one of the set.
    #[must_use]
    pub fn contains(&self, key: &Key) -> bool {
        key.as_str().starts_with(self.as_str())
    }
}

impl Borrow<str> for Prefix {
    /// The path: a map by prefix can be searched by any string.
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn join<'a>(segments: impl IntoIterator<Item = &'a str>) -> Result<String> {
    let mut path = String::new();
    for segment in segments {
        if matches!(segment, "" | "." | "..") {
            return Err(Error::Invalid("a key segment is empty or a dot"));
        }
        if segment.contains(['/', '%', '\0']) {
            return Err(Error::Invalid("a key segment holds a slash, a percent sign or NUL"));
        }
        path.push('/');
        path.push_str(segment);
    }
    if path.len() > KEY_BYTES_MAX {
        return Err(Error::Invalid("a key is too long"));
    }
    Ok(path)
}

/// A value and the revisions which made it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where the value is.
    pub key: Key,
    /// The value, opaque to the store.
    pub value: Bytes,
    /// The commit which created the key, after its last deletion.
    pub created: Revision,
    /// The commit which last wrote the key: the token for compare-and-swap.
    pub modified: Revision,
}

/// Every entry under a prefix, as of one revision, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// What the entries are as of; pass it to [`Store::watch`] to follow on.
    pub revision: Revision,
    /// The entries.
    pub entries: Vec<Entry>,
}

/// What must hold for a [`Txn`] to commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// The key holds no value.
    Absent(Key),
    /// The key was last written by this commit.
    Unchanged(Key, Revision),
}

impl Check {
    /// The key that is checked.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Absent(key) | Self::Unchanged(key, _) => key,
        }
    }

    /// Holds the check against the truth: when its key was last written, `None` if it is absent.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`], if it fails.
    pub fn hold(&self, actual: Option<Revision>) -> Result<()> {
        let seen = match self {
            Self::Absent(_) => None,
            Self::Unchanged(_, seen) => Some(*seen),
        };
        if actual == seen { Ok(()) } else { Err(Error::Conflict { key: self.key().clone(), actual }) }
    }
}

/// One write of a [`Txn`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Creates the key, or replaces its value.
    Put(Key, Bytes),
    /// Removes the key; removing an absent key is no change.
    Delete(Key),
}

impl Op {
    /// The key that is written.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(key, _) | Self::Delete(key) => key,
        }
    }
}

/// Writes which happen all at one revision if every check holds, or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions, all on the state just before the commit.
    pub checks: Vec<Check>,
    /// The writes; no key twice.
    pub ops: Vec<Op>,
}

impl Txn {
    /// Creates `key`, which must be absent.
    #[must_use]
    pub fn create(key: Key, value: Bytes) -> Self {
        Self { checks: vec![Check::Absent(key.clone())], ops: vec![Op::Put(key, value)] }
    }

    /// Replaces the value last written at `seen`.
    #[must_use]
    pub fn replace(key: Key, seen: Revision, value: Bytes) -> Self {
        Self { checks: vec![Check::Unchanged(key.clone(), seen)], ops: vec![Op::Put(key, value)] }
    }

    /// Deletes the value last written at `seen`.
    #[must_use]
    pub fn delete(key: Key, seen: Revision) -> Self {
        Self { checks: vec![Check::Unchanged(key.clone(), seen)], ops: vec![Op::Delete(key)] }
    }

    /// Refuses what no store may apply; every store calls it before anything else.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for too many operations, a key written twice, an operation whose key has no check (there is
    /// no blind write), or a value over [`VALUE_BYTES_MAX`].
    pub fn validate(&self) -> Result<()> {
        if self.ops.len() > TXN_OPS_MAX || self.checks.len() > TXN_OPS_MAX {
            return Err(Error::Invalid("too many operations or checks"));
        }
        let checked: BTreeSet<&Key> = self.checks.iter().map(Check::key).collect();
        let mut written = BTreeSet::new();
        for op in &self.ops {
            if !written.insert(op.key()) {
                return Err(Error::Invalid("a key is written twice"));
            }
            if !checked.contains(op.key()) {
                return Err(Error::Invalid("a key is written without a check"));
            }
            if matches!(op, Op::Put(_, value) if value.len() > VALUE_BYTES_MAX) {
                return Err(Error::Invalid("a value is too large"));
            }
        }
        Ok(())
    }
}

/// The part of one commit that falls under a watched prefix.
///
/// A batch without changes is a bookmark: it says only how far the watch has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The commit.
    pub revision: Revision,
    /// Its changes, in key order.
    pub changes: Vec<Change>,
}

/// One key's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The key now holds this entry.
    Put(Entry),
    /// The key no longer holds a value.
    Delete(Key),
}

impl Change {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(entry) => &entry.key,
            Self::Delete(key) => key,
        }
    }
}

/// A watch: infinite unless it fails; its first error is its last item. Drop it to stop it.
pub type Watch = BoxStream<'static, Result<Batch>>;

/// A result of a [`Store`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a [`Store`] did not do as asked. One variant for each thing a caller can do about it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A check failed: read `key` again and decide again.
    #[error("conflict on {key}: now at {actual:?}")]
    Conflict {
        /// The first key, in check order, whose check failed.
        key: Key,
        /// When the key was last written; `None` if it is absent.
        actual: Option<Revision>,
    },
    /// History before `floor` is gone: list again, and watch from there.
    #[error("history before {floor} is compacted")]
    Compacted {
        /// The oldest revision to watch from.
        floor: Revision,
    },
    /// The transaction breaks a limit, or names a key twice: change the caller.
    #[error("invalid transaction: {0}")]
    Invalid(&'static str),
    /// The store can't be reached: try again later, with backoff.
    ///
    /// A commit that fails so **may still have happened**.
    #[error("store unavailable")]
    Unavailable(#[source] BoxError),
}

/// Any error, boxed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Error {
    /// Whether the same call may succeed later without the caller changing anything.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// A linearisable, revisioned key–value store: the one place where components meet.
///
/// The contract is etcd's, less what an orchestrator does not need: transactions are the only
/// write, and a watch resumes *after* a revision.
///
/// # Laws
///
/// 1. **Order.** Each commit that changes something takes the next [`Revision`].
/// 2. **All or nothing.** A [`Txn`] applies whole, at one revision, or not at all.
/// 3. **One instant.** A [`Listing`] is the state as of its revision, and no older than the last
///    commit that returned before the call.
/// 4. **No gap, no repeat.** After `l = list(p)`, `watch(p, l.revision)` yields every later commit
///    under `p`, in order, once.
/// 5. **Honest forgetting.** A watch that would skip a change fails with [`Error::Compacted`].
///
/// Each is a test of `conformance`, which every implementation runs.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The entry at `key`, if any.
    async fn get(&self, key: &Key) -> Result<Option<Entry>>;

    /// All entries under `prefix`.
    async fn list(&self, prefix: &Prefix) -> Result<Listing>;

    /// The current revision: no older than the last commit that returned before the call.
    async fn revision(&self) -> Result<Revision>;

    /// Applies `txn` and returns its revision; a transaction that changes nothing returns the
    /// current one.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped the outcome is unknown, as with [`Error::Unavailable`].
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] names the first failed check.
    async fn commit(&self, txn: Txn) -> Result<Revision>;

    /// Follows the commits after `after` (exclusive) to keys under `prefix`.
    ///
    /// # Errors
    ///
    /// [`Error::Compacted`], as the stream's last item, once `after` is older than the history.
    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch>;

    /// Forgets history older than `floor`, keeping the current entries.
    ///
    /// Idempotent; a `floor` beyond the current revision is lowered to it.
    async fn compact(&self, floor: Revision) -> Result<()>;
}

macro_rules! forward_store {
    ($pointer:ty) => {
        #[async_trait]
        #[deny(clippy::missing_trait_methods)]
        impl<S: Store + ?Sized> Store for $pointer {
            async fn get(&self, key: &Key) -> Result<Option<Entry>> {
                self.as_ref().get(key).await
            }
            async fn list(&self, prefix: &Prefix) -> Result<Listing> {
                self.as_ref().list(prefix).await
            }
            async fn revision(&self) -> Result<Revision> {
                self.as_ref().revision().await
            }
            async fn commit(&self, txn: Txn) -> Result<Revision> {
                self.as_ref().commit(txn).await
            }
            async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch> {
                self.as_ref().watch(prefix, after).await
            }
            async fn compact(&self, floor: Revision) -> Result<()> {
                self.as_ref().compact(floor).await
            }
        }
    };
}

forward_store!(Arc<S>);
forward_store!(Box<S>);
