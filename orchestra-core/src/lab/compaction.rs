//! How small a cell can be before its workload no longer fits: *cell compaction* (Verma et al., Large-scale cluster management
//! at Google with Borg, EuroSys 2015, section 5.1; and Verma, Korupolu and Wilkes, CLUSTER 2014).
//!
//! Machines are taken away at random, and the workload is packed anew each time, until it no longer fits. As much depends on
//! which are taken, that is tried several times: the result is the 90th percentile of the trials, with the least and the most as
//! its error bars. A cell that is too small for its workload is cloned until it isn't. Unlike Borg's, constraints stay hard.

use std::{num::NonZeroU32, sync::Arc};

use super::{
    parallel,
    plot::{Line, Plot, XAxis},
};
use crate::{
    clock::Timestamp,
    rng::mixed,
    scheduler::{Ask, NodeInfo, Op, PodId, PodView, Scheduler, Shape, Snapshot, Unit, UnitId},
};

/// How often Borg's authors try each cell.
pub const TRIALS: u64 = 11;
/// The share of pods that may stay pending in what is taken to fit: those that are very picky.
pub const PENDING_MAX: f64 = 0.002;
/// A cell grows to no more clones than this; what still doesn't fit never will.
const CLONES_MAX: usize = 64;

/// A cell, and what runs in it.
#[derive(Clone, Debug)]
pub struct Compaction<'a> {
    /// Its machines.
    pub nodes: &'a [NodeInfo],
    /// Its pods, which are packed in an order that the trial draws.
    pub pods: &'a [Arc<Shape>],
    /// The share of pods that may stay pending, 0 to 1; [`PENDING_MAX`] is Borg's.
    pub pending_max: f64,
}

/// How many machines were needed, by trial.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compacted {
    /// In rising order; `None`, at the end, if the workload fits no number of clones of the cell.
    pub machines: Vec<Option<usize>>,
}

impl Compacted {
    /// The 90th percentile by nearest rank: enough machines, most of the time. `None` if there are none.
    #[must_use]
    pub fn result(&self) -> Option<usize> {
        let rank = (self.machines.len() * 9).div_ceil(10);
        *self.machines.get(rank.checked_sub(1)?)?
    }

    /// The least and the most.
    #[must_use]
    pub fn range(&self) -> Option<(usize, usize)> {
        Some(((*self.machines.first()?)?, (*self.machines.last()?)?))
    }
}

impl Compaction<'_> {
    /// Makes `trials` of it, as many at a time as there are processors, each with a scheduler of its own.
    pub fn run<S: Scheduler>(&self, trials: u64, scheduler: impl Fn() -> S + Sync) -> Compacted {
        let seeds: Vec<u64> = (0..trials).collect();
        let mut machines = parallel::run(&seeds, |seed| self.trial(*seed, &mut scheduler()));
        machines.sort_unstable_by_key(|needed| needed.unwrap_or(usize::MAX));
        Compacted { machines }
    }

    /// With how many machines the workload fits, and doesn't with one less, where they are taken in the order that `seed` draws;
    /// `None` if it never fits.
    pub fn trial(&self, seed: u64, scheduler: &mut dyn Scheduler) -> Option<usize> {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut pods: Vec<&Arc<Shape>> = self.pods.iter().collect();
        rng.shuffle(&mut pods);
        let mut cell: Vec<NodeInfo> = Vec::new();
        let mut clone_cell = |cell: &mut Vec<NodeInfo>| {
            let mut order: Vec<&NodeInfo> = self.nodes.iter().collect();
            rng.shuffle(&mut order);
            let from = cell.len();
            let named = |(at, node): (usize, &NodeInfo)| NodeInfo {
                name: format!("{:06}-{}", from + at, node.name).into(),
                ..node.clone()
            };
            cell.extend(order.into_iter().enumerate().map(named));
        };
        clone_cell(&mut cell);
        while !self.fits(&cell, &pods, seed, scheduler) {
            if self.nodes.is_empty() || cell.len() >= CLONES_MAX * self.nodes.len() {
                return None;
            }
            (0..cell.len() / self.nodes.len()).for_each(|_| clone_cell(&mut cell));
        }
        // With `few` it doesn't fit, unless that is none at all; with `enough` it does.
        let (mut few, mut enough) = (0, cell.len());
        while enough - few > 1 {
            let half = few + (enough - few) / 2;
            if self.fits(&cell[..half], &pods, seed, scheduler) {
                enough = half;
            } else {
                few = half;
            }
        }
        Some(if pods.is_empty() { 0 } else { enough })
    }

    /// Whether so many pods have a place that the others may stay pending.
    fn fits(&self, cell: &[NodeInfo], pods: &[&Arc<Shape>], seed: u64, scheduler: &mut dyn Scheduler) -> bool {
        let views = pods.iter().map(|shape| (PodView::new("", Arc::clone(shape)), None));
        let snapshot = Snapshot::new(cell.iter().cloned(), views);
        let now = Timestamp::UNIX_EPOCH;
        let units: Vec<Unit> = (0..)
            .zip(pods)
            .map(|(at, _)| Unit {
                id: UnitId(at),
                pods: vec![PodId(at)],
                pods_min: 1,
                priority: 0,
                queue: Box::default(),
                since: now,
            })
            .collect();
        let seed = mixed(seed, cell.len() as u64);
        let ask = Ask { now, seed, snapshot: &snapshot, pending: &units, scope: None, steps_max: NonZeroU32::MAX };
        let plan = scheduler.plan(&ask);
        let placed = plan.steps.iter().flat_map(|step| &step.ops).filter(|op| matches!(op, Op::Place { .. })).count();
        let pending_max = (pods.len() as f64 * self.pending_max).floor() as usize;
        pods.len() - placed.min(pods.len()) <= pending_max
    }
}

/// A picture of how many machines each candidate needs, in hundredths of `machines`, with error bars.
#[must_use]
pub fn plot(title: &str, machines: usize, rows: &[(Box<str>, Compacted)]) -> Plot {
    let line = |(at, (name, compacted)): (usize, &(Box<str>, Compacted))| {
        let percent = |count: usize| 100.0 * count as f64 / machines.max(1) as f64;
        let drawn = compacted.range().zip(compacted.result()).map(|((least, most), result)| {
            let (x, least, most, result) = (at as f64 + 1.0, percent(least), percent(most), percent(result));
            let bar = |wide: f64, y| [(x, y), (x - wide, y), (x + wide, y), (x, y)];
            [bar(0.1, least), bar(0.3, result), bar(0.1, most)].concat()
        });
        Line { name: name.clone(), points: drawn.unwrap_or_default() }
    };
    Plot {
        title: title.into(),
        x: "candidate".into(),
        y: "machines needed (% of the cell): 90th percentile, least and most".into(),
        x_axis: XAxis::Linear,
        lines: rows.iter().enumerate().map(line).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::{Compacted, Compaction, PENDING_MAX, TRIALS, plot};
    use crate::scheduler::{BestFit, NodeInfo, Pipeline, Resources, Shape};

    fn node(name: usize, cpu: i64) -> NodeInfo {
        let allocatable = Resources { cpu, pods: 100, ..Resources::default() };
        NodeInfo { name: format!("n{name}").into(), allocatable, ..NodeInfo::default() }
    }

    fn pod(cpu: i64) -> Arc<Shape> {
        Shape { requests: Resources { cpu, pods: 1, ..Resources::default() }, ..Shape::default() }.into()
    }

    fn best_fit() -> Pipeline {
        Pipeline::new("best-fit").required().score(1, BestFit::default())
    }

    proptest! {
        /// Whatever is drawn, as many machines are needed as full ones hold, where pods fill machines to the last.
        #[test]
        fn a_cell_of_equal_machines_shrinks_to_what_its_pods_fill(
            machines in 1..30_usize,
            count in 0..60_usize,
            seed: u64,
        ) {
            let nodes: Vec<_> = (0..machines).map(|at| node(at, 4_000)).collect();
            let pods = vec![pod(1_000); count];
            let compaction = Compaction { nodes: &nodes, pods: &pods, pending_max: 0.0 };
            prop_assert_eq!(compaction.trial(seed, &mut best_fit()), Some(count.div_ceil(4)));
        }

        /// Never fewer than hold the sum, nor more than there are pods; and trials that are made again find the same.
        #[test]
        fn what_is_needed_holds_the_sum(sizes in prop::collection::vec(1..=4_i64, 1..40), machines in 1..12_usize) {
            let nodes: Vec<_> = (0..machines).map(|at| node(at, 4_000)).collect();
            let pods: Vec<_> = sizes.iter().map(|cpu| pod(cpu * 1_000)).collect();
            let compaction = Compaction { nodes: &nodes, pods: &pods, pending_max: 0.0 };
            let best = compaction.run(TRIALS, best_fit);
            prop_assert!(best.machines.is_sorted() && best == compaction.run(TRIALS, best_fit));
            let (least, most) = best.range().expect("each pod fits a machine");
            let sum = usize::try_from(sizes.iter().sum::<i64>()).expect("small");
            prop_assert!(least >= sum.div_ceil(4) && most <= sizes.len(), "{best:?}");
        }
    }

    #[test]
    fn a_few_picky_pods_may_stay_pending_and_what_never_fits_needs_no_number() {
        let nodes = [node(0, 4_000)];
        let mut pods = vec![pod(4); 999];
        pods.push(pod(5_000));
        let needed = |pending_max| Compaction { nodes: &nodes, pods: &pods, pending_max }.trial(1, &mut best_fit());
        assert_eq!((needed(PENDING_MAX), needed(0.0)), (Some(10), None), "a machine takes 100 pods");
    }

    #[test]
    fn the_result_is_the_ninetieth_percentile_and_drawn_with_its_bars() {
        let compacted = Compacted { machines: (1..=11).map(Some).collect() };
        assert_eq!((compacted.result(), compacted.range()), (Some(10), Some((1, 11))));
        assert_eq!((Compacted::default().result(), Compacted::default().range()), (None, None));
        let plot = plot("Compaction", 20, &[("best-fit".into(), compacted), ("none".into(), Compacted::default())]);
        assert_eq!(plot.lines[0].points[6], (1.3, 50.0));
        assert!(plot.svg().expect("it has points").contains("best-fit"));
    }
}
