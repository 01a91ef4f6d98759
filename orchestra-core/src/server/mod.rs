//! The API server: a `tower::Service` from requests of the Kubernetes REST API to responses, over a store.
//!
//! A request is bounded, authenticated, routed and authorized; a write is then defaulted and validated, and committed on
//! condition that what it read still stands. There is no socket here: in one process a client is made of the server
//! itself ([`ApiServer::client`]); over a network it is served by whoever speaks TLS.

mod advertise;
mod authorize;
mod bootstrap;
mod cache;
mod discovery;
mod error;
mod eviction;
mod health;
mod identity;
mod impersonate;
mod incoming;
mod index;
mod limit;
mod metrics;
mod node_proxy;
mod object;
mod occupancy;
pub mod openapi;
mod patch;
mod plan_step;
mod priority;
mod protobuf;
mod read;
mod registry;
mod respond;
mod review;
mod route;
mod selection;
mod service_address;
mod service_type;
mod subresource;
mod table;
mod view;
mod watch;
mod write;

use std::{
    convert::Infallible,
    fmt,
    net::{SocketAddr, SocketAddrV4},
    panic::AssertUnwindSafe,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures::{FutureExt as _, future::BoxFuture};
use http::{Request, Response, request::Parts};
use http_body_util::{BodyExt as _, combinators::UnsyncBoxBody};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use ring::hmac;
use tokio::{
    sync::SetOnce,
    time::{Instant, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tower::Service;
use tracing::Instrument as _;

use crate::{
    api::fence::Fence,
    clock::{Clock, SystemClock},
    rng::Entropy,
    store::{BoxError, Store},
};

use cache::WatchCache;
use error::{Failure, Result};
use limit::Places;
use metrics::{Metrics, OneMore, RequestLabels};
use occupancy::Occupancy;
use registry::{Kind, Registry};
use respond::{Accept, Answer, accepts};
use review::Review;
use route::{Query, Route, Target, verb};
use write::Terms;

pub use identity::{AUTHENTICATED_GROUP, MASTERS_GROUP, PeerCertificate, UserInfo};
pub use limit::{READS_IN_FLIGHT_MAX, WRITES_IN_FLIGHT_MAX};
pub use node_proxy::{BoxedIo, NodeDialer};
pub use service_address::AddressRanges;

/// The largest body of a request, in bytes; as Kubernetes has it.
pub const BODY_BYTES_MAX: usize = 3 << 20;
/// How long a request may take, in seconds, but for watches, logs and streams; as Kubernetes has it.
pub const REQUEST_SECONDS_MAX: u64 = 60;

/// The body of a response.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// An API server; clones share one.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Inner>,
    _follower: Arc<AbortOnDropHandle<()>>,
}

struct Inner {
    /// Itself, for watches, which outlive their request.
    this: Weak<Self>,
    store: Arc<dyn Store>,
    cache: WatchCache,
    occupancy: Occupancy,
    registry: Registry,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
    dialer: Option<Arc<dyn NodeDialer>>,
    ranges: AddressRanges,
    metrics: Metrics,
    places: Places,
    /// Set once everything is there that every cluster has; requests for resources wait for it.
    bootstrapped: SetOnce<()>,
    /// What continue tokens are signed with: the same on every server of a store. Set before `bootstrapped`.
    token_key: SetOnce<hmac::Key>,
    /// Set once the server is about to stop.
    draining: SetOnce<()>,
}

impl fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ApiServer").field("store", &self.inner.store).finish_non_exhaustive()
    }
}

/// Makes an [`ApiServer`].
#[derive(Debug)]
pub struct Builder {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    entropy: Option<Entropy>,
    dialer: Option<Arc<dyn NodeDialer>>,
    ranges: AddressRanges,
    advertised: Option<SocketAddrV4>,
}

impl Builder {
    /// Stamps objects by `clock` instead of the machine's.
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Draws uids and names from `entropy` instead of one that the operating system seeds.
    #[must_use]
    pub fn entropy(mut self, entropy: Entropy) -> Self {
        self.entropy = Some(entropy);
        self
    }

    /// Reaches kubelets by `dialer`; without one, logs and exec are unavailable.
    #[must_use]
    pub fn dialer(mut self, dialer: Arc<dyn NodeDialer>) -> Self {
        self.dialer = Some(dialer);
        self
    }

    /// Gives Services addresses and ports of `ranges`.
    #[must_use]
    pub fn ranges(mut self, ranges: AddressRanges) -> Self {
        self.ranges = ranges;
        self
    }

    /// Tells the pods, by the endpoints of the `kubernetes` Service, that this server is at `address`; without one it is
    /// not told. Several servers of a store each tell their own, and one that ends without [`ApiServer::drain`] is left
    /// out within half a minute.
    ///
    /// An IPv6 address is not told, for Services have IPv4 addresses, nor is an unspecified one, which is no place.
    #[must_use]
    pub fn advertise(mut self, address: SocketAddr) -> Self {
        self.advertised = match address {
            SocketAddr::V4(address) if !address.ip().is_unspecified() => Some(address),
            _ => None,
        };
        self
    }

    /// Makes the server, which follows its store from now on, on the current tokio runtime.
    #[must_use]
    pub fn build(self) -> ApiServer {
        let inner = Arc::new_cyclic(|this| Inner {
            this: Weak::clone(this),
            store: self.store,
            cache: WatchCache::new(),
            occupancy: Occupancy::default(),
            registry: Registry::built_in(),
            clock: self.clock,
            entropy: self.entropy.unwrap_or_else(Entropy::from_os),
            dialer: self.dialer,
            ranges: self.ranges,
            metrics: Metrics::new(),
            places: Places::new(),
            bootstrapped: SetOnce::new(),
            token_key: SetOnce::new(),
            draining: SetOnce::new(),
        });
        let (following, advertised) = (Arc::clone(&inner), self.advertised);
        let follower = tokio::spawn(async move {
            let advertising = async {
                if let Some(address) = advertised {
                    following.advertise(address).await;
                }
            };
            let present = async {
                following.bootstrap().await;
                tokio::join!(following.keep_namespaces(), advertising)
            };
            tokio::join!(following.cache.follow(&following.store), present);
        });
        ApiServer { inner, _follower: Arc::new(AbortOnDropHandle::new(follower)) }
    }
}

impl ApiServer {
    /// Starts to make a server over `store`.
    #[must_use]
    pub fn builder(store: Arc<dyn Store>) -> Builder {
        Builder {
            store,
            clock: Arc::new(SystemClock),
            entropy: None,
            dialer: None,
            ranges: AddressRanges::default(),
            advertised: None,
        }
    }

    /// Prepares for the end: `/readyz` fails from now on, and watches end as they do when their time is over, with a last
    /// bookmark if they want any, so that their clients go on elsewhere from where they were (SEMANTICS 37).
    ///
    /// Requests are still answered, new ones too. What serves the server is stopped once those under way are done.
    pub fn drain(&self) {
        // Twice is no more than once.
        let _ = self.inner.draining.set(());
    }

    /// A client in this process that acts as `user`: no socket, no TLS.
    #[must_use]
    pub fn client(&self, user: UserInfo) -> kube::Client {
        let server = self.clone();
        let service = tower::service_fn(move |mut request: Request<kube::client::Body>| {
            request.extensions_mut().insert(user.clone());
            server.clone().call(request)
        });
        kube::Client::new(service, "default")
    }
}

impl<B> Service<Request<B>> for ApiServer
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let inner = Arc::clone(&self.inner);
        let (parts, body) = request.into_parts();
        // Boxed before the handlers, so that they are compiled once.
        let body = body.map_err(Into::into).boxed_unsync();
        async move { Ok(inner.answer(parts, body).await) }.boxed()
    }
}

/// A request on its way to a handler.
struct Call {
    parts: Parts,
    query: Query,
    /// The verb, as RBAC names it.
    verb: &'static str,
    user: UserInfo,
    /// Which leader's it is, if it writes.
    fence: Option<Fence>,
    body: Body,
    /// What its body names twice, found before it became JSON.
    duplicates: Vec<String>,
    /// Counts it among the long-running ones while it lasts.
    counted: Option<OneMore>,
}

impl Call {
    /// The whole body.
    async fn body(&mut self) -> Result<Bytes> {
        let (mut body, mut whole) = (std::mem::take(&mut self.body), BytesMut::new());
        while let Some(frame) = body.frame().await {
            let frame = frame
                .map_err(|error| Failure::bad_request(format!("the body of the request could not be read: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if whole.len() + data.len() > BODY_BYTES_MAX {
                return Err(Failure::too_large(format!("limit is {BODY_BYTES_MAX}")));
            }
            whole.extend_from_slice(&data);
        }
        Ok(whole.freeze())
    }

    /// The media type of the body, without its parameters.
    fn content_type(&self) -> String {
        let value = self.parts.headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().split(';').next().unwrap_or_default().trim().to_owned()
    }

    fn terms(&self) -> Result<Terms> {
        let dry_run = write::is_dry_run(self.options(), self.query.values("dryRun"))?;
        Ok(Terms { dry_run, fence: self.fence.clone() })
    }

    /// Those of a deletion, whose options say in its body, too, whether it is in earnest.
    fn deletion_terms(&self, options: &DeleteOptions) -> Result<Terms> {
        let values = options.dry_run.iter().flatten().map(String::as_str);
        let terms = self.terms()?;
        Ok(Terms { dry_run: write::is_dry_run("DeleteOptions", values)? || terms.dry_run, ..terms })
    }

    fn field_validation(&self) -> Result<write::FieldValidation> {
        write::FieldValidation::parse(self.options(), self.query.value("fieldValidation"))
    }

    /// The kind of its options, as errors name it.
    fn options(&self) -> &'static str {
        match self.verb {
            "create" => "CreateOptions",
            "patch" => "PatchOptions",
            "update" => "UpdateOptions",
            _ => "DeleteOptions",
        }
    }
}

/// A request as it is routed.
struct Routed {
    route: Route,
    query: Query,
    /// The verb, as RBAC names it.
    verb: &'static str,
    labels: RequestLabels,
    /// Whether it may take as long as it likes.
    long: bool,
}

impl Inner {
    fn this(&self) -> Arc<Self> {
        self.this.upgrade().expect("a method runs on what is alive")
    }

    fn routed(&self, parts: &Parts) -> Routed {
        let route = Route::parse(&parts.uri);
        let query = Query::parse(parts.uri.query().unwrap_or_default());
        match &route {
            Route::Path(_) => {
                let verb = if parts.method == http::Method::GET { "get" } else { "" };
                Routed { labels: RequestLabels::of_path(verb), route, query, verb, long: false }
            }
            Route::Resource(target) => {
                let verb = verb(&parts.method, target, &query);
                let streams = matches!(target.subresource.as_deref(), Some("log" | "exec" | "attach" | "portforward"));
                let shown = if streams { "connect" } else { verb };
                let kind = self.registry.find(&target.group, &target.version, &target.plural);
                let labels = RequestLabels::of(kind, target, shown);
                Routed { labels, route, query, verb, long: streams || verb == "watch" }
            }
        }
    }

    /// Answers a request, whatever becomes of it: a bug in a handler is one client's 500.
    async fn answer(self: Arc<Self>, parts: Parts, body: Body) -> Response<Body> {
        let begun = Instant::now();
        let head = parts.method == http::Method::HEAD;
        let routed = self.routed(&parts);
        let (labels, long) = (routed.labels, routed.long);
        let (body, rest) = incoming::lend(body);
        let span = tracing::info_span!("request", method = %parts.method, path = parts.uri.path());
        let counted = (!routed.long).then(|| self.metrics.begin(&labels));
        let placed = async {
            match self.place_in_flight(&routed, &parts.extensions) {
                Ok(_place) => Arc::clone(&self).respond(parts, body, routed).await,
                Err(failure) => respond::failure(&failure),
            }
        };
        let answer = AssertUnwindSafe(placed).catch_unwind();
        let response = answer.instrument(span).await.unwrap_or_else(|_| {
            tracing::error!("a handler panicked");
            let message = "This request caused apiserver to panic. Look in the logs for details.";
            respond::failure(&Failure::internal(message))
        });
        drop(counted);
        self.metrics.answered(&labels, response.status(), begun);
        // What lasts may go on reading; a place is no longer taken.
        if !long || !response.status().is_success() {
            rest.drain(begun + Duration::from_secs(REQUEST_SECONDS_MAX)).await;
        }
        if head { respond::without_body(response) } else { response }
    }

    async fn respond(self: Arc<Self>, parts: Parts, body: Body, routed: Routed) -> Response<Body> {
        let accept = match &routed.route {
            Route::Resource(target) if !target.is_raw() => accepts(&parts),
            // These say themselves what they have.
            _ => Ok(Accept::ANYTHING),
        };
        let accept = match accept {
            Ok(accept) => accept,
            Err(failure) => return respond::failure(&failure),
        };
        let long = routed.long;
        let answer = Arc::clone(&self).route(parts, body, routed);
        let answer = if long {
            answer.await
        } else {
            let patience = Duration::from_secs(REQUEST_SECONDS_MAX);
            timeout(patience, answer).await.unwrap_or_else(|_| Err(Failure::timeout()))
        };
        match answer {
            Ok(answer) => respond::render(&self, accept, answer),
            Err(failure) => respond::failure(&failure),
        }
    }

    async fn route(self: Arc<Self>, parts: Parts, body: Body, routed: Routed) -> Result<Answer> {
        let user = match identity::vouched(&parts.extensions) {
            Some(user) => Some(self.impersonated(user, &parts.headers).await?),
            None => None,
        };
        match routed.route {
            Route::Path(segments) => self.path(&parts, user.as_ref(), &segments).await,
            Route::Resource(target) => {
                let user = user.ok_or_else(Failure::unauthorized)?;
                let kind = self.registry.find(&target.group, &target.version, &target.plural);
                if !kind.and_then(|kind| kind.review).is_some_and(Review::is_of_oneself) {
                    self.authorize(&user, routed.verb, &target, &routed.query).await?;
                }
                let kind = kind.ok_or_else(Failure::no_such_path)?;
                let misplaced = match (kind.namespaced, &target.namespace) {
                    (true, None) => target.name.is_some(),
                    (false, namespace) => namespace.is_some(),
                    _ => false,
                };
                if misplaced {
                    return Err(Failure::no_such_path());
                }
                self.bootstrapped.wait().await;
                let fence = match routed.verb {
                    "get" | "list" | "watch" => None,
                    _ => self.fence(&user, &parts.headers).await?,
                };
                let counted = routed.long.then(|| self.metrics.begin_long(&routed.labels));
                let (query, verb, duplicates) = (routed.query, routed.verb, Vec::new());
                let call = Call { parts, query, verb, user, fence, body, duplicates, counted };
                let call = self.in_json(call).await?;
                match (kind.view, kind.review) {
                    (Some(view), _) => self.viewed(kind, view, &target, call).await,
                    (None, Some(review)) => self.review(kind, review, &target, call).await,
                    (None, None) => self.resource(kind, &target, call).await,
                }
            }
        }
    }

    async fn resource(&self, kind: &Kind, target: &Target, call: Call) -> Result<Answer> {
        if let Some(subresource) = &target.subresource {
            return self.subresource(kind, target, subresource, call).await;
        }
        // What spans namespaces can only be read.
        let spans = kind.namespaced && target.namespace.is_none();
        match (call.verb, target.name.is_some()) {
            ("get", true) => self.get(kind, target, &call.query).await,
            ("list", false) => self.list(kind, target, &call.query).await,
            ("watch", _) => self.watch(kind, target, call).await,
            ("create", false) if !spans => self.create(kind, target, call).await,
            ("update", true) => self.update(kind, target, call, write::Part::Spec).await,
            ("patch", true) => self.patch(kind, target, call, write::Part::Spec).await,
            ("delete", true) => self.delete(kind, target, call).await,
            ("deletecollection", false) if !spans && kind.verbs().contains(&"deletecollection") => {
                self.delete_collection(kind, target, call).await
            }
            _ => Err(Failure::method_not_allowed()),
        }
    }
}
