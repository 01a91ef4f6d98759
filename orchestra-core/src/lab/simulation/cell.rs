//! The cell: what is in it, and what that has come to.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    Amounts, Arrival, Change, Decision, Fate, Lost, Micros, Outcome, Record, Simulation, UnitOutcome, Work,
    events::Run, log::out_of_order,
};
use crate::{
    clock::Timestamp,
    scheduler::{
        Commit, Detect, DevicesFit, Filter as _, NodeId, NodeInfo, Op, PodId, PodView, Refusal, ResourcesFit, Shape,
        ShapeId, Snapshot, Step, Unit, UnitId, commit,
    },
};

/// A pod of a unit.
#[derive(Debug)]
struct Member {
    work: Work,
    /// Its id while it is in the cell.
    pod: Option<PodId>,
    /// How many runs it has begun.
    runs: u32,
    /// When the last one began, if it has not ended.
    since: Option<Micros>,
    had_place: bool,
    ended: bool,
}

/// A unit that has come.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) queue: Box<str>,
    pub(super) priority: i32,
    pods_min: usize,
    members: Vec<Member>,
    /// Whether the log says already that it found no place.
    told: bool,
}

/// The cell, and the books of what happens to it.
#[derive(Debug)]
pub(super) struct Cell {
    pub(super) snapshot: Snapshot,
    pub(super) jobs: Vec<Job>,
    pub(super) outcome: Outcome,
    pub(super) now: Micros,
    /// How often something made room.
    pub(super) releases: u64,
    /// The nodes that made room since this was last asked for.
    pub(super) released: BTreeSet<NodeId>,
    /// Whether some pod is bound to where others are.
    pub(super) related: bool,
    /// Whose a pod is, by its id.
    owners: Vec<(u32, u32)>,
    up: Vec<Arc<NodeInfo>>,
    down: BTreeSet<NodeId>,
    lost: Lost,
}

impl Cell {
    pub(super) fn new(simulation: &Simulation<'_>) -> Self {
        let snapshot = Snapshot::new(simulation.nodes.iter().cloned(), []);
        let outcome = Outcome { capacity: Amounts::capacity(simulation.nodes), ..Outcome::default() };
        Self {
            up: snapshot.nodes().iter().map(|node| Arc::clone(&node.info)).collect(),
            snapshot,
            outcome,
            jobs: Vec::new(),
            now: Micros::ZERO,
            releases: 0,
            released: BTreeSet::new(),
            related: false,
            owners: Vec::new(),
            down: BTreeSet::new(),
            lost: simulation.lost,
        }
    }

    /// A unit comes; returns its number.
    pub(super) fn arrive(&mut self, arrival: Arrival, agent: usize) -> u32 {
        let unit = u32::try_from(self.jobs.len()).expect("a workload has less than 2^32 units");
        let Arrival { name, queue, priority, pods, pods_min, .. } = arrival;
        let known = self.outcome.queues.iter().position(|known| *known == queue);
        let number = known.unwrap_or_else(|| {
            self.outcome.queues.push(queue.clone());
            self.outcome.queues.len() - 1
        });
        self.outcome.units.push(UnitOutcome {
            name,
            queue: number,
            agent,
            pods: pods.len(),
            arrived: self.now,
            placed: None,
            placed_whole: None,
            ended: None,
            attempts: 0,
            refusals: 0,
            lost: 0,
            given_up: false,
        });
        let members = pods.into_iter().zip(0..).map(|(work, member)| {
            let shape = Arc::clone(&work.shape);
            self.related |= shape.affinity.is_some() || !shape.spread.is_empty();
            let runs = work.estimate.or(work.runs).map(|runs| Duration::from_micros(runs.0));
            let queue = queue.clone();
            let pod = self.snapshot.add(PodView { runs, queue, ..PodView::new("", Arc::clone(&shape)) });
            let at = pod.0 as usize;
            self.owners.resize(self.owners.len().max(at + 1), (0, 0));
            self.owners[at] = (unit, member);
            self.outcome.log.0.push(Record::Came { at: self.now, pod, unit: UnitId(unit), shape });
            Member { work, pod: Some(pod), runs: 0, since: None, had_place: false, ended: false }
        });
        let members = members.collect();
        self.jobs.push(Job { queue, priority, pods_min, members, told: false });
        unit
    }

    /// A unit as an agent is asked for it: the pods that wait, and how many of them at least.
    pub(super) fn unit(&self, unit: u32) -> Unit {
        let job = &self.jobs[unit as usize];
        let waiting = job.members.iter().filter(|member| member.since.is_none()).filter_map(|member| member.pod);
        let running = job.members.iter().filter(|member| member.since.is_some() || member.ended).count();
        let since = self.outcome.units[unit as usize].arrived;
        Unit {
            id: UnitId(unit),
            pods: waiting.collect(),
            pods_min: job.pods_min.saturating_sub(running).max(1),
            priority: job.priority,
            queue: job.queue.clone(),
            since: timestamp(since),
        }
    }

    /// The shape of a unit that is one pod, which fares as any other of its shape.
    pub(super) fn shape_of(&self, unit: &Unit) -> Option<ShapeId> {
        let [pod] = unit.pods[..] else { return None };
        (!self.related).then(|| self.snapshot.shape_of(pod))
    }

    /// Whether a node has room for one of the unit's pods that wait, as far as amounts tell.
    pub(super) fn has_room(&self, node: NodeId, unit: u32) -> bool {
        let view = self.snapshot.node(node);
        let fits = |shape: &Shape| ResourcesFit.admit(shape, view).and_then(|()| DevicesFit.admit(shape, view)).is_ok();
        let mut waiting = self.jobs[unit as usize].members.iter().filter(|member| member.since.is_none());
        self.related || waiting.any(|member| member.pod.is_some() && fits(&member.work.shape))
    }

    /// The run that a pod is in.
    pub(super) fn run_of(&self, pod: PodId) -> Option<Run> {
        let (unit, member) = *self.owners.get(pod.0 as usize)?;
        let owner = self.jobs.get(unit as usize)?.members.get(member as usize)?;
        (owner.pod == Some(pod) && owner.since.is_some()).then_some(Run { unit, member, nth: owner.runs })
    }

    /// Carries a step out, or refuses it.
    pub(super) fn commit(&mut self, agent: usize, mut step: Step, detect: Detect) -> Result<Committed, Refusal> {
        let is_down = |op: &Op| matches!(op, Op::Place { place, .. } if self.down.contains(&place.node));
        let wanted = step.ops.len();
        let place_of = |op: &Op| match op {
            Op::Evict { pod, .. } => self.snapshot.place_of(*pod),
            _ => None,
        };
        let left: Vec<NodeId> = step.ops.iter().filter_map(place_of).map(|place| place.node).collect();
        let held = match step.ops.iter().find(|op| is_down(op)) {
            Some(Op::Place { place, .. }) if step.commit == Commit::Whole => Err(Refusal::Changed(place.node)),
            _ => {
                step.ops.retain(|op| !is_down(op));
                commit(&mut self.snapshot, &step, detect)
            }
        };
        let unit = step.unit;
        let (ops, fate) = match &held {
            Ok(taken) => (taken.clone(), Fate::Committed),
            Err(refusal) => (step.ops, Fate::Refused(refusal.clone())),
        };
        self.outcome.log.0.push(Record::Decided(Decision { at: self.now, agent, unit, ops, fate }));
        let taken = held?;
        self.released.extend(left);
        let mut committed = Committed { taken: taken.len(), in_part: taken.len() < wanted, ..Committed::default() };
        for op in &taken {
            match op {
                Op::Place { pod, .. } => committed.began.extend(self.begin(*pod)),
                Op::Evict { pod, .. } => committed.lost.extend(self.lose(*pod)),
                Op::Nominate { .. } | Op::Probe { .. } => {}
            }
        }
        committed.placed = committed.began.len();
        Ok(committed)
    }

    /// Notes that a unit found no place.
    pub(super) fn leave(&mut self, agent: usize, unit: u32) {
        let told = &mut self.jobs[unit as usize].told;
        if !std::mem::replace(told, true) {
            let (unit, ops, fate) = (UnitId(unit), Vec::new(), Fate::Left);
            self.outcome.log.0.push(Record::Decided(Decision { at: self.now, agent, unit, ops, fate }));
        }
    }

    /// A pod is done, if it is still in this run.
    pub(super) fn end(&mut self, run: Run) {
        let member = &mut self.jobs[run.unit as usize].members[run.member as usize];
        if member.runs != run.nth {
            return;
        }
        let (Some(pod), Some(since)) = (member.pod, member.since.take()) else { return };
        (member.pod, member.ended) = (None, true);
        let ran = self.now.since(since);
        self.outcome.worked = self.outcome.worked.after(ran);
        self.release(pod);
        self.took(run, -1);
        self.remove(pod);
        if self.jobs[run.unit as usize].members.iter().all(|member| member.ended) {
            self.outcome.units[run.unit as usize].ended = Some(self.now);
        }
    }

    /// A node fails; returns the units that lost pods.
    pub(super) fn fail(&mut self, node: NodeId) -> Vec<u32> {
        let there: Vec<PodId> =
            self.snapshot.placed().filter(|(_, place)| place.node == node).map(|(pod, _)| pod).collect();
        let mut units = Vec::new();
        for pod in there {
            self.snapshot.evict(pod);
            self.outcome.log.0.push(Record::Lost { at: self.now, pod });
            units.extend(self.lose(pod));
        }
        self.down.insert(node);
        self.released.remove(&node);
        let info = out_of_order(&self.up[node.0 as usize]);
        self.snapshot.replace_node(node, info);
        self.outcome.log.0.push(Record::Down { at: self.now, node });
        units
    }

    /// A node is back, with nothing on it.
    pub(super) fn restore(&mut self, node: NodeId) {
        self.down.remove(&node);
        self.snapshot.replace_node(node, (*self.up[node.0 as usize]).clone());
        self.outcome.log.0.push(Record::Up { at: self.now, node });
        self.releases += 1;
        self.released.insert(node);
    }

    /// Nobody tries any longer to place what waits of a unit.
    pub(super) fn give_up(&mut self, unit: u32) {
        self.outcome.units[unit as usize].given_up = true;
        for pod in self.unit(unit).pods {
            let (_, member) = self.owners[pod.0 as usize];
            self.jobs[unit as usize].members[member as usize].pod = None;
            self.remove(pod);
        }
    }

    /// A pod that was just placed begins to run.
    fn begin(&mut self, pod: PodId) -> Option<(Run, Option<Micros>)> {
        let (unit, at) = *self.owners.get(pod.0 as usize)?;
        self.snapshot.start(pod, timestamp(self.now));
        let job = &mut self.jobs[unit as usize];
        job.told = false;
        let member = &mut job.members[at as usize];
        (member.since, member.had_place) = (Some(self.now), true);
        member.runs += 1;
        let (run, runs) = (Run { unit, member: at, nth: member.runs }, member.work.runs);
        let outcome = &mut self.outcome.units[unit as usize];
        outcome.placed.get_or_insert(self.now);
        if job.members.iter().all(|member| member.had_place) {
            outcome.placed_whole.get_or_insert(self.now);
        }
        self.took(run, 1);
        Some((run, runs))
    }

    /// A pod that has just been taken off its place is lost; returns its unit if it waits again.
    fn lose(&mut self, pod: PodId) -> Option<u32> {
        let run = self.run_of(pod)?;
        let member = &mut self.jobs[run.unit as usize].members[run.member as usize];
        let ran = self.now.since(member.since.take()?);
        self.outcome.lost = self.outcome.lost.after(ran);
        self.outcome.units[run.unit as usize].lost += 1;
        self.took(run, -1);
        self.releases += 1;
        if self.lost == Lost::ArriveAgain {
            return Some(run.unit);
        }
        self.jobs[run.unit as usize].members[run.member as usize].pod = None;
        self.remove(pod);
        None
    }

    /// Notes that a pod's place is about to be free.
    fn release(&mut self, pod: PodId) {
        self.releases += 1;
        self.released.extend(self.snapshot.place_of(pod).map(|place| place.node));
    }

    fn remove(&mut self, pod: PodId) {
        self.snapshot.remove(pod);
        self.outcome.log.0.push(Record::Gone { at: self.now, pod });
    }

    /// Writes down that the unit's tenant takes one pod more, or less.
    fn took(&mut self, run: Run, count: i64) {
        let shape = &self.jobs[run.unit as usize].members[run.member as usize].work.shape;
        let more = Amounts::default().plus(Amounts::of(shape), count);
        let UnitOutcome { queue, agent, .. } = self.outcome.units[run.unit as usize];
        self.outcome.changes.push(Change { at: self.now, queue, agent, more });
    }
}

/// What a step brought about.
#[derive(Debug, Default)]
pub(super) struct Committed {
    /// How many operations were taken.
    pub(super) taken: usize,
    /// How many pods got a place.
    pub(super) placed: usize,
    /// The runs that began, each with its length.
    pub(super) began: Vec<(Run, Option<Micros>)>,
    /// The units whose pods wait again.
    pub(super) lost: Vec<u32>,
    /// Whether part of it was refused.
    pub(super) in_part: bool,
}

/// A moment as schedulers are told it.
pub(super) fn timestamp(at: Micros) -> Timestamp {
    i64::try_from(at.0).ok().and_then(|at| Timestamp::from_microsecond(at).ok()).unwrap_or(Timestamp::MAX)
}
