//! A scheduling policy in another program, here in Python, beside the one of the same rule that comes with the kit.
//!
//!     cargo run --example python_policy
//!
//! gives two simulated clusters the same pods, which share GPUs on 20 nodes for half a day: one asks
//! `examples/python/dot_product.py` for each decision, by a line of JSON, the other decides by itself. It ends with
//! `… decisions, all of them the same`, or says where they part. With `--program FILE` the policy is another one; with `--laws`
//! it is held to the laws of a scheduler first, which starts it 208 times (`8 laws hold for python`). Needs `python3`.

use std::{
    io::BufReader,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::Context as _;
use clap::Parser;
use orchestra_core::{
    lab::{
        comparison, policies,
        simulation::{Agent, Outcome, Simulation},
        workload::{Generator, gpu_nodes},
    },
    rng::Entropy,
    scheduler::{External, Scheduler as _},
};

/// Runs a scheduling policy in Python beside one that is built in.
#[derive(Parser)]
struct Args {
    /// The program of the policy.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/python/dot_product.py"))]
    program: PathBuf,
    /// The policy it is compared with.
    #[arg(long, default_value = "dot-product", value_parser = policies::POLICIES)]
    policy: String,
    /// Hold the policy to the laws of a scheduler on generated clusters first.
    #[arg(long)]
    laws: bool,
}

/// Starts the program as a scheduler: it ends when that is dropped, as its input does.
fn start() -> anyhow::Result<External> {
    let mut child = Command::new("python3")
        .arg(Args::parse().program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("python3 can't be started")?;
    let (input, output) = (child.stdin.take().context("no input")?, child.stdout.take().context("no output")?);
    // What it complains of goes to the terminal. One that hangs is waited for, as a pipe has no bound: Ctrl-C ends both.
    Ok(External::new("python", input, BufReader::new(output)))
}

mod laws {
    orchestra_core::scheduler_conformance!(super::start().expect("it was started before"));
}

fn main() -> anyhow::Result<()> {
    let Args { policy, laws, .. } = Args::parse();
    let python = start()?;
    if laws {
        println!("{} laws hold for {}", laws::all(), python.name());
    }
    let faults = python.faults();
    let theirs = simulate(Agent::new(python));
    if let Some(first) = faults.take().into_iter().next() {
        return Err(first).with_context(|| format!("it was wrong {} times; the first time", faults.count()));
    }
    let built_in = policies::policy(&policy, &Arc::default()).context("--policy: there is none of this name")?;
    let ours = simulate(Agent::new(built_in));
    match comparison::parting(&ours, &theirs) {
        Some(parting) => println!("{policy} and the program: {parting}"),
        None => println!("{} decisions, all of them the same", ours.log.decisions().count()),
    }
    Ok(())
}

/// Half a day of pods that share GPUs.
fn simulate(agent: Agent) -> Outcome {
    let nodes = gpu_nodes(20);
    let arrivals = Generator::gpu_sharing().at_load(1.1, &nodes).days(0.5, 1);
    Simulation::of(&nodes).run(arrivals, vec![agent], |_| 0, &Entropy::seeded(1))
}
