//! Endpoints that are no etcd, beside one that is.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::*;

/// A server of something else, which ends when it is dropped.
struct Stranger {
    endpoint: String,
    _serving: JoinSet<()>,
}

impl Stranger {
    /// Answers whatever it is sent with `answer`, and leaves the connection open.
    async fn start(answer: &'static [u8]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((connection, _)) = listener.accept().await {
                connections.spawn(answer_once(connection, answer));
            }
        });
        Self { endpoint, _serving: serving }
    }
}

async fn answer_once(mut connection: TcpStream, answer: &[u8]) {
    let mut asked = [0; 4_096];
    // The client may go at any time.
    let _ = connection.read(&mut asked).await;
    let _ = connection.write_all(answer).await;
    while connection.read(&mut asked).await.is_ok_and(|bytes| bytes > 0) {}
}

/// HTTP/1, as a web server of old speaks it.
const HTTP_1: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
/// HTTP/2: settings, and to the first request the headers of a 404 or 403, by their numbers in HPACK's tables.
const HTTP_2_NOT_FOUND: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x01\x01\x05\0\0\0\x01\x8d";
const HTTP_2_FORBIDDEN: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x05\x01\x05\0\0\0\x01\x08\x03403";

/// One of the endpoints is the wrong one: the others are asked.
#[tokio::test]
async fn an_endpoint_that_is_no_etcd_is_passed_over() {
    let etcd = Etcd::start().await;
    let mut strangers = vec![("no port", "http://127.0.0.1:1".to_owned()), ("no URL", "etcd one".into())];
    let mut serving = Vec::new();
    for (name, answer) in [
        ("silent", &b""[..]),
        ("HTTP/1", HTTP_1),
        ("HTTP/2 without the path", HTTP_2_NOT_FOUND),
        ("HTTP/2 that forbids", HTTP_2_FORBIDDEN),
    ] {
        let stranger = Stranger::start(answer).await;
        strangers.push((name, stranger.endpoint.clone()));
        serving.push(stranger);
    }
    for (number, (name, stranger)) in strangers.into_iter().enumerate() {
        let endpoints = [stranger, etcd.endpoint().to_owned()];
        let store = connect(EtcdOptions::new(endpoints)).await.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let mut watch = watch(&store).await;
        let created = create(&store, number, 1).await;
        assert_eq!(told(&mut watch, 1).await, created, "{name}");
    }
}

/// Nobody waits for an etcd that can't be there, and the error says what was found instead.
#[tokio::test]
async fn endpoints_that_are_all_no_etcd_are_refused() {
    let stranger = Stranger::start(HTTP_2_NOT_FOUND).await;
    let refused = connect(EtcdOptions::new([stranger.endpoint.as_str(), "etcd one"])).await.err();
    let Some(Error::Unavailable(why)) = refused else { panic!("got {refused:?}") };
    assert!(why.to_string().contains("uri"), "got {why}");
}

/// Who wants to wait for ever may say so.
#[tokio::test]
async fn the_longest_times_there_are_can_be_chosen() {
    let etcd = Etcd::start().await;
    let options = EtcdOptions {
        connect_timeout: Duration::MAX,
        request_timeout: Duration::MAX,
        keepalive_interval: Duration::MAX,
        keepalive_timeout: Duration::MAX,
        ..etcd.options()
    };
    let store = EtcdStore::connect(options).await.expect("etcd answers");
    let created = create(&store, 0, 1).await[0];
    let mut watch = store.watch(&Prefix::all(), Revision(created.0 - 1)).await.expect("a watch");
    assert_eq!(told(&mut watch, 1).await, [created]);
    assert_eq!(store.list(&Prefix::all()).await.expect("a listing").entries.len(), 1);
}
