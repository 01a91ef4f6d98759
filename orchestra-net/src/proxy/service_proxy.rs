//! The loop that keeps a node's proxy in step with the cluster's services.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use futures::FutureExt as _;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use orchestra_core::{
    informer::{Cached, Changes, Informers, Lister},
    proxy::{self, Error, Frontend, NodeView, Proxy, ServiceTable, Synced},
    store::Revision,
};
use tokio::time::{Instant, sleep_until};

use super::Metrics;

/// How long the loop waits after the first failure of the data plane; each further one doubles it.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// How long a frontend that can't be served is left out before it is tried again.
const UNUSABLE_RETRY: Duration = Duration::from_secs(30);

/// Watches Services and EndpointSlices, and brings the table of one node into force whenever it may have changed.
///
/// The table is computed whole from what the caches show, so that a lost or repeated event does no harm, and a burst of
/// changes costs one table. A frontend that the node can't serve, such as a port that another program has, is left out
/// and tried again now and then; the others don't wait for it (SEMANTICS 44).
#[derive(Debug)]
pub struct ServiceProxy {
    services: Lister<Service>,
    slices: Lister<EndpointSlice>,
    proxy: Arc<dyn Proxy>,
    node: NodeView,
    metrics: Option<Metrics>,
    /// What can't be served here, as far as is known.
    unusable: BTreeSet<Frontend>,
    failures: u32,
}

impl ServiceProxy {
    /// Makes a loop that feeds `proxy` on `node` from the shared caches of `informers`.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new(informers: &Informers, proxy: Arc<dyn Proxy>, node: NodeView) -> Self {
        let (services, slices) = (informers.of(), informers.of());
        Self { services, slices, proxy, node, metrics: None, unusable: BTreeSet::new(), failures: 0 }
    }

    /// Counts by `metrics`.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Runs until it is dropped; what is in force then stays so.
    ///
    /// Nothing is brought into force before both caches are filled, or services would be refused while they are.
    pub async fn run(mut self) -> Infallible {
        let (mut services, mut slices) = (self.services.subscribe(), self.slices.subscribe());
        self.services.synced().await;
        self.slices.synced().await;
        loop {
            drain(&mut services);
            drain(&mut slices);
            let again = self.sync().await.map(|wait| Instant::now() + wait);
            tokio::select! {
                biased;
                _ = services.next() => {}
                _ = slices.next() => {}
                // What could not be served is tried with all else.
                () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => self.unusable.clear(),
            }
        }
    }

    /// Brings what the caches show into force; returns after how long to try again, if something is not.
    async fn sync(&mut self) -> Option<Duration> {
        loop {
            let mut table = self.table();
            self.unusable.retain(|frontend| table.routes.remove(frontend).is_some());
            let began = Instant::now();
            match self.proxy.sync(&table).await {
                Ok(synced) => {
                    self.succeed(&table, synced, began.elapsed());
                    return (!self.unusable.is_empty()).then_some(UNUSABLE_RETRY);
                }
                Err(Error::Unusable { frontends, source })
                    if frontends.iter().any(|frontend| table.routes.contains_key(frontend)) =>
                {
                    tracing::warn!(error = %source, count = frontends.len(), node = %self.node.name, "services left out");
                    self.unusable.extend(frontends);
                }
                Err(error) => return Some(self.fail(&error)),
            }
        }
    }

    fn succeed(&mut self, table: &ServiceTable, synced: Synced, took: Duration) {
        self.failures = 0;
        tracing::debug!(revision = %table.revision, ?synced, node = %self.node.name, "services in force");
        if let Some(metrics) = &self.metrics {
            metrics.synced(took, synced, table.routes.len(), self.unusable.len());
        }
    }

    /// Tells what is wrong; returns how long to wait.
    fn fail(&mut self, error: &Error) -> Duration {
        let wait = backoff(self.failures);
        self.failures = self.failures.saturating_add(1);
        let cause = std::error::Error::source(error).map(ToString::to_string);
        tracing::warn!(%error, cause, node = %self.node.name, ?wait, "services not in force; trying again");
        if let Some(metrics) = &self.metrics {
            metrics.failed();
        }
        wait
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
    use prometheus_client::registry::Registry;
    use proptest::prelude::*;
    use serde_json::json;
    use tokio::{sync::mpsc, task::JoinSet};

    use super::{BACKOFF_MAX, BACKOFF_MIN, ServiceProxy, backoff};
    use crate::proxy::{MemoryProxy, Metrics};

    /// A memory proxy that fails as often as it is told, and shows each table that it has brought into force.
    #[derive(Debug)]
    struct Shown {
        inner: MemoryProxy,
        failures: AtomicU32,
        /// A port that it can't serve.
        taken: Option<u16>,
        tables: mpsc::UnboundedSender<ServiceTable>,
    }

    #[async_trait]
    impl Proxy for Shown {
        async fn sync(&self, table: &ServiceTable) -> Result<Synced, Error> {
            let left = |left: u32| left.checked_sub(1);
            if self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok() {
                return Err(Error::Unavailable("not now".into()));
            }
            let taken = |frontend: &&Frontend| Some(frontend.address.port()) == self.taken;
            let frontends: Vec<_> = table.routes.keys().filter(taken).copied().collect();
            if !frontends.is_empty() {
                return Err(Error::Unusable { frontends, source: "taken".into() });
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
            Self::start_with(failures, None, &mut Registry::default())
        }

        fn start_with(failures: u32, taken: Option<u16>, registry: &mut Registry) -> Self {
            let server = ApiServer::builder(Arc::new(MemoryStore::new())).build();
            let client = server.client(UserInfo::master("test"));
            let (sender, tables) = mpsc::unbounded_channel();
            let proxy = Shown { inner: MemoryProxy::new(), failures: failures.into(), taken, tables: sender };
            let node = NodeView { name: "n1".to_owned(), node_port_addresses: Vec::new() };
            let service_proxy = ServiceProxy::new(&Informers::new(client.clone()), Arc::new(proxy), node);
            let mut tasks = JoinSet::new();
            tasks.spawn(service_proxy.metrics(Metrics::new(registry)).run());
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

    /// SEMANTICS 44: one bad object never blocks others.
    #[tokio::test(start_paused = true)]
    async fn a_port_that_another_program_has_does_not_hold_up_the_other_services() {
        let mut registry = Registry::default();
        let mut cluster = Cluster::start_with(0, Some(90), &mut registry);
        let services: Api<Service> = Api::namespaced(cluster.client.clone(), "default");
        let bad = json!({ "metadata": { "name": "bad" }, "spec": { "ports": [{ "port": 90 }] } });
        let bad = serde_json::from_value(bad).expect("a service");
        services.create(&PostParams::default(), &bad).await.expect("it is created");
        let frontend = cluster.create_service().await;
        cluster.shows(frontend, Some(&[])).await;
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).expect("text");
        assert!(text.contains("orchestra_proxy_frontends_unusable 1"), "{text}");
        assert!(text.contains("kubeproxy_sync_proxy_rules_duration_seconds_count"), "{text}");
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
