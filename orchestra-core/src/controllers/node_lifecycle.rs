//! Watches over nodes: one whose lease is not renewed is unreachable, and its pods go elsewhere.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

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
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;
use tokio::time::Instant;

use super::Parts;
use crate::{
    api::pod::is_ready,
    clock::{Clock, Timestamp},
    controller::{Action, Controller, Error, ObjectKey, Recorder, Runner, Severity},
    informer::{Change, Lister},
};

/// How long a node may be silent before it counts as unreachable: Kubernetes' `node-monitor-grace-period`.
pub const GRACE: Duration = Duration::from_secs(50);
/// The namespace of the nodes' leases.
pub const LEASE_NAMESPACE: &str = "kube-node-lease";

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const OWN_TAINTS: [&str; 3] = [NOT_READY, UNREACHABLE, UNSCHEDULABLE];
/// The conditions that a node's kubelet posts, and nobody knows once it is silent.
const KUBELETS_CONDITIONS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What a node needs done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Its conditions, since nobody knows them any more; `None` if they are to stay.
    pub conditions: Option<Vec<NodeCondition>>,
    /// Its taints as they should be; `None` if they are.
    pub taints: Option<Vec<Taint>>,
    /// Its pods that say they are ready, which nobody knows any more.
    pub unready: Vec<ObjectKey>,
    /// Its pods to evict now.
    pub evict: Vec<ObjectKey>,
    /// When to look again although nothing changes.
    pub look_again_after: Option<Duration>,
}

/// Decides what a node needs, given for how long it has not been heard of and its pods; pure.
#[must_use]
pub fn plan(node: &Node, silent: Duration, pods: &[Arc<Pod>], now: Timestamp) -> Plan {
    let ready = condition(node, "Ready").map(|ready| ready.status.as_str());
    let unreachable = silent >= GRACE;
    let trouble = match ready {
        _ if unreachable => Some(UNREACHABLE),
        Some("True") => None,
        Some("Unknown") => Some(UNREACHABLE),
        _ => Some(NOT_READY),
    };
    let conditions = (unreachable && ready != Some("Unknown")).then(|| unknown(node, now));
    let unschedulable = node.spec.as_ref().and_then(|spec| spec.unschedulable).unwrap_or(false);
    let current = node.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
    let wanted = taints(&current, trouble, unschedulable, now);
    let mut waits: Vec<Duration> = Vec::new();
    if !unreachable {
        waits.push(GRACE.saturating_sub(silent));
    }
    let (mut evict, mut unready) = (Vec::new(), Vec::new());
    for pod in pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()) {
        match leaves_in(pod, &wanted, now) {
            Some(left) if left <= 0 => evict.push(ObjectKey::of(&**pod)),
            Some(left) => waits.push(Duration::from_secs(left.unsigned_abs())),
            None => {}
        }
        if trouble == Some(UNREACHABLE) && is_ready(pod) {
            unready.push(ObjectKey::of(&**pod));
        }
    }
    let look_again_after = waits.into_iter().min();
    Plan { conditions, taints: (wanted != current).then_some(wanted), unready, evict, look_again_after }
}

/// A node's conditions once its kubelet is silent; those it never posted included.
fn unknown(node: &Node, now: Timestamp) -> Vec<NodeCondition> {
    let mut conditions = node.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    for type_ in KUBELETS_CONDITIONS {
        let old = conditions.iter_mut().find(|condition| condition.type_ == type_);
        let (reason, message) = match old {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        let new = NodeCondition {
            type_: type_.into(),
            status: "Unknown".into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_transition_time: Some(Time(now)),
            last_heartbeat_time: old.as_ref().and_then(|old| old.last_heartbeat_time.clone()),
        };
        match old {
            Some(old) if old.status == "Unknown" => {}
            Some(old) => *old = new,
            None => conditions.push(new),
        }
    }
    conditions
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

/// When each node was last heard of, by this process's own time: the clocks of nodes are not to be trusted.
#[derive(Debug, Default)]
struct Heard(Mutex<BTreeMap<ObjectKey, (Option<Timestamp>, Instant)>>);

impl Heard {
    /// Notes what a node's lease reads; for how long the node has been silent then, and was before.
    fn note(&self, node: &ObjectKey, lease: Option<&Lease>) -> (Duration, Duration) {
        let now = Instant::now();
        let renewed = lease.and_then(|lease| lease.spec.as_ref()?.renew_time.as_ref().map(|time| time.0));
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (last, at) = heard.entry(node.clone()).or_insert((renewed, now));
        let before = now.duration_since(*at);
        if *last != renewed {
            (*last, *at) = (renewed, now);
        }
        (now.duration_since(*at), before)
    }

    fn forget(&self, node: &ObjectKey) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(node);
    }
}

struct NodeLifecycle {
    client: Client,
    nodes: Lister<Node>,
    leases: Lister<Lease>,
    pods: Lister<Pod>,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
    heard: Arc<Heard>,
}

/// Makes the controller, ready to run.
#[must_use]
pub fn runner(parts: &Parts) -> Runner {
    let informers = &parts.informers;
    let (nodes, leases, pods) = (informers.of::<Node>(), informers.of::<Lease>(), informers.of::<Pod>());
    let controller = made(parts);
    let heard = Arc::clone(&controller.heard);
    // A renewal is only noted, unless the node was given up: many nodes renew often.
    let renewed = move |change: &Change<Lease>| {
        let node = ObjectKey::new("", change.key.name.clone());
        let given_up = &*change.key.namespace == LEASE_NAMESPACE && heard.note(&node, change.new.as_deref()).1 >= GRACE;
        if given_up { vec![node] } else { Vec::new() }
    };
    // A pod that comes to a node may have to leave it at once.
    let node_of = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|spec| spec.node_name.clone());
    let placed = move |change: &Change<Pod>| {
        let old = change.old.as_ref().and_then(node_of);
        let new = change.new.as_ref().and_then(node_of).filter(|new| old.as_ref() != Some(new));
        new.map(|node| ObjectKey::new("", node)).into_iter().collect()
    };
    parts.runner(controller).reconciles(&nodes).watches(&leases, renewed).watches(&pods, placed)
}

/// Makes the controller alone, for those who call it themselves.
#[must_use]
pub fn controller(parts: &Parts) -> impl Controller + use<> {
    made(parts)
}

fn made(parts: &Parts) -> NodeLifecycle {
    NodeLifecycle {
        client: parts.client.clone(),
        nodes: parts.informers.of(),
        leases: parts.informers.of(),
        pods: parts.informers.of(),
        clock: Arc::clone(&parts.clock),
        recorder: parts.recorder("node-controller"),
        heard: Arc::default(),
    }
}

#[async_trait]
impl Controller for NodeLifecycle {
    fn name(&self) -> &str {
        "node-lifecycle"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        self.nodes.synced().await;
        self.leases.synced().await;
        self.pods.synced().await;
        let Some(node) = self.nodes.get(key) else {
            self.heard.forget(key);
            return Ok(Action::AwaitChange);
        };
        let here = |pod: &Arc<Pod>| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(&*key.name);
        let pods: Vec<_> = self.pods.list().into_iter().filter(here).collect();
        let silent = self.silent_for(key).await?;
        let plan = plan(&node, silent, &pods, self.clock.now());
        let mut node = Node::clone(&node);
        if let Some(conditions) = &plan.conditions {
            node = self.write_conditions(&node, conditions).await?;
        }
        if let Some(taints) = &plan.taints {
            let patch = json!({ "metadata": { "resourceVersion": node.resource_version(), "uid": node.uid() },
                "spec": { "taints": taints } });
            let api = Api::<Node>::all(self.client.clone());
            let written = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            self.nodes.shows(&written).await;
        }
        for pod in pods.iter().filter(|pod| plan.unready.contains(&ObjectKey::of(&***pod))) {
            self.mark_unready(pod).await?;
        }
        for pod in pods.iter().filter(|pod| plan.evict.contains(&ObjectKey::of(&***pod))) {
            self.evict(pod).await?;
        }
        Ok(plan.look_again_after.map_or(Action::AwaitChange, Action::RequeueAfter))
    }
}

impl NodeLifecycle {
    /// For how long a node has not been heard of; before it is given up, its lease is read live (SEMANTICS 43): it may
    /// be this process that hears nothing.
    async fn silent_for(&self, key: &ObjectKey) -> Result<Duration, Error> {
        let lease = self.leases.get(&ObjectKey::new(LEASE_NAMESPACE, key.name.clone()));
        let (silent, _) = self.heard.note(key, lease.as_deref());
        if silent < GRACE {
            return Ok(silent);
        }
        let live = Api::<Lease>::namespaced(self.client.clone(), LEASE_NAMESPACE).get_opt(&key.name).await?;
        Ok(self.heard.note(key, live.as_ref()).0)
    }

    async fn write_conditions(&self, node: &Node, conditions: &[NodeCondition]) -> Result<Node, Error> {
        let mut next = node.clone();
        next.status.get_or_insert_default().conditions = Some(conditions.to_vec());
        let api = Api::<Node>::all(self.client.clone());
        let written = api.replace_status(&node.name_any(), &PostParams::default(), &next).await?;
        let message = format!("Node {} status is now: NodeNotReady", node.name_any());
        self.recorder.record(node, Severity::Normal, "NodeNotReady", message).await;
        self.nodes.shows(&written).await;
        Ok(written)
    }

    /// Takes a pod out of its services: nobody knows whether it still answers. Its kubelet says so again if it returns.
    async fn mark_unready(&self, pod: &Pod) -> Result<(), Error> {
        let condition = json!({ "type": "Ready", "status": "False", "lastTransitionTime": Time(self.clock.now()) });
        let patch = json!({ "metadata": { "resourceVersion": pod.resource_version(), "uid": pod.uid() },
            "status": { "conditions": [condition] } });
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        match api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(written) => {
                self.recorder.record(pod, Severity::Warning, "NodeNotReady", "Node is not ready").await;
                self.pods.shows(&written).await;
                Ok(())
            }
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Deletes a pod that has to leave, if it is still the one that was seen (SEMANTICS 43).
    async fn evict(&self, pod: &Pod) -> Result<(), Error> {
        let (key, uid) = (ObjectKey::of(pod), pod.uid());
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: uid.clone(), resource_version: None }),
            ..Default::default()
        };
        match Api::<Pod>::namespaced(self.client.clone(), &key.namespace).delete(&key.name, &params).await {
            Ok(_) => {
                let message = format!("Marking for deletion Pod {key}");
                self.recorder.record(pod, Severity::Normal, "TaintManagerEviction", message).await;
            }
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
            Err(error) => return Err(error.into()),
        }
        self.pods
            .until(&key, |pod| pod.is_none_or(|pod| pod.uid() != uid || pod.metadata.deletion_timestamp.is_some()))
            .await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use k8s_openapi::api::core::v1::{Node, Pod};
    use proptest::prelude::*;
    use serde_json::json;

    use super::{GRACE, Timestamp, plan};

    fn node(ready: &str) -> Node {
        serde_json::from_value(json!({ "metadata": { "name": "n1" }, "spec": {},
            "status": { "conditions": [{ "type": "Ready", "status": ready }] } }))
        .expect("a node")
    }

    fn pod(tolerations: &serde_json::Value) -> Arc<Pod> {
        let pod = json!({ "metadata": { "name": "p", "namespace": "a" }, "spec": { "containers": [], "tolerations": tolerations },
            "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
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
        let first = plan(&node, GRACE, &pods, at(0));
        assert_eq!((first.conditions.is_some(), first.evict.len(), first.unready.len()), (true, 1, 2));
        assert_eq!(first.look_again_after.map(|wait| wait.as_secs()), Some(300));
        node.spec.as_mut().expect("a spec").taints = first.taints;
        assert_eq!(plan(&node, GRACE, &pods, at(300)).evict.len(), 2);
    }

    #[test]
    fn a_node_that_returns_is_taken_back() {
        let mut node = node("True");
        node.spec.as_mut().expect("a spec").taints = plan(&node, GRACE, &[], at(0)).taints;
        let back = plan(&node, Duration::ZERO, &[pod(&json!([]))], at(60));
        assert_eq!((back.taints, back.evict, back.unready), (Some(Vec::new()), Vec::new(), Vec::new()));
    }

    #[test]
    fn cordoning_a_node_taints_it_and_nobody_leaves() {
        let mut node = node("True");
        node.spec.as_mut().expect("a spec").unschedulable = Some(true);
        let plan = plan(&node, Duration::ZERO, &[pod(&json!([]))], at(1));
        assert_eq!(plan.taints.map(|taints| taints.len()), Some(1));
        assert!(plan.evict.is_empty());
    }

    proptest! {
        /// SEMANTICS 45: once a plan is carried out, the next one is empty.
        #[test]
        fn a_plan_that_is_carried_out_leaves_nothing_to_do(ready in 0..3_usize, silent in 0..200_u64, cordoned in any::<bool>()) {
            let mut node = node(["True", "False", "Unknown"][ready]);
            node.spec.as_mut().expect("a spec").unschedulable = Some(cordoned);
            let silent = Duration::from_secs(silent);
            let first = plan(&node, silent, &[], at(0));
            if let (Some(taints), Some(spec)) = (first.taints, &mut node.spec) {
                spec.taints = Some(taints);
            }
            if let (Some(conditions), Some(status)) = (first.conditions, &mut node.status) {
                status.conditions = Some(conditions);
            }
            let second = plan(&node, silent, &[], at(1));
            prop_assert_eq!((second.taints, second.conditions), (None, None));
        }
    }
}
