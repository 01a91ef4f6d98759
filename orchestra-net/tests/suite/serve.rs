//! The server on sockets: whom it lets in, what it says to others, and how long it waits.

use std::{convert::Infallible, net::Ipv4Addr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use orchestra_core::{
    clock::SystemClock,
    server::{ApiServer, PeerCertificate},
};
use orchestra_net::{
    guard,
    pki::{self, CertificateAuthority, ClientCertificates, Subject},
    serve::{HANDSHAKE_SECONDS_MAX, HEADER_SECONDS_MAX, serve_until},
};
use orchestra_store::MemoryStore;
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use tower::Service as _;

struct Server {
    address: std::net::SocketAddr,
    authority: CertificateAuthority,
    end: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

/// Says after how many milliseconds, as the path asks, whether the client showed a certificate.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let wait = request.uri().path().trim_start_matches('/').parse().unwrap_or(0);
    tokio::time::sleep(Duration::from_millis(wait)).await;
    let known = request.extensions().get::<PeerCertificate>().is_some();
    Ok(Response::new(Full::from(if known { "known" } else { "nobody" })))
}

impl Server {
    async fn start(clients: ClientCertificates) -> Self {
        let authority = CertificateAuthority::generate(&SystemClock).expect("made");
        let subject = Subject::component("kube-apiserver");
        let credential = authority.issue_server(&subject, &["127.0.0.1"], &SystemClock).expect("issued");
        let tls = pki::server_config(&credential, authority.certificate_pem(), clients).expect("a configuration");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (end, ended) = oneshot::channel();
        let task = tokio::spawn(serve_until(listener, tls, tower::service_fn(answer), async {
            // An error means that the test is over.
            let _over = ended.await;
        }));
        Self { address, authority, end: Some(end), task }
    }

    async fn connect(&self, tls: Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
        let name = ServerName::try_from("127.0.0.1").expect("an address");
        TlsConnector::from(tls).connect(name, TcpStream::connect(self.address).await?).await
    }

    /// A client with a certificate of `authority`.
    fn known(&self, authority: &CertificateAuthority) -> Arc<ClientConfig> {
        let credential = authority.issue_client(&Subject::admin(), &SystemClock).expect("issued");
        pki::client_config(&credential, self.authority.certificate_pem()).expect("a configuration")
    }
}

async fn get(stream: TlsStream<TcpStream>, path: &str) -> Result<String, hyper::Error> {
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get(path).header("host", "a").body(Empty::<Bytes>::new()).expect("a request");
    let body = sender.send_request(request).await?.into_body().collect().await?;
    Ok(String::from_utf8(body.to_bytes().to_vec()).expect("text"))
}

#[tokio::test]
async fn a_client_is_known_by_a_certificate_of_the_clusters_authority_only() {
    let server = Server::start(ClientCertificates::Required).await;
    let stream = server.connect(server.known(&server.authority)).await.expect("let in");
    assert_eq!(get(stream, "/").await.expect("an answer"), "known");
    let stranger = CertificateAuthority::generate(&SystemClock).expect("made");
    let refused = async {
        // In TLS 1.3 a client learns only with the first answer that its certificate was refused.
        match server.connect(server.known(&stranger)).await {
            Ok(stream) => get(stream, "/").await.is_err(),
            Err(_) => true,
        }
    };
    assert!(refused.await);
}

#[tokio::test]
async fn a_client_that_speaks_plain_http_is_told_so() {
    let server = Server::start(ClientCertificates::Optional).await;
    let mut stream = TcpStream::connect(server.address).await.expect("listened on");
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("open");
    let mut answer = [0; 128];
    let length = stream.read(&mut answer).await.expect("an answer");
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.0 400 ") && answer.ends_with("to an HTTPS server.\n"), "{answer}");
}

/// Time stands still but for those who wait for it, so nobody here does.
#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_does_not_keep_its_place() {
    let server = Server::start(ClientCertificates::Optional).await;
    let mut silent = TcpStream::connect(server.address).await.expect("listened on");
    let limit = Duration::from_secs(HANDSHAKE_SECONDS_MAX + 1);
    let end = timeout(limit, silent.read(&mut [0])).await.expect("hung up on");
    assert!(matches!(end, Ok(0) | Err(_)));
}

#[tokio::test]
async fn a_client_that_sends_no_request_does_not_keep_its_place() {
    let server = Server::start(ClientCertificates::Optional).await;
    let mut stream = server.connect(server.known(&server.authority)).await.expect("let in");
    tokio::time::pause();
    stream.write_all(b"GET / HT").await.expect("open");
    let limit = Duration::from_secs(HEADER_SECONDS_MAX + 1);
    let end = timeout(limit, stream.read(&mut [0])).await.expect("hung up on");
    assert!(matches!(end, Ok(0) | Err(_)));
}

/// SEMANTICS 33, 34: a node's certificate is the cluster's too, and is not the API server's.
#[tokio::test]
async fn a_guarded_service_is_for_those_on_its_list() {
    let authority = CertificateAuthority::generate(&SystemClock).expect("made");
    let api_server = Subject::component("kube-apiserver");
    let mut guarded = guard::only(tower::service_fn(answer_any), [api_server.clone()]);
    let mut status = async |subject: Option<&Subject>| {
        let mut request = Request::new(());
        if let Some(subject) = subject {
            let credential = authority.issue_client(subject, &SystemClock).expect("issued");
            let der = CertificateDer::from_pem_slice(credential.certificate_pem.as_bytes()).expect("PEM");
            request.extensions_mut().insert(PeerCertificate(der.as_ref().into()));
        }
        guarded.call(request).await.expect("an answer").status().as_u16()
    };
    assert_eq!(status(Some(&api_server)).await, 200);
    assert_eq!(status(Some(&Subject::node("n2"))).await, 403);
    assert_eq!(status(None).await, 403);
}

async fn answer_any(_: Request<()>) -> Result<Response<Full<Bytes>>, Infallible> {
    Ok(Response::new(Full::from("yes")))
}

/// SEMANTICS 37.
#[tokio::test]
async fn a_request_in_progress_outlives_the_end_of_its_server() {
    let mut server = Server::start(ClientCertificates::Optional).await;
    let idle = server.connect(server.known(&server.authority)).await.expect("let in");
    let stream = server.connect(server.known(&server.authority)).await.expect("let in");
    let answer = tokio::spawn(get(stream, "/300"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    server.end.take().expect("it runs").send(()).expect("it runs");
    assert_eq!(answer.await.expect("no panic").expect("an answer"), "known");
    timeout(Duration::from_secs(5), server.task).await.expect("it ends").expect("no panic");
    assert!(TcpStream::connect(server.address).await.is_err(), "nobody is let in anymore");
    drop(idle);
}

/// SEMANTICS 75: nobody is somebody without a name.
#[tokio::test]
async fn a_certificate_without_a_common_name_is_nobodys() {
    let authority = CertificateAuthority::generate(&SystemClock).expect("made");
    let server = ApiServer::builder(Arc::new(MemoryStore::new())).build();
    for (user, expected) in [("", 401), ("jane", 403)] {
        let subject = Subject { user: user.into(), group: None };
        let credential = authority.issue_client(&subject, &SystemClock).expect("issued");
        let certificate = CertificateDer::from_pem_slice(credential.certificate_pem.as_bytes()).expect("a certificate");
        let mut request =
            Request::get("/api/v1/namespaces/default/pods").body(Empty::<Bytes>::new()).expect("a request");
        request.extensions_mut().insert(PeerCertificate(certificate.as_ref().into()));
        let response = server.clone().call(request).await.expect("infallible");
        assert_eq!(response.status().as_u16(), expected, "{user:?}");
    }
}
