//! Nodes as a scheduler sees them.

use std::{collections::BTreeMap, ops::Deref, sync::Arc};

use k8s_openapi::api::core::v1::{Node, Taint};

use super::{
    DEVICE_MILLIS, DeviceClass, DeviceSet, Resources, Shape, Version,
    shape::{HostPort, tagged},
};

/// An image that a node has.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ImageView {
    /// Its size.
    pub bytes: i64,
    /// The share of the snapshot's nodes that have it: more than 0, up to 1.
    pub share_of_nodes: f64,
}

/// What a node is, whatever is on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeInfo {
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
    /// How many devices it has; no more than [`DEVICES_MAX`](super::DEVICES_MAX).
    pub devices: u8,
    /// Of which model they are.
    pub device_model: Box<str>,
    /// The images it has, by name.
    pub images: BTreeMap<Box<str>, ImageView>,
}

impl NodeInfo {
    /// Reads a node.
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
}

/// A node, and what the pods on it take. What the node is can be read as if it were its own ([`NodeInfo`]).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeView {
    /// What it is.
    pub info: Arc<NodeInfo>,
    /// What its pods take.
    pub requested: Resources,
    /// The sum of their [`weighed_requests`](Shape::weighed_requests).
    pub weighed_requests: Resources,
    /// The ports they take, each with how many of them do: more than one only if somebody bound them by hand.
    pub host_ports: BTreeMap<HostPort, u32>,
    /// What is left of each of its devices, in thousandths.
    pub devices_left: Box<[u16]>,
    /// How many of its pods need devices, by kind.
    pub device_pods: BTreeMap<DeviceClass, u32>,
    /// Its version.
    pub version: Version,
}

impl Deref for NodeView {
    type Target = NodeInfo;

    fn deref(&self) -> &NodeInfo {
        &self.info
    }
}

impl From<NodeInfo> for NodeView {
    /// The node with nothing on it.
    fn from(info: NodeInfo) -> Self {
        Self {
            devices_left: vec![DEVICE_MILLIS; usize::from(info.devices)].into(),
            info: info.into(),
            ..Self::default()
        }
    }
}

impl NodeView {
    /// Reads a node, with nothing on it.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        NodeInfo::of(node).into()
    }

    /// Puts a pod on it, which takes these of its devices.
    pub fn place(&mut self, pod: &Shape, devices: DeviceSet) {
        self.requested.add(&pod.requests);
        self.weighed_requests.add(&pod.weighed_requests);
        for port in &pod.host_ports {
            *self.host_ports.entry(port.clone()).or_insert(0) += 1;
        }
        for (_, left) in self.devices_left.iter_mut().enumerate().filter(|(device, _)| devices.contains(*device)) {
            *left = left.saturating_sub(pod.devices.millis);
        }
        if let Some(class) = pod.devices.class() {
            *self.device_pods.entry(class).or_insert(0) += 1;
        }
        self.version.0 += 1;
    }

    /// Takes a pod off it, which gives these of its devices back.
    pub fn evict(&mut self, pod: &Shape, devices: DeviceSet) {
        self.requested.subtract(&pod.requests);
        self.weighed_requests.subtract(&pod.weighed_requests);
        for port in &pod.host_ports {
            if let Some(count) = self.host_ports.get_mut(port) {
                *count -= 1;
                if *count == 0 {
                    self.host_ports.remove(port);
                }
            }
        }
        for (_, left) in self.devices_left.iter_mut().enumerate().filter(|(device, _)| devices.contains(*device)) {
            *left = left.saturating_add(pod.devices.millis).min(DEVICE_MILLIS);
        }
        if let Some(class) = pod.devices.class()
            && let Some(count) = self.device_pods.get_mut(&class)
        {
            *count -= 1;
            if *count == 0 {
                self.device_pods.remove(&class);
            }
        }
        self.version.0 += 1;
    }
}
