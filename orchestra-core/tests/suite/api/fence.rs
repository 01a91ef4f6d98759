//! Writes under a leader's lease (SEMANTICS 47).

use std::{cell::Cell, sync::Arc};

use futures::future::join_all;
use http::{Method, Request, header};
use http_body_util::Full;
use orchestra_core::{api::fence::FENCE_HEADER, server::UserInfo, store::Store as _};
use orchestra_store::MemoryStore;
use serde_json::{Value, json};
use tokio::task::yield_now;

use super::fixture::{CONFIG_MAPS, Cluster, DEPLOYMENTS, MERGE_PATCH, NAMESPACES, PODS, Reply};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/loops";
const STEPS: &str = "/apis/scheduling.orchestra.dev/v1alpha1/plansteps";
/// The term of the leader there is.
const FENCE: &str = "kube-system/loops;3;b";

fn lease(holder: &str, transitions: i32, renewals: usize) -> Value {
    json!({ "metadata": { "name": "loops", "annotations": { "renewals": renewals.to_string() } },
        "spec": { "holderIdentity": holder, "leaseTransitions": transitions } })
}

fn config_map(name: &str) -> Value {
    json!({ "metadata": { "name": name } })
}

async fn write(cluster: &Cluster, fence: &str, method: Method, path: &str, body: &Value) -> Reply {
    let media = if method == Method::PATCH { MERGE_PATCH } else { "application/json" };
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, media);
    cluster.request(request.header(FENCE_HEADER, fence).body(Full::new(body.into())).expect("a request")).await
}

/// Every way to write; each is good once those before it are done.
fn writes() -> Vec<(Method, String, Value)> {
    let of = |path: &str, rest: &str| format!("{path}{rest}");
    let place = json!({ "type": "Place", "pod": { "namespace": "default", "name": "q" }, "node": "n" });
    vec![
        (Method::POST, of(CONFIG_MAPS, ""), config_map("b")),
        (Method::PUT, of(CONFIG_MAPS, "/a"), json!({ "metadata": { "name": "a" }, "data": { "x": "1" } })),
        (Method::PATCH, of(CONFIG_MAPS, "/a"), json!({ "data": { "x": "2" } })),
        (Method::PUT, of(LEASES, "/made"), json!({ "metadata": { "name": "made" }, "spec": {} })),
        (Method::PATCH, of(PODS, "/p/status"), json!({ "status": { "message": "seen" } })),
        (Method::POST, of(PODS, "/p/binding"), json!({ "metadata": { "name": "p" }, "target": { "name": "n" } })),
        (Method::POST, STEPS.into(), json!({ "spec": { "operations": [place] } })),
        (Method::PATCH, of(DEPLOYMENTS, "/web/scale"), json!({ "spec": { "replicas": 3 } })),
        (Method::PUT, of(NAMESPACES, "/space/finalize"), json!({ "metadata": { "name": "space" }, "spec": {} })),
        (Method::POST, of(PODS, "/p/eviction"), json!({ "metadata": { "name": "p" } })),
        (Method::DELETE, of(CONFIG_MAPS, "/a"), Value::Null),
        (Method::DELETE, of(CONFIG_MAPS, ""), Value::Null),
    ]
}

/// A server with a lease, and what [`writes`] change.
async fn furnished() -> (Cluster, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::new());
    let cluster = Cluster::over(store.clone());
    let containers = json!([{ "name": "c", "image": "i" }]);
    let labels = json!({ "app": "web" });
    cluster.post(LEASES, &lease("b", 3, 0)).await.ok();
    cluster.post(CONFIG_MAPS, &config_map("a")).await.ok();
    for name in ["p", "q"] {
        cluster.post(PODS, &json!({ "metadata": { "name": name }, "spec": { "containers": containers } })).await.ok();
    }
    cluster.post("/api/v1/nodes", &json!({ "metadata": { "name": "n" } })).await.ok();
    let status = json!({ "status": { "allocatable": { "pods": "9" } } });
    cluster.patch("/api/v1/nodes/n/status", MERGE_PATCH, &status).await.ok();
    cluster.post(NAMESPACES, &json!({ "metadata": { "name": "space" } })).await.ok();
    let template = json!({ "metadata": { "labels": labels }, "spec": { "containers": containers } });
    let spec = json!({ "selector": { "matchLabels": labels }, "template": template });
    cluster.post(DEPLOYMENTS, &json!({ "metadata": { "name": "web" }, "spec": spec })).await.ok();
    (cluster, store)
}

#[tokio::test(start_paused = true)]
async fn each_write_is_refused_to_all_but_the_leader_of_this_term() {
    let (cluster, store) = furnished().await;
    for (method, path, body) in writes() {
        for (fence, why) in [
            ("kube-system/loops;3;a", "leader election lost: lease kube-system/loops is held by b"),
            ("kube-system/loops;2;b", "leader election lost: lease kube-system/loops is held in term 3, not in term 2"),
            (
                "kube-system/loops;-1;b",
                "leader election lost: lease kube-system/loops is held in term 3, not in term -1",
            ),
            ("kube-system/none;3;b", "leader election lost: lease kube-system/none is gone"),
        ] {
            let before = store.revision().await.expect("a revision");
            let refused = write(&cluster, fence, method.clone(), &path, &body).await;
            refused.failed_with(409, "Conflict", why);
            assert_eq!(refused.json()["details"]["causes"][0]["reason"], "LeaderElectionLost");
            assert_eq!(store.revision().await.expect("a revision"), before, "{method} {path} wrote");
        }
        let before = store.revision().await.expect("a revision");
        write(&cluster, FENCE, method.clone(), &path, &body).await.ok();
        assert!(store.revision().await.expect("a revision") > before, "{method} {path} wrote nothing");
    }
}

/// A renewal that comes between a write's look at the lease and its commit is no loss of it.
#[tokio::test(start_paused = true)]
async fn a_leader_may_write_while_it_renews() {
    const WRITES: usize = 50;
    let cluster = Cluster::contended();
    cluster.post(LEASES, &lease("b", 3, 0)).await.ok();
    let writes = (0..WRITES).map(|n| {
        let (cluster, map) = (cluster.clone(), config_map(&format!("m-{n}")));
        async move { write(&cluster, FENCE, Method::POST, CONFIG_MAPS, &map).await.ok() }
    });
    let renewals = (0..WRITES).map(|n| {
        let cluster = cluster.clone();
        async move { cluster.patch(LEASE, MERGE_PATCH, &lease("b", 3, n + 1)).await.ok() }
    });
    tokio::join!(join_all(writes), join_all(renewals));
}

/// The lease is looked at in the very commit: nothing slips in behind a takeover.
#[tokio::test(start_paused = true)]
async fn nothing_of_a_deposed_leader_is_written_after_the_takeover() {
    const WRITERS: usize = 20;
    const ROUNDS: usize = 6;
    let (cluster, written) = (Cluster::contended(), Cell::new(0));
    cluster.post(LEASES, &lease("b", 3, 0)).await.ok();
    let writing = (0..WRITERS).map(|writer| {
        let (cluster, written) = (&cluster, &written);
        async move {
            // Not in step: when the lease is taken, each is somewhere else.
            for _ in 0..writer {
                yield_now().await;
            }
            let mut replies = Vec::new();
            for round in 0..ROUNDS {
                let map = config_map(&format!("m-{writer}-{round}"));
                replies.push(write(cluster, FENCE, Method::POST, CONFIG_MAPS, &map).await);
                written.set(written.get() + 1);
            }
            replies
        }
    });
    let taking = async {
        while written.get() < WRITERS * ROUNDS / 2 {
            yield_now().await;
        }
        cluster.patch(LEASE, MERGE_PATCH, &lease("c", 4, 0)).await.ok()
    };
    let (replies, taken) = tokio::join!(join_all(writing), taking);
    let revision = |object: &Value| -> u64 {
        object["metadata"]["resourceVersion"].as_str().expect("a version").parse().expect("a number")
    };
    let taken = revision(&taken);
    let (done, refused): (Vec<_>, Vec<_>) = replies.iter().flatten().partition(|reply| reply.code == 201);
    assert!(!done.is_empty() && !refused.is_empty(), "{} done, {} refused", done.len(), refused.len());
    assert!(done.iter().all(|reply| revision(&reply.json()) < taken));
    refused.iter().for_each(|reply| reply.failed_with(409, "Conflict", "is held by c"));
}

#[tokio::test(start_paused = true)]
async fn a_fence_that_cannot_be_read_is_refused_and_one_of_a_read_ignored() {
    let (cluster, _) = furnished().await;
    write(&cluster, "loops", Method::POST, CONFIG_MAPS, &config_map("b")).await.failed(400, "BadRequest");
    write(&cluster, "loops", Method::GET, CONFIG_MAPS, &Value::Null).await.ok();
    // Who holds a lease is told only to those who may read it.
    let proxy = cluster.by(Some(UserInfo { name: "system:kube-proxy".into(), ..UserInfo::default() }));
    let event = json!({ "metadata": { "name": "e" }, "involvedObject": {} });
    let events = "/api/v1/namespaces/default/events";
    proxy.post(events, &event).await.ok();
    write(&proxy, FENCE, Method::POST, events, &event).await.failed(403, "Forbidden");
}
