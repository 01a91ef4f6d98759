//! What happens when, and who decides.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    mem,
    num::NonZeroU32,
};

use super::{
    Agent, AgentOutcome, Amounts, Arrival, Churn, Micros, Outcome, Serves, Sharing, Simulation,
    cell::{Cell, timestamp},
    events::{Event, Events, Run},
};
use crate::{
    rng::Entropy,
    scheduler::{Ask, Heard, NodeId, Offers, Op, PodId, ShapeId, Step, Unit, UnitId},
};

/// In which order units are served: by priority, then by arrival, then by number.
type Turn = (Reverse<i32>, Micros, u32);

/// Where a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing of it waits, or nobody tries to place it.
    Idle,
    /// It waits for its agent, or for room.
    Queued,
    /// Its agent thinks about it.
    Asked,
    /// It was refused, and waits to be tried again.
    Refused,
}

/// An agent, and what it is at.
#[derive(Debug)]
struct Desk {
    agent: Agent,
    entropy: Entropy,
    /// The units to be decided on.
    due: BTreeMap<Turn, u32>,
    /// The units that found no place, until there is room.
    parked: BTreeMap<Turn, u32>,
    thought: Option<Thought>,
    /// The shapes that found no place, and how often room had been made by then.
    barred: BTreeMap<ShapeId, u64>,
    /// Whether others held nodes when it was last made an offer.
    saw_part: bool,
    outcome: AgentOutcome,
}

/// A plan that has not taken effect yet.
#[derive(Debug)]
struct Thought {
    steps: Vec<Step>,
    /// The units asked for, each with the time that deciding on it takes.
    units: Vec<(u32, Micros)>,
    /// The runs of the pods that are to be evicted.
    victims: BTreeMap<PodId, Run>,
    /// How often room had been made.
    releases: u64,
    /// The shapes of those left over.
    left: Vec<ShapeId>,
}

pub(super) struct Engine<'a, A> {
    until: Micros,
    churn: Option<Churn>,
    cell: Cell,
    events: Events,
    arrivals: A,
    next: Option<Arrival>,
    desks: Vec<Desk>,
    phases: Vec<Phase>,
    route: &'a dyn Fn(&Arrival) -> usize,
    failures: Entropy,
    /// The allocator, if agents see what they are offered, and how many of the changes it knows.
    offers: Option<(Offers, usize)>,
}

impl<'a, A: Iterator<Item = Arrival>> Engine<'a, A> {
    pub(super) fn new(
        simulation: &Simulation<'_>,
        arrivals: A,
        agents: Vec<Agent>,
        route: &'a dyn Fn(&Arrival) -> usize,
        entropy: &Entropy,
    ) -> Self {
        let failures = entropy.fork();
        let desk = |agent: Agent| Desk {
            outcome: AgentOutcome { name: agent.scheduler.name().into(), ..AgentOutcome::default() },
            entropy: entropy.fork(),
            agent,
            due: BTreeMap::new(),
            parked: BTreeMap::new(),
            thought: None,
            barred: BTreeMap::new(),
            saw_part: false,
        };
        let total = Amounts::capacity(simulation.nodes).resources();
        let offers = || (Offers::new(total, agents.iter().map(|_| 1.0)), 0);
        Self {
            offers: (simulation.sharing == Sharing::Offers).then(offers),
            until: simulation.until,
            churn: simulation.churn,
            cell: Cell::new(simulation),
            events: Events::default(),
            arrivals,
            next: None,
            desks: agents.into_iter().map(desk).collect(),
            phases: Vec::new(),
            route,
            failures,
        }
    }

    pub(super) fn run(mut self) -> Outcome {
        self.await_arrival();
        for node in self.cell.snapshot.node_ids() {
            self.await_failure(node);
        }
        while let Some(at) = self.events.next_at().filter(|at| *at <= self.until) {
            self.cell.now = at;
            // All that happens at one moment, before anybody looks.
            while self.events.next_at() == Some(at)
                && let Some(event) = self.events.pop()
            {
                self.happen(event);
            }
            self.wake();
            if self.offers.is_some() {
                self.offer();
            } else {
                (0..self.desks.len()).for_each(|desk| self.ask(desk, None));
            }
        }
        if self.events.next_at().is_some() {
            self.cell.outcome.end = self.until;
        }
        self.cell.outcome.nodes = self.cell.snapshot.nodes().to_vec();
        self.cell.outcome.agents = self.desks.into_iter().map(|desk| desk.outcome).collect();
        self.cell.outcome
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Arrives => {
                if let Some(arrival) = self.next.take() {
                    let agent = (self.route)(&arrival).min(self.desks.len() - 1);
                    let unit = self.cell.arrive(arrival, agent);
                    self.phases.push(Phase::Idle);
                    self.queue(unit);
                }
                self.await_arrival();
            }
            Event::Ends(run) => {
                self.cell.end(run);
                self.cell.outcome.end = self.cell.now;
            }
            Event::Fails(node) => {
                self.cell.fail(node).into_iter().for_each(|unit| self.queue(unit));
                if let Some(churn) = self.churn {
                    let at = self.cell.now.after(exponential(&self.failures, churn.down));
                    self.events.push(at, Event::Returns(node));
                }
            }
            Event::Returns(node) => {
                self.cell.restore(node);
                self.await_failure(node);
            }
            Event::Decides(desk) => self.decide(desk),
            Event::Retries(unit) => {
                self.phases[unit as usize] = Phase::Idle;
                self.queue(unit);
            }
        }
    }

    fn await_arrival(&mut self) {
        self.next = self.arrivals.next();
        if let Some(arrival) = &self.next {
            self.events.push(arrival.at.max(self.cell.now), Event::Arrives);
        }
    }

    fn await_failure(&mut self, node: NodeId) {
        let Some(churn) = self.churn else { return };
        let at = self.cell.now.after(exponential(&self.failures, churn.up));
        if at <= churn.until {
            self.events.push(at, Event::Fails(node));
        }
    }

    fn turn(&self, unit: u32) -> (usize, Turn) {
        let outcome = &self.cell.outcome.units[unit as usize];
        (outcome.agent, (Reverse(self.cell.jobs[unit as usize].priority), outcome.arrived, unit))
    }

    /// Has a unit decided on, unless it is being so, or has to wait since it was refused.
    fn queue(&mut self, unit: u32) {
        let (agent, turn) = self.turn(unit);
        let phase = &mut self.phases[unit as usize];
        if matches!(phase, Phase::Idle | Phase::Queued) && !self.cell.outcome.units[unit as usize].given_up {
            *phase = Phase::Queued;
            self.desks[agent].parked.remove(&turn);
            self.desks[agent].due.insert(turn, unit);
        }
    }

    /// Has those units decided on that the room made of late may be for.
    fn wake(&mut self) {
        let released = mem::take(&mut self.cell.released);
        if released.is_empty() {
            return;
        }
        let is_woken = |unit: &u32| released.iter().any(|node| self.cell.has_room(*node, *unit));
        for Desk { agent, due, parked, .. } in &mut self.desks {
            if agent.serves == Serves::Queue {
                due.append(parked);
                continue;
            }
            let (woken, still): (BTreeMap<_, _>, _) =
                mem::take(parked).into_iter().partition(|(_, unit)| is_woken(unit));
            due.extend(woken);
            *parked = still;
        }
    }

    /// Offers what is free to one agent after another, who is idle and has something to decide on.
    fn offer(&mut self) {
        loop {
            let Some((offers, known)) = &mut self.offers else { return };
            for change in self.cell.outcome.changes.iter().skip(*known) {
                // What is freed is noted as less than nothing.
                offers.took(change.agent, &change.more.resources());
            }
            *known = self.cell.outcome.changes.len();
            let wants =
                |at: usize| self.desks.get(at).is_some_and(|desk| desk.thought.is_none() && !desk.due.is_empty());
            let Some(next) = offers.next(wants) else { return };
            let offered = offers.offer(next, &self.cell.snapshot);
            if offered.is_empty() {
                return;
            }
            self.desks[next].saw_part = offers.others_hold(next);
            let is_all = offered.len() == self.cell.snapshot.nodes().len();
            self.ask(next, (!is_all).then_some(&offered));
            if self.desks[next].thought.is_none() {
                self.give_back(next);
            }
        }
    }

    /// Takes back what an agent was offered; who saw only the rest has another look.
    fn give_back(&mut self, number: usize) {
        let Some((offers, _)) = &mut self.offers else { return };
        offers.give_back(number);
        for (at, desk) in self.desks.iter_mut().enumerate().filter(|(_, desk)| desk.thought.is_none() && desk.saw_part)
        {
            // Who has just given back has seen all that is new to him only if nobody holds the rest.
            if at != number || !offers.others_hold(at) {
                desk.saw_part = false;
                desk.barred.clear();
                desk.due.append(&mut desk.parked);
            }
        }
    }

    /// Asks an agent that is idle, if there is something to ask.
    fn ask(&mut self, desk: usize, scope: Option<&[NodeId]>) {
        let number = desk;
        let (cell, Some(desk)) = (&mut self.cell, self.desks.get_mut(desk)) else { return };
        if desk.thought.is_some() {
            return;
        }
        let (mut pending, mut units_max) = (Vec::<Unit>::new(), desk.agent.units_max.max(1));
        let is_whole = desk.agent.serves == Serves::Queue;
        if is_whole && !desk.due.is_empty() {
            desk.due.append(&mut desk.parked);
            units_max = usize::MAX;
        }
        while pending.len() < units_max
            && let Some((turn, unit)) = desk.due.pop_first()
        {
            let asked = cell.unit(unit);
            let is_barred = |shape| desk.barred.get(&shape) == Some(&cell.releases);
            if asked.pods.is_empty() {
                self.phases[unit as usize] = Phase::Idle;
            } else if !is_whole && cell.shape_of(&asked).is_some_and(is_barred) {
                desk.parked.insert(turn, unit);
            } else {
                self.phases[unit as usize] = Phase::Asked;
                pending.push(asked);
            }
        }
        if pending.is_empty() {
            return;
        }
        let plan = desk.agent.scheduler.plan(&Ask {
            now: timestamp(cell.now),
            seed: desk.entropy.next_u64(),
            snapshot: &cell.snapshot,
            pending: &pending,
            scope,
            steps_max: NonZeroU32::MAX,
        });
        let cost = |unit: &Unit| {
            let steps = plan.steps.iter().filter(|step| step.unit == unit.id);
            let own = steps.fold(Micros::ZERO, |sum, step| sum.after(step.cost.into()));
            let thinking = desk.agent.thinking;
            thinking.per_unit.after(thinking.per_pod.times(unit.pods.len() as u64)).after(own)
        };
        let units: Vec<(u32, Micros)> = pending.iter().map(|unit| (unit.id.0, cost(unit))).collect();
        let took = units.iter().fold(Micros::ZERO, |sum, (_, cost)| sum.after(*cost));
        let victims = plan.steps.iter().flat_map(|step| &step.ops).filter_map(|op| match op {
            Op::Evict { pod, .. } => Some((*pod, cell.run_of(*pod)?)),
            _ => None,
        });
        let is_left = |unit: &&Unit| plan.left.iter().any(|left| left.unit == unit.id);
        desk.thought = Some(Thought {
            units,
            victims: victims.collect(),
            releases: cell.releases,
            left: pending.iter().filter(is_left).filter_map(|unit| cell.shape_of(unit)).collect(),
            steps: plan.steps,
        });
        desk.outcome.asks += 1;
        desk.outcome.busy = desk.outcome.busy.after(took);
        self.events.push(cell.now.after(took), Event::Decides(number));
    }

    /// What an agent has planned takes effect, as far as it still holds.
    fn decide(&mut self, number: usize) {
        let Some(thought) = self.desks[number].thought.take() else { return };
        let mut placed: BTreeMap<u32, usize> = BTreeMap::new();
        let mut refused = BTreeSet::new();
        let mut lost = Vec::new();
        for mut step in thought.steps {
            let desk = &mut self.desks[number];
            let cell = &mut self.cell;
            step.commit = desk.agent.commit.unwrap_or(step.commit);
            // Who has left by himself need not be evicted.
            step.ops.retain(|op| match op {
                Op::Evict { pod, .. } => thought.victims.get(pod).is_some_and(|run| cell.run_of(*pod) == Some(*run)),
                _ => true,
            });
            let UnitId(unit) = step.unit;
            match cell.commit(number, step, desk.agent.detect) {
                Ok(committed) => {
                    let is_taken = committed.taken > 0 || !committed.in_part;
                    desk.outcome.committed += u64::from(is_taken);
                    if committed.in_part {
                        desk.outcome.conflicts += 1;
                        refused.insert(unit);
                    }
                    *placed.entry(unit).or_insert(0) += committed.placed;
                    for (run, runs) in committed.began {
                        if let Some(runs) = runs {
                            self.events.push(cell.now.after(runs), Event::Ends(run));
                        }
                    }
                    lost.extend(committed.lost);
                    let heard = if is_taken { Heard::Committed } else { Heard::Refused };
                    desk.agent.scheduler.heard(&heard(UnitId(unit)));
                }
                Err(_) => {
                    desk.outcome.conflicts += 1;
                    refused.insert(unit);
                    desk.agent.scheduler.heard(&Heard::Refused(UnitId(unit)));
                }
            }
        }
        if thought.releases == self.cell.releases {
            let barred = thought.left.into_iter().map(|shape| (shape, thought.releases));
            self.desks[number].barred.extend(barred);
        }
        for (unit, cost) in thought.units {
            let was_refused = refused.contains(&unit);
            let found = placed.get(&unit).copied().unwrap_or(0) > 0;
            self.settle(unit, cost, was_refused, !found && !was_refused, thought.releases);
        }
        lost.into_iter().for_each(|unit| self.queue(unit));
        self.give_back(number);
    }

    /// Says what is next for a unit that was decided on.
    fn settle(&mut self, unit: u32, cost: Micros, was_refused: bool, is_left: bool, releases: u64) {
        let (agent, turn) = self.turn(unit);
        let (desk, cell) = (&mut self.desks[agent], &mut self.cell);
        desk.outcome.attempts += 1;
        let outcome = &mut cell.outcome.units[unit as usize];
        outcome.attempts += 1;
        self.phases[unit as usize] = Phase::Idle;
        if was_refused {
            outcome.refusals += 1;
            desk.outcome.wasted = desk.outcome.wasted.after(cost);
            if outcome.refusals >= desk.agent.refusals_max {
                return cell.give_up(unit);
            }
        }
        if is_left {
            desk.outcome.left += 1;
            cell.leave(agent, unit);
        }
        if cell.unit(unit).pods.is_empty() {
            return;
        }
        if was_refused {
            self.phases[unit as usize] = Phase::Refused;
            self.events.push(cell.now.after(desk.agent.retry), Event::Retries(unit));
        } else {
            self.phases[unit as usize] = Phase::Queued;
            // Room that was made meanwhile is news to the plan.
            let queue = if releases == cell.releases { &mut desk.parked } else { &mut desk.due };
            queue.insert(turn, unit);
        }
    }
}

/// A span with this mean, exponentially distributed.
fn exponential(entropy: &Entropy, mean: Micros) -> Micros {
    Micros::from_seconds(-(1.0 - entropy.next_f64()).ln() * mean.seconds())
}
