//! How many places a pipeline finds in a second, and that they are those of a plain look at every node:
//! `cargo bench -p orchestra-core --bench decisions`.
//!
//! Nodes have 32 cores and 128 GiB, all alike; pods ask for cpu and memory drawn from a seed. A decision is planned and
//! committed by itself. The peer is the same pipeline, forgetful, on the first pods of the same sequence: it is the plain
//! way, and the two must agree on every place. Times are of the processor, of one thread.

#![allow(clippy::print_stdout, reason = "the table is what a benchmark is run for")]

use std::{env, num::NonZeroU32, sync::Arc, time::Duration};

use orchestra_core::{
    clock::Timestamp,
    scheduler::{
        Ask, BalancedAllocation, Detect, LeastAllocated, NodeInfo, Pipeline, Place, PodId, PodView, Resources,
        Scheduler as _, Shape, Snapshot, Unit, UnitId, commit,
    },
};
use rustix::time::{ClockId, clock_gettime};

const SEED: u64 = 7;

/// A benchmark: so many pods of so many shapes on so many nodes.
struct Case {
    name: &'static str,
    nodes: usize,
    pods: usize,
    shapes: usize,
    /// How many of the pods the plain way is tried on.
    plain: usize,
    pipeline: fn() -> Pipeline,
}

fn spreading() -> Pipeline {
    Pipeline::new("spreading").required().score(1, LeastAllocated).score(1, BalancedAllocation)
}

fn first_fit() -> Pipeline {
    Pipeline::new("first-fit").required()
}

fn main() {
    let cases = [
        Case { name: "1 shape", nodes: 5_000, pods: 50_000, shapes: 1, plain: 500, pipeline: spreading },
        Case { name: "16 shapes", nodes: 5_000, pods: 50_000, shapes: 16, plain: 500, pipeline: spreading },
        Case { name: "128 shapes", nodes: 5_000, pods: 50_000, shapes: 128, plain: 500, pipeline: spreading },
        Case { name: "all different", nodes: 5_000, pods: 50_000, shapes: 50_000, plain: 500, pipeline: spreading },
        Case { name: "many nodes", nodes: 100_000, pods: 50_000, shapes: 16, plain: 50, pipeline: spreading },
        Case { name: "first fit", nodes: 5_000, pods: 50_000, shapes: 16, plain: 500, pipeline: first_fit },
    ];
    println!(
        "{:>7} {:>7} {:14} {:>12} {:>12} {:>7} {:>10}",
        "NODES", "PODS", "", "DECISIONS/S", "PLAIN/S", "RATIO", "CPU S"
    );
    let wanted = env::args().skip(1).find(|argument| !argument.starts_with('-')).unwrap_or_default();
    for case in cases.iter().filter(|case| case.name.contains(&wanted)) {
        let (cpu, places) = case.run(&mut (case.pipeline)(), case.pods);
        let (cpu_plain, places_plain) = case.run(&mut (case.pipeline)().forgetful(), case.plain);
        assert!(places.starts_with(&places_plain), "{}: the places are not those of a plain look", case.name);
        let (speed, speed_plain) = (case.pods as f64 / cpu.as_secs_f64(), case.plain as f64 / cpu_plain.as_secs_f64());
        println!(
            "{:>7} {:>7} {:14} {speed:>12.0} {speed_plain:>12.0} {:>6.0}x {:>10.3}",
            case.nodes,
            case.pods,
            case.name,
            speed / speed_plain,
            cpu.as_secs_f64(),
        );
    }
}

impl Case {
    /// Places the first `count` pods one by one; the time it took, and where they went.
    fn run(&self, pipeline: &mut Pipeline, count: usize) -> (Duration, Vec<Option<Place>>) {
        let mut rng = fastrand::Rng::with_seed(SEED);
        let allocatable = Resources { cpu: 32_000, memory: 128 << 30, pods: 110, ..Resources::default() };
        let node = |at: usize| NodeInfo {
            name: format!("node-{at:06}").into(),
            allocatable: allocatable.clone(),
            ..NodeInfo::default()
        };
        let mut snapshot = Snapshot::new((0..self.nodes).map(node), []);
        let shapes: Vec<Arc<Shape>> = (0..self.shapes).map(|_| shape(&mut rng).into()).collect();
        let drawn = |at: usize| if self.shapes == self.pods { at } else { rng.usize(0..self.shapes) };
        let pods: Vec<PodId> = (0..self.pods)
            .map(drawn)
            .take(count)
            .map(|at| snapshot.add(PodView::new("pod", Arc::clone(&shapes[at]))))
            .collect();
        let before = thread_cpu();
        for pod in &pods {
            place(pipeline, &mut snapshot, *pod);
        }
        (thread_cpu() - before, pods.iter().map(|pod| snapshot.place_of(*pod)).collect())
    }
}

fn shape(rng: &mut fastrand::Rng) -> Shape {
    let requests =
        Resources { cpu: rng.i64(50..2_050), memory: rng.i64(64..4_096) << 20, pods: 1, ..Resources::default() };
    Shape { weighed_requests: requests.clone(), requests, ..Shape::default() }
}

fn place(pipeline: &mut Pipeline, snapshot: &mut Snapshot, pod: PodId) {
    let (now, queue) = (Timestamp::UNIX_EPOCH, Box::default());
    let unit = Unit { id: UnitId(0), pods: vec![pod], pods_min: 1, priority: 0, queue, since: now };
    let pending = std::slice::from_ref(&unit);
    let ask = Ask { now, seed: SEED, snapshot, pending, scope: None, steps_max: NonZeroU32::MAX };
    for step in &pipeline.plan(&ask).steps {
        commit(snapshot, step, Detect::Version).expect("the cluster has not changed since");
    }
}

fn thread_cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}
