//! API server, controllers and scheduler, wired together in one process.

use std::{convert::Infallible, fmt, net::SocketAddr, sync::Arc};

use kube::Client;
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::task::JoinSet;

use crate::{
    clock::{Clock, SystemClock},
    controller::{LeaderElection, Metrics},
    controllers::{self, Parts},
    informer::Informers,
    rng::Entropy,
    scheduler::{self, Pipeline, Scheduler, SchedulingLoop},
    server::{AddressRanges, ApiServer, NodeDialer, UserInfo},
    store::Store,
};

/// A running control plane; dropped, it stops.
///
/// # Examples
///
/// See `examples/quickstart.rs`.
pub struct ControlPlane {
    api: ApiServer,
    client: Client,
    informers: Informers,
    registry: Registry,
    _tasks: JoinSet<Infallible>,
}

impl fmt::Debug for ControlPlane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ControlPlane").field("api", &self.api).finish_non_exhaustive()
    }
}

/// Makes a [`ControlPlane`].
#[derive(Debug)]
pub struct Builder {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    entropy: Option<Entropy>,
    dialer: Option<Arc<dyn NodeDialer>>,
    ranges: AddressRanges,
    advertised: Option<SocketAddr>,
    scheduler: Box<dyn Scheduler>,
    root_ca: Option<String>,
    elected: Option<String>,
}

impl Builder {
    /// Stamps by `clock` instead of the machine's.
    #[must_use]
    pub fn clock(mut self, clock: impl Clock) -> Self {
        self.clock = Arc::new(clock);
        self
    }

    /// Draws everything from `seed` instead of one of the operating system's, so that a run can be repeated.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.entropy = Some(Entropy::seeded(seed));
        self
    }

    /// Reaches kubelets by `dialer`, for logs and exec.
    #[must_use]
    pub fn dialer(mut self, dialer: impl NodeDialer) -> Self {
        self.dialer = Some(Arc::new(dialer));
        self
    }

    /// Gives Services addresses and ports of `ranges`.
    #[must_use]
    pub fn ranges(mut self, ranges: AddressRanges) -> Self {
        self.ranges = ranges;
        self
    }

    /// Tells the pods that the API server is at `address`, as [`crate::server::Builder::advertise`].
    #[must_use]
    pub fn advertise(mut self, address: SocketAddr) -> Self {
        self.advertised = Some(address);
        self
    }

    /// Chooses nodes by `scheduler` instead of kube-scheduler's defaults.
    #[must_use]
    pub fn scheduler(mut self, scheduler: impl Scheduler) -> Self {
        self.scheduler = Box::new(scheduler);
        self
    }

    /// Publishes `pem`, the certificates by which the API server is known, in every namespace.
    #[must_use]
    pub fn root_ca(mut self, pem: impl Into<String>) -> Self {
        self.root_ca = Some(pem.into());
        self
    }

    /// Lets controllers and scheduler act only while this process, on `host`, holds their leases: for several control
    /// planes over one store. What they write too late is refused. Otherwise nothing is elected, and no lease written.
    #[must_use]
    pub fn elected(mut self, host: &str) -> Self {
        self.elected = Some(host.into());
        self
    }

    /// Starts every component, on the current tokio runtime.
    #[must_use]
    pub fn start(self) -> ControlPlane {
        let entropy = self.entropy.unwrap_or_else(Entropy::from_os);
        let mut api =
            ApiServer::builder(self.store).clock(Arc::clone(&self.clock)).entropy(entropy.fork()).ranges(self.ranges);
        if let Some(dialer) = self.dialer {
            api = api.dialer(dialer);
        }
        if let Some(address) = self.advertised {
            api = api.advertise(address);
        }
        let api = api.build();
        let (mut tasks, mut registry) = (JoinSet::new(), Registry::default());
        let election = |client: &Client, lease: &str| {
            let host = self.elected.as_deref()?;
            Some(LeaderElection::new(client.clone(), lease, host, Arc::clone(&self.clock), entropy.fork()))
        };

        let client = api.client(UserInfo::master("system:kube-controller-manager"));
        let elected = election(&client, "kube-controller-manager");
        let mut parts = Parts::new(client, Arc::clone(&self.clock), entropy.fork());
        parts.root_ca = self.root_ca;
        parts.metrics = Metrics::registered(&mut registry);
        let informers = parts.informers.clone();
        tasks.spawn(async move {
            match elected {
                Some(election) => election.run(|client| controllers::run(Parts { client, ..parts.clone() })).await,
                None => controllers::run(parts).await,
            }
        });

        let client = api.client(UserInfo::master("system:kube-scheduler"));
        let elected = election(&client, "kube-scheduler");
        let scheduling =
            SchedulingLoop::new(client, &informers, self.scheduler, Arc::clone(&self.clock), entropy.fork())
                .metrics(scheduler::Metrics::registered(&mut registry));
        tasks.spawn(async move {
            match elected {
                Some(election) => scheduling.run_elected(&election).await,
                None => scheduling.run().await,
            }
        });

        let client = api.client(UserInfo::master("system:admin"));
        ControlPlane { api, client, informers, registry, _tasks: tasks }
    }
}

impl ControlPlane {
    /// Starts to make a control plane over `store`.
    #[must_use]
    pub fn builder(store: impl Store) -> Builder {
        Builder {
            store: Arc::new(store),
            clock: Arc::new(SystemClock),
            entropy: None,
            dialer: None,
            ranges: AddressRanges::default(),
            advertised: None,
            scheduler: Box::new(Pipeline::kubernetes_default()),
            root_ca: None,
            elected: None,
        }
    }

    /// The API server, to be served to others.
    #[must_use]
    pub fn api(&self) -> &ApiServer {
        &self.api
    }

    /// A client in this process that may do everything.
    #[must_use]
    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// The caches that the components of this process share.
    #[must_use]
    pub fn informers(&self) -> &Informers {
        &self.informers
    }

    /// What controllers and scheduler have done, in numbers, as Prometheus' text.
    #[must_use]
    pub fn metrics(&self) -> String {
        let mut text = String::new();
        // A string takes all that is written to it.
        let _ = encode(&mut text, &self.registry);
        text
    }
}
