//! Three ways to schedule one cluster: a monolithic scheduler, offers to two schedulers in turn, and two optimistic ones.
//!
//!     cargo run --release --example three_paradigms -- --out DIR
//!
//! simulates six hours of batch jobs and services on 200 nodes, with three seeds, while a decision on a service takes from 0.1 to
//! 30 seconds: it prints a table, and writes it with pictures to DIR. As Omega's authors found (Schwarzkopf et al., EuroSys
//! 2013, section 4): batch jobs wait behind slow decisions in a monolithic scheduler, and for the offers that a slow one
//! holds; optimistic schedulers don't wait for each other, and pay with conflicts.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use orchestra_core::{
    lab::{
        comparison::{self, Sweep},
        simulation::{Agent, Arrival, Micros, Outcome, Sharing, Simulation},
        workload::{Generator, omega_nodes},
    },
    rng::Entropy,
    scheduler::{Commit, Pipeline, Ties},
};

/// Compares a monolithic scheduler, offers, and optimistic schedulers on one workload.
#[derive(Parser)]
struct Args {
    /// The load, in hundredths of what the nodes have.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    load: u32,
    /// The folder to write the table and the pictures to; made if it is not there.
    #[arg(long)]
    out: Option<PathBuf>,
}

#[derive(Clone, Copy)]
enum Paradigm {
    Monolithic,
    Offers,
    Optimistic,
}

const PARADIGMS: [(&str, Paradigm); 3] =
    [("monolithic", Paradigm::Monolithic), ("offers", Paradigm::Offers), ("optimistic", Paradigm::Optimistic)];

/// Seconds that a decision on a service takes.
const THINKING: [f64; 4] = [0.1, 1.0, 10.0, 30.0];

fn main() -> anyhow::Result<()> {
    let Args { load, out } = Args::parse();
    out.iter().try_for_each(fs::create_dir_all).context("--out: the folder can't be made")?;
    let ways = PARADIGMS.iter().flat_map(|(name, paradigm)| {
        THINKING.map(|seconds| (format!("{name}, {seconds} s").into(), (*paradigm, seconds)))
    });
    let (ways, seeds): (Vec<(Box<str>, _)>, _) = (ways.collect(), [1, 2, 3]);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} runs, {eta} left")?;
    let progress = ProgressBar::new((ways.len() * seeds.len()) as u64).with_style(style);
    let run = |way: &(Paradigm, f64), seed| simulate(way.0, way.1, f64::from(load) / 100.0, seed);
    let rows = comparison::compare(&ways, &seeds, run, || progress.inc(1));
    progress.finish_and_clear();
    print!("{}", comparison::table(&rows));
    println!("\n{:20} {:>19} {:>19}", "MEAN WAIT s", "BATCH", "SERVICE");
    for row in &rows {
        let [batch, service] = ["batch", "service"].map(|queue| row.wait_of(queue));
        let [batch, service] = [batch, service].map(|wait| format!("{:.2} ± {:.2}", wait.mean, wait.confidence()));
        println!("{:20} {batch:>19} {service:>19}", row.name);
    }
    let Some(out) = out else { return Ok(()) };
    fs::write(out.join("paradigms.csv"), comparison::csv(&rows)).context("--out: the table can't be written")?;
    for metric in ["conflict_fraction", "busyness", "wait_mean"] {
        let lines = rows.chunks(THINKING.len()).zip(PARADIGMS);
        let lines: Vec<Sweep<'_>> = lines
            .map(|(rows, (name, _))| Sweep { name: name.into(), rows: THINKING.into_iter().zip(rows).collect() })
            .collect();
        let plot = comparison::sweep("Three paradigms", "decision on a service (s)", metric, &lines);
        fs::write(out.join(format!("paradigms-{metric}.svg")), plot.svg()?).context("--out: can't be written")?;
    }
    println!("paradigms.csv and 3 pictures are in {}", out.display());
    Ok(())
}

/// Six hours of batch jobs and services; each agent places pods on random nodes that fit, as Omega's do.
fn simulate(paradigm: Paradigm, seconds: f64, load: f64, seed: u64) -> Outcome {
    let (nodes, per_task) = (omega_nodes(200), Micros(5_000));
    let agent = |name: &str, seconds| {
        let agent = Agent::new(Pipeline::new(name).required().ties(Ties::Random));
        Agent { commit: Some(Commit::Each), ..agent.thinking(Micros::from_seconds(seconds), per_task) }
    };
    let agents = match paradigm {
        // One way to decide for all: what services take, batch jobs take, too.
        Paradigm::Monolithic => vec![agent("all", seconds)],
        Paradigm::Offers | Paradigm::Optimistic => vec![agent("batch", 0.1), agent("service", seconds)],
    };
    let sharing = if matches!(paradigm, Paradigm::Offers) { Sharing::Offers } else { Sharing::Everything };
    // The workload is the same for all: its draws are its own.
    let arrivals = Generator::omega().at_load(load, &nodes).days(0.25, seed);
    let by_queue = |arrival: &Arrival| usize::from(&*arrival.queue == "service");
    let simulation = Simulation { sharing, ..Simulation::of(&nodes) };
    simulation.run(arrivals, agents, by_queue, &Entropy::seeded(seed))
}
