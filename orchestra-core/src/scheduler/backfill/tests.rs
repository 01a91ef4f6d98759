//! What a plan does, and what it says of those who wait; how it goes over time is in the suite.

use std::{num::NonZeroU32, time::Duration};

use super::Backfill;
use crate::{
    clock::Timestamp,
    scheduler::{
        Ask, FirstFit, NodeInfo, Plan, PodId, PodView, Reason, Resources, Scheduler, Shape, Snapshot, Unit, UnitId,
    },
};

mod fcfs {
    crate::scheduler_conformance!(super::Backfill::fcfs(crate::scheduler::FirstFit::default()));
}

mod easy {
    crate::scheduler_conformance!(super::Backfill::easy(crate::scheduler::Pipeline::kubernetes_default()));
}

mod conservative {
    crate::scheduler_conformance!(super::Backfill::conservative(crate::scheduler::FirstFit::default()));
}

const NOW: i64 = 1_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a small number")
}

/// A pod of so many cores that runs so many seconds.
fn pod(cores: i64, runs: Option<u64>) -> PodView {
    let requests = Resources { cpu: cores, pods: 1, ..Resources::default() };
    PodView { runs: runs.map(Duration::from_secs), ..PodView::new("p", Shape { requests, ..Shape::default() }) }
}

/// Nodes of four cores; the pods that run on the first since `NOW - 10`, and those that wait, each a unit.
fn plan(scheduler: &mut dyn Scheduler, nodes: usize, running: &[PodView], waiting: &[PodView]) -> Plan {
    let allocatable = Resources { cpu: 4, pods: 10, ..Resources::default() };
    let node =
        |at: usize| NodeInfo { name: format!("n{at}").into(), allocatable: allocatable.clone(), ..NodeInfo::default() };
    let on_first = running.iter().cloned().map(|pod| (pod, Some("n0".into())));
    let mut snapshot = Snapshot::new((0..nodes).map(node), on_first);
    for pod in (0..).map(PodId).take(running.len()) {
        snapshot.start(pod, at(NOW - 10));
    }
    let unit = |(pod, id): (&PodView, u32)| {
        let pods = vec![snapshot.add(pod.clone())];
        Unit { id: UnitId(id), pods, pods_min: 1, priority: 0, queue: Box::default(), since: at(NOW) }
    };
    let pending: Vec<Unit> = waiting.iter().zip(0..).map(unit).collect();
    let (now, steps_max) = (at(NOW), NonZeroU32::MAX);
    scheduler.plan(&Ask { now, seed: 1, snapshot: &snapshot, pending: &pending, scope: None, steps_max })
}

fn started(plan: &Plan) -> Vec<u32> {
    plan.steps.iter().map(|step| step.unit.0).collect()
}

/// When each unit left over is expected to start, in seconds from now.
fn expected(plan: &Plan) -> Vec<(u32, Option<i64>)> {
    let seconds = |expected: Timestamp| expected.as_second() - NOW;
    plan.left.iter().map(|left| (left.unit.0, left.expected.map(seconds))).collect()
}

#[test]
fn who_is_done_before_the_first_can_start_overtakes_it() {
    // One of two cores for 20 s more; the whole node is waited for.
    let running = [pod(2, Some(30))];
    let waiting = [pod(4, Some(60)), pod(2, Some(21)), pod(2, Some(20)), pod(1, None)];
    let easy = plan(&mut Backfill::easy(FirstFit::default()), 1, &running, &waiting);
    assert_eq!((started(&easy), expected(&easy)), (vec![2], vec![(0, Some(20)), (1, None), (3, None)]));
    let kept = [(vec![Reason::kept()], 1)].into();
    assert_eq!(easy.left[1].why, kept, "it would fit, but not long enough");
    assert_eq!(easy.left[2].why, [(vec![Reason::crowded("Insufficient cpu")], 1)].into());
    let fcfs = plan(&mut Backfill::fcfs(FirstFit::default()), 1, &running, &waiting);
    assert_eq!((started(&fcfs), &fcfs.left[2].why), (vec![], &kept));
    assert_eq!(fcfs.left[0].why, [(vec![Reason::crowded("Insufficient cpu")], 1)].into());
    let conservative = plan(&mut Backfill::conservative(FirstFit::default()), 1, &running, &waiting);
    let all = vec![(0, Some(20)), (1, Some(80)), (3, Some(80))];
    assert_eq!((started(&conservative), expected(&conservative)), (vec![2], all));
}

#[test]
fn what_the_first_leaves_over_is_anybodys() {
    let (running, waiting) = ([pod(4, Some(30))], [pod(3, Some(60)), pod(1, None), pod(1, None)]);
    let plan = plan(&mut Backfill::easy(FirstFit::default()), 1, &running, &waiting);
    assert_eq!((started(&plan), expected(&plan)), (vec![], vec![(0, Some(20)), (1, None), (2, None)]));
    let (running, waiting) = ([pod(3, Some(30))], [pod(2, Some(60)), pod(1, None), pod(1, None)]);
    let plan = self::plan(&mut Backfill::easy(FirstFit::default()), 1, &running, &waiting);
    assert_eq!((started(&plan), expected(&plan)), (vec![1], vec![(0, Some(20)), (2, None)]));
}

#[test]
fn what_is_overdue_is_about_to_end_and_what_has_no_end_never_does() {
    let waiting = [pod(4, Some(60)), pod(1, Some(1))];
    for (runs, first) in [(Some(5), Some(0)), (None, None)] {
        let plan = plan(&mut Backfill::easy(FirstFit::default()), 1, &[pod(2, runs)], &waiting);
        assert_eq!(expected(&plan)[0], (0, first));
        // Who can't be told when to start keeps nothing from others.
        assert_eq!(started(&plan), if first.is_some() { vec![] } else { vec![1] });
    }
}

#[test]
fn as_many_as_are_told_have_room_kept_for_them() {
    let (running, waiting) = ([pod(4, Some(30))], [pod(4, Some(10)), pod(4, Some(10)), pod(4, Some(10))]);
    let kept = |reservations| {
        let plan = plan(&mut Backfill::reserving(FirstFit::default(), reservations), 1, &running, &waiting);
        expected(&plan).into_iter().filter_map(|(_, expected)| expected).collect::<Vec<_>>()
    };
    assert_eq!([0, 1, 2, 9].map(kept), [vec![], vec![20], vec![20, 30], vec![20, 30, 40]]);
}

#[test]
fn another_node_is_taken_if_the_inner_schedulers_first_is_kept() {
    let (running, waiting) =
        ([pod(2, Some(30))], [pod(4, Some(60)), pod(3, None), pod(4, Some(9)), pod(1, None), pod(1, None)]);
    let plan = plan(&mut Backfill::easy(FirstFit::default()), 3, &running, &waiting);
    // The first node has two cores left, which are kept from 20 s on; of the last, one is nobody's.
    assert_eq!((started(&plan), expected(&plan)), (vec![0, 1, 3], vec![(2, Some(20)), (4, None)]));
    let why = [(vec![Reason::kept()], 1), (vec![Reason::crowded("Insufficient cpu")], 2)].into();
    assert_eq!(plan.left[1].why, why);
}

#[test]
fn an_owners_deadline_is_read_as_how_long_a_pod_runs() {
    let pod = serde_json::json!({ "metadata": { "name": "p" }, "spec": { "activeDeadlineSeconds": 90, "containers": [] },
        "status": { "startTime": "1970-01-01T00:16:40Z" } });
    let view = PodView::of(&serde_json::from_value(pod).expect("a pod"));
    assert_eq!((view.runs, view.started), (Some(Duration::from_secs(90)), Some(at(NOW))));
    let without = PodView::of(&Default::default());
    assert_eq!((without.runs, without.started), (None, None));
}
