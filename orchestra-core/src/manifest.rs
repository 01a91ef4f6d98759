//! Applies manifests as `kubectl apply` does: creates what is absent, and merges what is there with what the manifest says
//! and what it said before.

use std::{collections::BTreeSet, fmt};

use k8s_openapi::api::{
    apps::v1::{Deployment, ReplicaSet},
    core::v1::Pod,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DynamicObject, Patch, PatchParams, PostParams},
    core::{GroupVersionKind, Request},
    discovery,
};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::{api::pod, informer::Informers, store::BoxError};

/// Where `kubectl apply` keeps what was applied last, by which it tells what a manifest no longer says.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// What is no trouble, but the way every container starts.
const STARTING: [&str; 2] = ["ContainerCreating", "PodInitializing"];

/// How far the workloads of a cluster have come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many of their pods are up to date and available.
    pub available: u64,
    /// How many there should be.
    pub wanted: u64,
    /// Whether any pod is yet to be replaced, or the controller yet to look.
    pub settled: bool,
    /// What a pod waits for, if it isn't just starting, or that it failed for good: its name, and the reason.
    pub waiting: Option<String>,
}

impl Progress {
    /// Whether there is nothing left to do.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.settled && self.available == self.wanted
    }

    /// Counts the replica sets that no controller has, too; those of deployments are counted with them.
    #[must_use]
    pub fn with_replica_sets<'a>(mut self, sets: impl IntoIterator<Item = &'a ReplicaSet>) -> Self {
        for set in sets.into_iter().filter(|set| is_uncontrolled(*set)) {
            let status = set.status.clone().unwrap_or_default();
            let wanted = count(set.spec.replicas.or(Some(1)));
            self.wanted += wanted;
            self.available += count(status.available_replicas).min(wanted);
            self.settled &= status.observed_generation >= set.metadata.generation;
        }
        self
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} pods available", self.available, self.wanted)?;
        self.waiting.as_ref().map_or(Ok(()), |waiting| write!(f, "; {waiting}"))
    }
}

/// What the deployments of a cluster and the pods that no controller has have come to, given all pods; pure.
#[must_use]
pub fn progress<'a>(
    deployments: impl IntoIterator<Item = &'a Deployment>,
    pods: impl IntoIterator<Item = &'a Pod>,
) -> Progress {
    let mut progress = Progress { settled: true, ..Progress::default() };
    for deployment in deployments {
        let status = deployment.status.clone().unwrap_or_default();
        let wanted = count(deployment.spec.replicas.or(Some(1)));
        progress.wanted += wanted;
        progress.available += count(status.available_replicas).min(count(status.updated_replicas)).min(wanted);
        progress.settled &= status.observed_generation >= deployment.metadata.generation;
        progress.settled &= status.replicas == status.updated_replicas;
    }
    for one in pods {
        if is_uncontrolled(one) && one.metadata.deletion_timestamp.is_none() {
            progress.wanted += 1;
            progress.available += u64::from(pod::is_ready(one) || pod::phase(one) == "Succeeded");
        }
        progress.waiting = progress.waiting.or_else(|| trouble(one));
    }
    progress
}

fn count(number: Option<i32>) -> u64 {
    u64::try_from(number.unwrap_or(0)).unwrap_or(0)
}

/// Whether an object is on its own: it counts by itself, and nothing makes another when it fails.
fn is_uncontrolled(object: &impl Resource) -> bool {
    !object.owner_references().iter().any(|owner| owner.controller == Some(true))
}

/// Why a pod does not start, or that it failed and stays so, with its name.
fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    if is_uncontrolled(pod) && pod::phase(pod) == "Failed" {
        return Some(format!("{}: Failed", pod.name_any()));
    }
    let unschedulable = status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    let waiting = |statuses: &Option<Vec<_>>| {
        let states = statuses.iter().flatten();
        let reasons = states.filter_map(|status: &k8s_openapi::api::core::v1::ContainerStatus| {
            status.state.as_ref()?.waiting.as_ref()?.reason.clone()
        });
        reasons.into_iter().find(|reason| !STARTING.contains(&reason.as_str()))
    };
    let reason = unschedulable
        .and_then(|condition| condition.reason.clone())
        .or_else(|| waiting(&status.init_container_statuses))
        .or_else(|| waiting(&status.container_statuses))?;
    Some(format!("{}: {reason}", pod.name_any()))
}

/// The objects of a manifest that was applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied(BTreeSet<(String, String, String)>);

impl Applied {
    /// Whether an object is one of them.
    fn has<K: Resource<DynamicType = ()>>(&self, object: &K) -> bool {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let (kind, meta) = (K::kind(&()).into_owned(), object.meta());
        self.0.contains(&(kind, text(&meta.namespace), text(&meta.name)))
    }

    /// Whether some of them are in the namespace of an object.
    fn is_near(&self, object: &impl Resource) -> bool {
        self.0.iter().any(|(_, namespace, _)| object.meta().namespace.as_ref() == Some(namespace))
    }
}

/// Waits until every deployment of a manifest is rolled out, and every replica set and pod of it that no controller has is
/// ready, or has succeeded; tells of each step on the way.
pub async fn rolled_out(informers: &Informers, applied: &Applied, mut tell: impl FnMut(&Progress)) {
    // Shared caches may be behind what was just applied; new ones begin with it.
    let informers = informers.anew();
    let (deployments, sets, pods) = (informers.of::<Deployment>(), informers.of::<ReplicaSet>(), informers.of::<Pod>());
    let (mut rolled, mut resized, mut moved) = (deployments.subscribe(), sets.subscribe(), pods.subscribe());
    deployments.synced().await;
    sets.synced().await;
    pods.synced().await;
    loop {
        let (all, sets, pods) = (deployments.list(), sets.list(), pods.list());
        // What others have in the cluster is no matter of the manifest; pods of its controllers tell why these don't get on.
        let pods = pods.iter().map(AsRef::as_ref);
        let pods = pods.filter(|pod: &&Pod| applied.has(*pod) || !is_uncontrolled(*pod) && applied.is_near(*pod));
        let all = all.iter().map(AsRef::as_ref).filter(|deployment: &&Deployment| applied.has(*deployment));
        let sets = sets.iter().map(AsRef::as_ref).filter(|set: &&ReplicaSet| applied.has(*set));
        let now = progress(all, pods).with_replica_sets(sets);
        tell(&now);
        if now.is_complete() {
            return;
        }
        tokio::select! {
            biased;
            _ = rolled.next() => {}
            _ = resized.next() => {}
            _ = moved.next() => {}
        }
    }
}

/// Why an object of a manifest was not applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is no YAML.
    #[error("document {document} of the manifest can't be read")]
    Unreadable {
        /// Which one, from 1.
        document: usize,
        /// Why, with line and column.
        #[source]
        source: serde_yaml_ng::Error,
    },
    /// It is no object: it lacks a field, or the field is no text.
    #[error("document {document} of the manifest has no {field}")]
    Malformed {
        /// Which one, from 1.
        document: usize,
        /// What it lacks, such as `kind` or, of a list, `items[0].kind`.
        field: String,
    },
    /// The server refused it.
    #[error("{kind} {name} was not applied")]
    Refused {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// Why, in the server's words.
        #[source]
        source: BoxError,
    },
}

/// Reads the documents of a manifest in YAML, and so in JSON.
///
/// # Errors
///
/// [`Error::Unreadable`] for the first that can't be read.
pub fn parse(text: &str) -> Result<Vec<Value>, Error> {
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize).zip(1..);
    documents.map(|(value, document)| value.map_err(|source| Error::Unreadable { document, source })).collect()
}

/// Applies the objects in order, and notes what was applied as `kubectl apply` does, so that it can take over; one without a
/// namespace goes to `default`, if its kind has namespaces. A `List`, as `kubectl get` writes it, is its items. Returns which
/// objects these are.
///
/// # Errors
///
/// [`Error`] for the first object that can't be applied; those before it are.
pub async fn apply(client: &Client, objects: impl IntoIterator<Item = Value>) -> Result<Applied, Error> {
    let mut applied = Applied::default();
    for (object, document) in objects.into_iter().zip(1..).filter(|(object, _)| !object.is_null()) {
        for (place, object) in listed(object, document)? {
            let field = |name: &str, value: &Value| {
                let text = value.as_str().map(str::to_owned).filter(|text| !text.is_empty());
                text.ok_or_else(|| Error::Malformed { document, field: format!("{place}{name}") })
            };
            let api_version = field("apiVersion", &object["apiVersion"])?;
            let kind = field("kind", &object["kind"])?;
            let name = field("metadata.name", &object["metadata"]["name"])?;
            let refused = |error| Error::Refused { kind: kind.clone(), name: name.clone(), source: told(error) };
            let namespace = apply_one(client, &api_version, &kind, &name, object).await.map_err(refused)?;
            applied.0.insert((kind, namespace, name));
        }
    }
    Ok(applied)
}

/// The objects of a document, each with what leads to its fields: the document itself, or the items of a list.
fn listed(mut object: Value, document: usize) -> Result<Vec<(String, Value)>, Error> {
    if object["apiVersion"] != "v1" || object["kind"] != "List" {
        return Ok(vec![(String::new(), object)]);
    }
    match object["items"].take() {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => {
            Ok(items.into_iter().enumerate().map(|(at, item)| (format!("items[{at}]."), item)).collect())
        }
        _ => Err(Error::Malformed { document, field: "items".into() }),
    }
}

/// Applies an object, and says in which namespace; in none if its kind has none.
async fn apply_one(
    client: &Client,
    api_version: &str,
    kind: &str,
    name: &str,
    mut object: Value,
) -> kube::Result<String> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let (resource, capabilities) = discovery::pinned_kind(client, &GroupVersionKind::gvk(group, version, kind)).await?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default").to_owned();
    let api: Api<DynamicObject> = match capabilities.scope {
        discovery::Scope::Namespaced => Api::namespaced_with(client.clone(), &namespace, &resource),
        discovery::Scope::Cluster => Api::all_with(client.clone(), &resource),
    };
    if let Some(meta) = object["metadata"].as_object_mut() {
        if capabilities.scope == discovery::Scope::Namespaced {
            meta.insert("namespace".into(), namespace.clone().into());
        }
        meta.entry("annotations").or_insert_with(|| json!({}));
    }
    let namespace = if capabilities.scope == discovery::Scope::Namespaced { namespace } else { String::new() };
    let applied = format!("{object}\n");
    // What is no object stays for the server to refuse.
    if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
        annotations.insert(LAST_APPLIED.into(), applied.into());
    }
    let requests = Request::new(api.resource_url());
    let body = serde_json::to_vec(&object).map_err(kube::Error::SerdeError)?;
    let create = requests.create(&PostParams::default(), body).map_err(kube::Error::BuildRequest)?;
    match client.request::<Value>(strict(create)?).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
        created => return created.map(|_| namespace),
    }
    let live = api.get(name).await?;
    let before = live.annotations().get(LAST_APPLIED).and_then(|text| serde_json::from_str(text).ok());
    drop_what_is_gone(&before.unwrap_or_default(), &mut object);
    let patch = requests.patch(name, &PatchParams::default(), &Patch::Strategic(object));
    client.request::<Value>(strict(patch.map_err(kube::Error::BuildRequest)?)?).await.map(|_| namespace)
}

/// Asks the server to refuse what it doesn't know, instead of leaving it out.
fn strict(mut request: http::Request<Vec<u8>>) -> kube::Result<http::Request<Vec<u8>>> {
    let uri = format!("{}&fieldValidation=Strict", request.uri());
    *request.uri_mut() = uri.parse().map_err(|error: http::uri::InvalidUri| kube::Error::HttpError(error.into()))?;
    Ok(request)
}

/// Says in a merge that what was applied before, and isn't any more, goes; in lists the merge itself knows its keys.
fn drop_what_is_gone(before: &Value, now: &mut Value) {
    let (Value::Object(before), Value::Object(now)) = (before, now) else { return };
    for (field, old) in before {
        drop_what_is_gone(old, now.entry(field).or_insert(Value::Null));
    }
}

/// What a failed request says for itself.
fn told(error: kube::Error) -> BoxError {
    match error {
        kube::Error::Api(status) => status.message.clone().into(),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::Pod,
    };
    use proptest::prelude::*;
    use serde_json::{Value, from_value, json};

    use super::{parse, progress};

    fn deployment(generation: i64, replicas: i32, [all, updated, available]: [i32; 3]) -> Deployment {
        let object = json!({ "metadata": { "generation": generation },
            "spec": { "replicas": replicas, "selector": {}, "template": {} },
            "status": { "observedGeneration": 2, "replicas": all, "updatedReplicas": updated,
                "availableReplicas": available } });
        from_value(object).expect("a deployment")
    }

    #[test]
    fn a_rollout_is_complete_when_the_controller_has_looked_and_nothing_old_is_left() {
        for (deployment, complete) in [
            (deployment(2, 3, [3, 3, 3]), true),
            (deployment(3, 3, [3, 3, 3]), false),
            (deployment(2, 3, [4, 3, 3]), false),
            (deployment(2, 3, [3, 3, 2]), false),
            (deployment(2, 0, [0, 0, 0]), true),
        ] {
            assert_eq!(progress([&deployment], []).is_complete(), complete, "{deployment:?}");
        }
        assert!(progress([], []).is_complete());
    }

    #[test]
    fn a_document_that_is_no_yaml_is_named_by_its_number() {
        let error = parse("a: 1\n---\nb: [").expect_err("the second is cut off");
        assert_eq!(error.to_string(), "document 2 of the manifest can't be read");
        assert_eq!(parse("a: 1\n---\nb: 2\n").expect("two documents").len(), 2);
        assert!(parse("").expect("no document").iter().all(Value::is_null));
    }

    #[test]
    fn a_pod_in_trouble_is_named_with_its_reason() {
        let pod = |reason: &str| -> Pod {
            from_value(json!({ "metadata": { "name": "web-0" }, "spec": { "containers": [] }, "status": {
                "containerStatuses": [{ "name": "web", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": { "waiting": { "reason": reason } } }] } }))
            .expect("a pod")
        };
        assert_eq!(progress([], [&pod("ContainerCreating")]).waiting, None);
        assert_eq!(progress([], [&pod("ImagePullBackOff")]).waiting.as_deref(), Some("web-0: ImagePullBackOff"));
    }

    #[test]
    fn a_pod_or_a_replica_set_that_no_controller_has_is_waited_for() {
        let owner =
            json!({ "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a", "uid": "", "controller": true });
        let pod = |phase: &str, ready: &str, owners: Value| -> Pod {
            from_value(json!({ "metadata": { "name": "one", "ownerReferences": owners }, "spec": { "containers": [] },
                "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": ready }] } }))
            .expect("a pod")
        };
        for (pod, complete) in [
            (pod("Pending", "False", json!([])), false),
            (pod("Running", "False", json!([])), false),
            (pod("Running", "True", json!([])), true),
            (pod("Succeeded", "False", json!([])), true),
            (pod("Failed", "False", json!([])), false),
            // It is its set that counts.
            (pod("Pending", "False", json!([owner])), true),
        ] {
            let progress = progress([], [&pod]);
            assert_eq!(progress.is_complete(), complete, "{pod:?}");
            assert_eq!(progress.waiting.as_deref() == Some("one: Failed"), super::pod::phase(&pod) == "Failed");
        }
        let set = |owners: Value, available: i32| -> ReplicaSet {
            from_value(json!({ "metadata": { "ownerReferences": owners }, "spec": { "replicas": 2, "selector": {} },
                "status": { "replicas": 2, "availableReplicas": available } }))
            .expect("a set")
        };
        for (set, complete) in [(set(json!([]), 1), false), (set(json!([]), 2), true), (set(json!([owner]), 1), true)] {
            assert_eq!(progress([], []).with_replica_sets([&set]).is_complete(), complete, "{set:?}");
        }
    }

    proptest! {
        #[test]
        fn never_more_are_available_than_wanted(replicas in -1..9_i32, counts in prop::array::uniform3(-1..9_i32)) {
            let progress = progress([&deployment(2, replicas, counts)], []);
            prop_assert!(progress.available <= progress.wanted);
        }
    }
}
