//! Where a store's keys are in etcd.

use bytes::Bytes;
use etcd_client::proto::PbKeyValue;
use orchestra_core::store::{Entry, Key, Prefix, Revision};

/// The part of etcd's keys that is one store's.
#[derive(Clone, Debug)]
pub(super) struct Keyspace {
    /// Without a slash at its end: a key's path follows.
    base: String,
}

impl Keyspace {
    pub(super) fn new(prefix: &Prefix) -> Self {
        Self { base: prefix.as_str().trim_end_matches('/').to_owned() }
    }

    pub(super) fn at(&self, path: &str) -> Vec<u8> {
        format!("{}{path}", self.base).into_bytes()
    }

    /// A key of the store's part that no [`Key`] stands for, by its percent sign.
    pub(super) fn marker(&self) -> Vec<u8> {
        self.at("/%")
    }

    /// The key at `bytes`; `None` if they are not of this store's making.
    pub(super) fn key(&self, bytes: &[u8]) -> Option<Key> {
        let path = std::str::from_utf8(bytes).ok()?.strip_prefix(&self.base)?;
        Key::parse(path).ok()
    }

    pub(super) fn entry(&self, pair: PbKeyValue) -> Option<Entry> {
        Some(Entry {
            key: self.key(&pair.key)?,
            created: revision(pair.create_revision),
            modified: revision(pair.mod_revision),
            value: Bytes::from(pair.value),
        })
    }
}

/// What etcd counts in signed numbers, and never below 0.
pub(super) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

/// The number etcd counts `revision` by; one that it will not come to if there is none.
pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}
