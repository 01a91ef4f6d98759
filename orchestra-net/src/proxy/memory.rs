//! The reference: answers where a connection would go, and opens none.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::time::Instant;

use orchestra_core::proxy::{Error, Frontend, Proxy, ServiceTable, Synced};

use super::Balancer;

/// A [`Proxy`] that keeps its table in memory, to be asked by [`route`](Self::route).
#[derive(Debug, Default)]
pub struct MemoryProxy(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    table: ServiceTable,
    balancers: BTreeMap<Frontend, Balancer>,
}

impl MemoryProxy {
    /// Makes a proxy with nothing in force.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Where a new connection of `client` to `frontend` goes; `None` if it is refused.
    #[must_use]
    pub fn route(&self, frontend: Frontend, client: IpAddr) -> Option<SocketAddr> {
        self.state().balancers.get_mut(&frontend)?.pick(client, Instant::now())
    }

    /// The table in force.
    #[must_use]
    pub fn table(&self) -> ServiceTable {
        self.state().table.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Proxy for MemoryProxy {
    async fn sync(&self, table: &ServiceTable) -> Result<Synced, Error> {
        let mut state = self.state();
        if table.revision < state.table.revision {
            return Err(Error::Stale { given: table.revision, current: state.table.revision });
        }
        let synced = state.table.changes_to(table);
        state.balancers.retain(|frontend, _| table.routes.contains_key(frontend));
        for (frontend, route) in &table.routes {
            state.balancers.entry(*frontend).or_default().replace(route.clone());
        }
        state.table = table.clone();
        Ok(synced)
    }
}
