//! An API server over the memory store, asked by raw requests.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use orchestra_core::{
    clock::TokioClock,
    rng::Entropy,
    server::{ApiServer, Body, UserInfo},
    store::{Entry, Key, Listing, Prefix, Result, Revision, Store, Txn, Watch},
};
use orchestra_store::MemoryStore;
use serde_json::{Value, json};
use tokio::{
    task::yield_now,
    time::{Duration, timeout},
};
use tower::ServiceExt as _;

pub(crate) const JSON_PATCH: &str = "application/json-patch+json";
pub(crate) const MERGE_PATCH: &str = "application/merge-patch+json";
pub(crate) const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";

pub(crate) const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
pub(crate) const DEPLOYMENTS: &str = "/apis/apps/v1/namespaces/default/deployments";
pub(crate) const NAMESPACES: &str = "/api/v1/namespaces";
pub(crate) const PODS: &str = "/api/v1/namespaces/default/pods";
pub(crate) const SERVICES: &str = "/api/v1/namespaces/default/services";

/// A server, and who asks it.
#[derive(Clone)]
pub(crate) struct Cluster {
    pub(crate) server: ApiServer,
    pub(crate) user: Option<UserInfo>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) code: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Reply {
    /// The body, which is JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body of a success.
    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert!((200..300).contains(&self.code), "{} {}", self.code, self.text());
        self.json()
    }

    /// The `Status` of a failure with this code and reason.
    #[track_caller]
    pub(crate) fn failed(&self, code: u16, reason: &str) -> Value {
        let status = self.json();
        assert_eq!((self.code, &status["reason"]), (code, &json!(reason)), "{}", self.text());
        assert_eq!((&status["kind"], &status["apiVersion"]), (&json!("Status"), &json!("v1")));
        assert_eq!((&status["status"], &status["code"]), (&json!("Failure"), &json!(code)));
        status
    }

    /// As [`failed`](Self::failed), with words that the message has.
    #[track_caller]
    pub(crate) fn failed_with(&self, code: u16, reason: &str, words: &str) {
        let status = self.failed(code, reason);
        assert!(status["message"].as_str().is_some_and(|message| message.contains(words)), "{status}");
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self::over(Arc::new(MemoryStore::new()))
    }

    /// A server whose requests interleave at every call to the store.
    pub(crate) fn contended() -> Self {
        Self::over(Arc::new(Contended::default()))
    }

    pub(crate) fn over(store: Arc<dyn Store>) -> Self {
        let clock = Arc::new(TokioClock::default());
        let server = ApiServer::builder(store).clock(clock).entropy(Entropy::seeded(7)).build();
        Self { server, user: Some(UserInfo::master("admin")) }
    }

    /// The same server, asked by another; by nobody known if `None`.
    pub(crate) fn by(&self, user: Option<UserInfo>) -> Self {
        Self { server: self.server.clone(), user }
    }

    pub(crate) async fn answer(&self, mut request: Request<Full<Bytes>>) -> http::Response<Body> {
        if let Some(user) = &self.user {
            request.extensions_mut().insert(user.clone());
        }
        self.server.clone().oneshot(request).await.expect("infallible")
    }

    pub(crate) async fn request(&self, request: Request<Full<Bytes>>) -> Reply {
        let (parts, body) = self.answer(request).await.into_parts();
        let body = body.collect().await.expect("a body in memory").to_bytes();
        Reply { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub(crate) async fn send(&self, method: Method, path: &str, media: &str, body: impl Into<Bytes>) -> Reply {
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, media);
        self.request(request.body(Full::new(body.into())).expect("a request")).await
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, "", Bytes::new()).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, "application/json", body.to_string()).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::PUT, path, "application/json", body.to_string()).await
    }

    pub(crate) async fn patch(&self, path: &str, media: &str, body: &Value) -> Reply {
        self.send(Method::PATCH, path, media, body.to_string()).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Reply {
        self.send(Method::DELETE, path, "", Bytes::new()).await
    }

    pub(crate) async fn delete_with(&self, path: &str, options: &Value) -> Reply {
        self.send(Method::DELETE, path, "application/json", options.to_string()).await
    }

    /// Opens a watch, which must be granted.
    pub(crate) async fn watch(&self, path_and_query: &str) -> Events {
        let request = Request::builder().uri(path_and_query).body(Full::default()).expect("a request");
        let response = self.answer(request).await;
        let (code, body) = (response.status().as_u16(), response.into_body());
        if code != 200 {
            panic!("{code} {:?}", body.collect().await.map(|body| body.to_bytes()));
        }
        Events(body)
    }

    /// The resource version of the store as a list tells it.
    pub(crate) async fn now(&self) -> u64 {
        let list = self.get("/api/v1/configmaps?limit=1").await.ok();
        number(&list["metadata"]["resourceVersion"])
    }
}

/// What a watch sends.
pub(crate) struct Events(Body);

impl Events {
    pub(crate) fn of(response: http::Response<Body>) -> Self {
        Self(response.into_body())
    }

    /// The next line, as it was sent; `None` once the watch is over.
    pub(crate) async fn line(&mut self) -> Option<Bytes> {
        let frame = self.0.frame().await?.expect("a body in memory");
        Some(frame.into_data().expect("no trailers"))
    }

    /// The next event; `None` once the watch is over.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let line = self.line().await?;
        assert!(line.ends_with(b"\n") && line.iter().filter(|byte| **byte == b'\n').count() == 1);
        Some(serde_json::from_slice(&line).expect("an event is JSON"))
    }

    /// The type and the object's name of the next event.
    pub(crate) async fn told(&mut self) -> (String, String) {
        let event = self.next().await.expect("the watch goes on");
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (text(&event["type"]), text(&event["object"]["metadata"]["name"]))
    }

    /// Whether nothing comes for a second.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        timeout(Duration::from_secs(1), self.line()).await.is_err()
    }
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("no number: {value}"))
}

/// The resource version of an object.
pub(crate) fn version(object: &Value) -> u64 {
    number(&object["metadata"]["resourceVersion"])
}

pub(crate) fn config_map(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "data": { "a": "1" } })
}

pub(crate) fn pod(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "web", "image": "host" }] } })
}

pub(crate) fn deployment(name: &str) -> Value {
    json!({
        "metadata": { "name": name },
        "spec": {
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": { "app": name } },
                "spec": { "containers": [{ "name": "web", "image": "host" }] },
            },
        },
    })
}

pub(crate) fn service(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "ports": [{ "port": 80 }] } })
}

/// A store on which every call first gives way to whatever else is ready, so that requests interleave.
#[derive(Debug, Default)]
pub(crate) struct Contended(MemoryStore);

#[async_trait]
impl Store for Contended {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        yield_now().await;
        self.0.get(key).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        yield_now().await;
        self.0.list(prefix).await
    }

    async fn revision(&self) -> Result<Revision> {
        yield_now().await;
        self.0.revision().await
    }

    async fn commit(&self, txn: Txn) -> Result<Revision> {
        yield_now().await;
        self.0.commit(txn).await
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch> {
        yield_now().await;
        self.0.watch(prefix, after).await
    }

    async fn compact(&self, floor: Revision) -> Result<()> {
        yield_now().await;
        self.0.compact(floor).await
    }
}
