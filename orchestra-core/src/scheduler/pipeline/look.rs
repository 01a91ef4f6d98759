//! How many nodes a pipeline looks at, and which first.

use std::{collections::BTreeMap, num::NonZeroU32};

use super::super::NodeId;
use crate::rng::mixed;

/// How many nodes are always enough, and in hundredths, the least share that is, with [`Look::Share`]; kube-scheduler's
/// `minFeasibleNodesToFind` and `minFeasibleNodesPercentageToFind`.
const SHARE_NODES_MIN: usize = 100;
const SHARE_PERCENT_MIN: usize = 5;

/// How many nodes the pipeline looks at. Whoever looks at some only goes on until one takes the pod, or all are looked at: that one
/// had bad luck is no reason to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// All.
    All,
    /// Until so many are feasible, from a start that the seed draws.
    Until(NonZeroU32),
    /// Until so many hundredths of those on offer are feasible, from a start that the seed draws: kube-scheduler's
    /// `percentageOfNodesToScore`. With 0 it depends on how many there are: 50, less one for each 125 of them, but 5 at least. Never
    /// fewer than 100 nodes.
    Share(u32),
    /// Until so many are feasible, drawn anew for each pod: the power of d choices (Mitzenmacher, IEEE TPDS 12, 2001), or with a larger
    /// number Borg's relaxed randomization (Verma et al., EuroSys 2015, section 3.4).
    PowerOf(NonZeroU32),
}

impl Look {
    /// How many feasible nodes are enough, of so many on offer.
    pub(super) fn enough(self, nodes: usize) -> usize {
        match self {
            Self::All => usize::MAX,
            Self::Until(count) | Self::PowerOf(count) => count.get() as usize,
            Self::Share(_) if nodes <= SHARE_NODES_MIN => usize::MAX,
            Self::Share(percent) => {
                let adaptive = 50_usize.saturating_sub(nodes / 125).max(SHARE_PERCENT_MIN);
                let percent = if percent == 0 { adaptive } else { percent.min(100) as usize };
                (nodes * percent / 100).max(SHARE_NODES_MIN)
            }
        }
    }

    /// Whether it begins with another node each time.
    pub(super) fn rotates(self) -> bool {
        matches!(self, Self::Until(_) | Self::Share(_))
    }

    /// The nodes in the order to look at them for one pod, by its draw.
    pub(super) fn order(self, nodes: &[NodeId], draw: u64) -> impl Iterator<Item = NodeId> {
        let drawn = match self {
            Self::PowerOf(_) => Some(Drawn::of(nodes.len(), mixed(draw, 1))),
            _ => None,
        };
        let rest = if drawn.is_some() { &[] } else { nodes };
        rest.iter().copied().chain(drawn.into_iter().flatten().filter_map(|at| nodes.get(at).copied()))
    }
}

/// The numbers below a bound, each once, in an order that is drawn as it goes (Fisher and Yates): who stops soon has paid for what he
/// took only.
#[derive(Debug)]
struct Drawn {
    rng: fastrand::Rng,
    next: usize,
    bound: usize,
    /// Which number is where, if another than its own.
    moved: BTreeMap<usize, usize>,
}

impl Drawn {
    fn of(bound: usize, seed: u64) -> Self {
        Self { rng: fastrand::Rng::with_seed(seed), next: 0, bound, moved: BTreeMap::new() }
    }
}

impl Iterator for Drawn {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        if self.next >= self.bound {
            return None;
        }
        let at = self.rng.usize(self.next..self.bound);
        let first = self.moved.remove(&self.next).unwrap_or(self.next);
        let drawn = if at == self.next { first } else { self.moved.insert(at, first).unwrap_or(at) };
        self.next += 1;
        Some(drawn)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::{Drawn, Look};
    use crate::{
        clock::Timestamp,
        scheduler::{
            Ask, LeastAllocated, NodeInfo, Pipeline, PodView, Resources, Scheduler as _, Shape, Snapshot, Unit, UnitId,
        },
    };

    mod share {
        use crate::scheduler::{Look, Pipeline};

        crate::scheduler_conformance!(Pipeline::kubernetes_default().look(Look::Share(0)));
    }

    mod until {
        use std::num::NonZeroU32;

        use crate::scheduler::{Look, Pipeline};

        crate::scheduler_conformance!(Pipeline::kubernetes_default().look(Look::Until(NonZeroU32::MIN)));
    }

    mod power_of_d {
        use std::num::NonZeroU32;

        use crate::scheduler::{Look, Pipeline};

        crate::scheduler_conformance!(
            Pipeline::kubernetes_default().look(Look::PowerOf(NonZeroU32::new(2).expect("more than 0")))
        );
    }

    fn two() -> NonZeroU32 {
        NonZeroU32::new(2).expect("more than 0")
    }

    /// The cases of upstream's `TestNumFeasibleNodesToFind`.
    #[test]
    fn as_many_nodes_are_enough_as_in_kubernetes() {
        for (percent, nodes, enough) in [(0, 1_000, 420), (40, 1_000, 400), (0, 6_000, 300), (40, 6_000, 2_400)] {
            assert_eq!(Look::Share(percent).enough(nodes), enough, "{percent} % of {nodes}");
        }
        for (percent, nodes) in [(0, 10), (40, 10), (1, 100)] {
            assert!(Look::Share(percent).enough(nodes) >= nodes, "{percent} % of {nodes}");
        }
        assert_eq!([Look::Share(1).enough(200), Look::Share(900).enough(200)], [100, 200]);
    }

    #[test]
    fn each_number_is_drawn_first_as_often_as_any_other() {
        let mut counts = [[0_u32; 5]; 5];
        for seed in 0..10_000 {
            for (turn, number) in Drawn::of(5, seed).enumerate() {
                counts[turn][number] += 1;
            }
        }
        assert!(counts.iter().flatten().all(|count| (1_850..2_150).contains(count)), "{counts:?}");
    }

    /// A cluster where only one node has room, or, if there is none, all of them.
    fn placed(look: Look, nodes: usize, only: Option<usize>, seed: u64) -> Option<usize> {
        let node = |at: usize| {
            let cpu = if only.is_none_or(|only| only == at) { 10 } else { 0 };
            let allocatable = Resources { cpu, pods: 10, ..Resources::default() };
            NodeInfo { name: format!("n{at:04}").into(), allocatable, ..NodeInfo::default() }
        };
        let mut snapshot = Snapshot::new((0..nodes).map(node), []);
        let requests = Resources { cpu: 1, pods: 1, ..Resources::default() };
        let pods = vec![snapshot.add(PodView::new("p", Shape { requests, ..Shape::default() }))];
        let (now, queue) = (Timestamp::UNIX_EPOCH, Box::default());
        let pending = [Unit { id: UnitId(0), pods, pods_min: 1, priority: 0, queue, since: now }];
        let mut pipeline = Pipeline::new("p").required().score(1, LeastAllocated).look(look);
        let steps_max = NonZeroU32::MAX;
        let plan = pipeline.plan(&Ask { now, seed, snapshot: &snapshot, pending: &pending, scope: None, steps_max });
        let place = plan.steps.first().map(|step| step.ops.clone());
        place.and_then(|ops| match ops[..] {
            [crate::scheduler::Op::Place { place, .. }] => Some(place.node.0 as usize),
            _ => None,
        })
    }

    #[test]
    fn a_look_at_some_nodes_reaches_all_of_them_in_time() {
        for look in [Look::PowerOf(two()), Look::Until(two()), Look::Share(1)] {
            let reached: std::collections::BTreeSet<_> = (0..2_000).map(|seed| placed(look, 150, None, seed)).collect();
            assert_eq!(reached.len(), 150, "{look:?}");
        }
    }

    proptest! {
        #[test]
        fn each_number_is_drawn_once(bound in 0..60_usize, seed: u64) {
            let mut drawn: Vec<usize> = Drawn::of(bound, seed).collect();
            drawn.sort_unstable();
            prop_assert_eq!(drawn, (0..bound).collect::<Vec<_>>());
        }

        /// Law 8: whatever the look, the one node that takes a pod is found.
        #[test]
        fn the_only_node_that_takes_a_pod_is_found(only in 0..150_usize, seed: u64, kind in 0..4_usize) {
            let look = [Look::All, Look::PowerOf(two()), Look::Until(two()), Look::Share(1)][kind];
            prop_assert_eq!(placed(look, 150, Some(only), seed), Some(only));
        }
    }
}
