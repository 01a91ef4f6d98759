//! The laws of a controller, for each of ours: SEMANTICS 42 and 45.
//!
//! Each is given a world with work in it, is killed at each of its writes, and has to bring about one and the same state.

use std::time::Duration;

use async_trait::async_trait;
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject},
    core::{ApiResource, GroupVersionKind},
};
use orchestra_core::{
    controller::{Controller, ObjectKey, conformance::Fixture},
    controllers::{
        self, Parts, deployment, disruption, endpoint_slice, garbage, namespace, node_lifecycle, pod_garbage,
        replica_set, root_ca, service_account,
    },
    manifest,
};
use serde_json::{Value, json};

use super::world;

/// Every kind that one of the controllers writes.
const KINDS: [(&str, &str); 10] = [
    ("v1", "Pod"),
    ("v1", "Node"),
    ("v1", "Namespace"),
    ("v1", "ConfigMap"),
    ("v1", "ServiceAccount"),
    ("v1", "Endpoints"),
    ("apps/v1", "ReplicaSet"),
    ("apps/v1", "Deployment"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("policy/v1", "PodDisruptionBudget"),
];

/// Makes the module of one controller: its world, the controller, its key, and how long after a first look it acts.
macro_rules! conforms {
    ($name:ident, $controller:expr, $key:expr, $after:expr, |$client:ident| $world:block) => {
        mod $name {
            use super::*;

            struct Case;

            #[async_trait]
            impl Fixture for Case {
                async fn world(&self) -> Client {
                    let $client = world::empty();
                    $world;
                    $client
                }

                async fn controller(&self, client: Client) -> Box<dyn Controller> {
                    let parts = Parts { root_ca: Some("PEM".into()), ..world::parts(&client) };
                    let controller = $controller(&parts);
                    let after: Duration = $after;
                    if !after.is_zero() {
                        let _ = controller.reconcile(&self.key()).await;
                        tokio::time::sleep(after).await;
                    }
                    Box::new(controller)
                }

                fn key(&self) -> ObjectKey {
                    $key
                }

                async fn outcome(&self, client: &Client) -> Value {
                    world::everything(client, &KINDS).await
                }
            }

            orchestra_core::controller_conformance!(Case);

            #[tokio::test(start_paused = true)]
            async fn it_has_something_to_do() {
                let client = Case.world().await;
                let before = Case.outcome(&client).await;
                let controller = Case.controller(client.clone()).await;
                let _ = controller.reconcile(&Case.key()).await.expect("nothing fails");
                assert_ne!(Case.outcome(&client).await, before);
            }
        }
    };
}

fn at_once() -> Duration {
    Duration::ZERO
}

fn web() -> ObjectKey {
    ObjectKey::new("default", "web")
}

async fn delete(client: &Client, api_version: &str, kind: &str, name: &str) {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let api: Api<DynamicObject> = match kind {
        "Namespace" => Api::all_with(client.clone(), &resource),
        _ => Api::namespaced_with(client.clone(), "default", &resource),
    };
    api.delete(name, &DeleteParams::background()).await.expect("deleted");
}

// Four are wanted: one runs already and is nobody's, one is the set's and matches no longer.
conforms!(replica_sets, replica_set::controller, web(), at_once(), |client| {
    let set = world::create(&client, world::replica_set(4)).await;
    world::create(&client, world::pod("stray", &json!({ "app": "web" }), None, true)).await;
    let mut lost = world::pod("lost", &json!({ "app": "db" }), None, true);
    lost["metadata"]["ownerReferences"] = json!([world::controller_ref(&set)]);
    world::create(&client, lost).await;
});

// Two of five have to go.
conforms!(shrinking_replica_sets, replica_set::controller, web(), at_once(), |client| {
    let set = world::create(&client, world::replica_set(3)).await;
    for n in 0..5 {
        let mut pod = world::pod(&format!("p{n}"), &json!({ "app": "web" }), None, n % 2 == 0);
        pod["metadata"]["ownerReferences"] = json!([world::controller_ref(&set)]);
        world::create(&client, pod).await;
    }
});

// A set of the template before, all of whose pods are available.
conforms!(deployments, deployment::controller, web(), at_once(), |client| {
    let deployment = world::create(&client, world::deployment(4, "b")).await;
    let mut old = world::replica_set(4);
    old["metadata"] = json!({ "name": "web-old", "namespace": "default", "labels": { "app": "web" },
        "annotations": { "deployment.kubernetes.io/revision": "1" },
        "ownerReferences": [world::controller_ref(&deployment)] });
    old["status"] = json!({ "replicas": 4, "readyReplicas": 4, "availableReplicas": 4, "observedGeneration": 1 });
    world::create(&client, old).await;
});

// Two of three pods are ready, and one of them has to stay.
conforms!(budgets, disruption::controller, web(), at_once(), |client| {
    let budget = json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "name": "web", "namespace": "default" },
        "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "web" } } } });
    world::create(&client, budget).await;
    for n in 0..3 {
        world::create(&client, world::pod(&format!("p{n}"), &json!({ "app": "web" }), Some("n1"), n > 0)).await;
    }
});

conforms!(endpoint_slices, endpoint_slice::controller, web(), at_once(), |client| {
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "default" },
        "spec": { "clusterIP": "None", "selector": { "app": "web" }, "ports": [{ "port": 80 }] } });
    world::create(&client, service).await;
    for n in 0..3 {
        world::create(&client, world::pod(&format!("p{n}"), &json!({ "app": "web" }), Some("n1"), n > 0)).await;
    }
});

// A service that selects nothing, whose endpoints a user keeps.
conforms!(mirrored_endpoints, endpoint_slice::controller, web(), at_once(), |client| {
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "web", "namespace": "default" },
        "spec": { "clusterIP": "None", "ports": [{ "port": 80 }] } });
    let endpoints = json!({ "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": "web", "namespace": "default" },
        "subsets": [{ "addresses": [{ "ip": "10.0.0.7" }], "ports": [{ "port": 80 }] }] });
    world::create(&client, service).await;
    world::create(&client, endpoints).await;
});

// A node that is silent, with a pod that tolerates nothing.
conforms!(nodes, node_lifecycle::controller, ObjectKey::new("", "n1"), node_lifecycle::GRACE, |client| {
    world::create(&client, world::node("n1", "True")).await;
    let mut pod = world::pod("p", &json!({}), Some("n1"), true);
    pod["spec"]["tolerations"] = json!([{ "key": "node.kubernetes.io/unreachable", "operator": "Exists",
            "effect": "NoExecute", "tolerationSeconds": 0 }]);
    world::create(&client, pod).await;
});

// A pod of a node that is no longer there.
conforms!(lost_pods, pod_garbage::controller, ObjectKey::default(), pod_garbage::QUARANTINE, |client| {
    world::create(&client, world::node("n1", "True")).await;
    world::create(&client, world::pod("kept", &json!({}), Some("n1"), true)).await;
    world::create(&client, world::pod("lost", &json!({}), Some("n2"), true)).await;
});

// Of two owners, one is gone; another object has lost its only one.
conforms!(collector, garbage::controller, garbage::key(), at_once(), |client| {
    let map = |name: &str, owners: Vec<Value>| {
        json!({ "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": { "name": name, "namespace": "default", "ownerReferences": owners } })
    };
    let gone = world::create(&client, map("gone", vec![])).await;
    let kept = world::create(&client, map("kept", vec![])).await;
    let reference = |owner: &DynamicObject| {
        let mut reference = world::controller_ref(owner);
        reference["controller"] = false.into();
        reference
    };
    world::create(&client, map("of-both", vec![reference(&gone), reference(&kept)])).await;
    world::create(&client, map("of-gone", vec![reference(&gone)])).await;
    delete(&client, "v1", "ConfigMap", "gone").await;
});

conforms!(namespaces, namespace::controller, ObjectKey::new("", "team"), at_once(), |client| {
    world::create(&client, json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "team" } })).await;
    for kind in ["ConfigMap", "ServiceAccount"] {
        let object = json!({ "apiVersion": "v1", "kind": kind, "metadata": { "name": "a", "namespace": "team" } });
        world::create(&client, object).await;
    }
    let mut pod = world::pod("p", &json!({}), None, true);
    pod["metadata"]["namespace"] = "team".into();
    world::create(&client, pod).await;
    delete(&client, "v1", "Namespace", "team").await;
});

conforms!(accounts, service_account::controller, ObjectKey::new("", "team"), at_once(), |client| {
    world::create(&client, json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "team" } })).await;
});

// A config map that says something else.
conforms!(root_cas, root_ca::controller, ObjectKey::new("", "team"), at_once(), |client| {
    world::create(&client, json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "team" } })).await;
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": root_ca::CONFIG_MAP, "namespace": "team" }, "data": { "ca.crt": "OLD" } });
    manifest::apply(&client, [map]).await.expect("applied");
});

/// No controller is left out of the above.
#[test]
fn every_controller_is_under_the_suite() {
    let suite = include_str!("conformance.rs");
    for name in controllers::NAMES {
        assert!(suite.contains(&format!("{name}::controller")), "{name} is not held to the laws");
    }
}
