//! Queues over time: who starts when, under each way to overtake.

#![allow(clippy::print_stdout, reason = "what is skipped is said")]

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use orchestra_core::{
    clock::Timestamp,
    lab::simulation::{Agent, Arrival, Micros, Outcome, Simulation, Work},
    rng::Entropy,
    scheduler::{Ask, Backfill, FirstFit, NodeInfo, Plan, Resources, Scheduler, Shape},
};
use proptest::prelude::*;

/// Where traces are kept beside the project.
const TRACES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/traces/batsim-golden");

/// Nodes of so many cores.
fn nodes(count: usize, cores: i64) -> Vec<NodeInfo> {
    let allocatable = Resources { cpu: cores, pods: 100, ..Resources::default() };
    let node =
        |at| NodeInfo { name: format!("n{at:02}").into(), allocatable: allocatable.clone(), ..NodeInfo::default() };
    (0..count).map(node).collect()
}

/// A job of so many pods of so many cores.
fn job(name: String, at: f64, pods: usize, cores: i64, runs: f64) -> Arrival {
    let requests = Resources { cpu: cores, pods: 1, ..Resources::default() };
    let work = Work::new(Shape { requests, ..Shape::default() }, Some(Micros::from_seconds(runs)));
    let (at, pods_min) = (Micros::from_seconds(at), pods);
    Arrival { pods: vec![work.clone(); pods], pods_min, ..Arrival::pod(name, at, work) }
}

fn run(nodes: &[NodeInfo], arrivals: &[Arrival], scheduler: impl Scheduler) -> Outcome {
    let agents = vec![Agent::new(scheduler).whole_queue()];
    Simulation::of(nodes).run(arrivals.iter().cloned(), agents, |_| 0, &Entropy::seeded(1))
}

/// When each unit started, in seconds.
fn starts(outcome: &Outcome) -> Vec<f64> {
    outcome.units.iter().map(|unit| unit.placed.expect("everybody starts one day").seconds()).collect()
}

fn mean_wait(outcome: &Outcome) -> f64 {
    let waits = outcome.units.iter().zip(starts(outcome)).map(|(unit, start)| start - unit.arrived.seconds());
    waits.sum::<f64>() / outcome.units.len() as f64
}

/// The table in the docs of [`Backfill`], by hand.
#[test]
fn five_jobs_start_when_the_docs_say() {
    let jobs = [("a", 2, 10.0), ("b", 3, 10.0), ("c", 4, 10.0), ("d", 1, 30.0), ("e", 1, 10.0)];
    let jobs = jobs.map(|(name, pods, runs)| job(name.into(), 0.0, pods, 1, runs));
    let nodes = nodes(4, 1);
    let first = FirstFit::default;
    let fcfs = run(&nodes, &jobs, Backfill::fcfs(first()));
    assert_eq!(starts(&fcfs), [0.0, 10.0, 20.0, 30.0, 30.0]);
    let easy = run(&nodes, &jobs, Backfill::easy(first()));
    assert_eq!(starts(&easy), [0.0, 10.0, 30.0, 0.0, 0.0]);
    let conservative = run(&nodes, &jobs, Backfill::conservative(first()));
    assert_eq!(starts(&conservative), [0.0, 10.0, 20.0, 30.0, 0.0]);
    assert_eq!([&fcfs, &conservative, &easy].map(mean_wait), [18.0, 12.0, 8.0]);
}

/// Writes down the earliest start that each unit is promised.
#[derive(Debug)]
struct Noting<S> {
    inner: S,
    promised: Arc<Mutex<BTreeMap<u32, Timestamp>>>,
}

impl<S: Scheduler> Scheduler for Noting<S> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn plan(&mut self, ask: &Ask<'_>) -> Plan {
        let plan = self.inner.plan(ask);
        let mut promised = self.promised.lock().unwrap_or_else(PoisonError::into_inner);
        for left in &plan.left {
            if let Some(expected) = left.expected {
                let earliest = promised.entry(left.unit.0).or_insert(expected);
                *earliest = expected.min(*earliest);
            }
        }
        plan
    }
}

/// How many were promised a start, and that nobody started later than that.
fn promises_kept(nodes: &[NodeInfo], jobs: &[Arrival], scheduler: impl Scheduler) -> Result<usize, TestCaseError> {
    let promised = Arc::new(Mutex::new(BTreeMap::new()));
    let outcome = run(nodes, jobs, Noting { inner: scheduler, promised: Arc::clone(&promised) });
    let promised = promised.lock().unwrap_or_else(PoisonError::into_inner);
    let starts = starts(&outcome);
    for (unit, at) in &*promised {
        let start = starts[*unit as usize];
        prop_assert!(start <= at.as_microsecond() as f64 / 1e6, "{unit} at {start}, promised {at}");
    }
    Ok(promised.len())
}

/// Gangs of pods that share nodes of four cores, or of pods that need a whole node of one.
fn jobs(cores_max: i64) -> impl Strategy<Value = Vec<Arrival>> {
    let drawn = (0..60_u32, 1..5_usize, 1..=cores_max, 1..40_u32);
    prop::collection::vec(drawn, 1..30).prop_map(|mut jobs| {
        jobs.sort_by_key(|(at, ..)| *at);
        let named = |(nth, (at, pods, cores, runs)): (usize, (u32, usize, i64, u32))| {
            job(format!("j{nth}"), at.into(), pods, cores, runs.into())
        };
        jobs.into_iter().enumerate().map(named).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn nobody_starts_later_than_he_was_promised(shared in jobs(4), whole in jobs(1)) {
        for (nodes, jobs) in [(nodes(4, 4), &shared), (nodes(4, 1), &whole)] {
            promises_kept(&nodes, jobs, Backfill::easy(FirstFit::default()))?;
            promises_kept(&nodes, jobs, Backfill::reserving(FirstFit::default(), 3))?;
            promises_kept(&nodes, jobs, Backfill::conservative(FirstFit::default()))?;
        }
    }

    /// Who says too much of his time makes others wait, but the first in the queue is never delayed.
    #[test]
    fn the_first_is_not_delayed_by_estimates_that_are_too_long(mut jobs in jobs(4), times in prop::collection::vec(1..6_u64, 30)) {
        for (job, times) in jobs.iter_mut().zip(times) {
            job.pods.iter_mut().for_each(|work| work.estimate = work.runs.map(|runs| runs.times(times)));
        }
        promises_kept(&nodes(4, 4), &jobs, Backfill::easy(FirstFit::default()))?;
    }

    /// On nodes that are taken whole, and with exact estimates: what others leave of a slot is never less than with first come, first
    /// served, by induction over the queue.
    #[test]
    fn with_conservative_backfilling_nobody_starts_later_than_first_come_first_served(jobs in jobs(1)) {
        let nodes = nodes(4, 1);
        let fcfs = starts(&run(&nodes, &jobs, Backfill::fcfs(FirstFit::default())));
        let conservative = starts(&run(&nodes, &jobs, Backfill::conservative(FirstFit::default())));
        prop_assert!(conservative.iter().zip(&fcfs).all(|(one, other)| one <= other), "{conservative:?} {fcfs:?}");
        prop_assert!(fcfs.is_sorted());
    }
}

#[test]
fn who_may_overtake_waits_less_in_the_mean() {
    let entropy = Entropy::seeded(7);
    let below = |bound: u64| entropy.next_u64() % bound;
    let mut at = 0;
    let jobs: Vec<Arrival> = (0..300)
        .map(|nth| {
            at += below(12);
            let pods = if below(4) == 0 { 5 + below(4) } else { 1 + below(3) };
            job(format!("j{nth}"), at as f64, pods as usize, 1, (1 + below(30)) as f64)
        })
        .collect();
    let nodes = nodes(8, 1);
    let fcfs = mean_wait(&run(&nodes, &jobs, Backfill::fcfs(FirstFit::default())));
    let [easy, conservative] = [
        mean_wait(&run(&nodes, &jobs, Backfill::easy(FirstFit::default()))),
        mean_wait(&run(&nodes, &jobs, Backfill::conservative(FirstFit::default()))),
    ];
    assert!(easy < 0.8 * fcfs && conservative < 0.8 * fcfs, "{fcfs} {conservative} {easy}");
}

/// Batsim's results on its own workload of 801 jobs for 32 machines: with EASY every job starts in the same microsecond. Its
/// conservative backfilling remembers reservations from one plan to the next, so that some jobs start at another time.
#[test]
fn jobs_start_when_batsim_starts_them() {
    let folder = Path::new(TRACES);
    if !folder.exists() {
        println!("skipped: there is no trace in {TRACES}");
        return;
    }
    let (golden, jobs) = golden(&folder.join("medium_late_easy_out_jobs.csv"));
    let nodes = nodes(32, 1);
    let easy = run(&nodes, &jobs, Backfill::easy(FirstFit::default()));
    for (unit, golden) in easy.units.iter().zip(golden) {
        assert_eq!(unit.placed, Some(golden), "{unit:?}");
    }
    let (golden, again) = golden_conservative(folder);
    assert_eq!(again, jobs, "both are of one workload");
    let conservative = run(&nodes, &jobs, Backfill::conservative(FirstFit::default()));
    let [easy, ours] = [&easy, &conservative].map(mean_wait);
    let waits = golden.iter().zip(&jobs).map(|(start, job)| start.since(job.at).seconds());
    let golden = waits.sum::<f64>() / jobs.len() as f64;
    println!("mean waits: EASY {easy:.6} s; conservative {ours:.6} s, Batsim's {golden:.6} s");
    assert!(easy < ours && (ours / golden - 1.0).abs() < 0.001, "{ours}, Batsim's {golden}");
}

fn golden_conservative(folder: &Path) -> (Vec<Micros>, Vec<Arrival>) {
    golden(&folder.join("medium_late_conservative_out_jobs.csv"))
}

/// The starts of Batsim's jobs, and the jobs, in the order in which they came.
fn golden(path: &Path) -> (Vec<Micros>, Vec<Arrival>) {
    let text = fs::read_to_string(path).expect("it is in the folder");
    let mut lines = text.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let names = lines.next().expect("a line of names");
    let column = |name: &str| names.iter().position(|other| *other == name).expect("a column of this name");
    let [id, submitted, pods, estimate, started, runs] = [
        "job_id",
        "submission_time",
        "requested_number_of_resources",
        "requested_time",
        "starting_time",
        "execution_time",
    ]
    .map(column);
    let mut jobs: Vec<(Micros, Arrival)> = lines
        .map(|line| {
            let number = |column: usize| line[column].parse::<f64>().expect("a number");
            let mut job = job(line[id].into(), number(submitted), number(pods) as usize, 1, number(runs));
            let estimate = Some(Micros::from_seconds(number(estimate)));
            job.pods.iter_mut().for_each(|work| work.estimate = estimate);
            (Micros::from_seconds(number(started)), job)
        })
        .collect();
    jobs.sort_by_key(|(_, job)| job.at);
    jobs.into_iter().unzip()
}
