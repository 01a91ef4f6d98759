//! The loop that keeps a node's proxy in step with the cluster's services.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures::FutureExt as _;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use orchestra_core::{
    informer::{Cached, Changes, Informers, Lister},
    proxy::{self, NodeView, Proxy, ServiceTable},
    store::Revision,
};

/// How long the loop waits after the first failure of the data plane; each further one doubles it.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Watches Services and EndpointSlices, and brings the table of one node into force whenever it may have changed.
///
/// The table is computed whole from what the caches show, so that a lost or repeated event does no harm, and a burst of
/// changes costs one table.
#[derive(Debug)]
pub struct ServiceProxy {
    services: Lister<Service>,
    slices: Lister<EndpointSlice>,
    proxy: Arc<dyn Proxy>,
    node: NodeView,
}

impl ServiceProxy {
    /// Makes a loop that feeds `proxy` on `node` from the shared caches of `informers`.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(informers: &Informers, proxy: Arc<dyn Proxy>, node: NodeView) -> Self {
        Self { services: informers.of(), slices: informers.of(), proxy, node }
    }

    /// Runs until it is dropped; what is in force then stays so.
    ///
    /// Nothing is brought into force before both caches are filled, or services would be refused while they are.
    pub async fn run(self) -> Infallible {
        let (mut services, mut slices) = (self.services.subscribe(), self.slices.subscribe());
        self.services.synced().await;
        self.slices.synced().await;
        let mut failures = 0;
        loop {
            drain(&mut services);
            drain(&mut slices);
            let table = self.table();
            let retry = match self.proxy.sync(&table).await {
                Ok(synced) => {
                    failures = 0;
                    tracing::debug!(revision = %table.revision, ?synced, node = %self.node.name, "services in force");
                    None
                }
                Err(error) => {
                    let wait = backoff(failures);
                    failures = failures.saturating_add(1);
                    warn(&error, &self.node.name, wait);
                    Some(wait)
                }
            };
            tokio::select! {
                biased;
                _ = services.next() => {}
                _ = slices.next() => {}
                () = tokio::time::sleep(retry.unwrap_or_default()), if retry.is_some() => {}
            }
        }
    }

    /// The table as of the newer of the two caches: each only goes forward, and so does this.
    fn table(&self) -> ServiceTable {
        let revision = Revision(self.services.revision().max(self.slices.revision()));
        let (services, slices) = (self.services.list(), self.slices.list());
        proxy::table(revision, services.iter().map(AsRef::as_ref), slices.iter().map(AsRef::as_ref), &self.node)
    }
}

/// Takes the changes that wait: the next table shows them all.
fn drain<K: Cached>(changes: &mut Changes<K>) {
    while changes.next().now_or_never().is_some() {}
}

fn backoff(failures: u32) -> Duration {
    BACKOFF_MIN.saturating_mul(2_u32.saturating_pow(failures)).min(BACKOFF_MAX)
}

fn warn(error: &proxy::Error, node: &str, wait: Duration) {
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(%error, cause, %node, ?wait, "services not in force; trying again");
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr, SocketAddr},
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        time::Duration,
    };

    use async_trait::async_trait;
    use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
    use kube::{
        Api, Client,
        api::{DeleteParams, PostParams},
    };
    use orchestra_core::{
        informer::Informers,
        proxy::{Error, Frontend, NodeView, Protocol, Proxy, ServiceTable, Synced},
        server::{ApiServer, UserInfo},
    };
    use orchestra_store::MemoryStore;
    use proptest::prelude::*;
    use serde_json::json;
    use tokio::{sync::mpsc, task::JoinSet};

    use super::{BACKOFF_MAX, BACKOFF_MIN, ServiceProxy, backoff};
    use crate::proxy::MemoryProxy;

    /// A memory proxy that fails as often as it is told, and shows each table that it has brought into force.
    #[derive(Debug)]
    struct Shown {
        inner: MemoryProxy,
        failures: AtomicU32,
        tables: mpsc::UnboundedSender<ServiceTable>,
    }

    #[async_trait]
    impl Proxy for Shown {
        async fn sync(&self, table: &ServiceTable) -> Result<Synced, Error> {
            let left = |left: u32| left.checked_sub(1);
            if self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok() {
                return Err(Error::Unavailable("not now".into()));
            }
            let synced = self.inner.sync(table).await?;
            let _: Result<(), _> = self.tables.send(table.clone());
            Ok(synced)
        }
    }

    /// A cluster with a service proxy, whose proxy first fails some times.
    struct Cluster {
        client: Client,
        tables: mpsc::UnboundedReceiver<ServiceTable>,
        _tasks: JoinSet<std::convert::Infallible>,
    }

    impl Cluster {
        fn start(failures: u32) -> Self {
            let server = ApiServer::builder(Arc::new(MemoryStore::new())).build();
            let client = server.client(UserInfo::master("test"));
            let (sender, tables) = mpsc::unbounded_channel();
            let proxy = Shown { inner: MemoryProxy::new(), failures: failures.into(), tables: sender };
            let node = NodeView { name: "n1".to_owned(), node_port_addresses: Vec::new() };
            let service_proxy = ServiceProxy::new(&Informers::new(client.clone()), Arc::new(proxy), node);
            let mut tasks = JoinSet::new();
            tasks.spawn(service_proxy.run());
            Self { client, tables, _tasks: tasks }
        }

        /// Creates the service `web`; returns where clients reach it.
        async fn create_service(&self) -> Frontend {
            let services: Api<Service> = Api::namespaced(self.client.clone(), "default");
            let service = json!({ "metadata": { "name": "web" }, "spec": { "ports": [{ "port": 80 }] } });
            let service = serde_json::from_value(service).expect("a service");
            let created = services.create(&PostParams::default(), &service).await.expect("it is created");
            let address = created.spec.and_then(|spec| spec.cluster_ip).expect("an address");
            let address: IpAddr = address.parse().expect("an address");
            Frontend { address: SocketAddr::new(address, 80), protocol: Protocol::Tcp }
        }

        /// Creates an endpoint slice of `web` with one ready endpoint.
        async fn create_slice(&self, address: Ipv4Addr) {
            let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), "default");
            let slice = json!({
                "metadata": { "name": "web-1", "labels": { "kubernetes.io/service-name": "web" } },
                "addressType": "IPv4",
                "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
                "ports": [{ "port": 8080, "protocol": "TCP" }],
            });
            let slice = serde_json::from_value(slice).expect("a slice");
            slices.create(&PostParams::default(), &slice).await.expect("it is created");
        }

        /// Waits for a table that gives `frontend` these backends; `None` for one without the frontend.
        async fn shows(&mut self, frontend: Frontend, expected: Option<&[SocketAddr]>) {
            loop {
                let table = self.tables.recv().await.expect("the loop goes on");
                if table.routes.get(&frontend).map(|route| &route.backends[..]) == expected {
                    return;
                }
            }
        }
    }

    /// Rule 57: what is in force follows the cluster, and a removed service leaves nothing.
    #[tokio::test(start_paused = true)]
    async fn a_service_is_forwarded_while_it_is_there() {
        let mut cluster = Cluster::start(0);
        let frontend = cluster.create_service().await;
        cluster.shows(frontend, Some(&[])).await;
        let pod = Ipv4Addr::new(127, 1, 0, 9);
        cluster.create_slice(pod).await;
        cluster.shows(frontend, Some(&[SocketAddr::from((pod, 8080))])).await;
        let services: Api<Service> = Api::namespaced(cluster.client.clone(), "default");
        services.delete("web", &DeleteParams::default()).await.expect("it is deleted");
        cluster.shows(frontend, None).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_table_that_was_refused_is_tried_again_without_a_change() {
        let mut cluster = Cluster::start(5);
        let frontend = cluster.create_service().await;
        cluster.shows(frontend, Some(&[])).await;
    }

    proptest! {
        #[test]
        fn a_backoff_grows_up_to_its_limit(failures in 0_u32..1_000) {
            prop_assert!((BACKOFF_MIN..=BACKOFF_MAX).contains(&backoff(failures)));
            prop_assert!(backoff(failures) <= backoff(failures + 1));
            prop_assert!(backoff(failures) >= BACKOFF_MAX.min(Duration::from_millis(100 * u64::from(failures))));
        }
    }
}
