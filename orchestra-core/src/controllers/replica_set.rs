//! Keeps as many pods of a template as a replica set asks for.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetStatus},
        core::v1::{Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;

use super::Parts;
use crate::{
    clock::{Clock, Timestamp},
    controller::{Action, Controller, Error, ObjectKey, Recorder, Runner, Severity},
    informer::Lister,
};

/// How many pods one reconcile makes or deletes at most; the rest follows at once.
const BURST_PODS_MAX: usize = 500;
/// How many requests run side by side.
const REQUESTS_AT_ONCE: usize = 16;

/// What a replica set needs done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How many pods to create.
    pub create: usize,
    /// The pods to delete, in this order.
    pub delete: Vec<ObjectKey>,
    /// The status as it should read.
    pub status: ReplicaSetStatus,
}

/// Decides what `set` needs, given the pods it controls; pure.
#[must_use]
pub fn plan(set: &ReplicaSet, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let spec = &set.spec;
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let min_ready_seconds = i64::from(spec.min_ready_seconds.unwrap_or(0));
    let mut active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| is_active(pod)).collect();
    let status = status(set, &active, spec.template.as_ref(), min_ready_seconds, now);
    if set.metadata.deletion_timestamp.is_some() {
        return Plan { create: 0, delete: Vec::new(), status };
    }
    let surplus = active.len().saturating_sub(wanted).min(BURST_PODS_MAX);
    active.sort_by_cached_key(|pod| rank(pod));
    let delete = active.iter().take(surplus).map(|pod| ObjectKey::of(&***pod)).collect();
    Plan { create: wanted.saturating_sub(active.len()).min(BURST_PODS_MAX), delete, status }
}

fn status(
    set: &ReplicaSet,
    active: &[&Arc<Pod>],
    template: Option<&PodTemplateSpec>,
    min_ready_seconds: i64,
    now: Timestamp,
) -> ReplicaSetStatus {
    let count = |accept: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active.iter().filter(|pod| accept(pod)).count()).unwrap_or(i32::MAX)
    };
    let labels = template.and_then(|template| template.metadata.as_ref()?.labels.clone()).unwrap_or_default();
    let labeled = |pod: &Pod| labels.iter().all(|(key, value)| pod.labels().get(key) == Some(value));
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&labeled)),
        ready_replicas: Some(count(&is_ready)),
        available_replicas: Some(count(&|pod| is_available(pod, min_ready_seconds, now))),
        observed_generation: set.metadata.generation,
        conditions: set.status.as_ref().and_then(|status| status.conditions.clone()),
        terminating_replicas: None,
    }
}

/// Those to go first: not placed, not running, not ready, and the youngest of each (as Kubernetes' `ActivePods`).
fn rank(pod: &Pod) -> (bool, bool, bool, std::cmp::Reverse<Timestamp>, String) {
    let placed = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
    let running = phase(pod) == "Running";
    let created = pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    (placed, running, is_ready(pod), std::cmp::Reverse(created), pod.name_any())
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

/// Whether a pod counts: it has not ended, and is not on its way out.
pub(crate) fn is_active(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase(pod), "Succeeded" | "Failed")
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// Since when a pod is ready.
fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let conditions = pod.status.as_ref()?.conditions.as_deref()?;
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    Some(ready.last_transition_time.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0))
}

fn is_available(pod: &Pod, min_ready_seconds: i64, now: Timestamp) -> bool {
    ready_since(pod).is_some_and(|since| now.duration_since(since).as_secs() >= min_ready_seconds)
}

/// The reference by which `owner` controls what it made.
pub(crate) fn controlled_by<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    owner.controller_owner_ref(&()).expect("an object that was read from the API has a name and a uid")
}

/// The objects that the owner of this uid controls.
pub(crate) fn controlled<K: Resource>(objects: Vec<Arc<K>>, uid: &str) -> Vec<Arc<K>> {
    let owned = |object: &Arc<K>| {
        let owners = object.meta().owner_references.as_deref().unwrap_or_default();
        owners.iter().any(|owner| owner.controller == Some(true) && owner.uid == uid)
    };
    objects.into_iter().filter(owned).collect()
}

struct ReplicaSets {
    client: Client,
    sets: Lister<ReplicaSet>,
    pods: Lister<Pod>,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
}

/// Makes the controller, ready to run.
#[must_use]
pub fn runner(parts: &Parts) -> Runner {
    let (sets, pods) = (parts.informers.of::<ReplicaSet>(), parts.informers.of::<Pod>());
    let controller = ReplicaSets {
        client: parts.client.clone(),
        sets: sets.clone(),
        pods: pods.clone(),
        clock: Arc::clone(&parts.clock),
        recorder: parts.recorder("replicaset-controller"),
    };
    Runner::new(controller, parts.entropy.fork()).reconciles(&sets).owns::<ReplicaSet, Pod>(&pods)
}

#[async_trait]
impl Controller for ReplicaSets {
    fn name(&self) -> &str {
        "replica-set"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        self.pods.synced().await;
        let Some(set) = self.sets.get(key) else { return Ok(Action::AwaitChange) };
        let uid = set.uid().unwrap_or_default();
        let pods = controlled(self.pods.list_namespace(&key.namespace), &uid);
        let Plan { create, delete, status } = plan(&set, &pods, self.clock.now());
        let made: Vec<_> =
            stream::iter(0..create).map(|_| self.create(&set)).buffered(REQUESTS_AT_ONCE).collect().await;
        for pod in made {
            self.pods.shows(&pod?).await;
        }
        let deleted: Vec<_> =
            stream::iter(delete).map(|pod| self.delete(&set, pod, &pods)).buffered(REQUESTS_AT_ONCE).collect().await;
        deleted.into_iter().collect::<Result<Vec<()>, _>>()?;
        if set.status.as_ref() != Some(&status) {
            let api = Api::<ReplicaSet>::namespaced(self.client.clone(), &key.namespace);
            let patch = json!({ "metadata": { "uid": uid }, "status": status });
            let written = api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            self.sets.shows(&written).await;
        }
        Ok(available_later(&set, &pods, self.clock.now()))
    }
}

/// A pod that is ready but not yet for long enough becomes available without any change.
fn available_later(set: &ReplicaSet, pods: &[Arc<Pod>], now: Timestamp) -> Action {
    let min_ready_seconds = set.spec.min_ready_seconds.unwrap_or(0);
    let waits = pods
        .iter()
        .filter_map(|pod| ready_since(pod))
        .map(|since| i64::from(min_ready_seconds) - now.duration_since(since).as_secs());
    match waits.filter(|wait| *wait > 0).min() {
        Some(wait) => Action::RequeueAfter(std::time::Duration::from_secs(wait.unsigned_abs())),
        None => Action::AwaitChange,
    }
}

impl ReplicaSets {
    async fn create(&self, set: &ReplicaSet) -> Result<Pod, Error> {
        let template = set.spec.template.clone().unwrap_or_default();
        let meta = template.metadata.unwrap_or_default();
        let pod = Pod {
            metadata: ObjectMeta {
                generate_name: Some(format!("{}-", set.name_any())),
                namespace: set.namespace(),
                labels: meta.labels,
                annotations: meta.annotations,
                finalizers: meta.finalizers,
                owner_references: Some(vec![controlled_by(set)]),
                ..Default::default()
            },
            spec: template.spec,
            status: None,
        };
        let api = Api::<Pod>::namespaced(self.client.clone(), &set.namespace().unwrap_or_default());
        match api.create(&PostParams::default(), &pod).await {
            Ok(pod) => {
                let message = format!("Created pod: {}", pod.name_any());
                self.recorder.record(set, Severity::Normal, "SuccessfulCreate", message).await;
                Ok(pod)
            }
            Err(error) => {
                let message = format!("Error creating: {error}");
                self.recorder.record(set, Severity::Warning, "FailedCreate", message).await;
                Err(error.into())
            }
        }
    }

    async fn delete(&self, set: &ReplicaSet, key: ObjectKey, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let uid = pods.iter().find(|pod| ObjectKey::of(&***pod) == key).and_then(|pod| pod.uid());
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: uid.clone(), resource_version: None }),
            ..Default::default()
        };
        let api = Api::<Pod>::namespaced(self.client.clone(), &key.namespace);
        match api.delete(&key.name, &params).await {
            Ok(_) => {
                let message = format!("Deleted pod: {}", key.name);
                self.recorder.record(set, Severity::Normal, "SuccessfulDelete", message).await;
            }
            // Gone already, or another one by this name.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(error.into()),
        }
        self.pods
            .until(&key, |pod| pod.is_none_or(|pod| pod.uid() != uid || pod.metadata.deletion_timestamp.is_some()))
            .await;
        Ok(())
    }
}

/// Labels of a set's pods, for tests and for those who make sets.
pub(crate) fn with_label(
    labels: Option<&BTreeMap<String, String>>,
    key: &str,
    value: &str,
) -> BTreeMap<String, String> {
    let mut labels = labels.cloned().unwrap_or_default();
    labels.insert(key.into(), value.into());
    labels
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::{apps::v1::ReplicaSet, core::v1::Pod};
    use proptest::prelude::*;
    use serde_json::json;

    use super::{Timestamp, is_active, is_ready, plan};

    fn set(replicas: i32) -> ReplicaSet {
        serde_json::from_value(json!({ "metadata": { "name": "web", "uid": "u" },
            "spec": { "replicas": replicas, "selector": {}, "template": {} } }))
        .expect("a replica set")
    }

    fn pod(n: usize, placed: bool, phase: &str, ready: bool, going: bool) -> Arc<Pod> {
        let status = if ready { "True" } else { "False" };
        let mut pod: Pod = serde_json::from_value(json!({ "metadata": { "name": format!("p{n}") },
            "spec": { "containers": [] },
            "status": { "phase": phase, "conditions": [{ "type": "Ready", "status": status }] } }))
        .expect("a pod");
        if let Some(spec) = &mut pod.spec {
            spec.node_name = placed.then(|| "n1".into());
        }
        pod.metadata.deletion_timestamp =
            going.then_some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::UNIX_EPOCH));
        Arc::new(pod)
    }

    #[test]
    fn the_least_useful_pods_go_first() {
        let pods = [
            pod(0, true, "Running", true, false),
            pod(1, true, "Running", false, false),
            pod(2, false, "Pending", false, false),
        ];
        let names: Vec<_> =
            plan(&set(1), &pods, Timestamp::UNIX_EPOCH).delete.iter().map(|key| key.name.to_string()).collect();
        assert_eq!(names, ["p2", "p1"]);
    }

    proptest! {
        /// SEMANTICS 45: what is planned brings the count to the wanted one, and never creates and deletes at once.
        #[test]
        fn the_plan_brings_the_count_to_the_wanted_one(
            wanted in 0..20_i32,
            pods in proptest::collection::vec((any::<bool>(), 0..4_usize, any::<bool>(), any::<bool>()), 0..20),
        ) {
            let phases = ["Pending", "Running", "Succeeded", "Failed"];
            let pods: Vec<_> = pods.iter().enumerate()
                .map(|(n, &(placed, phase, ready, going))| pod(n, placed, phases[phase], ready, going)).collect();
            let plan = plan(&set(wanted), &pods, Timestamp::UNIX_EPOCH);
            let active = pods.iter().filter(|pod| is_active(pod)).count();
            prop_assert_eq!(active + plan.create - plan.delete.len(), usize::try_from(wanted).expect("positive"));
            prop_assert!(plan.create == 0 || plan.delete.is_empty());
            let ready = pods.iter().filter(|pod| is_active(pod) && is_ready(pod)).count();
            prop_assert_eq!(plan.status.ready_replicas, i32::try_from(ready).ok());
        }
    }
}
