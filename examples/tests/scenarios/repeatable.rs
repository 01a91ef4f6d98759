//! Time, chance and identity are passed in: the same seed gives the same run, and clusters in one process are apart.

use std::time::Duration;

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::ResourceExt as _;
use serde_json::json;

use super::simulated::{Simulated, node_of, web};

/// Runs a day on a runtime of its own: one that has run before takes its tasks in another order.
fn a_day_apart(seed: u64) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(a_day(seed))
}

/// A day in the life of a cluster, as all that was written.
async fn a_day(seed: u64) -> Vec<String> {
    let mut cluster = Simulated::start(seed, 3).await;
    cluster.create::<Deployment>(web(5)).await;
    cluster.rolled_out().await;
    let victim = cluster.pods().await.remove(2);
    cluster.crash(&victim, "web", 0);
    cluster.patch_web(json!({ "spec": { "template": { "metadata": { "labels": { "rev": "2" } } } } })).await;
    cluster.rolled_out().await;
    cluster.kill_kubelet(2);
    tokio::time::sleep(Duration::from_secs(600)).await;
    cluster.start_kubelet(2);
    cluster.patch_web(json!({ "spec": { "replicas": 8 } })).await;
    cluster.rolled_out().await;
    cluster.trace().await
}

/// SEMANTICS 60: same seed, same trace, to the last byte.
#[test]
fn the_same_seed_gives_the_same_trace() {
    let (first, second) = (a_day_apart(60), a_day_apart(60));
    assert!(first.len() > 200, "a day leaves a trace: {} lines", first.len());
    if let Some(at) = (0..first.len().max(second.len())).find(|&at| first.get(at) != second.get(at)) {
        panic!("line {at} differs:\n{:?}\n{:?}", first.get(at), second.get(at));
    }
    assert!(first != a_day_apart(61), "another seed gives another run");
}

/// Two clusters of one process, with the same seed and the same names, do not see each other.
#[tokio::test(start_paused = true)]
async fn two_clusters_in_one_process_do_not_see_each_other() {
    let (mut left, right) = (Simulated::start(9, 2).await, Simulated::start(9, 2).await);
    left.create::<Deployment>(web(4)).await;
    right.create::<Deployment>(web(2)).await;
    left.rolled_out().await;
    right.rolled_out().await;
    assert_eq!((left.pods().await.len(), right.pods().await.len()), (4, 2));

    let before: Vec<_> = right.pods().await.iter().map(|pod| (pod.uid(), pod.resource_version())).collect();
    left.kill_kubelet(1);
    let elsewhere = |pods: &Vec<Pod>| pods.len() == 4 && pods.iter().all(|pod| node_of(pod) == "node-2");
    left.eventually("the pods of the left cluster are elsewhere", async || left.pods().await, elsewhere).await;
    let after: Vec<_> = right.pods().await.iter().map(|pod| (pod.uid(), pod.resource_version())).collect();
    assert_eq!(before, after);
}
