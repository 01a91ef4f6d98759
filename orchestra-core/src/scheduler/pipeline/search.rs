//! The best node for a pod, found by passing over what can't be better: branch and bound.

use super::{
    super::NodeId,
    block::{LANES, Lanes, RULED_OUT},
    group::{Group, Tier},
};

/// A search for the nodes that are worth most.
///
/// Every node is passed over that surely is worth less than one that is known, or as much and comes later; the others are looked
/// at one by one. So what it finds is exact, whatever the bounds are.
pub(super) struct Search<Exact> {
    /// What a node is worth; `None` if it doesn't take the pod.
    exact: Exact,
    /// How many totals share what a bound tells apart.
    point: i64,
    /// Whether only the first of equal ones matters.
    is_first_enough: bool,
    /// What the best are worth.
    most: i64,
    /// The least bound that one of them may have.
    floor: i16,
    /// The first of the best.
    first: Option<NodeId>,
    /// All of them, in no order, unless the first is enough.
    best: Vec<NodeId>,
}

impl<Exact: FnMut(NodeId) -> Option<i64>> Search<Exact> {
    pub(super) fn new(point: i64, is_first_enough: bool, exact: Exact) -> Self {
        Self { exact, point, is_first_enough, most: -1, floor: RULED_OUT + 1, first: None, best: Vec::new() }
    }

    /// Looks through a group, by bounds for the lanes of its blocks. `None` if there are none.
    pub(super) fn through(&mut self, group: &Group, bounds: &impl Fn(&Tier) -> Option<Lanes>) -> Option<()> {
        for (at, over) in group.over().iter().enumerate() {
            let tiers = group.tiers(at);
            self.visit(over, bounds(over)?, |search, lane, _| {
                let Some(tier) = tiers.get(lane) else { return Some(()) };
                search.visit(tier, bounds(tier)?, |search, _, first| {
                    search.look_at(NodeId(first));
                    Some(())
                })
            })?;
        }
        Some(())
    }

    /// How many nodes are the best: 1 if the first is enough.
    pub(super) fn ties(&self) -> usize {
        if self.is_first_enough { usize::from(self.first.is_some()) } else { self.best.len() }
    }

    /// The `nth` of them, in order.
    pub(super) fn best(mut self, nth: usize) -> Option<NodeId> {
        if self.is_first_enough {
            return self.first.filter(|_| nth == 0);
        }
        (nth < self.best.len()).then(|| *self.best.select_nth_unstable(nth).1)
    }

    /// Enters the lanes of a tier in which there may be one of the best.
    fn visit(
        &mut self,
        tier: &Tier,
        mut most: Lanes,
        mut enter: impl FnMut(&mut Self, usize, u32) -> Option<()>,
    ) -> Option<()> {
        let top = most.iter().copied().fold(RULED_OUT, i16::max);
        if top > self.floor {
            // The most promising first, so that as many as may be of the others are passed over.
            let lane = most.iter().position(|bound| *bound == top).unwrap_or(0);
            most[lane] = RULED_OUT;
            enter(self, lane, tier.firsts()[lane])?;
        }
        if top < self.floor {
            return Some(());
        }
        let mut reach = [0_u8; LANES];
        for (reach, bound) in reach.iter_mut().zip(&most) {
            *reach = u8::from(*bound >= self.floor);
        }
        // Eight lanes are passed over at once.
        for (at, word) in reach.as_chunks::<8>().0.iter().enumerate() {
            let mut word = u64::from_le_bytes(*word);
            while word != 0 {
                let lane = at * 8 + word.trailing_zeros() as usize / 8;
                word &= word - 1;
                let first = tier.firsts()[lane];
                if self.is_promising(most[lane], first) {
                    enter(self, lane, first)?;
                }
            }
        }
        Some(())
    }

    /// Whether among nodes of this bound and from this id on may be one of the best.
    fn is_promising(&self, bound: i16, first: u32) -> bool {
        let total = i64::from(bound) * self.point + self.point - 1;
        let comes_before = || !self.is_first_enough || self.first.is_none_or(|best| first < best.0);
        total > self.most || total == self.most && comes_before()
    }

    fn look_at(&mut self, node: NodeId) {
        let Some(total) = (self.exact)(node).filter(|total| *total >= self.most) else { return };
        if total > self.most {
            (self.most, self.floor, self.first) = (total, (total / self.point) as i16, None);
            self.best.clear();
        }
        self.first = Some(self.first.map_or(node, |first| first.min(node)));
        if !self.is_first_enough {
            self.best.push(node);
        }
    }
}
