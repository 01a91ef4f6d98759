//! What a pipeline remembers makes its plans cheaper, never different.

use std::num::NonZeroU32;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Taint;
use proptest::prelude::*;

use super::{Pipeline, RandomDevices, Scale, Score, Ties};
use crate::{
    clock::Timestamp,
    scheduler::{
        Ask, BalancedAllocation, Detect, DeviceRequest, LeastAllocated, NodeInfo, NodeView, Plan, PodId, PodView,
        PreferredTaints, Resources, Scheduler as _, Shape, Snapshot, Unit, UnitId, commit,
    },
};

/// Likes nodes by what is left, on a scale that needs the other nodes'.
#[derive(Debug)]
struct LeastLeft;

impl Score for LeastLeft {
    fn name(&self) -> &str {
        "least-left"
    }

    fn score(&self, _: &Shape, node: &NodeView) -> i64 {
        node.requested.cpu - node.allocatable.cpu
    }

    fn scale(&self) -> Scale {
        Scale::Span
    }
}

fn pipelines() -> [fn() -> Pipeline; 7] {
    [
        || Pipeline::new("first-fit").required(),
        Pipeline::kubernetes_default,
        || Pipeline::new("span").required().score(3, LeastLeft).score(1, PreferredTaints).ties(Ties::Random),
        || Pipeline::new("then").required().score(1, PreferredTaints).then(LeastAllocated).ties(Ties::Random),
        || Pipeline::new("span, then").required().score(1, LeastLeft).then(BalancedAllocation),
        || Pipeline::new("devices").required().score(1, LeastAllocated).devices(RandomDevices).ties(Ties::Random),
        || Pipeline::new("preempting").required().score(1, LeastAllocated).preempting(),
    ]
}

/// What happens to a cluster between two plans.
#[derive(Clone, Debug)]
enum Event {
    /// A unit of as many pods of one of the shapes comes.
    Come { shape: usize, pods: usize, pods_min: usize },
    /// One of the pods leaves.
    Leave(usize),
    /// One loses its place.
    Evict(usize),
    /// One that has a place begins to run.
    Start(usize, i64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        6 => (0..6_usize, 1..4_usize, 1..4_usize)
            .prop_map(|(shape, pods, pods_min)| Event::Come { shape, pods, pods_min: pods_min.min(pods) }),
        2 => (0..40_usize).prop_map(Event::Leave),
        1 => (0..40_usize).prop_map(Event::Evict),
        1 => (0..40_usize, 0..9_i64).prop_map(|(at, second)| Event::Start(at, second)),
    ]
}

fn node(at: usize) -> NodeInfo {
    let taint = Taint { key: "slow".into(), effect: "PreferNoSchedule".into(), ..Taint::default() };
    NodeInfo {
        name: format!("n{at:02}").into(),
        labels: [("zone".into(), format!("z{}", at % 2))].into(),
        taints: if at % 3 == 1 { vec![taint] } else { Vec::new() },
        allocatable: Resources { cpu: 2_000, memory: 4 << 30, pods: 5, ..Resources::default() },
        devices: u8::try_from(at % 3).expect("small"),
        device_model: if at.is_multiple_of(2) { "a".into() } else { "b".into() },
        ..NodeInfo::default()
    }
}

fn shape(at: usize) -> Shape {
    let requests = Resources {
        cpu: 300 + 200 * i64::try_from(at).expect("small"),
        memory: 1 << 30,
        pods: 1,
        ..Resources::default()
    };
    let priority = i32::try_from(at % 3).expect("small");
    let mut shape = Shape { weighed_requests: requests.clone(), requests, priority, ..Shape::default() };
    match at {
        1 => drop(shape.node_selector.insert("zone".into(), "z0".into())),
        2 => shape.devices = DeviceRequest { count: 1, millis: 400, ..DeviceRequest::default() },
        3 => shape.devices = DeviceRequest { count: 2, millis: 1_000, models: ["a".into()].into() },
        4 => drop(shape.host_ports.insert(("0.0.0.0".into(), "TCP".into(), 80))),
        _ => {}
    }
    shape
}

fn plan(pipeline: &mut Pipeline, snapshot: &Snapshot, pending: &[Unit], seed: u64) -> Plan {
    let (now, steps_max) = (Timestamp::UNIX_EPOCH, NonZeroU32::MAX);
    pipeline.plan(&Ask { now, seed, snapshot, pending, scope: None, steps_max })
}

proptest! {
    #[test]
    fn plans_are_those_of_a_plain_look(
        kind in 0..7_usize,
        nodes in 1..14_usize,
        rounds in prop::collection::vec((prop::collection::vec(event(), 0..4), any::<u64>(), any::<bool>()), 1..14),
    ) {
        let new = pipelines()[kind];
        let (mut warm, mut plain) = (new(), new().forgetful());
        let mut snapshot = Snapshot::new((0..nodes).map(node), []);
        let mut pods: Vec<PodId> = Vec::new();
        for (events, seed, carried_out) in rounds {
            let mut units = Vec::new();
            for event in events {
                match event {
                    Event::Come { shape: at, pods: count, pods_min } => {
                        let id = UnitId(u32::try_from(units.len()).expect("small"));
                        let come: Vec<PodId> = (0..count).map(|_| snapshot.add(PodView::new("p", shape(at)))).collect();
                        pods.extend(&come);
                        let (queue, since) = ("default".into(), Timestamp::UNIX_EPOCH);
                        let priority = shape(at).priority;
                        units.push(Unit { id, pods: come, pods_min, priority, queue, since });
                    }
                    Event::Leave(at) if at < pods.len() => {
                        let pod = pods.swap_remove(at);
                        if units.iter().all(|unit| !unit.pods.contains(&pod)) {
                            snapshot.remove(pod);
                        }
                    }
                    Event::Evict(at) if at < pods.len() => snapshot.evict(pods[at]),
                    Event::Start(at, second) if pods.get(at).is_some_and(|pod| snapshot.place_of(*pod).is_some()) => {
                        snapshot.start(pods[at], Timestamp::UNIX_EPOCH + SignedDuration::from_secs(second));
                    }
                    Event::Leave(_) | Event::Evict(_) | Event::Start(..) => {}
                }
            }
            let plan_of_warm = plan(&mut warm, &snapshot, &units, seed);
            prop_assert_eq!(&plan_of_warm, &plan(&mut plain, &snapshot, &units, seed));
            // A plan may come to nothing: then the cluster is as before.
            for step in plan_of_warm.steps.iter().filter(|_| carried_out) {
                commit(&mut snapshot, step, Detect::Version).expect("the cluster has not changed since");
            }
        }
    }
}
