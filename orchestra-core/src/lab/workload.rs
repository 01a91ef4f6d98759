//! Workloads for simulations: generated from a seed by what was published of real ones, or taken from a trace.
//!
//! A generator is calibrated by numbers from the literature alone, so that examples need no file; each says where its own are
//! from. It is no trace: daily waves, dependencies between jobs and the habits of users are not in it.

use std::sync::Arc;

use super::{
    simulation::{Amounts, Arrival, Micros, Work},
    trace::{Task, Trace},
};
use crate::{
    rng::Entropy,
    scheduler::{DEVICE_MILLIS, DeviceRequest, NodeInfo, Resources, Shape},
};

/// Pods a node may have: beyond any of these workloads' bounds.
const PODS_MAX: i64 = 1_000;

/// Machines that are made up for a trace: beyond any cell known.
const MACHINES_MAX: usize = 100_000;

/// Which share of them a trace asks for in the mean: what comes in bursts would wait for most of the time if it asked for all.
const ASKED_SHARE: f64 = 0.4;

/// How a number is distributed; all are positive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Distribution {
    /// Always this one.
    Fixed(f64),
    /// Exponential.
    Exponential {
        /// The mean.
        mean: f64,
    },
    /// Its logarithm is normal.
    LogNormal {
        /// The median.
        median: f64,
        /// The standard deviation of the natural logarithm.
        sigma: f64,
    },
}

impl Distribution {
    /// The lognormal distribution with this median, and this 90th percentile.
    #[must_use]
    pub fn log_normal(median: f64, p90: f64) -> Self {
        /// The 90th percentile of the standard normal distribution.
        const Z90: f64 = 1.281_551_565_545;
        Self::LogNormal { median, sigma: (p90 / median).ln() / Z90 }
    }

    /// The mean.
    #[must_use]
    pub fn mean(&self) -> f64 {
        match *self {
            Self::Fixed(mean) | Self::Exponential { mean } => mean,
            Self::LogNormal { median, sigma } => median * (sigma * sigma / 2.0).exp(),
        }
    }

    /// Draws a number.
    #[must_use]
    pub fn draw(&self, entropy: &Entropy) -> f64 {
        // In (0, 1], of which there is a logarithm.
        let uniform = || 1.0 - entropy.next_f64();
        match *self {
            Self::Fixed(number) => number,
            Self::Exponential { mean } => -uniform().ln() * mean,
            Self::LogNormal { median, sigma } => {
                // Box and Muller, Annals of Mathematical Statistics 29, 1958.
                let (radius, angle) = ((-2.0 * uniform().ln()).sqrt(), std::f64::consts::TAU * uniform());
                median * (sigma * radius * angle.cos()).exp()
            }
        }
    }
}

/// The units of one tenant, which are alike but for chance.
#[derive(Clone, Debug)]
pub struct Class {
    /// The tenant.
    pub queue: Box<str>,
    /// A higher one is served first.
    pub priority: i32,
    /// Seconds from one unit to the next.
    pub interarrival: Distribution,
    /// How many pods a unit has: rounded, at least 1.
    pub pods: Distribution,
    /// Whether a unit needs all of its pods placed at once.
    pub gang: bool,
    /// How long the pods of a unit run, in seconds; all of one unit equally long.
    pub runs: Distribution,
    /// What pods need, each with its weight; all of one unit alike.
    pub sizes: Vec<(f64, Arc<Shape>)>,
}

impl Class {
    /// What its pods take on average, if each gets a place at once: by Little's law, what comes in a second times how long it
    /// stays.
    #[must_use]
    pub fn offered(&self) -> [f64; 3] {
        let weights: f64 = self.sizes.iter().map(|(weight, _)| weight).sum();
        let running = self.pods.mean() * self.runs.mean() / self.interarrival.mean() / weights;
        let mut offered = [0.0; 3];
        for (weight, shape) in &self.sizes {
            let Amounts { cpu, memory, device_millis } = Amounts::of(shape);
            for (sum, amount) in offered.iter_mut().zip([cpu, memory, device_millis]) {
                *sum += running * weight * amount as f64;
            }
        }
        offered
    }

    fn size(&self, entropy: &Entropy) -> Option<&Arc<Shape>> {
        let mut draw = entropy.next_f64() * self.sizes.iter().map(|(weight, _)| weight).sum::<f64>();
        let mut sizes = self.sizes.iter();
        let drawn = sizes.find(|(weight, _)| {
            draw -= weight;
            draw < 0.0
        });
        drawn.or(self.sizes.last()).map(|(_, shape)| shape)
    }

    fn arrivals(&self, until: Micros, entropy: &Entropy) -> Vec<Arrival> {
        let (mut arrivals, mut seconds) = (Vec::new(), 0.0);
        loop {
            seconds += self.interarrival.draw(entropy).max(1e-6);
            let at = Micros::from_seconds(seconds);
            let Some(shape) = self.size(entropy).filter(|_| at <= until) else { return arrivals };
            let count = (self.pods.draw(entropy).round() as usize).max(1);
            let work = Work::new(Arc::clone(shape), Some(Micros::from_seconds(self.runs.draw(entropy).max(1e-6))));
            arrivals.push(Arrival {
                at,
                name: format!("{}-{}", self.queue, arrivals.len()).into(),
                queue: self.queue.clone(),
                priority: self.priority,
                pods: vec![work; count],
                pods_min: if self.gang { count } else { 1 },
            });
        }
    }
}

/// Generates a workload from several classes.
#[derive(Clone, Debug)]
pub struct Generator(pub Vec<Class>);

impl Generator {
    /// Draws the units that come until then, in the order of time. Each class draws for itself, so that another one more
    /// changes none.
    #[must_use]
    pub fn arrivals(&self, until: Micros, entropy: &Entropy) -> Vec<Arrival> {
        let mut arrivals: Vec<Arrival> =
            self.0.iter().flat_map(|class| class.arrivals(until, &entropy.fork())).collect();
        arrivals.sort_by_key(|arrival| arrival.at);
        arrivals
    }

    /// Draws the units of so many days.
    #[must_use]
    pub fn days(&self, days: f64, seed: u64) -> Vec<Arrival> {
        self.arrivals(Micros::from_seconds(days * 86_400.0), &Entropy::seeded(seed))
    }

    /// The same at another load: as a multiple of the resource of these nodes that is asked for most.
    #[must_use]
    pub fn at_load(mut self, load: f64, nodes: &[NodeInfo]) -> Self {
        let Amounts { cpu, memory, device_millis } = Amounts::capacity(nodes);
        let share = |at: usize, all: i64| {
            let asked: f64 = self.0.iter().filter_map(|class| class.offered().get(at).copied()).sum();
            if all > 0 { asked / all as f64 } else { 0.0 }
        };
        let now = share(0, cpu).max(share(1, memory)).max(share(2, device_millis));
        let times = if load > 0.0 && now > 0.0 { now / load } else { 1.0 };
        for class in &mut self.0 {
            match &mut class.interarrival {
                Distribution::Fixed(one) | Distribution::Exponential { mean: one } => *one *= times,
                Distribution::LogNormal { median, .. } => *median *= times,
            }
        }
        self
    }

    /// Batch jobs and services, as in the example of Omega's simulator (google/cluster-scheduler-simulator, `Workloads.scala`):
    /// everything exponential; batch jobs of 100 tasks and 100 s each 10 s, service jobs of 10 tasks and 500 s each 20 s, with
    /// 1 cpu and 2 GiB a task, on [`omega_nodes`]. Its authors say that these numbers are fabricated; they keep what
    /// Schwarzkopf et al. (EuroSys 2013, section 2.1) found: most jobs are batch, and services stay longer.
    #[must_use]
    pub fn omega() -> Self {
        let exponential = |mean| Distribution::Exponential { mean };
        let sizes = vec![(1.0, shape(1_000, 2, DeviceRequest::default()))];
        let class = |queue: &str, interarrival, pods, runs| Class {
            queue: queue.into(),
            priority: 0,
            interarrival: exponential(interarrival),
            pods: exponential(pods),
            gang: false,
            runs: exponential(runs),
            sizes: sizes.clone(),
        };
        Self(vec![class("batch", 10.0, 100.0, 100.0), class("service", 20.0, 10.0, 500.0)])
    }

    /// Single pods that share GPUs, of three tenants: how many GPUs a pod needs is as in Alibaba's cluster (Weng et al., ATC 2023,
    /// table 1: 13.3 % none, 37.8 % a share of one, 48.0 % one, 0.2 % two, 0.2 % four, 0.5 % eight), how long it runs as in its
    /// machine-learning platform (Weng et al., NSDI 2022: a median of 23 minutes, a 90th percentile of 4.5 hours). Which share of
    /// a GPU, and how much cpu beside it, are round numbers of our own. The load is 1 on 20 [`gpu_nodes`].
    #[must_use]
    pub fn gpu_sharing() -> Self {
        let gpus = |count, millis| DeviceRequest { count, millis, ..DeviceRequest::default() };
        let sizes = vec![
            (13.3, shape(8_000, 16, DeviceRequest::default())),
            (12.6, shape(4_000, 16, gpus(1, 250))),
            (12.6, shape(6_000, 24, gpus(1, 500))),
            (12.6, shape(8_000, 32, gpus(1, 750))),
            (48.0, shape(8_000, 32, gpus(1, DEVICE_MILLIS))),
            (0.2, shape(16_000, 64, gpus(2, DEVICE_MILLIS))),
            (0.2, shape(32_000, 128, gpus(4, DEVICE_MILLIS))),
            (0.5, shape(64_000, 256, gpus(8, DEVICE_MILLIS))),
        ];
        let class = |queue: &str| Class {
            queue: queue.into(),
            priority: 0,
            interarrival: Distribution::Exponential { mean: 1.0 },
            pods: Distribution::Fixed(1.0),
            gang: false,
            runs: Distribution::log_normal(23.0 * 60.0, 4.5 * 3_600.0),
            sizes: sizes.clone(),
        };
        Self(vec![class("a"), class("b"), class("c")]).at_load(1.0, &gpu_nodes(20))
    }
}

/// The machines of Omega's example: 4 cores and 16 GiB each.
#[must_use]
pub fn omega_nodes(count: usize) -> Vec<NodeInfo> {
    (0..count).map(|at| node(at, 4_000, 16, 0)).collect()
}

/// Nodes with 8 GPUs and 96 cores, and with 2 GPUs and 32 cores, in turn: 5 GPUs a node, where OpenB's have 5.1.
#[must_use]
pub fn gpu_nodes(count: usize) -> Vec<NodeInfo> {
    (0..count)
        .map(|at| if at.is_multiple_of(2) { node(at, 96_000, 384, 8) } else { node(at, 32_000, 128, 2) })
        .collect()
}

/// A trace as a workload, in the order of time: each task is a unit. One that the trace knows no end of doesn't end. Asked for a
/// load, it comes as fast as that takes ([`at_load`]); else as it was recorded.
#[must_use]
pub fn of_trace(tasks: &[Task], load: Option<f64>, nodes: &[NodeInfo]) -> Vec<Arrival> {
    let arrival = |task: &Task| {
        let estimate = task.estimated.map(Micros::from);
        let work = Work { estimate, ..Work::new(Arc::clone(&task.shape), task.runs.map(Micros::from)) };
        Arrival {
            at: task.arrives.into(),
            name: task.name.clone(),
            queue: task.queue.clone(),
            priority: task.priority,
            pods: vec![work; task.pods],
            pods_min: task.pods_min,
        }
    };
    let mut arrivals: Vec<Arrival> = tasks.iter().map(arrival).collect();
    arrivals.sort_by_key(|arrival| arrival.at);
    if let Some(load) = load { at_load(arrivals, load, nodes) } else { arrivals }
}

/// `count` machines like those a trace was recorded on, each no smaller than its largest pod. If nobody says how many, the nodes
/// that the trace tells of; and if it tells of none, so many machines that it asks for 40 % of them in the mean over the time in
/// which it comes, which leaves room for bursts, or that its largest gang has room; up to 100,000.
#[must_use]
pub fn nodes_of_trace(trace: &Trace, count: Option<usize>) -> Vec<NodeInfo> {
    if !trace.nodes.is_empty() && count.is_none() {
        return trace.nodes.clone();
    }
    let mut machine = trace.machine.clone();
    for Task { shape, .. } in &trace.tasks {
        machine.allocatable.maximum(&shape.requests);
        machine.devices = machine.devices.max(shape.devices.count);
    }
    let count = count.unwrap_or_else(|| {
        let one = [machine.clone()];
        let asked = asked(&of_trace(&trace.tasks, None, &[]), 1.0, Amounts::capacity(&one));
        // A sum of fractions that should be whole may be a little more.
        let asked = (asked / ASKED_SHARE - 1e-9).ceil() as usize;
        let whole = trace.tasks.iter().map(|task| task.pods_min.div_ceil(room(&machine, &task.shape))).max();
        asked.max(whole.unwrap_or(1)).clamp(1, MACHINES_MAX)
    });
    (0..count).map(|at| NodeInfo { name: format!("node-{at:05}").into(), ..machine.clone() }).collect()
}

/// How many pods of a shape an empty node has room for; at least 1.
fn room(node: &NodeInfo, shape: &Shape) -> usize {
    let (has, takes) = (Amounts::capacity(std::slice::from_ref(node)), Amounts::of(shape));
    let devices = DEVICE_MILLIS.checked_div(shape.devices.millis).map(|each| i64::from(each) * i64::from(node.devices));
    let fits = [
        has.cpu.checked_div(takes.cpu),
        has.memory.checked_div(takes.memory),
        devices.and_then(|devices| devices.checked_div(shape.devices.count.into())),
        Some(node.allocatable.pods),
    ];
    fits.into_iter().flatten().min().and_then(|least| usize::try_from(least).ok()).unwrap_or(1).max(1)
}

/// How much of what there is a workload asks for in the mean over the time in which it comes, if that is so many times as long, and
/// each pod gets a place at once: of the resource of which that is most. Of a workload that comes all at once, what it asks for
/// then.
fn asked(arrivals: &[Arrival], times: f64, capacity: Amounts) -> f64 {
    let span = arrivals.last().map_or(0.0, |last| last.at.seconds());
    let mut sums = [0.0; 3];
    for (at, work) in arrivals.iter().flat_map(|arrival| arrival.pods.iter().map(|work| (arrival.at, work))) {
        let left = (span - at.seconds()) * times;
        let lasts = work.runs.map_or(left, |runs| runs.seconds().min(left));
        let share_of_time = if span > 0.0 { lasts / (span * times) } else { 1.0 };
        let shares = Amounts::of(&work.shape).shares(capacity);
        sums.iter_mut().zip(shares).for_each(|(sum, share)| *sum += share * share_of_time);
    }
    sums.into_iter().fold(0.0, f64::max)
}

/// A workload that comes faster or slower, so that it asks for so much as a multiple of what the nodes have: in the mean over the
/// time in which it comes, if each pod gets a place at once. As near as can be: pods that outlast that time are no more than
/// there are. As it was if it asks for nothing, or comes all at once.
#[must_use]
pub fn at_load(mut arrivals: Vec<Arrival>, load: f64, nodes: &[NodeInfo]) -> Vec<Arrival> {
    let (capacity, span) = (Amounts::capacity(nodes), arrivals.last().map_or(0.0, |last| last.at.seconds()));
    if span <= 0.0 || asked(&arrivals, 1.0, capacity) <= 0.0 {
        return arrivals;
    }
    // The faster it comes, the more it asks for: halve the interval between a millionth and a million times as slow.
    let (mut low, mut high) = (-6.0, 6.0);
    for _ in 0..50 {
        let middle = f64::midpoint(low, high);
        if asked(&arrivals, 10_f64.powf(middle), capacity) > load { low = middle } else { high = middle }
    }
    let times = 10_f64.powf(high);
    arrivals.iter_mut().for_each(|arrival| arrival.at = Micros::from_seconds(arrival.at.seconds() * times));
    arrivals
}

fn node(at: usize, cpu: i64, gibibytes: i64, devices: u8) -> NodeInfo {
    let allocatable = Resources { cpu, memory: gibibytes << 30, pods: PODS_MAX, ..Resources::default() };
    NodeInfo { name: format!("node-{at:05}").into(), allocatable, devices, ..NodeInfo::default() }
}

fn shape(cpu: i64, gibibytes: i64, devices: DeviceRequest) -> Arc<Shape> {
    let requests = Resources { cpu, memory: gibibytes << 30, pods: 1, ..Resources::default() };
    Shape { weighed_requests: requests.clone(), requests, devices, ..Shape::default() }.into()
}

#[cfg(test)]
mod tests {
    use super::{Distribution, Generator, Micros, gpu_nodes, nodes_of_trace, of_trace, omega_nodes};
    use crate::{
        lab::{metrics::Metrics, policies, simulation::Amounts, statistics::Summary, trace},
        rng::Entropy,
    };

    #[test]
    fn draws_have_the_mean_and_the_percentiles_they_were_asked_for() {
        let entropy = Entropy::seeded(1);
        let long = Distribution::log_normal(1_380.0, 16_200.0);
        let mut draws: Vec<f64> = (0..20_000).map(|_| long.draw(&entropy)).collect();
        draws.sort_by(f64::total_cmp);
        assert!((draws[10_000] / 1_380.0 - 1.0).abs() < 0.05, "median {}", draws[10_000]);
        assert!((draws[18_000] / 16_200.0 - 1.0).abs() < 0.05, "90th percentile {}", draws[18_000]);
        for distribution in
            [Distribution::Exponential { mean: 7.0 }, Distribution::LogNormal { median: 2.0, sigma: 0.5 }]
        {
            let drawn = Summary::of((0..20_000).map(|_| distribution.draw(&entropy)));
            assert!((drawn.mean / distribution.mean() - 1.0).abs() < 0.03, "{distribution:?}: {drawn:?}");
        }
        assert_eq!(Distribution::Fixed(3.0).draw(&entropy), 3.0);
    }

    #[test]
    fn a_workload_is_in_order_and_of_its_seed() {
        let (generator, day) = (Generator::omega(), Micros::from_seconds(86_400.0));
        let draw = |seed| generator.arrivals(day, &Entropy::seeded(seed));
        let arrivals = draw(3);
        assert_eq!(arrivals, draw(3));
        assert_ne!(arrivals, draw(4));
        assert!(arrivals.is_sorted_by_key(|arrival| arrival.at) && arrivals.iter().all(|arrival| arrival.at <= day));
        let of = |queue: &'static str| arrivals.iter().filter(move |arrival| &*arrival.queue == queue);
        let (batch, service) = (of("batch").count() as f64, of("service").count() as f64);
        assert!((batch / 8_640.0 - 1.0).abs() < 0.05 && (service / 4_320.0 - 1.0).abs() < 0.05, "{batch} {service}");
        let pods = Summary::of(of("batch").map(|arrival| arrival.pods.len() as f64));
        assert!((pods.mean - 100.0).abs() < 5.0, "{pods:?}");
    }

    #[test]
    fn a_load_is_what_the_nodes_would_be_asked_for() {
        for (generator, nodes) in [(Generator::omega(), omega_nodes(50)), (Generator::gpu_sharing(), gpu_nodes(30))] {
            let capacity = Amounts::capacity(&nodes);
            let all = [capacity.cpu, capacity.memory, capacity.device_millis].map(|all| all as f64);
            let generator = generator.at_load(0.8, &nodes);
            let load = |at: usize| generator.0.iter().map(|class| class.offered()[at]).sum::<f64>() / all[at].max(1.0);
            let most = (0..3).map(load).fold(0.0, f64::max);
            assert!((most - 0.8).abs() < 1e-9, "{most}");
        }
    }

    #[test]
    fn a_workload_comes_as_fast_as_it_is_told_to() {
        let nodes = gpu_nodes(200);
        let recorded = Generator::gpu_sharing().days(2.0, 1);
        for load in [0.1, 0.2] {
            let arrivals = super::at_load(recorded.clone(), load, &nodes);
            let outcome = policies::run(&nodes, &arrivals, "first-fit", 1).expect("a policy");
            let metrics = Metrics::of(&outcome);
            assert!((metrics.devices - load).abs() < 0.001, "asked for {load}: {metrics:?}");
        }
        assert!(super::at_load(Vec::new(), 1.0, &nodes).is_empty());
        assert_eq!(super::at_load(recorded[..1].to_vec(), 1.0, &[]), recorded[..1]);
    }

    #[test]
    fn a_trace_comes_in_the_order_of_time() {
        let pods = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,creation_time,deletion_time\n\
                    late,1,1,0,0,30,50\nearly,1,1,0,0,10,\n";
        let tasks = trace::openb::pods(pods.as_bytes(), "pods").expect("pods");
        let arrivals = of_trace(&tasks, None, &[]);
        let seen: Vec<_> = arrivals.iter().map(|one| (&*one.name, one.at.seconds(), one.pods[0].runs)).collect();
        assert_eq!(seen, [("early", 10.0, None), ("late", 30.0, Some(Micros::from_seconds(20.0)))]);
    }

    #[test]
    fn a_trace_without_nodes_gets_as_many_as_it_asks_for() {
        let header = "vc,job_type,total_steps,arrival_s,scale_factor,duration_v100_s\n";
        let read = |jobs: &str| trace::philly::jobs(format!("{header}{jobs}").as_bytes(), "jobs").expect("jobs");
        let nodes = |jobs: &str, count| nodes_of_trace(&read(jobs), count).len();
        assert_eq!(nodes("a,LM,1,0,4,50\nb,LM,1,100,1,1\n", None), 1, "a quarter of one");
        assert_eq!(nodes("a,LM,1,0,4,80\na,LM,1,0,8,80\na,LM,1,0,8,80\nb,LM,1,100,1,1\n", None), 5);
        assert_eq!(nodes("a,LM,1,0,17,1\nb,LM,1,100,1,1\n", None), 3, "a gang of 17 has room on 3 machines");
        assert_eq!(nodes("a,LM,1,0,17,1\n", Some(7)), 7);
        assert_eq!(nodes("", None), 1);
        let arrivals = of_trace(&read("a,LM,1,0,17,1\n").tasks, None, &[]);
        assert_eq!((arrivals[0].pods.len(), arrivals[0].pods_min, &*arrivals[0].queue), (17, 17, "a"));
    }
}
