//! Who gets what: examples by hand, and what holds of every plan.

use std::{collections::BTreeMap, num::NonZeroU32};

use proptest::prelude::*;

use super::{
    FairShare, Quota,
    quota::{Rule, Standing, Usage},
};
use crate::{
    clock::Timestamp,
    scheduler::{Ask, FirstFit, NodeInfo, Plan, PodView, Reason, Resources, Scheduler, Shape, Snapshot, Unit, UnitId},
};

mod dominant {
    crate::scheduler_conformance!(super::FairShare::dominant(crate::scheduler::Pipeline::kubernetes_default(), []));
}

mod quotas {
    use crate::scheduler::{FairShare, FirstFit, Quota, Resources};

    fn roomy() -> FairShare<FirstFit> {
        let nominal = Resources { cpu: 1 << 40, memory: 1 << 60, pods: 1 << 40, ..Resources::default() };
        FairShare::quotas(FirstFit::default(), [Quota::new("default", nominal)])
    }

    crate::scheduler_conformance!(roomy());
}

fn amounts(cpu: i64, memory: i64) -> Resources {
    Resources { cpu, memory, ..Resources::default() }
}

/// Pods that run, and pods that wait, by queue and what each takes, on one node.
fn case(node: Resources, running: &[(&str, Resources)], waiting: &[(&str, Resources)]) -> (Snapshot, Vec<Unit>) {
    let view = |(queue, requests): &(&str, Resources)| {
        let requests = Resources { pods: 1, ..requests.clone() };
        PodView { queue: (*queue).into(), ..PodView::new("p", Shape { requests, ..Shape::default() }) }
    };
    let allocatable = Resources { pods: 1_000, ..node };
    let node = NodeInfo { name: "n".into(), allocatable, ..NodeInfo::default() };
    let mut snapshot = Snapshot::new([node], running.iter().map(|one| (view(one), Some("n".into()))));
    let unit = |(one, id): (&(&str, Resources), u32)| {
        let (pods, since) = (vec![snapshot.add(view(one))], Timestamp::UNIX_EPOCH);
        Unit { id: UnitId(id), pods, pods_min: 1, priority: 0, queue: one.0.into(), since }
    };
    let units = waiting.iter().zip(0..).map(unit).collect();
    (snapshot, units)
}

fn plan(scheduler: &mut dyn Scheduler, snapshot: &Snapshot, pending: &[Unit]) -> Plan {
    let (now, steps_max) = (Timestamp::UNIX_EPOCH, NonZeroU32::MAX);
    scheduler.plan(&Ask { now, seed: 3, snapshot, pending, scope: None, steps_max })
}

/// How many units of each queue are placed.
fn placed(plan: &Plan, units: &[Unit]) -> BTreeMap<Box<str>, usize> {
    let mut counts = BTreeMap::new();
    for step in &plan.steps {
        *counts.entry(units[step.unit.0 as usize].queue.clone()).or_insert(0) += 1;
    }
    counts
}

/// Table 1 of the paper, section 4.1: in this order, to these shares.
#[test]
fn tasks_are_placed_in_the_order_of_the_papers_example() {
    let waiting: Vec<_> = (0..9).map(|_| ("a", amounts(1, 4))).chain((0..9).map(|_| ("b", amounts(3, 1)))).collect();
    let (mut snapshot, units) = case(amounts(9, 18), &[], &waiting);
    let plan = plan(&mut FairShare::dominant(FirstFit::default(), []), &snapshot, &units);
    let order: Vec<&str> = plan.steps.iter().map(|step| &*units[step.unit.0 as usize].queue).collect();
    assert_eq!(order, ["a", "b", "a", "b", "a"]);
    for step in &plan.steps {
        crate::scheduler::commit(&mut snapshot, step, crate::scheduler::Detect::Version).expect("it holds");
    }
    let usage = Usage::of(&snapshot);
    let share =
        |queue| usage.standing(&Rule::Dominant(BTreeMap::new()), queue, &amounts(0, 0)).expect("no limit").share;
    assert!((share("a") - 12.0 / 18.0).abs() < 1e-12 && (share("b") - 6.0 / 9.0).abs() < 1e-12);
}

#[test]
fn who_weighs_twice_as_much_gets_twice_as_much_and_what_runs_counts() {
    let waiting: Vec<_> = (0..9).flat_map(|_| ["a", "b"].map(|queue| (queue, amounts(1, 0)))).collect();
    let weights = || [("b".into(), 2.0)];
    let (snapshot, units) = case(amounts(9, 9), &[], &waiting);
    let fresh = plan(&mut FairShare::dominant(FirstFit::default(), weights()), &snapshot, &units);
    assert_eq!(placed(&fresh, &units), [("a".into(), 3), ("b".into(), 6)].into());
    let running = [("b", amounts(4, 0))];
    let (snapshot, units) = case(amounts(9, 9), &running, &waiting);
    let after = plan(&mut FairShare::dominant(FirstFit::default(), weights()), &snapshot, &units);
    assert_eq!(placed(&after, &units), [("a".into(), 3), ("b".into(), 2)].into());
}

fn quota(queue: &str, nominal: i64) -> Quota {
    Quota::new(queue, amounts(nominal, 0))
}

/// Kueue's rule by hand: of a cohort's 20, a queue entitled to 5 that would have 9 borrows 4, a fifth of all; for a weight of 2 a
/// tenth.
#[test]
fn a_share_is_what_is_borrowed_of_what_the_cohort_has() {
    let (snapshot, _) = case(amounts(100, 100), &[("a", amounts(7, 3)), ("b", amounts(2, 0))], &[]);
    let usage = Usage::of(&snapshot);
    let quotas = |weight| Rule::Quotas(vec![Quota { weight, ..quota("a", 5) }, quota("b", 15)]);
    let standing = |weight, queue, more| usage.standing(&quotas(weight), queue, &amounts(more, 0));
    assert_eq!(standing(1.0, "a", 2), Some(Standing { borrows: true, share: 0.2 }));
    assert_eq!(standing(2.0, "a", 2), Some(Standing { borrows: true, share: 0.1 }));
    assert_eq!(standing(0.0, "a", 2), Some(Standing { borrows: true, share: f64::INFINITY }));
    assert_eq!(standing(1.0, "b", 2), Some(Standing { borrows: false, share: 0.0 }));
    assert_eq!((standing(1.0, "a", 12), standing(1.0, "c", 1)), (None, None), "more than there is; nobody's queue");
}

#[test]
fn who_keeps_to_his_quota_comes_before_who_borrows() {
    // Of 8, a and b are entitled to 3 each, c to 2; a came first, and wants all.
    let waiting: Vec<_> = (0..8).map(|_| ("a", 1)).chain([("b", 1), ("b", 1), ("c", 1)]).collect();
    let waiting: Vec<_> = waiting.into_iter().map(|(queue, cpu)| (queue, amounts(cpu, 0))).collect();
    let (snapshot, units) = case(amounts(100, 100), &[], &waiting);
    let quotas = [quota("a", 3), quota("b", 3), quota("c", 2)];
    let shared = plan(&mut FairShare::quotas(FirstFit::default(), quotas), &snapshot, &units);
    assert_eq!(placed(&shared, &units), [("a".into(), 5), ("b".into(), 2), ("c".into(), 1)].into());
    let reason = Reason::crowded("node(s) were beyond the quota of the pod's queue");
    assert!(shared.left.len() == 3 && shared.left.iter().all(|left| left.why == [(vec![reason.clone()], 1)].into()));
    let limited = Quota { borrowing_max: Some(amounts(1, 0)), ..quota("a", 3) };
    let quotas = [limited, quota("b", 3), quota("c", 2)];
    let shared = plan(&mut FairShare::quotas(FirstFit::default(), quotas), &snapshot, &units);
    assert_eq!(placed(&shared, &units)["a"], 4, "no more than one beyond his own");
    let alone = Quota { cohort: "other".into(), ..quota("a", 3) };
    let shared = plan(&mut FairShare::quotas(FirstFit::default(), [alone, quota("b", 9)]), &snapshot, &units);
    assert_eq!(placed(&shared, &units), [("a".into(), 3), ("b".into(), 2)].into(), "nobody lends to another cohort");
}

#[test]
fn of_those_who_borrow_the_one_who_has_least_beyond_his_quota_is_next() {
    let waiting: Vec<_> = (0..10).flat_map(|_| [("a", amounts(1, 0)), ("b", amounts(1, 0))]).collect();
    let (snapshot, units) = case(amounts(100, 100), &[], &waiting);
    // Of 12, c leaves 8 unused: for equal weights 4 each, else 2 and 6.
    let counts = |weight| {
        let quotas = [quota("a", 2), Quota { weight, ..quota("b", 2) }, quota("c", 8)];
        placed(&plan(&mut FairShare::quotas(FirstFit::default(), quotas), &snapshot, &units), &units)
    };
    assert_eq!(counts(1.0), [("a".into(), 6), ("b".into(), 6)].into());
    assert_eq!(counts(3.0), [("a".into(), 4), ("b".into(), 8)].into());
}

proptest! {
    #[test]
    fn nobody_has_more_than_he_may_and_nothing_is_left_that_he_may_have(
        waiting in prop::collection::vec((0..3_usize, 1..4_i64), 1..40), nominal in prop::array::uniform3(0..8_i64),
        borrowing_max in prop::option::of(0..5_i64), room in 4..20_i64,
    ) {
        let names = ["a", "b", "c"];
        let waiting: Vec<_> = waiting.into_iter().map(|(queue, cpu)| (names[queue], amounts(cpu, 0))).collect();
        let (mut snapshot, units) = case(amounts(room, 0), &[], &waiting);
        let quotas = names.iter().zip(nominal).map(|(name, nominal)| {
            Quota { borrowing_max: borrowing_max.map(|most| amounts(most, 0)), ..quota(name, nominal) }
        });
        let quotas: Vec<Quota> = quotas.collect();
        let plan = plan(&mut FairShare::quotas(FirstFit::default(), quotas.clone()), &snapshot, &units);
        for step in &plan.steps {
            crate::scheduler::commit(&mut snapshot, step, crate::scheduler::Detect::Version).expect("it holds");
        }
        let taken = |queue: &str| {
            let own = snapshot.placed().filter(|(pod, _)| *snapshot.pod(*pod).queue == *queue);
            own.map(|(pod, _)| snapshot.pod(pod).requests.cpu).sum::<i64>()
        };
        let all: i64 = nominal.iter().sum();
        let sum: i64 = names.iter().map(|name| taken(name)).sum();
        let is_limited = all > 0;
        prop_assert!(!is_limited || sum <= all);
        for quota in quotas.iter().filter(|_| is_limited) {
            prop_assert!(borrowing_max.is_none_or(|most| taken(&quota.queue) <= quota.nominal.cpu + most));
        }
        for left in &plan.left {
            let unit = &units[left.unit.0 as usize];
            let (wants, own) = (snapshot.pod(unit.pods[0]).requests.cpu, names.iter().position(|name| **name == *unit.queue));
            let own = nominal[own.expect("one of them")];
            let fits = sum + wants <= room;
            let may = !is_limited
                || sum + wants <= all && borrowing_max.is_none_or(|most| taken(&unit.queue) + wants <= own + most);
            prop_assert!(!(fits && may), "{left:?}");
        }
    }

    /// What is alike and of equal weight is shared alike, as long as anybody wants it.
    #[test]
    fn shares_of_pods_that_are_alike_differ_by_one_pod_at_most(wanted in prop::array::uniform3(0..12_usize), room in 1..20_i64) {
        let waiting: Vec<_> = ["a", "b", "c"].iter().zip(wanted)
            .flat_map(|(queue, count)| (0..count).map(move |_| (*queue, amounts(1, 0)))).collect();
        let (snapshot, units) = case(amounts(room, 0), &[], &waiting);
        let placed = placed(&plan(&mut FairShare::dominant(FirstFit::default(), []), &snapshot, &units), &units);
        let of = |queue: &str| placed.get(queue).copied().unwrap_or(0);
        let most = ["a", "b", "c"].map(of).into_iter().max().unwrap_or(0);
        for (queue, wanted) in ["a", "b", "c"].iter().zip(wanted) {
            prop_assert!(of(queue) == wanted || of(queue) + 1 >= most, "{placed:?}");
        }
    }
}
