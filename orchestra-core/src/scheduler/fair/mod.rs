//! Queues of tenants, served so that each gets its share.

mod quota;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

pub use self::quota::Quota;
use self::quota::{Rule, Usage, amounts};
use super::{Ask, Detect, Heard, Left, Op, Plan, Reason, Resources, Scheduler, Snapshot, Unit, commit};

/// Serves queues in turn, one unit after another, whoever has the least first; an inner scheduler chooses the nodes.
///
/// Within a queue the order is that of the ask; a unit that finds no place, or may not have any, holds up nobody (Kueue's
/// `BestEffortFIFO`). What a queue has is read off the snapshot: the pods that have a place, by [`PodView::queue`](super::PodView::queue).
/// It takes from nobody what he has, so that who has lent something gets it back when its borrower's pods end.
///
/// # Examples
///
/// Of 9 cores and 18 GB, one tenant's pods take 1 and 4, another's 3 and 1: both get two thirds of what they take most of (the example
/// of Ghodsi et al., NSDI 2011, section 4.1).
///
/// ```
/// use orchestra_core::{
///     clock::Timestamp,
///     scheduler::{
///         Ask, FairShare, FirstFit, NodeInfo, PodView, Resources, Scheduler as _, Shape, Snapshot, Unit, UnitId,
///     },
/// };
/// use std::num::NonZeroU32;
///
/// let amounts = |cpu, memory| Resources { cpu, memory, pods: 100, ..Resources::default() };
/// let node = NodeInfo { name: "n".into(), allocatable: amounts(9, 18), ..NodeInfo::default() };
/// let mut snapshot = Snapshot::new([node], []);
/// let (now, mut pending) = (Timestamp::UNIX_EPOCH, Vec::new());
/// for id in 0..20 {
///     let (queue, cpu, memory) = if id < 10 { ("a", 1, 4) } else { ("b", 3, 1) };
///     let requests = Resources { pods: 1, ..amounts(cpu, memory) };
///     let pods = vec![snapshot.add(PodView::new("pod", Shape { requests, ..Shape::default() }))];
///     pending.push(Unit { id: UnitId(id), pods, pods_min: 1, priority: 0, queue: queue.into(), since: now });
/// }
/// let ask =
///     Ask { now, seed: 1, snapshot: &snapshot, pending: &pending, scope: None, steps_max: NonZeroU32::MAX };
/// let plan = FairShare::dominant(FirstFit::default(), []).plan(&ask);
/// let of_a = plan.steps.iter().filter(|step| step.unit < UnitId(10)).count();
/// assert_eq!((of_a, plan.steps.len() - of_a), (3, 2));
/// ```
#[derive(Debug)]
pub struct FairShare<S> {
    name: Box<str>,
    inner: S,
    rule: Rule,
}

impl<S: Scheduler> FairShare<S> {
    /// Dominant resource fairness (Ghodsi et al., NSDI 2011): next is whoever's largest share of any resource of all nodes is smallest,
    /// for his weight. Who isn't named weighs 1.
    pub fn dominant(inner: S, weights: impl IntoIterator<Item = (Box<str>, f64)>) -> Self {
        let rule = Rule::Dominant(weights.into_iter().collect());
        Self { name: format!("drf-{}", inner.name()).into(), inner, rule }
    }

    /// Fair sharing by quotas, as Kueue has it: first those that keep to what they are entitled to; then, of those that borrow,
    /// whoever's largest share of the cohort's quota beyond his own would be smallest, for his weight. The order is then by priority, and by how
    /// long a unit waits. A unit of a queue without a quota is left over.
    pub fn quotas(inner: S, quotas: impl IntoIterator<Item = Quota>) -> Self {
        let rule = Rule::Quotas(quotas.into_iter().collect());
        Self { name: format!("quotas-{}", inner.name()).into(), inner, rule }
    }

    /// The next unit to serve, with its queue; `None` for one that may not have what it wants.
    fn next<'a>(&self, queues: &Queues<'a>, usage: &Usage, cell: &Snapshot) -> Option<(&'a str, bool)> {
        let heads = queues.iter().filter_map(|(queue, units)| Some((*queue, *units.front()?)));
        let mut best = None;
        for (queue, unit) in heads {
            let Some(standing) = usage.standing(&self.rule, queue, &wanted(unit, cell)) else {
                return Some((queue, false));
            };
            let rank = (-i64::from(unit.priority), unit.since);
            if best.as_ref().is_none_or(|(_, least, first)| (&standing, &rank) < (least, first)) {
                best = Some((queue, standing, rank));
            }
        }
        best.map(|(queue, ..)| (queue, true))
    }
}

/// Those that wait, by queue.
type Queues<'a> = BTreeMap<&'a str, VecDeque<&'a Unit>>;

impl<S: Scheduler> Scheduler for FairShare<S> {
    fn name(&self) -> &str {
        &self.name
    }

    fn plan(&mut self, ask: &Ask<'_>) -> Plan {
        if ask.pending.is_empty() {
            return self.inner.plan(ask);
        }
        let (mut cell, mut usage) = (ask.snapshot.clone(), Usage::of(ask.snapshot));
        let mut queues = Queues::new();
        for unit in ask.pending {
            queues.entry(&unit.queue).or_default().push_back(unit);
        }
        let nodes = ask.scope.map_or(ask.snapshot.nodes().len(), <[_]>::len);
        let mut all = Plan::default();
        while let Some((queue, is_entitled)) = self.next(&queues, &usage, &cell) {
            let Some(unit) = queues.get_mut(queue).and_then(VecDeque::pop_front) else { break };
            if !is_entitled {
                let reason = Reason::crowded("node(s) were beyond the quota of the pod's queue");
                let why = (nodes > 0).then(|| (vec![reason], nodes));
                all.left.push(Left { unit: unit.id, why: why.into_iter().collect(), expected: None });
                continue;
            }
            let plan = self.inner.plan(&Ask { snapshot: &cell, pending: std::slice::from_ref(unit), ..*ask });
            let is_evicting = plan.steps.iter().flat_map(|step| &step.ops).any(|op| matches!(op, Op::Evict { .. }));
            for step in plan.steps {
                // Law 2: what the inner scheduler plans is not refused.
                let _ = commit(&mut cell, &step, Detect::Fit);
                all.steps.push(step);
            }
            all.left.extend(plan.left);
            if is_evicting {
                usage = Usage::of(&cell);
                continue;
            }
            for pod in unit.pods.iter().filter(|pod| cell.place_of(**pod).is_some()) {
                usage.add(queue, &amounts(&cell.pod(*pod).shape));
            }
        }
        all
    }

    fn heard(&mut self, heard: &Heard) {
        self.inner.heard(heard);
    }
}

/// What a unit's pods take together.
fn wanted(unit: &Unit, cell: &Snapshot) -> Resources {
    let mut wanted = Resources::default();
    unit.pods.iter().for_each(|pod| wanted.add(&amounts(&cell.pod(*pod).shape)));
    wanted
}
