//! An API server over the memory store, asked by raw requests.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, header};
use http_body_util::{BodyExt as _, Full};
use orchestra_core::{
    clock::TokioClock,
    rng::Entropy,
    server::{ApiServer, Body, UserInfo},
    store::Store,
};
use orchestra_store::MemoryStore;
use serde_json::{Value, json};
use tower::ServiceExt as _;

pub(super) const MERGE_PATCH: &str = "application/merge-patch+json";
pub(super) const PODS: &str = "/api/v1/namespaces/default/pods";

/// A server, and who asks it.
#[derive(Clone)]
pub(super) struct Cluster {
    pub(super) server: ApiServer,
    user: Option<UserInfo>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) code: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Reply {
    /// The body, which is JSON.
    #[track_caller]
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body of a success.
    #[track_caller]
    pub(super) fn ok(&self) -> Value {
        assert!((200..300).contains(&self.code), "{} {}", self.code, self.text());
        self.json()
    }

    /// The `Status` of a failure with this code and reason.
    #[track_caller]
    pub(super) fn failed(&self, code: u16, reason: &str) -> Value {
        let status = self.json();
        assert_eq!((self.code, &status["reason"]), (code, &json!(reason)), "{}", self.text());
        assert_eq!((&status["kind"], &status["apiVersion"]), (&json!("Status"), &json!("v1")));
        assert_eq!((&status["status"], &status["code"]), (&json!("Failure"), &json!(code)));
        status
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Cluster {
    pub(super) fn new() -> Self {
        Self::over(Arc::new(MemoryStore::new()))
    }

    pub(super) fn over(store: Arc<dyn Store>) -> Self {
        let clock = Arc::new(TokioClock::default());
        let server = ApiServer::builder(store).clock(clock).entropy(Entropy::seeded(7)).build();
        Self { server, user: Some(UserInfo::master("admin")) }
    }

    /// The same server, asked by another; by nobody known if `None`.
    pub(super) fn by(&self, user: Option<UserInfo>) -> Self {
        Self { server: self.server.clone(), user }
    }

    pub(super) async fn answer(&self, mut request: Request<Full<Bytes>>) -> http::Response<Body> {
        if let Some(user) = &self.user {
            request.extensions_mut().insert(user.clone());
        }
        self.server.clone().oneshot(request).await.expect("infallible")
    }

    pub(super) async fn request(&self, request: Request<Full<Bytes>>) -> Reply {
        let (parts, body) = self.answer(request).await.into_parts();
        let body = body.collect().await.expect("a body in memory").to_bytes();
        Reply { code: parts.status.as_u16(), headers: parts.headers, body }
    }

    pub(super) async fn send(&self, method: Method, path: &str, media: &str, body: impl Into<Bytes>) -> Reply {
        let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, media);
        self.request(request.body(Full::new(body.into())).expect("a request")).await
    }

    pub(super) async fn get(&self, path: &str) -> Reply {
        self.send(Method::GET, path, "", Bytes::new()).await
    }

    pub(super) async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(Method::POST, path, "application/json", body.to_string()).await
    }

    pub(super) async fn patch(&self, path: &str, media: &str, body: &Value) -> Reply {
        self.send(Method::PATCH, path, media, body.to_string()).await
    }

    /// Opens a watch, which must be granted.
    pub(super) async fn watch(&self, path_and_query: &str) -> Events {
        let request = Request::builder().uri(path_and_query).body(Full::default()).expect("a request");
        let response = self.answer(request).await;
        let (code, body) = (response.status().as_u16(), response.into_body());
        if code != 200 {
            panic!("{code} {:?}", body.collect().await.map(|body| body.to_bytes()));
        }
        Events(body)
    }
}

/// What a watch sends.
pub(super) struct Events(Body);

impl Events {
    /// The next line, as it was sent; `None` once the watch is over.
    pub(super) async fn line(&mut self) -> Option<Bytes> {
        let frame = self.0.frame().await?.expect("a body in memory");
        Some(frame.into_data().expect("no trailers"))
    }

    /// The next event; `None` once the watch is over.
    pub(super) async fn next(&mut self) -> Option<Value> {
        let line = self.line().await?;
        assert!(line.ends_with(b"\n") && line.iter().filter(|byte| **byte == b'\n').count() == 1);
        Some(serde_json::from_slice(&line).expect("an event is JSON"))
    }
}

pub(super) fn pod(name: &str) -> Value {
    json!({ "metadata": { "name": name }, "spec": { "containers": [{ "name": "web", "image": "host" }] } })
}
