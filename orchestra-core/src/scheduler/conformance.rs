//! The laws of [`Scheduler`] as tests over generated clusters, for every implementation.
//!
//! ```ignore
//! orchestra_core::scheduler_conformance!(MyScheduler::default());
//! ```

#![allow(clippy::missing_panics_doc, reason = "a law panics when it does not hold")]

use std::{collections::BTreeSet, num::NonZeroU32};

use super::{
    Ask, Detect, DeviceRequest, DevicesFit, DevicesMatch, Filter as _, HostPortsFree, NodeAffinityMatches, NodeId,
    NodeInfo, NodeSchedulable, Op, Plan, PodId, PodView, Resources, ResourcesFit, Scheduler, Shape, Snapshot,
    TaintsTolerated, Trial, Unit, UnitId, apply,
};
use crate::{clock::Timestamp, rng::Entropy};

/// How many clusters each law is tried on.
const CLUSTERS: u64 = 200;

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
    /// gangs.
    #[must_use]
    pub fn generate(seed: u64) -> Self {
        let entropy = Entropy::seeded(seed);
        let below = |bound: u64| entropy.next_u64() % bound;
        let nodes: Vec<NodeInfo> = (0..=below(12)).map(|n| node(n, &below)).collect();
        let running = (0..below(10)).map(|n| {
            (pod(n, &below), Some(nodes[usize::try_from(below(nodes.len() as u64)).expect("small")].name.clone()))
        });
        let mut pods: Vec<_> = running.collect();
        let first_waiting = pods.len();
        pods.extend((100..=100 + below(30)).map(|n| (pod(n, &below), None)));
        let mut units = Vec::new();
        let mut waiting = (first_waiting..pods.len()).map(|at| PodId(u32::try_from(at).expect("small"))).peekable();
        while waiting.peek().is_some() {
            let size = if below(4) == 0 { 1 + usize::try_from(below(4)).expect("small") } else { 1 };
            let members: Vec<_> = waiting.by_ref().take(size).collect();
            let pods_min = members.len() - usize::try_from(below(members.len() as u64)).expect("small");
            units.push(Unit {
                id: UnitId(u32::try_from(units.len()).expect("small")),
                pods: members,
                pods_min,
                priority: 0,
                queue: "default".into(),
                since: Timestamp::UNIX_EPOCH,
            });
        }
        let snapshot = Snapshot::new(nodes, pods);
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

fn pod(n: u64, below: &dyn Fn(u64) -> u64) -> PodView {
    let mut pod =
        Shape { namespace: "default".into(), requests: amounts(below(8) * 150, below(8) * 128), ..Shape::default() };
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
    PodView { uid: format!("u{n}").into(), ..PodView::new(format!("p{n}"), pod) }
}

/// Runs a check on every generated cluster.
fn each(mut check: impl FnMut(&Case)) {
    (0..CLUSTERS).for_each(|seed| check(&Case::generate(seed)));
}

/// Law 1: each pending unit is in exactly one of `steps` and `left`.
pub fn every_unit_is_planned_or_left(mut scheduler: impl Scheduler) {
    each(|case| {
        let plan = scheduler.plan(&case.ask());
        let mut seen: Vec<UnitId> =
            plan.steps.iter().map(|step| step.unit).chain(plan.left.iter().map(|left| left.unit)).collect();
        seen.sort();
        let wanted: Vec<UnitId> = case.units.iter().map(|unit| unit.id).collect();
        assert_eq!(seen, wanted, "seed {}", case.seed);
    });
}

/// Law 2: no step is refused by the snapshot it was made from, and every required constraint holds.
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
            apply(&mut trial, step, Detect::Fit).unwrap_or_else(|refusal| panic!("seed {}: {refusal:?}", case.seed));
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

/// Law 8: a unit of one is not left over while a node takes it, and its reasons count every node once.
pub fn what_is_left_has_no_place(mut scheduler: impl Scheduler) {
    each(|case| {
        let plan = scheduler.plan(&case.ask());
        let mut trial = Trial::new(&case.snapshot);
        for step in &plan.steps {
            apply(&mut trial, step, Detect::Fit).unwrap_or_else(|refusal| panic!("seed {}: {refusal:?}", case.seed));
        }
        let nodes: Vec<NodeId> = case.scope.clone().unwrap_or_else(|| case.snapshot.node_ids().collect());
        for left in &plan.left {
            let unit = case.units.iter().find(|unit| unit.id == left.unit).expect("of this ask");
            assert_eq!(left.why.values().sum::<usize>(), nodes.len(), "seed {}: {left:?}", case.seed);
            let [pod] = unit.pods[..] else { continue };
            let pod = case.snapshot.pod(pod);
            for &node in &nodes {
                let node = trial.node(node);
                let refused = NodeSchedulable
                    .admit(pod, node)
                    .and_then(|()| TaintsTolerated.admit(pod, node))
                    .and_then(|()| NodeAffinityMatches.admit(pod, node))
                    .and_then(|()| DevicesMatch.admit(pod, node))
                    .and_then(|()| DevicesFit.admit(pod, node))
                    .and_then(|()| HostPortsFree.admit(pod, node))
                    .and_then(|()| ResourcesFit.admit(pod, node));
                assert!(refused.is_err(), "seed {}: {} takes {}", case.seed, node.name, pod.name);
            }
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
                    plan.left.push(crate::scheduler::Left { unit: step.unit, why });
                }
            }));
        }

        #[test]
        #[should_panic(expected = "seed")]
        fn a_unit_answered_twice_is_noticed() {
            conformance::every_unit_is_planned_or_left(faulty(|_, plan| {
                if let Some(step) = plan.steps.last() {
                    let left = crate::scheduler::Left { unit: step.unit, why: Default::default() };
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
