//! The lines, as data.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Affinity, Taint, Toleration, TopologySpreadConstraint};
use serde::{Deserialize, Serialize, Serializer};

use super::{
    super::{Ask, HostPort, NodeId, NodeView, PodId, Resources, Shape, ShapeId, Snapshot},
    PROTOCOL_VERSION,
};

/// An ask.
#[derive(Debug, Serialize)]
pub(super) struct Question<'a> {
    version: u32,
    now_micros: i64,
    seed: u64,
    steps_max: u32,
    anew: bool,
    nodes: Vec<Node<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    scope: Option<Vec<&'a str>>,
    shapes: Vec<PodShape<'a>>,
    units: Vec<Unit<'a>>,
}

/// Amounts by resource; what is 0 is left out.
#[derive(Debug)]
struct Amounts<'a>(&'a Resources);

impl Serialize for Amounts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

#[derive(Debug, Serialize)]
struct Node<'a> {
    name: &'a str,
    version: u64,
    allocatable: Amounts<'a>,
    requested: Amounts<'a>,
    weighed_requests: Amounts<'a>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    unschedulable: bool,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    taints: &'a [Taint],
    #[serde(skip_serializing_if = "Vec::is_empty")]
    host_ports: Vec<&'a HostPort>,
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<Devices<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pods: Option<Vec<Running<'a>>>,
}

#[derive(Debug, Serialize)]
struct Devices<'a> {
    model: &'a str,
    left: &'a [u16],
}

#[derive(Debug, Serialize)]
struct Running<'a> {
    id: u32,
    priority: i32,
    requests: Amounts<'a>,
    devices: Vec<usize>,
}

#[derive(Debug, Serialize)]
struct PodShape<'a> {
    requests: Amounts<'a>,
    weighed_requests: Amounts<'a>,
    priority: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    devices: Option<Wanted<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_name: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    node_selector: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    tolerations: &'a [Toleration],
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity: Option<&'a Affinity>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    spread: &'a [TopologySpreadConstraint],
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    host_ports: &'a BTreeSet<HostPort>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    images: &'a [Box<str>],
}

#[derive(Debug, Serialize)]
struct Wanted<'a> {
    count: u8,
    millis: u16,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    models: &'a [Box<str>],
}

#[derive(Debug, Serialize)]
struct Unit<'a> {
    id: u32,
    pods: Vec<Pod<'a>>,
    pods_min: usize,
    priority: i32,
    queue: &'a str,
    since_micros: i64,
}

#[derive(Debug, Serialize)]
struct Pod<'a> {
    id: u32,
    name: &'a str,
    shape: usize,
}

impl<'a> Question<'a> {
    /// The ask with these nodes; with their pods, too, if somebody may want to evict them.
    pub(super) fn new(ask: &'a Ask<'_>, anew: bool, nodes: &[NodeId], with_pods: bool) -> Self {
        let snapshot = ask.snapshot;
        let mut running: BTreeMap<NodeId, Vec<Running<'a>>> = nodes.iter().map(|node| (*node, Vec::new())).collect();
        for (id, place) in with_pods.then(|| snapshot.placed()).into_iter().flatten() {
            if let Some(pods) = running.get_mut(&place.node) {
                let shape: &Shape = snapshot.pod(id);
                let (requests, devices) = (Amounts(&shape.requests), place.devices.iter().collect());
                pods.push(Running { id: id.0, priority: shape.priority, requests, devices });
            }
        }
        let told = nodes.iter().map(|id| {
            let pods = running.remove(id).filter(|_| with_pods);
            Node { pods, ..Node::of(snapshot.node(*id)) }
        });
        let nodes = told.collect();
        let (mut numbers, mut shapes) = (BTreeMap::new(), Vec::new());
        let units = ask.pending.iter().map(|unit| Unit {
            id: unit.id.0,
            pods: unit.pods.iter().map(|pod| Pod::of(snapshot, *pod, &mut numbers, &mut shapes)).collect(),
            pods_min: unit.pods_min,
            priority: unit.priority,
            queue: &unit.queue,
            since_micros: unit.since.as_microsecond(),
        });
        let units = units.collect();
        Self {
            version: PROTOCOL_VERSION,
            now_micros: ask.now.as_microsecond(),
            seed: ask.seed,
            steps_max: ask.steps_max.get(),
            anew,
            nodes,
            scope: ask.scope.map(|scope| scope.iter().map(|node| &*snapshot.node(*node).info.name).collect()),
            shapes,
            units,
        }
    }
}

impl<'a> Node<'a> {
    fn of(node: &'a NodeView) -> Self {
        Self {
            name: &node.info.name,
            version: node.version.0,
            allocatable: Amounts(&node.info.allocatable),
            requested: Amounts(&node.requested),
            weighed_requests: Amounts(&node.weighed_requests),
            unschedulable: node.info.unschedulable,
            labels: &node.info.labels,
            taints: &node.info.taints,
            host_ports: node.host_ports.keys().collect(),
            devices: (node.info.devices > 0)
                .then(|| Devices { model: &node.info.device_model, left: &node.devices_left }),
            pods: None,
        }
    }
}

impl<'a> Pod<'a> {
    /// A pod, its shape told if that is the first of it.
    fn of(
        snapshot: &'a Snapshot,
        id: PodId,
        numbers: &mut BTreeMap<ShapeId, usize>,
        shapes: &mut Vec<PodShape<'a>>,
    ) -> Self {
        let (view, next) = (snapshot.pod(id), shapes.len());
        let shape = *numbers.entry(snapshot.shape_of(id)).or_insert(next);
        if shape == next {
            shapes.push(PodShape::of(&view.shape));
        }
        Self { id: id.0, name: &view.name, shape }
    }
}

impl<'a> PodShape<'a> {
    fn of(shape: &'a Shape) -> Self {
        let wanted = &shape.devices;
        Self {
            requests: Amounts(&shape.requests),
            weighed_requests: Amounts(&shape.weighed_requests),
            priority: shape.priority,
            namespace: &shape.namespace,
            labels: &shape.labels,
            devices: (wanted.count > 0).then_some(Wanted {
                count: wanted.count,
                millis: wanted.millis,
                models: &wanted.models,
            }),
            node_name: shape.node_name.as_deref(),
            node_selector: &shape.node_selector,
            tolerations: &shape.tolerations,
            affinity: shape.affinity.as_ref(),
            spread: &shape.spread,
            host_ports: &shape.host_ports,
            images: &shape.images,
        }
    }
}

/// An answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Answer {
    pub(super) version: u32,
    pub(super) steps: Vec<Step>,
    pub(super) left: Vec<u32>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    pub(super) unit: u32,
    pub(super) ops: Vec<Op>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(super) enum Op {
    Place {
        pod: u32,
        node: Box<str>,
        devices: Option<Vec<usize>>,
    },
    Evict {
        pod: u32,
        #[serde(rename = "for")]
        preemptor: Option<u32>,
    },
}
