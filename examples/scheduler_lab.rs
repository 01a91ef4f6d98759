//! Compares scheduling policies, on a generated workload or a recorded one.
//!
//!     cargo run --release --example scheduler_lab -- --out DIR
//!
//! simulates four days of pods that share GPUs on 40 nodes under six policies, with five seeds: it prints a table of waits,
//! utilisation and fairness with 95 % confidence intervals, and the first decision in which two policies differ, and writes
//! `policies.csv` and pictures to DIR. With `--trace openb --nodes FILE --pods FILE` the pods are those of the OpenB trace.
//!
//!     cargo run --release --example scheduler_lab -- --reproduce openb --data DIR --out DIR
//!
//! fills the nodes of the OpenB trace (<https://github.com/alibaba/clusterdata>, gpu-v2023) with each `openb_pod_list_*.csv`
//! in DIR by six policies and ten seeds, prints the table beside that of `published_results_mean10.csv`, and writes `openb.csv`
//! and two pictures for each; with `--ties`, a study of how ties are broken.

use std::{fs, path};

use anyhow::Context as _;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use orchestra_core::lab::{comparison, openb, plot::Plot, policies, trace, workload};
use rustix::time::{ClockId, clock_gettime};

/// Compares scheduling policies on a generated workload, or a recorded one.
#[derive(Parser)]
struct Args {
    /// Which published comparison to run again.
    #[arg(long, value_parser = ["openb"], requires_all = ["data", "out"], conflicts_with_all = ["trace", "load", "seeds"])]
    reproduce: Option<String>,
    /// The folder with the published comparison's trace.
    #[arg(long, requires = "reproduce")]
    data: Option<path::PathBuf>,
    /// Study how ties are broken instead: the first, any, or by a second score.
    #[arg(long, requires = "reproduce")]
    ties: bool,
    /// Take nodes and pods from a trace.
    #[arg(long, value_parser = ["openb"], requires_all = ["nodes", "pods"])]
    trace: Option<String>,
    /// The trace's list of nodes.
    #[arg(long, requires = "trace")]
    nodes: Option<path::PathBuf>,
    /// The trace's list of pods.
    #[arg(long, requires = "trace")]
    pods: Option<path::PathBuf>,
    /// The load in hundredths of what the nodes have; 110 unless said, and for a trace as it was recorded.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    load: Option<u16>,
    /// How many seeds to run each policy with.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: u64,
    /// The folder to write tables and pictures to; made if it is not there.
    #[arg(long)]
    out: Option<path::PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    args.out.iter().try_for_each(fs::create_dir_all).context("--out: the folder can't be made")?;
    if let (Some(data), Some(out)) = (&args.data, &args.out) {
        return reproduce(data, out, args.ties);
    }
    let load = args.load.map(|load| f64::from(load) / 100.0);
    let (mut nodes, mut recorded) = (workload::gpu_nodes(40), None);
    if let (Some(list), Some(pods)) = (&args.nodes, &args.pods) {
        nodes = trace::openb::nodes(open("--nodes", list)?, &list.to_string_lossy()).context("--nodes")?;
        let tasks = trace::openb::pods(open("--pods", pods)?, &pods.to_string_lossy()).context("--pods")?;
        let came = workload::of_trace(&tasks);
        recorded = Some(if let Some(load) = load { workload::at_load(came, load, &nodes) } else { came });
    }
    let generator = workload::Generator::gpu_sharing().at_load(load.unwrap_or(1.1), &nodes);
    let pods = |seed| recorded.clone().unwrap_or_else(|| generator.days(4.0, seed));
    let seeds: Vec<u64> = (1..=args.seeds).collect();
    let progress = progress(policies::POLICIES.len() * seeds.len())?;
    let rows = policies::compare(policies::POLICIES, &nodes, pods, &seeds, || progress.inc(1));
    progress.finish_and_clear();
    let parting = policies::parting(&nodes, &pods(1), ["best-fit", "fragmentation-gradient"], 1);
    println!("{}{parting}", comparison::table(&rows));
    let Some(out) = &args.out else { return Ok(()) };
    write(out, "policies", &comparison::csv(&rows), &comparison::plots(&rows, "policies"))
}

fn reproduce(data: &path::Path, out: &path::Path, ties: bool) -> anyhow::Result<()> {
    let [list, known] = ["openb_node_list_gpu_node.csv", "published_results_mean10.csv"];
    let nodes = trace::openb::nodes(open("--data", &data.join(list))?, list)?;
    let mut workloads = Vec::new();
    for entry in fs::read_dir(data).with_context(|| format!("--data: {} can't be read", data.display()))? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        if let Some(name) = file.strip_prefix("openb_pod_list_").and_then(|rest| rest.strip_suffix(".csv")) {
            let pods = trace::openb::pods(open("--data", &data.join(&file))?, &file)?;
            workloads.push(openb::Workload::new(name, pods.into_iter().map(|task| task.shape).collect()));
        }
    }
    workloads.sort_by(|a, b| a.name.cmp(&b.name));
    anyhow::ensure!(!workloads.is_empty(), "--data: there is no openb_pod_list_*.csv in {}", data.display());
    let published = fs::File::open(data.join(known)).ok().map(|file| openb::published(file, known)).transpose()?;
    let study = if ties { openb::Variant::tie_study() } else { openb::Variant::published() };
    let progress = progress(workloads.len() * study.len() * openb::SEEDS.count())?;
    let thread_cpu = || clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default();
    let rows = openb::reproduce(&nodes, &workloads, &study, thread_cpu, || progress.inc(1));
    progress.finish_and_clear();
    print!("{}", openb::table(&rows, &published.unwrap_or_default()));
    let prefix = if ties { "openb-ties" } else { "openb" };
    write(out, prefix, &openb::csv(&rows), &openb::plots(&rows, prefix))
}

fn open(flag: &str, path: &path::Path) -> anyhow::Result<fs::File> {
    fs::File::open(path).with_context(|| format!("{flag}: {} can't be opened", path.display()))
}

fn progress(runs: usize) -> anyhow::Result<ProgressBar> {
    Ok(ProgressBar::new(runs as u64).with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} runs, {eta} left")?))
}

fn write(out: &path::Path, prefix: &str, csv: &str, plots: &[(String, Plot)]) -> anyhow::Result<()> {
    fs::write(out.join(format!("{prefix}.csv")), csv).context("--out: the table can't be written")?;
    for (name, plot) in plots {
        fs::write(out.join(name), plot.svg()?).with_context(|| format!("--out: {name} can't be written"))?;
    }
    println!("{prefix}.csv and {} pictures are in {}", plots.len(), out.display());
    Ok(())
}
