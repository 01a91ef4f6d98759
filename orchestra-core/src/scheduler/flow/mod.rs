//! Batches that are placed all at once, as a flow of least cost.

mod network;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use self::network::{ArcId, Network};
use super::{
    Ask, Commit, Left, NodeId, Op, Pipeline, Place, Plan, PodId, Reads, Scheduler, ShapeId, Step, Trial, Unit, UnitId,
    pipeline::Turn,
};
use crate::rng::mixed;

/// Places all pending units at once: a pod gets another node than its best if that is what makes room for others, and of all ways to
/// place those that can be, the sum of the points is the highest.
///
/// After Quincy (Isard et al., SOSP 2009) and Firmament (Gog et al., OSDI 2016): a flow of least cost from units over their shapes, which
/// stand for all pods that fare alike, to nodes. An arc to a node costs what the [`Pipeline`]'s scores leave to be wished; for scores
/// that are points already, each further pod of a shape on the same node costs what it would then, and never less. Units are sent in
/// their order, each beside those before it, which may be sent another way but keep a place: so if not all can be placed, as many are as
/// can be, and who came first is one of them (in Quincy's terms, to stay unscheduled costs more than any place, and the more the
/// earlier one came). Units of a higher priority are placed before all others.
///
/// A flow knows one amount, and pods have many: how many pods fit is exact for each shape by itself. Where several shapes would overfill
/// a node together, those that came first stay, and the others flow again. So the best there is is found as long as each node takes pods
/// of one shape only, or a single pod; else something near it. Unlike Quincy, it leaves pods that run where they are. A gang that gets too
/// few places in the flow, and pods that are bound to where others are, are placed one by one afterwards, as the pipeline would.
///
/// Each round of a flow costs a shortest path for every pending pod, over the arcs from shapes to nodes. The pipeline's
/// [`Look`](super::Look) and [`Ties`](super::Ties) matter for what is placed one by one only.
#[derive(Debug)]
pub struct MinCostFlow {
    name: Box<str>,
    rules: Pipeline,
}

impl MinCostFlow {
    /// By the filters, scores and devices of a pipeline.
    #[must_use]
    pub fn by(rules: Pipeline) -> Self {
        Self { name: format!("flow-{}", rules.name()).into(), rules }
    }
}

impl Scheduler for MinCostFlow {
    fn name(&self) -> &str {
        &self.name
    }

    fn plan(&mut self, ask: &Ask<'_>) -> Plan {
        let mut batch = Batch { turn: self.rules.turn(ask), placed: BTreeMap::new() };
        let mut left = BTreeMap::new();
        for band in ask.pending.chunk_by(|one, other| one.priority == other.priority) {
            left.extend(batch.place(band));
        }
        let placed = batch.placed;
        let mut plan = Plan::default();
        let mut trial = Trial::new(ask.snapshot);
        for unit in ask.pending {
            match left.remove(&unit.id) {
                Some(one) => plan.left.push(one),
                None => plan.steps.push(step(unit, &placed, &mut trial)),
            }
        }
        plan
    }
}

/// The step that puts a unit's pods to their places, after those before it.
fn step(unit: &Unit, placed: &BTreeMap<PodId, Place>, trial: &mut Trial<'_>) -> Step {
    let (mut ops, mut reads) = (Vec::new(), Vec::new());
    for &pod in &unit.pods {
        let Some(&place) = placed.get(&pod) else { continue };
        reads.push((place.node, trial.node(place.node).version));
        trial.place(pod, place);
        ops.push(Op::Place { pod, place });
    }
    Step { unit: unit.id, ops, reads, commit: Commit::Whole, cost: Duration::ZERO }
}

/// A batch in the making.
#[derive(Debug)]
struct Batch<'a> {
    turn: Turn<'a>,
    placed: BTreeMap<PodId, Place>,
}

/// The pods that flow, by the rank of their unit.
type Flowing = BTreeSet<(usize, PodId)>;

/// A node that takes pods of a shape, and what each further one costs there: never less than the one before.
#[derive(Debug)]
struct Offer {
    node: NodeId,
    costs: Vec<i64>,
}

impl Batch<'_> {
    /// Places units of one priority; returns those left over.
    fn place(&mut self, units: &[Unit]) -> Vec<(UnitId, Left)> {
        let mut flowing = Flowing::new();
        for (rank, unit) in units.iter().enumerate() {
            let is_free = |pod: &&PodId| self.turn.pipeline.around(&self.turn.trial, **pod).is_empty();
            flowing.extend(unit.pods.iter().filter(is_free).map(|pod| (rank, *pod)));
        }
        loop {
            while self.flow(units, &mut flowing) {}
            let is_short = |unit: &Unit| {
                let count = unit.pods.iter().filter(|pod| self.placed.contains_key(pod)).count();
                count > 0 && count < unit.pods_min
            };
            let Some(rank) = units.iter().rposition(is_short) else { break };
            // What the last gang with too few places gives back is for the others.
            flowing.retain(|(other, _)| *other != rank);
            for pod in units.get(rank).iter().flat_map(|unit| &unit.pods) {
                if self.placed.remove(pod).is_some() {
                    self.turn.trial.evict(*pod);
                }
            }
        }
        units.iter().filter_map(|unit| Some((unit.id, self.finish(unit)?))).collect()
    }

    /// Places one by one what of a unit has no place, as far as there is room.
    fn finish(&mut self, unit: &Unit) -> Option<Left> {
        let (has, waits): (Vec<PodId>, Vec<PodId>) = unit.pods.iter().partition(|pod| self.placed.contains_key(pod));
        let pods_min = unit.pods_min.saturating_sub(has.len());
        if waits.is_empty() {
            return None;
        }
        match self.turn.place(&Unit { pods: waits, pods_min, ..unit.clone() }) {
            Ok(step) => {
                self.placed.extend(step.ops.into_iter().filter_map(|op| match op {
                    Op::Place { pod, place } => Some((pod, place)),
                    _ => None,
                }));
                None
            }
            Err(why) => has.is_empty().then_some(Left { unit: unit.id, why, expected: None }),
        }
    }

    /// Sends the pods that have no place yet, and puts them where they flow as far as they still fit there; returns whether any
    /// did.
    fn flow(&mut self, units: &[Unit], flowing: &mut Flowing) -> bool {
        let snapshot = self.turn.trial.snapshot();
        let mut shapes: BTreeMap<ShapeId, Vec<PodId>> = BTreeMap::new();
        for (_, pod) in &*flowing {
            shapes.entry(snapshot.shape_of(*pod)).or_default().push(*pod);
        }
        let offers: Vec<(ShapeId, Vec<Offer>)> =
            shapes.iter().map(|(shape, pods)| (*shape, self.offers(pods))).collect();
        let mut stream = Stream::of(&offers);
        let mut sent = Vec::new();
        for (rank, unit) in units.iter().enumerate() {
            let waits = unit.pods.iter().filter(|pod| flowing.contains(&(rank, **pod)));
            let waits: Vec<(ShapeId, PodId)> = waits.map(|pod| (snapshot.shape_of(*pod), *pod)).collect();
            let has = unit.pods.iter().filter(|pod| self.placed.contains_key(pod)).count();
            sent.extend(stream.send(&waits, unit.pods_min.saturating_sub(has)).into_iter().map(|pod| (rank, pod)));
        }
        let mut places = stream.places();
        let before = flowing.len();
        for (rank, pod) in sent {
            let Some(node) = places.get_mut(&snapshot.shape_of(pod)).and_then(Vec::pop) else { continue };
            if let Some(place) = self.try_on(pod, node) {
                self.placed.insert(pod, place);
                flowing.remove(&(rank, pod));
            }
        }
        flowing.len() < before
    }

    /// The nodes that take pods of a shape, each with as many as fit.
    fn offers(&mut self, pods: &[PodId]) -> Vec<Offer> {
        let Some(&first) = pods.first() else { return Vec::new() };
        let (pipeline, snapshot) = (self.turn.pipeline, self.turn.trial.snapshot());
        let view = snapshot.pod(first);
        let takes = |node: &NodeId| pipeline.against(&[], view, self.turn.trial.node(*node)).is_none();
        let admitted: Vec<NodeId> = self.turn.order().iter().copied().filter(takes).collect();
        let totals = pipeline.weigh(&self.turn.trial, first, &admitted);
        let (most, scores) = (pipeline.most(), pipeline.points_reading(Reads::Usage));
        let mut offers = Vec::with_capacity(totals.len());
        for (node, total) in totals {
            let (mark, alone) = (self.turn.trial.mark(), pipeline.points_by(&scores, view, self.turn.trial.node(node)));
            let mut costs = vec![(most - total).max(0)];
            for pair in pods.windows(2) {
                let [pod, next] = pair else { break };
                // It takes the one before; what would the next one cost?
                let trial = &mut self.turn.trial;
                let devices =
                    pipeline.devices.pick(view, trial.node(node), mixed(self.turn.ask.seed, u64::from(pod.0)));
                trial.place(*pod, Place { node, devices });
                if pipeline.against(&[], snapshot.pod(*next), trial.node(node)).is_some() {
                    break;
                }
                let points = i64::from(pipeline.points_by(&scores, view, trial.node(node)) - alone);
                let cost = most - total - points * pipeline.point();
                costs.push(cost.max(costs.last().copied().unwrap_or(0)));
            }
            self.turn.trial.roll_back(mark);
            offers.push(Offer { node, costs });
        }
        offers
    }

    /// Puts a pod on a node, if that still takes it.
    fn try_on(&mut self, pod: PodId, node: NodeId) -> Option<Place> {
        let Turn { pipeline, trial, ask, .. } = &mut self.turn;
        let (view, on) = (trial.snapshot().pod(pod), trial.node(node));
        if pipeline.against(&[], view, on).is_some() {
            return None;
        }
        let place = Place { node, devices: pipeline.devices.pick(view, on, mixed(ask.seed, u64::from(pod.0))) };
        trial.place(pod, place);
        Some(place)
    }
}

/// The network of a round: shapes, the nodes that take pods of them, and where all of these lead.
#[derive(Debug)]
struct Stream {
    network: Network,
    sink: usize,
    shapes: BTreeMap<ShapeId, usize>,
    arcs: Vec<(ShapeId, NodeId, ArcId)>,
    /// The shapes of which no more can be placed, whatever is sent another way: nothing that flows later makes room.
    full: BTreeSet<ShapeId>,
}

impl Stream {
    fn of(offers: &[(ShapeId, Vec<Offer>)]) -> Self {
        let mut network = Network::default();
        let sink = network.add_node();
        let mut nodes: BTreeMap<NodeId, (usize, i64)> = BTreeMap::new();
        let (mut shapes, mut arcs) = (BTreeMap::new(), Vec::new());
        for (shape, offers) in offers {
            let from = network.add_node();
            shapes.insert(*shape, from);
            for Offer { node, costs } in offers {
                let (to, most) = nodes.entry(*node).or_insert_with(|| (network.add_node(), 0));
                *most = (costs.len() as i64).max(*most);
                for alike in costs.chunk_by(|one, other| one == other) {
                    let cost = alike.first().copied().unwrap_or(0);
                    arcs.push((*shape, *node, network.add_arc(from, *to, alike.len() as i64, cost)));
                }
            }
        }
        for (from, most) in nodes.values() {
            network.add_arc(*from, sink, *most, 0);
        }
        Self { network, sink, shapes, arcs, full: BTreeSet::new() }
    }

    /// Sends a unit's pods; returns those that get somewhere, none if they are fewer than `pods_min`.
    fn send(&mut self, pods: &[(ShapeId, PodId)], pods_min: usize) -> Vec<PodId> {
        // Only what may have to be taken back is worth a copy.
        let before = (pods_min > 1).then(|| self.network.clone());
        let mut sent = Vec::new();
        for (shape, pod) in pods {
            let Some(from) = self.shapes.get(shape).filter(|_| !self.full.contains(shape)) else { continue };
            if self.network.send(*from, self.sink, 1) == 1 {
                sent.push(*pod);
            } else if before.is_none() {
                self.full.insert(*shape);
            }
        }
        if let Some(before) = before.filter(|_| sent.len() < pods_min) {
            self.network = before;
            sent.clear();
        }
        sent
    }

    /// For each shape, a node for each pod that gets one, the last one first.
    fn places(&self) -> BTreeMap<ShapeId, Vec<NodeId>> {
        let mut places: BTreeMap<ShapeId, Vec<NodeId>> = BTreeMap::new();
        for (shape, node, arc) in self.arcs.iter().rev() {
            let count = usize::try_from(self.network.flow(*arc)).unwrap_or(0);
            places.entry(*shape).or_default().extend(std::iter::repeat_n(*node, count));
        }
        places
    }
}
