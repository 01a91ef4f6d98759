//! The store on a real etcd; one for each case, as compaction is global to it.

mod cluster;
mod endpoints;
mod relay;
mod rotation;
mod shared;

use std::time::Duration;

use bytes::Bytes;
use etcd_client::{Client, ConnectOptions, Permission, PermissionType, RoleRevokePermissionOptions};
use futures::StreamExt as _;
use orchestra_core::store::{Batch, Error, Key, Prefix, Revision, Store, Txn, Watch};
use orchestra_store::{
    EtcdOptions, EtcdStore,
    etcd::{EtcdTls, EtcdUser, testing::Etcd},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tokio::time::timeout;

/// A store on an etcd of its own.
pub(crate) async fn open() -> (EtcdStore, Etcd) {
    let etcd = Etcd::start().await;
    (EtcdStore::connect(etcd.options()).await.expect("etcd answers"), etcd)
}

/// The same when etcd was killed, as by `kill -9`, and has come back.
async fn reopen(mut etcd: Etcd) -> (EtcdStore, Etcd) {
    etcd.restart().await.expect("it comes back");
    (EtcdStore::connect(etcd.options()).await.expect("etcd answers"), etcd)
}

mod conformance {
    use super::{open, reopen};

    orchestra_core::store_conformance!(open, reopen: reopen);
}

/// How long a call may take here: long enough for a busy machine, short enough to wait for in a test.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

fn key(name: &str) -> Key {
    Key::new(["p", name]).expect("a valid name")
}

async fn connect(options: EtcdOptions) -> Result<EtcdStore, Error> {
    EtcdStore::connect(EtcdOptions { request_timeout: REQUEST_TIMEOUT, ..options }).await
}

/// Creates `count` keys, from the one of the number `from` on; returns the revisions.
async fn create(store: &EtcdStore, from: usize, count: usize) -> Vec<Revision> {
    let mut revisions = Vec::new();
    for number in from..from + count {
        let txn = Txn::create(key(&number.to_string()), Bytes::from_static(b"x"));
        revisions.push(store.commit(txn).await.expect("a commit"));
    }
    revisions
}

async fn next(watch: &mut Watch) -> Batch {
    let item = timeout(Duration::from_secs(30), watch.next()).await.expect("it goes on");
    item.expect("it does not end").expect("no error")
}

/// The revisions of the next `count` batches that change something.
async fn told(watch: &mut Watch, count: usize) -> Vec<Revision> {
    let mut revisions = Vec::new();
    while revisions.len() < count {
        let batch = next(watch).await;
        if !batch.changes.is_empty() {
            revisions.push(batch.revision);
        }
    }
    revisions
}

async fn watch(store: &EtcdStore) -> Watch {
    let now = store.revision().await.expect("a revision");
    store.watch(&Prefix::all(), now).await.expect("a watch")
}

/// SEMANTICS 11: neither gap nor repeat, whatever becomes of the connection.
#[tokio::test]
async fn a_watch_goes_on_after_etcd_was_killed() {
    let mut etcd = Etcd::start().await;
    let store = connect(etcd.options()).await.expect("etcd answers");
    let mut watch = watch(&store).await;
    let mut expected = create(&store, 0, 3).await;
    assert_eq!(told(&mut watch, 2).await, expected[..2]);
    etcd.kill().expect("it is killed");
    assert!(matches!(store.get(&key("0")).await, Err(Error::Unavailable(_))));
    etcd.restart().await.expect("it starts again");
    expected.extend(create(&store, 3, 3).await);
    assert_eq!(told(&mut watch, 4).await, expected[2..]);
}

/// A member that is silent is told from one that refuses: what was asked of it may have happened, and is not waited for.
#[tokio::test]
async fn a_silent_etcd_is_unavailable_and_then_goes_on() {
    let etcd = Etcd::start().await;
    let store = connect(etcd.options()).await.expect("etcd answers");
    let mut watch = watch(&store).await;
    etcd.pause(true).expect("it is paused");
    let commit = store.commit(Txn::create(key("0"), Bytes::new()));
    let outcome = timeout(REQUEST_TIMEOUT * 3, commit).await.expect("a commit ends in time");
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "got {outcome:?}");
    etcd.pause(false).expect("it goes on");
    let created = create(&store, 1, 1).await;
    let happened = store.get(&key("0")).await.expect("a read").map(|entry| entry.modified);
    let expected: Vec<_> = happened.into_iter().chain(created).collect();
    assert_eq!(told(&mut watch, expected.len()).await, expected);
}

/// SEMANTICS 15: a watch from now on is open when the call returns, not when it is read or etcd next looks after it.
#[tokio::test]
async fn a_watch_from_now_on_misses_nothing_that_is_compacted_before_it_is_read() {
    let etcd = Etcd::start().await;
    let store = connect(etcd.options()).await.expect("etcd answers");
    create(&store, 0, 2).await;
    for round in 1..6 {
        let mut watch = watch(&store).await;
        let expected = create(&store, round * 10, 3).await;
        store.compact(expected[2]).await.expect("it compacts");
        assert_eq!(told(&mut watch, 3).await, expected);
    }
}

/// SEMANTICS 14: a watch that is not read holds up neither the store nor another, and misses nothing.
#[tokio::test]
async fn a_watch_that_is_not_read_misses_nothing() {
    const COMMITS: usize = 1_500;
    let etcd = Etcd::start().await;
    let store = connect(etcd.options()).await.expect("etcd answers");
    let (mut slow, mut fast) = (watch(&store).await, watch(&store).await);
    let mut expected = create(&store, 0, 1).await;
    assert_eq!(told(&mut slow, 1).await, expected);
    expected.extend(create(&store, 1, COMMITS).await);
    assert_eq!(told(&mut fast, expected.len()).await, expected);
    assert_eq!(told(&mut slow, COMMITS).await, expected[1..]);
}

/// SEMANTICS 20: what is over this etcd's own limits is told apart from an etcd that does not answer.
#[tokio::test]
async fn what_is_over_the_limits_of_an_etcd_is_invalid() {
    let etcd = Etcd::start_with(&["--max-request-bytes=65536", "--max-txn-ops=4"], None).await;
    let store = connect(etcd.options()).await.expect("etcd answers");
    let large = store.commit(Txn::create(key("large"), Bytes::from(vec![b'x'; 100_000]))).await;
    assert!(matches!(large, Err(Error::Invalid(why)) if why.contains("--max-request-bytes")), "got {large:?}");
    let mut many = Txn::default();
    for number in 0..5 {
        let one = Txn::create(key(&number.to_string()), Bytes::new());
        many.checks.extend(one.checks);
        many.ops.extend(one.ops);
    }
    let many = store.commit(many).await;
    assert!(matches!(many, Err(Error::Invalid(why)) if why.contains("--max-txn-ops")), "got {many:?}");
    assert_eq!(store.list(&Prefix::all()).await.expect("a listing").entries, []);
}

/// An etcd that takes larger requests than others tells of them in larger messages, too.
#[tokio::test]
async fn a_watch_is_told_of_a_commit_of_any_size() {
    let etcd = Etcd::start_with(&["--max-request-bytes=33554432"], None).await;
    let store = EtcdStore::connect(etcd.options()).await.expect("etcd answers");
    let (mut live, start) = (watch(&store).await, store.revision().await.expect("a revision"));
    let mut expected = Vec::new();
    for round in 0..2 {
        let mut large = Txn::default();
        for number in 0..12 {
            let one = Txn::create(key(&format!("{round}-{number}")), Bytes::from(vec![b'x'; 1_000_000]));
            large.checks.extend(one.checks);
            large.ops.extend(one.ops);
        }
        expected.push(store.commit(large).await.expect("a commit"));
    }
    assert_eq!(told(&mut live, 2).await, expected);
    let mut past = store.watch(&Prefix::all(), start).await.expect("a watch");
    assert_eq!(told(&mut past, 2).await, expected);
}

fn user(name: &str, password: &str) -> Option<EtcdUser> {
    Some(EtcdUser { name: name.into(), password: password.into() })
}

/// Lets in `root`, `orchestra`, whose the default prefix is, and `guest`, who may nothing.
async fn require_users(etcd: &Etcd) -> Result<(), etcd_client::Error> {
    let mut client = Client::connect([etcd.endpoint()], None).await?;
    for name in ["root", "orchestra", "guest"] {
        client.user_add(name, "secret", None).await?;
        client.role_add(name).await?;
        client.user_grant_role(name, name).await?;
    }
    let permission = Permission::new(PermissionType::Readwrite, "/orchestra/").with_prefix();
    client.role_grant_permission("orchestra", permission).await?;
    client.auth_enable().await.map(drop)
}

#[tokio::test]
async fn a_user_may_what_its_role_says() {
    let mut etcd = Etcd::start().await;
    require_users(&etcd).await.expect("etcd has users");
    let options = etcd.options();
    let as_user = |user: Option<EtcdUser>| connect(EtcdOptions { user, ..options.clone() });
    for nobody in [None, user("orchestra", "wrong"), user("guest", "secret")] {
        let refused = as_user(nobody).await.err();
        assert!(matches!(refused, Some(Error::Unavailable(_))), "got {refused:?}");
    }
    let store = as_user(user("orchestra", "secret")).await.expect("it is let in");
    let mut watch = watch(&store).await;
    let expected = create(&store, 0, 2).await;
    assert_eq!(told(&mut watch, 2).await, expected);

    // A token is gone when etcd is: both ask for another.
    etcd.restart().await.expect("it starts again");
    let expected = create(&store, 2, 1).await;
    assert_eq!(told(&mut watch, 1).await, expected);
}

/// A client that may do all, on an etcd that [requires users](require_users).
async fn root(etcd: &Etcd) -> Client {
    let user = ConnectOptions::new().with_user("root", "secret");
    Client::connect([etcd.endpoint()], Some(user)).await.expect("it is let in")
}

/// Who may not watch is told, not kept waiting.
#[tokio::test]
async fn a_watch_that_is_forbidden_ends() {
    let etcd = Etcd::start().await;
    require_users(&etcd).await.expect("etcd has users");
    let options = EtcdOptions { user: user("orchestra", "secret"), ..etcd.options() };
    let store = connect(options).await.expect("it is let in");
    let mut root = root(&etcd).await;
    let prefix = RoleRevokePermissionOptions::new().with_prefix();
    root.role_revoke_permission("orchestra", "/orchestra/", Some(prefix)).await.expect("it is revoked");
    let mut watch = store.watch(&Prefix::all(), Revision(1)).await.expect("a watch");
    let item = timeout(Duration::from_secs(30), watch.next()).await.expect("it is told").expect("an item");
    assert!(matches!(item, Err(Error::Unavailable(_))), "got {item:?}");
    assert!(watch.next().await.is_none());
}

/// An authority, and what is signed by it, as PEM.
struct Pki {
    authority: String,
    certificate: String,
    key: String,
}

fn pki(name: &str) -> Pki {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let certificate = CertificateParams::new(vec![name.into()]).expect("a name").signed_by(&key, &issuer);
    Pki { authority: issuer.pem(), certificate: certificate.expect("a certificate").pem(), key: key.serialize_pem() }
}

#[tokio::test]
async fn etcd_is_reached_by_tls_with_certificates_on_both_sides() {
    let (pki, other) = (pki("127.0.0.1"), pki("127.0.0.1"));
    let directory = TempDir::new().expect("a temporary directory");
    let file = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).expect("a write");
        path.display().to_string()
    };
    let flags = [
        format!("--cert-file={}", file("server.pem", &pki.certificate)),
        format!("--key-file={}", file("server.key", &pki.key)),
        format!("--trusted-ca-file={}", file("ca.pem", &pki.authority)),
        "--client-cert-auth".into(),
    ];
    let identity = Some((pki.certificate.clone(), pki.key.clone()));
    let tls = EtcdTls { ca: pki.authority.clone(), identity };
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let etcd = Etcd::start_with(&flags, Some(tls.clone())).await;
    let store = connect(etcd.options()).await.expect("etcd answers");
    create(&store, 0, 1).await;
    for wrong in [EtcdTls { ca: other.authority, ..tls.clone() }, EtcdTls { identity: None, ..tls }] {
        let refused = connect(EtcdOptions { tls: Some(wrong), ..etcd.options() }).await.err();
        assert!(matches!(refused, Some(Error::Unavailable(_))), "got {refused:?}");
    }
}
