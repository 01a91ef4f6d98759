//! Both proxies under the suite, and what only sockets show.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::atomic::{AtomicU16, Ordering},
};

use async_trait::async_trait;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};

use orchestra_core::{
    proxy::{Frontend, Protocol, Proxy, Route, ServiceTable, conformance::Fixture},
    store::Revision,
};
use orchestra_net::proxy::{MemoryProxy, UserspaceProxy};

/// Services have addresses by process, and ports by test, so that neither meet.
fn service(port: u16) -> SocketAddr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    (Ipv4Addr::new(127, 97, high, low), port).into()
}

/// The first of ten ports for one test.
fn ports() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(20_000);
    NEXT.fetch_add(10, Ordering::Relaxed)
}

#[derive(Default)]
struct Memory(MemoryProxy);

#[async_trait]
impl Fixture for Memory {
    fn proxy(&self) -> &dyn Proxy {
        &self.0
    }

    fn frontend(&self, n: u8) -> Frontend {
        Frontend { address: service(u16::from(n)), protocol: Protocol::Tcp }
    }

    fn backend(&self, n: u8) -> SocketAddr {
        (Ipv4Addr::new(127, 1, 0, n), 80).into()
    }

    fn unusable(&self) -> Option<Frontend> {
        None
    }

    async fn connect(&self, frontend: Frontend) -> Option<SocketAddr> {
        self.0.route(frontend, IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

/// Four backends that answer every connection, or packet, with their own address.
struct Sockets {
    proxy: UserspaceProxy,
    protocol: Protocol,
    port: u16,
    backends: Vec<SocketAddr>,
    _tasks: JoinSet<()>,
}

impl Sockets {
    async fn start(protocol: Protocol) -> Self {
        let mut tasks = JoinSet::new();
        let mut backends = Vec::new();
        for _ in 0..4 {
            backends.push(match protocol {
                Protocol::Tcp => tcp_backend(&mut tasks).await,
                Protocol::Udp => udp_backend(&mut tasks).await,
            });
        }
        Self { proxy: UserspaceProxy::new(), protocol, port: ports(), backends, _tasks: tasks }
    }
}

async fn tcp_backend(tasks: &mut JoinSet<()>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(address.to_string().as_bytes()).await.ok();
                let mut rest = Vec::new();
                stream.read_to_end(&mut rest).await.ok();
                stream.write_all(&rest).await.ok();
            });
        }
    });
    address
}

async fn udp_backend(tasks: &mut JoinSet<()>) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    let address = socket.local_addr().expect("bound");
    tasks.spawn(async move {
        while let Ok((_, client)) = socket.recv_from(&mut [0; 16]).await {
            socket.send_to(address.to_string().as_bytes(), client).await.ok();
        }
    });
    address
}

#[async_trait]
impl Fixture for Sockets {
    fn proxy(&self) -> &dyn Proxy {
        &self.proxy
    }

    fn frontend(&self, n: u8) -> Frontend {
        Frontend { address: service(self.port + u16::from(n)), protocol: self.protocol }
    }

    fn backend(&self, n: u8) -> SocketAddr {
        self.backends[usize::from(n)]
    }

    fn unusable(&self) -> Option<Frontend> {
        // TEST-NET-1 (RFC 5737): no machine has it.
        Some(Frontend { address: ([192, 0, 2, 1], 80).into(), protocol: self.protocol })
    }

    async fn connect(&self, frontend: Frontend) -> Option<SocketAddr> {
        let mut answer = [0; 64];
        let length = match self.protocol {
            Protocol::Tcp => TcpStream::connect(frontend.address).await.ok()?.read(&mut answer).await.ok()?,
            Protocol::Udp => {
                let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.ok()?;
                socket.connect(frontend.address).await.ok()?;
                socket.send(b"?").await.ok()?;
                socket.recv(&mut answer).await.ok()?
            }
        };
        std::str::from_utf8(&answer[..length]).ok()?.parse().ok()
    }
}

mod memory {
    use super::Memory;

    orchestra_core::proxy_conformance!(Memory::default());
}

mod tcp {
    use orchestra_core::proxy::Protocol;

    use super::Sockets;

    orchestra_core::proxy_conformance!(Sockets::start(Protocol::Tcp).await);
}

mod udp {
    use orchestra_core::proxy::Protocol;

    use super::Sockets;

    orchestra_core::proxy_conformance!(Sockets::start(Protocol::Udp).await);
}

#[tokio::test]
async fn a_connection_outlives_the_removal_of_its_backend() {
    let sockets = Sockets::start(Protocol::Tcp).await;
    let frontend = sockets.frontend(0);
    let table = |revision, backends: &[SocketAddr]| ServiceTable {
        revision: Revision(revision),
        routes: [(frontend, Route { backends: backends.to_vec(), affinity: None })].into(),
    };
    sockets.proxy.sync(&table(1, &sockets.backends[..1])).await.expect("in force");
    let mut stream = TcpStream::connect(frontend.address).await.expect("served");
    let mut greeting = vec![0; sockets.backends[0].to_string().len()];
    stream.read_exact(&mut greeting).await.expect("a greeting");

    sockets.proxy.sync(&table(2, &[])).await.expect("in force");
    assert!(TcpStream::connect(frontend.address).await.is_err(), "a new connection is refused");
    stream.write_all(b"still here").await.expect("open");
    stream.shutdown().await.expect("open");
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.expect("drained");
    assert_eq!(rest, "still here");
}

#[tokio::test]
async fn a_dead_backend_is_passed_over() {
    let sockets = Sockets::start(Protocol::Tcp).await;
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port").local_addr().expect("bound");
    let mut backends = vec![closed, sockets.backends[0]];
    backends.sort();
    let routes = [(sockets.frontend(0), Route { backends, affinity: None })].into();
    sockets.proxy.sync(&ServiceTable { revision: Revision(1), routes }).await.expect("in force");
    for _ in 0..4 {
        assert_eq!(sockets.connect(sockets.frontend(0)).await, Some(sockets.backends[0]));
    }
}
