//! Which pods take room on which nodes: the ground on which steps of plans are re-checked.
//!
//! It is read off the watch cache, and kept by the cache's own log, so that a look costs what has changed since the last one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::core::v1::{Node, Pod};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::value::RawValue;

use crate::{
    api::pod::is_final,
    scheduler::{NodeInfo, PodId, PodView, Snapshot},
    server::{
        cache::{Item, WatchCache},
        registry::Kind,
    },
    store::{Key, Prefix, Revision},
};

/// How many shapes of pods that have left are kept before the snapshot is made anew.
const OLD_SHAPES_MAX: usize = 1 << 12;

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Occupancy(Mutex<State>);

/// The kinds that are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kinds<'a> {
    pub(crate) pods: &'a Kind,
    pub(crate) nodes: &'a Kind,
    pub(crate) namespaces: &'a Kind,
}

/// What a step is judged on.
#[derive(Debug)]
pub(crate) struct Ground<'a> {
    /// The cluster.
    pub(crate) snapshot: &'a Snapshot,
    /// The pods that are to go somewhere, as they were given.
    pub(crate) waiting: &'a [PodId],
    pods: &'a BTreeMap<Key, Placed>,
}

impl Ground<'_> {
    /// The pod that takes room, by its key.
    pub(crate) fn placed(&self, key: &Key) -> Option<PodId> {
        self.pods.get(key).map(|placed| placed.id)
    }
}

/// The cluster as of some revisions of the cache.
///
/// Invariant: `snapshot` has the nodes of `nodes`, and of pods those of `pods`, by their ids.
#[derive(Debug, Default)]
struct State {
    pods_at: Option<Revision>,
    nodes_at: Option<Revision>,
    namespaces_at: Option<Revision>,
    /// The pods that take room.
    pods: BTreeMap<Key, Placed>,
    nodes: BTreeMap<Box<str>, NodeInfo>,
    snapshot: Snapshot,
}

/// A pod that takes room.
#[derive(Debug)]
struct Placed {
    view: PodView,
    node: Box<str>,
    /// What it was read from.
    item: Arc<Item>,
    id: PodId,
}

/// What of a pod tells whether it takes room, and whether it has to be read anew: most changes are of other fields.
#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow)]
    spec: &'a RawValue,
    metadata: MetadataOutline,
    status: Option<StatusOutline>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetadataOutline {
    deletion_timestamp: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct StatusOutline {
    phase: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct SpecOutline {
    node_name: Option<String>,
}

impl Outline<'_> {
    fn takes_room(&self) -> bool {
        let phase = self.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default();
        let node = serde_json::from_str::<SpecOutline>(self.spec.get()).ok().and_then(|spec| spec.node_name);
        !is_final(phase) && node.is_some_and(|node| !node.is_empty())
    }

    /// Whether a pod of this outline looks to a scheduler as it did before.
    fn is_alike(&self, item: &Item, before: &Item) -> bool {
        let Ok(old) = serde_json::from_slice::<Outline<'_>>(&before.encoded) else { return false };
        let is_going = |outline: &Outline<'_>| outline.metadata.deletion_timestamp.is_some();
        item.labels == before.labels && old.spec.get() == self.spec.get() && is_going(&old) == is_going(self)
    }
}

impl Occupancy {
    /// Looks at the cluster as the cache shows it now, with some pods that wait.
    pub(crate) fn look<T>(
        &self,
        cache: &WatchCache,
        kinds: Kinds<'_>,
        waiting: Vec<PodView>,
        look: impl FnOnce(Ground<'_>) -> T,
    ) -> T {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.follow(cache, kinds);
        let State { snapshot, pods, .. } = &mut *state;
        let waiting: Vec<PodId> = waiting.into_iter().map(|view| snapshot.add(view)).collect();
        let seen = look(Ground { snapshot, waiting: &waiting, pods });
        waiting.into_iter().for_each(|pod| snapshot.remove(pod));
        seen
    }
}

impl State {
    fn follow(&mut self, cache: &WatchCache, kinds: Kinds<'_>) {
        let (nodes, nodes_at, is_all) = changed(cache, kinds.nodes, self.nodes_at);
        let mut is_stale = is_all || self.snapshot.shapes_len() > 2 * self.pods.len() + OLD_SHAPES_MAX;
        if is_all {
            self.nodes.clear();
        }
        for (key, item) in nodes {
            // What no write lets in is nowhere.
            let node = item.and_then(|item| serde_json::from_slice::<Node>(&item.encoded).ok());
            // Which images it has is for scores.
            let info = node.map(|node| NodeInfo { images: BTreeMap::new(), ..NodeInfo::of(&node) });
            is_stale |= self.nodes.get(&name(&key)) != info.as_ref();
            match info {
                Some(info) => drop(self.nodes.insert(name(&key), info)),
                None => drop(self.nodes.remove(&name(&key))),
            }
        }
        let (pods, pods_at, is_all) = changed(cache, kinds.pods, self.pods_at);
        if is_all {
            self.pods.clear();
            is_stale = true;
        }
        for (key, item) in pods {
            self.pod_changed(key, item.as_ref());
        }
        if is_stale {
            self.rebuild();
        }
        let (namespaces, namespaces_at, _) = changed(cache, kinds.namespaces, self.namespaces_at);
        if is_stale || !namespaces.is_empty() {
            let all = cache.view(&kinds.namespaces.shelf(), &prefix(kinds.namespaces)).items;
            let labels = all.iter().map(|item| (name(&item.key), item.labels.clone()));
            self.snapshot = std::mem::take(&mut self.snapshot).with_namespaces(labels);
        }
        (self.nodes_at, self.pods_at, self.namespaces_at) = (Some(nodes_at), Some(pods_at), Some(namespaces_at));
    }

    fn pod_changed(&mut self, key: Key, item: Option<&Arc<Item>>) {
        let outline = item.and_then(|item| serde_json::from_slice::<Outline<'_>>(&item.encoded).ok());
        let taking = item.zip(outline).filter(|(_, outline)| outline.takes_room());
        if let (Some((item, outline)), Some(known)) = (&taking, self.pods.get_mut(&key))
            && outline.is_alike(item, &known.item)
        {
            known.item = Arc::clone(item);
            return;
        }
        if let Some(gone) = self.pods.remove(&key) {
            self.snapshot.remove(gone.id);
        }
        let Some((item, _)) = taking else { return };
        let Some((view, Some(node))) = view(item).map(PodView::unbound) else { return };
        let id = self.snapshot.add(view.clone());
        if let Some(on) = self.snapshot.find_node(&node) {
            self.snapshot.place(id, on.into());
        }
        self.pods.insert(key, Placed { view, node, item: Arc::clone(item), id });
    }

    fn rebuild(&mut self) {
        let pods = self.pods.values().map(|placed| (placed.view.clone(), Some(placed.node.clone())));
        self.snapshot = Snapshot::new(self.nodes.values().cloned(), pods);
        // They have got their ids in order.
        for (placed, id) in self.pods.values_mut().zip(0..) {
            placed.id = PodId(id);
        }
    }
}

/// What has changed of a kind after `after`, each object as it is now; up to which revision; and whether it is all there is, since
/// nobody knows any more what has changed.
fn changed(
    cache: &WatchCache,
    kind: &Kind,
    after: Option<Revision>,
) -> (BTreeMap<Key, Option<Arc<Item>>>, Revision, bool) {
    let shelf = kind.shelf();
    if let Some((events, at)) = after.and_then(|after| cache.events(&shelf, after, usize::MAX).ok()) {
        let newest = events.iter().filter_map(|event| {
            let item = event.new.as_ref().or(event.old.as_ref())?;
            Some((item.key.clone(), event.new.clone()))
        });
        return (newest.collect(), at, false);
    }
    let view = cache.view(&shelf, &prefix(kind));
    (view.items.into_iter().map(|item| (item.key.clone(), Some(item))).collect(), view.revision, true)
}

/// A pod as schedulers see it; what no write lets in is none.
pub(crate) fn view(item: &Item) -> Option<PodView> {
    serde_json::from_slice::<Pod>(&item.encoded).ok().map(|pod| PodView::of(&pod))
}

fn prefix(kind: &Kind) -> Prefix {
    Prefix::new([kind.storage.0, kind.storage.1]).expect("the names of kinds are segments")
}

fn name(key: &Key) -> Box<str> {
    key.segments().last().unwrap_or_default().into()
}
