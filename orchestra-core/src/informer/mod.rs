//! List and watch into caches that all loops of a process share.
//!
//! ```text
//! API ── list, then watch ──▶ cache ──┬─▶ Lister: read without a request
//!                                     └─▶ Changes: which keys to look at again
//! ```

mod cache;
mod changes;
mod follow;

use std::{
    any::Any,
    collections::BTreeMap,
    fmt,
    marker::PhantomData,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio_util::task::AbortOnDropHandle;

use cache::Cache;

pub use changes::{Change, Changes};

/// Which object: its place among those of its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace; empty for cluster-scoped kinds.
    pub namespace: Box<str>,
    /// The name within it.
    pub name: Box<str>,
}

impl ObjectKey {
    /// The key of an object in a namespace, or, with an empty one, in the cluster.
    pub fn new(namespace: impl Into<Box<str>>, name: impl Into<Box<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of `object`; an object without a name has an empty one.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self::new(meta.namespace.clone().unwrap_or_default(), meta.name.clone().unwrap_or_default())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// What can be cached: the typed objects of `k8s_openapi`, and custom resources.
pub trait Cached: Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned + Send + Sync + 'static {}

impl<K: Resource<DynamicType = ()> + Clone + fmt::Debug + DeserializeOwned + Send + Sync + 'static> Cached for K {}

/// The caches of a process: one for each kind, shared by all who ask; clones share them too.
///
/// A cache is kept as long as someone holds a [`Lister`] or [`Changes`] of it.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    caches: Arc<Mutex<BTreeMap<String, Weak<dyn Any + Send + Sync>>>>,
}

impl fmt::Debug for Informers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Informers")
    }
}

impl Informers {
    /// Makes caches that are filled by `client`, each when it is first asked for.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, caches: Arc::default() }
    }

    /// Caches of their own, filled by the same client: once synced they show all that was written before.
    pub(crate) fn anew(&self) -> Self {
        Self::new(self.client.clone())
    }

    /// The objects of a kind in all namespaces.
    #[must_use]
    pub fn of<K: Cached>(&self) -> Lister<K> {
        self.selected("")
    }

    /// Those that `fields` selects, such as `spec.nodeName=n1`.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn selected<K: Cached>(&self, fields: &str) -> Lister<K> {
        let name = format!("{} {} {fields}", K::api_version(&()), K::kind(&()));
        let mut caches = self.caches.lock().unwrap_or_else(PoisonError::into_inner);
        let live = caches.get(&name).and_then(Weak::upgrade).and_then(|cache| cache.downcast().ok());
        let shared = live.unwrap_or_else(|| {
            let shared = Arc::new(Followed::<K>::start(Api::all(self.client.clone()), fields));
            let weak: Weak<Followed<K>> = Arc::downgrade(&shared);
            caches.insert(name, weak);
            shared
        });
        Lister { shared }
    }
}

/// A cache and the task that keeps it.
#[derive(Debug)]
struct Followed<K> {
    cache: Arc<Cache<K>>,
    _task: AbortOnDropHandle<()>,
    _kind: PhantomData<K>,
}

impl<K: Cached> Followed<K> {
    fn start(api: Api<K>, fields: &str) -> Self {
        let cache = Arc::new(Cache::default());
        let task = tokio::spawn(follow::follow(api, fields.to_owned(), Arc::clone(&cache)));
        Self { cache, _task: AbortOnDropHandle::new(task), _kind: PhantomData }
    }
}

/// Reads a cache. What it shows may be behind the API, but never goes back.
#[derive(Debug)]
pub struct Lister<K> {
    shared: Arc<Followed<K>>,
}

impl<K> Clone for Lister<K> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

impl<K: Cached> Lister<K> {
    /// The object at `key`, if it is there.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.shared.cache.get(key)
    }

    /// All objects, in the order of their keys.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.cache.list(|_| true)
    }

    /// The objects of a namespace, in the order of their names.
    #[must_use]
    pub fn list_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.shared.cache.list(|key| &*key.namespace == namespace)
    }

    /// The resource version up to which the cache has seen everything; 0 before its first list.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.shared.cache.revision()
    }

    /// Waits until the cache has been filled once.
    pub async fn synced(&self) {
        self.shared.cache.reach(1).await;
    }

    /// Waits until the cache shows what `shows` looks for.
    pub async fn until(&self, key: &ObjectKey, shows: impl Fn(Option<&K>) -> bool) {
        self.shared.cache.until(|cache| shows(cache.get(key).as_deref())).await;
    }

    /// Waits until the cache shows what was just written, or something newer: a loop that reads its own writes does
    /// nothing twice (SEMANTICS 41).
    pub async fn shows(&self, written: &K) {
        let revision = cache::revision_of(written);
        let newer =
            |seen: Option<&K>| seen.map_or(self.revision() >= revision, |seen| cache::revision_of(seen) >= revision);
        self.until(&ObjectKey::of(written), newer).await;
    }

    /// Follows what changes, beginning with every object there is.
    #[must_use]
    pub fn subscribe(&self) -> Changes<K> {
        Changes::new(self.clone(), self.shared.cache.subscribe())
    }
}
