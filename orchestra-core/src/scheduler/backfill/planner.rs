//! One plan in the making, over time.

use std::{slice, sync::Arc, time::Duration};

use super::{
    super::{
        Ask, Commit, Detect, DevicesFit, Filter, HostPortsFree, NodeId, Op, PodId, Reason, ResourcesFit, Scheduler,
        Shape, ShapeId, Snapshot, Step, Trial, Unit, apply, commit,
    },
    Why,
    profile::{Profile, Stay},
};
use crate::clock::Timestamp;

/// The least time that anybody stays: who should have left already is about to.
const STAY_MIN: Duration = Duration::from_micros(1);

/// A queue from the first unit on that has to wait.
#[derive(Debug)]
pub(super) struct Planner<'a, S> {
    inner: &'a mut S,
    ask: &'a Ask<'a>,
    nodes: Vec<NodeId>,
    profile: Profile,
    /// The cluster at the moment `at`.
    cell: Snapshot,
    at: Timestamp,
    /// The cluster now, with what the plan does: the versions that steps rest on.
    trial: Trial<'a>,
}

/// Where a pod's siblings of the same shape have room, so that each need not look anew.
#[derive(Debug)]
struct Room {
    shape: ShapeId,
    to: Timestamp,
    nodes: Vec<NodeId>,
}

impl<'a, S: Scheduler> Planner<'a, S> {
    /// After what the steps of `begun` do.
    pub(super) fn new(inner: &'a mut S, ask: &'a Ask<'a>, nodes: Vec<NodeId>, begun: &[Step]) -> Self {
        let (mut trial, mut cell) = (Trial::new(ask.snapshot), ask.snapshot.clone());
        for step in begun {
            // Law 2: what the inner scheduler plans is not refused.
            let _ = apply(&mut trial, step, Detect::Fit);
            let _ = commit(&mut cell, step, Detect::Fit);
        }
        let mut profile = Profile::empty(&cell);
        for (pod, place) in cell.placed() {
            let view = cell.pod(pod);
            let to = after(view.started.unwrap_or(ask.now), view.runs).max(after(ask.now, Some(STAY_MIN)));
            profile.add(Stay { pod, shape: Arc::clone(&view.shape), place, from: ask.now, to });
        }
        Self { inner, ask, nodes, profile, cell, at: ask.now, trial }
    }

    /// Starts a unit, if it is in nobody's way; or why not.
    pub(super) fn start(&mut self, unit: &Unit) -> Result<Step, Why> {
        let stays = self.put(unit, self.ask.now)?;
        let (mut ops, mut reads) = (Vec::with_capacity(stays.len()), Vec::new());
        for Stay { pod, place, .. } in stays {
            reads.push((place.node, self.trial.node(place.node).version));
            self.trial.place(pod, place);
            ops.push(Op::Place { pod, place });
        }
        Ok(Step { unit: unit.id, ops, reads, commit: Commit::Whole, cost: Duration::ZERO })
    }

    /// Keeps room for a unit as soon as there is any; returns when that is.
    pub(super) fn reserve(&mut self, unit: &Unit) -> Option<Timestamp> {
        let mut ends = self.profile.ends_after(self.ask.now).into_iter();
        ends.find(|at| self.put(unit, *at).is_ok())
    }

    /// The shape of a unit that is one pod, which fares as any other of its shape that stays as long, and until when it would stay.
    pub(super) fn alike(&self, unit: &Unit) -> Option<(ShapeId, Timestamp)> {
        let [pod] = unit.pods[..] else { return None };
        let view = self.cell.pod(pod);
        let looks_around = view.affinity.is_some() || !view.spread.is_empty();
        (!looks_around).then(|| (self.cell.shape_of(pod), self.end(pod, self.ask.now)))
    }

    /// When a pod that starts then is done.
    fn end(&self, pod: PodId, from: Timestamp) -> Timestamp {
        after(from, self.cell.pod(pod).runs.map(|runs| runs.max(STAY_MIN)))
    }

    /// Puts as many of a unit's pods as there is room for from a moment on, where the inner scheduler likes them; with no trace
    /// left if these are too few.
    fn put(&mut self, unit: &Unit, at: Timestamp) -> Result<Vec<Stay>, Why> {
        self.go_to(at);
        let pods_min = unit.pods_min.max(1);
        let (mut stays, mut room, mut reasons) = (Vec::<Stay>::new(), None, None);
        for (nth, &pod) in unit.pods.iter().enumerate() {
            match self.choose(unit, pod, &mut room) {
                Ok(stay) => {
                    self.cell.place(pod, stay.place);
                    self.profile.add(stay.clone());
                    stays.push(stay);
                }
                Err(why) => drop(reasons.get_or_insert(why)),
            }
            if stays.len() + unit.pods.len() - nth - 1 < pods_min {
                break;
            }
        }
        if stays.len() >= pods_min {
            return Ok(stays);
        }
        for stay in stays {
            self.profile.remove(&stay);
            self.cell.evict(stay.pod);
        }
        Err(reasons.unwrap_or_default())
    }

    /// A place for a pod from this moment on, or what is against each node.
    fn choose(&mut self, unit: &Unit, pod: PodId, room: &mut Option<Room>) -> Result<Stay, Why> {
        let (from, to, shape) = (self.at, self.end(pod, self.at), Arc::clone(&self.cell.pod(pod).shape));
        let room = self.room(pod, &shape, to, room);
        let mut scope = room.nodes.clone();
        let one = Unit { pods: vec![pod], pods_min: 1, ..unit.clone() };
        let mut said = Why::new();
        while !scope.is_empty() {
            let (now, pending, scoped) = (from, slice::from_ref(&one), Some(&scope[..]));
            let mut plan = self.inner.plan(&Ask { now, snapshot: &self.cell, pending, scope: scoped, ..*self.ask });
            let place = match plan.steps.first().map(|step| &step.ops[..]) {
                Some([Op::Place { place, .. }]) => *place,
                // It is left over, or others would have to go.
                _ => {
                    said = plan.left.pop().map(|left| left.why).unwrap_or_default();
                    break;
                }
            };
            let stay = Stay { pod, shape: Arc::clone(&shape), place, from, to };
            if self.profile.has_devices(&stay) {
                return Ok(stay);
            }
            // These devices are somebody else's later on.
            scope.retain(|node| *node != place.node);
        }
        Err(self.why(&shape, &scope, said))
    }

    /// The nodes that have room for a pod all the time until it is done: of those that had for its sibling, if that was alike, those
    /// that still have.
    fn room<'r>(&self, pod: PodId, shape: &Shape, to: Timestamp, known: &'r mut Option<Room>) -> &'r Room {
        let has_room = |node: &NodeId| self.profile.has_room(shape, *node, self.at, to);
        let id = self.cell.shape_of(pod);
        let nodes = match known.take() {
            Some(room) if (room.shape, room.to) == (id, to) => {
                let mut nodes = room.nodes;
                nodes.retain(has_room);
                nodes
            }
            _ => self.nodes.iter().copied().filter(has_room).collect(),
        };
        known.insert(Room { shape: id, to, nodes })
    }

    /// What is against each node: what the inner scheduler said of those in `scope`; of the others, what they lack, or that they are
    /// kept. Nobody asks why there is no place later on.
    fn why(&self, shape: &Shape, scope: &[NodeId], said: Why) -> Why {
        if self.at != self.ask.now {
            return Why::new();
        }
        let told: usize = said.values().sum();
        let mut why = said;
        let mut in_scope = scope.iter().peekable();
        for node in &self.nodes {
            if in_scope.next_if_eq(&node).is_some() {
                continue;
            }
            let view = self.cell.node(*node);
            let filters = [&ResourcesFit as &dyn Filter, &DevicesFit, &HostPortsFree];
            let reasons = filters.into_iter().map(|filter| filter.reasons(shape, view));
            let reasons = reasons.into_iter().find(|reasons| !reasons.is_empty());
            *why.entry(reasons.unwrap_or_else(|| vec![Reason::kept()])).or_insert(0) += 1;
        }
        if told < scope.len() {
            *why.entry(vec![Reason::kept()]).or_insert(0) += scope.len() - told;
        }
        why
    }

    /// Makes the cell what it is at a moment.
    fn go_to(&mut self, at: Timestamp) {
        if self.at == at {
            return;
        }
        self.at = at;
        for stay in self.profile.stays().filter(|stay| !stay.is_on(at)) {
            self.cell.evict(stay.pod);
        }
        for stay in self.profile.stays().filter(|stay| stay.is_on(at)) {
            if self.cell.place_of(stay.pod).is_none() {
                self.cell.place(stay.pod, stay.place);
            }
        }
    }
}

/// So much later; beyond every end if nobody knows how much.
fn after(at: Timestamp, span: Option<Duration>) -> Timestamp {
    span.and_then(|span| at.checked_add(span).ok()).unwrap_or(Timestamp::MAX)
}
