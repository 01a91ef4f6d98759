//! What a simulated run is judged by.

use super::{
    simulation::{AgentOutcome, Amounts, Outcome},
    statistics::Summary,
};

/// What the run of a unit is taken for at least in bounded slowdowns, in seconds; the value in general use.
pub const BOUND: f64 = 10.0;

/// Seconds that were waited, sorted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Waits(Vec<f64>);

impl FromIterator<f64> for Waits {
    fn from_iter<T: IntoIterator<Item = f64>>(seconds: T) -> Self {
        let mut seconds: Vec<f64> = seconds.into_iter().collect();
        seconds.sort_by(f64::total_cmp);
        Self(seconds)
    }
}

impl Waits {
    /// How long units waited for their first place, of one tenant or of all. One that never got any has waited until the end,
    /// or longer.
    #[must_use]
    pub fn of(outcome: &Outcome, queue: Option<usize>) -> Self {
        let units = outcome.units.iter().filter(|unit| queue.is_none_or(|queue| unit.queue == queue));
        units.map(|unit| unit.placed.unwrap_or(outcome.end).since(unit.arrived).seconds()).collect()
    }

    /// The least of them that no less than a share of all don't exceed (the nearest rank); 0 of none.
    #[must_use]
    pub fn percentile(&self, percent: f64) -> f64 {
        let rank = (percent / 100.0 * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.clamp(1, self.0.len().max(1)) - 1).copied().unwrap_or(0.0)
    }

    /// The mean; 0 of none.
    #[must_use]
    pub fn mean(&self) -> f64 {
        if self.0.is_empty() { 0.0 } else { self.0.iter().sum::<f64>() / self.0.len() as f64 }
    }

    /// All of them, ascending.
    #[must_use]
    pub fn seconds(&self) -> &[f64] {
        &self.0
    }
}

/// The numbers of one run.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Metrics {
    /// The mean wait for a unit's first place, in seconds ([`Waits::of`]).
    pub wait_mean: f64,
    /// The median wait.
    pub wait_p50: f64,
    /// The 90th percentile of waits.
    pub wait_p90: f64,
    /// The 99th percentile.
    pub wait_p99: f64,
    /// The longest.
    pub wait_max: f64,
    /// The mean wait, in seconds, until every pod of a unit had a place, of those units that came so far.
    pub wait_whole_mean: f64,
    /// The mean time from when a unit came to when its last pod had ended (response time, job completion time), in seconds, of
    /// those that ended.
    pub response_mean: f64,
    /// The mean of response times, each as a multiple of the time from the unit's first place to its end.
    pub slowdown_mean: f64,
    /// The same, but where that time is less than [`BOUND`] seconds it is taken to be so long, and no unit for less than 1, so that
    /// short units don't outweigh all others (Feitelson et al., JSSPP 1997).
    pub bounded_slowdown_mean: f64,
    /// When the last pod ended, in seconds.
    pub makespan: f64,
    /// The share of cpu that pods took, as long as units came.
    pub cpu: f64,
    /// The share of memory.
    pub memory: f64,
    /// The share of devices.
    pub devices: f64,
    /// Of the time that pods ran and came to an end, whatever end, the share that was not lost. 1 if none did.
    pub goodput: f64,
    /// Steps refused, in part or as a whole, for each that was taken, of the agent for which that is most (Omega's conflict
    /// fraction; it may exceed 1).
    pub conflict_fraction: f64,
    /// The share of time that the busiest agent thought, as long as units came; more than 1 if it was not done by then.
    pub busyness: f64,
    /// The same, for what was refused.
    pub busyness_wasted: f64,
    /// Decisions for each unit.
    pub attempts: f64,
    /// How alike tenants' mean dominant shares were: 1 if equal, 1/n if one of n had all (Jain, Chiu, Hawe, DEC-TR-301, 1984).
    pub fairness: f64,
    /// The units that never got a place.
    pub unplaced: f64,
}

impl Metrics {
    /// The numbers' names, in the order of [`numbers`](Self::numbers); times are in seconds.
    pub const NAMES: [&str; 20] = [
        "wait_mean",
        "wait_p50",
        "wait_p90",
        "wait_p99",
        "wait_max",
        "wait_whole_mean",
        "response_mean",
        "slowdown_mean",
        "bounded_slowdown_mean",
        "makespan",
        "cpu",
        "memory",
        "devices",
        "goodput",
        "conflict_fraction",
        "busyness",
        "busyness_wasted",
        "attempts",
        "fairness",
        "unplaced",
    ];

    /// The numbers, in the order of their [`NAMES`](Self::NAMES).
    #[must_use]
    pub fn numbers(&self) -> [f64; 20] {
        [
            self.wait_mean,
            self.wait_p50,
            self.wait_p90,
            self.wait_p99,
            self.wait_max,
            self.wait_whole_mean,
            self.response_mean,
            self.slowdown_mean,
            self.bounded_slowdown_mean,
            self.makespan,
            self.cpu,
            self.memory,
            self.devices,
            self.goodput,
            self.conflict_fraction,
            self.busyness,
            self.busyness_wasted,
            self.attempts,
            self.fairness,
            self.unplaced,
        ]
    }

    /// Takes the numbers of a run.
    #[must_use]
    pub fn of(outcome: &Outcome) -> Self {
        let (waits, span) = (Waits::of(outcome, None), arriving_seconds(outcome));
        let whole = outcome.units.iter().filter_map(|unit| Some(unit.placed_whole?.since(unit.arrived).seconds()));
        let whole: Waits = whole.collect();
        // Response times, each with the time since the first place.
        let ended: Vec<(f64, f64)> = outcome
            .units
            .iter()
            .filter_map(|unit| {
                Some((unit.ended?.since(unit.arrived).seconds(), unit.ended?.since(unit.placed?).seconds()))
            })
            .collect();
        let slowdowns = ended.iter().filter(|(_, ran)| *ran > 0.0).map(|(response, ran)| response / ran);
        let bounded = ended.iter().map(|(response, ran)| (response / ran.max(BOUND)).max(1.0));
        let [cpu, memory, devices] = mean_shares(outcome, None, span);
        let ran = outcome.worked.seconds() + outcome.lost.seconds();
        let per = |part: f64, all: f64| if all > 0.0 { part / all } else { 0.0 };
        let attempts: u64 = outcome.agents.iter().map(|agent| agent.attempts).sum();
        // Who was refused whatever it tried counts as taken once.
        let fraction = |agent: &AgentOutcome| agent.conflicts as f64 / agent.committed.max(1) as f64;
        let conflicts = outcome.agents.iter().map(fraction);
        let busy = outcome.agents.iter().map(|agent| per(agent.busy.seconds(), span));
        let wasted = outcome.agents.iter().map(|agent| per(agent.wasted.seconds(), span));
        let dominant = |queue| mean_shares(outcome, Some(queue), span).into_iter().fold(0.0, f64::max);
        Self {
            wait_mean: waits.mean(),
            wait_p50: waits.percentile(50.0),
            wait_p90: waits.percentile(90.0),
            wait_p99: waits.percentile(99.0),
            wait_max: waits.percentile(100.0),
            wait_whole_mean: whole.mean(),
            response_mean: Summary::of(ended.iter().map(|(response, _)| *response)).mean,
            slowdown_mean: Summary::of(slowdowns).mean,
            bounded_slowdown_mean: Summary::of(bounded).mean,
            makespan: outcome.end.seconds(),
            cpu,
            memory,
            devices,
            goodput: if ran > 0.0 { outcome.worked.seconds() / ran } else { 1.0 },
            conflict_fraction: conflicts.fold(0.0, f64::max),
            busyness: busy.fold(0.0, f64::max),
            busyness_wasted: wasted.fold(0.0, f64::max),
            attempts: per(attempts as f64, outcome.units.len() as f64),
            fairness: jain((0..outcome.queues.len()).map(dominant)),
            unplaced: outcome.units.iter().filter(|unit| unit.placed.is_none()).count() as f64,
        }
    }
}

/// Jain's index: the square of the sum over n times the sum of squares; 1 of none, and of zeros.
pub fn jain(shares: impl IntoIterator<Item = f64>) -> f64 {
    let (mut count, mut sum, mut squares) = (0.0, 0.0, 0.0);
    for share in shares {
        (count, sum, squares) = (count + 1.0, sum + share, squares + share * share);
    }
    if squares > 0.0 { sum * sum / (count * squares) } else { 1.0 }
}

/// The shares of cpu, memory and devices that a tenant took, or all together, in the mean of each of `bins` equal parts of the
/// time in which units came; each with the middle of its part, in seconds.
#[must_use]
pub fn shares_over_time(outcome: &Outcome, queue: Option<usize>, bins: usize) -> Vec<(f64, [f64; 3])> {
    let width = arriving_seconds(outcome) / bins.max(1) as f64;
    let mut means = vec![[0.0; 3]; bins];
    let (mut taken, mut since) = (Amounts::default(), 0.0);
    let end = width * bins as f64;
    let changes = outcome.changes.iter().filter(|change| queue.is_none_or(|queue| change.queue == queue));
    let steps = changes.map(|change| (change.at.seconds(), change.more)).chain([(end, Amounts::default())]);
    for (at, more) in steps {
        let (until, shares) = (at.min(end), taken.shares(outcome.capacity));
        // Each part is given what falls into it of the span since the last change.
        let first = if width > 0.0 { (since / width) as usize } else { bins };
        for (bin, mean) in means.iter_mut().enumerate().skip(first) {
            let (from, to) = (since.max(bin as f64 * width), until.min((bin + 1) as f64 * width));
            if from >= until {
                break;
            }
            mean.iter_mut().zip(shares).for_each(|(mean, share)| *mean += share * (to - from).max(0.0) / width);
        }
        (taken, since) = (taken.plus(more, 1), until.max(since));
    }
    means.into_iter().enumerate().map(|(bin, mean)| ((bin as f64 + 0.5) * width, mean)).collect()
}

/// How long units came; how long the run was, if all came at once.
fn arriving_seconds(outcome: &Outcome) -> f64 {
    let last = outcome.units.last().map_or(0.0, |unit| unit.arrived.seconds());
    if last > 0.0 { last } else { outcome.end.seconds() }
}

/// The shares taken, in the mean over the first `span` seconds.
fn mean_shares(outcome: &Outcome, queue: Option<usize>, span: f64) -> [f64; 3] {
    let shares = shares_over_time(outcome, queue, 1).first().map_or([0.0; 3], |(_, shares)| *shares);
    if span > 0.0 { shares } else { [0.0; 3] }
}

#[cfg(test)]
mod tests {
    use super::{Metrics, Waits, jain, shares_over_time};
    use crate::{
        lab::simulation::{Agent, Arrival, Micros, Outcome, Simulation, Work},
        rng::Entropy,
        scheduler::{FirstFit, NodeInfo, Resources, Shape},
    };

    /// On one node of two cores: a core for 10 s from the beginning, one for 20 s from 5 s, and two cores from 10 s for 10 s,
    /// which have to wait until 25 s.
    fn outcome() -> Outcome {
        let amounts = |cpu| Resources { cpu, pods: 10, ..Resources::default() };
        let node = NodeInfo { name: "n".into(), allocatable: amounts(2_000), ..NodeInfo::default() };
        let arrival = |(at, queue, cores, runs): (f64, &str, i64, f64)| {
            let requests = Resources { pods: 1, ..amounts(1_000 * cores) };
            let shape = Shape { requests, ..Shape::default() };
            let work = Work::new(shape, Some(Micros::from_seconds(runs)));
            Arrival { queue: queue.into(), ..Arrival::pod("", Micros::from_seconds(at), work) }
        };
        let arrivals = [(0.0, "a", 1, 10.0), (5.0, "b", 1, 20.0), (10.0, "a", 2, 10.0)].map(arrival);
        Simulation::of(&[node]).run(arrivals, vec![Agent::new(FirstFit::default())], |_| 0, &Entropy::seeded(1))
    }

    #[test]
    fn the_numbers_of_a_small_run_are_those_by_hand() {
        let metrics = Metrics::of(&outcome());
        assert_eq!((metrics.wait_mean, metrics.wait_p50, metrics.wait_max), (5.0, 0.0, 15.0));
        // Responses of 10, 20 and 25 s, of which the last ran for 10 s.
        assert!((metrics.response_mean - 55.0 / 3.0).abs() < 1e-9, "{metrics:?}");
        assert_eq!((metrics.slowdown_mean, metrics.bounded_slowdown_mean), (1.5, 1.5));
        assert_eq!((metrics.makespan, metrics.goodput, metrics.unplaced), (35.0, 1.0, 0.0));
        // Until the last unit comes at 10 s: a core for 10 s, another for 5 s, of two.
        assert!((metrics.cpu - 0.75).abs() < 1e-9, "{metrics:?}");
        // Tenants' shares: 0.5 and 0.25.
        assert!((metrics.fairness - 0.75 * 0.75 / (2.0 * (0.25 + 0.0625))).abs() < 1e-9, "{metrics:?}");
        assert_eq!((metrics.conflict_fraction, metrics.attempts), (0.0, 4.0 / 3.0));
        assert_eq!(Metrics::NAMES.len(), metrics.numbers().len());
    }

    #[test]
    fn shares_are_those_of_each_part_of_the_time() {
        let halves = shares_over_time(&outcome(), None, 2);
        assert_eq!(halves.iter().map(|(at, shares)| (*at, shares[0])).collect::<Vec<_>>(), [(2.5, 0.5), (7.5, 1.0)]);
        let of_b: Vec<f64> = shares_over_time(&outcome(), Some(1), 4).iter().map(|(_, shares)| shares[0]).collect();
        assert_eq!(of_b, [0.0, 0.0, 0.5, 0.5]);
        assert_eq!(shares_over_time(&Outcome::default(), None, 1), [(0.0, [0.0; 3])]);
        assert_eq!(Metrics::of(&Outcome::default()).fairness, 1.0);
    }

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let waits: Waits = (1..=100).rev().map(f64::from).collect();
        assert_eq!(
            [0.0, 50.0, 90.0, 99.0, 100.0].map(|percent| waits.percentile(percent)),
            [1.0, 50.0, 90.0, 99.0, 100.0]
        );
        assert_eq!((Waits::default().percentile(50.0), Waits::default().mean()), (0.0, 0.0));
    }

    #[test]
    fn fairness_is_from_one_to_one_of_n() {
        assert!((jain([0.3, 0.3, 0.3]) - 1.0).abs() < 1e-12);
        assert!((jain([1.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-12);
        assert_eq!(jain([]), 1.0);
    }
}
