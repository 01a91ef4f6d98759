//! Keeps as many pods of a template as a replica set asks for.

mod rank;

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use k8s_openapi::{
    api::{
        apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus},
        core::v1::{Pod, PodTemplateSpec},
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector as ApiLabelSelector, Time},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ObjectMeta, PostParams, Preconditions},
};

use super::{
    Parts,
    claim::{claim, controlled_by, controller_of},
    write_status,
};
use crate::{
    api::{
        pod::{is_active, is_ready, ready_since},
        selector::LabelSelector,
    },
    clock::{Clock, Timestamp},
    controller::{Action, Controller, Error, ObjectKey, Recorder, Runner, Severity},
    informer::{Cached, Change, Lister},
};

/// How many pods one reconcile makes or deletes at most; the rest follows at once.
const BURST_PODS_MAX: usize = 500;
/// How many requests run side by side.
const REQUESTS_AT_ONCE: usize = 16;
/// The condition that tells that pods can't be made or deleted.
pub(crate) const REPLICA_FAILURE: &str = "ReplicaFailure";

/// What a replica set needs done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// How many pods to create.
    pub create: usize,
    /// The pods to delete, in this order.
    pub delete: Vec<ObjectKey>,
    /// The status as it should read, if nothing fails.
    pub status: ReplicaSetStatus,
}

/// Decides what `set` needs, given the pods it controls; pure.
///
/// `crowding` tells how many pods of this set and its siblings each node has: of those, the most crowded lose first.
#[must_use]
pub fn plan(set: &ReplicaSet, pods: &[Arc<Pod>], crowding: &BTreeMap<String, usize>, now: Timestamp) -> Plan {
    let spec = &set.spec;
    let wanted = usize::try_from(spec.replicas.unwrap_or(1)).unwrap_or(0);
    let min_ready_seconds = i64::from(spec.min_ready_seconds.unwrap_or(0));
    let mut active: Vec<&Arc<Pod>> = pods.iter().filter(|pod| is_active(pod)).collect();
    let status = status(set, &active, spec.template.as_ref(), min_ready_seconds, now);
    if set.metadata.deletion_timestamp.is_some() {
        return Plan { create: 0, delete: Vec::new(), status };
    }
    let surplus = active.len().saturating_sub(wanted).min(BURST_PODS_MAX);
    active.sort_by(|a, b| rank::goes_first(a, b, crowding, now));
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
    let mut conditions = set.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    conditions.retain(|condition| condition.type_.as_deref() != Some(REPLICA_FAILURE));
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: Some(count(&labeled)),
        ready_replicas: Some(count(&is_ready)),
        available_replicas: Some(count(&|pod| is_available(pod, min_ready_seconds, now))),
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
        terminating_replicas: None,
    }
}

/// The status of a set whose pods could not all be made or deleted; the condition of an earlier failure stands.
fn failed(
    mut status: ReplicaSetStatus,
    set: &ReplicaSet,
    reason: &str,
    error: &Error,
    now: Timestamp,
) -> ReplicaSetStatus {
    let mut old = set.status.iter().flat_map(|status| status.conditions.iter().flatten());
    let old = old.find(|condition| condition.type_.as_deref() == Some(REPLICA_FAILURE)).cloned();
    let condition = old.unwrap_or_else(|| ReplicaSetCondition {
        type_: Some(REPLICA_FAILURE.into()),
        status: Some("True".into()),
        reason: Some(reason.into()),
        message: Some(message(error)),
        last_transition_time: Some(Time(now)),
    });
    status.conditions.get_or_insert_default().push(condition);
    status
}

/// What the server said, or else what went wrong.
fn message(error: &Error) -> String {
    let source = std::error::Error::source(error);
    match source.and_then(|source| source.downcast_ref::<kube::Error>()) {
        Some(kube::Error::Api(status)) => status.message.clone(),
        _ => source.map_or_else(|| error.to_string(), ToString::to_string),
    }
}

fn is_available(pod: &Pod, min_ready_seconds: i64, now: Timestamp) -> bool {
    ready_since(pod).is_some_and(|since| now.duration_since(since).as_secs() >= min_ready_seconds)
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
    let adopters = selecting(&sets, |set: &ReplicaSet| &set.spec.selector);
    parts
        .runner(controller(parts))
        .reconciles(&sets)
        .owns::<ReplicaSet, Pod>(&pods)
        .watches(&pods, move |change: &Change<Pod>| adopters(change))
}

/// Makes the controller alone, for those who call it themselves.
#[must_use]
pub fn controller(parts: &Parts) -> impl Controller + use<> {
    ReplicaSets {
        client: parts.client.clone(),
        sets: parts.informers.of(),
        pods: parts.informers.of(),
        clock: Arc::clone(&parts.clock),
        recorder: parts.recorder("replicaset-controller"),
    }
}

/// The owners in `lister` that could adopt an object nobody controls.
pub(crate) fn selecting<O: Cached, K: Cached>(
    lister: &Lister<O>,
    selector: fn(&O) -> &ApiLabelSelector,
) -> impl Fn(&Change<K>) -> Vec<ObjectKey> + Send + use<O, K> {
    let owners = lister.clone();
    move |change| {
        let Some(orphan) = change.new.as_ref().filter(|object| controller_of(&***object).is_none()) else {
            return Vec::new();
        };
        let selects = |owner: &Arc<O>| {
            LabelSelector::try_from(selector(owner)).is_ok_and(|selector| selector.matches(orphan.labels()))
        };
        let all = owners.list_namespace(&change.key.namespace);
        all.iter().filter(|owner| selects(owner)).map(|owner| ObjectKey::of(&**owner)).collect()
    }
}

#[async_trait]
impl Controller for ReplicaSets {
    fn name(&self) -> &str {
        "replica-set"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        self.sets.synced().await;
        self.pods.synced().await;
        let Some(set) = self.sets.get(key) else { return Ok(Action::AwaitChange) };
        let selector = LabelSelector::try_from(&set.spec.selector).map_err(|error| Error::Terminal(error.into()))?;
        let pods = claim(&self.client, &self.pods, &*set, &selector).await?;
        let Plan { create, delete, mut status } = plan(&set, &pods, &self.crowding(&set), self.clock.now());
        let reason = if create > 0 { "FailedCreate" } else { "FailedDelete" };
        let outcome = match self.create_all(&set, create).await {
            Ok(()) => self.delete_all(&set, delete, &pods).await,
            failure => failure,
        };
        if let Err(error) = &outcome {
            status = failed(status, &set, reason, error, self.clock.now());
        }
        if set.status.as_ref() != Some(&status) {
            write_status(&self.client, &self.sets, &ReplicaSet { status: Some(status), ..(*set).clone() }).await?;
        }
        outcome.map(|()| available_later(&set, &pods, self.clock.now()))
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
    /// How many pods of the set and its siblings, those of one owner, each node has.
    fn crowding(&self, set: &ReplicaSet) -> BTreeMap<String, usize> {
        let namespace = set.namespace().unwrap_or_default();
        let family = controller_of(set).map(|owner| &owner.uid);
        let is_kin = |other: &Arc<ReplicaSet>| {
            other.uid() == set.uid() || family.is_some() && controller_of(&**other).map(|owner| &owner.uid) == family
        };
        let kin: Vec<_> =
            self.sets.list_namespace(&namespace).into_iter().filter(is_kin).filter_map(|set| set.uid()).collect();
        let mut crowding = BTreeMap::new();
        for pod in self.pods.list_namespace(&namespace).iter().filter(|pod| is_active(pod)) {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
            if let (Some(node), true) = (node, controller_of(&**pod).is_some_and(|owner| kin.contains(&owner.uid))) {
                *crowding.entry(node).or_insert(0) += 1;
            }
        }
        crowding
    }

    /// Makes pods in batches of 1, 2, 4, …: what fails for one fails for all, and should do so early.
    async fn create_all(&self, set: &ReplicaSet, mut count: usize) -> Result<(), Error> {
        let mut batch = 1;
        while count > 0 {
            let now = count.min(batch);
            let made: Vec<_> =
                stream::iter(0..now).map(|_| self.create(set)).buffered(REQUESTS_AT_ONCE).collect().await;
            let mut failure = None;
            for pod in made {
                match pod {
                    // Those that were made are waited for even if others weren't: else they were made again.
                    Ok(pod) => self.pods.shows(&pod).await,
                    Err(error) => failure = failure.or(Some(error)),
                }
            }
            match failure {
                Some(kube::Error::Api(status)) if is_terminating(&status) => return Ok(()),
                Some(error) => return Err(error.into()),
                None => (count, batch) = (count - now, batch * 2),
            }
        }
        Ok(())
    }

    async fn create(&self, set: &ReplicaSet) -> kube::Result<Pod> {
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
        let made = api.create(&PostParams::default(), &pod).await;
        match &made {
            Ok(pod) => {
                let message = format!("Created pod: {}", pod.name_any());
                self.recorder.record(set, Severity::Normal, "SuccessfulCreate", message).await;
            }
            Err(kube::Error::Api(status)) if is_terminating(status) => {}
            Err(kube::Error::Api(status)) => {
                let message = format!("Error creating: {}", status.message);
                self.recorder.record(set, Severity::Warning, "FailedCreate", message).await;
            }
            // Out of reach: an event would not get there either.
            Err(_) => {}
        }
        made
    }

    async fn delete_all(&self, set: &ReplicaSet, keys: Vec<ObjectKey>, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let deleted: Vec<_> =
            stream::iter(keys).map(|pod| self.delete(set, pod, pods)).buffered(REQUESTS_AT_ONCE).collect().await;
        deleted.into_iter().collect()
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

/// Whether the server refused since the namespace is on its way out: then there is nothing to make any more.
fn is_terminating(status: &kube::core::Status) -> bool {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
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
    use std::{collections::BTreeMap, sync::Arc};

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
        let names: Vec<_> = plan(&set(1), &pods, &BTreeMap::new(), Timestamp::UNIX_EPOCH)
            .delete
            .iter()
            .map(|key| key.name.to_string())
            .collect();
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
            let plan = plan(&set(wanted), &pods, &BTreeMap::new(), Timestamp::UNIX_EPOCH);
            let active = pods.iter().filter(|pod| is_active(pod)).count();
            prop_assert_eq!(active + plan.create - plan.delete.len(), usize::try_from(wanted).expect("positive"));
            prop_assert!(plan.create == 0 || plan.delete.is_empty());
            let ready = pods.iter().filter(|pod| is_active(pod) && is_ready(pod)).count();
            prop_assert_eq!(plan.status.ready_replicas, i32::try_from(ready).ok());
        }
    }
}
