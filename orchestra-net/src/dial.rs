//! Reaches the kubelets of other machines: TLS to the address that a node reports.

use std::{io, sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::Node;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use orchestra_core::server::{BoxedIo, NodeDialer};

/// How long a node may take to answer.
const DIAL_SECONDS_MAX: u64 = 10;

/// A [`NodeDialer`] to the internal address and kubelet port in a node's status.
pub struct TlsNodeDialer {
    tls: Arc<ClientConfig>,
}

impl std::fmt::Debug for TlsNodeDialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsNodeDialer")
    }
}

impl TlsNodeDialer {
    /// Dials as the credential in `tls`, and trusts whom it trusts.
    #[must_use]
    pub fn new(tls: Arc<ClientConfig>) -> Self {
        Self { tls }
    }
}

#[async_trait]
impl NodeDialer for TlsNodeDialer {
    async fn dial(&self, node: &Node) -> io::Result<BoxedIo> {
        let status = node.status.as_ref();
        let addresses = status.and_then(|status| status.addresses.as_deref()).unwrap_or_default();
        let internal = addresses.iter().find(|address| address.type_ == "InternalIP");
        let endpoint = status.and_then(|status| status.daemon_endpoints.as_ref()?.kubelet_endpoint.as_ref());
        let port = endpoint.and_then(|endpoint| u16::try_from(endpoint.port).ok());
        let (Some(address), Some(port)) = (internal, port) else {
            return Err(io::Error::other("the node reports no kubelet address"));
        };
        let name = ServerName::try_from(address.address.clone()).map_err(io::Error::other)?;
        let connect = async {
            let stream = TcpStream::connect((address.address.as_str(), port)).await?;
            stream.set_nodelay(true)?;
            TlsConnector::from(Arc::clone(&self.tls)).connect(name, stream).await
        };
        let stream = timeout(Duration::from_secs(DIAL_SECONDS_MAX), connect).await??;
        Ok(Box::new(stream))
    }
}
