//! Logs and exec: the server passes the request on to the kubelet of the pod's node, and the bytes back.

use std::{fmt, io};

use async_trait::async_trait;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional};

use crate::server::{
    Body, Call, Inner,
    error::{Failure, Result},
    object,
    registry::Kind,
    respond::Answer,
    route::Target,
};

/// A byte stream to a node.
pub type BoxedIo = Box<dyn Io>;

/// What a [`BoxedIo`] can do.
pub trait Io: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

/// Reaches the HTTP server of a node's kubelet.
#[async_trait]
pub trait NodeDialer: fmt::Debug + Send + Sync + 'static {
    /// Opens a stream over which the kubelet of `node` speaks HTTP/1.1.
    ///
    /// # Errors
    ///
    /// If the node can't be reached.
    async fn dial(&self, node: &Node) -> io::Result<BoxedIo>;
}

impl Inner {
    /// Passes a request for `verb` (`containerLogs`, `exec`, …) on a pod's container to its kubelet.
    pub(super) async fn proxy(&self, kind: &Kind, target: &Target, verb: &str, call: Call) -> Result<Answer> {
        let namespace = target.namespace.as_deref().unwrap_or_default();
        let name = target.name.as_deref().unwrap_or_default();
        let entry = self.store.get(&object::key(kind, namespace, name)?).await?;
        let entry = entry.ok_or_else(|| Failure::not_found(kind, name))?;
        let pod: Pod = serde_json::from_slice(&entry.value).map_err(Failure::internal)?;
        let container = container_of(&pod, call.query.value("container"), verb)?;
        let node_name = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default();
        if node_name.is_empty() {
            return Err(Failure::bad_request(format!("pod {name} does not have a host assigned")));
        }
        let path = format!("/{verb}/{namespace}/{name}/{container}");
        let query = call.parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
        let io = self.dial(node_name).await?;
        forward(io, call, &format!("{path}{query}")).await
    }

    async fn dial(&self, node_name: &str) -> Result<BoxedIo> {
        let unreachable = |why: String| Failure::unavailable(format!("error dialing node {node_name}: {why}"));
        let dialer = self.dialer.as_ref().ok_or_else(|| unreachable("no node dialer is configured".into()))?;
        let nodes = self.registry.find("", "v1", "nodes").expect("built in");
        let entry = self.store.get(&object::key(nodes, "", node_name)?).await?;
        let entry = entry.ok_or_else(|| unreachable("there is no such node".into()))?;
        let node: Node = serde_json::from_slice(&entry.value).map_err(Failure::internal)?;
        dialer.dial(&node).await.map_err(|error| unreachable(error.to_string()))
    }
}

/// The container asked for; the only one, or the one an annotation names, if none is.
fn container_of(pod: &Pod, asked: &str, verb: &str) -> Result<String> {
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let spec = pod.spec.as_ref();
    let mains = spec.map(|spec| spec.containers.as_slice()).unwrap_or_default();
    let inits = spec.and_then(|spec| spec.init_containers.as_deref()).unwrap_or_default();
    if !asked.is_empty() {
        if mains.iter().chain(inits).any(|container| container.name == asked) {
            return Ok(asked.into());
        }
        return Err(Failure::bad_request(format!("container {asked} is not valid for pod {name}")));
    }
    let names: Vec<_> = mains.iter().map(|container| container.name.as_str()).collect();
    let annotations = pod.metadata.annotations.as_ref();
    let preferred = annotations.and_then(|all| all.get("kubectl.kubernetes.io/default-container"));
    match (preferred, names.as_slice()) {
        (Some(preferred), names) if names.contains(&preferred.as_str()) => Ok(preferred.clone()),
        (_, [only]) => Ok((*only).into()),
        (_, [first, ..]) if verb != "containerLogs" => Ok((*first).into()),
        (_, names) => Err(Failure::bad_request(format!(
            "a container name must be specified for pod {name}, choose one of: [{}]",
            names.join(" ")
        ))),
    }
}

async fn forward(io: BoxedIo, mut call: Call, path_and_query: &str) -> Result<Answer> {
    let upgrade = call.parts.headers.contains_key(header::UPGRADE);
    let client = upgrade.then(|| call.parts.extensions.remove::<hyper::upgrade::OnUpgrade>()).flatten();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(Failure::internal)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "node connection ended");
        }
    });
    let mut request = Request::builder().method(call.parts.method.clone()).uri(path_and_query);
    for (name, value) in passed_on(&call.parts.headers) {
        request = request.header(name, value);
    }
    let request = request.header(header::HOST, "kubelet").body(call.body).map_err(Failure::internal)?;
    let mut response = sender.send_request(request).await.map_err(Failure::internal)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(Answer::Raw(response.map(|body| body.map_err(Into::into).boxed_unsync())));
    }
    let node = hyper::upgrade::on(&mut response);
    if let Some(client) = client {
        tokio::spawn(async move {
            if let (Ok(client), Ok(node)) = (client.await, node.await)
                && let Err(error) = copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(node)).await
            {
                tracing::debug!(%error, "stream to a node ended early");
            }
        });
    }
    let mut switched: Response<Body> = Response::new(Body::default());
    *switched.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    *switched.headers_mut() = response.headers().clone();
    Ok(Answer::Raw(switched))
}

/// The headers that concern the stream itself; who asks is no business of a kubelet.
fn passed_on(headers: &HeaderMap) -> impl Iterator<Item = (&header::HeaderName, &header::HeaderValue)> {
    headers.iter().filter(|(name, _)| {
        **name == header::UPGRADE
            || **name == header::CONNECTION
            || **name == header::CONTENT_TYPE
            || name.as_str().starts_with("sec-websocket-")
    })
}
