//! The watch cache: what the store holds, by kind, with a window of what changed; each event is encoded once.
//!
//! One watch on the whole store feeds it. Watchers are cursors over a kind's log: a slow one costs nothing but, at
//! worst, its own place in the window.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use futures::StreamExt as _;

use crate::{
    server::object,
    store::{Batch, Change, Entry, Error, Key, Listing, Prefix, Result, Revision, Store},
    watermark::Watermark,
};

/// How many events of each kind are kept for watchers that lag or come back.
const EVENTS_MAX: usize = 4_096;
/// How many bytes of objects the events of each kind may hold on to.
const EVENT_BYTES_MAX: usize = 64 << 20;
/// What the cache waits before it reads a store again that was unavailable.
const RETRY: Duration = Duration::from_millis(100);

/// What a watch is told of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
    /// What comes before the object in the line of an event; after it come a brace and a newline.
    pub(crate) fn head(self) -> &'static str {
        match self {
            Self::Added => "{\"type\":\"ADDED\",\"object\":",
            Self::Modified => "{\"type\":\"MODIFIED\",\"object\":",
            Self::Deleted => "{\"type\":\"DELETED\",\"object\":",
        }
    }

    /// The line of an event: its one copy of the object.
    pub(crate) fn line(self, encoded: &[u8]) -> Bytes {
        [self.head().as_bytes(), encoded, TAIL].concat().into()
    }
}

const TAIL: &[u8] = b"}\n";

/// An object as of one revision, encoded.
#[derive(Debug)]
pub(crate) struct Item {
    pub(crate) key: Key,
    pub(crate) revision: Revision,
    /// The whole object, with its resource version: a part of `line`. Empty for a value that is no object.
    pub(crate) encoded: Bytes,
    /// The line of the event that made the object what it is, which all watchers share; they are most of its readers.
    line: Bytes,
    event_type: EventType,
    /// Where in `encoded` the digits of the resource version are.
    revision_at: usize,
    pub(crate) labels: BTreeMap<String, String>,
}

impl Item {
    fn new(entry: &Entry, event_type: EventType) -> Arc<Self> {
        let head = event_type.head().as_bytes();
        let rendered = object::render(head.to_vec(), &entry.value, entry.modified);
        let object::Rendered { mut buffer, revision_at, labels } = rendered.unwrap_or_else(|| object::Rendered {
            buffer: head.to_vec(),
            revision_at: 0,
            labels: BTreeMap::new(),
        });
        let end = buffer.len();
        buffer.extend_from_slice(TAIL);
        let line = Bytes::from(buffer);
        let encoded = line.slice(head.len()..end);
        let (key, revision) = (entry.key.clone(), entry.modified);
        Arc::new(Self { key, revision, encoded, line, event_type, revision_at, labels })
    }

    /// The line that adds the object to what a client knows; made anew unless the object is new itself.
    pub(crate) fn added(&self) -> Bytes {
        if self.event_type == EventType::Added { self.line.clone() } else { EventType::Added.line(&self.encoded) }
    }

    /// The line of the object's deletion at `revision`.
    fn deleted(&self, revision: Revision) -> Bytes {
        let (head, rest) = self.encoded.split_at(self.revision_at);
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let text = revision.0.to_string();
        let parts = [EventType::Deleted.head().as_bytes(), head, text.as_bytes(), &rest[digits..], TAIL];
        parts.concat().into()
    }
}

/// What happened to one object.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) revision: Revision,
    /// The object before; `None` if it was created.
    pub(crate) old: Option<Arc<Item>>,
    /// The object after; `None` if it was deleted.
    pub(crate) new: Option<Arc<Item>>,
    /// The lines that are not the new object's own, once a watcher has needed them.
    added: OnceLock<Bytes>,
    deleted: OnceLock<Bytes>,
}

impl Event {
    fn new(revision: Revision, old: Option<Arc<Item>>, new: Option<Arc<Item>>) -> Self {
        Self { revision, old, new, added: OnceLock::new(), deleted: OnceLock::new() }
    }

    /// The event as a watch sees it to which it is of `event_type`: one line, which all watchers share. A deletion shows
    /// the object as it last was, with the revision at which it went.
    ///
    /// # Panics
    ///
    /// If the event has no object of that side.
    pub(crate) fn line(&self, event_type: EventType) -> Bytes {
        let new = || self.new.as_ref().expect("what is added or modified is there");
        match event_type {
            EventType::Added => self.added.get_or_init(|| new().added()).clone(),
            EventType::Modified => new().line.clone(),
            EventType::Deleted => {
                let old = || self.old.as_ref().expect("what is deleted was there");
                self.deleted.get_or_init(|| old().deleted(self.revision)).clone()
            }
        }
    }

    fn bytes(&self) -> usize {
        self.new.as_ref().or(self.old.as_ref()).map_or(0, |item| item.line.len())
    }
}

/// The live objects of one kind, and its recent events.
///
/// Invariant: the log holds every event after `floor`, in order.
#[derive(Debug, Default)]
struct Shelf {
    live: BTreeMap<Key, Arc<Item>>,
    log: VecDeque<Arc<Event>>,
    log_bytes: usize,
    floor: Revision,
    /// The revision of the last event, so that a watcher is woken by its own kind only.
    changed: Arc<Watermark>,
}

impl Shelf {
    fn apply(&mut self, revision: Revision, change: Change) {
        let (old, new) = match change {
            Change::Put(entry) => {
                let known = self.live.contains_key(&entry.key);
                let new = Item::new(&entry, if known { EventType::Modified } else { EventType::Added });
                (self.live.insert(entry.key, Arc::clone(&new)), Some(new))
            }
            Change::Delete(key) => (self.live.remove(&key), None),
        };
        let event = Event::new(revision, old, new);
        self.log_bytes += event.bytes();
        self.log.push_back(Arc::new(event));
        while self.log.len() > EVENTS_MAX || (self.log_bytes > EVENT_BYTES_MAX && self.log.len() > 1) {
            let Some(oldest) = self.log.pop_front() else { break };
            self.log_bytes -= oldest.bytes();
            // What else happened at its revision is no longer the whole of it.
            self.floor = oldest.revision;
        }
        self.changed.raise(revision.0);
    }
}

/// Invariant: no log has lost an event after `floor`, but for those its shelf says itself; all hold those up to `revision`.
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

    /// The revision of the last event of a kind, so that a watcher is woken by its own kind only.
    pub(crate) fn changes(&self, shelf: &str) -> Arc<Watermark> {
        Arc::clone(&self.lock().by_kind.entry(shelf.into()).or_default().changed)
    }

    /// What is at `key`.
    pub(crate) fn get(&self, key: &Key) -> Option<Arc<Item>> {
        self.lock().by_kind.get(&shelf_of(key))?.live.get(key).cloned()
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
        let (events, complete) = self.events(shelf, revision, usize::MAX).ok()?;
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

    /// The events of a kind after `after`, and the revision up to which they are complete: at most about `events_max`, but
    /// all of a revision or none.
    ///
    /// # Errors
    ///
    /// The oldest revision to ask after, if `after` is before it.
    pub(crate) fn events(
        &self,
        shelf: &str,
        after: Revision,
        events_max: usize,
    ) -> Result<(Vec<Arc<Event>>, Revision), Revision> {
        let shelves = self.lock();
        let complete = shelves.revision.max(after);
        let Some(shelf) = shelves.by_kind.get(shelf) else {
            return if after < shelves.floor { Err(shelves.floor) } else { Ok((Vec::new(), complete)) };
        };
        let floor = shelves.floor.max(shelf.floor);
        if after < floor {
            return Err(floor);
        }
        let start = shelf.log.partition_point(|event| event.revision <= after);
        let mut end = shelf.log.len().min(start.saturating_add(events_max));
        let last = end.checked_sub(1).and_then(|last| shelf.log.get(last)).map(|event| event.revision);
        if let Some(last) = last.filter(|_| end > start) {
            end = shelf.log.partition_point(|event| event.revision <= last);
        }
        let events = shelf.log.range(start..end).cloned().collect();
        Ok((events, if end < shelf.log.len() { last.unwrap_or(after) } else { complete }))
    }

    /// Starts from a listing. What had changed in a gap is no longer known event by event, so older watches expire.
    fn fill(&self, listing: Listing) {
        let mut shelves = self.lock();
        for shelf in shelves.by_kind.values_mut() {
            shelf.live.clear();
            shelf.log.clear();
            shelf.log_bytes = 0;
        }
        for entry in listing.entries {
            let item = Item::new(&entry, EventType::Added);
            shelves.by_kind.entry(shelf_of(&entry.key)).or_default().live.insert(entry.key, item);
        }
        (shelves.floor, shelves.revision) = (listing.revision, listing.revision);
        for shelf in shelves.by_kind.values() {
            shelf.changed.raise(listing.revision.0);
        }
        drop(shelves);
        self.progress.raise(listing.revision.0);
    }

    fn apply(&self, batch: Batch) {
        let mut shelves = self.lock();
        shelves.revision = batch.revision.max(shelves.revision);
        for change in batch.changes {
            shelves.by_kind.entry(shelf_of(change.key())).or_default().apply(batch.revision, change);
        }
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

#[cfg(test)]
mod tests {
    use super::{Batch, Bytes, Change, EVENTS_MAX, Entry, Key, Prefix, Revision, WatchCache};

    const SHELF: &str = "/core/pods";

    /// A commit that writes `names`.
    fn batch(revision: u64, names: &[&str]) -> Batch {
        let revision = Revision(revision);
        let put = |name: &&str| {
            let key = Key::new(["core", "pods", "default", name]).expect("a key");
            let value = Bytes::from(format!(r#"{{"metadata":{{"name":"{name}"}}}}"#));
            Change::Put(Entry { key, value, created: revision, modified: revision })
        };
        Batch { revision, changes: names.iter().map(put).collect() }
    }

    /// SEMANTICS 10: all events of one revision in one batch.
    #[test]
    fn a_revision_is_given_whole_however_few_events_are_wanted() {
        let cache = WatchCache::new();
        for revision in 1..=3 {
            cache.apply(batch(revision, &["a", "b", "c"]));
        }
        for (events_max, events, complete) in [(0, 0, 0), (1, 3, 1), (3, 3, 1), (4, 6, 2), (100, 9, 3)] {
            let (found, up_to) = cache.events(SHELF, Revision(0), events_max).expect("all of it is kept");
            assert_eq!((found.len(), up_to), (events, Revision(complete)), "{events_max}");
        }
    }

    /// SEMANTICS 11: never a silent gap, not even within a revision.
    #[test]
    fn a_revision_of_which_an_event_is_forgotten_is_forgotten() {
        let cache = WatchCache::new();
        cache.apply(batch(1, &["a", "b"]));
        for revision in 2..=EVENTS_MAX as u64 {
            cache.apply(batch(revision, &["a"]));
        }
        assert_eq!(cache.events(SHELF, Revision(0), usize::MAX).err(), Some(Revision(1)));
        let (events, _) = cache.events(SHELF, Revision(1), usize::MAX).expect("what is after it is kept");
        assert_eq!(events.len(), EVENTS_MAX - 1);
        let prefix = Prefix::new(["core", "pods"]).expect("a prefix");
        assert!(cache.view_at(SHELF, &prefix, Revision(0)).is_none());
        assert_eq!(cache.view_at(SHELF, &prefix, Revision(1)).map(|view| view.items.len()), Some(2));
    }
}
