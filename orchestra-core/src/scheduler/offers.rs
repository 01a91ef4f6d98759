//! Offers of nodes to one scheduler at a time: the allocator of a two-level cluster.
//!
//! After Mesos (Hindman et al., NSDI 2011): whoever has the least is offered all that is free, and holds it until it has
//! decided; what it doesn't take is offered to the next. Least is by dominant resource fairness (Ghodsi et al., NSDI 2011): of all
//! resources, the one of which a framework has the largest share counts.

use std::collections::BTreeSet;

use super::{NodeId, Resources, Snapshot};

/// A scheduler that offers are made to.
#[derive(Clone, Debug, Default)]
struct Framework {
    weight: f64,
    taken: Resources,
    held: BTreeSet<NodeId>,
}

/// Who has what, and who holds which offer. Plain data: it knows neither time nor the schedulers.
#[derive(Clone, Debug, Default)]
pub struct Offers {
    total: Resources,
    frameworks: Vec<Framework>,
}

impl Offers {
    /// Frameworks by their weights, who share so much. Who weighs twice as much is entitled to twice the share; what weighs
    /// nothing, or less, is offered something only when nobody else wants it.
    pub fn new(total: Resources, weights: impl IntoIterator<Item = f64>) -> Self {
        let framework = |weight| Framework { weight, ..Framework::default() };
        Self { total, frameworks: weights.into_iter().map(framework).collect() }
    }

    /// The largest share of any resource that a framework has; 0 if there is no such framework.
    #[must_use]
    pub fn dominant_share(&self, framework: usize) -> f64 {
        let share = |(name, taken): (&str, i64)| {
            let total = self.total.amount(name);
            if total > 0 { taken as f64 / total as f64 } else { 0.0 }
        };
        self.frameworks.get(framework).map_or(0.0, |one| one.taken.iter().map(share).fold(0.0, f64::max))
    }

    /// Whose turn it is, of those who want something and hold no offer: who has the smallest dominant share for its weight, and of
    /// equals the first.
    pub fn next(&self, wants: impl Fn(usize) -> bool) -> Option<usize> {
        let ratio =
            |at: usize, weight: f64| if weight > 0.0 { self.dominant_share(at) / weight } else { f64::INFINITY };
        let waiting = self.frameworks.iter().enumerate().filter(|(at, one)| one.held.is_empty() && wants(*at));
        let least = waiting.map(|(at, one)| (ratio(at, one.weight), at)).min_by(|(a, _), (b, _)| a.total_cmp(b));
        least.map(|(_, at)| at)
    }

    /// Offers a framework every node that nobody holds and that has something left; it holds them until it
    /// [gives them back](Self::give_back). Looks at every node.
    pub fn offer(&mut self, framework: usize, snapshot: &Snapshot) -> Vec<NodeId> {
        let is_held = |node: &NodeId| self.frameworks.iter().any(|one| one.held.contains(node));
        let has_some = |node: &NodeId| {
            let node = snapshot.node(*node);
            let left = |(name, all): (&str, i64)| node.requested.amount(name) < all;
            !node.unschedulable && node.allocatable.iter().any(left)
        };
        let offered: Vec<NodeId> = snapshot.node_ids().filter(|node| !is_held(node) && has_some(node)).collect();
        if let Some(one) = self.frameworks.get_mut(framework) {
            one.held.extend(offered.iter().copied());
        }
        offered
    }

    /// Whether anybody but this framework holds something.
    #[must_use]
    pub fn others_hold(&self, framework: usize) -> bool {
        self.frameworks.iter().enumerate().any(|(at, one)| at != framework && !one.held.is_empty())
    }

    /// Takes back what a framework holds.
    pub fn give_back(&mut self, framework: usize) {
        if let Some(one) = self.frameworks.get_mut(framework) {
            one.held.clear();
        }
    }

    /// Notes that a framework has taken something.
    pub fn took(&mut self, framework: usize, resources: &Resources) {
        if let Some(one) = self.frameworks.get_mut(framework) {
            one.taken.add(resources);
        }
    }

    /// Notes that a framework has freed something.
    pub fn freed(&mut self, framework: usize, resources: &Resources) {
        if let Some(one) = self.frameworks.get_mut(framework) {
            one.taken.subtract(resources);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{NodeId, Offers, Resources, Snapshot};
    use crate::scheduler::{NodeInfo, PodView, Shape};

    fn amounts(cpu: i64, memory: i64) -> Resources {
        Resources { cpu, memory, ..Resources::default() }
    }

    /// The example of the paper, section 4.1: of 9 cpu and 18 GB, A's tasks take 1 and 4, B's 3 and 1.
    #[test]
    fn shares_are_those_of_the_papers_example() {
        let (total, wanted) = (amounts(9, 18), [amounts(1, 4), amounts(3, 1)]);
        let (mut offers, mut taken, mut tasks) = (Offers::new(total.clone(), [1.0, 1.0]), amounts(0, 0), [0, 0]);
        while let Some(next) = offers.next(|at| total.take(&wanted[at], &taken)) {
            offers.took(next, &wanted[next]);
            taken.add(&wanted[next]);
            tasks[next] += 1;
        }
        assert_eq!(tasks, [3, 2]);
        assert!([0, 1].iter().all(|at| (offers.dominant_share(*at) - 2.0 / 3.0).abs() < 1e-12));
    }

    #[test]
    fn who_weighs_more_has_more() {
        let (mut offers, mut tasks) = (Offers::new(amounts(90, 0), [2.0, 1.0, 0.0]), [0, 0, 0]);
        for _ in 0..90 {
            let next = offers.next(|_| true).expect("all want something");
            offers.took(next, &amounts(1, 0));
            tasks[next] += 1;
        }
        assert_eq!(tasks, [60, 30, 0]);
        assert_eq!(offers.next(|at| at == 2), Some(2));
        offers.freed(0, &amounts(60, 0));
        assert_eq!((offers.next(|_| true), offers.dominant_share(7)), (Some(0), 0.0));
    }

    #[test]
    fn what_one_holds_is_not_offered_to_another() {
        let node = |name: &str, unschedulable| {
            let allocatable = amounts(1_000, 0);
            NodeInfo { name: name.into(), allocatable, unschedulable, ..NodeInfo::default() }
        };
        let mut snapshot = Snapshot::new([node("a", false), node("b", false), node("c", true)], []);
        let pod = snapshot.add(PodView::new("p", Shape { requests: amounts(1_000, 0), ..Shape::default() }));
        snapshot.place(pod, NodeId(0).into());
        let mut offers = Offers::new(amounts(2_000, 0), [1.0, 1.0]);
        assert_eq!(offers.offer(0, &snapshot), [NodeId(1)], "one node is full, another cordoned");
        assert!(offers.offer(1, &snapshot).is_empty() && offers.others_hold(1) && !offers.others_hold(0));
        assert_eq!(offers.next(|_| true), Some(1), "who holds an offer gets no other");
        offers.give_back(0);
        assert_eq!(offers.offer(1, &snapshot), [NodeId(1)]);
    }
}
