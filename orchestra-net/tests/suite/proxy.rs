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

/// However many connect at the same time, none is sent to the dead one twice and turned away.
#[tokio::test]
async fn a_dead_backend_turns_nobody_away() {
    const CLIENTS: usize = 32;
    let sockets = Sockets::start(Protocol::Tcp).await;
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port").local_addr().expect("bound");
    let mut backends = vec![closed, sockets.backends[0]];
    backends.sort();
    sockets.sync(1, backends).await;
    let clients = (0..CLIENTS).map(|_| sockets.connect(sockets.frontend(0)));
    assert_eq!(futures::future::join_all(clients).await, [Some(sockets.backends[0]); CLIENTS]);
}

/// An ordinary end would tell a client that it has all there is.
#[tokio::test]
async fn a_connection_that_breaks_behind_the_proxy_breaks_before_it() {
    let sockets = Sockets::start(Protocol::Tcp).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    sockets.sync(1, vec![listener.local_addr().expect("bound")]).await;
    let mut client = TcpStream::connect(sockets.frontend(0).address).await.expect("served");
    let (mut backend, _) = listener.accept().await.expect("a connection");
    backend.write_all(b"half of").await.expect("open");
    client.read_exact(&mut [0; 7]).await.expect("half");
    backend.set_zero_linger().expect("open");
    drop(backend);
    let outcome = client.read(&mut [0; 8]).await;
    assert_eq!(outcome.expect_err("not an end").kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_client_of_dead_backends_is_reset() {
    let sockets = Sockets::start(Protocol::Tcp).await;
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port").local_addr().expect("bound");
    sockets.sync(1, vec![closed]).await;
    let mut client = TcpStream::connect(sockets.frontend(0).address).await.expect("listened on");
    let outcome = client.read(&mut [0; 8]).await;
    assert_eq!(outcome.expect_err("not an end").kind(), std::io::ErrorKind::ConnectionReset);
}

/// A slow reader holds its writer back: nothing in between grows.
#[tokio::test]
async fn a_writer_waits_for_its_reader() {
    let sockets = Sockets::start(Protocol::Tcp).await;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    sockets.sync(1, vec![listener.local_addr().expect("bound")]).await;
    let mut client = TcpStream::connect(sockets.frontend(0).address).await.expect("served");
    let (mut backend, _) = listener.accept().await.expect("a connection");
    // More than all buffers on the way hold together.
    let sent = vec![7; 64 << 20];
    let all = client.write_all(&sent);
    let held = tokio::time::timeout(std::time::Duration::from_millis(300), all).await;
    assert!(held.is_err(), "nobody reads");
    drop(client);
    let mut received = Vec::new();
    backend.read_to_end(&mut received).await.expect("what was on the way arrives");
    assert!(!received.is_empty() && received.len() < sent.len());
}

#[tokio::test]
async fn a_thousand_connections_are_served_at_once() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const CLIENTS: usize = 1_000;
    // Each has four ends in this process.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).expect("up to the hard limit");
    let sockets = Sockets::start(Protocol::Tcp).await;
    sockets.sync(1, sorted(&sockets.backends)).await;
    let open = |_| async {
        let mut client = TcpStream::connect(sockets.frontend(0).address).await.expect("served");
        let length = client.read(&mut [0; 64]).await.expect("a greeting");
        assert!(length > 0);
        client
    };
    let clients = futures::future::join_all((0..CLIENTS).map(open)).await;
    let close = |mut client: TcpStream| async move {
        client.write_all(b"still here").await.expect("open");
        client.shutdown().await.expect("open");
        let mut rest = String::new();
        client.read_to_string(&mut rest).await.expect("drained");
        assert_eq!(rest, "still here");
    };
    futures::future::join_all(clients.into_iter().map(close)).await;
}

/// Datagrams have no connection that could finish: the next one goes to a backend that is there.
#[tokio::test]
async fn a_client_of_a_removed_udp_backend_goes_elsewhere() {
    let sockets = Sockets::start(Protocol::Udp).await;
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
    client.connect(sockets.frontend(0).address).await.expect("an address");
    let ask = async || {
        let mut answer = [0; 64];
        client.send(b"?").await.expect("sent");
        let length = client.recv(&mut answer).await.expect("an answer");
        std::str::from_utf8(&answer[..length]).expect("text").parse::<SocketAddr>().expect("an address")
    };
    sockets.sync(1, sockets.backends[..1].to_vec()).await;
    assert_eq!([ask().await, ask().await], [sockets.backends[0]; 2], "a client keeps its flow");
    sockets.sync(2, sorted(&sockets.backends[1..2])).await;
    assert_eq!(ask().await, sockets.backends[1]);
}

fn sorted(backends: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut backends = backends.to_vec();
    backends.sort();
    backends
}

impl Sockets {
    /// Brings a table of one frontend into force.
    async fn sync(&self, revision: u64, backends: Vec<SocketAddr>) {
        let routes = [(self.frontend(0), Route { backends, affinity: None })].into();
        self.proxy.sync(&ServiceTable { revision: Revision(revision), routes }).await.expect("in force");
    }
}
