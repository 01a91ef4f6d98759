//! How far later jobs may overtake in a queue, and what that is worth.
//!
//!     cargo run --release --example backfilling
//!
//! prints when each of five jobs starts on four nodes under three ways to serve a queue, then a table of the mean waits over five
//! seeds of 200 parallel jobs on 32 nodes, whose owners say up to three times too much of how long they run:
//!
//!                   A     B     C     D     E
//!     fcfs          0    10    20    30    30
//!     easy          0    10    30     0     0
//!     conservative  0    10    20    30     0

use orchestra_core::{
    lab::{
        comparison,
        simulation::{Agent, Arrival, Micros, Outcome, Simulation, Work},
    },
    rng::Entropy,
    scheduler::{Backfill, FirstFit, NodeInfo, Resources, Shape},
};

const WAYS: [&str; 3] = ["fcfs", "easy", "conservative"];

fn main() {
    let jobs = [("A", 2, 10.0), ("B", 3, 10.0), ("C", 4, 10.0), ("D", 1, 30.0), ("E", 1, 10.0)];
    let jobs = jobs.map(|(name, nodes, runs)| job(name, 0.0, nodes, runs, 1.0));
    println!("{:12}{}", "", jobs.each_ref().map(|job| format!("{:>6}", job.name)).concat());
    for way in WAYS {
        let outcome = run(way, 4, jobs.to_vec());
        let starts = outcome.units.iter().filter_map(|unit| Some(format!("{:>6}", unit.placed?.seconds())));
        println!("{way:12}{}", starts.collect::<String>());
    }
    let candidates = WAYS.map(|way| (way.into(), way));
    let seeds: Vec<u64> = (1..=5).collect();
    let rows = comparison::compare(&candidates, &seeds, |way, seed| run(way, 32, queue(200, seed)), || ());
    println!("\n{}", comparison::table(&rows));
}

/// Runs jobs on so many nodes, each of which takes one pod.
fn run(way: &str, nodes: usize, jobs: Vec<Arrival>) -> Outcome {
    let allocatable = Resources { cpu: 1_000, pods: 1, ..Resources::default() };
    let node =
        |at| NodeInfo { name: format!("n{at:02}").into(), allocatable: allocatable.clone(), ..NodeInfo::default() };
    let nodes: Vec<NodeInfo> = (0..nodes).map(node).collect();
    let scheduler = match way {
        "fcfs" => Backfill::fcfs(FirstFit::default()),
        "easy" => Backfill::easy(FirstFit::default()),
        _ => Backfill::conservative(FirstFit::default()),
    };
    // Who keeps room for others has to see all that wait.
    let agent = Agent::new(scheduler).whole_queue();
    Simulation::of(&nodes).run(jobs, vec![agent], |_| 0, &Entropy::seeded(1))
}

/// A job that takes so many nodes at once; its owner says that it runs so many times as long as it does.
fn job(name: &str, at: f64, nodes: usize, runs: f64, said: f64) -> Arrival {
    let requests = Resources { cpu: 1_000, pods: 1, ..Resources::default() };
    let work = Work::new(Shape { requests, ..Shape::default() }, Some(Micros::from_seconds(runs)));
    let work = Work { estimate: Some(Micros::from_seconds(runs * said)), ..work };
    Arrival { pods: vec![work.clone(); nodes], pods_min: nodes, ..Arrival::pod(name, Micros::from_seconds(at), work) }
}

/// Jobs of 1, 2, 4 .. 32 nodes and of a minute to an hour, about as many as the nodes can just serve.
fn queue(count: usize, seed: u64) -> Vec<Arrival> {
    let entropy = Entropy::seeded(seed);
    let mut at = 0.0;
    let draw = |_| {
        at -= (1.0 - entropy.next_f64()).ln() * 400.0;
        let nodes = 1 << (entropy.next_u64() % 6);
        let runs = 60.0 * 60.0_f64.powf(entropy.next_f64());
        job("", at, nodes, runs, 1.0 + 2.0 * entropy.next_f64())
    };
    (0..count).map(draw).collect()
}
