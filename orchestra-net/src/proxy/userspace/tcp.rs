//! TCP: one task for each connection, which copies both ways until both ends are done.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::SharedBalancer;

/// How long a backend may take to accept a connection before another is tried.
const CONNECT_SECONDS_MAX: u64 = 3;
/// What accepting waits after an error that it can't mend, such as a lack of file descriptors.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves `listener` until dropped; its connections go on until they end or `closed` is canceled.
pub(super) async fn serve(listener: TcpListener, balancer: SharedBalancer, closed: CancellationToken) {
    loop {
        match listener.accept().await {
            Ok((stream, client)) => {
                let (balancer, closed) = (balancer.clone(), closed.clone());
                tokio::spawn(closed.run_until_cancelled_owned(forward(stream, client, balancer)));
            }
            Err(error) => {
                tracing::warn!(%error, "accepting failed");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn forward(mut stream: TcpStream, client: SocketAddr, balancer: SharedBalancer) {
    let Some(mut backend) = connect(client, &balancer).await else {
        // Dropped: nobody serves this client.
        return;
    };
    // Latency counts for more than packets; a socket that refuses the option still works.
    let _ = stream.set_nodelay(true).and_then(|()| backend.set_nodelay(true));
    if let Err(error) = copy_bidirectional(&mut stream, &mut backend).await {
        tracing::debug!(%client, %error, "connection ended early");
    }
}

/// Connects to the client's backend or, if it doesn't answer, to each other one in turn.
async fn connect(client: SocketAddr, balancer: &SharedBalancer) -> Option<TcpStream> {
    let mut backend = balancer.lock().pick(client.ip(), Instant::now())?;
    let tries = balancer.lock().len();
    for _ in 0..tries {
        match timeout(Duration::from_secs(CONNECT_SECONDS_MAX), TcpStream::connect(backend)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(error)) => tracing::debug!(%backend, %error, "backend refused"),
            Err(_) => tracing::debug!(%backend, "backend did not answer"),
        }
        backend = balancer.lock().pick_another(client.ip(), Instant::now())?;
    }
    None
}
