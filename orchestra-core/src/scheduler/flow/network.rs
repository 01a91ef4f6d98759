//! Flows of least cost: successive shortest paths with potentials (Ahuja, Magnanti, Orlin: Network Flows, 1993, section 9.7).

use std::{cmp::Reverse, collections::BinaryHeap};

/// An arc, and what is left of its capacity; the one after it, or before it, is its reverse.
#[derive(Clone, Copy, Debug)]
struct Arc {
    to: usize,
    left: i64,
    cost: i64,
}

/// Which arc.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ArcId(usize);

/// A directed network, through which nothing flows at first.
///
/// Invariant: no arc that has something left costs less than what its ends' potentials differ by, so that what flows flows at the
/// least cost there is.
#[derive(Clone, Debug, Default)]
pub(super) struct Network {
    arcs: Vec<Arc>,
    /// By node, those that leave it.
    leaving: Vec<Vec<usize>>,
    potentials: Vec<i64>,
}

impl Network {
    /// Adds a node; they are numbered from 0.
    pub(super) fn add_node(&mut self) -> usize {
        self.leaving.push(Vec::new());
        self.potentials.push(0);
        self.leaving.len() - 1
    }

    /// Adds an arc between two of its nodes, before anything flows; neither its capacity nor its cost is negative.
    pub(super) fn add_arc(&mut self, from: usize, to: usize, capacity: i64, cost: i64) -> ArcId {
        debug_assert!(capacity >= 0 && cost >= 0, "{capacity} for {cost}");
        let id = self.arcs.len();
        self.arcs.push(Arc { to, left: capacity, cost });
        self.arcs.push(Arc { to: from, left: 0, cost: -cost });
        self.leaving[from].push(id);
        self.leaving[to].push(id + 1);
        ArcId(id)
    }

    /// How much flows through an arc.
    pub(super) fn flow(&self, arc: ArcId) -> i64 {
        self.arcs.get(arc.0 + 1).map_or(0, |reverse| reverse.left)
    }

    /// Sends as much as can be from one node to another, up to `amount`, beside what flows already, and returns how much that is. What was
    /// sent before still is, maybe another way: all of it flows at the least cost together. At most `amount` searches for a
    /// shortest path, each O(arcs x log nodes).
    pub(super) fn send(&mut self, source: usize, sink: usize, amount: i64) -> i64 {
        let mut sent = 0;
        while sent < amount {
            let Some((distances, through)) = self.shortest(source, sink) else { break };
            // As far as the search went, and no further.
            let most = distances[sink];
            for (potential, distance) in self.potentials.iter_mut().zip(distances) {
                *potential += distance.min(most);
            }
            let (mut arcs, mut at) = (Vec::new(), sink);
            while at != source {
                arcs.push(through[at]);
                at = self.arcs[through[at] ^ 1].to;
            }
            let room = arcs.iter().map(|arc| self.arcs[*arc].left).min().unwrap_or(0).min(amount - sent);
            for arc in arcs {
                self.arcs[arc].left -= room;
                self.arcs[arc ^ 1].left += room;
            }
            sent += room;
        }
        sent
    }

    /// The distances from the source by reduced costs (Dijkstra), of nodes no further than the sink, and the arc by which each is
    /// reached; `None` if there is no way to the sink.
    fn shortest(&self, source: usize, sink: usize) -> Option<(Vec<i64>, Vec<usize>)> {
        let mut distances = vec![i64::MAX; self.leaving.len()];
        let mut through = vec![0; self.leaving.len()];
        distances[source] = 0;
        let mut reached = BinaryHeap::from([Reverse((0, source))]);
        while let Some(Reverse((distance, at))) = reached.pop() {
            if at == sink {
                return Some((distances, through));
            }
            if distance > distances[at] {
                continue;
            }
            for &id in &self.leaving[at] {
                let arc = self.arcs[id];
                let there = distance + arc.cost + self.potentials[at] - self.potentials[arc.to];
                if arc.left > 0 && there < distances[arc.to] {
                    (distances[arc.to], through[arc.to]) = (there, id);
                    reached.push(Reverse((there, arc.to)));
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Network;

    impl Network {
        /// What all that flows costs.
        fn cost(&self) -> i64 {
            self.arcs.chunks(2).map(|pair| pair[0].cost * pair[1].left).sum()
        }
    }

    /// The least cost of sending each amount from node 0 to the last, by trying every flow there is.
    fn by_trial(nodes: usize, arcs: &[(usize, usize, i64, i64)]) -> Vec<i64> {
        let mut least: Vec<Option<i64>> = Vec::new();
        let mut flows = vec![0; arcs.len()];
        loop {
            let mut balance = vec![0_i64; nodes];
            for ((from, to, ..), flow) in arcs.iter().zip(&flows) {
                balance[*from] -= flow;
                balance[*to] += flow;
            }
            let (sent, cost) =
                (balance[nodes - 1], arcs.iter().zip(&flows).map(|((.., cost), flow)| cost * flow).sum());
            if sent >= 0 && balance[1..nodes - 1].iter().all(|one| *one == 0) {
                let at = usize::try_from(sent).expect("not negative");
                least.resize(least.len().max(at + 1), None);
                least[at] = Some(least[at].map_or(cost, |known: i64| known.min(cost)));
            }
            let Some(next) = flows.iter().zip(arcs).position(|(flow, (.., capacity, _))| flow < capacity) else {
                break;
            };
            flows[..next].fill(0);
            flows[next] += 1;
        }
        least.into_iter().map_while(|cost| cost).collect()
    }

    #[test]
    fn a_cheap_arc_is_given_up_for_the_sake_of_all() {
        // Both come by 1 to 3 at first; the second has to send the first another way.
        let mut network = Network::default();
        let [source, one, two, sink] = [(); 4].map(|()| network.add_node());
        network.add_arc(source, one, 1, 1);
        network.add_arc(source, two, 1, 4);
        let across = network.add_arc(one, two, 1, 1);
        network.add_arc(one, sink, 1, 6);
        network.add_arc(two, sink, 1, 1);
        assert_eq!((network.send(source, sink, 1), network.cost(), network.flow(across)), (1, 3, 1));
        assert_eq!((network.send(source, sink, 9), network.cost(), network.flow(across)), (1, 12, 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        #[test]
        fn every_amount_is_sent_at_the_least_cost_there_is(
            nodes in 2..6_usize,
            arcs in prop::collection::vec((0..6_usize, 0..6_usize, 1..3_i64, 0..9_i64), 0..8),
        ) {
            let arcs: Vec<_> = arcs
                .into_iter()
                .map(|(from, to, capacity, cost)| (from % nodes, to % nodes, capacity, cost))
                .filter(|(from, to, ..)| from != to)
                .collect();
            let least = by_trial(nodes, &arcs);
            let most = least.len() as i64 - 1;
            for amount in 0..=most + 1 {
                let mut network = Network::default();
                for _ in 0..nodes {
                    network.add_node();
                }
                let ids: Vec<_> = arcs.iter().map(|(from, to, capacity, cost)| network.add_arc(*from, *to, *capacity, *cost)).collect();
                // In two goes, of which the second may send the first another way.
                let sent = network.send(0, nodes - 1, amount / 2);
                let sent = sent + network.send(0, nodes - 1, amount - amount / 2);
                prop_assert_eq!((sent, network.cost()), (amount.min(most), least[sent as usize]));
                for (id, (.., capacity, _)) in ids.iter().zip(&arcs) {
                    prop_assert!((0..=*capacity).contains(&network.flow(*id)));
                }
            }
        }
    }
}
