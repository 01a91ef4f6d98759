//! Compares scheduling policies, on a generated workload or a recorded one.
//!
//!     cargo run --release --example scheduler_lab -- --out DIR
//!
//! simulates four days of pods that share GPUs on 40 nodes under six policies, with five seeds: prints waits, utilisation and
//! fairness with 95 % confidence intervals, and the first decision in which two policies differ; `policies.csv` and pictures go
//! to DIR. With `--trace philly --pods FILE`, or another format, pods are a trace's, on its nodes or on `--machines N`.
//!
//!     cargo run --release --example scheduler_lab -- --reproduce openb --data DIR --out DIR
//!
//! runs the published comparison on OpenB (<https://github.com/alibaba/clusterdata>, gpu-v2023) again, with each of its
//! `openb_pod_list_*.csv` in DIR: six policies, ten seeds, beside `published_results_mean10.csv`; or, with `--ties`, a study of ties.

use std::{fs, fs::File, path::Path, path::PathBuf};

use anyhow::Context as _;
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use orchestra_core::lab::{comparison, openb, plot::Plot, policies, trace, trace::TraceError, workload};
use rustix::time::{ClockId, clock_gettime};

/// Compares scheduling policies on a generated workload, or a recorded one.
#[derive(Parser)]
struct Args {
    /// Which published comparison to run again.
    #[arg(long, value_parser = ["openb"], requires_all = ["data", "out"], conflicts_with_all = ["trace", "load", "seeds"])]
    reproduce: Option<String>,
    /// The folder with the published comparison's trace.
    #[arg(long, requires = "reproduce")]
    data: Option<PathBuf>,
    /// Study how ties are broken instead: the first, any, or by a second score.
    #[arg(long, requires = "reproduce")]
    ties: bool,
    /// Take pods from a trace of this format.
    #[arg(long, value_parser = trace::FORMATS.map(|format| format.name), requires = "pods")]
    trace: Option<String>,
    /// The trace's pods, jobs or requests.
    #[arg(long, requires = "trace")]
    pods: Option<PathBuf>,
    /// The trace's list of nodes, if it has one in a file of its own.
    #[arg(long, requires = "trace")]
    nodes: Option<PathBuf>,
    /// Run the trace on so many machines like its own; if it has no nodes, on as many as suit it unless said.
    #[arg(long, requires = "trace", conflicts_with = "nodes", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    machines: Option<u32>,
    /// The load in hundredths of what the nodes have; 110 unless said, and for a trace as it was recorded.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1_000))]
    load: Option<u16>,
    /// How many seeds to run each policy with.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000))]
    seeds: u64,
    /// The folder to write tables and pictures to; made if it is not there.
    #[arg(long)]
    out: Option<PathBuf>,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    args.out.iter().try_for_each(fs::create_dir_all).context("--out: the folder can't be made")?;
    if let (Some(data), Some(out)) = (&args.data, &args.out) {
        return reproduce(data, out, args.ties);
    }
    let (load, seeds) = (args.load.map(|load| f64::from(load) / 100.0), Vec::from_iter(1..=args.seeds));
    let (mut nodes, mut recorded) = (workload::gpu_nodes(40), None);
    if let Some((format, pods)) = args.trace.as_deref().and_then(trace::Format::named).zip(args.pods.as_ref()) {
        let mut trace = read("--pods", pods, |file, name| format.tasks(file, name))?;
        let listed = args.nodes.as_ref().map(|list| read("--nodes", list, |file, name| format.nodes(file, name)));
        trace.nodes = listed.transpose()?.unwrap_or(trace.nodes);
        nodes = workload::nodes_of_trace(&trace, args.machines.map(|count| count as usize));
        println!("{trace}; {} nodes", nodes.len());
        recorded = Some(workload::of_trace(&trace.tasks, load, &nodes));
    }
    let generator = workload::Generator::gpu_sharing().at_load(load.unwrap_or(1.1), &nodes);
    let pods = |seed| recorded.clone().unwrap_or_else(|| generator.days(4.0, seed));
    let progress = progress(policies::POLICIES.len() * seeds.len())?;
    let rows = policies::compare(policies::POLICIES, &nodes, pods, &seeds, || progress.inc(1));
    progress.finish_and_clear();
    let parting = policies::parting(&nodes, &pods(1), ["best-fit", "fragmentation-gradient"], 1);
    println!("{}{parting}", comparison::table(&rows));
    let write = |out| write(out, "policies", &comparison::csv(&rows), &comparison::plots(&rows, "policies"));
    args.out.as_deref().map_or(Ok(()), write)
}

fn reproduce(data: &Path, out: &Path, ties: bool) -> anyhow::Result<()> {
    let [list, known] = ["openb_node_list_gpu_node.csv", "published_results_mean10.csv"].map(|file| data.join(file));
    let nodes = read("--data", &list, trace::openb::nodes)?;
    let mut workloads = Vec::new();
    for entry in fs::read_dir(data).with_context(|| format!("--data: {} can't be read", data.display()))? {
        let file = entry?.path();
        if openb::Workload::is_in(&file) {
            workloads.push(read("--data", &file, openb::Workload::read)?);
        }
    }
    anyhow::ensure!(!workloads.is_empty(), "--data: there is no openb_pod_list_*.csv in {}", data.display());
    let published = known.exists().then(|| read("--data", &known, openb::published)).transpose()?;
    let prefix = if ties { "openb-ties" } else { "openb" };
    let study = if ties { openb::Variant::tie_study() } else { openb::Variant::published() };
    let progress = progress(workloads.len() * study.len() * openb::SEEDS.count())?;
    let thread_cpu = || clock_gettime(ClockId::ThreadCPUTime).try_into().unwrap_or_default();
    let rows = openb::reproduce(&nodes, &workloads, &study, thread_cpu, || progress.inc(1));
    progress.finish_and_clear();
    print!("{}", openb::table(&rows, &published.unwrap_or_default()));
    write(out, prefix, &openb::csv(&rows), &openb::plots(&rows, prefix))
}

fn read<T>(flag: &str, path: &Path, read: impl FnOnce(File, &str) -> Result<T, TraceError>) -> anyhow::Result<T> {
    let file = File::open(path).with_context(|| format!("{flag}: {} can't be opened", path.display()))?;
    read(file, &path.to_string_lossy()).with_context(|| flag.to_owned())
}

fn progress(runs: usize) -> anyhow::Result<ProgressBar> {
    Ok(ProgressBar::new(runs as u64).with_style(ProgressStyle::with_template("{bar:40} {pos}/{len} runs, {eta} left")?))
}

fn write(out: &Path, prefix: &str, csv: &str, plots: &[(String, Plot)]) -> anyhow::Result<()> {
    fs::write(out.join(format!("{prefix}.csv")), csv).context("--out: the table can't be written")?;
    plots.iter().try_for_each(|(name, plot)| anyhow::Ok(fs::write(out.join(name), plot.svg()?)?)).context("--out")?;
    println!("{prefix}.csv and {} pictures are in {}", plots.len(), out.display());
    Ok(())
}
