//! Pods as a scheduler sees them.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    ops::Deref,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::{Affinity, Container, Pod, PodSpec, Toleration, TopologySpreadConstraint};

use super::{DeviceRequest, Resources};
use crate::{clock::Timestamp, scheduler::pod_affinity::repels};

/// What Kubernetes takes for a container's cpu and memory if it requests none, when it scores.
const CPU_MILLIS_DEFAULT: i64 = 100;
const MEMORY_BYTES_DEFAULT: i64 = 200 << 20;

/// A port of the node that a pod takes: address, protocol, number.
pub type HostPort = (Box<str>, Box<str>, i32);

/// What filters and scores may know of a pod: pods of one shape fare alike on every node (Borg's equivalence class).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Shape {
    /// The namespace.
    pub namespace: Box<str>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// A higher one is served first.
    pub priority: i32,
    /// Whether it takes no other pod's place, however important it is (`preemptionPolicy: Never`).
    pub never_preempts: bool,
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
    /// How its peers have to be spread.
    pub spread: Vec<TopologySpreadConstraint>,
    /// How they had better be spread.
    pub preferred_spread: Vec<TopologySpreadConstraint>,
    /// The taints it puts up with.
    pub tolerations: Vec<Toleration>,
    /// The node's ports it takes.
    pub host_ports: BTreeSet<HostPort>,
    /// Its images, each with a tag or a digest.
    pub images: Vec<Box<str>>,
    /// The devices it needs. The API has no field for them: pods of simulations ask so.
    pub devices: DeviceRequest,
}

impl Shape {
    /// Reads a pod.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let spread = spec.topology_spread_constraints.iter().flatten();
        let (spread, preferred_spread) =
            spread.cloned().partition(|constraint| constraint.when_unsatisfiable == "DoNotSchedule");
        Self {
            namespace: pod.metadata.namespace.as_deref().unwrap_or_default().into(),
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            spread,
            preferred_spread,
            priority: spec.priority.unwrap_or(0),
            never_preempts: spec.preemption_policy.as_deref() == Some("Never"),
            requests: requests(&spec, requested),
            weighed_requests: requests(&spec, weighed),
            host_ports: host_ports(&spec),
            images: containers(&spec).filter_map(|container| container.image.as_deref().map(tagged)).collect(),
            node_name: spec.node_name.map(Into::into),
            node_selector: spec.node_selector.unwrap_or_default(),
            affinity: spec.affinity,
            tolerations: spec.tolerations.unwrap_or_default(),
            devices: DeviceRequest::default(),
        }
    }

    /// A number that equal shapes share.
    fn digest(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.digest_of_outline(), &self.requests).hash(&mut hasher);
        hasher.finish()
    }

    /// A number that shapes of one outline share.
    fn digest_of_outline(&self) -> u64 {
        // The fields that tell most shapes apart; those that can't be hashed are left to a comparison.
        let mut hasher = DefaultHasher::new();
        (&self.namespace, &self.labels, self.priority, &self.node_selector).hash(&mut hasher);
        (&self.node_name, &self.host_ports, &self.images, &self.devices).hash(&mut hasher);
        hasher.finish()
    }

    /// Whether two shapes differ in nothing but the amounts that they request.
    fn has_outline_of(&self, other: &Self) -> bool {
        let Self {
            namespace,
            labels,
            priority,
            never_preempts,
            requests: _,
            weighed_requests: _,
            node_name,
            node_selector,
            affinity,
            spread,
            preferred_spread,
            tolerations,
            host_ports,
            images,
            devices,
        } = self;
        let is_one = (namespace, labels, priority, never_preempts)
            == (&other.namespace, &other.labels, &other.priority, &other.never_preempts);
        let is_for_one = (node_name, node_selector, affinity, tolerations)
            == (&other.node_name, &other.node_selector, &other.affinity, &other.tolerations);
        is_one
            && is_for_one
            && (spread, preferred_spread) == (&other.spread, &other.preferred_spread)
            && (host_ports, images, devices) == (&other.host_ports, &other.images, &other.devices)
    }
}

/// A pod, as far as a scheduler cares. What its shape says can be read as if it were its own ([`Shape`]).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodView {
    /// The name.
    pub name: Box<str>,
    /// What tells it from another of the same name.
    pub uid: Box<str>,
    /// Whether it is on its way out.
    pub terminating: bool,
    /// The tenant's queue it came by: its namespace, unless somebody says otherwise. For fairness: filters and scores don't see it.
    pub queue: Box<str>,
    /// How long it runs at most, by what its owner says (`activeDeadlineSeconds`); `None` if nobody knows an end. For schedulers
    /// that look ahead: filters and scores don't see it.
    pub runs: Option<Duration>,
    /// Since when it runs; `None` if it doesn't, or has only just been given its place.
    pub started: Option<Timestamp>,
    /// All that filters and scores may know of it.
    pub shape: Arc<Shape>,
}

impl PodView {
    /// A pod of a name and a shape.
    pub fn new(name: impl Into<Box<str>>, shape: impl Into<Arc<Shape>>) -> Self {
        Self { name: name.into(), shape: shape.into(), ..Self::default() }
    }

    /// Reads a pod.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let seconds = pod.spec.as_ref().and_then(|spec| spec.active_deadline_seconds);
        Self {
            runs: seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs),
            started: pod.status.as_ref().and_then(|status| status.start_time.as_ref()).map(|time| time.0),
            queue: pod.metadata.namespace.as_deref().unwrap_or_default().into(),
            name: pod.metadata.name.as_deref().unwrap_or_default().into(),
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            terminating: pod.metadata.deletion_timestamp.is_some(),
            shape: Shape::of(pod).into(),
        }
    }

    /// The pod as one that doesn't choose its node any more, and the node that it names.
    #[must_use]
    pub fn unbound(mut self) -> (Self, Option<Box<str>>) {
        let node = self.shape.node_name.clone().filter(|name| !name.is_empty());
        if self.shape.node_name.is_some() {
            Arc::make_mut(&mut self.shape).node_name = None;
        }
        (self, node)
    }
}

impl Deref for PodView {
    type Target = Shape;

    fn deref(&self) -> &Shape {
        &self.shape
    }
}

/// Which shape of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShapeId(pub u32);

/// Which outline of a snapshot: shapes of one outline differ in nothing but the amounts that they request, so that what a node
/// *is* says the same to them all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OutlineId(pub u32);

/// The shapes of a snapshot, each once, in the order in which they came.
#[derive(Clone, Debug, Default)]
pub(super) struct Shapes {
    all: Vec<(Arc<Shape>, OutlineId)>,
    by_digest: BTreeMap<u64, Vec<ShapeId>>,
    /// A shape of each outline.
    outlines: Vec<ShapeId>,
    by_digest_of_outline: BTreeMap<u64, Vec<OutlineId>>,
    /// Those whose pods keep others away.
    repelling: Vec<Arc<Shape>>,
}

impl Shapes {
    /// The id of a shape; `shape` is the one that is kept from now on.
    pub(super) fn intern(&mut self, shape: &mut Arc<Shape>) -> ShapeId {
        let digest = shape.digest();
        for id in self.by_digest.get(&digest).into_iter().flatten() {
            if let Some((known, _)) = self.all.get(id.0 as usize)
                && (Arc::ptr_eq(known, shape) || **known == **shape)
            {
                *shape = Arc::clone(known);
                return *id;
            }
        }
        let id = ShapeId(u32::try_from(self.all.len()).expect("a cluster has less than 2^32 shapes"));
        let outline = self.outline(shape, id);
        self.all.push((Arc::clone(shape), outline));
        self.by_digest.entry(digest).or_default().push(id);
        if repels(shape) {
            self.repelling.push(Arc::clone(shape));
        }
        id
    }

    /// The outline of a new shape.
    fn outline(&mut self, shape: &Shape, new: ShapeId) -> OutlineId {
        let alike = self.by_digest_of_outline.entry(shape.digest_of_outline()).or_default();
        for id in &*alike {
            let of = self.outlines.get(id.0 as usize).and_then(|shape| self.all.get(shape.0 as usize));
            if of.is_some_and(|(known, _)| known.has_outline_of(shape)) {
                return *id;
            }
        }
        let id = OutlineId(u32::try_from(self.outlines.len()).expect("there are no more outlines than shapes"));
        alike.push(id);
        self.outlines.push(new);
        id
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn repelling(&self) -> &[Arc<Shape>] {
        &self.repelling
    }

    pub(super) fn outline_of(&self, shape: ShapeId) -> Option<OutlineId> {
        self.all.get(shape.0 as usize).map(|(_, outline)| *outline)
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
    running.pods = 1;
    running
}

fn requested(container: &Container) -> Resources {
    Resources::of(container.resources.as_ref().and_then(|resources| resources.requests.as_ref()))
}

fn weighed(container: &Container) -> Resources {
    let listed = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let names = |resource: &str| listed.is_some_and(|listed| listed.contains_key(resource));
    let mut requests = Resources::of(listed);
    if !names("cpu") {
        requests.cpu = CPU_MILLIS_DEFAULT;
    }
    if !names("memory") {
        requests.memory = MEMORY_BYTES_DEFAULT;
    }
    requests
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

/// An image's name as nodes list it: what names no version means the latest.
pub(super) fn tagged(image: &str) -> Box<str> {
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
