//! The controllers of a cluster: each a pure plan, and a thin shell that reads, plans and writes.
//!
//! [`run`] runs all of them; each can also be run alone, by the [`Runner`] that its module makes.

mod claim;

pub mod deployment;
pub mod disruption;
pub mod endpoint_slice;
pub mod garbage;
pub mod namespace;
pub mod node_lifecycle;
pub mod pod_garbage;
pub mod replica_set;
pub mod root_ca;
pub mod service_account;

use std::{convert::Infallible, fmt, sync::Arc};

use futures::{StreamExt as _, stream::FuturesUnordered};
use k8s_openapi::NamespaceResourceScope;
use kube::{Api, Client, Resource, api::PostParams};
use serde::Serialize;

use crate::{
    clock::Clock,
    controller::{Controller, Error, Metrics, ObjectKey, Recorder, Runner},
    informer::{Cached, Informers, Lister},
    rng::Entropy,
};

pub use claim::{Claims, claims};

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
    /// The certificates, as PEM, by which pods know the API server; `None` if they aren't to be told.
    pub root_ca: Option<String>,
    /// Counts what the work queues do.
    pub metrics: Metrics,
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
        let informers = Informers::new(client.clone());
        Self { informers, client, clock, entropy, root_ca: None, metrics: Metrics::default() }
    }

    /// A runner for one controller, counted with the others.
    pub(crate) fn runner(&self, controller: impl Controller) -> Runner {
        Runner::new(controller, self.entropy.fork()).metrics(&self.metrics)
    }

    pub(crate) fn recorder(&self, component: &str) -> Recorder {
        Recorder::new(self.client.clone(), Arc::clone(&self.clock), self.entropy.fork(), component, None)
    }
}

/// The modules of the controllers that [`run`] runs.
pub const NAMES: [&str; 10] = [
    "namespace",
    "service_account",
    "root_ca",
    "replica_set",
    "deployment",
    "disruption",
    "endpoint_slice",
    "node_lifecycle",
    "pod_garbage",
    "garbage",
];

/// Runs every controller until dropped.
pub async fn run(parts: Parts) -> Infallible {
    let runners: [Runner; NAMES.len()] = [
        namespace::runner(&parts),
        service_account::runner(&parts),
        root_ca::runner(&parts),
        replica_set::runner(&parts),
        deployment::runner(&parts),
        disruption::runner(&parts),
        endpoint_slice::runner(&parts),
        node_lifecycle::runner(&parts),
        pod_garbage::runner(&parts),
        garbage::runner(&parts),
    ];
    let mut running: FuturesUnordered<_> = runners.into_iter().map(Runner::run).collect();
    loop {
        if let Some(never) = running.next().await {
            return never;
        }
    }
}

/// Writes an object's status, if the object is still as it was read.
async fn write_status<K>(client: &Client, lister: &Lister<K>, object: &K) -> Result<(), Error>
where
    K: Cached + Serialize + Resource<Scope = NamespaceResourceScope>,
{
    let key = ObjectKey::of(object);
    let api = Api::<K>::namespaced(client.clone(), &key.namespace);
    match api.replace_status(&key.name, &PostParams::default(), object).await {
        Ok(written) => {
            lister.shows(&written).await;
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}
