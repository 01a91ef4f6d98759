//! The watch cache: what the store holds, by kind, with a window of what changed; each event is encoded once.
//!
//! One watch on the whole store feeds it. Watchers are cursors over a kind's log: a slow one costs nothing but, at
//! worst, its own place in the window.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;
use serde_json::Value;

use crate::{
    server::object,
    store::{Batch, Change, Entry, Error, Key, Listing, Prefix, Result, Revision, Store},
    watermark::Watermark,
};

/// How many events of each kind are kept for watchers that lag or come back.
const EVENTS_MAX: usize = 4_096;
/// What the cache waits before it reads a store again that was unavailable.
const RETRY: Duration = Duration::from_millis(100);

/// An object as of one revision, encoded.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) key: Key,
    pub(crate) revision: Revision,
    /// The whole object, with its resource version.
    pub(crate) encoded: Bytes,
    pub(crate) labels: BTreeMap<String, String>,
}

/// What happened to one object.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) revision: Revision,
    /// The object before; `None` if it was created.
    pub(crate) old: Option<Arc<Item>>,
    /// The object after; `None` if it was deleted.
    pub(crate) new: Option<Arc<Item>>,
}

/// The live objects of one kind, and its recent events.
#[derive(Debug, Default)]
struct Shelf {
    live: BTreeMap<Key, Arc<Item>>,
    log: VecDeque<Arc<Event>>,
}

/// Invariant: each log holds every event of its kind after `floor` and up to `revision`, in order.
#[derive(Debug)]
struct Shelves {
    by_kind: BTreeMap<Box<str>, Shelf>,
    floor: Revision,
    revision: Revision,
}

/// The live objects under a prefix, as of one revision.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) revision: Revision,
    pub(crate) items: Vec<Arc<Item>>,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct WatchCache {
    shelves: Mutex<Shelves>,
    progress: Watermark,
}

impl WatchCache {
    pub(crate) fn new() -> Self {
        let shelves = Shelves { by_kind: BTreeMap::new(), floor: Revision(0), revision: Revision(0) };
        Self { shelves: Mutex::new(shelves), progress: Watermark::default() }
    }

    /// Follows `store` until dropped.
    pub(crate) async fn follow(&self, store: &dyn Store) {
        loop {
            let Err(error) = self.follow_once(store).await;
            tracing::warn!(error = &error as &dyn std::error::Error, "watching the store again");
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow_once(&self, store: &dyn Store) -> Result<std::convert::Infallible> {
        let listing = store.list(&Prefix::all()).await?;
        let mut watch = store.watch(&Prefix::all(), listing.revision).await?;
        self.fill(listing);
        loop {
            match watch.next().await {
                Some(batch) => self.apply(batch?),
                None => return Err(Error::Unavailable("the watch ended".into())),
            }
        }
    }

    /// Waits until the cache has come to `revision`.
    pub(crate) async fn reach(&self, revision: Revision) {
        self.progress.reach(revision.0).await;
    }

    /// What lies under `prefix` of the kind stored as `shelf`.
    pub(crate) fn view(&self, shelf: &str, prefix: &Prefix) -> View {
        let shelves = self.lock();
        let items = shelves.by_kind.get(shelf).map(|shelf| {
            let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
            let under = shelf.live.range::<str, _>(from).take_while(|(key, _)| prefix.contains(key));
            under.map(|(_, item)| Arc::clone(item)).collect()
        });
        View { revision: shelves.revision, items: items.unwrap_or_default() }
    }

    /// As [`view`](Self::view), as of an earlier revision: what has happened since is taken back. `None` if that is no longer
    /// known.
    pub(crate) fn view_at(&self, shelf: &str, prefix: &Prefix, revision: Revision) -> Option<View> {
        let now = self.view(shelf, prefix);
        let (events, complete) = self.events(shelf, revision).ok()?;
        // Taken back newest first; what came between the two looks is taken back as well, or was never seen.
        let mut items: BTreeMap<Key, Arc<Item>> = now.items.into_iter().map(|item| (item.key.clone(), item)).collect();
        debug_assert!(complete >= now.revision);
        for event in events.iter().rev().filter(|event| event.revision > revision) {
            let key = event.old.as_ref().or(event.new.as_ref()).map(|item| &item.key)?;
            if prefix.contains(key) {
                match &event.old {
                    Some(old) => items.insert(key.clone(), Arc::clone(old)),
                    None => items.remove(key),
                };
            }
        }
        Some(View { revision, items: items.into_values().collect() })
    }

    /// The events of a kind after `after`, and the revision up to which they are complete.
    ///
    /// # Errors
    ///
    /// The oldest revision to ask after, if `after` is before it.
    pub(crate) fn events(&self, shelf: &str, after: Revision) -> Result<(Vec<Arc<Event>>, Revision), Revision> {
        let shelves = self.lock();
        if after < shelves.floor {
            return Err(shelves.floor);
        }
        let log = shelves.by_kind.get(shelf).map(|shelf| &shelf.log);
        if let Some(oldest) = log.filter(|log| log.len() >= EVENTS_MAX).and_then(VecDeque::front)
            && after.0 + 1 < oldest.revision.0
        {
            return Err(Revision(oldest.revision.0 - 1));
        }
        let events = log.map(|log| {
            let start = log.partition_point(|event| event.revision <= after);
            log.range(start..).cloned().collect()
        });
        Ok((events.unwrap_or_default(), shelves.revision.max(after)))
    }

    /// Starts from a listing. What had changed in a gap is no longer known event by event, so older watches expire.
    fn fill(&self, listing: Listing) {
        let mut shelves = self.lock();
        shelves.by_kind.clear();
        for entry in listing.entries {
            let shelf = shelf_of(&entry.key);
            let item = item(&entry);
            shelves.by_kind.entry(shelf).or_default().live.insert(entry.key, item);
        }
        (shelves.floor, shelves.revision) = (listing.revision, listing.revision);
        drop(shelves);
        self.progress.raise(listing.revision.0);
    }

    fn apply(&self, batch: Batch) {
        let mut shelves = self.lock();
        for change in batch.changes {
            let shelf = shelves.by_kind.entry(shelf_of(change.key())).or_default();
            let (old, new) = match change {
                Change::Put(entry) => {
                    let new = item(&entry);
                    (shelf.live.insert(entry.key, Arc::clone(&new)), Some(new))
                }
                Change::Delete(key) => (shelf.live.remove(&key), None),
            };
            shelf.log.push_back(Arc::new(Event { revision: batch.revision, old, new }));
            if shelf.log.len() > EVENTS_MAX {
                shelf.log.pop_front();
            }
        }
        shelves.revision = batch.revision.max(shelves.revision);
        drop(shelves);
        self.progress.raise(batch.revision.0);
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first two segments of a key: group and resource.
fn shelf_of(key: &Key) -> Box<str> {
    let end = key.as_str().match_indices('/').nth(2).map_or(key.as_str().len(), |(at, _)| at);
    key.as_str()[..end].into()
}

fn item(entry: &Entry) -> Arc<Item> {
    let object = object::decode(&entry.value, entry.modified).unwrap_or_default();
    let labels = object.get("metadata").and_then(|meta| meta.get("labels")).and_then(Value::as_object);
    let labels =
        labels.into_iter().flatten().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    let labels = labels.collect();
    let encoded = serde_json::to_vec(&object).expect("JSON values encode").into();
    Arc::new(Item { key: entry.key.clone(), revision: entry.modified, encoded, labels })
}
