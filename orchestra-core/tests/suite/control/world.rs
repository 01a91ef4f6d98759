//! A cluster's API in this process, and what tests say to it.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt as _,
    api::{DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    discovery::{Scope, pinned_kind},
};
use orchestra_core::{
    clock::TokioClock,
    controllers::Parts,
    rng::Entropy,
    server::{ApiServer, UserInfo},
};
use orchestra_store::MemoryStore;
use serde_json::{Value, json};

/// A client of an API server that has nothing in it yet.
pub(crate) fn empty() -> Client {
    let api = ApiServer::builder(Arc::new(MemoryStore::new()))
        .clock(Arc::new(TokioClock::default()))
        .entropy(Entropy::seeded(1))
        .build();
    api.client(UserInfo::master("test"))
}

pub(crate) fn parts(client: &Client) -> Parts {
    Parts::new(client.clone(), Arc::new(TokioClock::default()), Entropy::seeded(2))
}

/// Creates an object, with its status if it has one.
pub(crate) async fn create(client: &Client, object: Value) -> DynamicObject {
    let api = api_of(client, &object["apiVersion"], &object["kind"], object["metadata"]["namespace"].as_str()).await;
    let new: DynamicObject = serde_json::from_value(object.clone()).expect("an object");
    let made = api.create(&PostParams::default(), &new).await.expect("created");
    if object["status"].is_null() {
        return made;
    }
    let patch = json!({ "status": object["status"] });
    api.patch_status(&made.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await.expect("status written")
}

async fn api_of(client: &Client, api_version: &Value, kind: &Value, namespace: Option<&str>) -> Api<DynamicObject> {
    let api_version = api_version.as_str().expect("a version");
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let kind = GroupVersionKind::gvk(group, version, kind.as_str().expect("a kind"));
    let (resource, capabilities) = pinned_kind(client, &kind).await.expect("served");
    match (capabilities.scope, namespace) {
        (Scope::Namespaced, Some(namespace)) => Api::namespaced_with(client.clone(), namespace, &resource),
        (Scope::Namespaced, None) => Api::default_namespaced_with(client.clone(), &resource),
        (Scope::Cluster, _) => Api::all_with(client.clone(), &resource),
    }
}

/// A reference by which `owner` controls something.
pub(crate) fn controller_ref(owner: &DynamicObject) -> Value {
    let types = owner.types.as_ref().expect("typed");
    json!({ "apiVersion": types.api_version, "kind": types.kind, "name": owner.name_any(), "uid": owner.uid(),
        "controller": true, "blockOwnerDeletion": true })
}

/// Everything of the given kinds, without what differs from run to run: uids, versions, times and drawn names.
pub(crate) async fn everything(client: &Client, kinds: &[(&str, &str)]) -> Value {
    let mut all = Vec::new();
    for (api_version, kind) in kinds {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let (resource, _) = pinned_kind(client, &GroupVersionKind::gvk(group, version, kind)).await.expect("served");
        let listed = Api::<DynamicObject>::all_with(client.clone(), &resource).list(&ListParams::default()).await;
        for mut object in listed.expect("listed") {
            if object.metadata.generate_name.is_some() {
                object.metadata.name = None;
            }
            let mut value = serde_json::to_value(&object).expect("encodes");
            strip(&mut value);
            all.push(value);
        }
    }
    all.sort_by_key(ToString::to_string);
    all.into()
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| {
                !matches!(name.as_str(), "uid" | "resourceVersion" | "managedFields" | "timeAdded")
                    && !name.ends_with("Time")
                    && !name.ends_with("Timestamp")
            });
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        _ => {}
    }
}

pub(crate) async fn pods(client: &Client) -> Vec<Pod> {
    Api::<Pod>::all(client.clone()).list(&ListParams::default()).await.expect("listed").items
}

/// Waits, in virtual time, until a list of pods is as it should be.
pub(crate) async fn until_pods(client: &Client, what: &str, holds: impl Fn(&[Pod]) -> bool) {
    for _ in 0..600 {
        if holds(&pods(client).await) {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    let names: Vec<_> = pods(client).await.iter().map(|pod| format!("{} {:?}", pod.name_any(), pod.status)).collect();
    panic!("never: {what}; pods {names:#?}");
}

/// A pod as a controller sees it once its kubelet has spoken.
pub(crate) fn pod(name: &str, labels: &Value, node: Option<&str>, ready: bool) -> Value {
    let status = if ready { "True" } else { "False" };
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "labels": labels },
        "spec": { "nodeName": node, "containers": [{ "name": "c", "image": "host" }] },
        "status": { "phase": "Running", "podIP": "10.0.0.1",
            "conditions": [{ "type": "Ready", "status": status, "lastTransitionTime": "2030-01-01T00:00:00Z" }] } })
}

pub(crate) fn node(name: &str, ready: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name },
        "status": { "allocatable": { "cpu": "4", "memory": "8Gi", "pods": "10" },
            "conditions": [{ "type": "Ready", "status": ready, "lastTransitionTime": "2030-01-01T00:00:00Z" }] } })
}

pub(crate) fn template(image: &str) -> Value {
    json!({ "metadata": { "labels": { "app": "web" } }, "spec": { "containers": [{ "name": "web", "image": image }] } })
}

pub(crate) fn replica_set(replicas: i32) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": { "name": "web", "namespace": "default" },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "web" } }, "template": template("a") } })
}

pub(crate) fn deployment(replicas: i32, image: &str) -> Value {
    json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web", "namespace": "default" },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "web" } }, "template": template(image) } })
}
