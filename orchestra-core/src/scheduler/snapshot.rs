//! The cluster at one version: dense, in a fixed order, cheap to read.

use std::{
    collections::{BTreeMap, BTreeSet},
    str::FromStr as _,
    sync::Arc,
};

use k8s_openapi::{
    api::core::v1::{Affinity, Container, Node, Pod, PodSpec, Taint, Toleration, TopologySpreadConstraint},
    apimachinery::pkg::api::resource::Quantity as ApiQuantity,
};

use super::pod_affinity::repels;
use crate::api::{pod::has_ended, quantity::Quantity};

/// A node's place in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u32);

/// A pod's place in a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId(pub u32);

/// A node's version: it rises whenever something about the node, or on it, changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(pub u64);

/// Amounts by resource: thousandths of a core for `cpu`, whole units for all else, bytes for `memory`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Resources(pub BTreeMap<Box<str>, i64>);

impl Resources {
    /// Reads a list as the API has it; what is no quantity counts as none.
    pub fn of(list: Option<&BTreeMap<String, ApiQuantity>>) -> Self {
        let amount = |(name, quantity): (&String, &ApiQuantity)| {
            let quantity = Quantity::from_str(&quantity.0).unwrap_or_default();
            let amount = if name == "cpu" { quantity.as_millis() } else { quantity.as_units() };
            (name.as_str().into(), amount)
        };
        Self(list.into_iter().flatten().map(amount).collect())
    }

    /// The amount of a resource; 0 if it is not named.
    #[must_use]
    pub fn amount(&self, resource: &str) -> i64 {
        self.0.get(resource).copied().unwrap_or(0)
    }

    /// Adds each amount of `other`.
    pub fn add(&mut self, other: &Self) {
        for (resource, amount) in &other.0 {
            let sum = self.0.entry(resource.clone()).or_insert(0);
            *sum = sum.saturating_add(*amount);
        }
    }

    /// Takes off each amount of `other`.
    pub fn subtract(&mut self, other: &Self) {
        for (resource, amount) in &other.0 {
            let left = self.0.entry(resource.clone()).or_insert(0);
            *left = left.saturating_sub(*amount);
        }
    }

    fn maximum(&mut self, other: &Self) {
        for (resource, amount) in &other.0 {
            let most = self.0.entry(resource.clone()).or_insert(0);
            *most = (*most).max(*amount);
        }
    }
}

/// What Kubernetes takes for a container's cpu and memory if it requests none, when it scores.
const CPU_MILLIS_DEFAULT: i64 = 100;
const MEMORY_BYTES_DEFAULT: i64 = 200 << 20;

/// A port of the node that a pod takes: address, protocol, number.
pub(crate) type HostPort = (Box<str>, Box<str>, i32);

/// A pod, as far as a scheduler cares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodView {
    /// The namespace.
    pub namespace: Box<str>,
    /// The name.
    pub name: Box<str>,
    /// What tells it from another of the same name.
    pub uid: Box<str>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is on its way out.
    pub terminating: bool,
    /// A higher one is served first.
    pub priority: i32,
    /// What it takes of a node.
    pub requests: Resources,
    /// As `requests`, with what Kubernetes takes for containers that request no cpu or memory, when it scores.
    pub weighed_requests: Resources,
    /// The one node it may run on, if it says so.
    pub node_name: Option<Box<str>>,
    /// Labels that a node must have.
    pub node_selector: BTreeMap<String, String>,
    /// What nodes it needs and likes, and near which pods.
    pub affinity: Option<Affinity>,
    /// How its peers have to be spread; what is only preferred is left out.
    pub spread: Vec<TopologySpreadConstraint>,
    /// The taints it puts up with.
    pub tolerations: Vec<Toleration>,
    /// The node's ports it takes.
    pub host_ports: BTreeSet<HostPort>,
    /// Its images, each with a tag or a digest.
    pub images: Vec<Box<str>>,
}

impl PodView {
    /// Reads a pod.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let spread = spec.topology_spread_constraints.iter().flatten();
        let required = spread.filter(|constraint| constraint.when_unsatisfiable == "DoNotSchedule");
        Self {
            namespace: pod.metadata.namespace.as_deref().unwrap_or_default().into(),
            name: pod.metadata.name.as_deref().unwrap_or_default().into(),
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            spread: required.cloned().collect(),
            priority: spec.priority.unwrap_or(0),
            requests: requests(&spec, requested),
            weighed_requests: requests(&spec, weighed),
            host_ports: host_ports(&spec),
            images: containers(&spec).filter_map(|container| container.image.as_deref().map(tagged)).collect(),
            node_name: spec.node_name.map(Into::into),
            node_selector: spec.node_selector.unwrap_or_default(),
            affinity: spec.affinity,
            tolerations: spec.tolerations.unwrap_or_default(),
        }
    }
}

/// What a pod takes: the sum of its containers and sidecars, or what an init container needs at its turn if that is more,
/// and its overhead (Kubernetes' `PodRequests`, KEP-753). It also takes one of the node's `pods`.
fn requests(spec: &PodSpec, of: fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    spec.containers.iter().for_each(|container| running.add(&of(container)));
    let (mut sidecars, mut peak) = (Resources::default(), Resources::default());
    for container in spec.init_containers.iter().flatten() {
        let mut turn = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sidecars.add(&turn);
            peak.maximum(&sidecars);
        } else {
            turn.add(&sidecars);
            peak.maximum(&turn);
        }
    }
    running.add(&sidecars);
    running.maximum(&peak);
    running.add(&Resources::of(spec.overhead.as_ref()));
    running.0.insert("pods".into(), 1);
    running
}

fn requested(container: &Container) -> Resources {
    Resources::of(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

fn weighed(container: &Container) -> Resources {
    let mut requests = requested(container);
    requests.0.entry("cpu".into()).or_insert(CPU_MILLIS_DEFAULT);
    requests.0.entry("memory".into()).or_insert(MEMORY_BYTES_DEFAULT);
    requests
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// An image's name as nodes list it: what names no version means the latest.
fn tagged(image: &str) -> Box<str> {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) { image.into() } else { format!("{image}:latest").into() }
}

fn host_ports(spec: &PodSpec) -> BTreeSet<HostPort> {
    // Those of init containers too, if they stay.
    let sidecars = spec.init_containers.iter().flatten();
    let sidecars = sidecars.filter(|container| container.restart_policy.as_deref() == Some("Always"));
    let ports = sidecars.chain(&spec.containers).flat_map(|container| container.ports.iter().flatten());
    let taken = ports.filter_map(|port| {
        let number = port.host_port.filter(|number| *number > 0)?;
        let address = port.host_ip.as_deref().filter(|ip| !ip.is_empty()).unwrap_or("0.0.0.0");
        Some((address.into(), port.protocol.as_deref().unwrap_or("TCP").into(), number))
    });
    taken.collect()
}

/// An image that a node has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ImageView {
    /// Its size.
    pub bytes: i64,
    /// The share of the snapshot's nodes that have it: more than 0, up to 1.
    pub share_of_nodes: f64,
}

/// A node, and what the pods on it take.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView {
    /// The name.
    pub name: Box<str>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its taints.
    pub taints: Vec<Taint>,
    /// Whether it takes no new pods.
    pub unschedulable: bool,
    /// What its pods may take together.
    pub allocatable: Resources,
    /// What they take.
    pub requested: Resources,
    /// The sum of their [`weighed_requests`](PodView::weighed_requests).
    pub weighed_requests: Resources,
    /// The ports they take.
    pub host_ports: BTreeSet<HostPort>,
    /// The images it has, by name.
    pub images: BTreeMap<Box<str>, ImageView>,
    /// Its version.
    pub version: Version,
}

impl NodeView {
    /// Reads a node, with nothing on it.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        let spec = node.spec.clone().unwrap_or_default();
        let status = node.status.as_ref();
        let images = status.and_then(|status| status.images.as_deref()).unwrap_or_default().iter();
        let images = images.flat_map(|image| {
            let view = ImageView { bytes: image.size_bytes.unwrap_or(0), share_of_nodes: 1.0 };
            image.names.iter().flatten().map(move |name| (tagged(name), view))
        });
        let allocatable = status.and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()));
        Self {
            name: node.metadata.name.as_deref().unwrap_or_default().into(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints: spec.taints.unwrap_or_default(),
            unschedulable: spec.unschedulable.unwrap_or(false),
            allocatable: Resources::of(allocatable),
            images: images.collect(),
            ..Self::default()
        }
    }

    /// Puts a pod on it.
    pub fn place(&mut self, pod: &PodView) {
        self.requested.add(&pod.requests);
        self.weighed_requests.add(&pod.weighed_requests);
        self.host_ports.extend(pod.host_ports.iter().cloned());
        self.version.0 += 1;
    }

    /// Takes a pod off it.
    pub fn evict(&mut self, pod: &PodView) {
        self.requested.subtract(&pod.requests);
        self.weighed_requests.subtract(&pod.weighed_requests);
        self.host_ports.retain(|port| !pod.host_ports.contains(port));
        self.version.0 += 1;
    }
}

/// The cluster at one moment; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The nodes, in the order of their names.
    pub nodes: Arc<[NodeView]>,
    /// The pods that wait or run, in the order that made the snapshot.
    pub pods: Arc<[PodView]>,
    /// The node of each pod, for those that have one.
    pub placed: Arc<[Option<NodeId>]>,
    /// Whether any of the pods keeps others away.
    pub(super) repels: bool,
}

impl Snapshot {
    /// Makes a snapshot of a cluster as its objects say: pods that have ended take nothing, and are left out.
    pub fn of<'a>(nodes: impl IntoIterator<Item = &'a Node>, pods: impl IntoIterator<Item = &'a Pod>) -> Self {
        let pods = pods.into_iter().filter(|pod| !has_ended(pod)).map(|pod| {
            // A bound pod doesn't choose its node any more.
            let mut view = PodView::of(pod);
            let node = view.node_name.take().filter(|name| !name.is_empty());
            (view, node)
        });
        Self::new(nodes.into_iter().map(NodeView::of), pods)
    }

    /// Makes a snapshot of nodes with nothing on them, and pods with the node that each is bound to.
    ///
    /// A pod bound to a node that is not there takes nothing.
    pub fn new(
        nodes: impl IntoIterator<Item = NodeView>,
        pods: impl IntoIterator<Item = (PodView, Option<Box<str>>)>,
    ) -> Self {
        let mut nodes: Vec<NodeView> = nodes.into_iter().collect();
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        share_images(&mut nodes);
        let (mut views, mut placed) = (Vec::new(), Vec::new());
        for (pod, bound) in pods {
            let at = bound.and_then(|name| nodes.binary_search_by(|node| node.name.cmp(&name)).ok());
            if let Some(node) = at.and_then(|at| nodes.get_mut(at)) {
                node.place(&pod);
            }
            placed.push(at.and_then(|at| u32::try_from(at).ok()).map(NodeId));
            views.push(pod);
        }
        let repels = views.iter().any(repels);
        Self { nodes: nodes.into(), pods: views.into(), placed: placed.into(), repels }
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

    /// The pod of this name; looks at every pod.
    #[must_use]
    pub fn find_pod(&self, namespace: &str, name: &str) -> Option<PodId> {
        let at = self.pods.iter().position(|pod| &*pod.namespace == namespace && &*pod.name == name)?;
        u32::try_from(at).ok().map(PodId)
    }

    /// Every node's id, in order.
    pub fn node_ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..u32::try_from(self.nodes.len()).unwrap_or(u32::MAX)).map(NodeId)
    }

    /// Where a pod is; `None` if it waits.
    #[must_use]
    pub fn node_of(&self, pod: PodId) -> Option<NodeId> {
        self.placed.get(pod.0 as usize).copied().flatten()
    }
}

/// Notes for each image which share of the nodes has it.
fn share_images(nodes: &mut [NodeView]) {
    let mut having: BTreeMap<Box<str>, usize> = BTreeMap::new();
    for name in nodes.iter().flat_map(|node| node.images.keys()) {
        *having.entry(name.clone()).or_insert(0) += 1;
    }
    let all = nodes.len() as f64;
    for (name, image) in nodes.iter_mut().flat_map(|node| &mut node.images) {
        image.share_of_nodes = having.get(name).map_or(1.0, |having| *having as f64 / all);
    }
}
