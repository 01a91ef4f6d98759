//! The store behind a connection that goes silent without a word, as when a cable is pulled.

use std::{future::pending, net::SocketAddr};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch::Sender,
    task::JoinSet,
};

use super::*;

/// Passes connections on to an etcd.
struct Relay {
    address: SocketAddr,
    cut: Sender<()>,
    _accepting: JoinSet<()>,
}

impl Relay {
    async fn to(etcd: &Etcd) -> Self {
        let upstream = etcd.endpoint().trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (cut, mut accepting) = (Sender::new(()), JoinSet::new());
        let cuts = cut.clone();
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.expect("a connection");
                let (mut cut, upstream) = (cuts.subscribe(), upstream.clone());
                connections.spawn(async move {
                    let mut server = TcpStream::connect(upstream).await.expect("etcd is there");
                    tokio::select! {
                        biased;
                        // Both ends stay open: nobody is told.
                        _ = cut.changed() => pending().await,
                        _ = copy_bidirectional(&mut client, &mut server) => {}
                    }
                });
            }
        });
        Self { address, cut, _accepting: accepting }
    }

    /// From now on the connections there are carry nothing; new ones do.
    fn cut(&self) {
        self.cut.send_replace(());
    }

    /// How to reach the etcd through it, so that silence is noticed within two seconds.
    fn options(&self) -> EtcdOptions {
        EtcdOptions {
            keepalive_interval: Duration::from_secs(1),
            keepalive_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(10),
            ..EtcdOptions::new([format!("http://{}", self.address)])
        }
    }
}

async fn patient_etcd() -> Etcd {
    // It takes more pings for an attack.
    Etcd::start_with(&["--grpc-keepalive-min-time=500ms"], None).await
}

/// SEMANTICS 11: neither gap nor repeat, though no end of the connection is ever seen.
#[tokio::test]
async fn a_watch_goes_on_after_its_connection_fell_silent() {
    let etcd = patient_etcd().await;
    let relay = Relay::to(&etcd).await;
    let behind = EtcdStore::connect(relay.options()).await.expect("etcd answers");
    let store = connect(etcd.options()).await.expect("etcd answers");
    let mut watch = watch(&behind).await;
    let mut expected = create(&store, 0, 2).await;
    assert_eq!(told(&mut watch, 1).await, expected[..1]);
    relay.cut();
    expected.extend(create(&store, 2, 3).await);
    assert_eq!(told(&mut watch, 4).await, expected[1..]);
}

/// What only reads is asked again over another connection, within the request's time; of a commit that is in doubt the
/// caller is told.
#[tokio::test]
async fn a_silent_connection_is_replaced() {
    let etcd = patient_etcd().await;
    let relay = Relay::to(&etcd).await;
    let behind = EtcdStore::connect(relay.options()).await.expect("etcd answers");
    create(&behind, 0, 1).await;
    relay.cut();
    assert!(behind.get(&key("0")).await.expect("it is read anew").is_some());
    relay.cut();
    let in_doubt = behind.commit(Txn::create(key("1"), Bytes::new())).await;
    assert!(matches!(in_doubt, Err(Error::Unavailable(_))), "got {in_doubt:?}");
    assert!(behind.get(&key("1")).await.expect("a read").is_none(), "nothing of it came through");
}
