//! Watches over nodes: one whose lease is not renewed is unreachable, and its pods go elsewhere.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{Node, NodeCondition, Pod, Taint, Toleration},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use serde_json::json;

use super::Parts;
use crate::{
    clock::{Clock, Timestamp},
    controller::{Action, Controller, Error, ObjectKey, Recorder, Runner, Severity},
    informer::{Change, Lister},
};

/// How long a node may be silent before it counts as unreachable: Kubernetes' `node-monitor-grace-period`.
pub const GRACE_SECONDS: i64 = 50;
/// The namespace of the nodes' leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const OWN_TAINTS: [&str; 3] = [NOT_READY, UNREACHABLE, UNSCHEDULABLE];

/// What a node needs done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Whether its conditions are to read `Unknown`.
    pub unknown: bool,
    /// Its taints as they should be; `None` if they are.
    pub taints: Option<Vec<Taint>>,
    /// Its pods to evict now.
    pub evict: Vec<ObjectKey>,
    /// When to look again although nothing changes.
    pub look_again_after: Option<Duration>,
}

/// Decides what a node needs, given when it was last heard of and its pods; pure.
#[must_use]
pub fn plan(node: &Node, heard: Option<Timestamp>, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let silent = heard.map_or(i64::MAX, |heard| now.duration_since(heard).as_secs());
    let ready = condition(node, "Ready").map(|ready| ready.status.as_str());
    let unreachable = silent >= GRACE_SECONDS;
    let unknown = unreachable && ready.is_some_and(|status| status != "Unknown");
    let trouble = match ready {
        _ if unreachable => Some(UNREACHABLE),
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let current = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let wanted = taints(&current, trouble, unschedulable, now);
    let mut waits: Vec<i64> = Vec::new();
    if !unreachable {
        waits.push(GRACE_SECONDS - silent);
    }
    let mut evict = Vec::new();
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        match leaves_in(pod, &wanted, now) {
            Some(left) if left <= 0 => evict.push(ObjectKey::of(&**pod)),
            Some(left) => waits.push(left),
            None => {}
        }
    }
    let look_again_after = waits.into_iter().min().map(|wait| Duration::from_secs(wait.max(1).unsigned_abs()));
    Plan { unknown, taints: (wanted != current).then_some(wanted), evict, look_again_after }
}

/// The taints a node should have: everyone else's, and those of its own trouble, as old as they are.
fn taints(current: &[Taint], trouble: Option<&str>, unschedulable: bool, now: Timestamp) -> Vec<Taint> {
    let mut wanted: Vec<Taint> =
        current.iter().filter(|taint| !OWN_TAINTS.contains(&taint.key.as_str())).cloned().collect();
    let mut add = |key: &str, effect: &str| {
        let old = current.iter().find(|taint| taint.key == key && taint.effect == effect);
        let new = Taint {
            key: key.into(),
            effect: effect.into(),
            value: None,
            time_added: (effect == "NoExecute").then_some(Time(now)),
        };
        wanted.push(old.cloned().unwrap_or(new));
    };
    if let Some(key) = trouble {
        add(key, "NoSchedule");
        add(key, "NoExecute");
    }
    if unschedulable {
        add(UNSCHEDULABLE, "NoSchedule");
    }
    wanted
}

/// In how many seconds a pod has to leave for the node's taints; `None` if it may stay.
fn leaves_in(pod: &Pod, taints: &[Taint], now: Timestamp) -> Option<i64> {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_deref()).unwrap_or_default();
    let driving = taints.iter().filter(|taint| taint.effect == "NoExecute");
    driving
        .filter_map(|taint| {
            let tolerating: Vec<_> = tolerations.iter().filter(|toleration| tolerates(toleration, taint)).collect();
            if tolerating.is_empty() {
                return Some(0);
            }
            let seconds = tolerating.iter().filter_map(|toleration| toleration.toleration_seconds).min()?;
            let added = taint.time_added.as_ref().map_or(now, |time| time.0);
            Some(seconds.max(0) - now.duration_since(added).as_secs())
        })
        .min()
}

/// Whether a toleration is for a taint.
pub(crate) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let effect = toleration.effect.as_deref().filter(|effect| !effect.is_empty());
    let key = toleration.key.as_deref().filter(|key| !key.is_empty());
    effect.is_none_or(|effect| effect == taint.effect)
        && match toleration.operator.as_deref() {
            Some("Exists") => key.is_none_or(|key| key == taint.key),
            _ => {
                key == Some(&taint.key)
                    && toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
            }
        }
}

fn condition<'a>(node: &'a Node, type_: &str) -> Option<&'a NodeCondition> {
    let conditions = node.status.as_ref()?.conditions.as_deref()?;
    conditions.iter().find(|condition| condition.type_ == type_)
}

struct NodeLifecycle {
    client: Client,
    nodes: Lister<Node>,
    leases: Lister<Lease>,
    pods: Lister<Pod>,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
}

/// Makes the controller, ready to run.
#[must_use]
pub fn runner(parts: &Parts) -> Runner {
    let informers = &parts.informers;
    let (nodes, leases, pods) = (informers.of::<Node>(), informers.of::<Lease>(), informers.of::<Pod>());
    let controller = NodeLifecycle {
        client: parts.client.clone(),
        nodes: nodes.clone(),
        leases,
        pods,
        clock: Arc::clone(&parts.clock),
        recorder: parts.recorder("node-controller"),
    };
    // Leases are looked at when they may have run out, not each time they are renewed.
    Runner::new(controller, parts.entropy.fork()).watches(&nodes, |change: &Change<Node>| vec![change.key.clone()])
}

#[async_trait]
impl Controller for NodeLifecycle {
    fn name(&self) -> &str {
        "node-lifecycle"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        self.leases.synced().await;
        self.pods.synced().await;
        let Some(node) = self.nodes.get(key) else { return Ok(Action::AwaitChange) };
        let here = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&*key.name);
        let pods: Vec<_> = self.pods.list().into_iter().filter(here).collect();
        let plan = plan(&node, self.heard(&node, key), &pods, self.clock.now());
        let api = Api::<Node>::all(self.client.clone());
        if plan.unknown {
            self.mark_unknown(&api, &node).await?;
        }
        if let Some(taints) = &plan.taints {
            let version = node.resource_version().filter(|_| !plan.unknown);
            let patch =
                json!({ "metadata": { "resourceVersion": version, "uid": node.uid() }, "spec": { "taints": taints } });
            api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        for pod in &plan.evict {
            self.evict(pod, &pods).await?;
        }
        Ok(plan.look_again_after.map_or(Action::AwaitChange, Action::RequeueAfter))
    }
}

impl NodeLifecycle {
    /// When the node was last heard of: its lease's renewal, or else its own creation.
    fn heard(&self, node: &Node, key: &ObjectKey) -> Option<Timestamp> {
        let lease = self.leases.get(&ObjectKey::new(LEASE_NAMESPACE, key.name.clone()));
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
        renewed.or_else(|| node.metadata.creation_timestamp.as_ref().map(|time| time.0))
    }

    async fn mark_unknown(&self, api: &Api<Node>, node: &Node) -> Result<(), Error> {
        let now = Time(self.clock.now());
        let mut conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        for condition in conditions.iter_mut().filter(|condition| condition.status != "Unknown") {
            condition.status = "Unknown".into();
            condition.reason = Some("NodeStatusUnknown".into());
            condition.message = Some("Kubelet stopped posting node status.".into());
            condition.last_transition_time = Some(now.clone());
        }
        let patch = json!({ "metadata": { "uid": node.uid() }, "status": { "conditions": conditions } });
        api.patch_status(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        let message = format!("Node {} status is now: NodeNotReady", node.name_any());
        self.recorder.record(node, Severity::Normal, "NodeNotReady", message).await;
        Ok(())
    }

    /// Deletes a pod that has to leave, if it is still the one that was seen (SEMANTICS 43).
    async fn evict(&self, key: &ObjectKey, pods: &[Arc<Pod>]) -> Result<(), Error> {
        let pod = pods.iter().find(|pod| ObjectKey::of(&***pod) == *key);
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: pod.and_then(|pod| pod.uid()), resource_version: None }),
            ..Default::default()
        };
        match Api::<Pod>::namespaced(self.client.clone(), &key.namespace).delete(&key.name, &params).await {
            Ok(_) => {
                if let Some(pod) = pod {
                    let message = format!("Marking for deletion Pod {key}");
                    self.recorder.record(&**pod, Severity::Normal, "TaintManagerEviction", message).await;
                }
                Ok(())
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{Node, Pod};
    use proptest::prelude::*;
    use serde_json::json;

    use super::{GRACE_SECONDS, Timestamp, plan};

    fn node(ready: &str) -> Node {
        serde_json::from_value(json!({ "metadata": { "name": "n1" }, "spec": {},
            "status": { "conditions": [{ "type": "Ready", "status": ready }] } }))
        .expect("a node")
    }

    fn pod(tolerations: &serde_json::Value) -> Arc<Pod> {
        let pod = json!({ "metadata": { "name": "p", "namespace": "a" }, "spec": { "containers": [], "tolerations": tolerations } });
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + seconds).expect("in range")
    }

    #[test]
    fn a_silent_node_is_unreachable_and_its_pods_leave_when_their_toleration_is_over() {
        let tolerant = pod(&json!([{ "key": "node.kubernetes.io/unreachable", "operator": "Exists",
            "effect": "NoExecute", "tolerationSeconds": 300 }]));
        let pods = [pod(&json!([])), tolerant];
        let mut node = node("True");
        let first = plan(&node, Some(at(0)), &pods, at(GRACE_SECONDS));
        assert!(first.unknown && first.evict.len() == 1);
        assert_eq!(first.look_again_after.map(|wait| wait.as_secs()), Some(300));
        node.spec.as_mut().expect("a spec").taints = first.taints;
        assert_eq!(plan(&node, Some(at(0)), &pods, at(GRACE_SECONDS + 300)).evict.len(), 2);
    }

    #[test]
    fn cordoning_a_node_taints_it_and_nobody_leaves() {
        let mut node = node("True");
        node.spec.as_mut().expect("a spec").unschedulable = Some(true);
        let plan = plan(&node, Some(at(0)), &[pod(&json!([]))], at(1));
        assert_eq!(plan.taints.map(|taints| taints.len()), Some(1));
        assert!(plan.evict.is_empty());
    }

    proptest! {
        /// SEMANTICS 45: once a plan is carried out, the next one is empty.
        #[test]
        fn a_plan_that_is_carried_out_leaves_nothing_to_do(ready in 0..3_usize, silent in 0..200_i64, cordoned in any::<bool>()) {
            let mut node = node(["True", "False", "Unknown"][ready]);
            node.spec.as_mut().expect("a spec").unschedulable = Some(cordoned);
            let first = plan(&node, Some(at(0)), &[], at(silent));
            if let (Some(taints), Some(spec)) = (first.taints, &mut node.spec) {
                spec.taints = Some(taints);
            }
            if let (true, Some(status)) = (first.unknown, &mut node.status) {
                status.conditions.iter_mut().flatten().for_each(|condition| condition.status = "Unknown".into());
            }
            let second = plan(&node, Some(at(0)), &[], at(silent));
            prop_assert_eq!((second.taints, second.unknown), (None, false));
        }
    }
}
