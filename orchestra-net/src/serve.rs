//! Serves a `tower::Service` by HTTP/1.1 and HTTP/2 over TLS. Nothing is served in plain text.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tower::{Service, ServiceExt as _};

use orchestra_core::server::PeerCertificate;

/// The most connections that are open at once; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 8_192;
/// How long a client may take for its TLS handshake.
pub const HANDSHAKE_SECONDS_MAX: u64 = 10;
/// How long a client may take to send a request's header.
pub const HEADER_SECONDS_MAX: u64 = 30;

/// What accepting waits after an error that it can't mend, such as a lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves `service` on `listener` until dropped, which ends every connection.
///
/// A request carries its client's certificate, if it showed one, as a [`PeerCertificate`] extension: TLS has verified
/// that the cluster's authority vouches for it.
pub async fn serve<S, B>(listener: TcpListener, tls: Arc<ServerConfig>, service: S) -> Infallible
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (acceptor, service) = (acceptor.clone(), service.clone());
        connections.spawn(async move {
            if let Err(error) = connection(stream, &acceptor, service).await {
                tracing::debug!(%error, "connection ended");
            }
            drop(place);
        });
    }
}

/// Waits until this process is asked to stop: by Ctrl-C, or by the signal that supervisors send.
///
/// # Errors
///
/// If the operating system does not let the process listen to signals.
pub async fn asked_to_stop() -> io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            biased;
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

async fn connection<S, B>(stream: TcpStream, acceptor: &TlsAcceptor, service: S) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(Duration::from_secs(HANDSHAKE_SECONDS_MAX), acceptor.accept(stream)).await??;
    let peer = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|certificate| PeerCertificate(certificate.as_ref().into()));
    let service = service.map_request(move |mut request: Request<Incoming>| {
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        request
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(HEADER_SECONDS_MAX));
    builder.http2().timer(TokioTimer::new());
    builder
        .serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service))
        .await
        .map_err(io::Error::other)
}
