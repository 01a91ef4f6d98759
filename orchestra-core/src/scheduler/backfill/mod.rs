//! Queues that are served in their order, and how far later units may overtake.

mod planner;
mod profile;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use self::planner::Planner;
use super::{Ask, Heard, Left, NodeId, Plan, Reason, Scheduler, ShapeId, Unit};
use crate::clock::Timestamp;

/// How many nodes are ruled out, by the reasons.
type Why = BTreeMap<Vec<Reason>, usize>;

/// Serves a queue in its order, and lets a later unit overtake only if it delays nobody that room is kept for.
///
/// Where a pod goes is the inner scheduler's choice; when, this one's. It needs to know how long pods run
/// ([`PodView::runs`](super::PodView::runs)): what has no known end is taken never to end, so that nobody is promised its room, and
/// what should have ended by now is taken to be about to.
///
/// Whether a node has room all the time is told by its resources, its devices and its ports; all else that the inner scheduler
/// minds is judged for the moment at which a pod would start. Each plan is made from the snapshot alone, reservations included. An
/// inner scheduler that chooses the same node again while that has room (first fit does) makes the same ones again as long as pods
/// run as long as was said; then nobody starts later than he was once promised ([`Left::expected`]). Of a gang whose pods differ
/// that holds only as far as the inner scheduler finds room pod by pod.
///
/// An ask has to hold all that waits, not only what is new: who isn't in it has no room kept for him.
///
/// After the comparison of Mu'alem and Feitelson (IEEE TPDS 12, 2001). Costs a copy of the snapshot when somebody has to wait, and for
/// each of those a look at every node for each moment at which he could start.
///
/// # Examples
///
/// Five jobs come at once, in this order, to four nodes; each takes so many nodes for so long:
///
/// | job | nodes | runs | first come, first served | EASY | conservative |
/// |---|---|---|---|---|---|
/// | A | 2 | 10 s | 0 s | 0 s | 0 s |
/// | B | 3 | 10 s | 10 s | 10 s | 10 s |
/// | C | 4 | 10 s | 20 s | 30 s | 20 s |
/// | D | 1 | 30 s | 30 s | 0 s | 30 s |
/// | E | 1 | 10 s | 30 s | 0 s | 0 s |
///
/// At first two nodes are free, and B waits for one more. D leaves B enough, but not C: only EASY lets it overtake. E is done before
/// B can start.
///
/// ```
/// use orchestra_core::scheduler::{Backfill, Pipeline, Scheduler as _};
///
/// let scheduler = Backfill::easy(Pipeline::new("first-fit").required());
/// assert_eq!(scheduler.name(), "easy-first-fit");
/// ```
#[derive(Debug)]
pub struct Backfill<S> {
    name: Box<str>,
    inner: S,
    /// How many units room is kept for; if nobody may overtake, none.
    reservations: Option<usize>,
}

impl<S: Scheduler> Backfill<S> {
    /// First come, first served: nobody overtakes.
    pub fn fcfs(inner: S) -> Self {
        Self { name: format!("fcfs-{}", inner.name()).into(), inner, reservations: None }
    }

    /// EASY (Lifka, JSSPP 1995): room is kept for the first that has to wait, and for no other.
    pub fn easy(inner: S) -> Self {
        Self { name: format!("easy-{}", inner.name()).into(), ..Self::reserving(inner, 1) }
    }

    /// Conservative backfilling: room is kept for everyone who has to wait.
    pub fn conservative(inner: S) -> Self {
        Self { name: format!("conservative-{}", inner.name()).into(), ..Self::reserving(inner, usize::MAX) }
    }

    /// Room is kept for the first so many that have to wait (Maui's `RESERVATIONDEPTH`).
    pub fn reserving(inner: S, reservations: usize) -> Self {
        let name = format!("backfill-{reservations}-{}", inner.name()).into();
        Self { name, inner, reservations: Some(reservations) }
    }

    /// The longest beginning of the queue that the inner scheduler serves whole, and what it said of the next.
    fn begin(&mut self, ask: &Ask<'_>) -> (Plan, usize, Option<Left>) {
        let (all, mut is_cut) = (ask.pending.len(), false);
        let mut count = all.min(1);
        loop {
            let pending = ask.pending.get(..count).unwrap_or_default();
            let mut plan = self.inner.plan(&Ask { pending, ..*ask });
            let left: BTreeSet<_> = plan.left.iter().map(|left| left.unit).collect();
            match pending.iter().position(|unit| left.contains(&unit.id)) {
                Some(at) if at + 1 == count => {
                    let next = plan.left.pop();
                    return (plan, at, next);
                }
                Some(at) => (count, is_cut) = (at + 1, true),
                None if is_cut || count == all => return (plan, count, None),
                None => count = all.min(2 * count),
            }
        }
    }

    /// Nobody overtakes the first that has to wait.
    fn wait(units: &[Unit], nodes: usize, first: Option<Left>) -> Vec<Left> {
        let kept = || if nodes > 0 { [(vec![Reason::kept()], nodes)].into() } else { Why::new() };
        let mut left: Vec<Left> =
            units.iter().map(|unit| Left { unit: unit.id, why: kept(), expected: None }).collect();
        if let (Some(one), Some(first)) = (left.first_mut(), first) {
            *one = first;
        }
        left
    }
}

impl<S: Scheduler> Scheduler for Backfill<S> {
    fn name(&self) -> &str {
        &self.name
    }

    fn plan(&mut self, ask: &Ask<'_>) -> Plan {
        let (mut plan, served, next) = self.begin(ask);
        let waiting = ask.pending.get(served..).unwrap_or_default();
        if waiting.is_empty() {
            return plan;
        }
        let nodes: Vec<NodeId> = match ask.scope {
            Some(scope) => scope.to_vec(),
            None => ask.snapshot.node_ids().collect(),
        };
        let Some(mut reservations) = self.reservations else {
            plan.left = Self::wait(waiting, nodes.len(), next);
            return plan;
        };
        let mut planner = Planner::new(&mut self.inner, ask, nodes, &plan.steps);
        // Who was refused a start: whoever is alike, and stays no shorter, need not be tried.
        let mut refused: BTreeMap<ShapeId, (Timestamp, Why)> = BTreeMap::new();
        for unit in waiting {
            let alike = planner.alike(unit);
            let known = alike.and_then(|(shape, to)| refused.get(&shape).filter(|(refused, _)| to >= *refused));
            let started = known.map_or_else(|| planner.start(unit), |(_, why)| Err(why.clone()));
            let why = match started {
                Ok(step) => {
                    plan.steps.push(step);
                    continue;
                }
                Err(why) => why,
            };
            if let Some((shape, to)) = alike
                && refused.get(&shape).is_none_or(|(refused, _)| to < *refused)
            {
                refused.insert(shape, (to, why.clone()));
            }
            let expected = (reservations > 0).then(|| planner.reserve(unit)).flatten();
            reservations -= usize::from(expected.is_some());
            plan.left.push(Left { unit: unit.id, why, expected });
        }
        plan
    }

    fn heard(&mut self, heard: &Heard) {
        self.inner.heard(heard);
    }
}
