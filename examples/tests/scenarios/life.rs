//! What a cluster is for: it deploys, heals, rolls, drains and routes. In memory, under paused time.

use std::{collections::BTreeMap, net::IpAddr, time::Duration};

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, Pod, Service},
    policy::v1::PodDisruptionBudget,
};
use kube::{
    Api, ResourceExt as _,
    api::{EvictParams, ListParams},
};
use orchestra_core::{
    proxy::{Frontend, Protocol},
    runtime::ContainerStatus,
};
use serde_json::{Value, json};

use super::simulated::{Simulated, is_ready, node_of, restarts, web};

const NODES: u8 = 3;

fn by_node(pods: &[Pod]) -> BTreeMap<&str, usize> {
    let mut count = BTreeMap::new();
    for pod in pods {
        *count.entry(node_of(pod)).or_insert(0) += 1;
    }
    count
}

/// The addresses of pods, in order.
fn addresses(pods: &[Pod]) -> Vec<String> {
    let mut addresses: Vec<_> = pods.iter().filter_map(|pod| pod.status.as_ref()?.pod_ip.clone()).collect();
    addresses.sort();
    addresses
}

/// Makes the service `web`, and says where it is.
async fn frontend(cluster: &Simulated) -> Frontend {
    let service = json!({ "metadata": { "name": "web" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80, "targetPort": "http" }] } });
    let service: Service = cluster.create(service).await;
    let address: IpAddr = service.spec.and_then(|spec| spec.cluster_ip?.parse().ok()).expect("a cluster address");
    Frontend { address: (address, 80).into(), protocol: Protocol::Tcp }
}

/// Where so many connections to a service go, in order.
fn routes(cluster: &Simulated, frontend: Frontend, connections: u32) -> Vec<String> {
    let client = IpAddr::from([10, 0, 1, 99]);
    let backends = (0..connections).filter_map(|_| cluster.proxy.route(frontend, client));
    let mut addresses: Vec<_> = backends.map(|backend| backend.ip().to_string()).collect();
    addresses.sort();
    addresses
}

/// SEMANTICS 46, 49: what is wanted runs, spread over all nodes, each pod with an address of its own.
#[tokio::test(start_paused = true)]
async fn a_deployment_comes_up_on_all_nodes() {
    let cluster = Simulated::start(1, NODES).await;
    cluster.create::<Deployment>(web(6)).await;
    cluster.rolled_out().await;
    let pods = cluster.pods().await;
    assert!(pods.iter().all(is_ready));
    assert_eq!(by_node(&pods).values().collect::<Vec<_>>(), [&2; 3]);
    let mut addresses = addresses(&pods);
    addresses.dedup();
    assert_eq!(addresses.len(), 6);
}

/// SEMANTICS 46: a pod that is deleted is replaced; one whose program ends is restarted in its place.
#[tokio::test(start_paused = true)]
async fn a_deployment_heals_after_the_loss_of_pods() {
    let cluster = Simulated::start(2, NODES).await;
    cluster.create::<Deployment>(web(3)).await;
    cluster.rolled_out().await;

    let victim = cluster.pods().await.remove(0);
    cluster.delete_pod(&victim).await;
    cluster.rolled_out().await;
    assert!(cluster.pods().await.iter().all(|pod| pod.uid() != victim.uid()));

    let crashed = cluster.pods().await.remove(0);
    cluster.crash(&crashed, "web", 0);
    let same = async || cluster.api::<Pod>().get(&crashed.name_any()).await.expect("it is still there");
    let restarted = |pod: &Pod| restarts(pod) == 1 && is_ready(pod);
    cluster.eventually("the container is restarted", same, restarted).await;
}

/// SEMANTICS 46, 55: a node that is gone loses its pods to others; when it returns, it has forgotten them.
#[tokio::test(start_paused = true)]
async fn a_deployment_heals_after_the_loss_of_a_node() {
    let mut cluster = Simulated::start(3, NODES).await;
    cluster.create::<Deployment>(web(6)).await;
    cluster.rolled_out().await;
    cluster.kill_kubelet(2);
    let elsewhere = |pods: &Vec<Pod>| pods.len() == 6 && pods.iter().all(|pod| node_of(pod) != "node-2");
    cluster.eventually("all pods are elsewhere", async || cluster.pods().await, elsewhere).await;
    cluster.rolled_out().await;

    cluster.start_kubelet(2);
    let all = async || cluster.api::<Pod>().list(&ListParams::default()).await.expect("listed").items;
    cluster.eventually("the old pods are gone", all, |pods| pods.len() == 6).await;
    cluster.patch_web(json!({ "spec": { "replicas": 9 } })).await;
    cluster.rolled_out().await;
    assert!(by_node(&cluster.pods().await).contains_key("node-2"), "the node is used again");
}

/// SEMANTICS 51: another kubelet takes on what runs; nothing is started again.
#[tokio::test(start_paused = true)]
async fn a_kubelet_that_was_killed_finds_its_pods_running() {
    let mut cluster = Simulated::start(4, 1).await;
    cluster.create::<Deployment>(web(3)).await;
    cluster.rolled_out().await;
    let before = cluster.pods().await;
    cluster.kill_kubelet(1);
    tokio::time::sleep(Duration::from_secs(20)).await;
    cluster.start_kubelet(1);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let after = cluster.pods().await;
    let started = |pod: &Pod| json!(pod.status.as_ref().map(|status| &status.container_statuses));
    assert_eq!(before.iter().map(started).collect::<Vec<_>>(), after.iter().map(started).collect::<Vec<_>>());
}

/// SEMANTICS 46: whatever of the control plane is lost under way, the rollout is completed by its successor.
#[tokio::test(start_paused = true)]
async fn a_rollout_survives_the_control_plane() {
    for moment in 0..8 {
        let mut cluster = Simulated::start(5, NODES).await;
        cluster.create::<Deployment>(web(4)).await;
        cluster.rolled_out().await;
        cluster.patch_web(json!({ "spec": { "template": { "metadata": { "labels": { "rev": "2" } } } } })).await;
        tokio::time::sleep(Duration::from_millis(moment * 700)).await;
        cluster.restart_control_plane();
        cluster.rolled_out().await;
        let pods = cluster.pods().await;
        assert!(pods.len() == 4 && pods.iter().all(|pod| pod.labels().get("rev").is_some_and(|rev| rev == "2")));
    }
}

/// What a roll may do at most, whatever is under way.
struct Bounds {
    replicas: usize,
    surge: usize,
    unavailable: usize,
}

/// Reads the pods of every revision off the trace, and holds them to the bounds from `from` on.
async fn hold(cluster: &Simulated, from: usize, bounds: &Bounds) {
    let mut pods: BTreeMap<String, Value> = BTreeMap::new();
    for (at, line) in cluster.trace().await.into_iter().enumerate() {
        let mut parts = line.splitn(3, ' ');
        let (Some(revision), Some(key), Some(value)) = (parts.next(), parts.next(), parts.next()) else {
            panic!("a line of the trace has three parts: {line}");
        };
        if !key.starts_with("/core/pods/") {
            continue;
        }
        match serde_json::from_str(value) {
            Ok(pod) => drop(pods.insert(key.into(), pod)),
            Err(_) => drop(pods.remove(key)),
        }
        if at < from {
            continue;
        }
        let live: Vec<_> = pods.values().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).collect();
        let ready = live.iter().filter(|pod| {
            let pod: Pod = serde_json::from_value(Value::clone(pod)).expect("a pod");
            is_ready(&pod)
        });
        assert!(live.len() <= bounds.replicas + bounds.surge, "too many pods at {revision}");
        assert!(ready.count() >= bounds.replicas - bounds.unavailable, "too few ready pods at {revision}");
    }
}

/// SEMANTICS 50: at no revision are there more pods than the surge allows, or fewer available than may be missing.
#[tokio::test(start_paused = true)]
async fn a_roll_never_leaves_its_bounds() {
    let cases = [(4, 1, 0), (4, 0, 1), (5, 2, 2), (3, 3, 0), (1, 1, 0)];
    for (seed, (replicas, surge, unavailable)) in (1..).zip(cases) {
        let cluster = Simulated::start(seed, NODES).await;
        let mut deployment = web(replicas);
        deployment["spec"]["strategy"] =
            json!({ "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } });
        cluster.create::<Deployment>(deployment).await;
        cluster.rolled_out().await;
        let from = cluster.trace().await.len();
        for revision in ["2", "3"] {
            let template = json!({ "metadata": { "labels": { "rev": revision } } });
            cluster.patch_web(json!({ "spec": { "template": template } })).await;
            cluster.rolled_out().await;
        }
        hold(&cluster, from, &Bounds { replicas: replicas as usize, surge, unavailable }).await;
        let sets = cluster.api::<ReplicaSet>().list(&ListParams::default()).await.expect("listed");
        assert_eq!(sets.items.len(), 3, "two old sets are kept to roll back to");
    }
}

/// SEMANTICS 50, 72: a drain waits for the budget, and ends with an empty node and every pod elsewhere.
#[tokio::test(start_paused = true)]
async fn a_drain_respects_the_disruption_budget() {
    let cluster = Simulated::start(6, NODES).await;
    cluster.create::<Deployment>(web(6)).await;
    let budget = json!({ "metadata": { "name": "web" },
        "spec": { "minAvailable": 5, "selector": { "matchLabels": { "app": "web" } } } });
    cluster.create::<PodDisruptionBudget>(budget).await;
    cluster.rolled_out().await;
    let from = cluster.trace().await.len();
    cluster.cordon("node-1").await;
    let pods: Api<Pod> = cluster.api();
    let mut refused = 0;
    loop {
        let here: Vec<_> = cluster.pods().await.into_iter().filter(|pod| node_of(pod) == "node-1").collect();
        if here.is_empty() {
            break;
        }
        for pod in here {
            match pods.evict(&pod.name_any(), &EvictParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 429 => refused += 1,
                Err(error) => panic!("an eviction is granted, or refused for now: {error}"),
            }
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.rolled_out().await;
    assert!(refused > 0, "two pods of one node can't go at once");
    hold(&cluster, from, &Bounds { replicas: 6, surge: 1, unavailable: 1 }).await;
}

/// SEMANTICS 55: pods of a node that was silent for a while are in their services again, and were never touched.
#[tokio::test(start_paused = true)]
async fn a_node_that_lost_the_api_keeps_its_pods_and_says_so_on_return() {
    let cluster = Simulated::start(9, 2).await;
    cluster.create::<Deployment>(web(4)).await;
    let frontend = frontend(&cluster).await;
    cluster.rolled_out().await;
    let before = cluster.pods().await;
    let routed = async || routes(&cluster, frontend, 4);
    cluster.eventually("the service has four pods", routed, |routed| *routed == addresses(&before)).await;

    cluster.cut(2, true);
    let here = |pod: &&Pod| node_of(pod) == "node-1";
    let unready = |pods: &Vec<Pod>| pods.iter().all(|pod| is_ready(pod) == here(&pod));
    cluster.eventually("pods of the silent node are not ready", async || cluster.pods().await, unready).await;
    let left: Vec<_> = before.iter().filter(here).cloned().collect();
    let halved = |routed: &Vec<String>| routed.iter().all(|address| addresses(&left).contains(address));
    cluster.eventually("the service leaves them out", routed, halved).await;

    cluster.cut(2, false);
    let all_ready = |pods: &Vec<Pod>| pods.iter().all(is_ready);
    cluster.eventually("all are ready again", async || cluster.pods().await, all_ready).await;
    cluster.eventually("the service has all of them", routed, |routed| *routed == addresses(&before)).await;
    let containers = |pod: &Pod| json!(pod.status.as_ref().map(|status| &status.container_statuses));
    let after = cluster.pods().await;
    assert_eq!(after.iter().map(containers).collect::<Vec<_>>(), before.iter().map(containers).collect::<Vec<_>>());
    tokio::time::sleep(Duration::from_secs(20)).await;
    let from = cluster.trace().await.len();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let written = cluster.trace().await.split_off(from);
    assert!(!written.iter().any(|line| line.contains(" /core/pods/")), "said once: {written:#?}");
}

/// SEMANTICS 55: what crashes while its node is cut off is started again there, and the API hears of it afterwards.
#[tokio::test(start_paused = true)]
async fn a_container_that_crashes_while_the_api_is_away_is_restarted() {
    let cluster = Simulated::start(10, 1).await;
    let settings = json!({ "metadata": { "name": "settings" }, "data": { "COLOR": "red" } });
    cluster.create::<ConfigMap>(settings).await;
    let mut deployment = web(1);
    deployment["spec"]["template"]["spec"]["containers"][0]["envFrom"] =
        json!([{ "configMapRef": { "name": "settings" } }]);
    cluster.create::<Deployment>(deployment).await;
    cluster.rolled_out().await;
    let pod = cluster.pods().await.remove(0);

    cluster.cut(1, true);
    let attempts = async || cluster.attempts(1, &pod).await;
    for attempt in 0..2 {
        cluster.crash(&pod, "web", attempt);
        let next = |attempts: &Vec<ContainerStatus>| {
            attempts.iter().any(|status| status.id.attempt == attempt + 1 && status.state.is_running())
        };
        cluster.eventually("the next attempt runs", attempts, next).await;
    }
    let shown = cluster.api::<Pod>().get(&pod.name_any()).await.expect("it is still there");
    assert_eq!(restarts(&shown), 0, "nobody could be told");

    cluster.cut(1, false);
    let same = async || cluster.api::<Pod>().get(&pod.name_any()).await.expect("it is still there");
    cluster.eventually("the API shows it", same, |pod: &Pod| restarts(pod) == 2 && is_ready(pod)).await;
}

/// SEMANTICS 57: a service goes to the pods that are ready, to all of them, and to no other.
#[tokio::test(start_paused = true)]
async fn a_service_follows_its_pods() {
    let cluster = Simulated::start(7, NODES).await;
    cluster.create::<Deployment>(web(3)).await;
    let frontend = frontend(&cluster).await;
    for replicas in [3, 5, 1, 0, 2] {
        cluster.patch_web(json!({ "spec": { "replicas": replicas } })).await;
        cluster.rolled_out().await;
        let expected = addresses(&cluster.pods().await);
        let routed = async || routes(&cluster, frontend, replicas);
        cluster.eventually("the proxy goes to each pod once a round", routed, |routed| *routed == expected).await;
    }
    cluster.patch_web(json!({ "spec": { "replicas": 0 } })).await;
    let refused = async || routes(&cluster, frontend, 1);
    cluster.eventually("a service without pods refuses", refused, Vec::is_empty).await;
}

/// SEMANTICS 45: a cluster in which all is as it should be writes nothing but signs of life of its nodes.
#[tokio::test(start_paused = true)]
async fn a_cluster_at_rest_writes_only_leases() {
    let cluster = Simulated::start(8, NODES).await;
    cluster.create::<Deployment>(web(6)).await;
    cluster.rolled_out().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let from = cluster.trace().await.len();
    tokio::time::sleep(Duration::from_secs(290)).await;
    let written = cluster.trace().await.split_off(from);
    let (leases, others): (Vec<_>, Vec<_>) =
        written.iter().partition(|line| line.contains(" /coordination.k8s.io/leases/kube-node-lease/"));
    let (heartbeats, others): (Vec<_>, Vec<_>) = others.into_iter().partition(|line| line.contains(" /core/nodes/"));
    assert!(leases.len() >= 29 && heartbeats.len() <= usize::from(NODES), "a status every five minutes is enough");
    assert!(others.is_empty(), "{others:#?}");
}
