//! Taking the places of less important pods (Kubernetes' `DefaultPreemption`; KEP-5710 for gangs).
//!
//! Preemption has two phases, as in a cluster: a step evicts the victims and nominates the pod, which gets its place in a
//! later plan, once they have left. Until then its room is kept from pods that are no more important.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    super::{
        Commit, DeviceSet, DevicesFit, Filter as _, FullestDevices, HostPortsFree, NodeId, Op, PickDevices as _, Place,
        PodId, Reads, Step, Trial, Unit,
    },
    Pipeline, Ties, Why,
};
use crate::{clock::Timestamp, rng::mixed};

/// Of how many nodes the cost is compared at least, and of which share of all; kube-scheduler's defaults.
const CANDIDATES_MIN: usize = 100;
const CANDIDATES_SHARE: usize = 10;

/// What taking pods off a node would cost, in the order in which kube-scheduler compares it (`pickOneNodeForPreemption`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// The victims that would be disrupted beyond their budgets.
    violations: usize,
    /// The priority of the most important victim; less than all if there is none.
    highest: i64,
    /// The sum of their priorities, each counted from the lowest there can be: so more victims cost more.
    sum: i64,
    count: usize,
    /// Since when the first of the most important ones has been running: it is better if that is short.
    since: Reverse<Option<Timestamp>>,
}

/// What it would cost to get room for a pod of some shape on each node, as far as that is known; inside, `None` where it gets none.
pub(super) type Costs = Vec<Option<Option<Cost>>>;

/// A pod that waits for room: its priority, itself, the node.
type Waiting = (Reverse<i32>, PodId, NodeId);

/// Where pods are to have room, and the pods that have to leave for it.
type Room = (Vec<(PodId, NodeId)>, Vec<PodId>);

/// What has been decided in a plan about the places of others.
#[derive(Debug, Default)]
pub(super) struct Preempted {
    /// The pods that are to leave: they are still there, and are counted no second time.
    doomed: BTreeSet<PodId>,
    /// Those that wait for room, by importance, each with its node.
    waiting: BTreeSet<Waiting>,
    /// The same by pod.
    by_pod: BTreeMap<PodId, Waiting>,
    /// Those of them whose room is kept in the trial now, each with the devices that are.
    reserved: BTreeMap<Waiting, DeviceSet>,
    /// For which priority that is.
    level: Option<i32>,
}

impl Preempted {
    /// What earlier plans have left.
    pub(super) fn of(trial: &Trial<'_>) -> Self {
        let snapshot = trial.snapshot();
        let mut preempted = Self::default();
        snapshot.nominated().for_each(|(pod, node)| preempted.waits(trial, pod, node));
        preempted
    }

    fn waits(&mut self, trial: &Trial<'_>, pod: PodId, node: NodeId) {
        self.placed(pod);
        let waiting = (Reverse(trial.snapshot().pod(pod).priority), pod, node);
        self.waiting.insert(waiting);
        self.by_pod.insert(pod, waiting);
        self.level = None;
    }

    /// Keeps the room in the trial that a unit has to leave to others: to those who wait and are as important. Its own pods may
    /// use theirs; tells the nodes whose room has changed.
    pub(super) fn keep_room(&mut self, trial: &mut Trial<'_>, unit: &Unit) -> Vec<NodeId> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let mut changed = Vec::new();
        if self.level != Some(unit.priority) {
            let is_kept = |one: &&Waiting| one.0.0 >= unit.priority;
            let wanted: BTreeSet<_> = self.waiting.iter().take_while(is_kept).copied().collect();
            let given_up: Vec<_> = self.reserved.keys().filter(|one| !wanted.contains(one)).copied().collect();
            changed.extend(given_up.iter().filter_map(|one| self.give_up(trial, one)));
            for one in wanted {
                self.reserved.entry(one).or_insert_with(|| {
                    changed.push(one.2);
                    reserve(trial, one)
                });
            }
            self.level = Some(unit.priority);
        }
        for pod in &unit.pods {
            let Some(one) = self.by_pod.get(pod).copied() else { continue };
            changed.extend(self.give_up(trial, &one));
            self.level = None;
        }
        changed
    }

    /// Keeps room for a pod no longer; tells the node.
    fn give_up(&mut self, trial: &mut Trial<'_>, one: &Waiting) -> Option<NodeId> {
        let devices = self.reserved.remove(one)?;
        trial.reserve(one.1, Place { node: one.2, devices }, false);
        Some(one.2)
    }

    /// Notes that a pod has its place, and waits no more.
    pub(super) fn placed(&mut self, pod: PodId) {
        if let Some(waiting) = self.by_pod.remove(&pod) {
            self.waiting.remove(&waiting);
        }
    }

    /// The step by which a unit gets room from less important pods; `None` if that can't be.
    pub(super) fn preempt(
        &mut self,
        pipeline: &Pipeline,
        trial: &mut Trial<'_>,
        unit: &Unit,
        (nodes, seed): (&[NodeId], u64),
        costs: &mut Costs,
    ) -> Option<Step> {
        if unit.pods.iter().any(|pod| trial.snapshot().pod(*pod).never_preempts) {
            return None;
        }
        let (places, victims) = match unit.pods[..] {
            [pod] => {
                let (node, victims) = self.best_node(pipeline, trial, pod, (nodes, seed), costs)?;
                (vec![(pod, node)], victims)
            }
            _ => trial.dry(|trial| self.room_for_all(pipeline, trial, unit, nodes, seed))?,
        };
        places.iter().for_each(|(pod, node)| self.waits(trial, *pod, *node));
        let reads = places.iter().map(|(_, node)| (*node, trial.node(*node).version)).collect();
        for victim in &victims {
            self.doomed.insert(*victim);
            trial.place_of(*victim).into_iter().for_each(|place| trial.count_changes(place.node, 1));
        }
        let preemptor = places.first().map(|(pod, _)| *pod);
        let evictions = victims.into_iter().map(|pod| Op::Evict { pod, preemptor });
        let nominations = places.iter().map(|(pod, node)| Op::Nominate { pod: *pod, node: *node });
        let ops = evictions.chain(nominations).collect();
        Some(Step { unit: unit.id, ops, reads, commit: Commit::Whole, cost: Duration::ZERO })
    }

    /// Whether what it costs to get room for a unit on a node depends on that node alone.
    pub(super) fn has_costs_by_node(pipeline: &Pipeline, trial: &Trial<'_>, unit: &Unit) -> bool {
        let snapshot = trial.snapshot();
        let [pod] = unit.pods[..] else { return false };
        snapshot.budgets().is_empty() && snapshot.pod(pod).devices.count == 0 && pipeline.around(trial, pod).is_empty()
    }

    /// The node that costs least to get room on for one pod, and its victims.
    fn best_node(
        &self,
        pipeline: &Pipeline,
        trial: &mut Trial<'_>,
        pod: PodId,
        (nodes, seed): (&[NodeId], u64),
        costs: &mut Costs,
    ) -> Option<(NodeId, Vec<PodId>)> {
        let concerning = pipeline.concerning(Reads::Node, trial.snapshot().pod(pod));
        let enough = CANDIDATES_MIN.max(nodes.len() * CANDIDATES_SHARE / 100);
        let start = match pipeline.ties {
            Ties::Random if !nodes.is_empty() => mixed(seed, u64::from(pod.0)) % nodes.len() as u64,
            _ => 0,
        };
        let start = usize::try_from(start).unwrap_or(0);
        let (mut best, mut found, mut is_harmless) = (None::<((Cost, usize), NodeId)>, 0, false);
        for (rank, node) in nodes.iter().cycle().skip(start).take(nodes.len()).enumerate() {
            let mut cost_on = || self.cost_on(pipeline, trial, pod, *node, &concerning);
            let cost = match costs.get_mut(node.0 as usize) {
                Some(known) => *known.get_or_insert_with(cost_on),
                None => cost_on(),
            };
            let Some(cost) = cost else { continue };
            found += 1;
            is_harmless = is_harmless || cost.violations == 0;
            if best.is_none_or(|(least, _)| (cost, rank) < least) {
                best = Some(((cost, rank), *node));
            }
            if found >= enough && is_harmless {
                break;
            }
        }
        let (_, node) = best?;
        let (_, victims) = trial.dry(|trial| self.room_on(pipeline, trial, pod, node))?;
        Some((node, victims))
    }

    /// What it costs to get room for a pod on a node; `None` if it gets none there.
    fn cost_on(
        &self,
        pipeline: &Pipeline,
        trial: &mut Trial<'_>,
        pod: PodId,
        node: NodeId,
        concerning: &[usize],
    ) -> Option<Cost> {
        let view = trial.snapshot().pod(pod);
        let could_help = !self.others_wait_for_devices(trial, pod, node)
            && self.less_important(trial, node, view.priority).next().is_some()
            && pipeline.reasons_by(Reads::Node, concerning, view, trial.node(node)).is_none();
        let room = could_help.then(|| trial.dry(|trial| self.room_on(pipeline, trial, pod, node)))?;
        room.map(|(cost, _)| cost)
    }

    /// Whether devices that will be free on a node may be meant for another pod than this one, which wants some, too.
    fn others_wait_for_devices(&self, trial: &Trial<'_>, pod: PodId, node: NodeId) -> bool {
        let wants = |pod: PodId| trial.snapshot().pod(pod).devices.count > 0;
        wants(pod) && self.waiting.iter().any(|(_, other, on)| *on == node && *other != pod && wants(*other))
    }

    /// The pods on a node that are less important.
    fn less_important(&self, trial: &Trial<'_>, node: NodeId, priority: i32) -> impl Iterator<Item = PodId> {
        let snapshot = trial.snapshot();
        trial.pods_on(node).filter(move |pod| snapshot.pod(*pod).priority < priority)
    }

    /// What it costs to get room for a pod on a node, and the victims; `None` if it gets none.
    fn room_on(
        &self,
        pipeline: &Pipeline,
        trial: &mut Trial<'_>,
        pod: PodId,
        node: NodeId,
    ) -> Option<(Cost, Vec<PodId>)> {
        let off: Vec<PodId> = self.less_important(trial, node, trial.snapshot().pod(pod).priority).collect();
        let off = self.take_off(trial, off);
        if !fits(pipeline, trial, pod, node) {
            return None;
        }
        let back = |trial: &mut Trial<'_>, victim: PodId, place: Place| {
            trial.place(victim, place);
            let still_fits = fits(pipeline, trial, pod, node);
            if !still_fits {
                trial.evict(victim);
            }
            still_fits
        };
        Some(self.reprieve(trial, off, back))
    }

    /// Places all that fits of a unit with every less important pod out of its way, and tells where, and which of those have to
    /// leave for it; `None` if it has too little room even so.
    fn room_for_all(
        &self,
        pipeline: &Pipeline,
        trial: &mut Trial<'_>,
        unit: &Unit,
        nodes: &[NodeId],
        seed: u64,
    ) -> Option<Room> {
        let snapshot = trial.snapshot();
        let least = unit.pods.iter().map(|pod| snapshot.pod(*pod).priority).min()?;
        let off = nodes.iter().flat_map(|node| self.less_important(trial, *node, least).collect::<Vec<_>>()).collect();
        let off = self.take_off(trial, off);
        let mut places: Vec<(PodId, NodeId)> = Vec::new();
        for &pod in &unit.pods {
            let draw = mixed(seed, u64::from(pod.0));
            let around = pipeline.around(trial, pod);
            let (admitted, _): (_, Why) = pipeline.admit(&around, trial, pod, (nodes, draw));
            let Some(node) = pipeline.choose(&pipeline.weigh(trial, pod, &admitted), draw) else { continue };
            let devices = pipeline.devices.pick(snapshot.pod(pod), trial.node(node), draw);
            trial.place(pod, Place { node, devices });
            places.push((pod, node));
        }
        if places.len() < unit.pods_min.max(1) {
            return None;
        }
        let back = |trial: &mut Trial<'_>, victim: PodId, place: Place| {
            let (view, node) = (snapshot.pod(victim), trial.node(place.node));
            let is_taken =
                HostPortsFree.admit(view, node).is_err() || !view.devices.is_met_by(place.devices, &node.devices_left);
            if is_taken {
                return false;
            }
            trial.place(victim, place);
            let still_fit = places.iter().all(|(pod, node)| {
                let is_concerned = *node == place.node || !pipeline.around(trial, *pod).is_empty();
                !is_concerned
                    || trial.dry(|trial| {
                        trial.evict(*pod);
                        fits(pipeline, trial, *pod, *node)
                    })
            });
            if !still_fit {
                trial.evict(victim);
            }
            still_fit
        };
        let (_, victims) = self.reprieve(trial, off, back);
        Some((places, victims))
    }

    /// Takes pods off their places. Tells those that have not been told to leave anyway, the most important first.
    fn take_off(&self, trial: &mut Trial<'_>, pods: Vec<PodId>) -> Vec<(PodId, Place)> {
        let snapshot = trial.snapshot();
        let mut off = Vec::with_capacity(pods.len());
        for pod in pods {
            let Some(place) = trial.place_of(pod) else { continue };
            trial.evict(pod);
            if !snapshot.pod(pod).terminating && !self.doomed.contains(&pod) {
                off.push((pod, place));
            }
        }
        off.sort_by_key(|(pod, _)| importance(trial, *pod));
        off
    }

    /// Puts pods back as far as `back` says that leaves room, those first whose budgets would be violated; what it costs that the others leave.
    fn reprieve(
        &self,
        trial: &mut Trial<'_>,
        off: Vec<(PodId, Place)>,
        mut back: impl FnMut(&mut Trial<'_>, PodId, Place) -> bool,
    ) -> (Cost, Vec<PodId>) {
        let snapshot = trial.snapshot();
        let mut allowed: Vec<i64> = snapshot.budgets().iter().map(|budget| budget.allowed).collect();
        let mut violates = |pod: PodId| {
            let mut violates = false;
            for (budget, allowed) in snapshot.budgets().iter().zip(&mut allowed) {
                if budget.covers(snapshot.pod(pod)) {
                    *allowed -= 1;
                    violates |= *allowed < 0;
                }
            }
            violates
        };
        for pod in &self.doomed {
            violates(*pod);
        }
        let (violating, others): (Vec<_>, Vec<_>) = off.into_iter().partition(|(pod, _)| violates(*pod));
        let violating_len = violating.len();
        let (mut violations, mut victims) = (0, Vec::new());
        for (at, (pod, place)) in violating.into_iter().chain(others).enumerate() {
            if !back(trial, pod, place) {
                victims.push(pod);
                violations += usize::from(at < violating_len);
            }
        }
        victims.sort_by_key(|pod| importance(trial, *pod));
        (cost(trial, violations, &victims), victims)
    }
}

/// Keeps room for a pod, and such devices as are free; tells these.
fn reserve(trial: &mut Trial<'_>, (_, pod, node): Waiting) -> DeviceSet {
    let (shape, view) = (trial.snapshot().pod(pod), trial.node(node));
    let is_free = DevicesFit.admit(shape, view).is_ok();
    let devices = if is_free { FullestDevices.pick(shape, view, 0) } else { DeviceSet::EMPTY };
    trial.reserve(pod, Place { node, devices }, true);
    devices
}

/// The most important first: by priority, then by how long they have been running, then by their place in the snapshot.
fn importance(trial: &Trial<'_>, pod: PodId) -> (Reverse<i32>, bool, Option<Timestamp>, PodId) {
    let view = trial.snapshot().pod(pod);
    (Reverse(view.priority), view.started.is_none(), view.started, pod)
}

fn cost(trial: &Trial<'_>, violations: usize, victims: &[PodId]) -> Cost {
    let priority = |pod: &PodId| i64::from(trial.snapshot().pod(*pod).priority);
    let highest = victims.iter().map(priority).max();
    let top = victims.iter().filter(|pod| Some(priority(pod)) == highest);
    Cost {
        violations,
        highest: highest.unwrap_or(i64::MIN),
        sum: victims.iter().map(|pod| priority(pod) - i64::from(i32::MIN)).sum(),
        count: victims.len(),
        since: Reverse(top.filter_map(|pod| trial.snapshot().pod(*pod).started).min()),
    }
}

/// Whether every filter lets a node take a pod, in the trial so far.
fn fits(pipeline: &Pipeline, trial: &Trial<'_>, pod: PodId, node: NodeId) -> bool {
    let around = pipeline.around(trial, pod);
    pipeline.against(&around, trial.snapshot().pod(pod), trial.node(node)).is_none()
}
