//! Pods that run, moved to where they would rather be.

mod measure;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, num::NonZeroU32, time::Duration};

pub use self::measure::{Measure, OverUtilization};
use super::{Ask, Commit, NodeId, Op, Pipeline, Place, Plan, PodId, Scheduler, Step, UnitId, pipeline::Turn};
use crate::rng::mixed;

/// The least that a move has to better: less is the noise of sums.
const GAIN_MIN: f64 = 1e-9;

/// Moves running pods, if nothing is pending, so that the sum of a [`Measure`] over all nodes gets less.
///
/// Each step takes one pod off its node and puts it to another, as a whole: of all pods that the ask's scope holds, and all nodes that
/// take them by the pipeline's filters, it is the move that betters the sum most, and of equal ones that of the smallest pod. Steepest
/// descent: it ends where no single move betters anything, after [`moves_max`](Self::moves_max) moves, or when the ask's `steps_max`
/// places have been looked at. No pod is moved twice in one plan; one that is on its way out is left alone, and so is whoever has a
/// priority of [`priority_end`](Self::priority_end) or more. A step names as its unit the pod's own number.
///
/// It decides, and nothing here asks it by itself: ask it with nothing pending, now and then.
///
/// After Kubernetes' descheduler, which only evicts and hopes for the best: what is planned here is a move, and a place is certain. It
/// knows nothing of disruption budgets: whoever carries a plan out asks for evictions, and may be refused. What is pending is the
/// pipeline's, as if there were no descheduler.
#[derive(Debug)]
pub struct Descheduler {
    name: Box<str>,
    rules: Pipeline,
    measure: Box<dyn Measure>,
    moves_max: usize,
    priority_end: i32,
}

/// The least priority of system pods (Kubernetes' `SystemCriticalPriority`).
const SYSTEM_PRIORITY: i32 = 2_000_000_000;

/// The most moves of a plan, unless said otherwise.
const MOVES_MAX: usize = 10;

impl Descheduler {
    /// Betters a measure by up to ten moves of a plan; where pods may go, and which devices they get, is as in a pipeline. It leaves the
    /// system's own pods alone.
    pub fn new(rules: Pipeline, measure: impl Measure) -> Self {
        let name = format!("descheduler-{}", measure.name()).into();
        Self { name, rules, measure: Box::new(measure), moves_max: MOVES_MAX, priority_end: SYSTEM_PRIORITY }
    }

    /// Moves so many pods at most.
    #[must_use]
    pub fn moves_max(self, moves_max: NonZeroU32) -> Self {
        Self { moves_max: moves_max.get() as usize, ..self }
    }

    /// Leaves pods of this priority, and of any higher one, alone.
    #[must_use]
    pub fn priority_end(self, priority_end: i32) -> Self {
        Self { priority_end, ..self }
    }

    /// The sum of the measure over the nodes of a snapshot.
    pub fn sum(&self, nodes: &[super::NodeView]) -> f64 {
        nodes.iter().map(|node| self.measure.of(node)).sum()
    }
}

/// A move that was thought of.
#[derive(Clone, Copy, Debug)]
struct Move {
    pod: PodId,
    to: Place,
    gain: f64,
    /// What it takes along.
    cpu: i64,
}

impl Move {
    /// Whether it betters more than another, or as much by moving less.
    fn is_better(&self, other: &Self) -> bool {
        let more = self.gain - other.gain;
        more > GAIN_MIN || (more > -GAIN_MIN && self.cpu < other.cpu)
    }
}

impl Scheduler for Descheduler {
    fn name(&self) -> &str {
        &self.name
    }

    fn plan(&mut self, ask: &Ask<'_>) -> Plan {
        if !ask.pending.is_empty() {
            return self.rules.plan(ask);
        }
        let mut search = Search {
            descheduler: self,
            turn: self.rules.turn(ask),
            on_offer: ask.scope.map(|scope| scope.iter().copied().collect()),
            moved: BTreeSet::new(),
            looks: ask.steps_max.get(),
        };
        let mut plan = Plan::default();
        while plan.steps.len() < self.moves_max
            && let Some(best) = search.best()
        {
            plan.steps.push(search.carry_out(best));
        }
        plan
    }
}

/// A plan in the making.
#[derive(Debug)]
struct Search<'a> {
    descheduler: &'a Descheduler,
    turn: Turn<'a>,
    on_offer: Option<BTreeSet<NodeId>>,
    moved: BTreeSet<PodId>,
    /// How many more places may be looked at.
    looks: u32,
}

impl Search<'_> {
    /// The move that betters most, as far as may be looked; `None` if none betters anything.
    fn best(&mut self) -> Option<Move> {
        let mut best: Option<Move> = None;
        let placed: Vec<(PodId, NodeId)> = self.turn.trial.placed().collect();
        for (pod, from) in placed {
            if self.looks == 0 {
                break;
            }
            let view = self.turn.trial.snapshot().pod(pod);
            let is_ours = self.on_offer.as_ref().is_none_or(|nodes| nodes.contains(&from));
            if !is_ours
                || view.terminating
                || view.priority >= self.descheduler.priority_end
                || self.moved.contains(&pod)
            {
                continue;
            }
            let found = self.best_for(pod, from);
            best = match (best, found) {
                (Some(best), Some(found)) if !found.is_better(&best) => Some(best),
                (best, found) => found.or(best),
            };
        }
        best.filter(|best| best.gain > GAIN_MIN)
    }

    /// The best that can be had by moving a pod, as far as may be looked.
    fn best_for(&mut self, pod: PodId, from: NodeId) -> Option<Move> {
        let (pipeline, measure) = (self.turn.pipeline, &self.descheduler.measure);
        let mark = self.turn.trial.mark();
        let before = measure.of(self.turn.trial.node(from));
        self.turn.trial.evict(pod);
        let left = before - measure.of(self.turn.trial.node(from));
        let (around, view) = (pipeline.around(&self.turn.trial, pod), self.turn.trial.snapshot().pod(pod));
        let draw = mixed(self.turn.ask.seed, u64::from(pod.0));
        let nodes = self.turn.order().to_vec();
        let mut best: Option<Move> = None;
        for node in nodes.into_iter().filter(|node| *node != from) {
            let on = self.turn.trial.node(node);
            if !measure.takes(on) {
                continue;
            }
            if self.looks == 0 {
                break;
            }
            self.looks -= 1;
            if pipeline.against(&around, view, on).is_none() {
                let to = Place { node, devices: pipeline.devices.pick(view, on, draw) };
                let (evicted, before) = (self.turn.trial.mark(), measure.of(on));
                self.turn.trial.place(pod, to);
                let gain = left + before - measure.of(self.turn.trial.node(node));
                self.turn.trial.roll_back(evicted);
                if best.is_none_or(|best| gain > best.gain) {
                    best = Some(Move { pod, to, gain, cpu: view.requests.cpu });
                }
            }
        }
        self.turn.trial.roll_back(mark);
        best
    }

    fn carry_out(&mut self, Move { pod, to, .. }: Move) -> Step {
        let trial = &mut self.turn.trial;
        let from = trial.place_of(pod).map(|place| place.node);
        let reads = from.into_iter().chain([to.node]).map(|node| (node, trial.node(node).version)).collect();
        trial.evict(pod);
        trial.place(pod, to);
        self.moved.insert(pod);
        let ops = vec![Op::Evict { pod, preemptor: None }, Op::Place { pod, place: to }];
        Step { unit: UnitId(pod.0), ops, reads, commit: Commit::Whole, cost: Duration::ZERO }
    }
}
