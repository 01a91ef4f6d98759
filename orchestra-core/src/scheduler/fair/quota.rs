//! Who has how much, and who may have more: plain amounts by queue.

use std::collections::BTreeMap;

use super::super::{DEVICE_MILLIS, Resources, Shape, Snapshot};

/// What devices are called among resources, in thousandths of one: of the snapshot's model, not the API's.
const DEVICES: &str = "devices";

/// A tenant's queue: what it is entitled to, and what it may have beyond while others leave it unused.
///
/// A resource that no queue of a cohort is entitled to is not limited there.
#[derive(Clone, Debug, PartialEq)]
pub struct Quota {
    /// The queue: that of its [units](super::super::Unit::queue), in a cluster the namespace.
    pub queue: Box<str>,
    /// Queues of one cohort lend each other what they don't use.
    pub cohort: Box<str>,
    /// What it is entitled to.
    pub nominal: Resources,
    /// How much it may have beyond; as much as the cohort has, if it isn't said.
    pub borrowing_max: Option<Resources>,
    /// Who weighs twice as much may borrow twice as much before it is another's turn; 0 is always last.
    pub weight: f64,
}

impl Quota {
    /// A queue of a cohort by the name of "", which may borrow all there is.
    pub fn new(queue: impl Into<Box<str>>, nominal: Resources) -> Self {
        Self { queue: queue.into(), cohort: Box::default(), nominal, borrowing_max: None, weight: 1.0 }
    }
}

/// What queues share, and by which rule.
#[derive(Clone, Debug)]
pub(super) enum Rule {
    /// All there is; queues that aren't named weigh 1.
    Dominant(BTreeMap<Box<str>, f64>),
    /// What they are entitled to.
    Quotas(Vec<Quota>),
}

/// Whether a queue may have so much more, and whose turn it is: the least goes first.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub(super) struct Standing {
    /// Whether it has to borrow; who hasn't is served first.
    pub(super) borrows: bool,
    /// Its share for its weight.
    pub(super) share: f64,
}

/// What each queue has.
#[derive(Clone, Debug)]
pub(super) struct Usage {
    total: Resources,
    taken: BTreeMap<Box<str>, Resources>,
}

impl Usage {
    /// What the pods of a snapshot take that have a place.
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let mut total = Resources::default();
        for node in snapshot.nodes() {
            total.add(&node.allocatable);
            add_devices(&mut total, i64::from(node.devices) * i64::from(DEVICE_MILLIS));
        }
        let mut usage = Self { total, taken: BTreeMap::new() };
        for (pod, _) in snapshot.placed() {
            let pod = snapshot.pod(pod);
            usage.add(&pod.queue, &amounts(&pod.shape));
        }
        usage
    }

    /// Notes that a queue has more.
    pub(super) fn add(&mut self, queue: &str, more: &Resources) {
        match self.taken.get_mut(queue) {
            Some(taken) => taken.add(more),
            None => drop(self.taken.insert(queue.into(), more.clone())),
        }
    }

    fn taken(&self, queue: &str) -> Resources {
        self.taken.get(queue).cloned().unwrap_or_default()
    }

    /// Where a queue stands that wants so much more; `None` if it may not have it.
    pub(super) fn standing(&self, rule: &Rule, queue: &str, more: &Resources) -> Option<Standing> {
        match rule {
            Rule::Dominant(weights) => {
                let weight = weights.get(queue).copied().unwrap_or(1.0);
                let share = largest_share(&self.taken(queue), &self.total);
                Some(Standing { borrows: false, share: for_weight(share, weight) })
            }
            Rule::Quotas(quotas) => self.by_quota(quotas, queue, more),
        }
    }

    fn by_quota(&self, quotas: &[Quota], queue: &str, more: &Resources) -> Option<Standing> {
        let own = quotas.iter().find(|quota| *quota.queue == *queue)?;
        let (mut cohort, mut cohort_taken) = (Resources::default(), Resources::default());
        for quota in quotas.iter().filter(|quota| quota.cohort == own.cohort) {
            cohort.add(&quota.nominal);
            cohort_taken.add(&self.taken(&quota.queue));
        }
        let mut would_take = self.taken(queue);
        would_take.add(more);
        cohort_taken.add(more);
        let is_beyond = |(name, wanted): (&str, i64)| {
            let (limit, all) = (own.nominal.amount(name), cohort.amount(name));
            let lent = own.borrowing_max.as_ref().map(|most| most.amount(name));
            let most = lent.map_or(i64::MAX, |lent| limit.saturating_add(lent));
            wanted > 0 && all > 0 && (would_take.amount(name) > most || cohort_taken.amount(name) > all)
        };
        if more.iter().any(is_beyond) {
            return None;
        }
        let above = would_take.iter().map(|(name, taken)| (name, (taken - own.nominal.amount(name)).max(0)));
        let above: Resources = above.filter(|(name, _)| cohort.amount(name) > 0).collect();
        let borrows = above.iter().next().is_some();
        Some(Standing { borrows, share: for_weight(largest_share(&above, &cohort), own.weight) })
    }
}

/// What a pod of a shape takes.
pub(super) fn amounts(shape: &Shape) -> Resources {
    let mut amounts = shape.requests.clone();
    add_devices(&mut amounts, i64::try_from(shape.devices.total_millis()).unwrap_or(i64::MAX));
    amounts
}

fn add_devices(amounts: &mut Resources, millis: i64) {
    if millis > 0 {
        amounts.set(DEVICES, amounts.amount(DEVICES).saturating_add(millis));
    }
}

/// The largest share of any resource but the number of pods, which is no resource that anybody competes for.
fn largest_share(part: &Resources, all: &Resources) -> f64 {
    let share = |(name, part): (&str, i64)| {
        let all = all.amount(name);
        if all > 0 && name != "pods" { part as f64 / all as f64 } else { 0.0 }
    };
    part.iter().map(share).fold(0.0, f64::max)
}

fn for_weight(share: f64, weight: f64) -> f64 {
    if weight > 0.0 { share / weight } else { f64::INFINITY }
}
