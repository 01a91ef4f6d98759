//! What holds of an answer.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use super::{
    Fault,
    protocol::{self, Answer},
};
use crate::scheduler::{
    Ask, Commit, DEVICES_MAX, Detect, DeviceSet, FullestDevices, Left, NodeId, Op, PickDevices as _, Pipeline, Place,
    Plan, PodId, Reason, Refusal, Step, Trial, Unit, UnitId, apply,
};

/// Why nodes that would take a unit don't get it, if the program chose so.
const LEFT: &str = "node(s) were not chosen by the policy";

/// A unit's fate.
#[derive(Debug)]
enum Verdict {
    Placed,
    /// Why nodes that would take it don't get it.
    Left(Cow<'static, str>),
}

/// Takes of an answer what holds.
#[derive(Debug)]
pub(super) struct Judge<'a> {
    ask: &'a Ask<'a>,
    required: &'a Pipeline,
    evicts: bool,
    trial: Trial<'a>,
    units: BTreeMap<UnitId, &'a Unit>,
    verdicts: BTreeMap<UnitId, Verdict>,
    plan: Plan,
    faults: Vec<Fault>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(ask: &'a Ask<'a>, required: &'a Pipeline, evicts: bool) -> Self {
        Self {
            ask,
            required,
            evicts,
            trial: Trial::new(ask.snapshot),
            units: ask.pending.iter().map(|unit| (unit.id, unit)).collect(),
            verdicts: BTreeMap::new(),
            plan: Plan::default(),
            faults: Vec::new(),
        }
    }

    /// There is no answer: all units are left over.
    pub(super) fn give_up(&mut self, fault: Fault) {
        for unit in self.ask.pending {
            self.verdicts.insert(unit.id, Verdict::Left(not_chosen(&fault)));
        }
        self.faults.push(fault);
    }

    /// Takes the steps that hold, in order.
    pub(super) fn hear(&mut self, answer: Answer) {
        for step in answer.steps {
            let Some(unit) = self.asked(step.unit) else { continue };
            match self.step(unit, &step.ops) {
                Ok(step) => {
                    self.plan.steps.push(step);
                    self.verdicts.insert(unit.id, Verdict::Placed);
                }
                Err(problem) => self.unsound(unit.id, problem),
            }
        }
        for unit in answer.left {
            if let Some(unit) = self.asked(unit) {
                self.verdicts.insert(unit.id, Verdict::Left(LEFT.into()));
            }
        }
        for unit in self.ask.pending {
            if !self.verdicts.contains_key(&unit.id) {
                self.unsound(unit.id, "it is neither in a step nor left".into());
            }
        }
    }

    /// The plan, and what was wrong.
    pub(super) fn end(mut self) -> (Plan, Vec<Fault>) {
        for unit in self.ask.pending {
            if let Some(Verdict::Left(reason)) = self.verdicts.remove(&unit.id) {
                let why = self.why(unit, &Reason::fixed(reason));
                self.plan.left.push(Left { unit: unit.id, why, expected: None });
            }
        }
        (self.plan, self.faults)
    }

    /// The unit of this number, if it is asked for, and has no answer yet.
    fn asked(&mut self, unit: u32) -> Option<&'a Unit> {
        let id = UnitId(unit);
        let problem = match self.units.get(&id) {
            Some(unit) if !self.verdicts.contains_key(&id) => return Some(unit),
            Some(_) => "it is answered twice, and the first answer counts",
            None => "it was not asked for",
        };
        self.faults.push(Fault::Unsound { unit: id, problem: problem.into() });
        None
    }

    fn unsound(&mut self, unit: UnitId, problem: String) {
        let fault = Fault::Unsound { unit, problem: problem.into() };
        self.verdicts.insert(unit, Verdict::Left(not_chosen(&fault)));
        self.faults.push(fault);
    }

    /// The step in the trial, or why it doesn't hold, with no trace left.
    fn step(&mut self, unit: &Unit, ops: &[protocol::Op]) -> Result<Step, String> {
        let mark = self.trial.mark();
        let step = self.try_ops(unit, ops);
        self.trial.roll_back(mark);
        let step = step?;
        // The last word is the applier's own.
        apply(&mut self.trial, &step, Detect::Version).map_err(|refusal| match refusal {
            Refusal::NoRoom(reason) => reason.to_string(),
            other => format!("{other:?}"),
        })?;
        Ok(step)
    }

    fn try_ops(&mut self, unit: &Unit, ops: &[protocol::Op]) -> Result<Step, String> {
        let (mut done, mut reads, mut placed) = (Vec::with_capacity(ops.len()), Vec::new(), 0);
        for op in ops {
            done.push(match op {
                protocol::Op::Place { pod, node, devices } => {
                    let (pod, place) = self.place(unit, *pod, node, devices.as_deref())?;
                    reads.push((place.node, self.trial.node(place.node).version));
                    self.trial.place(pod, place);
                    placed += 1;
                    Op::Place { pod, place }
                }
                protocol::Op::Evict { pod, preemptor } => self.evict(unit, *pod, *preemptor)?,
            });
        }
        if placed < unit.pods_min.max(1) {
            return Err(format!("it places {placed} pods, where {} have to be", unit.pods_min.max(1)));
        }
        Ok(Step { unit: unit.id, ops: done, reads, commit: Commit::Whole, cost: Duration::ZERO })
    }

    fn place(&self, unit: &Unit, pod: u32, node: &str, devices: Option<&[usize]>) -> Result<(PodId, Place), String> {
        let id = PodId(pod);
        if !unit.pods.contains(&id) {
            return Err(format!("pod {pod} is not of the unit"));
        }
        if self.trial.place_of(id).is_some() {
            return Err(format!("pod {pod} is placed twice"));
        }
        let snapshot = self.ask.snapshot;
        let at = snapshot.find_node(node).ok_or_else(|| format!("there is no node {node:?}"))?;
        if self.ask.scope.is_some_and(|scope| !scope.contains(&at)) {
            return Err(format!("node {node:?} is not on offer"));
        }
        let (view, shape) = (self.trial.node(at), snapshot.pod(id));
        let around = self.required.around(&self.trial, id);
        if let Some((filter, reasons)) = self.required.against(&around, shape, view) {
            let reasons: Vec<String> = reasons.iter().map(ToString::to_string).collect();
            return Err(format!("node {node:?} doesn't take pod {pod}: {} ({filter})", reasons.join(", ")));
        }
        let chosen = match devices {
            None => FullestDevices.pick(shape, view, 0),
            Some(list) => {
                let set: DeviceSet = list.iter().copied().filter(|device| *device < DEVICES_MAX).collect();
                if set.len() != list.len() || !shape.devices.is_met_by(set, &view.devices_left) {
                    return Err(format!("devices {list:?} of node {node:?} are not what pod {pod} needs"));
                }
                set
            }
        };
        Ok((id, Place { node: at, devices: chosen }))
    }

    fn evict(&mut self, unit: &Unit, pod: u32, preemptor: Option<u32>) -> Result<Op, String> {
        let (id, preemptor) = (PodId(pod), preemptor.map(PodId));
        if !self.evicts {
            return Err("it may not evict".into());
        }
        if let Some(PodId(preemptor)) = preemptor.filter(|preemptor| !unit.pods.contains(preemptor)) {
            return Err(format!("pod {preemptor}, for which it evicts, is not of the unit"));
        }
        // A pod that this very plan has placed is nobody's victim.
        let is_running = self.ask.snapshot.pods().len() > pod as usize && self.ask.snapshot.place_of(id).is_some();
        if !is_running || self.trial.place_of(id).is_none() {
            return Err(format!("pod {pod} doesn't run"));
        }
        self.trial.evict(id);
        Ok(Op::Evict { pod: id, preemptor })
    }

    /// What speaks against each node on offer, after all steps: what rules it out for the first pod that finds no node; or else
    /// `reason`, against nodes that would take the first pod of all.
    fn why(&mut self, unit: &Unit, reason: &Reason) -> BTreeMap<Vec<Reason>, usize> {
        let nodes: Vec<NodeId> = match self.ask.scope {
            Some(scope) => scope.to_vec(),
            None => self.ask.snapshot.node_ids().collect(),
        };
        let (mark, mut placed, mut first, mut failed) = (self.trial.mark(), 0, None, None);
        for &pod in &unit.pods {
            let (takes, why) = self.verdicts_of(pod, &nodes, reason);
            match takes {
                Some(node) => {
                    let devices = FullestDevices.pick(self.ask.snapshot.pod(pod), self.trial.node(node), 0);
                    self.trial.place(pod, Place { node, devices });
                    placed += 1;
                    first.get_or_insert(why);
                }
                None => drop(failed.get_or_insert(why)),
            }
        }
        self.trial.roll_back(mark);
        let has_room = placed >= unit.pods_min.max(1);
        if has_room { first.or(failed) } else { failed.or(first) }.unwrap_or_default()
    }

    /// The first node that takes a pod, and what speaks against each: `reason` if nothing else does.
    fn verdicts_of(
        &self,
        pod: PodId,
        nodes: &[NodeId],
        reason: &Reason,
    ) -> (Option<NodeId>, BTreeMap<Vec<Reason>, usize>) {
        let (around, shape) = (self.required.around(&self.trial, pod), self.ask.snapshot.pod(pod));
        let (mut takes, mut why) = (None, BTreeMap::new());
        for &node in nodes {
            let against = self.required.against(&around, shape, self.trial.node(node)).map(|(_, reasons)| reasons);
            if against.is_none() {
                takes.get_or_insert(node);
            }
            *why.entry(against.unwrap_or_else(|| vec![reason.clone()])).or_insert(0) += 1;
        }
        (takes, why)
    }
}

/// Why a node that would take a unit doesn't get it.
fn not_chosen(fault: &Fault) -> Cow<'static, str> {
    format!("node(s) were not chosen, as {fault}").into()
}
