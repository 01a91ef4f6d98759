//! Clears away pods that nobody else will: those of nodes that are gone, and the oldest of too many that have ended.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, Preconditions},
};

use super::{Parts, replica_set::phase};
use crate::{
    clock::Timestamp,
    controller::{Action, Controller, Error, ObjectKey, Runner},
    informer::{Change, Lister},
};

/// How many pods that have ended are kept; Kubernetes' `terminated-pod-gc-threshold`.
pub const ENDED_MAX: usize = 12_500;
/// How long the pods of a node that is gone are kept: it may only be registering anew.
const QUARANTINE: Duration = Duration::from_secs(40);

/// The pods to clear away, given the names of the nodes there are; pure.
#[must_use]
pub fn plan(pods: &[Arc<Pod>], nodes: &BTreeSet<String>, ended_max: usize) -> Vec<ObjectKey> {
    let node = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    let orphaned = pods.iter().filter(|pod| !node(pod).is_empty() && !nodes.contains(&node(pod)));
    let unplaced = pods.iter().filter(|pod| node(pod).is_empty() && pod.metadata.deletion_timestamp.is_some());
    let mut ended: Vec<_> = pods.iter().filter(|pod| matches!(phase(pod), "Succeeded" | "Failed")).collect();
    ended.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0));
    let surplus = ended.len().saturating_sub(ended_max);
    let keys: BTreeSet<_> =
        orphaned.chain(unplaced).chain(ended.into_iter().take(surplus)).map(|pod| ObjectKey::of(&**pod)).collect();
    keys.into_iter().collect()
}

struct PodGarbage {
    client: Client,
    nodes: Lister<Node>,
    pods: Lister<Pod>,
}

/// Makes the controller, ready to run. It has one key, for all pods are looked at together.
#[must_use]
pub fn runner(parts: &Parts) -> Runner {
    let (nodes, pods) = (parts.informers.of::<Node>(), parts.informers.of::<Pod>());
    let controller = PodGarbage { client: parts.client.clone(), nodes: nodes.clone(), pods: pods.clone() };
    let gone = |change: &Change<Node>| if change.new.is_none() { vec![ObjectKey::default()] } else { Vec::new() };
    let ended = |change: &Change<Pod>| {
        let over =
            |pod: &Arc<Pod>| matches!(phase(pod), "Succeeded" | "Failed") || pod.metadata.deletion_timestamp.is_some();
        if change.new.as_ref().is_some_and(over) || change.old.is_none() {
            vec![ObjectKey::default()]
        } else {
            Vec::new()
        }
    };
    Runner::new(controller, parts.entropy.fork()).watches(&nodes, gone).watches(&pods, ended)
}

#[async_trait]
impl Controller for PodGarbage {
    fn name(&self) -> &str {
        "pod-garbage"
    }

    async fn reconcile(&self, _: &ObjectKey) -> Result<Action, Error> {
        self.nodes.synced().await;
        self.pods.synced().await;
        let (pods, nodes) = (self.pods.list(), self.names());
        let suspects = plan(&pods, &nodes, ENDED_MAX);
        if suspects.is_empty() {
            return Ok(Action::AwaitChange);
        }
        tokio::time::sleep(QUARANTINE).await;
        let (pods, nodes) = (self.pods.list(), self.names());
        for key in plan(&pods, &nodes, ENDED_MAX).iter().filter(|key| suspects.contains(key)) {
            let uid = pods.iter().find(|pod| ObjectKey::of(&***pod) == *key).and_then(|pod| pod.uid());
            let params = DeleteParams {
                grace_period_seconds: Some(0),
                preconditions: Some(Preconditions { uid, resource_version: None }),
                ..Default::default()
            };
            match Api::<Pod>::namespaced(self.client.clone(), &key.namespace).delete(&key.name, &params).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Action::AwaitChange)
    }
}

impl PodGarbage {
    fn names(&self) -> BTreeSet<String> {
        self.nodes.list().iter().map(|node| node.name_any()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use k8s_openapi::api::core::v1::Pod;
    use proptest::prelude::*;
    use serde_json::json;

    use super::plan;

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
            let nodes = BTreeSet::from(["n0".to_owned(), "n1".to_owned()]);
            let cleared = plan(&pods, &nodes, max);
            let kept: Vec<_> = pods.iter().filter(|pod| !cleared.contains(&crate::controller::ObjectKey::of(&***pod))).collect();
            prop_assert!(kept.iter().filter(|pod| super::phase(pod) != "Running").count() <= max);
            for pod in &pods {
                let here = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) != Some("n2");
                if here && super::phase(pod) == "Running" {
                    prop_assert!(!cleared.contains(&crate::controller::ObjectKey::of(&**pod)));
                }
            }
        }
    }
}
