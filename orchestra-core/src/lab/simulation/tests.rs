//! What must hold of every run, whatever the workload.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    Agent, Arrival, Churn, Decision, Fate, Log, Lost, Micros, Mismatch, Outcome, Record, Sharing, Simulation, Work,
};
use crate::{
    lab::statistics::Summary,
    rng::Entropy,
    scheduler::{
        Commit, Detect, DeviceRequest, FirstFit, LeastAllocated, NodeInfo, Op, Pipeline, PodId, Resources, Shape, Ties,
    },
};

fn node(name: &str, cpu: i64) -> NodeInfo {
    let allocatable = Resources { cpu, memory: 8 << 30, pods: 20, ..Resources::default() };
    NodeInfo { name: name.into(), allocatable, devices: 2, ..NodeInfo::default() }
}

fn work(cpu: i64, seconds: f64) -> Work {
    let requests = Resources { cpu, memory: 64 << 20, pods: 1, ..Resources::default() };
    let shape = Shape { weighed_requests: requests.clone(), requests, ..Shape::default() };
    Work::new(shape, Some(Micros::from_seconds(seconds)))
}

/// Gangs and single pods, some with devices, on nodes that are too few for them.
fn workload(seed: u64) -> Vec<Arrival> {
    let entropy = Entropy::seeded(seed);
    let below = |bound: u64| entropy.next_u64() % bound;
    let mut at = 0;
    let arrival = |nth: u64| {
        at += below(2_000_000);
        let size = if below(3) == 0 { 1 + below(4) as usize } else { 1 };
        let pod = |_| {
            let mut work = work(200 * (1 + below(8) as i64), below(20_000) as f64 / 1_000.0);
            let mut shape = (*work.shape).clone();
            shape.devices.count = (below(4) == 0).into();
            shape.devices.millis = 400;
            if shape.devices.count == 0 {
                shape.devices = DeviceRequest::default();
            }
            work.shape = shape.into();
            work
        };
        Arrival {
            at: Micros(at),
            name: format!("u{nth}").into(),
            queue: format!("t{}", below(3)).into(),
            priority: below(2) as i32,
            pods: (0..size).map(pod).collect(),
            pods_min: size - below(size as u64) as usize,
        }
    };
    (0..60).map(arrival).collect()
}

fn nodes() -> Vec<NodeInfo> {
    [("a", 1_000), ("b", 2_000), ("c", 2_000), ("d", 4_000)].map(|(name, cpu)| node(name, cpu)).into()
}

/// Two agents that think, and are in each other's way.
fn rivals(detect: Detect, commit: Option<Commit>) -> Vec<Agent> {
    let spread = Pipeline::new("spread").required().score(1, LeastAllocated).ties(Ties::Random);
    [Agent::new(FirstFit::default()), Agent::new(spread)]
        .map(|agent| agent.thinking(Micros::from_seconds(2.0), Micros::from_seconds(0.1)))
        .map(|agent| Agent { detect, commit, units_max: 3, ..agent })
        .into()
}

fn contested(seed: u64, detect: Detect, commit: Option<Commit>, churn: bool) -> Outcome {
    let nodes = nodes();
    let span = Micros::from_seconds;
    let churn = churn.then(|| Churn { up: span(60.0), down: span(10.0), until: span(100.0) });
    let lost = if seed.is_multiple_of(2) { Lost::ArriveAgain } else { Lost::Gone };
    let simulation = Simulation { churn, lost, ..Simulation::of(&nodes) };
    let by_name = |arrival: &Arrival| usize::from(arrival.name.ends_with(['1', '3', '5', '7', '9']));
    simulation.run(workload(seed), rivals(detect, commit), by_name, &Entropy::seeded(seed))
}

/// The same, but that what one sees is offered to it alone.
fn offered(seed: u64, churn: bool) -> Outcome {
    let nodes = nodes();
    let span = Micros::from_seconds;
    let churn = churn.then(|| Churn { up: span(60.0), down: span(10.0), until: span(100.0) });
    let simulation = Simulation { churn, sharing: Sharing::Offers, ..Simulation::of(&nodes) };
    let by_name = |arrival: &Arrival| usize::from(arrival.name.ends_with(['1', '3', '5', '7', '9']));
    simulation.run(workload(seed), rivals(Detect::Fit, None), by_name, &Entropy::seeded(seed))
}

/// Goes through a log with books of its own: the pods that wait or run, each with its cpu and, if it runs, its node.
fn audit(log: &Log, nodes: &[NodeInfo]) {
    let (mut pods, mut taken) = (BTreeMap::<PodId, (i64, Option<u32>)>::new(), vec![0_i64; nodes.len()]);
    let mut last = Micros::ZERO;
    for record in &log.0 {
        let at = match record {
            Record::Came { at, pod, shape, .. } => {
                assert_eq!(pods.insert(*pod, (shape.requests.cpu, None)), None, "an id is one pod's at a time");
                at
            }
            Record::Decided(Decision { at, fate: Fate::Committed, ops, .. }) => {
                for op in ops {
                    let Op::Place { pod, place } = op else { continue };
                    let (cpu, on) = pods.get_mut(pod).expect("a pod that is placed has come, and has not ended");
                    assert_eq!(on.replace(place.node.0), None, "a pod is placed once");
                    let taken = &mut taken[place.node.0 as usize];
                    *taken += *cpu;
                    assert!(*taken <= nodes[place.node.0 as usize].allocatable.cpu, "a node is over its allocatable");
                }
                at
            }
            Record::Decided(Decision { at, .. }) => at,
            Record::Lost { at, pod } => {
                let (cpu, on) = pods.get_mut(pod).expect("a pod that is lost has come");
                taken[on.take().expect("and has had a place") as usize] -= *cpu;
                at
            }
            Record::Gone { at, pod } => {
                let (cpu, on) = pods.remove(pod).expect("a pod ends once");
                on.into_iter().for_each(|node| taken[node as usize] -= cpu);
                at
            }
            Record::Down { at, node } => {
                assert_eq!(taken[node.0 as usize], 0, "a node that is down has nothing on it");
                at
            }
            Record::Up { at, .. } => at,
        };
        assert!(*at >= last, "time goes on");
        last = *at;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Laws 2 and 3 of schedulers, for whole histories; SEMANTICS 49 and 60.
    #[test]
    fn every_history_is_one_of_a_cluster_and_happens_again(
        seed: u64, coarse: bool, churn: bool, commit in prop::option::of(prop_oneof![Just(Commit::Whole), Just(Commit::Each)]),
    ) {
        let detect = if coarse { Detect::Version } else { Detect::Fit };
        let outcome = contested(seed, detect, commit, churn);
        audit(&outcome.log, &nodes());
        prop_assert_eq!(&outcome, &contested(seed, detect, commit, churn));
        let replayed = outcome.log.replay(&nodes()).expect("what happened can happen");
        prop_assert_eq!(replayed.nodes(), &outcome.nodes[..]);
        prop_assert_eq!(outcome.log.divergence(&outcome.log), None);
        prop_assert!(outcome.agents.iter().all(|agent| agent.wasted <= agent.busy && agent.asks <= agent.attempts));
        for unit in &outcome.units {
            prop_assert!(unit.placed.is_none_or(|at| at >= unit.arrived));
            prop_assert!(unit.placed_whole.is_none_or(|at| Some(at) >= unit.placed));
            prop_assert!(unit.ended.is_none_or(|at| Some(at) >= unit.placed_whole));
        }
    }

    /// SEMANTICS 49: nothing that has a place is left waiting for it, when the cell is empty in the end.
    #[test]
    fn what_fits_an_empty_cell_is_not_left_waiting(seed: u64) {
        let outcome = contested(seed, Detect::Version, None, false);
        // Each pod fits the largest node, but not every gang fits the cell.
        for unit in outcome.units.iter().filter(|unit| unit.pods == 1) {
            prop_assert!(unit.ended.is_some(), "{:?}", unit);
        }
        prop_assert!(outcome.nodes.iter().all(|node| node.requested == Resources::default()));
    }

    /// Law 7 of schedulers: who keeps to his offer is in nobody's way; SEMANTICS 49: and nothing is left waiting for an offer.
    #[test]
    fn offers_have_no_conflicts_and_reach_everybody(seed: u64) {
        let outcome = offered(seed, false);
        audit(&outcome.log, &nodes());
        prop_assert!(outcome.agents.iter().all(|agent| agent.conflicts == 0), "{:?}", outcome.agents);
        for unit in outcome.units.iter().filter(|unit| unit.pods == 1) {
            prop_assert!(unit.ended.is_some(), "{:?}", unit);
        }
        let failing = offered(seed, true);
        audit(&failing.log, &nodes());
        prop_assert_eq!(&failing, &offered(seed, true));
        prop_assert!(failing.log.replay(&nodes()).is_ok());
    }

    /// Law 6: who is alone is in nobody's way, however long it thinks.
    #[test]
    fn one_scheduler_has_no_conflicts(seed: u64, coarse: bool, units_max in 1..5_usize) {
        let mut agents = rivals(if coarse { Detect::Version } else { Detect::Fit }, None);
        agents.truncate(1);
        agents[0].units_max = units_max;
        // A pod that ends meanwhile changes its node, which to coarse detection is a conflict.
        let endless = workload(seed).into_iter().map(|mut arrival| {
            arrival.pods.iter_mut().for_each(|work| work.runs = work.runs.filter(|_| !coarse));
            arrival
        });
        let outcome = Simulation::of(&nodes()).run(endless, agents, |_| 0, &Entropy::seeded(seed));
        prop_assert_eq!((outcome.agents[0].conflicts, outcome.agents[0].wasted), (0, Micros::ZERO));
    }
}

/// The mean wait in an M/M/c queue: Erlang's C over what the servers have to spare (Erlang 1917; Kleinrock, Queueing Systems I,
/// section 3.5).
fn erlang_c_wait(servers: u32, arrival_rate: f64, service_rate: f64) -> f64 {
    let load = arrival_rate / service_rate;
    // Erlang's B by its recursion, and C from it.
    let b = (1..=servers).fold(1.0, |b, k| load * b / (f64::from(k) + load * b));
    let occupied = load / f64::from(servers);
    let c = b / (1.0 - occupied * (1.0 - b));
    c / (f64::from(servers) * service_rate - arrival_rate)
}

#[test]
fn waits_of_a_queue_with_several_servers_are_erlangs() {
    const SERVERS: u32 = 4;
    let (arrival_rate, service_rate) = (2.8, 1.0);
    let nodes = [node("a", 1_000), node("b", 3_000)];
    let waits = (0..12).map(|seed| {
        let entropy = Entropy::seeded(seed);
        let draw = |rate: f64| -(1.0 - entropy.next_f64()).ln() / rate;
        let mut at = 0.0;
        let arrivals: Vec<Arrival> = (0..4_000)
            .map(|_| {
                at += draw(arrival_rate);
                Arrival::pod("", Micros::from_seconds(at), work(1_000, draw(service_rate)))
            })
            .collect();
        let agents = vec![Agent::new(FirstFit::default())];
        let outcome = Simulation::of(&nodes).run(arrivals, agents, |_| 0, &entropy);
        // The queue begins empty, which the first of them find better than usual.
        let settled = outcome.units.iter().skip(400);
        Summary::of(settled.map(|unit| unit.placed.expect("all are served").since(unit.arrived).seconds())).mean
    });
    let (waits, expected) = (Summary::of(waits), erlang_c_wait(SERVERS, arrival_rate, service_rate));
    assert!((waits.mean - expected).abs() <= waits.confidence(), "{waits:?}, by Erlang {expected}");
    assert!(waits.confidence() < 0.1 * expected, "{waits:?} tell nothing");
}

#[test]
fn coarse_detection_finds_more_conflicts_than_fine() {
    let conflicts = |detect| -> u64 {
        (0..10).flat_map(|seed| contested(seed, detect, None, false).agents).map(|agent| agent.conflicts).sum()
    };
    let (fine, coarse) = (conflicts(Detect::Fit), conflicts(Detect::Version));
    assert!(0 < fine && fine < coarse, "{fine} by what fits, {coarse} by versions");
}

#[test]
fn pods_of_a_node_that_fails_begin_anew_elsewhere_or_are_gone() {
    let nodes = [node("a", 1_000)];
    let span = Micros::from_seconds;
    let churn = Some(Churn { up: span(10.0), down: span(5.0), until: span(1_000.0) });
    for (lost, ends) in [(Lost::ArriveAgain, true), (Lost::Gone, false)] {
        let simulation = Simulation { churn, lost, ..Simulation::of(&nodes) };
        let arrival = Arrival::pod("p", Micros::ZERO, work(1_000, 30.0));
        let outcome = simulation.run([arrival], vec![Agent::new(FirstFit::default())], |_| 0, &Entropy::seeded(1));
        let unit = &outcome.units[0];
        assert!(unit.lost > 0 && (unit.ended.is_some() == ends), "{unit:?}");
        assert_eq!(outcome.worked, if ends { span(30.0) } else { Micros::ZERO });
        assert!(outcome.lost > Micros::ZERO);
    }
}

#[test]
fn a_run_is_cut_off_when_it_is_told_to_end() {
    let nodes = [node("a", 1_000)];
    let simulation = Simulation { until: Micros(5), ..Simulation::of(&nodes) };
    let arrivals = (0..10).map(|at| Arrival::pod("p", Micros(at), work(100, 60.0)));
    let outcome = simulation.run(arrivals, vec![Agent::new(FirstFit::default())], |_| 0, &Entropy::seeded(1));
    assert_eq!((outcome.units.len(), outcome.end), (6, Micros(5)));
}

#[test]
fn who_is_refused_too_often_is_given_up() {
    let one = [node("a", 1_000)];
    let mut agents = rivals(Detect::Fit, None);
    agents[0].thinking.per_unit = Micros::from_seconds(0.5);
    agents[1].refusals_max = 1;
    // Both plan on the one place there is; the first is faster.
    let arrivals = ["p0", "p1"].map(|name| Arrival::pod(name, Micros::ZERO, work(1_000, 60.0)));
    let by_name = |arrival: &Arrival| usize::from(&*arrival.name == "p1");
    let outcome = Simulation::of(&one).run(arrivals, agents, by_name, &Entropy::seeded(1));
    assert!(outcome.units[0].ended.is_some());
    assert!(outcome.units[1].given_up && outcome.units[1].placed.is_none() && outcome.agents[1].conflicts == 1);
    audit(&outcome.log, &one);
}

#[test]
fn two_logs_part_at_the_first_decision_that_differs() {
    let nodes = nodes();
    let run = |scheduler: Pipeline| {
        Simulation::of(&nodes).run(workload(7), vec![Agent::new(scheduler)], |_| 0, &Entropy::seeded(7)).log
    };
    let first = run(Pipeline::new("first").required());
    let spread = run(Pipeline::new("first").required().score(1, LeastAllocated));
    let parting = first.divergence(&spread).expect("they are not the same");
    let (ours, theirs) = (parting.ours.expect("it goes on"), parting.theirs.expect("so does the other"));
    assert_ne!((ours.unit, &ours.ops), (theirs.unit, &theirs.ops));
    let [ours, theirs] = [&first, &spread].map(|log| log.decisions().nth(parting.common).cloned());
    assert_eq!((ours.as_ref(), theirs.as_ref()), (parting.ours, parting.theirs));
    let cut = Log(first.0[..first.0.len() / 2].to_vec());
    assert_eq!(first.divergence(&cut).expect("one has ended").theirs, None);
}

#[test]
fn a_log_that_was_tampered_with_is_refused() {
    let mut log = contested(4, Detect::Fit, None, false).log;
    let is_placing = |record: &Record| matches!(record, Record::Decided(Decision { fate: Fate::Committed, ops, .. }) if !ops.is_empty());
    let at = log.0.iter().position(is_placing).expect("something is placed");
    log.0.insert(at + 1, log.0[at].clone());
    assert_eq!(log.replay(&nodes()).expect_err("a pod is placed twice"), Mismatch { record: at + 1 });
    assert_eq!(log.replay(&[]).expect_err("there are no nodes"), Mismatch { record: at });
}
