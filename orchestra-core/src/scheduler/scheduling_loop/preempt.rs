//! Carrying out a preemption: its pod is nominated first, so that nobody takes the room, then its victims are deleted.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, Preconditions},
};
use serde_json::json;

use super::{
    super::{Heard, NodeId, Op, PodId, Snapshot, UnitId, metrics::Result},
    SchedulingLoop,
};
use crate::{controller::Severity, informer::ObjectKey};

/// One step's evictions and nominations.
#[derive(Debug)]
pub(super) struct Preemption {
    unit: UnitId,
    /// The pods that wait for room, each with its node.
    nominated: Vec<(Arc<Pod>, Box<str>)>,
    /// The pods that are to leave, each with the node and the uid of the pod that it leaves for.
    victims: Vec<(Arc<Pod>, Box<str>, String)>,
    /// The less important pods that waited for room on these nodes: they have to look for another.
    superseded: Vec<Arc<Pod>>,
}

impl Preemption {
    /// What a step's operations ask for; `None` if they are only places.
    pub(super) fn of(unit: UnitId, ops: &[Op], present: &[Arc<Pod>], snapshot: &Snapshot) -> Option<Self> {
        let object = |pod: &PodId| present.get(pod.0 as usize).cloned();
        let name = |node: NodeId| snapshot.node(node).name.clone();
        let mut preemption = Self { unit, nominated: Vec::new(), victims: Vec::new(), superseded: Vec::new() };
        for op in ops {
            match op {
                Op::Nominate { pod, node } => {
                    preemption.nominated.extend(object(pod).map(|pod| (pod, name(*node))));
                    let is_less = |(other, on): &(PodId, NodeId)| {
                        on == node && snapshot.pod(*other).priority < snapshot.pod(*pod).priority
                    };
                    let superseded = snapshot.nominated().filter(is_less);
                    preemption.superseded.extend(superseded.filter_map(|(other, _)| object(&other)));
                }
                Op::Evict { pod, preemptor } => {
                    let Some(place) = snapshot.place_of(*pod) else { continue };
                    let uid = preemptor.map(|pod| snapshot.pod(pod).uid.to_string()).unwrap_or_default();
                    preemption.victims.extend(object(pod).map(|pod| (pod, name(place.node), uid)));
                }
                Op::Place { .. } | Op::Probe { .. } => {}
            }
        }
        (!preemption.nominated.is_empty() || !preemption.victims.is_empty()).then_some(preemption)
    }
}

impl SchedulingLoop {
    /// Nominates the pods of a preemption, and deletes its victims (SEMANTICS 45).
    pub(super) async fn preempt(&mut self, preemption: Preemption, took: Duration) {
        let Preemption { unit, nominated, victims, superseded } = preemption;
        for pod in superseded {
            self.write_status(&pod, &json!({ "nominatedNodeName": null })).await;
        }
        for (pod, node) in &nominated {
            let leaving = victims.iter().filter(|(_, on, _)| on == node).count();
            let message = format!("no node has room: {leaving} less important pod(s) are to leave {node}");
            let planning = self.now_planning().name.clone();
            self.metrics.attempted(&planning, Result::Unschedulable, took);
            self.tell(pod, message, Some(node)).await;
        }
        self.metrics.preempted(victims.len());
        for (victim, node, preemptor) in victims {
            self.evict(&victim, &node, &preemptor).await;
        }
        self.now_planning().scheduler.heard(&Heard::Committed(unit));
    }

    async fn evict(&mut self, victim: &Pod, node: &str, preemptor: &str) {
        let (name, recorder) = (self.now_planning().name.clone(), self.now_planning().recorder.clone());
        let message = format!("{name}: preempting to accommodate a higher priority pod");
        let condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": message,
            "lastTransitionTime": k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(self.clock.now()),
        });
        self.write_status(victim, &json!({ "conditions": [condition] })).await;
        let preconditions = Preconditions { uid: victim.uid(), resource_version: None };
        let params = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() };
        let api = Api::<Pod>::namespaced(self.client.clone(), &victim.namespace().unwrap_or_default());
        match api.delete(&victim.name_any(), &params).await {
            Ok(_) => {
                let message = format!("Preempted by pod {preemptor} on node {node}");
                recorder.record(victim, Severity::Normal, "Preempted", message).await;
            }
            // It has left by itself, or another try will come.
            Err(error) => tracing::debug!(pod = %ObjectKey::of(victim), %error, "not preempted"),
        }
    }
}
