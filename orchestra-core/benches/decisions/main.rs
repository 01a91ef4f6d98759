//! How many places a pipeline finds in a second, and that they are those of a plain look at every node:
//! `cargo bench -p orchestra-core --bench decisions [NAME]`.
//!
//! A decision is planned and committed by itself. The peer is the same pipeline, forgetful, on the first pods of the same sequence: it
//! is the plain way, and the two must agree on every operation. Both run in turn, and the medians count. Times are of the processor,
//! of one thread.

#![allow(clippy::print_stdout, reason = "the table is what a benchmark is run for")]

mod workload;

use std::{
    env,
    fs::{File, OpenOptions},
    io::{self, Write as _},
    num::NonZeroU32,
    time::Duration,
};

use orchestra_core::{
    clock::Timestamp,
    scheduler::{
        Ask, BalancedAllocation, Detect, LeastAllocated, Op, Pipeline, PodId, Scheduler as _, Snapshot, Unit, UnitId,
        commit,
    },
};
use rustix::time::{ClockId, clock_gettime};

use self::workload::{Work, Workload};

/// Names the file that figures are appended to.
const OUT_VARIABLE: &str = "ORCHESTRA_BENCH_OUT";

/// How often each side runs.
const RUNS: usize = 5;

const SEED: u64 = 7;

/// A benchmark: so many pods on so many nodes.
struct Case {
    name: &'static str,
    nodes: usize,
    pods: usize,
    /// How many of the pods the plain way is tried on.
    plain: usize,
    workload: Workload,
    pipeline: fn() -> Pipeline,
}

fn spreading() -> Pipeline {
    Pipeline::new("spreading").required().score(1, LeastAllocated).score(1, BalancedAllocation)
}

fn first_fit() -> Pipeline {
    Pipeline::new("first-fit").required()
}

fn preempting() -> Pipeline {
    spreading().preempting()
}

const CASES: [Case; 14] = [
    case("1 shape", 5_000, 50_000, 500, Workload::Shapes(1), spreading),
    case("16 shapes", 5_000, 50_000, 500, Workload::Shapes(16), spreading),
    case("128 shapes", 5_000, 50_000, 500, Workload::Shapes(128), spreading),
    case("all different", 5_000, 50_000, 500, Workload::AllDiffer, spreading),
    case("16 shapes on many nodes", 100_000, 50_000, 20, Workload::Shapes(16), spreading),
    case("all different on many nodes", 100_000, 50_000, 20, Workload::AllDiffer, spreading),
    case("kube-scheduler's defaults", 5_000, 10_000, 200, Workload::Shapes(16), Pipeline::kubernetes_default),
    case("first fit", 5_000, 50_000, 500, Workload::Shapes(16), first_fit),
    case("topology spread", 5_000, 10_000, 500, Workload::Spread, spreading),
    case("pod affinity", 5_000, 5_000, 500, Workload::Affinity, spreading),
    case("pod anti-affinity", 5_000, 3_000, 500, Workload::AntiAffinity, spreading),
    case("preemption", 5_000, 5_000, 20, Workload::Preemption, preempting),
    case("churn", 5_000, 50_000, 500, Workload::Churn, spreading),
    case("gangs of 3", 5_000, 30_000, 500, Workload::Gangs, spreading),
];

const fn case(
    name: &'static str,
    nodes: usize,
    pods: usize,
    plain: usize,
    workload: Workload,
    pipeline: fn() -> Pipeline,
) -> Case {
    Case { name, nodes, pods, plain, workload, pipeline }
}

fn main() -> io::Result<()> {
    let open = |path| OpenOptions::new().create(true).append(true).open(path);
    let mut out = env::var_os(OUT_VARIABLE).map(open).transpose()?;
    let wanted = env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    println!(
        "{:>7} {:>7} {:28} {:>12} {:>12} {:>7} {:>10}",
        "NODES", "PODS", "", "DECISIONS/S", "PLAIN/S", "RATIO", "CPU S"
    );
    for case in CASES.iter().filter(|case| case.name.contains(&wanted)) {
        case.measure(out.as_mut())?;
    }
    Ok(())
}

impl Case {
    fn measure(&self, out: Option<&mut File>) -> io::Result<()> {
        let (mut times, mut times_plain) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (time, ops) = self.run(&mut (self.pipeline)(), self.pods);
            let (time_plain, ops_plain) = self.run(&mut (self.pipeline)().forgetful(), self.plain);
            assert!(ops.starts_with(&ops_plain), "{}: the places are not those of a plain look", self.name);
            times.push(time);
            times_plain.push(time_plain);
        }
        let Self { name, nodes, pods, plain, .. } = self;
        let (time, time_plain) = (median(times), median(times_plain));
        let (speed, speed_plain) = (*pods as f64 / time.as_secs_f64(), *plain as f64 / time_plain.as_secs_f64());
        let ratio = speed / speed_plain;
        println!(
            "{nodes:>7} {pods:>7} {name:28} {speed:>12.0} {speed_plain:>12.0} {ratio:>6.0}x {:>10.3}",
            time.as_secs_f64(),
        );
        let Some(out) = out else { return Ok(()) };
        writeln!(
            out,
            r#"{{"bench":"decisions","metric":"{name}, {nodes} nodes","value":{speed:.0},"unit":"1/s","peer":"plain look","peer_value":{speed_plain:.0},"ratio":{ratio:.2}}}"#
        )
    }

    /// Serves the first `count` pods; the time it took, and all that was done.
    fn run(&self, pipeline: &mut Pipeline, count: usize) -> (Duration, Vec<Op>) {
        let Work { mut snapshot, units } = self.workload.work(self.nodes, self.pods, count);
        let mut done = Vec::with_capacity(units.len());
        let before = thread_cpu();
        for (at, pods) in units.iter().enumerate() {
            serve(pipeline, &mut snapshot, pods, &mut done);
            if self.workload == Workload::Churn && at % 2 == 1 {
                snapshot.remove(units[at / 2][0]);
            }
        }
        (thread_cpu() - before, done)
    }
}

/// Plans for a unit, and carries it out. Who is evicted for it leaves at once, and the unit is served again.
fn serve(pipeline: &mut Pipeline, snapshot: &mut Snapshot, pods: &[PodId], done: &mut Vec<Op>) {
    let (now, queue) = (Timestamp::UNIX_EPOCH, Box::default());
    let priority = snapshot.pod(pods[0]).priority;
    let unit = Unit { id: UnitId(0), pods: pods.to_vec(), pods_min: pods.len(), priority, queue, since: now };
    let pending = std::slice::from_ref(&unit);
    loop {
        let ask = Ask { now, seed: SEED, snapshot, pending, scope: None, steps_max: NonZeroU32::MAX };
        let mut evicts = false;
        for step in &pipeline.plan(&ask).steps {
            let ops = commit(snapshot, step, Detect::Version).expect("the cluster has not changed since");
            evicts = evicts || ops.iter().any(|op| matches!(op, Op::Evict { .. }));
            done.extend(ops);
        }
        if !evicts {
            return;
        }
    }
}

/// The middle one.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
