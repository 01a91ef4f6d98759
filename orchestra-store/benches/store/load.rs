//! What every benchmark writes.

use std::io;

use bytes::Bytes;
use orchestra_core::store::{Key, Prefix, Revision, Store, TXN_OPS_MAX, Txn};

use crate::VALUE_BYTES;

/// The key of the number `number` under `kind`.
pub(crate) fn key(kind: &str, number: usize) -> Key {
    Key::new([kind, "default", &*format!("object-{number:06}")]).expect("a valid key")
}

/// The prefix of all keys of `kind`.
pub(crate) fn prefix(kind: &str) -> Prefix {
    Prefix::new([kind]).expect("a valid prefix")
}

/// A value that begins with `count`.
pub(crate) fn value(count: u64) -> Bytes {
    let mut value = vec![b'x'; VALUE_BYTES];
    value[..8].copy_from_slice(&count.to_be_bytes());
    value.into()
}

/// The count that a value begins with.
pub(crate) fn count(value: &[u8]) -> u64 {
    value.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// Creates the keys of the numbers `from..to`, many in a transaction; returns the last revision.
pub(crate) async fn fill(store: &dyn Store, kind: &str, from: usize, to: usize) -> io::Result<Revision> {
    let mut revision = store.revision().await.map_err(io::Error::other)?;
    for first in (from..to).step_by(TXN_OPS_MAX) {
        let mut txn = Txn::default();
        for number in first..to.min(first + TXN_OPS_MAX) {
            let Txn { checks, ops } = Txn::create(key(kind, number), value(0));
            txn.checks.extend(checks);
            txn.ops.extend(ops);
        }
        revision = store.commit(txn).await.map_err(io::Error::other)?;
    }
    Ok(revision)
}
