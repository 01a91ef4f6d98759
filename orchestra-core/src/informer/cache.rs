//! The objects of one kind, as far as a watch has told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use kube::{Resource, ResourceExt as _};
use tokio::sync::Notify;

use super::ObjectKey;
use crate::watermark::Watermark;

/// What one subscriber has not looked at yet: each key with the object it saw last.
#[derive(Debug)]
pub(super) struct Pending<K> {
    keys: Mutex<BTreeMap<ObjectKey, Option<Arc<K>>>>,
    wake: Notify,
}

impl<K> Pending<K> {
    /// Takes the first key, in order, or waits for one.
    pub(super) async fn next(&self) -> (ObjectKey, Option<Arc<K>>) {
        loop {
            let wake = self.wake.notified();
            if let Some(first) = self.lock().pop_first() {
                return first;
            }
            wake.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ObjectKey, Option<Arc<K>>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct State<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    subscribers: Vec<Weak<Pending<K>>>,
}

/// See the [module](self). Invariant: neither the revision nor any object's ever goes back (SEMANTICS 38).
#[derive(Debug)]
pub(super) struct Cache<K> {
    state: Mutex<State<K>>,
    revision: Watermark,
}

impl<K> Default for Cache<K> {
    fn default() -> Self {
        let state = State { objects: BTreeMap::new(), subscribers: Vec::new() };
        Self { state: Mutex::new(state), revision: Watermark::default() }
    }
}

impl<K> Cache<K> {
    pub(super) fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.lock().objects.get(key).cloned()
    }

    pub(super) fn list(&self, wanted: impl Fn(&ObjectKey) -> bool) -> Vec<Arc<K>> {
        let state = self.lock();
        state.objects.iter().filter(|(key, _)| wanted(key)).map(|(_, object)| Arc::clone(object)).collect()
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision.get()
    }

    pub(super) async fn reach(&self, revision: u64) {
        self.revision.reach(revision).await;
    }

    pub(super) async fn until(&self, shows: impl Fn(&Self) -> bool) {
        self.revision.until(|| shows(self)).await;
    }

    /// A subscription that begins with every object there is.
    pub(super) fn subscribe(&self) -> Arc<Pending<K>> {
        let mut state = self.lock();
        let keys = state.objects.keys().map(|key| (key.clone(), None)).collect();
        let pending = Arc::new(Pending { keys: Mutex::new(keys), wake: Notify::new() });
        state.subscribers.push(Arc::downgrade(&pending));
        pending
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Resource<DynamicType = ()>> Cache<K> {
    /// Replaces everything by a list as of `revision`; what is gone counts as deleted (SEMANTICS 39). A list older than
    /// the cache changes nothing, and the answer is no.
    pub(super) fn replace(&self, objects: Vec<K>, revision: u64) -> bool {
        if revision < self.revision() {
            return false;
        }
        let mut state = self.lock();
        let mut gone = std::mem::take(&mut state.objects);
        for object in objects {
            let (key, object) = (ObjectKey::of(&object), Arc::new(object));
            let old = gone.remove(&key);
            if old.as_ref().is_none_or(|old| old.resource_version() != object.resource_version()) {
                state.tell(&key, old.as_ref());
            }
            state.objects.insert(key, object);
        }
        for (key, old) in gone {
            state.tell(&key, Some(&old));
        }
        drop(state);
        self.advance(revision);
        true
    }

    /// Takes in an object that was added or changed, unless the cache has come further.
    pub(super) fn put(&self, object: K) {
        let (key, revision) = (ObjectKey::of(&object), revision_of(&object));
        if self.is_past(revision) {
            return;
        }
        let mut state = self.lock();
        let old = state.objects.insert(key.clone(), Arc::new(object));
        state.tell(&key, old.as_ref());
        drop(state);
        self.advance(revision);
    }

    /// Removes an object that was deleted at its resource version, unless the cache has come further.
    pub(super) fn remove(&self, object: &K) {
        let (key, revision) = (ObjectKey::of(object), revision_of(object));
        if self.is_past(revision) {
            return;
        }
        let mut state = self.lock();
        if let Some(old) = state.objects.remove(&key) {
            state.tell(&key, Some(&old));
        }
        drop(state);
        self.advance(revision);
    }

    /// Whether the cache has seen what came after `revision`; 0 is no revision.
    fn is_past(&self, revision: u64) -> bool {
        revision != 0 && revision < self.revision()
    }

    /// Notes that everything up to `revision` has been seen.
    pub(super) fn advance(&self, revision: u64) {
        // Even if nothing rises: the objects may have changed.
        self.revision.raise(revision);
    }
}

impl<K> State<K> {
    /// Tells every subscriber that `key` changed from `old`; one that hasn't looked yet keeps the older `old`.
    fn tell(&mut self, key: &ObjectKey, old: Option<&Arc<K>>) {
        self.subscribers.retain(|subscriber| {
            let Some(pending) = subscriber.upgrade() else { return false };
            pending.lock().entry(key.clone()).or_insert_with(|| old.cloned());
            pending.wake.notify_one();
            true
        });
    }
}

/// An object's resource version as a number; 0 if it has none.
pub(super) fn revision_of<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::ResourceExt as _;
    use proptest::prelude::*;

    use super::{Cache, ObjectKey};

    fn object(name: &str, revision: u64) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.into());
        object.metadata.resource_version = Some(revision.to_string());
        object
    }

    #[test]
    fn a_list_older_than_the_cache_is_refused() {
        let cache = Cache::default();
        assert!(cache.replace(vec![object("a", 5)], 7));
        assert!(!cache.replace(vec![], 6));
        assert!(cache.get(&ObjectKey::new("", "a")).is_some());
    }

    #[tokio::test]
    async fn a_list_tells_what_is_gone() {
        let cache = Cache::default();
        cache.replace(vec![object("a", 1), object("b", 1)], 1);
        let pending = cache.subscribe();
        assert_eq!(pending.next().await.0, ObjectKey::new("", "a"));
        assert_eq!(pending.next().await.0, ObjectKey::new("", "b"));
        cache.replace(vec![object("a", 1)], 2);
        let (key, old) = pending.next().await;
        assert_eq!((key, old.map(|old| old.name_any())), (ObjectKey::new("", "b"), Some("b".into())));
    }

    proptest! {
        /// SEMANTICS 38: whatever comes in whatever order, no object and no revision goes back.
        #[test]
        fn nothing_goes_back(events in proptest::collection::vec((0..3_u8, 1..30_u64, any::<bool>()), 0..40)) {
            let cache = Cache::default();
            let (mut newest, mut reached) = (std::collections::BTreeMap::new(), 0);
            for (name, revision, deleted) in events {
                let (name, key) = (name.to_string(), ObjectKey::new("", name.to_string()));
                if deleted { cache.remove(&object(&name, revision)) } else { cache.put(object(&name, revision)) }
                if let Some(seen) = cache.get(&key) {
                    let seen = super::revision_of(&*seen);
                    prop_assert!(newest.insert(name, seen).is_none_or(|before| before <= seen));
                }
                prop_assert!(cache.revision() >= reached);
                reached = cache.revision();
            }
        }

        /// SEMANTICS 39: changes may be coalesced, and the first object unseen is the one that is told.
        #[test]
        fn a_burst_is_told_once_with_what_was_seen_last(writes in 1..20_u64) {
            let cache = Cache::default();
            cache.put(object("a", 1));
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let pending = cache.subscribe();
            runtime.block_on(pending.next());
            for revision in 2..2 + writes {
                cache.put(object("a", revision));
            }
            let (_, old) = runtime.block_on(pending.next());
            prop_assert_eq!(old.and_then(|old| old.resource_version()), Some("1".to_owned()));
            prop_assert!(pending.lock().is_empty());
        }
    }
}
