//! TCP: one task for each connection, which copies both ways until both ends are done.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::SharedBalancer;

/// How long a backend may take to accept a connection before another is tried.
const CONNECT_SECONDS_MAX: u64 = 3;
/// What accepting waits after an error that it can't mend, such as a lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves `listener` until dropped; its connections go on until they end or `closed` is canceled.
///
/// Each connection takes one of the `places`; without one, clients wait to be served.
pub(super) async fn serve(
    listener: TcpListener,
    balancer: SharedBalancer,
    places: Arc<Semaphore>,
    closed: CancellationToken,
) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
                let (balancer, closed) = (balancer.clone(), closed.clone());
                tokio::spawn(closed.run_until_cancelled_owned(async move {
                    forward(stream, client, balancer).await;
                    drop(place);
                }));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting failed");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn forward(mut stream: TcpStream, client: SocketAddr, balancer: SharedBalancer) {
    let Some(mut backend) = connect(client, &balancer).await else { return reset(&stream) };
    // Latency counts for more than packets; a socket that refuses the option still works.
    let _ = stream.set_nodelay(true).and_then(|()| backend.set_nodelay(true));
    if let Err(error) = copy_bidirectional(&mut stream, &mut backend).await {
        tracing::debug!(%client, %error, "connection ended early");
        reset(&stream);
        reset(&backend);
    }
}

/// Makes a stream end, once dropped, as one that broke: an ordinary end would say that all was sent.
fn reset(stream: &TcpStream) {
    // One that is broken already need not be.
    let _broken = stream.set_zero_linger();
}

/// Connects to the client's backend or, if it doesn't answer, to each other one in turn.
async fn connect(client: SocketAddr, balancer: &SharedBalancer) -> Option<TcpStream> {
    let mut tried = Vec::new();
    let mut backend = balancer.lock().pick(client.ip(), Instant::now())?;
    loop {
        match timeout(Duration::from_secs(CONNECT_SECONDS_MAX), TcpStream::connect(backend)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => tracing::debug!(%backend, %error, "backend refused"),
            Err(_) => tracing::debug!(%backend, "backend did not answer"),
        }
        tried.push(backend);
        backend = balancer.lock().pick_another(client.ip(), &tried, Instant::now())?;
    }
}
