//! One plan in the making.

use std::{cell::OnceCell, time::Duration};

use super::{
    super::{Ask, Commit, NodeId, Op, Place, PodId, Step, Trial, Unit},
    Index, Pipeline, Why,
    preemption::Preempted,
};
use crate::rng::mixed;

/// A pipeline at work on an ask.
#[derive(Debug)]
pub(in super::super) struct Turn<'a> {
    pub(in super::super) pipeline: &'a Pipeline,
    pub(in super::super) ask: &'a Ask<'a>,
    pub(in super::super) trial: Trial<'a>,
    /// What is remembered, if that is of use for this ask.
    pub(super) index: Option<Box<Index>>,
    /// The nodes on offer in the order to look at them, once that matters.
    pub(super) order: OnceCell<Vec<NodeId>>,
    /// Who waits for others to leave.
    pub(super) preempted: Preempted,
    /// The nodes of those that are to leave.
    pub(super) doomed: Vec<NodeId>,
    /// Whether nobody looks at the trial any more once the unit at hand has its places.
    pub(super) is_last: bool,
}

impl Turn<'_> {
    /// The step for a unit: it is placed, or takes the place of less important pods; or why neither can be.
    pub(super) fn serve(&mut self, unit: &Unit) -> Result<Step, Why> {
        let changed = self.preempted.keep_room(&mut self.trial, unit);
        self.note(&changed);
        let why = match self.place(unit) {
            Ok(step) => {
                unit.pods.iter().for_each(|pod| self.preempted.placed(*pod));
                return Ok(step);
            }
            Err(why) => why,
        };
        if !self.pipeline.preempts {
            return Err(why);
        }
        self.preempt(unit).ok_or(why)
    }

    /// The step by which a unit takes the place of less important pods, if it can.
    fn preempt(&mut self, unit: &Unit) -> Option<Step> {
        self.order();
        let Self { pipeline, ask, trial, index, order, preempted, .. } = self;
        let shape = unit.pods.first().map(|pod| ask.snapshot.shape_of(*pod))?;
        let has_costs = Preempted::has_costs_by_node(pipeline, trial, unit);
        let mut index = index.as_mut().filter(|_| has_costs);
        let mut costs = index.as_mut().map(|index| index.take_costs(shape, ask.snapshot)).unwrap_or_default();
        let order = order.get().map_or(&[][..], |order| order);
        let step = preempted.preempt(pipeline, trial, unit, (order, ask.seed), &mut costs);
        index.into_iter().for_each(|index| index.keep_costs(shape, std::mem::take(&mut costs)));
        // Who is to leave costs nothing more until the plan ends: nothing that was just found out there is of use later.
        for op in step.iter().flat_map(|step| &step.ops) {
            let Op::Evict { pod, .. } = op else { continue };
            self.doomed.extend(self.trial.place_of(*pod).map(|place| place.node));
        }
        let doomed = std::mem::take(&mut self.doomed);
        self.note(&doomed);
        self.doomed = doomed;
        step
    }

    /// Places a unit's pods in the trial, and says what that takes; or why it can't be, with no trace left.
    pub(in super::super) fn place(&mut self, unit: &Unit) -> Result<Step, Why> {
        let (mark, from) = (self.trial.mark(), self.trial.journal().len());
        let (mut ops, mut reads, mut reasons) = (Vec::with_capacity(unit.pods.len()), Vec::new(), None);
        for (at, &pod) in unit.pods.iter().enumerate() {
            let draw = mixed(self.ask.seed, u64::from(pod.0));
            match self.decide(pod, draw) {
                Ok(node) => {
                    let view = self.trial.node(node);
                    reads.push((node, view.version));
                    let devices = self.pipeline.devices.pick(self.ask.snapshot.pod(pod), view, draw);
                    let place = Place { node, devices };
                    ops.push(Op::Place { pod, place });
                    let is_end = self.is_last && at + 1 == unit.pods.len() && ops.len() >= unit.pods_min;
                    if !is_end {
                        self.trial.place(pod, place);
                        self.index.iter_mut().for_each(|index| index.note(node));
                    }
                }
                Err(why) => {
                    reasons.get_or_insert(why);
                }
            }
        }
        if ops.len() < unit.pods_min.max(1) {
            self.trial.roll_back(mark);
            self.note_from(from);
            return Err(reasons.unwrap_or_default());
        }
        Ok(Step { unit: unit.id, ops, reads, commit: Commit::Whole, cost: Duration::ZERO })
    }

    /// What to remember: the trial ends, and what it changed is as before.
    pub(super) fn end(mut self) -> Option<Box<Index>> {
        self.note_from(0);
        self.index
    }

    fn note(&mut self, nodes: &[NodeId]) {
        self.index.iter_mut().for_each(|index| nodes.iter().for_each(|node| index.note(*node)));
    }

    fn note_from(&mut self, from: usize) {
        let touched = self.trial.journal().get(from..).unwrap_or_default();
        self.index.iter_mut().for_each(|index| touched.iter().for_each(|node| index.note(*node)));
    }

    /// The node for a pod, or why there is none.
    fn decide(&mut self, pod: PodId, draw: u64) -> Result<NodeId, Why> {
        let (pipeline, trial) = (self.pipeline, &self.trial);
        let minds_others = pipeline.relation_scores.iter().any(|(_, score)| score.concerns(pod, trial));
        if let Some(index) = self.index.as_mut().filter(|_| !minds_others) {
            let around = index.take_surroundings(pipeline, trial, pod);
            let decided = index.decide(pipeline, trial, pod, (&around, draw));
            index.keep_surroundings(trial.snapshot().shape_of(pod), around);
            if let Some(decided) = decided {
                return decided;
            }
        }
        let around = pipeline.around(trial, pod);
        let (admitted, why) = pipeline.admit(&around, trial, pod, (self.order(), draw));
        pipeline.choose(&pipeline.weigh(trial, pod, &admitted), draw).ok_or(why)
    }

    pub(in super::super) fn order(&self) -> &[NodeId] {
        self.order.get_or_init(|| {
            let mut order: Vec<NodeId> = match self.ask.scope {
                Some(scope) => scope.to_vec(),
                None => self.ask.snapshot.node_ids().collect(),
            };
            if let (true, count @ 1..) = (self.pipeline.look.rotates(), order.len()) {
                order.rotate_left(usize::try_from(mixed(self.ask.seed, 0) % count as u64).unwrap_or(0));
            }
            order
        })
    }
}
