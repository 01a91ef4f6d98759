//! The controllers of a cluster: each a pure plan, and a thin shell that reads, plans and writes.
//!
//! [`run`] runs all of them; each can also be run alone, by the [`Runner`] that its module makes.

pub mod deployment;
pub mod endpoint_slice;
pub mod garbage;
pub mod namespace;
pub mod node_lifecycle;
pub mod pod_garbage;
pub mod replica_set;
pub mod service_account;

use std::{convert::Infallible, fmt, sync::Arc};

use futures::{StreamExt as _, stream::FuturesUnordered};
use kube::Client;

use crate::{
    clock::Clock,
    controller::{Recorder, Runner},
    informer::Informers,
    rng::Entropy,
};

/// What every controller is made of.
#[derive(Clone)]
pub struct Parts {
    /// The API.
    pub client: Client,
    /// The caches of the process.
    pub informers: Informers,
    /// Stamps conditions and events.
    pub clock: Arc<dyn Clock>,
    /// Draws jitter and names.
    pub entropy: Entropy,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Parts")
    }
}

impl Parts {
    /// Parts around a client, with caches of their own.
    #[must_use]
    pub fn new(client: Client, clock: Arc<dyn Clock>, entropy: Entropy) -> Self {
        Self { informers: Informers::new(client.clone()), client, clock, entropy }
    }

    pub(crate) fn recorder(&self, component: &str) -> Recorder {
        Recorder::new(self.client.clone(), Arc::clone(&self.clock), self.entropy.fork(), component, None)
    }
}

/// Runs every controller until dropped.
pub async fn run(parts: Parts) -> Infallible {
    let runners: Vec<Runner> = vec![
        namespace::runner(&parts),
        service_account::runner(&parts),
        replica_set::runner(&parts),
        deployment::runner(&parts),
        endpoint_slice::runner(&parts),
        node_lifecycle::runner(&parts),
        pod_garbage::runner(&parts),
        garbage::runner(&parts),
    ];
    let mut running: FuturesUnordered<_> = runners.into_iter().map(Runner::run).collect();
    let never = running.next().await;
    never.expect("there are controllers")
}
