//! Kubelets of this process, reached without a socket.

use std::{
    collections::BTreeMap,
    fmt, io,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use k8s_openapi::api::core::v1::Node;
use orchestra_core::server::{BoxedIo, NodeDialer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::{Kubelet, Service};

/// How many bytes wait in a stream for their reader.
const STREAM_BYTES_MAX: usize = 64 << 10;

/// The kubelets of this process by the names of their nodes; clones share one map.
#[derive(Clone, Default)]
pub struct LocalNodes {
    services: Arc<Mutex<BTreeMap<String, Service>>>,
}

impl LocalNodes {
    /// Makes a kubelet reachable, instead of an earlier one of the same node.
    pub fn insert(&self, kubelet: &Kubelet) {
        let mut services = self.services.lock().unwrap_or_else(PoisonError::into_inner);
        services.insert(kubelet.node_name().into(), kubelet.service());
    }
}

impl fmt::Debug for LocalNodes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalNodes").finish_non_exhaustive()
    }
}

#[async_trait]
impl NodeDialer for LocalNodes {
    async fn dial(&self, node: &Node) -> io::Result<BoxedIo> {
        let name = node.metadata.name.as_deref().unwrap_or_default();
        let service = self.services.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let service = service.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such node in this process"))?;
        let (here, there) = tokio::io::duplex(STREAM_BYTES_MAX);
        // Ends with its stream, that is with the request it serves.
        tokio::spawn(async move { service.serve_connection(there).await });
        Ok(Box::new(here))
    }
}

impl Service {
    /// Serves one connection, until it closes.
    pub async fn serve_connection(self, io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(io), TowerToHyperService::new(self))
            .with_upgrades();
        if let Err(error) = connection.await {
            tracing::debug!(%error, "kubelet connection ended early");
        }
    }
}
