//! The loop around a scheduler: pods that wait in, bindings out.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fmt,
    num::NonZeroU32,
    sync::Arc,
};

use futures::{StreamExt as _, stream};
use k8s_openapi::{
    api::core::v1::{Binding, Node, ObjectReference, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::{
    Ask, Detect, Heard, Left, NodeView, Op, PodId, PodView, Scheduler, Snapshot, Trial, Unit, UnitId, apply,
    queue::Queue,
};
use crate::{
    clock::Clock,
    controller::{Recorder, Severity},
    informer::{Change, Informers, Lister, ObjectKey},
    rng::Entropy,
};

/// The scheduler that pods name unless they say otherwise.
pub const DEFAULT_SCHEDULER: &str = "default-scheduler";
/// How many bindings run side by side.
const BINDINGS_AT_ONCE: usize = 16;
/// How many candidate placements one plan may look at.
const STEPS_MAX: NonZeroU32 = NonZeroU32::MAX;

/// Binds the pods that name one scheduler to the nodes that it chooses, on any Kubernetes API.
pub struct SchedulingLoop {
    client: Client,
    pods: Lister<Pod>,
    nodes: Lister<Node>,
    scheduler: Box<dyn Scheduler>,
    scheduler_name: String,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
    recorder: Recorder,
    queue: Queue,
    /// Pods that were bound, with their nodes, until the cache shows it.
    assumed: BTreeMap<ObjectKey, (String, Box<str>)>,
}

impl fmt::Debug for SchedulingLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SchedulingLoop").field("scheduler", &self.scheduler).finish_non_exhaustive()
    }
}

impl SchedulingLoop {
    /// Makes a loop for the pods of [`DEFAULT_SCHEDULER`].
    #[must_use]
    pub fn new(
        client: Client,
        informers: &Informers,
        scheduler: Box<dyn Scheduler>,
        clock: Arc<dyn Clock>,
        entropy: Entropy,
    ) -> Self {
        let recorder = Recorder::new(client.clone(), Arc::clone(&clock), entropy.fork(), DEFAULT_SCHEDULER, None);
        Self {
            pods: informers.of(),
            nodes: informers.of(),
            client,
            scheduler,
            scheduler_name: DEFAULT_SCHEDULER.into(),
            clock,
            entropy,
            recorder,
            queue: Queue::default(),
            assumed: BTreeMap::new(),
        }
    }

    /// Serves the pods that name `name` instead.
    #[must_use]
    pub fn scheduler_name(mut self, name: &str) -> Self {
        self.recorder = Recorder::new(self.client.clone(), Arc::clone(&self.clock), self.entropy.fork(), name, None);
        self.scheduler_name = name.into();
        self
    }

    /// Runs until dropped.
    pub async fn run(mut self) -> Infallible {
        self.pods.synced().await;
        self.nodes.synced().await;
        let (mut pods, mut nodes) = (self.pods.subscribe(), self.nodes.subscribe());
        loop {
            let timer = self.queue.next_at();
            tokio::select! {
                biased;
                change = pods.next() => self.pod_changed(&change),
                _ = nodes.next() => self.queue.wake(),
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {}
            }
            self.schedule().await;
        }
    }

    fn pod_changed(&mut self, change: &Change<Pod>) {
        if change.new.as_ref().is_none_or(|pod| is_bound(pod)) {
            self.assumed.remove(&change.key);
        }
        // One that has left, or has ended, makes room.
        let takes_room = |pod: &Arc<Pod>| is_bound(pod) && !has_ended(pod);
        if change.old.as_ref().is_some_and(takes_room) && !change.new.as_ref().is_some_and(takes_room) {
            self.queue.wake();
        }
    }

    /// Plans for every pod that is due, and carries the plan out.
    async fn schedule(&mut self) {
        let pods = self.pods.list();
        let waiting: BTreeSet<String> = pods.iter().filter(|pod| self.waits(pod)).filter_map(|pod| pod.uid()).collect();
        self.queue.retain(|uid| waiting.contains(uid));
        let now = Instant::now();
        let due = |pod: &Arc<Pod>| self.waits(pod) && self.queue.is_due(&pod.uid().unwrap_or_default(), now);
        if !pods.iter().any(due) {
            return;
        }
        let present: Vec<Arc<Pod>> =
            pods.iter().filter(|pod| due(pod) || self.place_of(pod).is_some()).cloned().collect();
        let views = present.iter().map(|pod| (view(pod), self.place_of(pod)));
        let snapshot = Snapshot::new(self.nodes.list().iter().map(|node| NodeView::of(node)), views);
        let units = units(&present, |pod| due(pod), &*self.clock);
        let ask = Ask {
            now: self.clock.now(),
            seed: self.entropy.next_u64(),
            snapshot: &snapshot,
            pending: &units,
            scope: None,
            steps_max: STEPS_MAX,
        };
        let plan = self.scheduler.plan(&ask);
        let mut bindings = Vec::new();
        let mut trial = Trial::new(&snapshot);
        for step in &plan.steps {
            let Ok(ops) = apply(&mut trial, step, Detect::Fit) else {
                self.scheduler.heard(&Heard::Refused(step.unit));
                continue;
            };
            for op in ops {
                if let Op::Place { pod, node } = op
                    && let Some(object) = present.get(pod.0 as usize)
                {
                    bindings.push((step.unit, Arc::clone(object), snapshot.node(node).name.clone()));
                }
            }
        }
        self.bind(bindings).await;
        for left in &plan.left {
            self.leave(left, &units, &present, snapshot.nodes.len()).await;
        }
    }

    /// Whether a pod is ours to place.
    fn waits(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        let gated = spec.scheduling_gates.as_ref().is_some_and(|gates| !gates.is_empty());
        spec.scheduler_name.as_deref().unwrap_or(DEFAULT_SCHEDULER) == self.scheduler_name
            && !gated
            && !is_bound(pod)
            && !has_ended(pod)
            && pod.metadata.deletion_timestamp.is_none()
            && self.place_of(pod).is_none()
    }

    /// The node that a pod takes room on: bound, or assumed to be.
    fn place_of(&self, pod: &Pod) -> Option<Box<str>> {
        if has_ended(pod) {
            return None;
        }
        let bound = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).filter(|name| !name.is_empty());
        let assumed = self.assumed.get(&ObjectKey::of(pod)).filter(|(uid, _)| Some(uid) == pod.metadata.uid.as_ref());
        bound.map(Into::into).or_else(|| assumed.map(|(_, node)| node.clone()))
    }

    async fn bind(&mut self, bindings: Vec<(UnitId, Arc<Pod>, Box<str>)>) {
        for (_, pod, node) in &bindings {
            self.assumed.insert(ObjectKey::of(&**pod), (pod.uid().unwrap_or_default(), node.clone()));
        }
        let bound = bindings.into_iter().map(|(unit, pod, node)| {
            let (client, recorder) = (self.client.clone(), self.recorder.clone());
            async move {
                let outcome = bind(&client, &pod, &node).await;
                if outcome.is_ok() {
                    let message = format!("Successfully assigned {} to {node}", ObjectKey::of(&*pod));
                    recorder.record(&*pod, Severity::Normal, "Scheduled", message).await;
                }
                (unit, pod, outcome)
            }
        });
        let outcomes: Vec<_> = stream::iter(bound).buffered(BINDINGS_AT_ONCE).collect().await;
        for (unit, pod, outcome) in outcomes {
            match outcome {
                Ok(()) => self.scheduler.heard(&Heard::Committed(unit)),
                Err(error) => {
                    tracing::debug!(pod = %ObjectKey::of(&*pod), %error, "binding refused");
                    self.assumed.remove(&ObjectKey::of(&*pod));
                    self.queue.refused(&pod.uid().unwrap_or_default(), Instant::now());
                    self.scheduler.heard(&Heard::Refused(unit));
                }
            }
        }
    }

    /// Tells a unit's pods why they got no place, and lets them wait for a change.
    async fn leave(&mut self, left: &Left, units: &[Unit], present: &[Arc<Pod>], nodes: usize) {
        let message = explained(left, nodes);
        let pods = units.iter().filter(|unit| unit.id == left.unit).flat_map(|unit| &unit.pods);
        for pod in pods.filter_map(|pod| present.get(pod.0 as usize)) {
            self.queue.found_no_place(&pod.uid().unwrap_or_default(), Instant::now());
            self.recorder.record(&**pod, Severity::Warning, "FailedScheduling", message.as_str()).await;
            if let Err(error) = self.mark_unschedulable(pod, &message).await {
                tracing::debug!(pod = %ObjectKey::of(&**pod), %error, "condition not written");
            }
        }
    }

    async fn mark_unschedulable(&self, pod: &Pod, message: &str) -> kube::Result<()> {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let old = conditions.iter().find(|condition| condition.type_ == "PodScheduled");
        if old.is_some_and(|old| old.status == "False" && old.message.as_deref() == Some(message)) {
            return Ok(());
        }
        let since = old.filter(|old| old.status == "False").and_then(|old| old.last_transition_time.clone());
        let condition = PodCondition {
            type_: "PodScheduled".into(),
            status: "False".into(),
            reason: Some("Unschedulable".into()),
            message: Some(message.into()),
            last_transition_time: since.or_else(|| Some(Time(self.clock.now()))),
            ..Default::default()
        };
        let patch = json!({ "metadata": { "uid": pod.uid() }, "status": { "conditions": [condition] } });
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await.map(drop)
    }
}

/// A unit for each pod that is due, highest priority first, then the longest waiting.
fn units(pods: &[Arc<Pod>], due: impl Fn(&Arc<Pod>) -> bool, clock: &dyn Clock) -> Vec<Unit> {
    let mut units: Vec<Unit> = pods
        .iter()
        .enumerate()
        .filter(|(_, pod)| due(pod))
        .map(|(at, pod)| {
            let id = u32::try_from(at).expect("a cluster has less than 2^32 pods");
            Unit {
                id: UnitId(id),
                pods: vec![PodId(id)],
                pods_min: 1,
                priority: pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0),
                queue: pod.namespace().unwrap_or_default().into(),
                since: pod.metadata.creation_timestamp.as_ref().map_or_else(|| clock.now(), |time| time.0),
            }
        })
        .collect();
    units.sort_by_key(|unit| (std::cmp::Reverse(unit.priority), unit.since, unit.id));
    units
}

/// The pod as a scheduler sees it; a bound one doesn't choose its node any more.
fn view(pod: &Pod) -> PodView {
    PodView { node_name: None, ..PodView::of(pod) }
}

fn is_bound(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_ref().is_some_and(|name| !name.is_empty()))
}

fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Why no node takes a unit, as kube-scheduler says it.
fn explained(left: &Left, nodes: usize) -> String {
    if nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut reasons: Vec<String> = left.why.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    reasons.sort();
    format!("0/{nodes} nodes are available: {}.", reasons.join(", "))
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
