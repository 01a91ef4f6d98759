//! Who has to leave for whom, and what is kept until they have.

use std::{cmp::Reverse, collections::BTreeSet, num::NonZeroU32, sync::Arc};

use jiff::SignedDuration;
use proptest::prelude::*;

use super::Pipeline;
use crate::{
    api::selector::LabelSelector,
    clock::Timestamp,
    scheduler::{
        Ask, Budget, Detect, NodeId, NodeInfo, Op, Plan, PodId, PodView, Resources, ResourcesFit, Scheduler as _,
        Shape, Snapshot, Unit, UnitId, commit,
    },
};

fn pipeline() -> Pipeline {
    Pipeline::new("preempting").required().preempting()
}

fn nodes(cpus: &[i64]) -> Vec<NodeInfo> {
    let node = |(at, cpu): (usize, &i64)| {
        let allocatable = Resources { cpu: *cpu, pods: 100, ..Resources::default() };
        NodeInfo { name: format!("n{at}").into(), allocatable, ..NodeInfo::default() }
    };
    cpus.iter().enumerate().map(node).collect()
}

fn pod(priority: i32, cpu: i64) -> PodView {
    let requests = Resources { cpu, pods: 1, ..Resources::default() };
    let labels = [("priority".into(), priority.to_string())].into();
    PodView::new(format!("p{priority}"), Shape { priority, requests, labels, ..Shape::default() })
}

/// Nodes with 1,000 thousandths of a core each, and pods that fill them: priority, cpu, node.
fn crowded(count: usize, running: &[(i32, i64, u32)]) -> Snapshot {
    let mut snapshot = Snapshot::new(nodes(&vec![1_000; count]), []);
    for (priority, cpu, node) in running {
        let pod = snapshot.add(pod(*priority, *cpu));
        snapshot.place(pod, NodeId(*node).into());
    }
    snapshot
}

fn unit(snapshot: &Snapshot, id: u32, pods: &[PodId], pods_min: usize) -> Unit {
    let priority = snapshot.pod(pods[0]).priority;
    let since = Timestamp::UNIX_EPOCH;
    Unit { id: UnitId(id), pods: pods.to_vec(), pods_min, priority, queue: Box::default(), since }
}

fn plan(snapshot: &Snapshot, pending: &[Unit]) -> Plan {
    plan_by(&mut pipeline(), snapshot, pending)
}

fn plan_by(pipeline: &mut Pipeline, snapshot: &Snapshot, pending: &[Unit]) -> Plan {
    let (now, steps_max) = (Timestamp::UNIX_EPOCH, NonZeroU32::MAX);
    pipeline.plan(&Ask { now, seed: 1, snapshot, pending, scope: None, steps_max })
}

/// The pods that a plan evicts, and the nodes that it nominates pods to.
fn outcome(plan: &Plan) -> (Vec<u32>, Vec<u32>) {
    let ops = || plan.steps.iter().flat_map(|step| &step.ops);
    let evicted = ops().filter_map(|op| if let Op::Evict { pod, .. } = op { Some(pod.0) } else { None });
    let nominated = ops().filter_map(|op| if let Op::Nominate { node, .. } = op { Some(node.0) } else { None });
    (evicted.collect(), nominated.collect())
}

/// What a pod of a priority and a size makes of the cluster, alone.
fn alone(snapshot: &mut Snapshot, waiting: PodView) -> (Vec<u32>, Vec<u32>) {
    let pod = snapshot.add(waiting);
    outcome(&plan(snapshot, &[unit(snapshot, 0, &[pod], 1)]))
}

#[test]
fn those_leave_who_are_least_important() {
    let mut snapshot = crowded(3, &[(5, 1_000, 0), (3, 1_000, 1), (4, 1_000, 2)]);
    assert_eq!(alone(&mut snapshot, pod(10, 600)), (vec![1], vec![1]));
}

#[test]
fn of_equal_priorities_fewer_leave_and_those_that_have_run_for_the_shortest_time() {
    let mut snapshot = crowded(2, &[(1, 500, 0), (1, 500, 0), (1, 1_000, 1)]);
    assert_eq!(alone(&mut snapshot, pod(10, 600)), (vec![2], vec![1]));
    let started = |seconds| Some(Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds));
    let mut snapshot = Snapshot::new(nodes(&[1_000, 1_000]), []);
    for (node, seconds) in [(0, 10), (1, 20)] {
        let pod = snapshot.add(PodView { started: started(seconds), ..pod(1, 1_000) });
        snapshot.place(pod, NodeId(node).into());
    }
    assert_eq!(alone(&mut snapshot, pod(10, 600)), (vec![1], vec![1]));
}

#[test]
fn who_need_not_leave_is_reprieved_the_most_important_first() {
    let mut snapshot = crowded(1, &[(1, 300, 0), (2, 300, 0), (3, 300, 0)]);
    assert_eq!(alone(&mut snapshot, pod(10, 500)), (vec![1, 0], vec![0]));
    // The other way round: what is large enough alone leaves alone.
    let mut snapshot = crowded(1, &[(1, 600, 0), (2, 200, 0), (3, 200, 0)]);
    assert_eq!(alone(&mut snapshot, pod(10, 500)), (vec![0], vec![0]));
}

#[test]
fn a_plan_that_comes_to_nothing_leaves_no_cost_behind() {
    let mut snapshot = crowded(2, &[(1, 500, 0), (1, 500, 0), (1, 1_000, 1)]);
    let mut choosy = pod(5, 600);
    Arc::make_mut(&mut choosy.shape).node_name = Some("n0".into());
    let (choosy, other) = (snapshot.add(choosy), snapshot.add(pod(10, 600)));
    let units = [unit(&snapshot, 0, &[choosy], 1), unit(&snapshot, 1, &[other], 1)];
    let mut pipeline = pipeline();
    // Where two are to leave for another pod anyway, nobody has to for this one.
    assert_eq!(outcome(&plan_by(&mut pipeline, &snapshot, &units)), (vec![0, 1], vec![0, 0]));
    assert_eq!(outcome(&plan_by(&mut pipeline, &snapshot, &units[1..])), (vec![2], vec![1]));
}

#[test]
fn budgets_count_for_more_than_importance() {
    let guarded = |allowed| Budget {
        namespace: Box::default(),
        selector: LabelSelector::parse("priority=3").expect("a selector"),
        allowed,
        disrupted: BTreeSet::new(),
    };
    let running = [(5, 1_000, 0), (3, 1_000, 1)];
    let mut snapshot = crowded(2, &running).with_budgets([guarded(0)]);
    assert_eq!(alone(&mut snapshot, pod(10, 600)), (vec![0], vec![0]));
    let mut snapshot = crowded(2, &running).with_budgets([guarded(1)]);
    assert_eq!(alone(&mut snapshot, pod(10, 600)), (vec![1], vec![1]));
    // On one node, too: who is guarded is reprieved first.
    let mut snapshot = crowded(1, &[(5, 500, 0), (3, 500, 0)]).with_budgets([guarded(0)]);
    assert_eq!(alone(&mut snapshot, pod(10, 500)), (vec![0], vec![0]));
    // If it must be, a budget is violated; whose disruption is counted already violates none.
    let mut snapshot = crowded(1, &[(3, 1_000, 0)]).with_budgets([guarded(0)]);
    assert_eq!(alone(&mut snapshot, pod(10, 500)), (vec![0], vec![0]));
    let counted = Budget { disrupted: ["p3".into()].into(), ..guarded(0) };
    let mut snapshot = crowded(2, &running).with_budgets([counted]);
    assert_eq!(alone(&mut snapshot, pod(10, 600)), (vec![1], vec![1]));
}

#[test]
fn a_pod_that_never_preempts_waits_and_so_does_one_that_nobodys_leaving_would_help() {
    let mut snapshot = crowded(1, &[(1, 1_000, 0)]);
    let shape = |shape: Shape| PodView::new("p", Shape { priority: 10, ..shape });
    let modest = shape(Shape { never_preempts: true, ..(*pod(10, 500).shape).clone() });
    assert_eq!(alone(&mut snapshot, modest), (vec![], vec![]));
    assert_eq!(alone(&mut snapshot, pod(10, 2_000)), (vec![], vec![]));
    let mut elsewhere = (*pod(10, 500).shape).clone();
    elsewhere.node_selector.insert("disk".into(), "ssd".into());
    assert_eq!(alone(&mut snapshot, shape(elsewhere)), (vec![], vec![]));
    assert_eq!(alone(&mut snapshot, pod(1, 500)), (vec![], vec![]), "equals don't displace each other");
}

/// Two phases: the room is kept for the pod until its victims have left, but not from who is more important.
#[test]
fn room_is_kept_for_who_waits_for_it() {
    let mut snapshot = crowded(1, &[(1, 1_000, 0)]);
    let [first, peer, better] =
        [(10, 600), (10, 600), (20, 600)].map(|(priority, cpu)| snapshot.add(pod(priority, cpu)));
    let [first, peer, better] = [(0, first), (1, peer), (2, better)].map(|(id, pod)| unit(&snapshot, id, &[pod], 1));
    let steps = plan(&snapshot, std::slice::from_ref(&first)).steps;
    assert_eq!(commit(&mut snapshot, &steps[0], Detect::Version).expect("nothing has changed").len(), 2);
    assert_eq!(snapshot.nominated().collect::<Vec<_>>(), [(first.pods[0], NodeId(0))]);

    let left = plan(&snapshot, std::slice::from_ref(&peer));
    assert_eq!((left.steps.len(), left.left.len()), (0, 1), "the room is another's");
    let taken = plan(&snapshot, &[better.clone(), first.clone()]);
    let ops = |plan: &Plan| plan.steps.iter().flat_map(|step| step.ops.clone()).collect::<Vec<_>>();
    assert_eq!(ops(&taken), [Op::Place { pod: better.pods[0], place: NodeId(0).into() }]);
    let placed = plan(&snapshot, &[peer, first.clone()]);
    assert_eq!(ops(&placed), [Op::Place { pod: first.pods[0], place: NodeId(0).into() }]);
    commit(&mut snapshot, &placed.steps[0], Detect::Version).expect("nothing has changed");
    assert_eq!(snapshot.nominated().count(), 0);
}

/// Who is on his way out is waited for, and nobody else is sent away.
#[test]
fn who_leaves_anyway_is_waited_for() {
    let mut snapshot = Snapshot::new(nodes(&[1_000, 1_000]), []);
    for (node, terminating) in [(0, false), (1, true)] {
        let pod = snapshot.add(PodView { terminating, ..pod(1, 1_000) });
        snapshot.place(pod, NodeId(node).into());
    }
    assert_eq!(alone(&mut snapshot, pod(10, 600)), (vec![], vec![1]));
    // And two in one plan need two places.
    let mut snapshot = crowded(2, &[(1, 1_000, 0), (1, 1_000, 1)]);
    let two = [0, 1].map(|id| (id, snapshot.add(pod(10, 600))));
    let units = two.map(|(id, pod)| unit(&snapshot, id, &[pod], 1));
    assert_eq!(outcome(&plan(&snapshot, &units)), (vec![0, 1], vec![0, 1]));
}

#[test]
fn a_gang_displaces_as_many_as_it_needs_or_nobody() {
    let running = [(1, 600, 0), (1, 400, 0), (5, 1_000, 1), (20, 1_000, 2)];
    let mut snapshot = crowded(3, &running);
    let gang: Vec<PodId> = (0..2).map(|_| snapshot.add(pod(10, 600))).collect();
    let (victims, places) = outcome(&plan(&snapshot, &[unit(&snapshot, 0, &gang, 2)]));
    assert_eq!((victims, places), (vec![2, 0], vec![0, 1]));
    let gang: Vec<PodId> = (0..3).map(|_| snapshot.add(pod(10, 600))).collect();
    assert_eq!(outcome(&plan(&snapshot, &[unit(&snapshot, 0, &gang, 3)])), (vec![], vec![]));
    assert_eq!(outcome(&plan(&snapshot, &[unit(&snapshot, 0, &gang, 2)])).1.len(), 2);
}

/// The cost of a node by cpu alone, as the rules say it, written down another way.
fn plain_cost(capacity: i64, on: &[(i32, i64)], (priority, cpu): (i32, i64)) -> Option<(i64, i64, usize)> {
    let mut lower: Vec<(i32, i64)> = on.iter().filter(|(other, _)| *other < priority).copied().collect();
    lower.sort_by_key(|(priority, _)| Reverse(*priority));
    let stay: i64 = on.iter().filter(|(other, _)| *other >= priority).map(|(_, cpu)| cpu).sum();
    let mut left = capacity - stay - cpu;
    if left < 0 || lower.is_empty() {
        return None;
    }
    lower.retain(|(_, cpu)| {
        let fits = *cpu <= left;
        left -= if fits { *cpu } else { 0 };
        !fits
    });
    let highest = lower.iter().map(|(priority, _)| i64::from(*priority)).max();
    let sum = lower.iter().map(|(priority, _)| i64::from(*priority) + (1 << 31)).sum();
    Some((highest.unwrap_or(i64::MIN), sum, lower.len()))
}

proptest! {
    #[test]
    fn no_node_would_have_cost_less(
        running in prop::collection::vec((0..4_i32, 1..6_i64, 0..4_u32), 1..24),
        waiting in (1..5_i32, 4..9_i64),
    ) {
        let mut snapshot = Snapshot::new(nodes(&[10, 8, 12, 10]), []);
        let mut on: [Vec<(i32, i64)>; 4] = Default::default();
        for (priority, cpu, node) in running {
            let id = snapshot.add(pod(priority, cpu));
            let fits = super::Filter::admit(&ResourcesFit, snapshot.pod(id), snapshot.node(NodeId(node))).is_ok();
            if fits {
                snapshot.place(id, NodeId(node).into());
                on[node as usize].push((priority, cpu));
            }
        }
        let capacity = [10, 8, 12, 10];
        let free = |at: usize| capacity[at] - on[at].iter().map(|(_, cpu)| cpu).sum::<i64>();
        let id = snapshot.add(pod(waiting.0, waiting.1));
        let plan = plan(&snapshot, &[unit(&snapshot, 0, &[id], 1)]);
        let (victims, nominated) = outcome(&plan);
        if (0..4).any(|at| free(at) >= waiting.1) {
            prop_assert!(victims.is_empty() && nominated.is_empty() && plan.left.is_empty());
            return Ok(());
        }
        let costs: Vec<_> = (0..4).map(|at| plain_cost(capacity[at], &on[at], waiting)).collect();
        let least = costs.iter().flatten().min();
        match nominated[..] {
            [] => prop_assert!(least.is_none() && plan.left.len() == 1),
            [node] => {
                prop_assert_eq!(costs[node as usize].as_ref(), least);
                prop_assert_eq!(victims.len(), least.map_or(0, |(_, _, count)| *count));
            }
            _ => prop_assert!(false, "one pod, one node"),
        }
    }
}
