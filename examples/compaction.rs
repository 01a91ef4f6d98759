//! How many machines a workload needs (Borg's cell compaction), under five policies, and what it costs to keep tenants apart.
//!
//!     cargo run --release --example compaction -- --out DIR
//!
//! packs pods that share GPUs into ever fewer of 60 machines, eleven times over, and prints how many are needed: the 90th
//! percentile, the least and the most; for all pods together, for each half in a cell of its own, and without sharing of
//! GPUs. The picture goes to DIR.

use std::{fs, path::PathBuf, sync::Arc};

use anyhow::Context as _;
use clap::Parser;
use orchestra_core::{
    lab::{
        compaction::{self, Compacted, Compaction, PENDING_MAX, TRIALS},
        policies,
        workload::{Generator, gpu_nodes},
    },
    scheduler::{DEVICE_MILLIS, NodeInfo, Pipeline, Shape, TypicalPods},
};

const POLICIES: [&str; 5] = ["best-fit", "fragmentation-gradient", "dot-product", "first-fit", "least-allocated"];
/// How many pods there are.
const PODS: usize = 300;

/// How many machines a workload needs.
#[derive(Parser)]
struct Args {
    /// The folder to write the picture to; made if it is not there.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let nodes = gpu_nodes(60);
    let arrivals = Generator::gpu_sharing().days(30.0, 1);
    let pods: Vec<Arc<Shape>> =
        arrivals.iter().flat_map(|one| &one.pods).map(|work| work.shape.clone()).take(PODS).collect();
    let typical = Arc::new(TypicalPods::of(pods.iter().map(|shape| &**shape), 0.95));
    let pipeline = |name| policies::policy(name, &typical).unwrap_or_else(|| Pipeline::new(name).required());

    println!("{:40}{:>8}{:>8}{:>8}  machines of {}", "", "90TH", "LEAST", "MOST", nodes.len());
    let mut rows = Vec::new();
    for name in POLICIES {
        rows.push(show(name, pack(&nodes, &pods, &|| pipeline(name))));
    }
    let halves = [0, 1].map(|half| pods.iter().skip(half).step_by(2).cloned().collect::<Vec<_>>());
    let [one, other] = halves.map(|pods| pack(&nodes, &pods, &|| pipeline(POLICIES[0])));
    let both = one.machines.iter().zip(&other.machines).map(|(one, other)| Some((*one)? + (*other)?));
    rows.push(show("best-fit, two tenants apart", Compacted { machines: both.collect() }));
    let whole: Vec<_> = pods.iter().map(|shape| Arc::new(whole_devices(shape))).collect();
    rows.push(show("best-fit, without sharing of GPUs", pack(&nodes, &whole, &|| pipeline(POLICIES[0]))));

    let Some(out) = args.out else { return Ok(()) };
    fs::create_dir_all(&out).context("--out: the folder can't be made")?;
    let plot = compaction::plot("Cell compaction", nodes.len(), &rows);
    fs::write(out.join("compaction.svg"), plot.svg()?).context("--out: the picture can't be written")?;
    println!("compaction.svg is in {}", out.display());
    Ok(())
}

fn pack(nodes: &[NodeInfo], pods: &[Arc<Shape>], policy: &(dyn Fn() -> Pipeline + Sync)) -> Compacted {
    Compaction { nodes, pods, pending_max: PENDING_MAX }.run(TRIALS, policy)
}

fn show(name: &str, compacted: Compacted) -> (Box<str>, Compacted) {
    let text = |count: Option<usize>| count.map_or("-".to_owned(), |count| count.to_string());
    let (least, most) = compacted.range().unzip();
    println!("{name:40}{:>8}{:>8}{:>8}", text(compacted.result()), text(least), text(most));
    (name.into(), compacted)
}

/// A pod that shares no device: one that asks for a part is given all of it.
fn whole_devices(shape: &Shape) -> Shape {
    let mut whole = shape.clone();
    if whole.devices.count > 0 {
        whole.devices.millis = DEVICE_MILLIS;
    }
    whole
}
