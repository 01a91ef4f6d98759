//! Compares scheduling policies on a recorded workload.
//!
//!     cargo run --release --example scheduler_lab -- --reproduce openb --data DIR --out DIR
//!
//! fills the 1,213 nodes of the OpenB trace with each `openb_pod_list_*.csv` in DIR by six policies and ten seeds, prints
//! the table, beside it the published one if `published_results_mean10.csv` is there, and writes `openb.csv` and two
//! pictures for each workload; with `--ties`, `openb-ties.csv` and pictures of how the policies do when equally good nodes
//! are told apart in other ways, which decides more than some policies do. The trace: <https://github.com/alibaba/clusterdata>, cluster-trace-gpu-v2023.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context as _;
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use orchestra_core::lab::{
    openb::{self, Variant},
    trace,
};
use rustix::time::{ClockId, clock_gettime};

/// Compares scheduling policies on a recorded workload.
#[derive(Parser)]
struct Args {
    /// Which published comparison to run again.
    #[arg(long)]
    reproduce: Comparison,
    /// The folder with the trace.
    #[arg(long)]
    data: PathBuf,
    /// The folder to write the table and the pictures to; made if it is not there.
    #[arg(long)]
    out: PathBuf,
    /// Study how ties are broken instead: the first, any, or by a second score.
    #[arg(long)]
    ties: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Comparison {
    Openb,
}

fn main() -> anyhow::Result<()> {
    let Args { reproduce: Comparison::Openb, data, out, ties } = Args::parse();
    let open = |name: &str| {
        let path = data.join(name);
        fs::File::open(&path).with_context(|| format!("--data: {} can't be opened", path.display()))
    };
    let list = "openb_node_list_gpu_node.csv";
    let nodes = trace::openb::nodes(open(list)?, list)?;
    let mut workloads = Vec::new();
    for entry in fs::read_dir(&data).with_context(|| format!("--data: {} can't be read", data.display()))? {
        let file = entry?.file_name().to_string_lossy().into_owned();
        let name = file.strip_prefix("openb_pod_list_").and_then(|rest| rest.strip_suffix(".csv"));
        if let Some(name) = name {
            let pods = trace::openb::pods(open(&file)?, &file)?;
            workloads.push(openb::Workload::new(name, pods.into_iter().map(|task| task.shape).collect()));
        }
    }
    workloads.sort_by(|a, b| a.name.cmp(&b.name));
    anyhow::ensure!(!workloads.is_empty(), "--data: there is no openb_pod_list_*.csv in {}", data.display());
    let known = "published_results_mean10.csv";
    let published = if data.join(known).exists() { openb::published(open(known)?, known)? } else { Default::default() };
    fs::create_dir_all(&out).with_context(|| format!("--out: {} can't be made", out.display()))?;

    let (variants, prefix) = if ties { (Variant::tie_study(), "openb-ties") } else { (Variant::published(), "openb") };
    let runs = workloads.len() * variants.len() * openb::SEEDS.count();
    let progress = ProgressBar::new(runs as u64);
    progress.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} runs, {eta} left")?);
    let rows = openb::reproduce(&nodes, &workloads, &variants, thread_cpu, || progress.inc(1));
    progress.finish_and_clear();

    let write = |name: &str, text: &str| {
        let path = out.join(name);
        fs::write(&path, text).with_context(|| format!("--out: {} can't be written", path.display()))
    };
    write(&format!("{prefix}.csv"), &openb::csv(&rows))?;
    let plots = openb::plots(&rows, prefix);
    for (file, plot) in &plots {
        write(file, &plot.svg()?)?;
    }
    print!("{}", openb::table(&rows, &published));
    println!("{prefix}.csv and {} pictures are in {}", plots.len(), out.display());
    Ok(())
}

/// The CPU time that this thread has used.
fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
