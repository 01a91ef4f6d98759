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
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::SharedBalancer;

/// How long a flow may be idle before it is forgotten.
const FLOW_IDLE: Duration = Duration::from_secs(60);
/// How many clients a frontend serves at once; beyond, the packets of new ones are dropped.
const FLOWS_MAX: usize = 4_096;
/// The largest packet UDP can carry, in bytes.
const PACKET_BYTES_MAX: usize = 65_535;

struct Flow {
    upstream: Arc<UdpSocket>,
    replies: AbortOnDropHandle<Option<()>>,
}

/// Serves `socket` until dropped.
pub(super) async fn serve(socket: Arc<UdpSocket>, balancer: SharedBalancer, closed: CancellationToken) {
    let mut flows: BTreeMap<SocketAddr, Flow> = BTreeMap::new();
    let mut packet = vec![0; PACKET_BYTES_MAX];
    loop {
        let (length, client) = match socket.recv_from(&mut packet).await {
            Ok(received) => received,
            // The echo of a reply that a client no longer takes.
            Err(error) => {
                tracing::debug!(%error, "receiving failed");
                continue;
            }
        };
        if flows.get(&client).is_none_or(|flow| flow.replies.is_finished()) {
            flows.retain(|_, flow| !flow.replies.is_finished());
            if flows.len() >= FLOWS_MAX {
                tracing::warn!(%client, "too many clients");
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
        let packet = packet.get(..length).unwrap_or_default();
        if let Some(flow) = flows.get(&client)
            && let Err(error) = flow.upstream.send(packet).await
        {
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
    let (socket, receiving) = (Arc::clone(socket), Arc::clone(&upstream));
    let replies = closed.clone().run_until_cancelled_owned(async move {
        let mut packet = vec![0; PACKET_BYTES_MAX];
        while let Ok(Ok(length)) = timeout(FLOW_IDLE, receiving.recv(&mut packet)).await {
            let sent = socket.send_to(packet.get(..length).unwrap_or_default(), client).await;
            if let Err(error) = sent {
                tracing::debug!(%client, %error, "reply lost");
            }
        }
    });
    let replies = AbortOnDropHandle::new(tokio::spawn(replies));
    Ok(Some(Flow { upstream, replies }))
}
