//! The cluster at one version: dense, in a fixed order, cheap to read, with a log of what changed.

mod budget;
mod devices;
mod node;
mod resources;
mod shape;

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::api::core::v1::{Node, Pod};

use self::shape::Shapes;
pub use self::{
    budget::Budget,
    devices::{DEVICE_MILLIS, DEVICES_MAX, DeviceClass, DeviceRequest, DeviceSet},
    node::{ImageView, NodeInfo, NodeView},
    resources::Resources,
    shape::{HostPort, OutlineId, PodView, Shape, ShapeId},
};
use super::{pod_affinity::repels, score::leans};
use crate::{api::pod::has_ended, clock::Timestamp};

/// A node's place in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// A pod's place in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId(pub u32);

/// A version: of a node it rises whenever something on the node changes, of a snapshot whenever any node does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// Where a pod is, and which of the node's devices it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The node.
    pub node: NodeId,
    /// Its devices that the pod has.
    pub devices: DeviceSet,
}

impl From<NodeId> for Place {
    /// A place without devices.
    fn from(node: NodeId) -> Self {
        Self { node, devices: DeviceSet::EMPTY }
    }
}

/// Namespaces by their names, each with its labels.
pub type Namespaces = BTreeMap<Box<str>, BTreeMap<String, String>>;

/// The least length of a change log that is worth cutting.
const LOG_LEN_MIN: usize = 1 << 14;

/// The cluster at one moment.
///
/// Its nodes stay; pods come, are placed, and leave, and each change of what is on a node is logged, so that who keeps something
/// by node can catch up by the changes alone ([`changed_since`](Self::changed_since)).
///
/// Invariant: nodes are sorted by name, so that a [`NodeId`] is also the node's rank.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeView>,
    pods: Vec<PodView>,
    shapes: Shapes,
    shape_of: Vec<ShapeId>,
    places: Vec<Option<Place>>,
    /// The pods of each node, in no order.
    on: Vec<Vec<PodId>>,
    /// The pods that wait for others to leave a node.
    nominated: BTreeMap<PodId, NodeId>,
    budgets: Vec<Budget>,
    /// The ids of pods that have left, to be used again.
    vacant: Vec<PodId>,
    /// How many pods keep others away.
    repelling: usize,
    /// How many have a say about those that come near them.
    leaning: usize,
    namespaces: Option<Namespaces>,
    /// The nodes changed, oldest first, but for `forgotten` older ones.
    log: Vec<NodeId>,
    forgotten: u64,
    lineage: Lineage,
}

/// What tells a snapshot's log from another's.
#[derive(Clone, Debug, Default)]
pub struct Lineage(Arc<()>);

impl PartialEq for Lineage {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Clone for Snapshot {
    /// A copy with a log of its own: it may change in another way.
    fn clone(&self) -> Self {
        Self {
            nodes: self.nodes.clone(),
            pods: self.pods.clone(),
            shapes: self.shapes.clone(),
            shape_of: self.shape_of.clone(),
            places: self.places.clone(),
            on: self.on.clone(),
            nominated: self.nominated.clone(),
            budgets: self.budgets.clone(),
            vacant: self.vacant.clone(),
            repelling: self.repelling,
            leaning: self.leaning,
            namespaces: self.namespaces.clone(),
            log: Vec::new(),
            forgotten: self.version().0,
            lineage: Lineage::default(),
        }
    }
}

impl Snapshot {
    /// Makes a snapshot of a cluster as its objects say: pods that have ended take nothing, and are left out.
    pub fn of<'a>(nodes: impl IntoIterator<Item = &'a Node>, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let pods = pods.into_iter().filter(|pod| !has_ended(pod)).map(|pod| PodView::of(pod).unbound());
        Self::new(nodes.into_iter().map(NodeInfo::of), pods)
    }

    /// Makes a snapshot of nodes, and of pods with the node that each is bound to; none of these has devices.
    ///
    /// A pod bound to a node that is not there takes nothing.
    pub fn new(
        nodes: impl IntoIterator<Item = NodeInfo>,
        pods: impl IntoIterator<Item = (PodView, Option<Box<str>>)>,
    ) -> Self {
        let mut nodes: Vec<NodeInfo> = nodes.into_iter().collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        share_images(&mut nodes);
        let on = vec![Vec::new(); nodes.len()];
        let mut snapshot = Self { nodes: nodes.into_iter().map(NodeView::from).collect(), on, ..Self::default() };
        for (pod, bound) in pods {
            let pod = snapshot.add(pod);
            if let Some(node) = bound.and_then(|name| snapshot.find_node(&name)) {
                snapshot.place(pod, node.into());
            }
        }
        snapshot
    }

    /// The nodes, in the order of their names.
    #[must_use]
    pub fn nodes(&self) -> &[NodeView] {
        &self.nodes
    }

    /// The pods by their ids; those that have left are blank.
    #[must_use]
    pub fn pods(&self) -> &[PodView] {
        &self.pods
    }

    /// A node.
    ///
    /// # Panics
    ///
    /// If the id is of another snapshot.
    #[must_use]
    pub fn node(&self, id: NodeId) -> &NodeView {
        self.nodes.get(id.0 as usize).expect("node ids are of the snapshot they are used with")
    }

    /// A pod.
    ///
    /// # Panics
    ///
    /// If the id is of another snapshot.
    #[must_use]
    pub fn pod(&self, id: PodId) -> &PodView {
        self.pods.get(id.0 as usize).expect("pod ids are of the snapshot they are used with")
    }

    /// Which shape a pod has.
    ///
    /// # Panics
    ///
    /// If the id is of another snapshot.
    #[must_use]
    pub fn shape_of(&self, id: PodId) -> ShapeId {
        *self.shape_of.get(id.0 as usize).expect("pod ids are of the snapshot they are used with")
    }

    /// Which outline a shape has.
    ///
    /// # Panics
    ///
    /// If the id is of another snapshot.
    #[must_use]
    pub fn outline_of(&self, shape: ShapeId) -> OutlineId {
        self.shapes.outline_of(shape).expect("shape ids are of the snapshot they are used with")
    }

    /// How many shapes there have been.
    #[must_use]
    pub fn shapes_len(&self) -> usize {
        self.shapes.len()
    }

    /// The node of this name.
    #[must_use]
    pub fn find_node(&self, name: &str) -> Option<NodeId> {
        let at = self.nodes.binary_search_by(|node| (*node.name).cmp(name)).ok()?;
        u32::try_from(at).ok().map(NodeId)
    }

    /// The pod of this name; looks at every pod.
    #[must_use]
    pub fn find_pod(&self, namespace: &str, name: &str) -> Option<PodId> {
        let at = self.pods.iter().position(|pod| &*pod.name == name && &*pod.namespace == namespace)?;
        u32::try_from(at).ok().map(PodId)
    }

    /// Every node's id, in order.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)).map(NodeId)
    }

    /// Where a pod is; `None` if it waits.
    #[must_use]
    pub fn place_of(&self, pod: PodId) -> Option<Place> {
        self.places.get(pod.0 as usize).copied().flatten()
    }

    /// The pods that have a place, each with it, in order. Looks at every pod.
    pub fn placed(&self) -> impl Iterator<Item = (PodId, Place)> {
        (0..).map(PodId).zip(&self.places).filter_map(|(pod, place)| Some((pod, (*place)?)))
    }

    /// The pods that have a place on a node, in no order.
    #[must_use]
    pub fn pods_on(&self, node: NodeId) -> &[PodId] {
        self.on.get(node.0 as usize).map_or(&[], |on| on)
    }

    /// The pods that wait for others to leave a node, each with the node, by their ids.
    pub fn nominated(&self) -> impl Iterator<Item = (PodId, NodeId)> {
        self.nominated.iter().map(|(pod, node)| (*pod, *node))
    }

    /// Keeps room on a node for a pod that waits: schedulers leave it to the pod, or to more important ones, until it has a
    /// place.
    pub fn nominate(&mut self, pod: PodId, node: NodeId) {
        if self.place_of(pod).is_none() {
            self.nominated.insert(pod, node);
        }
    }

    /// How many pods may be disrupted, by whom they belong to.
    #[must_use]
    pub fn budgets(&self) -> &[Budget] {
        &self.budgets
    }

    /// The snapshot with these disruption budgets.
    #[must_use]
    pub fn with_budgets(mut self, budgets: impl IntoIterator<Item = Budget>) -> Self {
        self.budgets = budgets.into_iter().collect();
        self
    }

    /// Whether any of the pods keeps others away.
    pub(super) fn repels(&self) -> bool {
        self.repelling > 0
    }

    /// The shapes of pods that keep others away, all there have been.
    pub(super) fn repelling_shapes(&self) -> &[Arc<Shape>] {
        self.shapes.repelling()
    }

    /// Whether any of the pods likes others near it, or not.
    pub(super) fn leans(&self) -> bool {
        self.leaning > 0
    }

    /// The labels of each namespace, if that is known.
    #[must_use]
    pub fn namespaces(&self) -> Option<&Namespaces> {
        self.namespaces.as_ref()
    }

    /// The snapshot with these namespaces, each with its labels: without them, what selects pods by namespace can't be judged.
    #[must_use]
    pub fn with_namespaces(
        mut self,
        namespaces: impl IntoIterator<Item = (Box<str>, BTreeMap<String, String>)>,
    ) -> Self {
        self.namespaces = Some(namespaces.into_iter().collect());
        self
    }

    /// Adds a pod that waits.
    ///
    /// # Panics
    ///
    /// If there are 2^32 pods already.
    pub fn add(&mut self, mut pod: PodView) -> PodId {
        let shape = self.shapes.intern(&mut pod.shape);
        self.repelling += usize::from(repels(&pod));
        self.leaning += usize::from(leans(&pod));
        if let Some(id) = self.vacant.pop() {
            let at = id.0 as usize;
            (self.pods[at], self.shape_of[at]) = (pod, shape);
            return id;
        }
        let id = PodId(u32::try_from(self.pods.len()).expect("a cluster has less than 2^32 pods"));
        self.pods.push(pod);
        self.shape_of.push(shape);
        self.places.push(None);
        id
    }

    /// Puts a pod that waits to a place.
    ///
    /// # Panics
    ///
    /// If it has one, or an id is of another snapshot.
    pub fn place(&mut self, pod: PodId, place: Place) {
        let own = self.places.get_mut(pod.0 as usize).expect("pod ids are of the snapshot they are used with");
        assert!(own.replace(place).is_none(), "a pod is placed once");
        let shape = &self.pods[pod.0 as usize].shape;
        let node = self.nodes.get_mut(place.node.0 as usize);
        node.expect("node ids are of the snapshot they are used with").place(shape, place.devices);
        self.on[place.node.0 as usize].push(pod);
        self.nominated.remove(&pod);
        self.changed(place.node);
    }

    /// Notes since when a pod runs, until it is taken off its place. That is in the log, but no new version of its node.
    ///
    /// # Panics
    ///
    /// If the id is of another snapshot.
    pub fn start(&mut self, pod: PodId, at: Timestamp) {
        let own = self.pods.get_mut(pod.0 as usize).expect("pod ids are of the snapshot they are used with");
        own.started = Some(at);
        self.place_of(pod).into_iter().for_each(|place| self.changed(place.node));
    }

    /// Takes a pod off its place: it waits again.
    ///
    /// # Panics
    ///
    /// If the id is of another snapshot.
    pub fn evict(&mut self, pod: PodId) {
        let own = self.places.get_mut(pod.0 as usize).expect("pod ids are of the snapshot they are used with");
        if let Some(place) = own.take() {
            self.pods[pod.0 as usize].started = None;
            let shape = &self.pods[pod.0 as usize].shape;
            self.nodes[place.node.0 as usize].evict(shape, place.devices);
            let on = &mut self.on[place.node.0 as usize];
            if let Some(at) = on.iter().position(|other| *other == pod) {
                on.swap_remove(at);
            }
            self.changed(place.node);
        }
    }

    /// Takes a pod out, off its place first; its id may be that of another pod from now on.
    ///
    /// # Panics
    ///
    /// If the id is of another snapshot.
    pub fn remove(&mut self, pod: PodId) {
        self.evict(pod);
        self.nominated.remove(&pod);
        let left = std::mem::take(&mut self.pods[pod.0 as usize]);
        self.repelling -= usize::from(repels(&left));
        self.leaning -= usize::from(leans(&left));
        self.vacant.push(pod);
    }

    /// Makes a node another one of its name, as one that is cordoned, or has grown. The log begins anew: what the node *is* isn't
    /// in it.
    ///
    /// # Panics
    ///
    /// If a pod is on it, the names differ, or the id is of another snapshot.
    pub fn replace_node(&mut self, id: NodeId, info: NodeInfo) {
        assert!(self.pods_on(id).is_empty(), "a node is replaced when nothing is on it");
        let node = self.nodes.get_mut(id.0 as usize).expect("node ids are of the snapshot they are used with");
        assert_eq!(node.name, info.name, "a node keeps its name");
        let version = Version(node.version.0 + 1);
        *node = NodeView { version, ..info.into() };
        self.forgotten = self.version().0 + 1;
        self.log.clear();
        self.lineage = Lineage::default();
    }

    /// The version: how many changes of nodes there have been.
    #[must_use]
    pub fn version(&self) -> Version {
        Version(self.forgotten + self.log.len() as u64)
    }

    /// What tells this snapshot from its copies, and from all others.
    #[must_use]
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// The nodes changed after `version`, oldest first, some more than once; `None` if too much has happened since to tell.
    #[must_use]
    pub fn changed_since(&self, version: Version) -> Option<&[NodeId]> {
        let from = usize::try_from(version.0.checked_sub(self.forgotten)?).ok()?;
        self.log.get(from..)
    }

    fn changed(&mut self, node: NodeId) {
        // Who is further behind than twice the nodes does better to look at all of them.
        if self.log.len() >= LOG_LEN_MIN.max(4 * self.nodes.len()) {
            let older = self.log.len() / 2;
            self.log.drain(..older);
            self.forgotten += older as u64;
        }
        self.log.push(node);
    }
}

/// Notes for each image which share of the nodes has it.
fn share_images(nodes: &mut [NodeInfo]) {
    let mut having: BTreeMap<Box<str>, usize> = BTreeMap::new();
    for name in nodes.iter().flat_map(|node| node.images.keys()) {
        *having.entry(name.clone()).or_insert(0) += 1;
    }
    let all = nodes.len() as f64;
    for (name, image) in nodes.iter_mut().flat_map(|node| &mut node.images) {
        image.share_of_nodes = having.get(name).map_or(1.0, |having| *having as f64 / all);
    }
}
