//! Values that only who has the keys can read.

use std::sync::Arc;

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use orchestra_core::store::{
    Batch, Change, Entry, Error, Key, Listing, Op, Prefix, Result, Revision, Store, Txn, VALUE_BYTES_MAX, Watch,
};

use super::key_ring::{DecryptError, KeyRing, Nonces, OVERHEAD_BYTES_MAX};

/// A store whose values are encrypted in the store underneath, by AES-256-GCM.
///
/// Keys, revisions and the length of values are open to whoever sees that store; what they hold is not. A value opens
/// only where it was written: moved to another key, it is refused. That is the key as this store has it: over stores with
/// different prefixes of one place, such as two [`Prefixed`](super::Prefixed), take a key ring for each. An older value of the
/// same key that is put back is not noticed. Checks go by revisions, which encryption leaves alone.
///
/// The largest value is smaller than the contract's by a header; see [`value_bytes_max`](Self::value_bytes_max).
///
/// # Rotation
///
/// Servers of one store change keys in steps, each on all of them before the next: add the new key to the ring; make it
/// the first; [`rotate`](Self::rotate); take the old one out. History that only the old one opens is gone with it: a watch
/// that comes to such a value ends with [`Error::Compacted`] if what its key holds by now can be read, or it holds nothing.
///
/// # Errors
///
/// [`Error::Unavailable`] with a [`DecryptError`](super::DecryptError) as its source, which names the key of the store and
/// the id of the encryption key, where a value doesn't open. One such value fails a listing or a watch that meets it: with
/// it, and not with [`Error::Compacted`], as long as it is what its key holds.
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
    inner: Arc<S>,
    keys: KeyRing,
    nonces: Nonces,
}

impl<S: Store> Encrypted<S> {
    /// Encrypts the values of `inner`, with the first key of `keys` and with `nonces`.
    #[must_use]
    pub fn new(inner: S, keys: KeyRing, nonces: Nonces) -> Self {
        Self { inner: Arc::new(inner), keys, nonces }
    }

    /// The largest value, in bytes: what the contract allows, less what encryption may add to it, whatever the key is called,
    /// so that every value can be given another key.
    #[must_use]
    pub fn value_bytes_max(&self) -> usize {
        VALUE_BYTES_MAX - OVERHEAD_BYTES_MAX
    }

    /// Encrypts what is under `prefix` with the first key, where another has encrypted it, and returns how many values it was.
    ///
    /// Each is a commit of its own that leaves the value as it was, and comes to watches as such. A value that is written
    /// meanwhile is left to its writer, which has a newer ring; dropping the future leaves what is done.
    ///
    /// # Errors
    ///
    /// As for a read, and for a commit but for conflicts. A value that is not encrypted at all is such an error: a plain store
    /// is made an encrypted one by copying it.
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
        let watch = self.inner.watch(prefix, after).await?;
        let followed = (watch, Arc::clone(&self.inner), self.keys.clone());
        let opened = stream::try_unfold(followed, |(mut watch, inner, keys)| async move {
            let Some(batch) = watch.next().await.transpose()? else { return Ok(None) };
            let batch = open(&*inner, &keys, batch).await?;
            Ok(Some((batch, (watch, inner, keys))))
        });
        Ok(opened.boxed())
    }

    async fn compact(&self, floor: Revision) -> Result<()> {
        self.inner.compact(floor).await
    }
}

fn opened(keys: &KeyRing, entry: Entry) -> Result<Entry> {
    let value = keys.open(&entry.key, &entry.value)?;
    Ok(Entry { value, ..entry })
}

/// Opens what a watch of `inner` tells.
async fn open(inner: &impl Store, keys: &KeyRing, Batch { revision, changes }: Batch) -> Result<Batch> {
    let mut opened = Vec::with_capacity(changes.len());
    for change in changes {
        opened.push(match change {
            Change::Put(entry) => match keys.open(&entry.key, &entry.value) {
                Ok(value) => Change::Put(Entry { value, ..entry }),
                Err(error) => return Err(lost(inner, keys, error).await),
            },
            delete @ Change::Delete(_) => delete,
        });
    }
    Ok(Batch { revision, changes: opened })
}

/// What to say of a value that doesn't open: that it is history, if its key was taken out and it is no longer what is held.
async fn lost(inner: &impl Store, keys: &KeyRing, error: DecryptError) -> Error {
    let DecryptError::UnknownKey { key, .. } = &error else { return error.into() };
    let live = match inner.get(key).await {
        Ok(live) => live.map(|live| opened(keys, live)),
        Err(error) => return error,
    };
    match (live, inner.revision().await) {
        // Held still, or written again with such a key.
        (Some(Err(error)), _) | (_, Err(error)) => error,
        (_, Ok(floor)) => Error::Compacted { floor },
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

    use super::{
        super::{DecryptError, EncryptionKey, KeyRing, Nonces},
        Arc, Encrypted, Error, Key, Prefix, Result, Revision, Store, Txn,
    };
    use crate::MemoryStore;

    fn key(name: &str) -> Key {
        Key::new(["p", name]).expect("a valid key")
    }

    fn ring(id: &str) -> KeyRing {
        KeyRing::new(EncryptionKey::new(id, &[id.len() as u8; 32]).expect("a valid id"))
    }

    fn with(stored: &Arc<MemoryStore>, keys: KeyRing) -> Encrypted<Arc<MemoryStore>> {
        Encrypted::new(stored.clone(), keys, Nonces::from_os())
    }

    /// Two values under a key that is rotated out for the one that the second store has.
    async fn rotated() -> Result<(Arc<MemoryStore>, Encrypted<Arc<MemoryStore>>)> {
        let stored = Arc::new(MemoryStore::new());
        let old = with(&stored, ring("old"));
        for name in ["a", "b"] {
            old.commit(Txn::create(key(name), "hush".into())).await?;
        }
        let new = EncryptionKey::new("newer", &[5; 32])?;
        let both = KeyRing::new(new.clone()).with(EncryptionKey::new("old", &[3; 32])?)?;
        assert_eq!(with(&stored, both).rotate(&Prefix::all()).await?, 2);
        let after = with(&stored, KeyRing::new(new));
        Ok((stored, after))
    }

    /// The error that ends a watch from the beginning.
    async fn ended(store: &impl Store) -> Error {
        let mut watch = store.watch(&Prefix::all(), Revision(0)).await.expect("a watch");
        let error = watch.next().await.expect("an item").expect_err("it does not open");
        assert!(watch.next().await.is_none());
        error
    }

    #[tokio::test]
    async fn a_watch_of_history_whose_key_is_gone_is_told_to_list_again() {
        let (stored, store) = rotated().await.expect("a rotation");
        let Error::Compacted { floor } = ended(&store).await else { panic!("it is to list again") };
        assert_eq!(floor, stored.revision().await.expect("a revision"));

        // As the error says.
        let listing = store.list(&Prefix::all()).await.expect("a listing");
        assert_eq!(listing.entries.len(), 2);
        let mut watch = store.watch(&Prefix::all(), listing.revision).await.expect("a watch");
        let removed = store.commit(Txn::delete(key("a"), listing.entries[0].modified)).await.expect("a commit");
        assert_eq!(watch.next().await.expect("an item").expect("a batch").revision, removed);

        // Nor is there anything to read of what was deleted.
        assert!(matches!(ended(&store).await, Error::Compacted { .. }));
    }

    #[tokio::test]
    async fn a_watch_that_comes_to_a_live_value_without_its_key_names_it() {
        let (stored, store) = rotated().await.expect("a rotation");
        let seen = store.get(&key("a")).await.expect("a read").expect("an entry").modified;
        let behind = with(&stored, ring("old"));
        let again = behind.commit(Txn::replace(key("a"), seen, "hush".into())).await.expect("a commit");
        let expected = DecryptError::UnknownKey { key: key("a"), id: "old".into() };
        for after in [Revision(0), Revision(again.0 - 1)] {
            let mut watch = store.watch(&Prefix::all(), after).await.expect("a watch");
            let error = watch.next().await.expect("an item").expect_err("it does not open");
            let Error::Unavailable(why) = error else { panic!("got {error:?}") };
            assert_eq!(why.downcast_ref(), Some(&expected));
        }
    }
}
