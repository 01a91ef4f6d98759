//! UDP: a flow for each client, with a socket of its own towards the backend, until it has been idle for a while.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::SharedBalancer;

/// How long a flow may be idle, both ways, before it is forgotten.
const FLOW_IDLE: Duration = Duration::from_secs(60);
/// How many clients a frontend serves at once; beyond, the packets of new ones are dropped.
const FLOWS_MAX: usize = 4_096;
/// The largest packet UDP can carry, in bytes.
const PACKET_BYTES_MAX: usize = 65_535;
/// What receiving waits after an error that isn't the echo of a reply that a client no longer takes.
const RECEIVE_RETRY: Duration = Duration::from_millis(100);

struct Flow {
    backend: SocketAddr,
    upstream: Arc<UdpSocket>,
    /// Told of each packet from the client.
    active: Arc<Notify>,
    replies: AbortOnDropHandle<Option<()>>,
}

impl Flow {
    /// Whether it may go on: a datagram has no connection that could finish at a backend which the table dropped.
    fn lives(&self, balancer: &SharedBalancer) -> bool {
        !self.replies.is_finished() && balancer.lock().has(self.backend)
    }
}

/// Serves `socket` until dropped.
pub(super) async fn serve(socket: Arc<UdpSocket>, balancer: SharedBalancer, closed: CancellationToken) {
    let mut flows: BTreeMap<SocketAddr, Flow> = BTreeMap::new();
    let mut packet = vec![0; PACKET_BYTES_MAX];
    loop {
        let (length, client) = match socket.recv_from(&mut packet).await {
            Ok(received) => received,
            Err(error) => {
                tracing::debug!(%error, "receiving failed");
                if error.kind() != io::ErrorKind::ConnectionRefused {
                    sleep(RECEIVE_RETRY).await;
                }
                continue;
            }
        };
        if flows.get(&client).is_none_or(|flow| !flow.lives(&balancer)) {
            flows.retain(|_, flow| flow.lives(&balancer));
            if flows.len() >= FLOWS_MAX {
                tracing::debug!(%client, "too many clients");
                continue;
            }
            match open(&socket, client, &balancer, &closed).await {
                Ok(Some(flow)) => drop(flows.insert(client, flow)),
                Ok(None) => continue,
                Err(error) => {
                    tracing::debug!(%client, %error, "backend can't be reached");
                    continue;
                }
            }
        }
        let Some(flow) = flows.get(&client) else { continue };
        flow.active.notify_one();
        if let Err(error) = flow.upstream.send(packet.get(..length).unwrap_or_default()).await {
            tracing::debug!(%client, %error, "packet lost");
            flows.remove(&client);
        }
    }
}

async fn open(
    socket: &Arc<UdpSocket>,
    client: SocketAddr,
    balancer: &SharedBalancer,
    closed: &CancellationToken,
) -> io::Result<Option<Flow>> {
    let Some(backend) = balancer.lock().pick(client.ip(), Instant::now()) else { return Ok(None) };
    let any: SocketAddr =
        if backend.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let upstream = Arc::new(UdpSocket::bind(any).await?);
    upstream.connect(backend).await?;
    let active = Arc::new(Notify::new());
    let replies = reply(Arc::clone(&upstream), Arc::clone(socket), client, Arc::clone(&active));
    let replies = AbortOnDropHandle::new(tokio::spawn(closed.clone().run_until_cancelled_owned(replies)));
    Ok(Some(Flow { backend, upstream, active, replies }))
}

/// Sends a client what its backend answers, until the backend is gone or both have been silent for long.
async fn reply(upstream: Arc<UdpSocket>, socket: Arc<UdpSocket>, client: SocketAddr, active: Arc<Notify>) {
    loop {
        tokio::select! {
            biased;
            readable = upstream.readable() => if readable.is_err() { return },
            () = active.notified() => continue,
            () = sleep(FLOW_IDLE) => return,
        }
        // Held only while there is something to hold: most flows are idle most of the time.
        let mut packet = Vec::with_capacity(PACKET_BYTES_MAX);
        match upstream.try_recv_buf(&mut packet) {
            Ok(_) => {
                if let Err(error) = socket.send_to(&packet, client).await {
                    tracing::debug!(%client, %error, "reply lost");
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
