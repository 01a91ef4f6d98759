//! What is passed over by bounds is never what a plain look would choose.

use std::{collections::BTreeMap, num::NonZeroU32};

use k8s_openapi::{
    api::core::v1::{
        Affinity, PodAffinity, PodAffinityTerm, PodAntiAffinity, Taint, Toleration, TopologySpreadConstraint,
    },
    apimachinery::pkg::apis::meta::v1::LabelSelector,
};
use proptest::prelude::*;

use super::{
    Demand, Pipeline, Score, Ties,
    block::{Block, Gauge, Size},
};
use crate::{
    clock::Timestamp,
    rng::Entropy,
    scheduler::{
        Ask, BalancedAllocation, Detect, DeviceRequest, LeastAllocated, NodeInfo, NodeView, Plan, PodId, PodView,
        PreferredTaints, Resources, Scheduler as _, Shape, Snapshot, Unit, UnitId, commit,
    },
};

/// Every way in which a pipeline decides by bounds.
fn pipelines() -> [fn() -> Pipeline; 6] {
    [
        || Pipeline::new("first-fit").required(),
        || Pipeline::new("first").required().score(1, LeastAllocated).score(1, BalancedAllocation),
        || Pipeline::new("random").required().score(1, LeastAllocated).score(2, BalancedAllocation).ties(Ties::Random),
        || Pipeline::new("then").required().score(1, BalancedAllocation).then(LeastAllocated),
        || Pipeline::new("taints").required().score(1, LeastAllocated).score(3, PreferredTaints),
        Pipeline::kubernetes_default,
    ]
}

/// A number below a bound.
type Below<'a> = &'a dyn Fn(u64) -> i64;

fn below(entropy: &Entropy) -> impl Fn(u64) -> i64 {
    |bound| i64::try_from(entropy.next_u64() % bound).expect("small")
}

/// A node of one of three sizes, or about so, with taints and devices or none.
fn node(at: usize, hostile: bool, below: Below<'_>) -> NodeInfo {
    let cpu = [4_000, 8_000, 0][usize::try_from(below(if hostile { 3 } else { 2 })).expect("small")];
    let memory = (cpu.max(2_000) << 20) + below(1 << 20);
    let allocatable = Resources { cpu, memory, pods: 8, ..Resources::default() };
    let effect = ["NoSchedule", "PreferNoSchedule"][usize::try_from(below(2)).expect("small")];
    let taint = Taint { key: "odd".into(), effect: effect.into(), ..Taint::default() };
    NodeInfo {
        name: format!("n{at:04}").into(),
        taints: if hostile && below(4) == 0 { vec![taint] } else { Vec::new() },
        allocatable,
        devices: if hostile { u8::try_from(below(3)).expect("small") } else { 0 },
        ..NodeInfo::default()
    }
}

/// A shape like no other, or one of a few.
fn shape(distinct: u64, hostile: bool, below: Below<'_>) -> Shape {
    let (cpu, memory) = (below(distinct) * 1_500 / i64::try_from(distinct).expect("small"), below(distinct) << 20);
    let requests = Resources { cpu, memory, pods: 1, ..Resources::default() };
    let weighed_requests = Resources { cpu: cpu.max(100), memory: memory.max(200 << 20), ..requests.clone() };
    let mut shape = Shape { requests, weighed_requests, ..Shape::default() };
    if hostile && below(3) == 0 {
        shape.tolerations.push(Toleration { operator: Some("Exists".into()), ..Toleration::default() });
    }
    if hostile && below(5) == 0 {
        shape.devices = DeviceRequest { count: 1, millis: 500, ..DeviceRequest::default() };
    }
    if hostile && below(9) == 0 {
        shape.host_ports.insert(("0.0.0.0".into(), "TCP".into(), 80));
    }
    shape
}

fn plan(pipeline: &mut Pipeline, snapshot: &Snapshot, pods: &[PodId], seed: u64) -> Plan {
    let unit = |at: u32, pod: &PodId| Unit {
        id: UnitId(at),
        pods: vec![*pod],
        pods_min: 1,
        priority: 0,
        queue: "default".into(),
        since: Timestamp::UNIX_EPOCH,
    };
    let pending: Vec<Unit> = (0..).zip(pods).map(|(at, pod)| unit(at, pod)).collect();
    let (now, steps_max) = (Timestamp::UNIX_EPOCH, NonZeroU32::MAX);
    pipeline.plan(&Ask { now, seed, snapshot, pending: &pending, scope: None, steps_max })
}

/// A shape that minds where pods of two colors are, by three labels: one is each node's own, as long as the node is not odd.
fn related(below: Below<'_>) -> Shape {
    let mut shape = shape(3, false, below);
    let pick = |from: &[&str]| from[usize::try_from(below(from.len() as u64)).expect("small")].to_owned();
    let color = || BTreeMap::from([("color".to_owned(), pick(&["blue", "green"]))]);
    shape.labels = color();
    let selector = || Some(LabelSelector { match_labels: Some(color()), ..LabelSelector::default() });
    let term =
        || PodAffinityTerm { label_selector: selector(), topology_key: pick(&KEYS), ..PodAffinityTerm::default() };
    let terms = |count: i64| (count > 0).then(|| (0..count).map(|_| term()).collect::<Vec<_>>());
    match below(4) {
        0 => shape.spread.push(TopologySpreadConstraint {
            label_selector: selector(),
            max_skew: i32::try_from(1 + below(2)).expect("small"),
            min_domains: (below(3) == 0).then(|| i32::try_from(1 + below(4)).expect("small")),
            topology_key: pick(&KEYS),
            when_unsatisfiable: "DoNotSchedule".into(),
            ..TopologySpreadConstraint::default()
        }),
        1 => {
            let near = PodAffinity {
                required_during_scheduling_ignored_during_execution: terms(below(3)),
                ..PodAffinity::default()
            };
            shape.affinity = Some(Affinity { pod_affinity: Some(near), ..Affinity::default() });
        }
        2 => {
            let far = PodAntiAffinity {
                required_during_scheduling_ignored_during_execution: terms(1 + below(2)),
                ..PodAntiAffinity::default()
            };
            shape.affinity = Some(Affinity { pod_anti_affinity: Some(far), ..Affinity::default() });
        }
        _ => {}
    }
    shape
}

const KEYS: [&str; 3] = ["host", "zone", "rack"];

/// A node with labels, most of them.
fn labelled(at: usize, below: Below<'_>) -> NodeInfo {
    let mut node = node(at, false, below);
    let name = if below(9) == 0 { "odd".to_owned() } else { node.name.to_string() };
    let labels = [("host", name), ("zone", format!("z{}", at % 3)), ("rack", format!("r{}", at / 4))];
    let kept = labels.into_iter().filter(|_| below(9) > 0);
    node.labels = kept.map(|(key, value)| (key.to_owned(), value)).collect();
    node
}

proptest! {
    /// Pods that mind where others are, of a few shapes, as pods come and leave.
    #[test]
    fn what_is_kept_of_surroundings_is_what_a_fresh_look_finds(
        kind in 0..5_usize,
        nodes in 1..40_usize,
        shapes in 1..5_usize,
        rounds in prop::collection::vec((1..6_usize, 0..5_usize, any::<bool>()), 1..30),
        seed: u64,
    ) {
        let entropy = Entropy::seeded(seed);
        let below = below(&entropy);
        let (mut warm, mut plain) = (pipelines()[kind](), pipelines()[kind]().forgetful());
        let mut snapshot = Snapshot::new((0..nodes).map(|at| labelled(at, &below)), []);
        let shapes: Vec<Shape> = (0..shapes).map(|_| related(&below)).collect();
        let mut running: Vec<PodId> = Vec::new();
        for (come, leave, carried_out) in rounds {
            let one = || usize::try_from(below(shapes.len() as u64)).expect("small");
            let views: Vec<PodView> = (0..come).map(|_| PodView::new("p", shapes[one()].clone())).collect();
            let pods: Vec<PodId> = views.into_iter().map(|view| snapshot.add(view)).collect();
            let found = plan(&mut warm, &snapshot, &pods, seed);
            prop_assert_eq!(&found, &plan(&mut plain, &snapshot, &pods, seed));
            for step in found.steps.iter().filter(|_| carried_out) {
                commit(&mut snapshot, step, Detect::Version).expect("the cluster has not changed since");
            }
            running.extend(pods);
            for _ in 0..leave.min(running.len()) {
                let at = usize::try_from(below(running.len() as u64)).expect("small");
                snapshot.remove(running.swap_remove(at));
            }
        }
    }

    /// Clusters of more than one block, which fill and empty again, for pods of a few shapes or of as many as there are pods.
    #[test]
    fn what_bounds_pass_over_is_never_the_best(
        kind in 0..6_usize,
        nodes in 1..150_usize,
        distinct in prop_oneof![Just(2_u64), Just(6), Just(1_000)],
        hostile: bool,
        rounds in prop::collection::vec((1..12_usize, 0..6_usize, any::<bool>()), 1..25),
        seed: u64,
    ) {
        let entropy = Entropy::seeded(seed);
        let below = below(&entropy);
        let (mut warm, mut plain) = (pipelines()[kind](), pipelines()[kind]().forgetful());
        let mut snapshot = Snapshot::new((0..nodes).map(|at| node(at, hostile, &below)), []);
        let mut running: Vec<PodId> = Vec::new();
        for (come, leave, carried_out) in rounds {
            let view = |_| PodView::new("p", shape(distinct, hostile, &below));
            let pods: Vec<PodId> = (0..come).map(view).map(|view| snapshot.add(view)).collect();
            let found = plan(&mut warm, &snapshot, &pods, seed);
            prop_assert_eq!(&found, &plan(&mut plain, &snapshot, &pods, seed));
            // A plan may come to nothing: then the cluster is as before.
            for step in found.steps.iter().filter(|_| carried_out) {
                commit(&mut snapshot, step, Detect::Version).expect("the cluster has not changed since");
            }
            running.extend(pods);
            for _ in 0..leave.min(running.len()) {
                let at = usize::try_from(below(running.len() as u64)).expect("small");
                snapshot.remove(running.swap_remove(at));
            }
        }
    }

    /// A bound is never below what a node that has room gets, whether it stands for one node or for several.
    #[test]
    fn bounds_are_never_below_what_a_node_gets(
        sizes in prop::collection::vec((0..3_i64, 0..300_i64), 1..20),
        taken in prop::collection::vec((0..9_000_i64, 0..9_000_i64), 20),
        wanted in (0..9_000_i64, 0..9_000_i64),
    ) {
        let amounts = |cpu: i64, memory: i64| Resources { cpu, memory: memory << 20, ..Resources::default() };
        // Of about one size, each a little different.
        let nodes: Vec<NodeView> = sizes.iter().zip(&taken).map(|((cpu, memory), taken)| {
            let allocatable = amounts(8_000 + cpu, 8_000 + memory / 10);
            let taken = amounts(taken.0, taken.1);
            let info = NodeInfo { allocatable, ..NodeInfo::default() };
            NodeView { requested: taken.clone(), weighed_requests: taken, ..NodeView::from(info) }
        }).collect();
        let requests = amounts(wanted.0, wanted.1);
        let pod = Shape { weighed_requests: requests.clone(), requests, ..Shape::default() };
        let size = nodes.iter().map(|node| Size::of(&node.allocatable)).reduce(Size::with).expect("there is one");
        let demand = Demand::of(&pod, size);
        let (mut each, mut all) = (Block::empty(), Block::empty());
        nodes.iter().enumerate().for_each(|(lane, node)| each.set(lane, Gauge::of(node)));
        all.set(0, each.summary());
        for score in [&LeastAllocated as &dyn Score, &BalancedAllocation] {
            let mut bounds = score.bounds(&pod, &demand, &each).expect("it has bounds");
            let mut bound = score.bounds(&pod, &demand, &all).expect("it has bounds");
            each.rule_out(&demand, &mut bounds);
            all.rule_out(&demand, &mut bound);
            for (node, lane) in nodes.iter().zip(bounds) {
                if node.allocatable.take(&pod.requests, &node.requested) {
                    let points = score.score(&pod, node);
                    prop_assert!(points <= lane.into(), "{} gives {points}, not {lane} at most", score.name());
                    prop_assert!(lane <= bound[0]);
                }
            }
        }
    }
}
