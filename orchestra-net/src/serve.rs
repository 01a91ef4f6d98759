//! Serves a `tower::Service` by HTTP/1.1 and HTTP/2 over TLS. Nothing is served in plain text.

use std::{convert::Infallible, io, pin::pin, sync::Arc, time::Duration};

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
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt as _};

use orchestra_core::server::PeerCertificate;

/// The most connections that are open at once; more wait to be accepted.
pub const CONNECTIONS_MAX: usize = 8_192;
/// How long a client may take for its TLS handshake.
pub const HANDSHAKE_SECONDS_MAX: u64 = 10;
/// How long a client may take to send a request's header, and may be silent between two of them.
pub const HEADER_SECONDS_MAX: u64 = 30;
/// How many bytes the header of an HTTP/2 request may have, its path included; selectors may be long.
pub const HEADER_BYTES_MAX: u32 = 128 << 10;
/// How long the requests in progress may take to finish once a server ends.
pub const DRAIN_SECONDS_MAX: u64 = 30;

/// What accepting waits after an error that it can't mend, such as a lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// How often an HTTP/2 client is asked whether it is still there.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// How long it may take to say so.
const PONG_TIMEOUT: Duration = Duration::from_secs(20);
/// The first byte of a TLS handshake: RFC 8446, 5.1.
const HANDSHAKE: u8 = 22;
/// What a client that speaks plain HTTP is told, in Go's words.
const NOT_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// Serves `service` on `listener` until dropped, which ends every connection.
///
/// A request carries its client's certificate, if it showed one, as a [`PeerCertificate`] extension: TLS has verified
/// that the cluster's authority vouches for it.
#[allow(clippy::missing_panics_doc, reason = "nothing ends it")]
pub async fn serve<S, B>(listener: TcpListener, tls: Arc<ServerConfig>, service: S) -> Infallible
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    serve_until(listener, tls, service, std::future::pending()).await;
    unreachable!("nothing ends it")
}

/// As [`serve`], until `end`; then takes no more connections, and returns when the requests in progress have been
/// answered (SEMANTICS 37), or after [`DRAIN_SECONDS_MAX`].
#[allow(clippy::missing_panics_doc, reason = "the semaphore is never closed")]
pub async fn serve_until<S, B>(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    service: S,
    end: impl Future<Output = ()> + Send,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let ending = CancellationToken::new();
    let mut connections = JoinSet::new();
    let mut end = pin!(end);
    loop {
        while connections.try_join_next().is_some() {}
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            listener.accept().await.map(|(stream, _)| (stream, place))
        };
        let accepted = tokio::select! {
            biased;
            () = &mut end => break,
            accepted = accept => accepted,
        };
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "accepting failed");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        let (acceptor, service, ending) = (acceptor.clone(), service.clone(), ending.clone());
        connections.spawn(async move {
            if let Err(error) = connection(stream, &acceptor, service, &ending).await {
                tracing::debug!(%error, "connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    ending.cancel();
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(Duration::from_secs(DRAIN_SECONDS_MAX), drained).await.is_err() {
        tracing::warn!("requests were cut off at the end of their server");
    }
}

/// Waits until this process is asked to stop: by Ctrl-C, by the signal that supervisors send, or by its terminal closing.
///
/// # Errors
///
/// If the operating system does not let the process listen to signals.
pub async fn asked_to_stop() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};

        let (mut terminate, mut hangup) = (signal(SignalKind::terminate())?, signal(SignalKind::hangup())?);
        tokio::select! {
            biased;
            interrupted = tokio::signal::ctrl_c() => interrupted,
            _ = terminate.recv() => Ok(()),
            _ = hangup.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

async fn connection<S, B>(
    stream: TcpStream,
    acceptor: &TlsAcceptor,
    service: S,
    ending: &CancellationToken,
) -> io::Result<()>
where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    stream.set_nodelay(true)?;
    let stream = timeout(Duration::from_secs(HANDSHAKE_SECONDS_MAX), handshake(stream, acceptor)).await??;
    let (_, session) = stream.get_ref();
    let peer = session
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|certificate| PeerCertificate(certificate.as_ref().into()));
    let speaks_http2 = session.alpn_protocol() == Some(b"h2");
    let service = service.map_request(move |mut request: Request<Incoming>| {
        if let Some(peer) = &peer {
            request.extensions_mut().insert(peer.clone());
        }
        request
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(HEADER_SECONDS_MAX));
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).keep_alive_timeout(PONG_TIMEOUT);
    builder.http2().max_header_list_size(HEADER_BYTES_MAX);
    // As agreed in the handshake: to guess from the first bytes would be to wait for them, for ever.
    let builder = if speaks_http2 { builder.http2_only() } else { builder.http1_only() };
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), TowerToHyperService::new(service));
    let mut connection = pin!(connection);
    let outcome = tokio::select! {
        biased;
        outcome = connection.as_mut() => outcome,
        () = ending.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    outcome.map_err(io::Error::other)
}

/// Agrees on TLS; a client that speaks plain HTTP is told so.
async fn handshake(mut stream: TcpStream, acceptor: &TlsAcceptor) -> io::Result<TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 1 && first != [HANDSHAKE] {
        stream.write_all(NOT_TLS).await?;
        stream.shutdown().await?;
        return Err(io::Error::other("a client sent plain text"));
    }
    acceptor.accept(stream).await
}
