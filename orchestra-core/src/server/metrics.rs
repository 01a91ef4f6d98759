//! What a server counts, under Kubernetes' own names; each server has its own registry.

use std::fmt;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use prometheus_client::{
    encoding::{EncodeLabelSet, text},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};
use tokio::time::Instant;

use crate::server::{
    Body, Inner, UserInfo,
    error::{Failure, Result},
    registry::Kind,
    respond::{KindRef, json_response},
    route::Target,
};

/// The group whose members may read the metrics, beside masters.
const MONITORING_GROUP: &str = "system:monitoring";
/// Bounds of the durations, in seconds: Kubernetes', and finer ones below, where most of this server's are.
const SECONDS: [f64; 19] =
    [0.000_1, 0.000_5, 0.001, 0.005, 0.025, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0, 60.0];

/// What a request is about. Only known names become labels, so that clients can't make up any number of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AnswerLabels {
    verb: &'static str,
    group: &'static str,
    version: &'static str,
    resource: &'static str,
    subresource: &'static str,
    scope: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InFlightLabels {
    request_kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResourceLabels {
    group: &'static str,
    version: &'static str,
    resource: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: String,
    result: &'static str,
}

/// See the [module](self).
pub(crate) struct Metrics {
    registry: Registry,
    operations: Family<OperationLabels, Counter>,
    step_retries: Counter,
    requests: Family<AnswerLabels, Counter>,
    seconds: Family<RequestLabels, Histogram>,
    in_flight: Family<InFlightLabels, Gauge>,
    dropped: Family<InFlightLabels, Counter>,
    long_running: Family<RequestLabels, Gauge>,
    watch_events: Family<ResourceLabels, Counter>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

/// Counts one more of something until dropped.
#[derive(Debug)]
pub(crate) struct OneMore(Gauge);

impl OneMore {
    fn of(gauge: Gauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for OneMore {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let metrics = Self {
            registry: Registry::default(),
            operations: Family::default(),
            step_retries: Counter::default(),
            requests: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(SECONDS)),
            in_flight: Family::default(),
            dropped: Family::default(),
            long_running: Family::default(),
            watch_events: Family::default(),
        };
        metrics.registered()
    }

    fn registered(mut self) -> Self {
        let registry = &mut self.registry;
        let help = "Operations of plan steps, by what became of them: the reason why one was refused";
        registry.register("apiserver_plan_step_operations", help, self.operations.clone());
        let help = "How often a plan step was judged again since what it rested on had changed meanwhile";
        registry.register("apiserver_plan_step_retries", help, self.step_retries.clone());
        registry.register(
            "apiserver_request",
            "Requests, by what they ask for and how they were answered",
            self.requests.clone(),
        );
        registry.register(
            "apiserver_request_duration_seconds",
            "Time from a request to its answer, in seconds",
            self.seconds.clone(),
        );
        registry.register(
            "apiserver_current_inflight_requests",
            "Requests under way, but for long-running ones",
            self.in_flight.clone(),
        );
        registry.register(
            "apiserver_dropped_requests",
            "Requests refused since too many were under way",
            self.dropped.clone(),
        );
        registry.register(
            "apiserver_longrunning_requests",
            "Watches, logs and streams under way",
            self.long_running.clone(),
        );
        registry.register("apiserver_watch_events", "Events sent to watches", self.watch_events.clone());
        self
    }

    /// A request begins.
    pub(crate) fn begin(&self, labels: &RequestLabels) -> OneMore {
        OneMore::of(self.in_flight.get_or_create_owned(&InFlightLabels::of(labels)))
    }

    /// A request is refused since too many are under way.
    pub(crate) fn dropped(&self, labels: &RequestLabels) {
        self.dropped.get_or_create(&InFlightLabels::of(labels)).inc();
    }

    /// A request that stays for long begins.
    pub(crate) fn begin_long(&self, labels: &RequestLabels) -> OneMore {
        OneMore::of(self.long_running.get_or_create_owned(labels))
    }

    /// A request has been answered.
    pub(crate) fn answered(&self, labels: &RequestLabels, code: StatusCode, begun: Instant) {
        self.seconds.get_or_create(labels).observe(begun.elapsed().as_secs_f64());
        let RequestLabels { verb, group, version, resource, subresource, scope } = *labels;
        let code = code.as_u16();
        self.requests.get_or_create(&AnswerLabels { verb, group, version, resource, subresource, scope, code }).inc();
    }

    /// An operation of a plan step was committed, or refused for this reason.
    pub(crate) fn planned(&self, operation: &str, result: &'static str) {
        let operation = operation.to_owned();
        self.operations.get_or_create(&OperationLabels { operation, result }).inc();
    }

    /// A plan step has to be judged again.
    pub(crate) fn plan_step_retried(&self) {
        self.step_retries.inc();
    }

    /// The count of the events sent to watches of a kind.
    pub(crate) fn watch_events(&self, kind: &KindRef) -> Counter {
        let labels = ResourceLabels { group: kind.group, version: kind.version, resource: kind.plural };
        self.watch_events.get_or_create_owned(&labels)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        text::encode(&mut text, &self.registry).expect("writing to a string never fails");
        text
    }
}

impl InFlightLabels {
    fn of(labels: &RequestLabels) -> Self {
        Self { request_kind: if labels.reads() { "readOnly" } else { "mutating" } }
    }
}

impl RequestLabels {
    /// Whether such a request changes nothing.
    pub(crate) fn reads(&self) -> bool {
        matches!(self.verb, "GET" | "LIST")
    }

    /// Of a request for a resource.
    pub(crate) fn of(kind: Option<&Kind>, target: &Target, verb: &str) -> Self {
        let scope = match (&target.name, &target.namespace) {
            (Some(_), _) => "resource",
            (None, Some(_)) => "namespace",
            (None, None) => "cluster",
        };
        let Some(kind) = kind else { return Self { verb: upper(verb), scope, ..Self::default() } };
        let named = |name: &&&str| target.subresource.as_deref() == Some(**name);
        let subresource = kind.subresources.iter().find(named).copied().unwrap_or_default();
        let (group, version, resource) = (kind.group, kind.version, kind.plural);
        Self { verb: upper(verb), group, version, resource, subresource, scope }
    }

    /// Of a request for anything else.
    pub(crate) fn of_path(verb: &str) -> Self {
        Self { verb: upper(verb), ..Self::default() }
    }
}

/// A verb as metrics have it.
fn upper(verb: &str) -> &'static str {
    match verb {
        "get" => "GET",
        "list" => "LIST",
        "watch" => "WATCH",
        "create" => "POST",
        "update" => "PUT",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        "connect" => "CONNECT",
        _ => "OTHER",
    }
}

impl Inner {
    /// Everything counted, as text, for whoever may see it.
    pub(super) fn metrics(&self, user: &UserInfo) -> Result<Response<Body>> {
        if !user.is_master() && !user.groups.iter().any(|group| group == MONITORING_GROUP) {
            let message = format!("forbidden: User \"{}\" cannot get path \"/metrics\"", user.name);
            return Err(Failure::forbidden("", "", message));
        }
        let mut response = json_response(StatusCode::OK, Bytes::from(self.metrics.text()));
        let media = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, media);
        Ok(response)
    }
}
