//! The laws of [`Scheduler`] as tests over generated clusters, for every implementation.
//!
//! ```ignore
//! orchestra_core::scheduler_conformance!(MyScheduler::default());
//! ```

#![allow(clippy::missing_panics_doc, reason = "a law panics when it does not hold")]

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    time::Duration,
};

use jiff::SignedDuration;

use super::{
    Ask, Budget, Detect, DeviceRequest, DeviceSet, DevicesFit, DevicesMatch, Filter as _, FullestDevices,
    HostPortsFree, NodeAffinityMatches, NodeId, NodeInfo, NodeSchedulable, NodeView, Op, PickDevices as _, Place, Plan,
    PodId, PodView, Reason, Resources, ResourcesFit, Scheduler, Shape, Snapshot, TaintsTolerated, Trial, Unit, UnitId,
    apply,
};
use crate::{api::selector::LabelSelector, clock::Timestamp, rng::Entropy};

/// How many clusters each law is tried on, unless the variable says otherwise.
const CLUSTERS: u64 = 200;
const CLUSTERS_VARIABLE: &str = "ORCHESTRA_SCHEDULER_CLUSTERS";

/// A generated cluster and what waits in it.
#[derive(Debug)]
pub struct Case {
    snapshot: Snapshot,
    units: Vec<Unit>,
    scope: Option<Vec<NodeId>>,
    seed: u64,
}

impl Case {
    /// The cluster of a seed: up to 12 nodes of three sizes, some cordoned or tainted, some with devices, and up to 30 pods, some in
    /// gangs. Of most pods it is known how long they run.
    #[must_use]
    pub fn generate(seed: u64) -> Self {
        let entropy = Entropy::seeded(seed);
        let below = |bound: u64| entropy.next_u64() % bound;
        let nodes: Vec<NodeInfo> = (0..=below(12)).map(|n| node(n, &below)).collect();
        let running = (0..below(10)).map(|n| {
            let on = nodes[usize::try_from(below(nodes.len() as u64)).expect("small")].name.clone();
            let started = Timestamp::UNIX_EPOCH - SignedDuration::from_secs(below(10).cast_signed());
            let pod = pod(n, priority(&below), &below);
            (PodView { started: Some(started), terminating: below(8) == 0, ..pod }, Some(on))
        });
        let mut pods: Vec<_> = running.collect();
        let (mut units, mut waiting) = (Vec::new(), 1 + below(30));
        while waiting > 0 {
            let size = if below(4) == 0 { (1 + below(4)).min(waiting) } else { 1 };
            waiting -= size;
            let priority = priority(&below);
            let first = pods.len();
            pods.extend((0..size).map(|n| (pod(100 + waiting + n, priority, &below), None)));
            units.push(Unit {
                id: UnitId(u32::try_from(units.len()).expect("small")),
                pods: (first..pods.len()).map(|at| PodId(u32::try_from(at).expect("small"))).collect(),
                pods_min: usize::try_from(size - below(size)).expect("small"),
                priority,
                queue: "default".into(),
                since: Timestamp::UNIX_EPOCH,
            });
        }
        units.sort_by_key(|unit| std::cmp::Reverse(unit.priority));
        let budgets = (0..below(3)).map(|n| budget(n, &below)).collect::<Vec<_>>();
        let mut snapshot = Snapshot::new(nodes, pods).with_budgets(budgets);
        let all = snapshot.nodes().len() as u64;
        for unit in units.iter().filter(|unit| unit.pods.len() == 1) {
            if below(8) == 0 {
                snapshot.nominate(unit.pods[0], NodeId(u32::try_from(below(all)).expect("small")));
            }
        }
        let scope = (below(3) == 0).then(|| snapshot.node_ids().filter(|node| node.0 % 2 == 0).collect());
        Self { snapshot, units, scope, seed }
    }

    fn ask(&self) -> Ask<'_> {
        Ask {
            now: Timestamp::UNIX_EPOCH,
            seed: self.seed,
            snapshot: &self.snapshot,
            pending: &self.units,
            scope: self.scope.as_deref(),
            steps_max: NonZeroU32::MAX,
        }
    }

    /// The cluster once a plan is carried out as far as it is at once: who is to leave is still there, and who waits for that
    /// has its room kept, if it is no less important than a pod of `priority`; but not for the pods of `unit`.
    fn after<'a>(&'a self, plan: &Plan, priority: i32, unit: &Unit) -> Trial<'a> {
        let mut trial = Trial::new(&self.snapshot);
        let mut waiting: BTreeMap<PodId, NodeId> = self.snapshot.nominated().collect();
        for op in plan.steps.iter().flat_map(|step| &step.ops) {
            match op {
                Op::Place { pod, place } => {
                    // Whose room is no longer needed had it kept as long as the others were looked at.
                    waiting.retain(|other, node| other != pod || *node != place.node);
                    trial.place(*pod, *place);
                }
                Op::Nominate { pod, node } => drop(waiting.insert(*pod, *node)),
                Op::Evict { .. } | Op::Probe { .. } => {}
            }
        }
        let kept = waiting.into_iter().filter(|(pod, _)| self.snapshot.pod(*pod).priority >= priority);
        for (pod, node) in kept.filter(|(pod, _)| !unit.pods.contains(pod)) {
            let (view, on) = (self.snapshot.pod(pod), trial.node(node));
            let has_devices = DevicesFit.admit(view, on).is_ok();
            let devices = if has_devices { FullestDevices.pick(view, on, 0) } else { DeviceSet::EMPTY };
            trial.reserve(pod, Place { node, devices }, true);
        }
        trial
    }

    fn placements<'a>(&self, plan: &'a Plan) -> impl Iterator<Item = (PodId, NodeId)> + use<'a> {
        let ops = plan.steps.iter().flat_map(|step| &step.ops);
        ops.filter_map(|op| match op {
            Op::Place { pod, place } => Some((*pod, place.node)),
            _ => None,
        })
    }
}

fn amounts(cpu: u64, memory: u64) -> Resources {
    let amount = |amount: u64| i64::try_from(amount).expect("small");
    Resources { cpu: amount(cpu), memory: amount(memory << 20), pods: 1, ..Resources::default() }
}

fn node(n: u64, below: &dyn Fn(u64) -> u64) -> NodeInfo {
    let size = 1 + below(3);
    let mut allocatable = amounts(1_000 * size, 1_024 * size);
    allocatable.pods = i64::try_from(4 * size).expect("small");
    let mut node =
        NodeInfo { name: format!("n{n:02}").into(), allocatable, unschedulable: below(8) == 0, ..NodeInfo::default() };
    node.labels.insert("zone".into(), format!("z{}", below(2)));
    node.devices = u8::try_from(below(4)).expect("small");
    node.device_model = format!("m{}", below(2)).into();
    if below(6) == 0 {
        node.taints.push(k8s_openapi::api::core::v1::Taint {
            key: "dedicated".into(),
            effect: "NoSchedule".into(),
            ..Default::default()
        });
    }
    node
}

fn priority(below: &dyn Fn(u64) -> u64) -> i32 {
    10 * i32::try_from(below(3)).expect("small")
}

/// A budget for the pods of one of three groups.
fn budget(n: u64, below: &dyn Fn(u64) -> u64) -> Budget {
    let selector = LabelSelector::parse(&format!("group={n}")).expect("a selector");
    Budget {
        namespace: "default".into(),
        selector,
        allowed: i64::try_from(below(2)).expect("small"),
        disrupted: BTreeSet::new(),
    }
}

fn pod(n: u64, priority: i32, below: &dyn Fn(u64) -> u64) -> PodView {
    let requests = amounts(below(8) * 150, below(8) * 128);
    let mut pod = Shape { namespace: "default".into(), requests, priority, ..Shape::default() };
    pod.labels.insert("group".into(), below(3).to_string());
    pod.never_preempts = below(8) == 0;
    if below(4) == 0 {
        pod.node_selector.insert("zone".into(), format!("z{}", below(3)));
    }
    if below(5) == 0 {
        pod.host_ports.insert(("0.0.0.0".into(), "TCP".into(), i32::try_from(8_000 + below(2)).expect("small")));
    }
    match below(8) {
        0 => pod.devices = DeviceRequest { count: 1, millis: 400, ..DeviceRequest::default() },
        1 => pod.devices = DeviceRequest { count: 2, millis: 1_000, models: ["m0".into()].into() },
        _ => {}
    }
    let runs = (below(4) > 0).then(|| Duration::from_secs(60 * (1 + below(5))));
    PodView { uid: format!("u{n}").into(), runs, ..PodView::new(format!("p{n}"), pod) }
}

/// Runs a check on every generated cluster.
fn each(mut check: impl FnMut(&Case)) {
    let clusters =
        std::env::var(CLUSTERS_VARIABLE).map_or(CLUSTERS, |count| count.parse().expect("a number of clusters"));
    (0..clusters).for_each(|seed| check(&Case::generate(seed)));
}

/// Law 1: each pending unit is in exactly one of `steps` and `left`.
pub fn every_unit_is_planned_or_left(mut scheduler: impl Scheduler) {
    each(|case| {
        let plan = scheduler.plan(&case.ask());
        let mut seen: Vec<UnitId> =
            plan.steps.iter().map(|step| step.unit).chain(plan.left.iter().map(|left| left.unit)).collect();
        seen.sort();
        let mut wanted: Vec<UnitId> = case.units.iter().map(|unit| unit.id).collect();
        wanted.sort();
        assert_eq!(seen, wanted, "seed {}", case.seed);
    });
}

/// Law 2: no step is refused by the snapshot it was made from, and every required constraint holds. Who is evicted is less important
/// than who is to have the room, and with all of them gone there is room.
pub fn every_step_is_feasible(mut scheduler: impl Scheduler) {
    each(|case| {
        let plan = scheduler.plan(&case.ask());
        let mut trial = Trial::new(&case.snapshot);
        for step in &plan.steps {
            for op in &step.ops {
                let Op::Place { pod, place } = op else { continue };
                let (pod, node) = (case.snapshot.pod(*pod), case.snapshot.node(place.node));
                NodeSchedulable.admit(pod, node).expect("not cordoned");
                TaintsTolerated.admit(pod, node).expect("tolerated");
                NodeAffinityMatches.admit(pod, node).expect("selected");
                DevicesMatch.admit(pod, node).expect("of a model it can do with");
            }
            for op in &step.ops {
                let Op::Evict { pod, preemptor } = op else { continue };
                let [victim, preemptor] = [*pod, preemptor.unwrap_or(*pod)].map(|pod| case.snapshot.pod(pod).priority);
                assert!(victim < preemptor, "seed {}: {op:?}", case.seed);
            }
            apply(&mut trial, step, Detect::Fit).unwrap_or_else(|refusal| panic!("seed {}: {refusal:?}", case.seed));
        }
        let leave = (0..).map(PodId).zip(case.snapshot.pods()).filter(|(_, pod)| pod.terminating);
        leave.for_each(|(pod, _)| trial.evict(pod));
        for op in plan.steps.iter().flat_map(|step| &step.ops) {
            let Op::Nominate { pod, node } = op else { continue };
            let (pod, on) = (*pod, trial.node(*node));
            let view = case.snapshot.pod(pod);
            let admitted = ResourcesFit.admit(view, on).and_then(|()| HostPortsFree.admit(view, on));
            admitted
                .and_then(|()| DevicesFit.admit(view, on))
                .unwrap_or_else(|why| panic!("seed {}: {why}", case.seed));
            let devices = FullestDevices.pick(view, on, 0);
            trial.place(pod, Place { node: *node, devices });
        }
    });
}

/// Law 3: at least `pods_min` pods of a unit are placed, or none.
pub fn no_gang_is_split(mut scheduler: impl Scheduler) {
    each(|case| {
        let plan = scheduler.plan(&case.ask());
        let placed: BTreeSet<PodId> = case.placements(&plan).map(|(pod, _)| pod).collect();
        for unit in &case.units {
            let count = unit.pods.iter().filter(|pod| placed.contains(pod)).count();
            assert!(count == 0 || count >= unit.pods_min, "seed {}: {count} of {unit:?}", case.seed);
        }
    });
}

/// Law 4: equal asks give equal plans.
pub fn equal_asks_give_equal_plans(mut scheduler: impl Scheduler) {
    each(|case| assert_eq!(scheduler.plan(&case.ask()), scheduler.plan(&case.ask()), "seed {}", case.seed));
}

/// Law 5: a fresh scheduler plans as one that has planned before.
pub fn a_warm_scheduler_plans_as_a_cold_one<S: Scheduler>(fresh: impl Fn() -> S) {
    let mut warm = fresh();
    each(|case| assert_eq!(warm.plan(&case.ask()), fresh().plan(&case.ask()), "seed {}", case.seed));
}

/// Law 6: a plan's earlier steps are no conflicts of its later ones, by versions either.
pub fn own_steps_do_not_conflict(mut scheduler: impl Scheduler) {
    each(|case| {
        let plan = scheduler.plan(&case.ask());
        let mut trial = Trial::new(&case.snapshot);
        for step in &plan.steps {
            apply(&mut trial, step, Detect::Version)
                .unwrap_or_else(|refusal| panic!("seed {}: {refusal:?}", case.seed));
        }
    });
}

/// Law 7: nothing is placed outside the scope.
pub fn the_scope_is_kept(mut scheduler: impl Scheduler) {
    each(|case| {
        let plan = scheduler.plan(&case.ask());
        if let Some(scope) = &case.scope {
            for (pod, node) in case.placements(&plan) {
                assert!(scope.contains(&node), "seed {}: {pod:?} on {node:?}", case.seed);
            }
        }
    });
}

/// Law 8: a unit of one is not left over while a node takes it that isn't kept for another, and its reasons count every node
/// once.
pub fn what_is_left_has_no_place(mut scheduler: impl Scheduler) {
    each(|case| {
        let plan = scheduler.plan(&case.ask());
        let nodes: Vec<NodeId> = case.scope.clone().unwrap_or_else(|| case.snapshot.node_ids().collect());
        for left in &plan.left {
            let unit = case.units.iter().find(|unit| unit.id == left.unit).expect("of this ask");
            assert_eq!(left.why.values().sum::<usize>(), nodes.len(), "seed {}: {left:?}", case.seed);
            let [pod] = unit.pods[..] else { continue };
            let pod = case.snapshot.pod(pod);
            let trial = case.after(&plan, pod.priority, unit);
            let takes = |node: &NodeView| {
                NodeSchedulable
                    .admit(pod, node)
                    .and_then(|()| TaintsTolerated.admit(pod, node))
                    .and_then(|()| NodeAffinityMatches.admit(pod, node))
                    .and_then(|()| DevicesMatch.admit(pod, node))
                    .and_then(|()| DevicesFit.admit(pod, node))
                    .and_then(|()| HostPortsFree.admit(pod, node))
                    .and_then(|()| ResourcesFit.admit(pod, node))
                    .is_ok()
            };
            let takers = nodes.iter().map(|node| trial.node(*node)).filter(|node| takes(node));
            let takers: Vec<&str> = takers.map(|node| &*node.name).collect();
            // What is kept for another unit doesn't count, if that is said of as many nodes.
            let kept = left.why.get(&vec![Reason::kept()]).copied().unwrap_or(0);
            assert!(takers.len() <= kept, "seed {}: {takers:?} takes {}", case.seed, pod.name);
        }
    });
}

/// Makes a test of each law for a scheduler, made anew for each test by an expression.
#[macro_export]
macro_rules! scheduler_conformance {
    ($scheduler:expr) => {
        $crate::scheduler_conformance!(@each $scheduler;
            every_unit_is_planned_or_left
            every_step_is_feasible
            no_gang_is_split
            equal_asks_give_equal_plans
            own_steps_do_not_conflict
            the_scope_is_kept
            what_is_left_has_no_place
        );
    };
    (@each $scheduler:expr; $($law:ident)*) => {
        $(#[test]
        fn $law() {
            $crate::scheduler::conformance::$law($scheduler);
        })*

        #[test]
        fn a_warm_scheduler_plans_as_a_cold_one() {
            $crate::scheduler::conformance::a_warm_scheduler_plans_as_a_cold_one(|| $scheduler);
        }

        /// Runs every law in turn, for programs that are no tests.
        #[allow(dead_code, reason = "used by programs only")]
        pub(crate) fn all() -> usize {
            let laws: &[fn()] = &[
                $(|| $crate::scheduler::conformance::$law($scheduler),)*
                || $crate::scheduler::conformance::a_warm_scheduler_plans_as_a_cold_one(|| $scheduler),
            ];
            laws.iter().for_each(|law| law());
            laws.len()
        }
    };
}

#[cfg(test)]
mod tests {
    mod first_fit {
        use crate::scheduler::FirstFit;

        crate::scheduler_conformance!(FirstFit::default());
    }

    mod kubernetes_default {
        use crate::scheduler::Pipeline;

        crate::scheduler_conformance!(Pipeline::kubernetes_default());
    }

    /// The suite is no suite if it accepts these.
    mod faults {
        use crate::scheduler::{Ask, FirstFit, Op, Plan, Scheduler, conformance};

        /// A scheduler that spoils the plans of a good one.
        #[derive(Debug)]
        struct Faulty(FirstFit, fn(&Ask<'_>, &mut Plan));

        impl Scheduler for Faulty {
            fn name(&self) -> &str {
                "faulty"
            }

            fn plan(&mut self, ask: &Ask<'_>) -> Plan {
                let mut plan = self.0.plan(ask);
                (self.1)(ask, &mut plan);
                plan
            }
        }

        fn faulty(spoil: fn(&Ask<'_>, &mut Plan)) -> Faulty {
            Faulty(FirstFit::default(), spoil)
        }

        #[test]
        #[should_panic(expected = "seed")]
        fn a_lost_unit_is_noticed() {
            conformance::every_unit_is_planned_or_left(faulty(|_, plan| drop(plan.left.pop())));
        }

        #[test]
        #[should_panic]
        fn a_node_over_its_allocatable_is_noticed() {
            conformance::every_step_is_feasible(faulty(|_, plan| {
                for op in plan.steps.iter_mut().flat_map(|step| &mut step.ops) {
                    if let Op::Place { place, .. } = op {
                        place.node.0 = 0;
                    }
                }
            }));
        }

        #[test]
        #[should_panic(expected = "seed")]
        fn a_split_gang_is_noticed() {
            conformance::no_gang_is_split(faulty(|_, plan| {
                for step in &mut plan.steps {
                    step.ops.pop();
                }
            }));
        }

        #[test]
        #[should_panic(expected = "seed")]
        fn a_step_outside_the_scope_is_noticed() {
            conformance::the_scope_is_kept(faulty(|ask, plan| {
                *plan = FirstFit::default().plan(&Ask { scope: None, ..ask.clone() });
            }));
        }

        #[test]
        #[should_panic(expected = "seed")]
        fn a_dishonest_reason_is_noticed() {
            conformance::what_is_left_has_no_place(faulty(|_, plan| {
                plan.left.iter_mut().for_each(|left| left.why.values_mut().for_each(|count| *count += 1));
            }));
        }

        #[test]
        #[should_panic(expected = "Changed")]
        fn a_step_that_conflicts_with_an_earlier_one_is_noticed() {
            // As if each step had been planned without the ones before it.
            conformance::own_steps_do_not_conflict(faulty(|ask, plan| {
                for (node, version) in plan.steps.iter_mut().flat_map(|step| &mut step.reads) {
                    *version = ask.snapshot.node(*node).version;
                }
            }));
        }

        #[test]
        #[should_panic(expected = "takes")]
        fn a_unit_left_over_although_a_node_takes_it_is_noticed() {
            conformance::what_is_left_has_no_place(faulty(|ask, plan| {
                let nodes = ask.scope.map_or(ask.snapshot.nodes().len(), <[_]>::len);
                let single = |step: &crate::scheduler::Step| step.ops.len() == 1;
                if let Some(step) = plan.steps.pop_if(|step| single(step)) {
                    let why = [(vec![crate::scheduler::Reason::fixed("no wish to")], nodes)].into();
                    plan.left.push(crate::scheduler::Left { unit: step.unit, why, expected: None });
                }
            }));
        }

        #[test]
        #[should_panic(expected = "seed")]
        fn a_unit_answered_twice_is_noticed() {
            conformance::every_unit_is_planned_or_left(faulty(|_, plan| {
                if let Some(step) = plan.steps.last() {
                    let why = Default::default();
                    let left = crate::scheduler::Left { unit: step.unit, why, expected: None };
                    plan.left.push(left);
                }
            }));
        }

        /// Answers differently the second time.
        #[derive(Debug, Default)]
        struct Moody(FirstFit, bool);

        impl Scheduler for Moody {
            fn name(&self) -> &str {
                "moody"
            }

            fn plan(&mut self, ask: &Ask<'_>) -> Plan {
                self.1 = !self.1;
                if self.1 { self.0.plan(ask) } else { Plan::default() }
            }
        }

        #[test]
        #[should_panic(expected = "seed")]
        fn two_answers_to_one_ask_are_noticed() {
            conformance::equal_asks_give_equal_plans(Moody::default());
        }

        #[test]
        #[should_panic(expected = "seed")]
        fn memory_that_shows_is_noticed() {
            conformance::a_warm_scheduler_plans_as_a_cold_one(Moody::default);
        }
    }
}
