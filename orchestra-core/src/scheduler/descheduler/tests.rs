//! What a plan betters, and what it leaves alone.

use std::{num::NonZeroU32, sync::Arc};

use proptest::prelude::*;

use super::{Descheduler, Measure, OverUtilization};
use crate::{
    clock::Timestamp,
    scheduler::{
        Ask, Detect, DeviceRequest, DeviceSet, Fragmentation, FullestDevices, NodeId, NodeInfo, Op, PickDevices as _,
        Pipeline, Place, Plan, PodId, PodView, Resources, Scheduler as _, Shape, Snapshot, Trial, TypicalPods, apply,
        commit,
    },
};

/// What is pending is the pipeline's.
mod with_pods_that_wait {
    use crate::scheduler::{Descheduler, OverUtilization, Pipeline};

    crate::scheduler_conformance!(Descheduler::new(
        Pipeline::kubernetes_default(),
        OverUtilization { low: 0.2, high: 0.5 }
    ));
}

fn shape(cpu: i64, devices: DeviceRequest) -> Shape {
    let requests = Resources { cpu, pods: 1, ..Resources::default() };
    Shape { requests, devices, ..Shape::default() }
}

/// Nodes of ten cores and four devices, with pods on them by node.
fn cluster(nodes: usize, pods: &[(usize, Shape)]) -> Snapshot {
    let allocatable = Resources { cpu: 10, pods: 100, ..Resources::default() };
    let node = |at| NodeInfo {
        name: format!("n{at:02}").into(),
        labels: [("zone".into(), format!("z{}", at % 2))].into(),
        allocatable: allocatable.clone(),
        devices: 4,
        ..NodeInfo::default()
    };
    let mut snapshot = Snapshot::new((0..nodes).map(node), []);
    for (node, shape) in pods {
        let (id, node) = (snapshot.add(PodView::new("p", shape.clone())), NodeId((node % nodes) as u32));
        let view = snapshot.node(node);
        if view.allocatable.take(&shape.requests, &view.requested) && shape.devices.fits(&view.devices_left) {
            let devices = FullestDevices.pick(shape, view, 0);
            snapshot.place(id, Place { node, devices });
        }
    }
    snapshot
}

fn plan(descheduler: &mut Descheduler, snapshot: &Snapshot, scope: Option<&[NodeId]>, steps_max: u32) -> Plan {
    let steps_max = NonZeroU32::new(steps_max).expect("more than 0");
    descheduler.plan(&Ask { now: Timestamp::UNIX_EPOCH, seed: 1, snapshot, pending: &[], scope, steps_max })
}

/// The pods that are moved, and where to.
fn moves(plan: &Plan) -> Vec<(u32, u32)> {
    let ops = plan.steps.iter().map(|step| &step.ops[..]);
    let moves = ops.map(|ops| match ops {
        [Op::Evict { pod, preemptor: None }, Op::Place { pod: again, place }] if pod == again => (pod.0, place.node.0),
        _ => panic!("{ops:?} are no move"),
    });
    moves.collect()
}

fn rules() -> Pipeline {
    Pipeline::new("rules").required()
}

/// A node with 9 of 10 cores taken, one with 5, and an empty one: what is above 6 goes to the empty one, the largest first, until that is
/// not nearly empty any more.
#[test]
fn pods_go_from_a_node_that_is_too_full_to_one_that_is_nearly_empty() {
    let none = DeviceRequest::default;
    let pods = [(0, shape(2, none())), (0, shape(3, none())), (0, shape(4, none())), (1, shape(5, none()))];
    let snapshot = cluster(3, &pods);
    let mut descheduler = Descheduler::new(rules(), OverUtilization { low: 0.2, high: 0.6 });
    assert_eq!(moves(&plan(&mut descheduler, &snapshot, None, u32::MAX)), [(1, 2)]);
    let mut tolerant = Descheduler::new(rules(), OverUtilization { low: 0.2, high: 0.9 });
    assert_eq!(moves(&plan(&mut tolerant, &snapshot, None, u32::MAX)), [], "nothing is too full");
    let mut crowded = Descheduler::new(rules(), OverUtilization { low: 0.0, high: 0.6 });
    assert_eq!(moves(&plan(&mut crowded, &snapshot, None, u32::MAX)), [], "no node is empty enough");
}

/// Typical pods need two devices at once, or a half of one. A node with one and a half left strands the half.
#[test]
fn what_is_left_of_devices_is_brought_together() {
    let device = |count, millis| DeviceRequest { count, millis, ..DeviceRequest::default() };
    let typical = TypicalPods::of(&[shape(1, device(2, 1_000))], 1.0);
    let fragmentation = Fragmentation(Arc::new(typical));
    let pods = [(0, shape(1, device(3, 1_000))), (1, shape(1, device(2, 1_000))), (1, shape(1, device(1, 1_000)))];
    let mut snapshot = cluster(2, &pods);
    let mut descheduler = Descheduler::new(rules().devices(fragmentation.clone()), fragmentation);
    assert_eq!(descheduler.sum(snapshot.nodes()), 2.0, "each node has one device left, and two are wanted");
    let plan = plan(&mut descheduler, &snapshot, None, u32::MAX);
    assert_eq!(moves(&plan), [(2, 0)]);
    for step in &plan.steps {
        commit(&mut snapshot, step, Detect::Version).expect("it holds");
    }
    assert_eq!(descheduler.sum(snapshot.nodes()), 0.0);
}

#[test]
fn what_is_to_be_left_alone_is() {
    let busy = |priority| Shape { priority, ..shape(9, DeviceRequest::default()) };
    let moved = |shape: Shape, terminating: bool, scope: Option<&[NodeId]>| {
        let snapshot = cluster(2, &[]);
        let nodes: Vec<NodeInfo> = snapshot.nodes().iter().map(|node| (*node.info).clone()).collect();
        let pods = [shape, self::shape(1, DeviceRequest::default())];
        let views = pods.map(|shape| (PodView { terminating, ..PodView::new("p", shape) }, Some("n00".into())));
        let snapshot = Snapshot::new(nodes, views);
        let mut descheduler = Descheduler::new(rules(), OverUtilization { low: 0.2, high: 0.5 })
            .priority_end(7)
            .moves_max(NonZeroU32::MIN);
        moves(&plan(&mut descheduler, &snapshot, scope, u32::MAX))
    };
    assert_eq!(moved(busy(0), false, None), [(1, 1)], "the large one would be too much there");
    assert_eq!(moved(busy(0), true, None), []);
    assert_eq!(moved(busy(0), false, Some(&[NodeId(0)])), [], "it has nowhere to go");
    assert_eq!(moved(busy(0), false, Some(&[NodeId(1)])), [], "it is none of ours");
}

prop_compose! {
    fn pods()(pods in prop::collection::vec((0..6_usize, 1..6_i64, 0..4_u8, any::<bool>(), 0..3_u8), 0..40)) -> Vec<(usize, Shape)> {
        let pod = |(node, cpu, count, shared, zone)| {
            let millis = if shared { 400 } else { 1_000 };
            let count = if shared { u8::from(count > 0) } else { count };
            let devices = if count == 0 { DeviceRequest::default() } else { DeviceRequest { count, millis, ..DeviceRequest::default() } };
            let mut shape = shape(cpu, devices);
            // Some are bound to their zone.
            if zone == 0 {
                shape.node_selector.insert("zone".into(), format!("z{}", node % 2));
            }
            (node, shape)
        };
        pods.into_iter().map(pod).collect()
    }
}

proptest! {
    #[test]
    fn each_move_betters_the_sum_and_loses_no_pod(
        pods in pods(), nodes in (1..4_usize).prop_map(|half| 2 * half), moves_max in 1..6_u32, by_devices: bool, steps_max in 1..400_u32,
    ) {
        let snapshot = cluster(nodes, &pods);
        let typical = TypicalPods::of(pods.iter().map(|(_, shape)| shape), 0.95);
        let fragmentation = Fragmentation(Arc::new(typical));
        let measure: Box<dyn Measure> = if by_devices {
            Box::new(fragmentation.clone())
        } else {
            Box::new(OverUtilization { low: 0.4, high: 0.5 })
        };
        let mut descheduler = Descheduler { measure, ..Descheduler::new(rules(), fragmentation) };
        descheduler.moves_max = moves_max as usize;
        let plan = plan(&mut descheduler, &snapshot, None, steps_max);
        prop_assert!(plan.steps.len() <= moves_max as usize && plan.left.is_empty());
        let mut trial = Trial::new(&snapshot);
        let sum = |trial: &Trial<'_>| snapshot.node_ids().map(|node| descheduler.measure.of(trial.node(node))).sum::<f64>();
        let mut last = sum(&trial);
        for step in &plan.steps {
            prop_assert!(apply(&mut trial, step, Detect::Version).is_ok());
            let now = sum(&trial);
            prop_assert!(now < last, "{now} after {last}");
            last = now;
        }
        let count = |places: Vec<Option<Place>>| places.into_iter().flatten().count();
        let ids = || (0..pods.len() as u32).map(PodId);
        prop_assert_eq!(count(ids().map(|pod| trial.place_of(pod)).collect()), count(ids().map(|pod| snapshot.place_of(pod)).collect()));
        for (pod, node) in moves(&plan) {
            let (view, node) = (snapshot.pod(PodId(pod)), snapshot.node(NodeId(node)));
            prop_assert!(view.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value)));
        }
        let mut moved: Vec<u32> = moves(&plan).iter().map(|(pod, _)| *pod).collect();
        moved.sort_unstable();
        moved.dedup();
        prop_assert_eq!(moved.len(), plan.steps.len(), "each pod is moved once");
    }
}

#[test]
fn a_device_set_goes_with_its_pod() {
    let device = DeviceRequest { count: 2, millis: 1_000, ..DeviceRequest::default() };
    let snapshot = cluster(2, &[(0, shape(4, device)), (0, shape(4, DeviceRequest::default()))]);
    let mut descheduler = Descheduler::new(rules(), OverUtilization { low: 0.2, high: 0.4 });
    let plan = plan(&mut descheduler, &snapshot, None, u32::MAX);
    let Some(Op::Place { place, .. }) = plan.steps.first().and_then(|step| step.ops.last()) else {
        panic!("{plan:?} moves nothing")
    };
    assert_eq!(place.devices, DeviceSet::from_iter([0, 1]));
}
