//! The endpoints of the `kubernetes` Service: SEMANTICS 71.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use orchestra_core::{
    clock::TokioClock,
    rng::Entropy,
    server::{ApiServer, UserInfo},
};
use orchestra_store::MemoryStore;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::fixture::Cluster;

const ENDPOINTS: &str = "/api/v1/namespaces/default/endpoints/kubernetes";
const SLICES: &str = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";

fn server(store: &Arc<MemoryStore>, seed: u64, address: &str) -> Cluster {
    let address: SocketAddr = address.parse().expect("an address");
    let server = ApiServer::builder(Arc::<MemoryStore>::clone(store))
        .clock(Arc::new(TokioClock::default()))
        .entropy(Entropy::seeded(seed))
        .advertise(address)
        .build();
    Cluster { server, user: Some(UserInfo::master("admin")) }
}

/// What the `Endpoints` and the slices tell, each as `address:port`; they must tell the same.
async fn told(cluster: &Cluster) -> Vec<String> {
    let pairs = |parts: &Value, addresses: fn(&Value) -> Vec<Value>| -> Vec<String> {
        let parts = parts.as_array().into_iter().flatten();
        let mut all: Vec<_> = parts
            .flat_map(|part| addresses(part).into_iter().map(|ip| (ip, part["ports"][0]["port"].clone())))
            .map(|(ip, port)| format!("{}:{port}", ip.as_str().expect("text")))
            .collect();
        all.sort();
        all
    };
    let subsets = cluster.get(ENDPOINTS).await.ok()["subsets"].clone();
    let old = pairs(&subsets, |subset| {
        subset["addresses"].as_array().into_iter().flatten().map(|address| address["ip"].clone()).collect()
    });
    let slices = cluster.get(&format!("{SLICES}?labelSelector=kubernetes.io/service-name=kubernetes")).await.ok();
    let new = pairs(&slices["items"], |slice| {
        slice["endpoints"].as_array().into_iter().flatten().map(|endpoint| endpoint["addresses"][0].clone()).collect()
    });
    assert_eq!(old, new);
    old
}

/// SEMANTICS 71.
#[tokio::test(start_paused = true)]
async fn a_server_that_is_told_of_is_an_endpoint_of_the_kubernetes_service() {
    let store = Arc::new(MemoryStore::new());
    let cluster = server(&store, 1, "127.0.0.1:6443");
    sleep(Duration::from_secs(1)).await;
    assert_eq!(told(&cluster).await, ["127.0.0.1:6443"]);
    let slice = cluster.get(&format!("{SLICES}/kubernetes")).await.ok();
    assert_eq!(slice["ports"], json!([{ "name": "https", "port": 6443, "protocol": "TCP" }]));
    assert_eq!(slice["endpoints"][0]["conditions"]["ready"], true);
    let endpoints = cluster.get(ENDPOINTS).await.ok();
    assert_eq!(endpoints["metadata"]["labels"], json!({ "endpointslice.kubernetes.io/skip-mirror": "true" }));

    sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.get(ENDPOINTS).await.ok(), endpoints, "what is so already is not written");
    cluster.delete(ENDPOINTS).await.ok();
    cluster.delete("/api/v1/namespaces/default/services/kubernetes").await.ok();
    sleep(Duration::from_secs(11)).await;
    assert_eq!(told(&cluster).await, ["127.0.0.1:6443"]);
    cluster.get("/api/v1/namespaces/default/services/kubernetes").await.ok();
}

#[tokio::test(start_paused = true)]
async fn servers_of_one_store_are_told_of_until_they_end() {
    let store = Arc::new(MemoryStore::new());
    let [one, two, three] = ["127.0.0.1:6443", "127.0.0.2:6443", "127.0.0.1:7443"];
    let (first, second, third) = (server(&store, 1, one), server(&store, 2, two), server(&store, 3, three));
    sleep(Duration::from_secs(11)).await;
    assert_eq!(told(&first).await, [one, three, two]);
    let settled = first.get(SLICES).await.ok()["items"].clone();
    sleep(Duration::from_secs(300)).await;
    assert_eq!(first.get(SLICES).await.ok()["items"], settled, "they don't contend");

    third.server.drain();
    sleep(Duration::from_secs(1)).await;
    assert_eq!(told(&first).await, [one, two], "one that drains goes at once");
    // As if it were killed.
    drop(second);
    sleep(Duration::from_secs(5)).await;
    assert_eq!(told(&first).await, [one, two], "one that is silent for a moment stays");
    sleep(Duration::from_secs(30)).await;
    assert_eq!(told(&first).await, [one]);
}

#[tokio::test(start_paused = true)]
async fn a_server_without_a_place_to_tell_tells_none() {
    for address in ["0.0.0.0:6443", "[::1]:6443"] {
        let cluster = server(&Arc::new(MemoryStore::new()), 1, address);
        sleep(Duration::from_secs(30)).await;
        cluster.get(ENDPOINTS).await.failed(404, "NotFound");
    }
}
