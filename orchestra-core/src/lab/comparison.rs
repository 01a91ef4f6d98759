//! Schedulers, or ways to put them together, on the same workloads: seeds side by side, a table, CSV and pictures.

use std::fmt::Write as _;

use super::{
    metrics::{Metrics, Waits, shares_over_time},
    parallel,
    plot::{Line, Plot, XAxis},
    simulation::{Decision, Divergence, Outcome},
    statistics::Summary,
};
use crate::scheduler::Op;

/// How many parts the time is cut into, for what is drawn over it.
const BINS: usize = 120;

/// The columns of the table for people, each a metric's name, its title, and what to multiply it by.
const COLUMNS: [(&str, &str, f64); 9] = [
    ("wait_mean", "WAIT MEAN s", 1.0),
    ("wait_p50", "P50", 1.0),
    ("wait_p99", "P99", 1.0),
    ("cpu", "CPU %", 100.0),
    ("devices", "GPU %", 100.0),
    ("goodput", "GOODPUT %", 100.0),
    ("conflict_fraction", "CONFLICTS", 1.0),
    ("busyness", "BUSY %", 100.0),
    ("fairness", "FAIRNESS", 1.0),
];

/// Numbers over the time in seconds.
pub type Series = Vec<(f64, f64)>;

/// What is left of a run when its log is gone.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its numbers.
    pub metrics: Metrics,
    /// The waits of all units, and of each tenant's, by name.
    pub waits: Vec<(Box<str>, Waits)>,
    /// The dominant shares that all took together, and each tenant, by name.
    pub shares: Vec<(Box<str>, Series)>,
}

/// What the name of all tenants together is.
pub const ALL: &str = "all";

impl Run {
    /// Takes what is compared from a run.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Self {
        let mut queues: Vec<(Box<str>, Option<usize>)> = vec![(ALL.into(), None)];
        queues.extend(outcome.queues.iter().cloned().zip((0..).map(Some)));
        // Who comes first is chance, and would mix up the runs of several seeds.
        queues.sort_by(|(a, at), (b, bt)| (at.is_some(), a).cmp(&(bt.is_some(), b)));
        let dominant = |shares: Vec<(f64, [f64; 3])>| {
            shares.into_iter().map(|(at, shares)| (at, shares.into_iter().fold(0.0, f64::max))).collect()
        };
        Self {
            metrics: Metrics::of(outcome),
            waits: queues.iter().map(|(name, queue)| (name.clone(), Waits::of(outcome, *queue))).collect(),
            shares: queues
                .iter()
                .map(|(name, queue)| (name.clone(), dominant(shares_over_time(outcome, *queue, BINS))))
                .collect(),
        }
    }
}

/// What the runs of one candidate say.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What it is called.
    pub name: Box<str>,
    /// Its runs, in the order of the seeds.
    pub runs: Vec<Run>,
}

/// Runs each candidate with each seed, as many at a time as there are processors; `done` is called after each run.
pub fn compare<C: Sync>(
    candidates: &[(Box<str>, C)],
    seeds: &[u64],
    run: impl Fn(&C, u64) -> Outcome + Sync,
    done: impl Fn() + Sync,
) -> Vec<Row> {
    let jobs: Vec<(&C, u64)> =
        candidates.iter().flat_map(|(_, one)| seeds.iter().map(move |seed| (one, *seed))).collect();
    let mut runs = parallel::run(&jobs, |(candidate, seed)| {
        let run = Run::of(&run(candidate, *seed));
        done();
        run
    })
    .into_iter();
    let rows =
        candidates.iter().map(|(name, _)| Row { name: name.clone(), runs: runs.by_ref().take(seeds.len()).collect() });
    rows.collect()
}

impl Row {
    /// A metric over the runs, by its name; of nothing if there is none of this name.
    #[must_use]
    pub fn summary(&self, metric: &str) -> Summary {
        let at = Metrics::NAMES.iter().position(|name| *name == metric);
        Summary::of(
            at.into_iter()
                .flat_map(|at| self.runs.iter().filter_map(move |run| run.metrics.numbers().get(at).copied())),
        )
    }

    /// The mean wait of one tenant's units over the runs, in seconds.
    #[must_use]
    pub fn wait_of(&self, queue: &str) -> Summary {
        let waits = self.runs.iter().flat_map(|run| &run.waits).filter(|(name, _)| **name == *queue);
        Summary::of(waits.map(|(_, waits)| waits.mean()))
    }

    /// The waits of all units of all runs, and the share of units that waited no longer, up to the last.
    fn wait_line(&self) -> Line {
        let waits = self.runs.iter().flat_map(|run| &run.waits).filter(|(name, _)| **name == *ALL);
        let waits: Waits = waits.flat_map(|(_, waits)| waits.seconds().iter().copied()).collect();
        let points = (0..=200).map(|half| f64::from(half) / 2.0).map(|percent| (waits.percentile(percent), percent));
        Line { name: self.name.clone(), points: points.collect() }
    }

    /// The mean share over the runs of one tenant, or of all, over the time in hours.
    fn share_line(&self, queue: &str, name: Box<str>) -> Line {
        let series = || self.runs.iter().flat_map(|run| &run.shares).filter(|(name, _)| **name == *queue);
        let mean = |bin: usize| {
            let at = Summary::of(series().filter_map(|(_, points)| points.get(bin).map(|(at, _)| at / 3_600.0)));
            let share = Summary::of(series().filter_map(|(_, points)| points.get(bin).map(|(_, share)| share * 100.0)));
            (at.count > 0).then_some((at.mean, share.mean))
        };
        Line { name, points: (0..BINS).filter_map(mean).collect() }
    }
}

/// The table for people: means over the runs, each with half the width of its 95 % confidence interval.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let width = rows.iter().map(|row| row.name.chars().count()).max().unwrap_or(0).max(9);
    let mut text = format!("{:width$}", "CANDIDATE");
    for (_, title, _) in COLUMNS {
        let _ = write!(text, " {title:>19}");
    }
    text.push('\n');
    for row in rows {
        let _ = write!(text, "{:width$}", row.name);
        for (metric, _, times) in COLUMNS {
            let summary = row.summary(metric);
            let shown = format!("{:.2} ± {:.2}", summary.mean * times, summary.confidence() * times);
            let _ = write!(text, " {shown:>19}");
        }
        text.push('\n');
    }
    text
}

/// Every metric of every candidate as CSV: `candidate,metric,runs,mean,sd,ci95`, the last being half the width of the interval.
#[must_use]
pub fn csv(rows: &[Row]) -> String {
    let mut text = "candidate,metric,runs,mean,sd,ci95\n".to_owned();
    for row in rows {
        // Names are ours or a tenant's; what would break a line of CSV is quoted.
        let name = if row.name.contains([',', '"', '\n']) {
            format!("\"{}\"", row.name.replace('"', "\"\""))
        } else {
            row.name.to_string()
        };
        for metric in Metrics::NAMES {
            let Summary { count, mean, deviation } = row.summary(metric);
            let confidence = row.summary(metric).confidence();
            let _ = writeln!(text, "{name},{metric},{count},{mean:.6},{deviation:.6},{confidence:.6}");
        }
    }
    text
}

/// Pictures, each with a name for its file that begins with `prefix`: how long units waited, what was taken over time, and
/// for each candidate, the shares of the tenants if there are several.
#[must_use]
pub fn plots(rows: &[Row], prefix: &str) -> Vec<(String, Plot)> {
    let waits = Plot {
        title: "How long units waited for a place".into(),
        x: "wait (s)".into(),
        y: "units that waited no longer (%)".into(),
        x_axis: XAxis::Logarithmic { least: 0.001 },
        lines: rows.iter().map(Row::wait_line).collect(),
    };
    let over_time = |title: String, lines| Plot {
        title: title.into(),
        x: "time (h)".into(),
        y: "dominant share taken (%)".into(),
        x_axis: XAxis::Linear,
        lines,
    };
    let all = rows.iter().map(|row| row.share_line(ALL, row.name.clone())).collect();
    let mut plots = vec![
        (format!("{prefix}-waits.svg"), waits),
        (format!("{prefix}-utilisation.svg"), over_time("What was taken over time".into(), all)),
    ];
    for (at, row) in rows.iter().enumerate() {
        let mut queues: Vec<&str> = row.runs.iter().flat_map(|run| &run.shares).map(|(name, _)| &**name).collect();
        queues.sort_unstable();
        queues.dedup();
        queues.retain(|queue| *queue != ALL);
        if queues.len() > 1 {
            let lines = queues.iter().map(|queue| row.share_line(queue, (*queue).into())).collect();
            let title = format!("{}: tenants over time", row.name);
            plots.push((format!("{prefix}-tenants-{}.svg", at + 1), over_time(title, lines)));
        }
    }
    plots
}

/// Where two runs of one workload on the same nodes part, for people; `None` if they don't.
#[must_use]
pub fn parting(ours: &Outcome, theirs: &Outcome) -> Option<String> {
    let Divergence { common, ours: next, theirs: other } = ours.log.divergence(&theirs.log)?;
    let told = |decision: Option<&Decision>| {
        let Some(Decision { at, unit, ops, fate, .. }) = decision else { return "the end".to_owned() };
        let name = ours.units.get(unit.0 as usize).map_or("?", |unit| &*unit.name);
        let nodes = ops.iter().filter_map(|op| match op {
            Op::Place { place, .. } => ours.nodes.get(place.node.0 as usize).map(|node| &*node.name),
            _ => None,
        });
        let nodes: Vec<&str> = nodes.collect();
        let to = if nodes.is_empty() { String::new() } else { format!(" to {}", nodes.join(", ")) };
        format!("{name}{to} at {:.0} s ({fate:?})", at.seconds())
    };
    Some(format!("{common} decisions in common; then {}, or {}", told(next), told(other)))
}

/// What was varied for one line of a picture: the rows to join, each with its place on the axis.
#[derive(Clone, Debug, PartialEq)]
pub struct Sweep<'a> {
    /// What the line is called.
    pub name: Box<str>,
    /// The rows, in the order to join them.
    pub rows: Vec<(f64, &'a Row)>,
}

/// A picture of a metric's means against what was varied, on a logarithmic axis.
#[must_use]
pub fn sweep(title: &str, x: &str, metric: &str, lines: &[Sweep<'_>]) -> Plot {
    let line = |Sweep { name, rows }: &Sweep<'_>| {
        let points = rows.iter().map(|(at, row)| (*at, row.summary(metric).mean)).collect();
        Line { name: name.clone(), points }
    };
    Plot {
        title: title.into(),
        x: x.into(),
        y: metric.replace('_', " ").into(),
        x_axis: XAxis::Logarithmic { least: 0.001 },
        lines: lines.iter().map(line).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Metrics, Row, Sweep, compare, csv, plots, sweep, table};
    use crate::{
        lab::{
            simulation::{Agent, Arrival, Micros, Simulation},
            workload::{Generator, omega_nodes},
        },
        rng::Entropy,
        scheduler::{FirstFit, LeastAllocated, Pipeline},
    };

    /// Two agents that think so many seconds for each job, on a small cell.
    fn rows(thinking: &[f64]) -> Vec<Row> {
        let nodes = omega_nodes(40);
        let candidates: Vec<(Box<str>, f64)> =
            thinking.iter().map(|seconds| (format!("{seconds} s, twice").into(), *seconds)).collect();
        let run = |seconds: &f64, seed: u64| {
            let entropy = Entropy::seeded(seed);
            let arrivals = Generator::omega().at_load(0.7, &nodes).arrivals(Micros::from_seconds(8_000.0), &entropy);
            let spread = || Pipeline::new("spread").required().score(1, LeastAllocated);
            let thinking = Micros::from_seconds(*seconds);
            let agents = vec![Agent::new(FirstFit::default()), Agent::new(spread())];
            let agents = agents.into_iter().map(|agent| agent.thinking(thinking, Micros(5_000))).collect();
            let by_queue = |arrival: &Arrival| usize::from(&*arrival.queue == "service");
            Simulation::of(&nodes).run(arrivals, agents, by_queue, &entropy)
        };
        compare(&candidates, &[1, 2, 3], run, || ())
    }

    #[test]
    fn comparisons_repeat_and_are_told_in_table_csv_and_pictures() {
        let rows = rows(&[0.1, 10.0]);
        assert_eq!(rows, self::rows(&[0.1, 10.0]));
        let (table, csv) = (table(&rows), csv(&rows));
        assert_eq!(table.lines().count(), 3, "{table}");
        assert!(csv.contains("\n\"0.1 s, twice\",wait_mean,3,"), "{csv}");
        assert_eq!(csv.lines().count(), 1 + 2 * Metrics::NAMES.len());
        let files: Vec<String> = plots(&rows, "lab").into_iter().map(|(file, _)| file).collect();
        assert_eq!(files, ["lab-waits.svg", "lab-utilisation.svg", "lab-tenants-1.svg", "lab-tenants-2.svg"]);
        assert!(plots(&rows, "lab").iter().all(|(_, plot)| plot.svg().is_ok()));
        let line = Sweep { name: "two".into(), rows: vec![(0.1, &rows[0]), (10.0, &rows[1])] };
        assert!(sweep("Conflicts", "thinking (s)", "conflict_fraction", &[line]).svg().is_ok());
    }

    /// Omega, section 4.3: conflicts and busyness rise with the time of a decision. The shape alone: its input is not public.
    #[test]
    fn who_thinks_longer_is_more_often_in_the_way() {
        let rows = rows(&[0.1, 10.0, 60.0]);
        for metric in ["conflict_fraction", "busyness"] {
            let means: Vec<f64> = rows.iter().map(|row| row.summary(metric).mean).collect();
            assert!(means.is_sorted() && means[0] < means[2], "{metric}: {means:?}");
        }
    }
}
