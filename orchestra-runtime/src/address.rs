//! Which address a sandbox gets.

use std::{collections::BTreeSet, net::Ipv4Addr};

/// A run of addresses of which each is given to one holder at a time (SEMANTICS 58).
///
/// Addresses are given in turn, so that one just freed is not used again at once. Invariant: what is used is in range.
#[derive(Clone, Debug)]
pub struct AddressPool {
    first: u32,
    count: u32,
    next: u32,
    used: BTreeSet<u32>,
}

impl AddressPool {
    /// Makes a pool of `count` addresses from `first` on, none of them used; fewer where the address space ends.
    #[must_use]
    pub fn new(first: Ipv4Addr, count: u32) -> Self {
        let first = first.to_bits();
        Self { first, count: count.min(u32::MAX - first), next: 0, used: BTreeSet::new() }
    }

    /// Takes an address that is free; none if all are used. Cost: O(used) at worst.
    pub fn take(&mut self) -> Option<Ipv4Addr> {
        let turn = (self.next..self.count).chain(0..self.next);
        let offset = turn.into_iter().find(|offset| !self.used.contains(offset))?;
        self.used.insert(offset);
        self.next = (offset + 1) % self.count;
        Some(Ipv4Addr::from_bits(self.first + offset))
    }

    /// Marks an address as used, after a restart; false if it is not in range or used already.
    pub fn reserve(&mut self, address: Ipv4Addr) -> bool {
        self.offset(address).is_some_and(|offset| self.used.insert(offset))
    }

    /// Frees an address; one that is not used stays so.
    pub fn free(&mut self, address: Ipv4Addr) {
        if let Some(offset) = self.offset(address) {
            self.used.remove(&offset);
        }
    }

    fn offset(&self, address: Ipv4Addr) -> Option<u32> {
        address.to_bits().checked_sub(self.first).filter(|&offset| offset < self.count)
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, net::Ipv4Addr};

    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::AddressPool;

    const FIRST: Ipv4Addr = Ipv4Addr::new(127, 1, 2, 1);

    #[test]
    fn an_address_just_freed_is_not_the_next() {
        let mut pool = AddressPool::new(FIRST, 3);
        let first = pool.take().expect("an empty pool has an address");
        pool.free(first);
        assert_eq!(pool.take(), Some(Ipv4Addr::new(127, 1, 2, 2)));
    }

    proptest! {
        /// SEMANTICS 58.
        #[test]
        fn no_address_has_two_holders(frees in prop::collection::vec(any::<bool>(), 0..64)) {
            let mut pool = AddressPool::new(FIRST, 8);
            let mut held = BTreeSet::new();
            for free in frees {
                if free {
                    held.pop_first().into_iter().for_each(|address| pool.free(address));
                } else if let Some(address) = pool.take() {
                    prop_assert!(held.insert(address));
                } else {
                    prop_assert_eq!(held.len(), 8);
                }
            }
        }
    }
}
