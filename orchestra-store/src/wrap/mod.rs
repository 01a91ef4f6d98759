//! Stores over stores: each adds one thing to a store of any kind, and is one.
//!
//! | wrapper | adds |
//! |---|---|
//! | [`Prefixed`] | a place of its own in a store that others use too |
//! | [`Encrypted`] | values that only who has the keys can read |
//! | [`Counted`] | metrics |
//! | [`Slow`] | delays, as of a network |
//! | [`Faulty`] | whatever the contract says that may go wrong |
//!
//! They nest in any order, and each keeps the laws of the store under it. One more, which writes a history down for the
//! checkers, is with them in the suite: `orchestra_core::store::conformance::history::Recorded`.
//!
//! # Examples
//!
//! Two tenants of one store, one of them encrypted, all of it measured:
//!
//! ```
//! # use std::sync::Arc;
//! # use orchestra_core::store::{Key, Prefix, Store, Txn};
//! # use orchestra_store::{MemoryStore, wrap::{Counted, Encrypted, EncryptionKey, KeyRing, Metrics, Nonces, Prefixed}};
//! # use prometheus_client::registry::Registry;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> orchestra_core::store::Result<()> {
//! let mut registry = Registry::default();
//! let store = Arc::new(Counted::new(MemoryStore::new(), Metrics::registered(&mut registry)));
//! let keys = KeyRing::new(EncryptionKey::new("2030", &[7; 32])?);
//! let blue = Encrypted::new(Prefixed::new(store.clone(), Prefix::new(["blue"])?), keys, Nonces::from_os());
//! let green = Prefixed::new(store.clone(), Prefix::new(["green"])?);
//!
//! let key = Key::new(["secrets", "token"])?;
//! blue.commit(Txn::create(key.clone(), "hush".into())).await?;
//! assert_eq!(blue.get(&key).await?.map(|entry| entry.value), Some("hush".into()));
//! assert_eq!(green.get(&key).await?, None);
//! let stored = store.get(&Key::new(["blue", "secrets", "token"])?).await?.expect("an entry");
//! assert!(!stored.value.windows(4).any(|bytes| bytes == b"hush"));
//! # Ok(())
//! # }
//! ```

mod counted;
mod encrypted;
mod faulty;
mod key_ring;
mod prefixed;
mod slow;

use futures::{StreamExt as _, future};
use orchestra_core::store::{Batch, Change, Entry, Result, Watch};

pub use self::{
    counted::{Counted, Metrics},
    encrypted::Encrypted,
    faulty::{Faults, Faulty, Injected},
    key_ring::{DecryptError, EncryptionKey, KEY_ID_BYTES_MAX, KeyRing, Nonces},
    prefixed::Prefixed,
    slow::{Delay, Delays, Slow},
};

/// A watch of what `turn` makes of each batch; its first error is its last item.
fn mapped(watch: Watch, turn: impl Fn(Batch) -> Result<Batch> + Send + 'static) -> Watch {
    let turned = watch.map(move |item| item.and_then(&turn));
    let open = turned.scan(true, |open, item| {
        let told = open.then_some(item);
        *open = told.as_ref().is_some_and(Result::is_ok);
        future::ready(told)
    });
    open.boxed()
}

/// How many bytes of values `batch` holds.
fn batch_bytes(batch: &Batch) -> usize {
    let of = |change: &Change| match change {
        Change::Put(entry) => entry.value.len(),
        Change::Delete(_) => 0,
    };
    batch.changes.iter().map(of).sum()
}

/// How many bytes of values `entries` hold.
fn entries_bytes<'a>(entries: impl IntoIterator<Item = &'a Entry>) -> usize {
    entries.into_iter().map(|entry| entry.value.len()).sum()
}
