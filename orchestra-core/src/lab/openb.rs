//! The published comparison of GPU-sharing policies on the OpenB trace, run again.
//!
//! Source: Weng et al., "Beware of Fragmentation", ATC 2023, and `experiments/analysis/expected_results` of
//! hkust-adsl/kubernetes-scheduler-simulator, whose protocol, rounding and names these are: see
//! [`Inflation`] for the experiment. Ties go to the first node of an order that the seed draws, as in the authors' fork of
//! kube-scheduler.

use std::{collections::BTreeMap, fmt::Write as _, io, path::Path, sync::Arc, time::Duration};

use super::{
    inflation::{Curve, Inflation, Sample},
    parallel,
    plot::{Line, Plot, XAxis},
    statistics::Summary,
    trace::{self, Table, TraceError},
};
use crate::scheduler::{
    BestFit, DeviceClustering, DevicePacking, DotProduct, Fragmentation, NodeInfo, Pipeline, RandomDevices, Shape,
    Ties, TypicalPods,
};

/// The share of a workload's pods that its typical pods stand for.
const TYPICAL_COVERAGE: f64 = 0.95;

/// How much is asked for, as a multiple of the devices there are.
const ASKED_UNTIL: f64 = 1.3;

/// The policies, by their published names.
pub const POLICIES: [&str; 6] =
    ["01-Random", "02-DotProd", "03-GpuClustering", "04-GpuPacking", "05-BestFit", "06-FGD"];

/// Which of equally good nodes is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TieBreak {
    /// The first in an order that the seed draws, as in the published runs.
    #[default]
    First,
    /// Any of them, as kube-scheduler does.
    Random,
    /// The one that best fit likes most; of these the first.
    BestFit,
}

/// A policy, and how it breaks ties.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Variant {
    /// The policy's published name.
    pub policy: &'static str,
    /// How it breaks ties.
    pub ties: TieBreak,
}

impl Variant {
    /// The policies as they were published.
    #[must_use]
    pub fn published() -> Vec<Self> {
        POLICIES.map(|policy| Self { policy, ties: TieBreak::First }).into()
    }

    /// All policies that score, with ties to the first and to any, and FGD with ties to best fit: how much of a result is the
    /// score's, and how much that of an order that nobody chose.
    #[must_use]
    pub fn tie_study() -> Vec<Self> {
        let scoring = POLICIES.iter().skip(1);
        let both = |policy: &&'static str| [TieBreak::First, TieBreak::Random].map(|ties| Self { policy, ties });
        let by_best_fit = Self { policy: "06-FGD", ties: TieBreak::BestFit };
        scoring.flat_map(both).chain([by_best_fit]).collect()
    }

    /// The published name, and how ties are broken if otherwise than published.
    #[must_use]
    pub fn name(&self) -> String {
        let ties = match self.ties {
            TieBreak::First => "",
            TieBreak::Random => " (any of the best)",
            TieBreak::BestFit => " (best fit)",
        };
        format!("{}{ties}", self.policy)
    }

    /// The scheduler; `None` if no policy has this name.
    #[must_use]
    pub fn pipeline(&self, typical: &Arc<TypicalPods>) -> Option<Pipeline> {
        let pipeline = policy(self.policy, typical)?;
        Some(match self.ties {
            TieBreak::First => pipeline,
            TieBreak::Random => pipeline.ties(Ties::Random),
            TieBreak::BestFit => pipeline.then(BestFit::default()),
        })
    }
}

/// The seeds of the published runs.
pub const SEEDS: std::ops::RangeInclusive<u64> = 42..=51;

/// A policy by its published name; `None` if there is none of this name.
fn policy(name: &str, typical: &Arc<TypicalPods>) -> Option<Pipeline> {
    let pipeline = Pipeline::new(name).required();
    Some(match name {
        "01-Random" => pipeline.devices(RandomDevices).ties(Ties::Random),
        "02-DotProd" => pipeline.score(1, DotProduct::default()),
        "03-GpuClustering" => pipeline.score(1, DeviceClustering::default()),
        "04-GpuPacking" => pipeline.score(1, DevicePacking),
        "05-BestFit" => pipeline.score(1, BestFit::default()),
        "06-FGD" => {
            let fragmentation = Fragmentation(Arc::clone(typical));
            pipeline.score(1, fragmentation.clone()).devices(fragmentation)
        }
        _ => return None,
    })
}

/// A list of pods to fill the cluster with.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Its name: `default` for `openb_pod_list_default.csv`.
    pub name: Box<str>,
    /// The pods.
    pub pods: Vec<Arc<Shape>>,
    typical: Arc<TypicalPods>,
}

impl Workload {
    /// A workload of these pods.
    pub fn new(name: impl Into<Box<str>>, pods: Vec<Arc<Shape>>) -> Self {
        let typical = TypicalPods::of(pods.iter().map(|shape| &**shape), TYPICAL_COVERAGE).into();
        Self { name: name.into(), pods, typical }
    }

    /// Whether a file is one of the trace's lists of pods, by its name: `openb_pod_list_*.csv`.
    #[must_use]
    pub fn is_in(file: &Path) -> bool {
        list_name(file).is_some()
    }

    /// Reads a list of pods; the workload is called for what the file's name says of it.
    ///
    /// # Errors
    ///
    /// [`TraceError`] names the file, the line and the field.
    pub fn read(input: impl io::Read, file: &str) -> Result<Self, TraceError> {
        let pods = trace::openb::pods(input, file)?.into_iter().map(|task| task.shape).collect();
        Ok(Self::new(list_name(Path::new(file)).unwrap_or(file), pods))
    }

    /// Fills the nodes once; `None` if there is no such policy.
    #[must_use]
    pub fn run(&self, nodes: &[NodeInfo], variant: Variant, seed: u64) -> Option<Curve> {
        let inflation = Inflation { nodes, pods: &self.pods, typical: &self.typical, until: ASKED_UNTIL, seed };
        Some(inflation.run(&mut variant.pipeline(&self.typical)?))
    }
}

/// What the runs of one policy on one workload say.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// The workload.
    pub workload: Box<str>,
    /// The policy.
    pub policy: Box<str>,
    /// Allocation in percent of capacity, when as much has been asked for as there is.
    pub allocated_at_100: Summary,
    /// The fragmented share of what is idle, in percent, when 80 % has been asked for.
    pub fragmented_at_80: Summary,
    /// The CPU time of a run, in seconds.
    pub cpu: Summary,
    /// The curves, in the order of the seeds.
    pub curves: Vec<Curve>,
}

/// Runs each variant on each workload with each seed, many at a time; the rows are in the order of the workloads' names, then of the
/// variants. `thread_cpu` tells the CPU time that the calling thread has used; `done` is called after each run.
pub fn reproduce(
    nodes: &[NodeInfo],
    workloads: &[Workload],
    variants: &[Variant],
    thread_cpu: impl Fn() -> Duration + Sync,
    done: impl Fn() + Sync,
) -> Vec<Row> {
    let mut by_name: Vec<&Workload> = workloads.iter().collect();
    by_name.sort_by(|a, b| a.name.cmp(&b.name));
    let pairs = by_name.iter().flat_map(|workload| variants.iter().map(move |variant| (*workload, *variant)));
    let jobs: Vec<_> =
        pairs.clone().flat_map(|(workload, variant)| SEEDS.map(move |seed| (workload, variant, seed))).collect();
    let mut runs = parallel::run(&jobs, |(workload, variant, seed)| {
        let before = thread_cpu();
        let curve = workload.run(nodes, *variant, *seed).unwrap_or_default();
        let took = thread_cpu().saturating_sub(before);
        done();
        (curve, took)
    })
    .into_iter();
    pairs
        .map(|(workload, variant)| {
            Row::of(&workload.name, &variant.name(), runs.by_ref().take(SEEDS.count()).collect())
        })
        .collect()
}

impl Row {
    /// Sums up runs, each with the CPU time it took.
    #[must_use]
    pub fn of(workload: &str, policy: &str, runs: Vec<(Curve, Duration)>) -> Self {
        let (curves, cpu): (Vec<Curve>, Vec<Duration>) = runs.into_iter().unzip();
        let at =
            |percent, quantity: Quantity| Summary::of(curves.iter().filter_map(|curve| curve.at(percent, quantity)));
        Self {
            workload: workload.into(),
            policy: policy.into(),
            allocated_at_100: at(100, |sample| sample.allocated),
            fragmented_at_80: at(80, |sample| sample.fragmented_of_idle),
            cpu: Summary::of(cpu.iter().map(Duration::as_secs_f64)),
            curves,
        }
    }

    /// The mean of a quantity over the runs, against what has been asked for, in steps of a hundredth of capacity.
    fn line(&self, quantity: Quantity) -> Line {
        let at = |percent: u32| {
            let summary = Summary::of(self.curves.iter().filter_map(|curve| curve.at(percent, quantity)));
            (summary.count > 0).then_some((f64::from(percent), summary.mean))
        };
        Line { name: self.policy.clone(), points: (0..=130).filter_map(at).collect() }
    }
}

type Quantity = fn(&Sample) -> f64;

/// Two pictures for each workload, each with a name for its file that begins with `prefix`: the curves of all policies.
#[must_use]
pub fn plots(rows: &[Row], prefix: &str) -> Vec<(String, Plot)> {
    let quantities: [(&str, &str, Quantity); 2] = [
        ("allocation", "GPUs allocated (% of capacity)", |sample| sample.allocated),
        ("fragmentation", "idle GPUs that are fragmented (%)", |sample| sample.fragmented_of_idle),
    ];
    let mut plots = Vec::new();
    for rows in rows.chunk_by(|a, b| a.workload == b.workload) {
        let Some(Row { workload, .. }) = rows.first() else { continue };
        for (what, y, quantity) in quantities {
            let lines = rows.iter().map(|row| row.line(quantity)).collect();
            let x = "GPUs asked for (% of capacity)".into();
            let plot = Plot {
                title: format!("OpenB, {workload}: {what}").into(),
                x,
                y: y.into(),
                x_axis: XAxis::Linear,
                lines,
            };
            plots.push((format!("{prefix}-{workload}-{what}.svg"), plot));
        }
    }
    plots
}

/// The table as CSV, with the published columns that it has.
#[must_use]
pub fn csv(rows: &[Row]) -> String {
    let mut text = "workload,policy,runs,alloc_mean_100,alloc_sd_100,frag_ratio_mean_80,cpu_seconds_mean\n".to_owned();
    for Row { workload, policy, allocated_at_100: allocated, fragmented_at_80, cpu, curves } in rows {
        let (runs, mean, deviation) = (curves.len(), allocated.mean, allocated.deviation);
        let (fragmented, cpu) = (fragmented_at_80.mean, cpu.mean);
        let _ = writeln!(text, "{workload},{policy},{runs},{mean:.3},{deviation:.3},{fragmented:.3},{cpu:.4}");
    }
    text
}

/// The published means, by workload and policy: allocation at 100 %, fragmentation at 80 %.
pub type Published = BTreeMap<(Box<str>, Box<str>), (f64, f64)>;

/// Reads published means: `workload,policy,…,alloc_mean_100,…,frag_ratio_mean_80,…`.
///
/// # Errors
///
/// [`TraceError`] names the file, the line and the field.
pub fn published(input: impl io::Read, file: &str) -> Result<Published, TraceError> {
    let columns = ["workload", "policy", "alloc_mean_100", "frag_ratio_mean_80"];
    let rows = Table::new(input, file, &columns)?.rows(|row| {
        let [allocated, fragmented] = [row.number(columns[2], 0.0, 100.0)?, row.number(columns[3], 0.0, 100.0)?];
        Ok(((row.text("workload").into(), row.text("policy").into()), (allocated, fragmented)))
    })?;
    Ok(rows.into_iter().collect())
}

/// The table for people, with how far each mean is from the published one, if that is known.
#[must_use]
pub fn table(rows: &[Row], published: &Published) -> String {
    let mut text = format!(
        "{:12} {:34} {:>16} {:>9} {:>17} {:>9} {:>8}\n",
        "WORKLOAD", "POLICY", "ALLOCATED AT 100", "PUBLISHED", "FRAGMENTED AT 80", "PUBLISHED", "CPU"
    );
    for row in rows {
        let known = published.get(&(row.workload.clone(), row.policy.clone()));
        let shown = |number: Option<f64>| number.map_or_else(|| "-".to_owned(), |number| format!("{number:.2}"));
        let (workload, policy, allocated) = (&row.workload, &row.policy, row.allocated_at_100);
        let _ = writeln!(
            text,
            "{workload:12} {policy:34} {:>9.2} ± {:.2} {:>9} {:>17.2} {:>9} {:>6.0} ms",
            allocated.mean,
            allocated.deviation,
            shown(known.map(|(allocated, _)| *allocated)),
            row.fragmented_at_80.mean,
            shown(known.map(|(_, fragmented)| *fragmented)),
            row.cpu.mean * 1_000.0,
        );
    }
    text
}

/// What the name of a list of pods says of it.
fn list_name(file: &Path) -> Option<&str> {
    file.file_name()?.to_str()?.strip_prefix("openb_pod_list_")?.strip_suffix(".csv")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Row, TieBreak, Variant, csv, plots, published, reproduce, table};
    use crate::lab::{openb::Workload, trace};

    /// Three nodes with two GPUs each, and pods that ask for shares and for whole ones.
    fn rows() -> Vec<Row> {
        let nodes =
            "sn,cpu_milli,memory_mib,gpu,model\na,32000,65536,2,T4\nb,32000,65536,2,T4\nc,32000,65536,2,V100M16\n";
        let pods = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec\n\
                    p0,4000,1024,1,300,\np1,4000,1024,1,1000,T4\np2,4000,1024,1,500,\np3,2000,1024,0,0,\np4,4000,1024,2,1000,\n";
        let nodes = trace::openb::nodes(nodes.as_bytes(), "nodes").expect("nodes");
        let pods = trace::openb::pods(pods.as_bytes(), "pods").expect("pods");
        let workload = Workload::new("small", pods.into_iter().map(|task| task.shape).collect());
        reproduce(&nodes, &[workload], &[Variant::published(), Variant::tie_study()].concat(), || Duration::ZERO, || ())
    }

    #[test]
    fn runs_repeat_and_stay_within_what_there_is() {
        let rows = rows();
        assert_eq!(rows, self::rows());
        assert_eq!(rows.len(), 6 + 11);
        for sample in rows.iter().flat_map(|row| &row.curves).flat_map(|curve| &curve.0) {
            assert!(sample.allocated <= sample.arrived.min(100.0) + 1e-9, "{sample:?}");
            assert!((-1e-9..=100.0 + 1e-9).contains(&sample.fragmented_of_idle), "{sample:?}");
            assert!(sample.arrived <= 130.0 + 100.0 / 6.0 + 1e-9, "{sample:?}");
        }
    }

    #[test]
    fn a_policy_that_breaks_ties_otherwise_says_so() {
        let names: Vec<String> = Variant::tie_study().iter().map(Variant::name).collect();
        assert_eq!(names[0], "02-DotProd");
        assert_eq!(names[1], "02-DotProd (any of the best)");
        assert_eq!(names[10], "06-FGD (best fit)");
        let unknown = Variant { policy: "07-Luck", ties: TieBreak::First };
        assert!(unknown.pipeline(&Default::default()).is_none());
    }

    #[test]
    fn a_table_and_pictures_tell_of_every_policy() {
        let rows = rows();
        assert_eq!(csv(&rows).lines().count(), 1 + 6 + 11);
        assert!(csv(&rows).contains("\nsmall,06-FGD,10,"));
        let known = "workload,policy,alloc_mean_100,frag_ratio_mean_80\nsmall,06-FGD,95.23,29.86\n";
        let known = published(known.as_bytes(), "published.csv").expect("a table");
        assert!(
            table(&rows, &known).lines().any(|line| line.starts_with("small        06-FGD") && line.contains("95.23"))
        );
        let files: Vec<String> = plots(&rows, "openb").into_iter().map(|(file, _)| file).collect();
        assert_eq!(files, ["openb-small-allocation.svg", "openb-small-fragmentation.svg"]);
        let error =
            published("workload,policy,alloc_mean_100,frag_ratio_mean_80\na,b,x,1\n".as_bytes(), "published.csv");
        let error = error.expect_err("no number").to_string();
        assert_eq!(error, "published.csv:2: alloc_mean_100: \"x\" is no number of this kind");
    }
}
