//! What a batch comes to, against every way there is to place it.

use std::num::NonZeroU32;

use proptest::prelude::*;

use super::MinCostFlow;
use crate::{
    clock::Timestamp,
    scheduler::{
        Ask, Detect, Filter, LeastAllocated, NodeId, NodeInfo, NodeView, Op, Pipeline, Plan, PodId, PodView, Reads,
        Reason, Resources, Scale, Scheduler, Score, Shape, Snapshot, Trial, Unit, UnitId, apply,
    },
};

mod kubernetes_default {
    crate::scheduler_conformance!(super::MinCostFlow::by(crate::scheduler::Pipeline::kubernetes_default()));
}

mod first_fit {
    crate::scheduler_conformance!(super::MinCostFlow::by(crate::scheduler::Pipeline::new("first-fit").required()));
}

/// What a node says that a pod of this namespace would be worth; a node that says nothing doesn't take it.
fn liking(pod: &Shape, node: &NodeView) -> Option<i64> {
    node.labels.get(&*pod.namespace)?.parse().ok()
}

#[derive(Debug)]
struct Liked;

impl Filter for Liked {
    fn name(&self) -> &str {
        "liked"
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }

    fn admit(&self, pod: &Shape, node: &NodeView) -> Result<(), Reason> {
        liking(pod, node).map(|_| ()).ok_or_else(|| Reason::fixed("node(s) were not liked"))
    }
}

impl Score for Liked {
    fn name(&self) -> &str {
        "liked"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        liking(pod, node).unwrap_or(0)
    }

    fn scale(&self) -> Scale {
        Scale::Points
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }
}

fn by_liking() -> Pipeline {
    Pipeline::new("liked").required().filter(Liked).score(1, Liked)
}

/// A cluster of nodes for one pod each, by what they like of each pod; and the pods, each a unit.
fn case(likings: &[Vec<Option<u8>>], pods: usize) -> (Snapshot, Vec<Unit>) {
    let node = |(at, likings): (usize, &Vec<Option<u8>>)| {
        let labels =
            likings.iter().enumerate().filter_map(|(pod, liking)| Some((format!("p{pod}"), (*liking)?.to_string())));
        let allocatable = Resources { pods: 1, ..Resources::default() };
        NodeInfo { name: format!("n{at}").into(), labels: labels.collect(), allocatable, ..NodeInfo::default() }
    };
    let mut snapshot = Snapshot::new(likings.iter().enumerate().map(node), []);
    let unit = |at: u32| {
        let requests = Resources { pods: 1, ..Resources::default() };
        let shape = Shape { namespace: format!("p{at}").into(), requests, ..Shape::default() };
        unit(at, vec![snapshot.add(PodView::new("p", shape))], 1)
    };
    let units = (0..pods as u32).map(unit).collect();
    (snapshot, units)
}

fn unit(id: u32, pods: Vec<PodId>, pods_min: usize) -> Unit {
    Unit { id: UnitId(id), pods, pods_min, priority: 0, queue: Box::default(), since: Timestamp::UNIX_EPOCH }
}

fn plan(scheduler: &mut dyn Scheduler, snapshot: &Snapshot, pending: &[Unit]) -> Plan {
    let (now, steps_max) = (Timestamp::UNIX_EPOCH, NonZeroU32::MAX);
    scheduler.plan(&Ask { now, seed: 3, snapshot, pending, scope: None, steps_max })
}

fn placements(plan: &Plan) -> Vec<(PodId, NodeId)> {
    let ops = plan.steps.iter().flat_map(|step| &step.ops);
    let placed = ops.filter_map(|op| match op {
        Op::Place { pod, place } => Some((*pod, place.node)),
        _ => None,
    });
    placed.collect()
}

/// How many are placed, and what they are worth together.
fn worth(plan: &Plan, snapshot: &Snapshot) -> (usize, i64) {
    let worth = |(pod, node): (PodId, NodeId)| liking(snapshot.pod(pod), snapshot.node(node)).expect("it is liked");
    let placed = placements(plan);
    (placed.len(), placed.into_iter().map(worth).sum())
}

/// How many can be placed, the first of them whom it can be, and what this is worth at most, by trying every way.
fn best(likings: &[Vec<Option<u8>>], pod: usize, pods: usize, taken: &mut Vec<bool>) -> (usize, Vec<bool>, i64) {
    if pod == pods {
        return (0, Vec::new(), 0);
    }
    let with = |is_placed: bool, (count, mut who, worth): (usize, Vec<bool>, i64), liking: u8| {
        who.insert(0, is_placed);
        (count + usize::from(is_placed), who, worth + i64::from(liking))
    };
    let mut most = with(false, best(likings, pod + 1, pods, taken), 0);
    for node in 0..likings.len() {
        let Some(liking) = likings[node][pod].filter(|_| !taken[node]) else { continue };
        taken[node] = true;
        most = most.max(with(true, best(likings, pod + 1, pods, taken), liking));
        taken[node] = false;
    }
    most
}

/// The first pod likes one node a little better than another, which is the only one that the second can have.
#[test]
fn a_pod_takes_its_second_best_node_for_the_sake_of_another() {
    let (snapshot, units) = case(&[vec![Some(90), Some(50)], vec![Some(80), None]], 2);
    let one_by_one = plan(&mut by_liking(), &snapshot, &units);
    assert_eq!(worth(&one_by_one, &snapshot), (1, 90));
    let flow = plan(&mut MinCostFlow::by(by_liking()), &snapshot, &units);
    assert_eq!(placements(&flow), [(PodId(0), NodeId(1)), (PodId(1), NodeId(0))]);
    assert_eq!(worth(&flow, &snapshot), (2, 130));
}

#[test]
fn what_has_the_higher_priority_or_came_first_is_placed_if_not_all_can_be() {
    let (snapshot, mut units) = case(&[vec![Some(10), Some(90), Some(50)]], 3);
    let placed = |units: &[Unit]| placements(&plan(&mut MinCostFlow::by(by_liking()), &snapshot, units));
    assert_eq!(placed(&units), [(PodId(0), NodeId(0))]);
    units[2].priority = 1;
    units.rotate_right(1);
    assert_eq!(placed(&units), [(PodId(2), NodeId(0))]);
}

fn cores(cpu: i64) -> Shape {
    let requests = Resources { cpu, memory: 1, pods: 1, ..Resources::default() };
    Shape { weighed_requests: requests.clone(), requests, ..Shape::default() }
}

fn shared(nodes: usize) -> Snapshot {
    let allocatable = Resources { cpu: 4, memory: 1 << 40, pods: 10, ..Resources::default() };
    let node = |at| NodeInfo { name: format!("n{at}").into(), allocatable: allocatable.clone(), ..NodeInfo::default() };
    Snapshot::new((0..nodes).map(node), [])
}

#[test]
fn pods_of_one_shape_are_spread_if_that_is_what_scores_like() {
    let mut snapshot = shared(3);
    let units: Vec<Unit> = (0..6).map(|at| unit(at, vec![snapshot.add(PodView::new("p", cores(1)))], 1)).collect();
    let spread = Pipeline::new("spread").required().score(1, LeastAllocated);
    let mut nodes: Vec<u32> =
        placements(&plan(&mut MinCostFlow::by(spread), &snapshot, &units)).iter().map(|(_, node)| node.0).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, [0, 0, 1, 1, 2, 2]);
}

#[test]
fn a_gang_that_is_not_served_whole_takes_nothing_from_others() {
    let mut snapshot = shared(2);
    let mut add =
        |count: usize, cpu| (0..count).map(|_| snapshot.add(PodView::new("p", cores(cpu)))).collect::<Vec<_>>();
    let units = [unit(0, add(3, 3), 3), unit(1, add(2, 2), 2), unit(2, add(1, 4), 1)];
    let plan = plan(&mut MinCostFlow::by(Pipeline::new("p").required()), &snapshot, &units);
    let mut served: Vec<u32> = plan.steps.iter().map(|step| step.unit.0).collect();
    served.sort_unstable();
    assert_eq!(served, [1, 2], "{plan:?}");
}

proptest! {
    #[test]
    fn of_all_ways_to_place_a_batch_it_takes_one_of_the_best(
        likings in prop::collection::vec(prop::collection::vec(prop::option::of(0..100_u8), 5), 1..5), pods in 1..6_usize,
    ) {
        let (snapshot, units) = case(&likings, pods);
        let flow = plan(&mut MinCostFlow::by(by_liking()), &snapshot, &units);
        let (count, who, most) = best(&likings, 0, pods, &mut vec![false; likings.len()]);
        prop_assert_eq!(worth(&flow, &snapshot), (count, most));
        let placed = |id: &u32| flow.steps.iter().any(|step| step.unit.0 == *id);
        prop_assert_eq!((0..pods as u32).map(|id| placed(&id)).collect::<Vec<_>>(), who);
        prop_assert!(count >= plan(&mut by_liking(), &snapshot, &units).steps.len());
    }

    #[test]
    fn several_shapes_on_a_node_never_overfill_it(sizes in prop::collection::vec((1..5_i64, 1..4_usize), 1..12), nodes in 1..5_usize) {
        let mut snapshot = shared(nodes);
        let units: Vec<Unit> = sizes.into_iter().zip(0..).map(|((cpu, count), at)| {
            let pods: Vec<PodId> = (0..count).map(|_| snapshot.add(PodView::new("p", cores(cpu)))).collect();
            unit(at, pods, 1)
        }).collect();
        let plan = plan(&mut MinCostFlow::by(Pipeline::new("p").required()), &snapshot, &units);
        let mut trial = Trial::new(&snapshot);
        for step in &plan.steps {
            prop_assert!(apply(&mut trial, step, Detect::Version).is_ok());
        }
        let free = |node: u32| 4 - trial.node(NodeId(node)).requested.cpu;
        for left in &plan.left {
            let pod = units[left.unit.0 as usize].pods[0];
            prop_assert!((0..nodes as u32).all(|node| free(node) < snapshot.pod(pod).requests.cpu));
        }
    }
}
