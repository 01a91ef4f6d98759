//! Carrying out the places that a plan has found: as steps that the API server re-checks and commits whole, or by plain `Binding`s
//! where it takes no steps.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use k8s_openapi::{
    Resource as _,
    api::core::v1::{Binding, ObjectReference, Pod},
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ObjectMeta, PostParams},
};
use tokio::time::Instant;

use super::{
    super::{Commit, Detect, Heard, Op, Plan, Snapshot, Step, Trial, UnitId, apply, metrics::Result},
    SchedulingLoop,
    preempt::Preemption,
};
use crate::{
    api::plan_step::{Operation, PlanStep},
    controller::Severity,
    informer::ObjectKey,
};

/// How many requests run side by side.
const REQUESTS_AT_ONCE: usize = 16;
/// How many pods, each a unit of its own, are bound by one request: enough to share the cost of a commit, and with a node for each
/// of them still less than a transaction holds.
const PODS_IN_STEP_MAX: usize = 32;

/// What to do for one unit: its pods, each with its node, all of them or none.
#[derive(Clone, Debug)]
pub(super) struct Placement {
    pub(super) unit: UnitId,
    pub(super) pods: Vec<(Arc<Pod>, Box<str>)>,
}

/// How an API server binds pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Binder {
    /// By steps of plans.
    PlanStep,
    /// By a `Binding` for each pod.
    Binding,
}

impl Binder {
    /// The kind of its requests.
    pub(super) fn kind(self) -> &'static str {
        match self {
            Self::PlanStep => "PlanStep",
            Self::Binding => "Binding",
        }
    }
}

/// Why a placement did not happen, or nobody knows that it did.
#[derive(Debug)]
enum Unbound {
    /// This API server takes no steps, or none from us.
    NoSteps,
    /// The step is more than a transaction holds.
    TooLarge(String),
    /// Something is in the way.
    Refused(String),
}

/// What became of a placement.
type Outcome = (Placement, std::result::Result<(), Unbound>);

impl SchedulingLoop {
    /// What is to be done for those steps of a plan that hold.
    pub(super) fn checked(
        &mut self,
        plan: &Plan,
        present: &[Arc<Pod>],
        snapshot: &Snapshot,
    ) -> (Vec<Placement>, Vec<Preemption>) {
        let (mut placements, mut preemptions) = (Vec::new(), Vec::new());
        let mut trial = Trial::new(snapshot);
        for step in &plan.steps {
            let Ok(ops) = apply(&mut trial, step, Detect::Fit) else {
                self.back_off(step, present);
                continue;
            };
            let pods = ops.iter().filter_map(|op| {
                let Op::Place { pod, place } = op else { return None };
                Some((Arc::clone(present.get(pod.0 as usize)?), snapshot.node(place.node).name.clone()))
            });
            let pods: Vec<_> = pods.collect();
            match step.commit {
                Commit::Whole if pods.is_empty() => {}
                Commit::Whole => placements.push(Placement { unit: step.unit, pods }),
                Commit::Each => {
                    let each = pods.into_iter().map(|pod| Placement { unit: step.unit, pods: vec![pod] });
                    placements.extend(each);
                }
            }
            preemptions.extend(Preemption::of(step.unit, &ops, present, snapshot));
        }
        (placements, preemptions)
    }

    /// A step that does not even hold on what it was planned on: its scheduler breaks its law, and had better not be asked at once.
    fn back_off(&mut self, step: &Step, present: &[Arc<Pod>]) {
        for op in &step.ops {
            if let Op::Place { pod, .. } | Op::Nominate { pod, .. } = op
                && let Some(object) = present.get(pod.0 as usize)
            {
                self.queue.refused(&object.uid().unwrap_or_default(), Instant::now());
            }
        }
        self.now_planning().scheduler.heard(&Heard::Refused(step.unit));
    }

    /// Binds pods to nodes, and hears what comes of it.
    pub(super) async fn bind(&mut self, placements: Vec<Placement>, took: Duration) {
        if placements.is_empty() {
            return;
        }
        for (pod, node) in placements.iter().flat_map(|placement| &placement.pods) {
            self.assumed.insert(ObjectKey::of(&**pod), (pod.uid().unwrap_or_default(), node.clone()));
        }
        let outcomes = match self.binder().await {
            Ok(Binder::PlanStep) => self.bind_by_steps(placements).await,
            Ok(Binder::Binding) => self.bind_one_by_one(placements).await,
            Err(error) => {
                let refused = |placement| (placement, Err(Unbound::Refused(error.to_string())));
                placements.into_iter().map(refused).collect()
            }
        };
        let bound = outcomes.iter().filter(|(_, outcome)| outcome.is_ok()).flat_map(|(placement, _)| &placement.pods);
        let bound: Vec<_> = bound.cloned().collect();
        let recorder = self.now_planning().recorder.clone();
        let told = bound.into_iter().map(|(pod, node)| {
            let recorder = recorder.clone();
            async move {
                let message = format!("Successfully assigned {} to {node}", ObjectKey::of(&*pod));
                recorder.record(&*pod, Severity::Normal, "Scheduled", message).await;
            }
        });
        let () = stream::iter(told).buffered(REQUESTS_AT_ONCE).collect().await;
        for (placement, outcome) in outcomes {
            self.hear(&placement, &outcome, took);
        }
    }

    /// How this API server binds pods: asked once, and again only if it did not answer.
    pub(super) async fn binder(&mut self) -> kube::Result<Binder> {
        if let Some(known) = self.binder {
            return Ok(known);
        }
        let takes_steps = match self.client.list_api_group_resources(PlanStep::API_VERSION).await {
            Ok(list) => list.resources.iter().any(|resource| resource.name == PlanStep::URL_PATH_SEGMENT),
            Err(kube::Error::Api(status)) if status.code == 404 || status.code == 403 => false,
            Err(error) => return Err(error),
        };
        if !takes_steps {
            return Ok(self.fall_back());
        }
        self.binder = Some(Binder::PlanStep);
        Ok(Binder::PlanStep)
    }

    /// From now on plain bindings have to do, and it is said so.
    fn fall_back(&mut self) -> Binder {
        tracing::warn!(
            "the API server takes no plan steps: nothing keeps another scheduler from the room of a pod, and no gang whole"
        );
        self.binder = Some(Binder::Binding);
        Binder::Binding
    }

    async fn bind_by_steps(&mut self, placements: Vec<Placement>) -> Vec<Outcome> {
        let mut requests: Vec<Vec<Placement>> = Vec::new();
        for placement in placements {
            let has_room =
                |last: &&mut Vec<Placement>| last.len() < PODS_IN_STEP_MAX && last.iter().all(Placement::is_single);
            match requests.last_mut().filter(has_room) {
                Some(last) if placement.is_single() => last.push(placement),
                _ => requests.push(vec![placement]),
            }
        }
        let (mut outcomes, mut others) = (Vec::new(), Vec::new());
        for (placement, outcome) in self.commit_all(requests).await {
            match outcome {
                Err(Unbound::NoSteps) => others.push(placement),
                Err(Unbound::TooLarge(_)) if placement.is_single() => {
                    outcomes.extend(self.commit_all(vec![vec![placement]]).await);
                }
                outcome => outcomes.push((placement, outcome)),
            }
        }
        if !others.is_empty() {
            self.fall_back();
            outcomes.extend(self.bind_one_by_one(others).await);
        }
        outcomes
    }

    /// Sends steps one after the other: side by side, they would be in each other's way where they give pods to the same node.
    async fn commit_all(&self, requests: Vec<Vec<Placement>>) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        for placements in requests {
            outcomes.extend(commit(self.client.clone(), placements).await);
        }
        outcomes
    }

    /// Binds each pod by itself: of a gang, maybe not all.
    async fn bind_one_by_one(&self, placements: Vec<Placement>) -> Vec<Outcome> {
        let single = placements
            .into_iter()
            .flat_map(|Placement { unit, pods }| pods.into_iter().map(move |pod| Placement { unit, pods: vec![pod] }));
        let bound = single.map(|placement| {
            let client = self.client.clone();
            async move {
                let mut outcome = Ok(());
                for (pod, node) in &placement.pods {
                    outcome = bind(&client, pod, node).await.map_err(|error| Unbound::Refused(error.to_string()));
                }
                (placement, outcome)
            }
        });
        stream::iter(bound).buffered(REQUESTS_AT_ONCE).collect().await
    }

    fn hear(&mut self, placement: &Placement, outcome: &std::result::Result<(), Unbound>, took: Duration) {
        let planning = self.now_planning().name.clone();
        let request = self.binder.unwrap_or(Binder::PlanStep).kind();
        self.metrics.bound(request, outcome.is_ok(), placement.pods.len());
        let result = if outcome.is_ok() { Result::Scheduled } else { Result::Error };
        for (pod, _) in &placement.pods {
            let key = ObjectKey::of(&**pod);
            self.metrics.attempted(&planning, result, took);
            match outcome {
                Ok(()) => continue,
                Err(Unbound::TooLarge(why)) => tracing::warn!(pod = %key, why, "more than one commit holds"),
                Err(Unbound::Refused(why)) => tracing::debug!(pod = %key, why, "binding refused"),
                Err(Unbound::NoSteps) => {}
            }
            self.assumed.remove(&key);
            self.queue.refused(&pod.uid().unwrap_or_default(), Instant::now());
        }
        let heard = if outcome.is_ok() { Heard::Committed } else { Heard::Refused };
        self.now_planning().scheduler.heard(&heard(placement.unit));
    }
}

impl Placement {
    fn is_single(&self) -> bool {
        self.pods.len() == 1
    }
}

/// Sends one step: of pods that stand for themselves, or of one gang.
async fn commit(client: Client, placements: Vec<Placement>) -> Vec<Outcome> {
    let pods = placements.iter().flat_map(|placement| &placement.pods);
    let step = PlanStep::new(pods.map(|(pod, node)| Operation::place(pod, node)).collect());
    let is_each = placements.iter().all(Placement::is_single);
    let step = if is_each { step.each() } else { step };
    match Api::<PlanStep>::all(client).create(&PostParams::default(), &step).await {
        Ok(done) => {
            let became = done.status.unwrap_or_default().operations.into_iter();
            let mut became = became.map(|one| if one.committed { Ok(()) } else { Err(Unbound::Refused(one.message)) });
            let unsaid = || Err(Unbound::Refused("the answer does not tell what became of it".into()));
            let outcome = |placement: Placement| {
                // A step that is committed whole is answered only if it was.
                let own = (&mut became).take(placement.pods.len());
                let outcome = own.reduce(std::result::Result::and).unwrap_or_else(unsaid);
                (placement, outcome)
            };
            placements.into_iter().map(outcome).collect()
        }
        Err(error) => {
            let why = || match &error {
                kube::Error::Api(status) if matches!(status.code, 403..=405) => Unbound::NoSteps,
                kube::Error::Api(status) if matches!(status.code, 413 | 422) => Unbound::TooLarge(error.to_string()),
                _ => Unbound::Refused(error.to_string()),
            };
            placements.into_iter().map(|placement| (placement, Err(why()))).collect()
        }
    }
}

async fn bind(client: &Client, pod: &Pod, node: &str) -> kube::Result<()> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.namespace(),
            uid: pod.uid(),
            ..Default::default()
        },
        target: ObjectReference { kind: Some("Node".into()), name: Some(node.into()), ..Default::default() },
    };
    let body = serde_json::to_vec(&binding).map_err(kube::Error::SerdeError)?;
    let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let request = kube::core::Request::new(api.resource_url())
        .create_subresource("binding", &pod.name_any(), &PostParams::default(), body)
        .map_err(kube::Error::BuildRequest)?;
    client.request_text(request).await.map(drop)
}
