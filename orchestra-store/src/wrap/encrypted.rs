//! Values that only who has the keys can read.

use async_trait::async_trait;
use orchestra_core::store::{
    Batch, Change, Entry, Error, Key, Listing, Op, Prefix, Result, Revision, Store, Txn, VALUE_BYTES_MAX, Watch,
};

use super::{
    key_ring::{KeyRing, Nonces},
    mapped,
};

/// A store whose values are encrypted in the store underneath, by AES-256-GCM.
///
/// Keys, revisions and the length of values are open to whoever sees that store; what they hold is not. A value opens
/// only where it was written: moved to another key, it is refused. An older value of the same key that is put back is not
/// noticed. Checks go by revisions, which encryption leaves alone.
///
/// The largest value is smaller than the contract's by a header; see [`value_bytes_max`](Self::value_bytes_max).
///
/// # Rotation
///
/// Servers of one store change keys in steps, each on all of them before the next: add the new key to the ring; make it
/// the first; [`rotate`](Self::rotate); take the old one out.
///
/// # Errors
///
/// [`Error::Unavailable`] with a [`DecryptError`](super::DecryptError) as its source, which names the key of the store and
/// the id of the encryption key, where a value doesn't open. One such value fails a listing or a watch that meets it.
///
/// # Examples
///
/// ```
/// # use std::sync::Arc;
/// # use orchestra_core::store::{Error, Key, Store, Txn};
/// # use orchestra_store::{Encrypted, MemoryStore, wrap::{DecryptError, EncryptionKey, KeyRing, Nonces}};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> orchestra_core::store::Result<()> {
/// let stored = Arc::new(MemoryStore::new());
/// let old = EncryptionKey::new("2030", &[7; 32])?;
/// let store = Encrypted::new(stored.clone(), KeyRing::new(old), Nonces::from_os());
/// let key = Key::new(["secrets", "default", "token"])?;
/// store.commit(Txn::create(key.clone(), "hush".into())).await?;
///
/// let new = KeyRing::new(EncryptionKey::new("2031", &[8; 32])?);
/// let store = Encrypted::new(stored, new, Nonces::from_os());
/// let Err(Error::Unavailable(why)) = store.get(&key).await else { panic!("it opened without its key") };
/// let why = why.downcast_ref::<DecryptError>();
/// assert!(matches!(why, Some(DecryptError::UnknownKey { id, .. }) if id == "2030"));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Encrypted<S> {
    inner: S,
    keys: KeyRing,
    nonces: Nonces,
}

impl<S: Store> Encrypted<S> {
    /// Encrypts the values of `inner`, with the first key of `keys` and with `nonces`.
    #[must_use]
    pub fn new(inner: S, keys: KeyRing, nonces: Nonces) -> Self {
        Self { inner, keys, nonces }
    }

    /// The largest value, in bytes: what the contract allows, less what encryption with the first key adds to it.
    #[must_use]
    pub fn value_bytes_max(&self) -> usize {
        VALUE_BYTES_MAX - self.keys.first().overhead_bytes()
    }

    /// Encrypts what is under `prefix` with the first key, if it is not yet, and returns how many values were.
    ///
    /// Each is a commit of its own that leaves the value as it was, and comes to watches as such. A value that is written
    /// meanwhile is left to its writer, which has a newer ring; dropping the future leaves what is done.
    ///
    /// # Errors
    ///
    /// As for a read, and for a commit but for conflicts.
    pub async fn rotate(&self, prefix: &Prefix) -> Result<usize> {
        let mut rotated = 0;
        for Entry { key, value, modified, .. } in self.inner.list(prefix).await?.entries {
            if !self.keys.is_stale(&value) {
                continue;
            }
            let open = self.keys.open(&key, &value)?;
            match self.commit(Txn::replace(key, modified, open)).await {
                Ok(_) => rotated += 1,
                Err(Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(rotated)
    }

    fn sealed(&self, op: Op) -> Result<Op> {
        match op {
            Op::Put(_, value) if value.len() > self.value_bytes_max() => {
                Err(Error::Invalid("a value is too large: encryption leaves less room for it"))
            }
            Op::Put(key, value) => {
                let sealed = self.keys.seal(&self.nonces, &key, &value)?;
                Ok(Op::Put(key, sealed))
            }
            delete => Ok(delete),
        }
    }
}

#[async_trait]
impl<S: Store> Store for Encrypted<S> {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let entry = self.inner.get(key).await?;
        entry.map(|entry| opened(&self.keys, entry)).transpose()
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        let listing = self.inner.list(prefix).await?;
        let entries = listing.entries.into_iter().map(|entry| opened(&self.keys, entry));
        Ok(Listing { revision: listing.revision, entries: entries.collect::<Result<_>>()? })
    }

    async fn revision(&self) -> Result<Revision> {
        self.inner.revision().await
    }

    async fn commit(&self, txn: Txn) -> Result<Revision> {
        txn.validate()?;
        let ops = txn.ops.into_iter().map(|op| self.sealed(op)).collect::<Result<_>>()?;
        self.inner.commit(Txn { checks: txn.checks, ops }).await
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch> {
        let keys = self.keys.clone();
        let open = move |Batch { revision, changes }| {
            let changes = changes.into_iter().map(|change| match change {
                Change::Put(entry) => opened(&keys, entry).map(Change::Put),
                delete @ Change::Delete(_) => Ok(delete),
            });
            Ok(Batch { revision, changes: changes.collect::<Result<_>>()? })
        };
        Ok(mapped(self.inner.watch(prefix, after).await?, open))
    }

    async fn compact(&self, floor: Revision) -> Result<()> {
        self.inner.compact(floor).await
    }
}

fn opened(keys: &KeyRing, entry: Entry) -> Result<Entry> {
    let value = keys.open(&entry.key, &entry.value)?;
    Ok(Entry { value, ..entry })
}
