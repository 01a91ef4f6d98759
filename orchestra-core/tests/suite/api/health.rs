//! Health, and what is counted: SEMANTICS 37 and 66.

use std::sync::Arc;

use async_trait::async_trait;
use orchestra_core::{
    server::UserInfo,
    store::{Entry, Error, Key, Listing, Prefix, Result, Revision, Store, Txn, Watch},
};
use orchestra_store::MemoryStore;

use super::fixture::{CONFIG_MAPS, Cluster, config_map};

/// A store that can't be reached.
#[derive(Debug)]
struct Away;

fn away<T>() -> Result<T> {
    Err(Error::Unavailable("away".into()))
}

#[async_trait]
impl Store for Away {
    async fn get(&self, _: &Key) -> Result<Option<Entry>> {
        away()
    }

    async fn list(&self, _: &Prefix) -> Result<Listing> {
        away()
    }

    async fn revision(&self) -> Result<Revision> {
        away()
    }

    async fn commit(&self, _: Txn) -> Result<Revision> {
        away()
    }

    async fn watch(&self, _: &Prefix, _: Revision) -> Result<Watch> {
        away()
    }

    async fn compact(&self, _: Revision) -> Result<()> {
        away()
    }
}

/// A store with a bug: it panics over one name.
#[derive(Debug, Default)]
struct Buggy(MemoryStore);

#[async_trait]
impl Store for Buggy {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        assert!(!key.as_str().ends_with("/bug"), "a bug");
        self.0.get(key).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        self.0.list(prefix).await
    }

    async fn revision(&self) -> Result<Revision> {
        self.0.revision().await
    }

    async fn commit(&self, txn: Txn) -> Result<Revision> {
        self.0.commit(txn).await
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch> {
        self.0.watch(prefix, after).await
    }

    async fn compact(&self, floor: Revision) -> Result<()> {
        self.0.compact(floor).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_bug_in_a_handler_fails_one_request() {
    let cluster = Cluster::over(Arc::new(Buggy::default()));
    let words = "This request caused apiserver to panic";
    cluster.get(&format!("{CONFIG_MAPS}/bug")).await.failed_with(500, "InternalError", words);
    cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
}

/// SEMANTICS 66.
#[tokio::test(start_paused = true)]
async fn health_is_told_in_a_word_or_check_by_check() {
    let cluster = Cluster::new();
    for path in ["/livez", "/readyz", "/healthz", "/readyz/ping", "/readyz/etcd", "/livez/ping"] {
        let reply = cluster.by(None).get(path).await;
        assert_eq!((reply.code, reply.text().as_str()), (200, "ok"), "{path}");
        assert!(reply.headers["content-type"].to_str().is_ok_and(|media| media.starts_with("text/plain")));
    }
    assert_eq!(
        cluster.get("/readyz?verbose").await.text(),
        "[+]ping ok\n[+]etcd ok\n[+]watch-cache-sync ok\n[+]poststarthook/bootstrap ok\n[+]shutdown ok\nreadyz check passed\n"
    );
    assert_eq!(cluster.get("/livez?verbose").await.text(), "[+]ping ok\n[+]etcd ok\nlivez check passed\n");
    cluster.get("/readyz/none").await.failed(404, "NotFound");
}

#[tokio::test(start_paused = true)]
async fn a_server_whose_store_is_away_says_so_and_keeps_nobody_waiting() {
    let cluster = Cluster::over(Arc::new(Away));
    let begun = tokio::time::Instant::now();
    let reply = cluster.get("/readyz").await;
    assert_eq!(reply.code, 500);
    assert!(reply.text().contains("[+]ping ok\n[-]etcd failed: reason withheld\n"), "{}", reply.text());
    assert!(reply.text().ends_with("readyz check failed\n"));
    assert!(begun.elapsed().as_secs() <= 4);
    assert_eq!(cluster.get("/livez?exclude=etcd").await.code, 200);
    // SEMANTICS 35: bounded in time.
    let begun = tokio::time::Instant::now();
    cluster.get(CONFIG_MAPS).await.failed(504, "Timeout");
    assert_eq!(begun.elapsed().as_secs(), 60);
}

#[tokio::test(start_paused = true)]
async fn requests_and_events_are_counted_under_known_names() {
    let cluster = Cluster::new();
    let mut watch = cluster.watch(&format!("{CONFIG_MAPS}?watch=1")).await;
    cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    cluster.post(CONFIG_MAPS, &config_map("a")).await.failed(409, "AlreadyExists");
    cluster.get("/apis/made.up/v1/things").await.failed(404, "NotFound");
    watch.next().await.expect("an event");
    let monitor = cluster.by(Some(UserInfo::new("prometheus", ["system:monitoring"])));
    let reply = monitor.get("/metrics").await;
    assert_eq!(reply.code, 200);
    let text = reply.text();
    let maps = "group=\"\",version=\"v1\",resource=\"configmaps\"";
    for line in [
        format!(
            "apiserver_request_total{{verb=\"POST\",{maps},subresource=\"\",scope=\"namespace\",code=\"201\"}} 1\n"
        ),
        format!(
            "apiserver_request_total{{verb=\"POST\",{maps},subresource=\"\",scope=\"namespace\",code=\"409\"}} 1\n"
        ),
        format!(
            "apiserver_request_duration_seconds_count{{verb=\"POST\",{maps},subresource=\"\",scope=\"namespace\"}} 2\n"
        ),
        format!("apiserver_longrunning_requests{{verb=\"WATCH\",{maps},subresource=\"\",scope=\"namespace\"}} 1\n"),
        format!("apiserver_watch_events_total{{{maps}}} 1\n"),
    ] {
        assert!(text.contains(&line), "{line} not in {text}");
    }
    assert!(!text.contains("made.up") && !text.contains("things"), "clients can't make up labels");
    drop(watch);
    let text = monitor.get("/metrics").await.text();
    assert!(text.contains(&format!(
        "apiserver_longrunning_requests{{verb=\"WATCH\",{maps},subresource=\"\",scope=\"namespace\"}} 0\n"
    )));
    // Another server in the same process counts for itself.
    assert!(!Cluster::new().get("/metrics").await.text().contains("configmaps"));
}
