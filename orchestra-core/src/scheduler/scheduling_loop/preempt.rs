//! Carrying out a preemption: its pod is nominated, so that nobody takes the room, and its victims are deleted; all at once where
//! the API server takes steps of plans, and else in this order.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, PostParams, Preconditions},
};
use serde_json::json;
use tokio::time::Instant;

use super::{
    super::{Heard, NodeId, Op, PodId, Snapshot, UnitId, metrics::Result},
    SchedulingLoop,
    bind::Binder,
};
use crate::{
    api::plan_step::{Operation, PlanStep},
    controller::Severity,
    informer::ObjectKey,
};

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

/// How a preemption is carried out.
enum Way {
    /// All at once; it is done.
    Done,
    /// One by one: to be done.
    OneByOne,
    /// Not at all.
    Refused(kube::Error),
}

impl SchedulingLoop {
    /// Nominates the pods of a preemption, and deletes its victims (SEMANTICS 45): in one commit, where the API server takes steps, so
    /// that nobody leaves for a pod that is gone.
    pub(super) async fn preempt(&mut self, preemption: Preemption, took: Duration) {
        let planning = self.now_planning().name.clone();
        let message = format!("{planning}: preempting to accommodate a higher priority pod");
        let way = self.preempt_by_step(&preemption, &message).await;
        let Preemption { unit, nominated, victims, superseded } = preemption;
        if let Way::Refused(error) = way {
            for (pod, _) in &nominated {
                tracing::debug!(pod = %ObjectKey::of(&**pod), %error, "preemption refused");
                self.metrics.attempted(&planning, Result::Error, took);
                self.queue.refused(&pod.uid().unwrap_or_default(), Instant::now());
            }
            self.now_planning().scheduler.heard(&Heard::Refused(unit));
            return;
        }
        for pod in superseded {
            self.write_status(&pod, &json!({ "nominatedNodeName": null })).await;
        }
        for (pod, node) in &nominated {
            let leaving = victims.iter().filter(|(_, on, _)| on == node).count();
            let message = format!("no node has room: {leaving} less important pod(s) are to leave {node}");
            self.metrics.attempted(&planning, Result::Unschedulable, took);
            self.tell(pod, message, Some(node)).await;
        }
        self.metrics.preempted(victims.len());
        for (victim, node, preemptor) in victims {
            if matches!(way, Way::OneByOne) && !self.evict(&victim, &message).await {
                continue;
            }
            let recorder = self.now_planning().recorder.clone();
            let message = format!("Preempted by pod {preemptor} on node {node}");
            recorder.record(&*victim, Severity::Normal, "Preempted", message).await;
        }
        self.now_planning().scheduler.heard(&Heard::Committed(unit));
    }

    async fn preempt_by_step(&mut self, preemption: &Preemption, message: &str) -> Way {
        match self.binder().await {
            Ok(Binder::PlanStep) => {}
            Ok(Binder::Binding) => return Way::OneByOne,
            Err(error) => return Way::Refused(error),
        }
        let nominated = preemption.nominated.iter().map(|(pod, node)| Operation::nominate(pod, node));
        let evicted = preemption.victims.iter().map(|(victim, _, _)| Operation::evict(victim, message));
        let step = PlanStep::new(nominated.chain(evicted).collect());
        match Api::<PlanStep>::all(self.client.clone()).create(&PostParams::default(), &step).await {
            Ok(_) => Way::Done,
            // More than a commit holds, or no step at all: what can't be done at once is done bit by bit.
            Err(kube::Error::Api(status)) if matches!(status.code, 403..=405 | 413 | 422) => Way::OneByOne,
            Err(error) => Way::Refused(error),
        }
    }

    /// Deletes a pod; whether it is on its way out now.
    async fn evict(&mut self, victim: &Pod, message: &str) -> bool {
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
        // If not, it has left by itself, or another try will come.
        let deleted = api.delete(&victim.name_any(), &params).await;
        if let Err(error) = &deleted {
            tracing::debug!(pod = %ObjectKey::of(victim), %error, "not preempted");
        }
        deleted.is_ok()
    }
}
