//! What the controllers make good: SEMANTICS 41 to 50.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::{ConfigMap, Namespace, Node, Pod, ServiceAccount},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PropagationPolicy},
};
use orchestra_core::controllers::{self, Parts, replica_set};
use serde_json::json;
use tokio::task::JoinHandle;

use super::{network::Network, world};

fn run_all(client: &Client) -> JoinHandle<std::convert::Infallible> {
    tokio::spawn(controllers::run(Parts { root_ca: Some("PEM".into()), ..world::parts(client) }))
}

/// SEMANTICS 41: whoever acts before it sees what it did does it twice.
#[tokio::test(start_paused = true)]
async fn a_cache_that_lags_makes_no_pod_twice() {
    let (client, network) = (world::empty(), Network::lagging(Duration::from_secs(3)));
    let parts = world::parts(&network.client(&client));
    let _running = tokio::spawn(replica_set::runner(&parts).run());
    world::create(&client, world::replica_set(7)).await;
    // The set itself changes again and again in the meantime, so that there is always a reason to look.
    for round in 0..40 {
        let patch = json!({ "metadata": { "annotations": { "round": round.to_string() } } });
        let sets = Api::<ReplicaSet>::default_namespaced(client.clone());
        sets.patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.expect("patched");
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    world::until_pods(&client, "seven pods", |pods| pods.len() == 7).await;
    assert_eq!(network.pods_created(), 7);
}

/// SEMANTICS 48.
#[tokio::test(start_paused = true)]
async fn a_pod_is_adopted_by_its_labels_and_let_go_by_them() {
    let client = world::empty();
    world::create(&client, world::pod("mine", &json!({ "app": "web" }), None, true)).await;
    let _running = run_all(&client);
    world::create(&client, world::replica_set(2)).await;
    let owned = |pod: &Pod| !pod.owner_references().is_empty();
    world::until_pods(&client, "two owned pods", |pods| pods.len() == 2 && pods.iter().all(owned)).await;
    let patch = json!({ "metadata": { "labels": { "app": "debug" } } });
    let api = Api::<Pod>::default_namespaced(client.clone());
    api.patch("mine", &PatchParams::default(), &Patch::Merge(patch)).await.expect("patched");
    world::until_pods(&client, "a replacement", |pods| {
        pods.len() == 3 && pods.iter().all(|pod| owned(pod) != (pod.name_any() == "mine"))
    })
    .await;
}

/// SEMANTICS 43 and 49: a node that falls silent is given up, its pods leave when their toleration is over.
#[tokio::test(start_paused = true)]
async fn a_node_that_falls_silent_loses_its_pods_and_its_endpoints() {
    let client = world::empty();
    let _running = run_all(&client);
    world::create(&client, world::node("n1", "True")).await;
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "default" },
        "spec": { "selector": { "app": "web" }, "ports": [{ "port": 80 }] } });
    world::create(&client, service).await;
    world::create(&client, world::pod("p", &json!({ "app": "web" }), Some("n1"), true)).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let node = Api::<Node>::all(client.clone()).get("n1").await.expect("there");
    let taints = node.spec.and_then(|spec| spec.taints).unwrap_or_default();
    let effects: BTreeSet<_> = taints.iter().map(|taint| taint.effect.as_str()).collect();
    assert_eq!(effects, BTreeSet::from(["NoExecute", "NoSchedule"]));
    let slices = Api::<EndpointSlice>::default_namespaced(client.clone());
    let slices = slices.list(&ListParams::default().labels("kubernetes.io/service-name=web")).await.expect("listed");
    let ready = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten());
    let ready: Vec<_> = ready.map(|at| at.conditions.as_ref().and_then(|conditions| conditions.ready)).collect();
    assert_eq!(ready, [Some(false)]);
    assert!(world::pods(&client).await.iter().all(|pod| pod.metadata.deletion_timestamp.is_none()));
    tokio::time::sleep(Duration::from_secs(310)).await;
    assert!(world::pods(&client).await.iter().all(|pod| pod.metadata.deletion_timestamp.is_some()), "not evicted");
}

/// SEMANTICS 43: controllers that hear nothing give no node up.
#[tokio::test(start_paused = true)]
async fn a_node_that_renews_unheard_is_not_given_up() {
    let client = world::empty();
    world::create(&client, world::node("n1", "True")).await;
    let lease = json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "n1", "namespace": "kube-node-lease" },
        "spec": { "holderIdentity": "n1", "renewTime": "2030-01-01T00:00:00.000000Z" } });
    world::create(&client, lease).await;
    // Watches tell everything an hour late.
    let network = Network::lagging(Duration::from_secs(3_600));
    let _running = run_all(&network.client(&client));
    let leases = Api::<k8s_openapi::api::coordination::v1::Lease>::namespaced(client.clone(), "kube-node-lease");
    for minute in 0..10 {
        let patch = json!({ "spec": { "renewTime": format!("2030-01-01T00:{minute:02}:30.000000Z") } });
        leases.patch("n1", &PatchParams::default(), &Patch::Merge(patch)).await.expect("renewed");
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    let node = Api::<Node>::all(client.clone()).get("n1").await.expect("there");
    let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
    assert!(conditions.iter().all(|condition| condition.status == "True"), "{conditions:?}");
    assert_eq!(node.spec.and_then(|spec| spec.taints), None);
}

/// SEMANTICS 30 and 71.
#[tokio::test(start_paused = true)]
async fn a_namespace_is_emptied_and_goes() {
    let client = world::empty();
    let _running = run_all(&client);
    world::create(&client, json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "team" } })).await;
    let mut set = world::replica_set(3);
    set["metadata"]["namespace"] = "team".into();
    world::create(&client, set).await;
    world::until_pods(&client, "three pods", |pods| pods.len() == 3).await;
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "team");
    assert_eq!(maps.get("kube-root-ca.crt").await.expect("published").data.expect("data")["ca.crt"], "PEM");
    let namespaces = Api::<Namespace>::all(client.clone());
    namespaces.delete("team", &DeleteParams::default()).await.expect("deleted");
    world::until_pods(&client, "no pods", <[Pod]>::is_empty).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(namespaces.get_opt("team").await.expect("readable").is_none(), "still there");
}

/// SEMANTICS 71.
#[tokio::test(start_paused = true)]
async fn the_place_of_the_leases_comes_back_with_all_that_a_namespace_has() {
    let client = world::empty();
    let _running = run_all(&client);
    let lease = json!({ "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "n1", "namespace": "kube-node-lease" }, "spec": { "holderIdentity": "n1" } });
    world::create(&client, lease.clone()).await;
    let namespaces = Api::<Namespace>::all(client.clone());
    let first = namespaces.get("kube-node-lease").await.expect("made at the start");
    namespaces.delete("kube-node-lease", &DeleteParams::default()).await.expect("deleted");
    tokio::time::sleep(Duration::from_secs(10)).await;
    let back = namespaces.get("kube-node-lease").await.expect("made again");
    assert_ne!(back.uid(), first.uid());
    assert_eq!(back.metadata.deletion_timestamp, None);
    let accounts = Api::<ServiceAccount>::namespaced(client.clone(), "kube-node-lease");
    accounts.get("default").await.expect("made for it");
    let maps = Api::<ConfigMap>::namespaced(client.clone(), "kube-node-lease");
    maps.get("kube-root-ca.crt").await.expect("published");
    world::create(&client, lease).await;
}

/// SEMANTICS 48: the three ways to delete an owner.
#[tokio::test(start_paused = true)]
async fn dependents_go_with_their_owner_as_its_deletion_says() {
    for (policy, pods_stay) in [
        (PropagationPolicy::Background, false),
        (PropagationPolicy::Foreground, false),
        (PropagationPolicy::Orphan, true),
    ] {
        let client = world::empty();
        let running = run_all(&client);
        world::create(&client, world::deployment(2, "a")).await;
        world::until_pods(&client, "two pods", |pods| pods.len() == 2).await;
        let deployments = Api::<Deployment>::default_namespaced(client.clone());
        let params = DeleteParams { propagation_policy: Some(policy.clone()), ..Default::default() };
        deployments.delete("web", &params).await.expect("deleted");
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert!(deployments.get_opt("web").await.expect("readable").is_none(), "{policy:?}: the owner is still there");
        let sets = Api::<ReplicaSet>::default_namespaced(client.clone()).list(&ListParams::default()).await;
        let owners: Vec<_> = sets.expect("listed").iter().map(|set| set.owner_references().len()).collect();
        assert_eq!(owners, if pods_stay { vec![0] } else { vec![] }, "{policy:?}");
        assert_eq!(world::pods(&client).await.len(), if pods_stay { 2 } else { 0 }, "{policy:?}");
        running.abort();
    }
}

/// SEMANTICS 48: an owner of the cluster owns across namespaces.
#[tokio::test(start_paused = true)]
async fn what_a_node_owned_goes_with_it() {
    let client = world::empty();
    let _running = run_all(&client);
    let node = world::create(&client, world::node("n1", "True")).await;
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": "of-node", "namespace": "default",
        "ownerReferences": [world::controller_ref(&node)] } });
    world::create(&client, map).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let maps = Api::<ConfigMap>::default_namespaced(client.clone());
    assert!(maps.get_opt("of-node").await.expect("readable").is_some());
    Api::<Node>::all(client.clone()).delete("n1", &DeleteParams::default()).await.expect("deleted");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(maps.get_opt("of-node").await.expect("readable").is_none(), "still there");
}

/// SEMANTICS 45: a status that shrinks is written as well as one that grows.
#[tokio::test(start_paused = true)]
async fn a_deployment_scaled_to_nothing_says_so() {
    let client = world::empty();
    let _running = run_all(&client);
    world::create(&client, world::deployment(2, "a")).await;
    world::until_pods(&client, "two pods", |pods| pods.len() == 2).await;
    let deployments = Api::<Deployment>::default_namespaced(client.clone());
    let patch = json!({ "spec": { "replicas": 0 } });
    deployments.patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.expect("scaled");
    tokio::time::sleep(Duration::from_secs(5)).await;
    let status = deployments.get("web").await.expect("there").status.expect("a status");
    assert_eq!((status.replicas.unwrap_or(0), status.observed_generation), (0, Some(2)));
}

/// SEMANTICS 42: a name taken by somebody else is not taken over; another is drawn.
#[tokio::test(start_paused = true)]
async fn a_replica_set_of_another_by_the_same_name_is_left_alone() {
    let client = world::empty();
    let running = run_all(&client);
    world::create(&client, world::deployment(1, "a")).await;
    world::until_pods(&client, "a pod", |pods| pods.len() == 1).await;
    running.abort();
    let (sets, deployments) =
        (Api::<ReplicaSet>::default_namespaced(client.clone()), Api::<Deployment>::default_namespaced(client.clone()));
    let taken = sets.list(&ListParams::default()).await.expect("listed").items[0].name_any();
    deployments.delete("web", &DeleteParams::default()).await.expect("deleted");
    sets.delete(&taken, &DeleteParams::default()).await.expect("deleted");
    let mut other = world::replica_set(0);
    other["metadata"]["name"] = taken.as_str().into();
    other["spec"]["selector"]["matchLabels"] = json!({ "app": "other" });
    other["spec"]["template"]["metadata"]["labels"] = json!({ "app": "other" });
    world::create(&client, other).await;
    world::create(&client, world::deployment(1, "a")).await;
    let _running = run_all(&client);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let deployment = deployments.get("web").await.expect("there");
    assert_eq!(deployment.status.and_then(|status| status.collision_count), Some(1));
    let names: Vec<_> =
        sets.list(&ListParams::default()).await.expect("listed").iter().map(|set| set.name_any()).collect();
    assert!(names.len() == 2 && names.contains(&taken), "{names:?}");
}
