//! What is going to happen, in the order of time.

use std::{cmp::Reverse, collections::BinaryHeap};

use super::Micros;
use crate::scheduler::NodeId;

/// Which run of which pod: a pod that was lost and placed again is in another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Run {
    pub(super) unit: u32,
    pub(super) member: u32,
    pub(super) nth: u32,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Event {
    /// The next unit of the workload comes.
    Arrives,
    /// A pod is done.
    Ends(Run),
    Fails(NodeId),
    Returns(NodeId),
    /// An agent has thought.
    Decides(usize),
    /// A unit that was refused is to be tried again.
    Retries(u32),
}

/// Events, ordered by time, then by when they were noted.
#[derive(Debug, Default)]
pub(super) struct Events {
    heap: BinaryHeap<Reverse<(Micros, u64, Event)>>,
    noted: u64,
}

impl Events {
    pub(super) fn push(&mut self, at: Micros, event: Event) {
        self.noted += 1;
        self.heap.push(Reverse((at, self.noted, event)));
    }

    /// When something happens next.
    pub(super) fn next_at(&self) -> Option<Micros> {
        self.heap.peek().map(|Reverse((at, ..))| *at)
    }

    pub(super) fn pop(&mut self) -> Option<Event> {
        self.heap.pop().map(|Reverse((.., event))| event)
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, Events, Micros};

    #[test]
    fn what_happens_at_one_moment_happens_in_the_order_it_was_noted() {
        let mut events = Events::default();
        for (at, unit) in [(5, 0), (1, 9), (5, 1), (1, 3)] {
            events.push(Micros(at), Event::Retries(unit));
        }
        assert_eq!(events.next_at(), Some(Micros(1)));
        let order: Vec<Event> = std::iter::from_fn(|| events.pop()).collect();
        assert_eq!(order, [9, 3, 0, 1].map(Event::Retries));
    }
}
