//! The store on etcd.

mod batches;
mod error;
mod keyspace;
mod members;
mod options;
mod progress;
mod txn;
mod watch;

pub mod testing;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use etcd_client::{Client, GetOptions, GetResponse};
use orchestra_core::store::{Entry, Error, Key, Listing, Prefix, Result, Revision, Store, Txn, Watch};
use tokio::time::Instant;

use self::{
    error::Fault,
    keyspace::{Keyspace, number, revision},
    members::{Members, Repeat},
    progress::Asked,
};

pub use self::options::{EtcdOptions, EtcdTls, EtcdUser};

/// The largest answer to a read that is taken from etcd; a listing asks for less if one is larger.
const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// How many bytes of values a page of a listing is meant to have, and how many entries the first one asks for. The next asks
/// for twice as many at most: etcd reads all it is asked for, whatever size that has, and entries of one size are often
/// beside each other.
const PAGE_BYTES: usize = 2 << 20;
const PAGE_ENTRIES: usize = 128;
const PAGE_ENTRIES_MAX: usize = 2_048;

/// A store on an etcd, of one member or several.
///
/// Its revisions are etcd's. A call goes to one member until that fails, then to the next; what only reads is asked again
/// until the request's time is over, and so is a commit that is known not to have been carried out. A watch goes on where it
/// was, on whichever member answers; it ends for compaction, or if etcd does not let this user watch.
///
/// Others may write to the etcd under other prefixes, and their commits count: a watch of the whole store comes to the
/// revisions they make once [`revision`](Store::revision) has told one, within some tenths of a second, for which it
/// writes a marker that is no entry. A user that may not write has only etcd's own notes of progress, every ten minutes.
///
/// A transaction may have as many bytes as etcd takes, by default 1.5 MiB with keys, values and checks.
#[derive(Clone)]
pub struct EtcdStore {
    members: Arc<Members>,
    keyspace: Keyspace,
    asked: Asked,
    /// The newest revision that an answer has shown.
    newest: Arc<AtomicU64>,
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = self.members.options();
        f.debug_struct("EtcdStore").field("endpoints", &options.endpoints).field("prefix", &options.prefix).finish()
    }
}

impl EtcdStore {
    /// Connects as `options` say, and asks once whether etcd answers.
    ///
    /// An endpoint that is no etcd, or no URL, is passed over for the next.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if no endpoint answers in time, none is an etcd, or etcd refuses the user.
    pub async fn connect(options: EtcdOptions) -> Result<Self> {
        let keyspace = Keyspace::new(&options.prefix);
        let members = Arc::new(Members::new(options));
        let store = Self { members, keyspace, asked: Asked::new(), newest: Arc::default() };
        store.revision().await?;
        Ok(store)
    }

    async fn range(&self, from: Vec<u8>, options: GetOptions, repeat: Repeat) -> Result<Result<GetResponse, Fault>> {
        let call = |client: Client| {
            let (from, options) = (from.clone(), options.clone());
            async move { client.kv_client().max_decoding_message_size(MESSAGE_BYTES_MAX).get(from, Some(options)).await }
        };
        let answer = self.members.call(repeat, call).await?;
        if let Ok(answer) = &answer {
            self.saw(revision(answer.header().map_or(0, |header| header.revision())));
        }
        Ok(answer)
    }

    fn saw(&self, revision: Revision) {
        self.newest.fetch_max(revision.0, Ordering::Relaxed);
    }

    /// Lists page by page, all as of the first; `None` if compaction was faster.
    async fn pages(&self, prefix: &Prefix) -> Result<Option<Listing>> {
        let start = self.keyspace.at(prefix.as_str());
        let mut end = start.clone();
        // The last byte is a slash, which has a successor.
        end.pop();
        end.push(b'/' + 1);
        let (mut from, mut limit) = (start, PAGE_ENTRIES);
        let time = self.members.options().request_timeout;
        let mut deadline = Instant::now() + time;
        let mut listing = Listing { revision: Revision(0), entries: Vec::new() };
        loop {
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(i64::try_from(limit).unwrap_or(i64::MAX))
                .with_revision(number(listing.revision));
            let page = match self.range(from.clone(), options, Repeat::Smaller).await? {
                Ok(page) => page.0,
                Err(Fault::AnswerTooLarge) if limit > 1 => {
                    limit = (limit / 8).max(1);
                    continue;
                }
                // It may have been more than can be read in time.
                Err(Fault::NoAnswer) if Instant::now() < deadline => {
                    limit = (limit / 8).max(1);
                    continue;
                }
                Err(Fault::Compacted) => return Ok(None),
                Err(fault) => return Err(unexpected(fault)),
            };
            if listing.revision.0 == 0 {
                listing.revision = revision(page.header.map_or(0, |header| header.revision));
            }
            let bytes: usize = page.kvs.iter().map(|pair| pair.key.len() + pair.value.len()).sum();
            limit = next_limit(limit, page.kvs.len(), bytes);
            deadline = Instant::now() + time;
            let last = page.kvs.last().map(|pair| pair.key.clone());
            listing.entries.extend(page.kvs.into_iter().filter_map(|pair| self.keyspace.entry(pair)));
            match last {
                Some(mut last) if page.more => {
                    last.push(0);
                    from = last;
                }
                _ => return Ok(Some(listing)),
            }
        }
    }
}

/// How many entries to ask for after a page of so many, which were `limit` at most.
fn next_limit(limit: usize, entries: usize, bytes: usize) -> usize {
    (PAGE_BYTES * entries / bytes.max(1)).clamp(1, PAGE_ENTRIES_MAX.min(2 * limit))
}

fn unexpected(fault: Fault) -> Error {
    if fault == Fault::NoAnswer {
        return Error::Unavailable("no member answered in time".into());
    }
    Error::Unavailable(format!("etcd's answer can't be used: {fault:?}").into())
}

#[async_trait]
impl Store for EtcdStore {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        let answer =
            self.range(self.keyspace.at(key.as_str()), GetOptions::new(), Repeat::Safe).await?.map_err(unexpected)?;
        Ok(answer.0.kvs.into_iter().find_map(|pair| self.keyspace.entry(pair)))
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        let deadline = Instant::now() + self.members.options().request_timeout;
        loop {
            if let Some(listing) = self.pages(prefix).await? {
                return Ok(listing);
            }
            if Instant::now() >= deadline {
                return Err(Error::Unavailable(
                    "compaction overtook each listing that was begun in the time of one call".into(),
                ));
            }
        }
    }

    async fn revision(&self) -> Result<Revision> {
        let options = GetOptions::new().with_keys_only();
        let answer = self.range(self.keyspace.marker(), options, Repeat::Safe).await?.map_err(unexpected)?;
        let now = revision(answer.header().map_or(0, |header| header.revision()));
        self.asked.raise(now);
        Ok(now)
    }

    async fn commit(&self, txn: Txn) -> Result<Revision> {
        txn.validate()?;
        if txn.checks.is_empty() {
            return self.revision().await;
        }
        let request = txn::request(&self.keyspace, &txn);
        let call = |client: Client| {
            let request = request.clone();
            async move { client.kv_client().txn(request).await }
        };
        let response = self.members.call(Repeat::Unsafe, call).await?.map_err(unexpected)?;
        let outcome = txn::outcome(&txn, &response);
        outcome.iter().for_each(|revision| self.saw(*revision));
        outcome
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch> {
        Ok(watch::watch(self.clone(), prefix, after).await)
    }

    async fn compact(&self, floor: Revision) -> Result<()> {
        let floor = number(floor.min(self.revision().await?));
        let call = |client: Client| async move { client.kv_client().compact(floor, None).await };
        match self.members.call(Repeat::Safe, call).await? {
            // It has been compacted that far.
            Ok(_) | Err(Fault::Compacted) => Ok(()),
            Err(fault) => Err(unexpected(fault)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{PAGE_BYTES, PAGE_ENTRIES, PAGE_ENTRIES_MAX, next_limit};

    proptest! {
        /// Pages have about as many bytes as they should; and where entries grow, no more than twice as many come as before.
        #[test]
        fn a_page_is_no_larger_than_the_entries_before_make_it(
            sizes in prop::collection::vec(prop_oneof![1..100_usize, 1_000..100_000_usize, 1_400_000..1_500_000_usize], 1..40),
        ) {
            let mut limit = PAGE_ENTRIES;
            for size in sizes {
                let before = limit;
                limit = next_limit(limit, limit, limit * size);
                prop_assert!((1..=PAGE_ENTRIES_MAX.min(2 * before)).contains(&limit));
                prop_assert!(limit * size <= PAGE_BYTES || limit == 1);
            }
        }
    }
}
