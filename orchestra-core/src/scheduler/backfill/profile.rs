//! What is free on which node, and when.

use std::{collections::BTreeSet, sync::Arc};

use super::super::{
    DEVICE_MILLIS, DevicesFit, Filter as _, HostPortsFree, NodeId, NodeInfo, NodeView, Place, PodId, ResourcesFit,
    Shape, Snapshot,
};
use crate::clock::Timestamp;

/// A pod on a node, from one moment until just before another.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Stay {
    pub(super) pod: PodId,
    pub(super) shape: Arc<Shape>,
    pub(super) place: Place,
    pub(super) from: Timestamp,
    pub(super) to: Timestamp,
}

impl Stay {
    /// Whether the pod is there at a moment.
    pub(super) fn is_on(&self, at: Timestamp) -> bool {
        self.from <= at && at < self.to
    }
}

/// Who stays where, and when: from now on, whatever was before.
#[derive(Clone, Debug, Default)]
pub(super) struct Profile {
    infos: Vec<Arc<NodeInfo>>,
    stays: Vec<Vec<Stay>>,
}

impl Profile {
    /// The nodes of a snapshot, with nothing on them.
    pub(super) fn empty(snapshot: &Snapshot) -> Self {
        let infos: Vec<_> = snapshot.nodes().iter().map(|node| Arc::clone(&node.info)).collect();
        Self { stays: vec![Vec::new(); infos.len()], infos }
    }

    pub(super) fn add(&mut self, stay: Stay) {
        if let Some(stays) = self.stays.get_mut(stay.place.node.0 as usize) {
            stays.push(stay);
        }
    }

    pub(super) fn remove(&mut self, stay: &Stay) {
        if let Some(stays) = self.stays.get_mut(stay.place.node.0 as usize) {
            stays.retain(|other| other.pod != stay.pod);
        }
    }

    /// All stays, node by node.
    pub(super) fn stays(&self) -> impl Iterator<Item = &Stay> {
        self.stays.iter().flatten()
    }

    /// When somebody leaves, after a moment: room is made then, and only then.
    pub(super) fn ends_after(&self, at: Timestamp) -> BTreeSet<Timestamp> {
        self.stays().map(|stay| stay.to).filter(|to| *to > at && *to < Timestamp::MAX).collect()
    }

    /// A node as it is at its worst between two moments: the most that is taken of each resource, the least that is left of each
    /// device, and every port that somebody takes.
    ///
    /// # Panics
    ///
    /// If the id is of another snapshot.
    pub(super) fn peak(&self, node: NodeId, from: Timestamp, to: Timestamp) -> NodeView {
        let stays = self.stays.get(node.0 as usize).expect("node ids are of the snapshot they are used with");
        let within: Vec<&Stay> = stays.iter().filter(|stay| stay.from < to && from < stay.to).collect();
        let mut peak = self.bare(node);
        // More is taken only when somebody comes.
        let comes = within.iter().map(|stay| stay.from).filter(|at| *at > from);
        let moments: BTreeSet<Timestamp> = comes.chain([from]).collect();
        for at in moments {
            let mut view = self.bare(node);
            within.iter().filter(|stay| stay.is_on(at)).for_each(|stay| view.place(&stay.shape, stay.place.devices));
            peak.requested.maximum(&view.requested);
            peak.host_ports.append(&mut view.host_ports);
            peak.devices_left.iter_mut().zip(&view.devices_left).for_each(|(least, left)| *least = (*least).min(*left));
        }
        peak
    }

    /// Whether a node has room for a pod of this shape all the time between two moments.
    pub(super) fn has_room(&self, shape: &Shape, node: NodeId, from: Timestamp, to: Timestamp) -> bool {
        let peak = self.peak(node, from, to);
        ResourcesFit
            .admit(shape, &peak)
            .and_then(|()| DevicesFit.admit(shape, &peak))
            .and_then(|()| HostPortsFree.admit(shape, &peak))
            .is_ok()
    }

    /// Whether the devices of a stay are free all the time, on a node that [has room](Self::has_room).
    pub(super) fn has_devices(&self, stay: &Stay) -> bool {
        let peak = self.peak(stay.place.node, stay.from, stay.to);
        stay.shape.devices.is_met_by(stay.place.devices, &peak.devices_left)
    }

    fn bare(&self, node: NodeId) -> NodeView {
        let info = self.infos.get(node.0 as usize).map(Arc::clone).unwrap_or_default();
        let devices_left = vec![DEVICE_MILLIS; usize::from(info.devices)].into();
        NodeView { info, devices_left, ..NodeView::default() }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Profile, Stay};
    use crate::{
        clock::Timestamp,
        scheduler::{DeviceRequest, DeviceSet, NodeId, NodeInfo, Place, PodId, Resources, Shape, Snapshot},
    };

    fn second(at: u8) -> Timestamp {
        Timestamp::from_second(at.into()).expect("a small number")
    }

    fn shape(cpu: i64, memory: i64, port: u8, device: Option<usize>) -> Shape {
        let requests = Resources { cpu, memory, pods: 1, ..Resources::default() };
        let ports = (port > 0).then(|| ("0.0.0.0".into(), "TCP".into(), i32::from(port)));
        let count = u8::from(device.is_some());
        let devices = DeviceRequest { count, millis: 400, ..DeviceRequest::default() };
        Shape { requests, host_ports: ports.into_iter().collect(), devices, ..Shape::default() }
    }

    prop_compose! {
        fn stay()(
            pod: u32, cpu in 0..6_i64, memory in 0..6_i64, port in 0..3_u8, device in prop::option::of(0..2_usize),
            from in 0..20_u8, span in 1..15_u8,
        ) -> Stay {
            let place = Place { node: NodeId(0), devices: device.into_iter().collect::<DeviceSet>() };
            let shape = shape(cpu, memory, port, device).into();
            Stay { pod: PodId(pod), shape, place, from: second(from), to: second(from + span) }
        }
    }

    proptest! {
        /// Against a look at every second.
        #[test]
        fn a_node_is_at_its_worst_what_it_is_in_the_worst_of_its_seconds(
            stays in prop::collection::vec(stay(), 0..12), from in 0..30_u8, span in 1..20_u8, wanted in stay(),
        ) {
            let allocatable = Resources { cpu: 12, memory: 12, pods: 5, ..Resources::default() };
            let node = NodeInfo { name: "n".into(), allocatable: allocatable.clone(), devices: 2, ..NodeInfo::default() };
            let mut profile = Profile::empty(&Snapshot::new([node], []));
            stays.iter().for_each(|stay| profile.add(stay.clone()));
            let (mut most, mut left, mut ports) = (Resources::default(), vec![1_000_i32; 2], Vec::new());
            for at in from..from + span {
                let (mut sum, mut left_now) = (Resources::default(), vec![1_000_i32; 2]);
                for stay in stays.iter().filter(|stay| stay.from <= second(at) && second(at) < stay.to) {
                    sum.add(&stay.shape.requests);
                    ports.extend(stay.shape.host_ports.iter().cloned());
                    stay.place.devices.iter().for_each(|device| left_now[device] = (left_now[device] - 400).max(0));
                }
                most.maximum(&sum);
                left.iter_mut().zip(left_now).for_each(|(least, now)| *least = (*least).min(now));
            }
            let (from, to) = (second(from), second(from + span));
            let peak = profile.peak(NodeId(0), from, to);
            prop_assert_eq!(&peak.requested, &most);
            prop_assert_eq!(peak.devices_left.iter().map(|left| i32::from(*left)).collect::<Vec<_>>(), left.clone());
            let shape = &wanted.shape;
            let fits = allocatable.take(&shape.requests, &most)
                && shape.host_ports.iter().all(|port| !ports.contains(port))
                && (shape.devices.count == 0 || left.iter().any(|left| *left >= 400));
            prop_assert_eq!(profile.has_room(shape, NodeId(0), from, to), fits);
            let mut ends: Vec<Timestamp> = stays.iter().map(|stay| stay.to).filter(|to| *to > from).collect();
            ends.sort();
            ends.dedup();
            prop_assert_eq!(profile.ends_after(from).into_iter().collect::<Vec<_>>(), ends);
        }

        #[test]
        fn a_stay_that_is_taken_back_leaves_no_trace(mut stays in prop::collection::vec(stay(), 1..9), at in 0..35_u8) {
            stays.iter_mut().zip(0..).for_each(|(stay, pod)| stay.pod = PodId(pod));
            let node = NodeInfo { name: "n".into(), devices: 2, ..NodeInfo::default() };
            let mut profile = Profile::empty(&Snapshot::new([node], []));
            let last = stays.pop().expect("there is one at least");
            stays.iter().for_each(|stay| profile.add(stay.clone()));
            let before = profile.peak(NodeId(0), second(at), second(at + 5));
            profile.add(last.clone());
            profile.remove(&last);
            prop_assert_eq!(profile.peak(NodeId(0), second(at), second(at + 5)), before);
        }
    }
}
