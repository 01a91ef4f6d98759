//! Addresses for a cluster that lives on one machine: parts of 127.0.0.0/8, all of which Linux serves without root.

use std::{net::Ipv4Addr, path::Path};

use orchestra_core::server::AddressRanges;

/// How many nodes a plan has addresses for.
pub const NODES_MAX: u8 = 15;
/// How many pods a node of a plan has addresses for.
pub const POD_ADDRESSES: u32 = 250;

/// The addresses of one cluster: a /20 for Services, and a /24 for each of up to 15 nodes.
///
/// Plans of different directories rarely share addresses: there are 960 of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoopbackPlan {
    net: u8,
    part: u8,
}

impl LoopbackPlan {
    /// The plan of the cluster that is kept in `dir`: the same after a restart.
    #[must_use]
    #[allow(clippy::missing_panics_doc, reason = "a remainder is below its divisor")]
    pub fn of(dir: &Path) -> Self {
        // FNV-1a.
        let hash = dir
            .as_os_str()
            .as_encoded_bytes()
            .iter()
            .fold(2_166_136_261_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(16_777_619));
        let below = |bound: u32, value: u32| u8::try_from(value % bound).expect("below 256");
        Self { net: 1 + below(60, hash), part: 16 * below(16, hash / 60) }
    }

    /// Where its Services get their addresses.
    #[must_use]
    pub fn services(self) -> AddressRanges {
        let network = Ipv4Addr::new(127, 64 + self.net, self.part, 0);
        AddressRanges { network, prefix_bits: 20, ..AddressRanges::default() }
    }

    /// The first of [`POD_ADDRESSES`] addresses for the pods of node `n`, from 1 to [`NODES_MAX`].
    #[must_use]
    pub fn pods(self, n: u8) -> Ipv4Addr {
        Ipv4Addr::new(127, self.net, self.part + n.min(NODES_MAX), 1)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use proptest::prelude::*;

    use super::{LoopbackPlan, NODES_MAX};

    proptest! {
        #[test]
        fn every_address_is_a_loopback_address_and_no_two_nodes_share_one(dir in ".*") {
            let plan = LoopbackPlan::of(Path::new(&dir));
            let nodes: std::collections::BTreeSet<_> = (1..=NODES_MAX).map(|n| plan.pods(n)).collect();
            prop_assert_eq!(nodes.len(), usize::from(NODES_MAX));
            prop_assert!(nodes.iter().all(|address| address.is_loopback()) && plan.services().network.is_loopback());
        }
    }
}
