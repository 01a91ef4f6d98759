//! A node's agent: runs the pods bound to its node, on any container runtime, and reports what it sees.
//!
//! What a pod needs next is decided by a pure function (`decide.rs`), and what the API is told by another
//! (`status.rs`); one task for each pod acts on them (`worker.rs`). A task sleeps until its pod, its sandbox or a probe
//! changes, or until the one moment its plan names. All that counts is in the API and in the runtime, so a kubelet can
//! be killed at any instant: the next one takes on what runs (SEMANTICS 51).
//!
//! Of a pod's security contexts it keeps whom containers run as: one with `runAsNonRoot` that would run as root, or as
//! somebody whom nobody can tell from root, is refused. All other fields that ask for something (`privileged`, capabilities,
//! `readOnlyRootFilesystem`, profiles, groups) are not handed to the runtime; the event `SecurityNotEnforced` names them.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::api::resource::Quantity};
use kube::Client;
use orchestra_core::{
    clock::{Clock, SystemClock},
    controller::Recorder,
    rng::Entropy,
    runtime::ContainerRuntime,
    scheduler::PodView,
};
use prometheus_client::registry::Registry;

use self::{metrics::Metrics, volume::RootDir};

mod admission;
mod decide;
mod dispatch;
mod env;
mod events;
mod exec;
mod image;
mod lifecycle;
mod links;
mod local;
mod logs;
mod metrics;
mod node;
mod probe;
mod report;
mod security;
mod server;
mod sources;
mod status;
mod terminal;
mod volume;
mod withdrawal;
mod worker;

pub use local::LocalNodes;
pub use server::Body;

/// The port that kubelets serve at.
pub const PORT: u16 = 10_250;
/// How long the API may take to answer: then it is out of reach, and pods go on without it (SEMANTICS 55).
const API_PATIENCE: Duration = Duration::from_secs(10);
/// What events say they come from.
const COMPONENT: &str = "kubelet";

/// A kubelet; clones are handles on one.
#[derive(Clone)]
pub struct Kubelet {
    shared: Arc<Shared>,
}

/// What all parts of a kubelet share.
struct Shared {
    client: Client,
    runtime: Arc<dyn ContainerRuntime>,
    node_name: String,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
    root_dir: RootDir,
    labels: BTreeMap<String, String>,
    capacity: BTreeMap<String, Quantity>,
    address: IpAddr,
    port: u16,
    recorder: Recorder,
    metrics: Metrics,
    pods: Mutex<BTreeMap<PodKey, Arc<Pod>>>,
    /// What the pods that were taken on take of the node, by their uids.
    admitted: Mutex<BTreeMap<String, PodView>>,
}

/// A pod's namespace and name.
type PodKey = (String, String);

impl Shared {
    fn admitted(&self) -> MutexGuard<'_, BTreeMap<String, PodView>> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<PodKey, Arc<Pod>>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes a [`Kubelet`].
pub struct Builder {
    shared: Shared,
}

impl Builder {
    /// Stamps by `clock` instead of the machine's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.shared.clock = clock;
        self
    }

    /// Draws jitter and names of events from `entropy` instead of one that the operating system seeds.
    #[must_use]
    pub fn entropy(mut self, entropy: Entropy) -> Self {
        self.shared.entropy = entropy;
        self
    }

    /// Keeps the volumes of pods in `dir`, which has to be this node's alone; they outlive the kubelet, and the next one
    /// takes them on. Unless said, they are kept in a temporary directory of the kubelet's own, and go with it.
    #[must_use]
    pub fn root_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.shared.root_dir = RootDir::Given(dir.into());
        self
    }

    /// Adds labels to the node.
    #[must_use]
    pub fn labels(mut self, labels: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>) -> Self {
        self.shared.labels.extend(labels.into_iter().map(|(name, value)| (name.into(), value.into())));
        self
    }

    /// Says what the node has of a resource, such as `cpu`, `memory` or `pods`; 4 cores, 8 GiB and 110 pods unless said.
    #[must_use]
    pub fn capacity(mut self, capacity: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>) -> Self {
        let quantities = capacity.into_iter().map(|(name, value)| (name.into(), Quantity(value.into())));
        self.shared.capacity.extend(quantities);
        self
    }

    /// Says at which address the node, and its kubelet's HTTP server, are reached; 127.0.0.1 unless said.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        self.shared.address = address;
        self
    }

    /// Says at which port the kubelet's HTTP server is reached; [`PORT`] unless said.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.shared.port = port;
        self
    }

    /// Registers the kubelet's metrics, under the names of Kubernetes' own, in `registry`.
    #[must_use]
    pub fn metrics(self, registry: &mut Registry) -> Self {
        self.shared.metrics.register(registry);
        self
    }

    /// Makes the kubelet, which does nothing until it [runs](Kubelet::run).
    #[must_use]
    pub fn build(mut self) -> Kubelet {
        self.shared.recorder = recorder(&self.shared);
        Kubelet { shared: Arc::new(self.shared) }
    }
}

/// Who records events, as the kubelet was built to stamp and draw.
fn recorder(shared: &Shared) -> Recorder {
    let (clock, entropy) = (Arc::clone(&shared.clock), shared.entropy.clone());
    Recorder::new(shared.client.clone(), clock, entropy, COMPONENT, Some(&shared.node_name))
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("node_name", &self.shared.node_name).finish_non_exhaustive()
    }
}

impl Kubelet {
    /// Starts to make the kubelet of the node `node_name`, which runs its pods on `runtime`.
    #[must_use]
    pub fn builder(client: Client, runtime: Arc<dyn ContainerRuntime>, node_name: impl Into<String>) -> Builder {
        let node_name = node_name.into();
        let capacity = [("cpu", "4"), ("memory", "8Gi"), ("pods", "110"), ("ephemeral-storage", "64Gi")];
        let capacity = capacity.map(|(name, value)| (name.to_owned(), Quantity(value.into())));
        let (clock, entropy): (Arc<dyn Clock>, _) = (Arc::new(SystemClock), Entropy::from_os());
        let recorder = Recorder::new(client.clone(), Arc::clone(&clock), entropy.clone(), COMPONENT, Some(&node_name));
        Builder {
            shared: Shared {
                client,
                runtime,
                clock,
                entropy,
                root_dir: RootDir::own(&node_name),
                node_name,
                labels: BTreeMap::new(),
                capacity: capacity.into(),
                address: Ipv4Addr::LOCALHOST.into(),
                port: PORT,
                recorder,
                metrics: Metrics::default(),
                pods: Mutex::default(),
                admitted: Mutex::default(),
            },
        }
    }

    /// The name of its node.
    #[must_use]
    pub fn node_name(&self) -> &str {
        &self.shared.node_name
    }

    /// Registers the node, keeps its lease and its status, and runs its pods.
    ///
    /// # Cancellation
    ///
    /// Dropping the future is how a kubelet stops; its containers go on, for the next one to take on.
    pub async fn run(&self) -> Infallible {
        tokio::join!(node::run(&self.shared), dispatch::run(&self.shared)).1
    }

    /// Its HTTP API, for an API server: `/healthz`, `/pods`, `/containerLogs/…` and `/exec/…`.
    ///
    /// Authenticates nobody: that is for whoever serves it.
    #[must_use]
    pub fn service(&self) -> Service {
        Service { shared: Arc::clone(&self.shared) }
    }
}

impl fmt::Debug for Kubelet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubelet").field("node_name", &self.shared.node_name).finish_non_exhaustive()
    }
}

/// The HTTP API of a [`Kubelet`].
#[derive(Clone)]
pub struct Service {
    shared: Arc<Shared>,
}

impl fmt::Debug for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Service").field("node_name", &self.shared.node_name).finish_non_exhaustive()
    }
}

impl<B: Send + 'static> tower::Service<Request<B>> for Service {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let shared = Arc::clone(&self.shared);
        let (mut parts, _) = request.into_parts();
        let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
        async move { Ok(server::answer(&shared, &parts, upgrade).await) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Arc};

    use http::{Request, Response};
    use kube::client::Body;
    use orchestra_core::clock::SystemClock;

    use super::Kubelet;
    use crate::MemoryRuntime;

    fn kubelet() -> Kubelet {
        let nowhere = |_: Request<Body>| async { std::future::pending::<Result<Response<Body>, Infallible>>().await };
        let client = kube::Client::new(tower::service_fn(nowhere), "default");
        Kubelet::builder(client, Arc::new(MemoryRuntime::new(Arc::new(SystemClock))), "n1").build()
    }

    #[tokio::test]
    async fn two_kubelets_of_one_name_keep_their_volumes_apart_and_leave_none() {
        let (one, other) = (kubelet(), kubelet());
        let dirs = [&one, &other].map(|kubelet| kubelet.shared.root_dir.path().to_owned());
        assert_ne!(dirs[0], dirs[1]);
        for dir in &dirs {
            assert!(!dir.exists(), "made when needed");
            super::volume::make_dir(&super::volume::pod_dir(dir, "uid"), 0o700).expect("made");
        }
        drop(one);
        assert!(!dirs[0].exists() && dirs[1].exists());
        drop(other);
        assert!(!dirs[1].exists());
    }
}
