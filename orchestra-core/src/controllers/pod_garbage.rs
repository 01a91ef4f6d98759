//! Clears away pods that nobody else will: those of nodes that are gone, those that go and never had a node, and the
//! oldest of too many that have ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;
use tokio::time::Instant;

use super::Parts;
use crate::{
    api::pod::has_ended,
    clock::{Clock, Timestamp},
    controller::{Action, Controller, Error, ObjectKey, Runner},
    informer::{Change, Lister},
};

/// How many pods that have ended are kept; Kubernetes' `terminated-pod-gc-threshold`.
pub const ENDED_MAX: usize = 12_500;
/// How long the pods of a node that is gone are kept: it may only be registering anew.
pub const QUARANTINE: Duration = Duration::from_secs(40);

/// The pods to clear away, given the names of the nodes that are gone for good; pure.
#[must_use]
pub fn plan(pods: &[Arc<Pod>], gone: &BTreeSet<String>, ended_max: usize) -> Vec<ObjectKey> {
    let orphaned = pods.iter().filter(|pod| node_of(pod).is_some_and(|node| gone.contains(node)));
    let unplaced = pods.iter().filter(|pod| node_of(pod).is_none() && pod.metadata.deletion_timestamp.is_some());
    let mut ended: Vec<_> =
        pods.iter().filter(|pod| has_ended(pod) && pod.metadata.deletion_timestamp.is_none()).collect();
    let evicted = |pod: &Pod| pod.status.as_ref().and_then(|status| status.reason.as_deref()) == Some("Evicted");
    let created = |pod: &Pod| pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    ended.sort_by_key(|pod| (!evicted(pod), created(pod)));
    let surplus = ended.len().saturating_sub(ended_max);
    let keys: BTreeSet<_> =
        orphaned.chain(unplaced).chain(ended.into_iter().take(surplus)).map(|pod| ObjectKey::of(&**pod)).collect();
    keys.into_iter().collect()
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|name| !name.is_empty())
}

struct PodGarbage {
    client: Client,
    nodes: Lister<Node>,
    pods: Lister<Pod>,
    clock: Arc<dyn Clock>,
    /// Since when each node that pods name is missing.
    missing: Mutex<BTreeMap<String, Instant>>,
}

/// Makes the controller, ready to run. It has one key, for all pods are looked at together.
#[must_use]
pub fn runner(parts: &Parts) -> Runner {
    let (nodes, pods) = (parts.informers.of::<Node>(), parts.informers.of::<Pod>());
    let gone = |change: &Change<Node>| if change.new.is_none() { vec![ObjectKey::default()] } else { Vec::new() };
    let known = nodes.clone();
    let suspect = move |change: &Change<Pod>| {
        let is_suspect = |pod: &Arc<Pod>| {
            has_ended(pod)
                || node_of(pod).is_some_and(|node| known.get(&ObjectKey::new("", node)).is_none())
                || (node_of(pod).is_none() && pod.metadata.deletion_timestamp.is_some())
        };
        if change.new.as_ref().is_some_and(is_suspect) { vec![ObjectKey::default()] } else { Vec::new() }
    };
    parts.runner(controller(parts)).watches(&nodes, gone).watches(&pods, suspect)
}

/// Makes the controller alone, for those who call it themselves.
#[must_use]
pub fn controller(parts: &Parts) -> impl Controller + use<> {
    PodGarbage {
        client: parts.client.clone(),
        nodes: parts.informers.of(),
        pods: parts.informers.of(),
        clock: Arc::clone(&parts.clock),
        missing: Mutex::default(),
    }
}

#[async_trait]
impl Controller for PodGarbage {
    fn name(&self) -> &str {
        "pod-garbage"
    }

    async fn reconcile(&self, _: &ObjectKey) -> Result<Action, Error> {
        self.nodes.synced().await;
        self.pods.synced().await;
        let pods = self.pods.list();
        let (over, next) = self.quarantined(&pods);
        let mut gone = BTreeSet::new();
        for node in over {
            // The cache may be behind (SEMANTICS 43).
            if Api::<Node>::all(self.client.clone()).get_opt(&node).await?.is_none() {
                gone.insert(node);
            }
        }
        let keys = plan(&pods, &gone, ENDED_MAX);
        for pod in pods.iter().filter(|pod| keys.binary_search(&ObjectKey::of(&***pod)).is_ok()) {
            self.clear(pod).await?;
        }
        Ok(next.map_or(Action::AwaitChange, Action::RequeueAfter))
    }
}

impl PodGarbage {
    /// The nodes that have been missing for as long as it takes, and when the next one will have been.
    fn quarantined(&self, pods: &[Arc<Pod>]) -> (Vec<String>, Option<Duration>) {
        let now = Instant::now();
        let named: BTreeSet<&str> = pods.iter().filter_map(|pod| node_of(pod)).collect();
        let absent = named.into_iter().filter(|node| self.nodes.get(&ObjectKey::new("", *node)).is_none());
        let mut missing = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        *missing = absent.map(|node| (node.to_owned(), missing.get(node).copied().unwrap_or(now))).collect();
        let left = |since: &Instant| QUARANTINE.saturating_sub(now.duration_since(*since));
        let over = missing.iter().filter(|(_, since)| left(since).is_zero()).map(|(node, _)| node.clone()).collect();
        (over, missing.values().map(left).filter(|left| !left.is_zero()).min())
    }

    /// Deletes a pod at once, if it is still the one that was seen; one that nobody runs has failed first.
    async fn clear(&self, pod: &Pod) -> Result<(), Error> {
        let (api, uid) = (Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default()), pod.uid());
        if node_of(pod).is_some() && !has_ended(pod) {
            let condition = json!({ "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC",
                "message": "PodGC: node no longer exists", "lastTransitionTime": Time(self.clock.now()) });
            let patch =
                json!({ "metadata": { "uid": uid }, "status": { "phase": "Failed", "conditions": [condition] } });
            settled(api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await)?;
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: uid.clone(), resource_version: None }),
            ..Default::default()
        };
        settled(api.delete(&pod.name_any(), &params).await)?;
        let gone =
            |pod: Option<&Pod>| pod.is_none_or(|pod| pod.uid() != uid || pod.metadata.deletion_timestamp.is_some());
        self.pods.until(&ObjectKey::of(pod), gone).await;
        Ok(())
    }
}

/// A pod that is gone, or another one by its name, is as good as cleared away.
fn settled<T>(outcome: kube::Result<T>) -> Result<(), Error> {
    match outcome {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use k8s_openapi::api::core::v1::Pod;
    use proptest::prelude::*;
    use serde_json::json;

    use super::plan;
    use crate::api::pod::phase;

    proptest! {
        #[test]
        fn running_pods_of_nodes_that_are_there_are_never_cleared(pods in proptest::collection::vec((0..3_u8, 0..3_usize), 0..30), max in 0..5_usize) {
            let pods: Vec<Arc<Pod>> = pods.iter().enumerate().map(|(n, &(node, phase))| {
                let phase = ["Running", "Succeeded", "Failed"][phase];
                let pod = json!({ "metadata": { "name": format!("p{n}"), "namespace": "a" },
                    "spec": { "containers": [], "nodeName": format!("n{node}") },
                    "status": { "phase": phase } });
                Arc::new(serde_json::from_value(pod).expect("a pod"))
            }).collect();
            let gone = BTreeSet::from(["n2".to_owned()]);
            let cleared = plan(&pods, &gone, max);
            let kept: Vec<_> = pods.iter().filter(|pod| !cleared.contains(&crate::controller::ObjectKey::of(&***pod))).collect();
            prop_assert!(kept.iter().filter(|pod| phase(pod) != "Running").count() <= max);
            for pod in &pods {
                let here = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) != Some("n2");
                if here && phase(pod) == "Running" {
                    prop_assert!(!cleared.contains(&crate::controller::ObjectKey::of(&**pod)));
                }
            }
        }
    }
}
