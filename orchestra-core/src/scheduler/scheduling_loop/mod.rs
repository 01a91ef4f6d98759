//! The loop around a scheduler: pods that wait in, bindings out.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fmt,
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
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
use tracing::Instrument as _;

use super::{
    Ask, Detect, Heard, Left, NodeInfo, Op, PodId, PodView, Scheduler, Snapshot, Trial, Unit, UnitId, apply,
    metrics::{Metrics, Result},
    queue::Queue,
    wording,
};
use crate::{
    api::pod::has_ended,
    clock::Clock,
    controller::{LeaderElection, Recorder, Severity},
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
    metrics: Metrics,
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
            metrics: Metrics::default(),
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

    /// Counts what it does in `metrics`.
    #[must_use]
    pub fn metrics(mut self, metrics: Metrics) -> Self {
        self.metrics = metrics;
        self
    }

    /// Runs until dropped.
    pub async fn run(mut self) -> Infallible {
        self.serve().await
    }

    /// Runs until dropped, and acts only while it leads.
    pub async fn run_elected(mut self, election: &LeaderElection) -> Infallible {
        loop {
            if let Ok(never) = election.led(self.serve()).await {
                return never;
            }
        }
    }

    async fn serve(&mut self) -> Infallible {
        // What was assumed by an earlier term may never have happened.
        (self.assumed, self.queue) = (BTreeMap::new(), Queue::default());
        self.pods.synced().await;
        self.nodes.synced().await;
        let (mut pods, mut nodes) = (self.pods.subscribe(), self.nodes.subscribe());
        loop {
            let timer = self.queue.next_at();
            tokio::select! {
                biased;
                change = pods.next() => self.pod_changed(&change),
                change = nodes.next() => self.node_changed(&change),
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {}
            }
            self.schedule().await;
        }
    }

    fn pod_changed(&mut self, change: &Change<Pod>) {
        if change.new.as_ref().is_none_or(|pod| is_bound(pod)) {
            self.assumed.remove(&change.key);
        }
        let room = |pod: &Arc<Pod>| (is_bound(pod) && !has_ended(pod)).then(|| PodView::of(pod));
        let (before, after) = (change.old.as_ref().and_then(room), change.new.as_ref().and_then(room));
        // One that has left, has ended, or asks for less, makes room.
        if before.as_ref().is_some_and(|before| after.as_ref().is_none_or(|after| after.requests != before.requests)) {
            self.queue.wake();
        }
        if after.as_ref().is_some_and(|after| before.is_none_or(|before| before.labels != after.labels)) {
            self.wake_those_who_look_around();
        }
        if let (Some(old), Some(new)) = (&change.old, &change.new)
            && PodView::of(old) != PodView::of(new)
        {
            self.queue.wake_one(&new.uid().unwrap_or_default());
        }
    }

    /// A pod that has got its place, or other labels there, may be what others have to be near of, or to be spread with.
    fn wake_those_who_look_around(&mut self) {
        let (_, parked) = self.queue.counts();
        if parked == 0 {
            return;
        }
        for pod in self.pods.list().iter().filter(|pod| !is_bound(pod) && looks_around(pod)) {
            self.queue.wake_one(&pod.uid().unwrap_or_default());
        }
    }

    /// A node's heartbeats make no room; whatever a filter reads may.
    fn node_changed(&mut self, change: &Change<Node>) {
        let view = |node: &Option<Arc<Node>>| node.as_ref().map(|node| NodeInfo::of(node));
        if view(&change.old) != view(&change.new) {
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
        let count = pods.iter().filter(|pod| due(pod)).count();
        if count == 0 {
            self.count_pending(&pods);
            return;
        }
        let span = tracing::debug_span!("schedule", scheduler = self.scheduler.name(), pods = count);
        let present: Vec<Arc<Pod>> =
            pods.iter().filter(|pod| due(pod) || self.place_of(pod).is_some()).cloned().collect();
        let views = present.iter().map(|pod| (PodView::of(pod).unbound().0, self.place_of(pod)));
        let snapshot = Snapshot::new(self.nodes.list().iter().map(|node| NodeInfo::of(node)), views);
        let units = units(&present, |pod| due(pod), &*self.clock);
        let ask = Ask {
            now: self.clock.now(),
            seed: self.entropy.next_u64(),
            snapshot: &snapshot,
            pending: &units,
            scope: None,
            steps_max: STEPS_MAX,
        };
        let plan = span.in_scope(|| self.scheduler.plan(&ask));
        let took = now.elapsed();
        let mut bindings = Vec::new();
        let mut trial = Trial::new(&snapshot);
        for step in &plan.steps {
            let Ok(ops) = apply(&mut trial, step, Detect::Fit) else {
                self.scheduler.heard(&Heard::Refused(step.unit));
                continue;
            };
            for op in ops {
                if let Op::Place { pod, place } = op
                    && let Some(object) = present.get(pod.0 as usize)
                {
                    bindings.push((step.unit, Arc::clone(object), snapshot.node(place.node).name.clone()));
                }
            }
        }
        async {
            self.bind(bindings, took).await;
            for left in &plan.left {
                self.leave(left, &units, &present, &snapshot, took).await;
            }
        }
        .instrument(span)
        .await;
        self.count_pending(&pods);
    }

    fn count_pending(&self, pods: &[Arc<Pod>]) {
        let (backoff, unschedulable) = self.queue.counts();
        let gated = pods.iter().filter(|pod| is_gated(pod) && !is_bound(pod) && !has_ended(pod)).count();
        self.metrics.pending(backoff, unschedulable, gated);
    }

    /// Whether a pod is ours to place.
    fn waits(&self, pod: &Pod) -> bool {
        let Some(spec) = &pod.spec else { return false };
        spec.scheduler_name.as_deref().unwrap_or(DEFAULT_SCHEDULER) == self.scheduler_name
            && !is_gated(pod)
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

    async fn bind(&mut self, bindings: Vec<(UnitId, Arc<Pod>, Box<str>)>, took: Duration) {
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
                Ok(()) => {
                    self.metrics.attempted(&self.scheduler_name, Result::Scheduled, took);
                    self.scheduler.heard(&Heard::Committed(unit));
                }
                Err(error) => {
                    self.metrics.attempted(&self.scheduler_name, Result::Error, took);
                    tracing::debug!(pod = %ObjectKey::of(&*pod), %error, "binding refused");
                    self.assumed.remove(&ObjectKey::of(&*pod));
                    self.queue.refused(&pod.uid().unwrap_or_default(), Instant::now());
                    self.scheduler.heard(&Heard::Refused(unit));
                }
            }
        }
    }

    /// Tells a unit's pods why they got no place, and lets them wait for a change.
    ///
    /// The event counts the attempts; the condition is written when it changes (SEMANTICS 45).
    async fn leave(&mut self, left: &Left, units: &[Unit], present: &[Arc<Pod>], snapshot: &Snapshot, took: Duration) {
        for id in units.iter().filter(|unit| unit.id == left.unit).flat_map(|unit| &unit.pods) {
            let Some(pod) = present.get(id.0 as usize) else { continue };
            let message = wording::unschedulable(left, snapshot, *id);
            self.metrics.attempted(&self.scheduler_name, Result::Unschedulable, took);
            let is_to_be_told = self.queue.found_no_place(&pod.uid().unwrap_or_default(), Instant::now());
            let condition = self.unschedulable(pod, &message);
            if is_to_be_told || condition.is_some() {
                self.recorder.record(&**pod, Severity::Warning, "FailedScheduling", message).await;
            }
            let Some(condition) = condition else { continue };
            let patch = json!({ "metadata": { "uid": pod.uid() }, "status": { "conditions": [condition] } });
            let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
            let written = api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await;
            match written {
                Ok(written) => self.pods.shows(&written).await,
                Err(error) => tracing::debug!(pod = %ObjectKey::of(&**pod), %error, "condition not written"),
            }
        }
    }

    /// The condition of a pod that got no place; `None` if it reads so already.
    fn unschedulable(&self, pod: &Pod, message: &str) -> Option<PodCondition> {
        let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
        let old = conditions.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
        if old.is_some_and(|old| old.message.as_deref() == Some(message)) {
            return None;
        }
        Some(PodCondition {
            type_: "PodScheduled".into(),
            status: "False".into(),
            reason: Some("Unschedulable".into()),
            message: Some(message.into()),
            last_transition_time: old.and_then(|old| old.last_transition_time.clone()).or(Some(Time(self.clock.now()))),
            ..Default::default()
        })
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

fn is_bound(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.as_ref().is_some_and(|name| !name.is_empty()))
}

/// Whether where a pod may go depends on where others are.
fn looks_around(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| {
        let affinity = spec.affinity.as_ref();
        spec.topology_spread_constraints.is_some()
            || affinity.is_some_and(|one| one.pod_affinity.is_some() || one.pod_anti_affinity.is_some())
    })
}

fn is_gated(pod: &Pod) -> bool {
    let gates = pod.spec.as_ref().and_then(|spec| spec.scheduling_gates.as_ref());
    gates.is_some_and(|gates| !gates.is_empty())
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
