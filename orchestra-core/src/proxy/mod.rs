//! Contract: how a node reaches services.

use std::{collections::BTreeMap, fmt, net::SocketAddr, time::Duration};

use async_trait::async_trait;

use crate::store::{BoxError, Revision};

#[cfg(feature = "conformance")]
pub mod conformance;
mod table;

pub use table::{NodeView, table};

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// Where clients connect to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Frontend {
    /// The cluster address and port.
    pub address: SocketAddr,
    /// The protocol.
    pub protocol: Protocol,
}

/// Where the connections to one frontend go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The pods' addresses, in order, none twice. With none, connections are refused.
    pub backends: Vec<SocketAddr>,
    /// How long a client keeps its backend after its last connection; `None` for a new one each time.
    pub affinity: Option<Duration>,
}

/// The whole of what a node should forward: each frontend's route.
///
/// A frontend without backends is refused, not dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceTable {
    /// The store revision the table was computed from.
    pub revision: Revision,
    /// Routes by frontend.
    pub routes: BTreeMap<Frontend, Route>,
}

impl ServiceTable {
    /// Counts what would change if `next` came into force after this table.
    #[must_use]
    pub fn changes_to(&self, next: &Self) -> Synced {
        let kept = next.routes.iter().filter_map(|(frontend, route)| Some((self.routes.get(frontend)?, route)));
        let updated = kept.clone().filter(|(old, new)| old != new).count();
        let kept = kept.count();
        Synced { added: next.routes.len() - kept, updated, removed: self.routes.len() - kept }
    }
}

impl Default for ServiceTable {
    /// Nothing to forward, older than every other table.
    fn default() -> Self {
        Self { revision: Revision(0), routes: BTreeMap::new() }
    }
}

/// What a [`Proxy::sync`] changed. All zero means that it was in sync already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Synced {
    /// Frontends added.
    pub added: usize,
    /// Frontends whose route changed.
    pub updated: usize,
    /// Frontends removed.
    pub removed: usize,
}

/// Why a proxy did not sync.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A newer table is in force already: drop this one.
    #[error("table of {given} is older than that of {current} in force")]
    Stale {
        /// The table's revision.
        given: Revision,
        /// That of the table in force.
        current: Revision,
    },
    /// Some frontends can't be served here, whatever else is in the table, and nothing of it is in force: leave them out.
    #[error("{} frontends can't be served here", frontends.len())]
    Unusable {
        /// All of them.
        frontends: Vec<Frontend>,
        /// What the data plane said of the first.
        #[source]
        source: BoxError,
    },
    /// The data plane refused: what is in force is unchanged; retry.
    #[error("data plane unavailable")]
    Unavailable(#[source] BoxError),
}

/// Makes a node's data plane match a [`ServiceTable`].
///
/// # Laws
///
/// 1. **Whole.** After `Ok`, exactly the table's routes are in force.
/// 2. **Idempotent.** The same table again changes nothing: [`Synced`] is all zero.
/// 3. **Atomic.** After an error, what was in force still is.
/// 4. **Forward only.** A table older than the one in force is refused as [`Error::Stale`].
///
/// Each is a test of `conformance`, which every implementation runs.
#[async_trait]
pub trait Proxy: fmt::Debug + Send + Sync + 'static {
    /// Brings `table` into force.
    ///
    /// Connections that are open to a backend which the table drops may finish.
    ///
    /// # Cancellation
    ///
    /// If the future is dropped, either the old table is in force or the new one; the next call converges.
    ///
    /// # Errors
    ///
    /// [`Error::Stale`] for a table older than the one in force; [`Error::Unusable`] for one with frontends that can't be
    /// served, such as addresses that the node hasn't got; [`Error::Unavailable`] if the data plane refuses.
    async fn sync(&self, table: &ServiceTable) -> Result<Synced, Error>;
}
