//! The loop around a scheduler: pods that wait in, bindings and evictions out.

mod bind;
mod preempt;
mod units;

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fmt,
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{
    api::{
        core::v1::{Namespace, Node, Pod, PodCondition},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;
use tokio::time::{Instant, sleep_until};
use tracing::Instrument as _;

use self::{
    bind::Binder,
    units::{Confined, Groups, Units, domains},
};
use super::{
    Ask, Budget, Left, NodeId, NodeInfo, Op, Plan, PodId, PodView, Scheduler, Snapshot, Unit,
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
/// How many candidate placements one plan may look at.
const STEPS_MAX: NonZeroU32 = NonZeroU32::MAX;

/// Binds the pods that name one scheduler to the nodes that it chooses, on any Kubernetes API.
///
/// Where the API server takes [`PlanStep`](crate::api::plan_step::PlanStep)s, each place is re-checked as it is committed, and a gang
/// is bound whole: several loops, and whoever else binds pods so, can't over-commit a node between them. Elsewhere it falls back to a
/// `Binding` for each pod, says so in its log, and counts it in `scheduler_bindings_total`.
pub struct SchedulingLoop {
    client: Client,
    informers: Informers,
    pods: Lister<Pod>,
    nodes: Lister<Node>,
    budgets: Lister<PodDisruptionBudget>,
    namespaces: Lister<Namespace>,
    groups: Groups,
    profiles: Vec<Profile>,
    /// Whose turn it is.
    turn: usize,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
    metrics: Metrics,
    queue: Queue,
    /// Pods that were bound, with their nodes, until the cache shows it.
    assumed: BTreeMap<ObjectKey, (String, Box<str>)>,
    /// How the API server binds pods, once that is known.
    binder: Option<Binder>,
}

/// A scheduler, and the pods it is for.
struct Profile {
    /// The name that these pods call it by.
    name: String,
    scheduler: Box<dyn Scheduler>,
    recorder: Recorder,
}

impl fmt::Debug for SchedulingLoop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.profiles.iter().map(|profile| &*profile.name).collect();
        f.debug_struct("SchedulingLoop").field("profiles", &names).finish_non_exhaustive()
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
        let new = Self {
            pods: informers.of(),
            nodes: informers.of(),
            budgets: informers.of(),
            namespaces: informers.of(),
            groups: Groups::default(),
            informers: informers.clone(),
            client,
            profiles: Vec::new(),
            turn: 0,
            clock,
            entropy,
            metrics: Metrics::default(),
            queue: Queue::default(),
            assumed: BTreeMap::new(),
            binder: None,
        };
        new.profile(DEFAULT_SCHEDULER, scheduler)
    }

    /// Has its first scheduler serve the pods that name `name` instead.
    #[must_use]
    pub fn scheduler_name(mut self, name: &str) -> Self {
        let recorder = self.recorder(name);
        if let Some(first) = self.profiles.first_mut() {
            (first.name, first.recorder) = (name.into(), recorder);
        }
        self
    }

    /// Has another scheduler serve the pods that name `name` (a profile of kube-scheduler's). They plan in turn, each on what the
    /// others have left: unlike two loops they are never in each other's way.
    #[must_use]
    pub fn profile(mut self, name: &str, scheduler: Box<dyn Scheduler>) -> Self {
        let recorder = self.recorder(name);
        self.profiles.push(Profile { name: name.into(), scheduler, recorder });
        self
    }

    fn recorder(&self, name: &str) -> Recorder {
        Recorder::new(self.client.clone(), Arc::clone(&self.clock), self.entropy.fork(), name, None)
    }

    /// Binds pods by plain `Binding`s even where the API server takes plan steps: for a scheduler that overlooks what such a step is
    /// refused for, such as a taint. Nothing then keeps another scheduler from the room that it gives away.
    #[must_use]
    pub fn plain_bindings(mut self) -> Self {
        self.binder = Some(Binder::Binding);
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

    /// Runs until dropped, and acts only while it leads: by the client of each term, not by its own.
    pub async fn run_elected(mut self, election: &LeaderElection) -> Infallible {
        loop {
            let scheduling = &mut self;
            let serve = async move |client| {
                scheduling.write_by(client);
                scheduling.serve().await
            };
            if let Ok(never) = election.led(serve).await {
                return never;
            }
        }
    }

    fn write_by(&mut self, client: Client) {
        self.client = client;
        let names: Vec<String> = self.profiles.iter().map(|profile| profile.name.clone()).collect();
        let recorders: Vec<Recorder> = names.iter().map(|name| self.recorder(name)).collect();
        for (profile, recorder) in self.profiles.iter_mut().zip(recorders) {
            profile.recorder = recorder;
        }
    }

    async fn serve(&mut self) -> Infallible {
        // What was assumed by an earlier term may never have happened.
        (self.assumed, self.queue) = (BTreeMap::new(), Queue::default());
        self.pods.synced().await;
        self.nodes.synced().await;
        self.budgets.synced().await;
        self.namespaces.synced().await;
        self.groups = Groups::discover(&self.client, &self.informers).await;
        let (mut pods, mut nodes, mut groups) =
            (self.pods.subscribe(), self.nodes.subscribe(), self.groups.subscribe());
        loop {
            let timer = self.queue.next_at();
            tokio::select! {
                biased;
                change = pods.next() => self.pod_changed(&change),
                change = nodes.next() => self.node_changed(&change),
                _ = async { groups.as_mut().expect("there are such").next().await }, if groups.is_some() => self.queue.wake(),
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {}
            }
            for turn in 0..self.profiles.len() {
                self.turn = turn;
                self.schedule().await;
            }
        }
    }

    /// Whose turn it is.
    fn now_planning(&mut self) -> &mut Profile {
        self.profiles.get_mut(self.turn).expect("turns are of the profiles there are")
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

    /// Plans for every pod that is due and whose scheduler's turn it is, and carries the plan out.
    async fn schedule(&mut self) {
        let pods = self.pods.list();
        let waiting: BTreeSet<String> = pods.iter().filter(|pod| self.waits(pod)).filter_map(|pod| pod.uid()).collect();
        self.queue.retain(|uid| waiting.contains(uid));
        let planning = self.now_planning().name.clone();
        let (mut present, Units { mut units, confined, incomplete }) = self.gather(&pods, &planning);
        for (id, lacks) in incomplete {
            self.tell(&present[id.0 as usize], lacks, None).await;
        }
        for gang in &confined {
            self.confine(gang, &present).await;
        }
        if !confined.is_empty() {
            // They have taken places.
            (present, Units { units, .. }) = self.gather(&pods, &planning);
        }
        if !units.is_empty() {
            let snapshot = self.snapshot(&present);
            self.serve_units(&units, &present, &snapshot, None).await;
        }
        self.count_pending(&pods);
    }

    /// Has units planned for, and carries the plan out.
    async fn serve_units(
        &mut self,
        units: &[Unit],
        present: &[Arc<Pod>],
        snapshot: &Snapshot,
        scope: Option<&[NodeId]>,
    ) {
        let planning = &self.now_planning().name;
        let span = tracing::debug_span!("schedule", scheduler = planning, units = units.len());
        let (now, seed) = (Instant::now(), self.entropy.next_u64());
        let plan = span.in_scope(|| self.plan(units, snapshot, scope, seed));
        let took = now.elapsed();
        let (placements, preemptions) = self.checked(&plan, present, snapshot);
        async {
            self.bind(placements, took).await;
            for preemption in preemptions {
                self.preempt(preemption, took).await;
            }
            for left in &plan.left {
                self.leave(left, units, present, snapshot, took).await;
            }
        }
        .instrument(span)
        .await;
    }

    /// Asks the scheduler whose turn it is.
    fn plan(&mut self, units: &[Unit], snapshot: &Snapshot, scope: Option<&[NodeId]>, seed: u64) -> Plan {
        let now = self.clock.now();
        let ask = Ask { now, seed, snapshot, pending: units, scope, steps_max: STEPS_MAX };
        self.now_planning().scheduler.plan(&ask)
    }

    /// Places a gang in the domain that takes the most of its pods, the first of those.
    async fn confine(&mut self, gang: &Confined, present: &[Arc<Pod>]) {
        let (snapshot, units) = (self.snapshot(present), std::slice::from_ref(&gang.unit));
        let seed = self.entropy.next_u64();
        let mut best: (usize, Option<Vec<NodeId>>) = (0, None);
        for nodes in domains(&snapshot, &gang.topology, &gang.placed) {
            let plan = self.plan(units, &snapshot, Some(&nodes), seed);
            let placed =
                plan.steps.iter().flat_map(|step| &step.ops).filter(|op| matches!(op, Op::Place { .. })).count();
            if best.1.is_none() || placed > best.0 {
                best = (placed, Some(nodes));
            }
        }
        self.serve_units(units, present, &snapshot, Some(&best.1.unwrap_or_default())).await;
    }

    /// The cluster as the pods that matter, nodes and budgets say.
    fn snapshot(&self, present: &[Arc<Pod>]) -> Snapshot {
        let views = present.iter().map(|pod| (PodView::of(pod).unbound().0, self.place_of(pod)));
        let budgets = self.budgets.list();
        let budgets = budgets.iter().filter_map(|budget| Budget::of(budget));
        let (nodes, namespaces) = (self.nodes.list(), self.namespaces.list());
        let labels = |namespace: &Arc<Namespace>| {
            (namespace.name_any().into(), namespace.metadata.labels.clone().unwrap_or_default())
        };
        let snapshot = Snapshot::new(nodes.iter().map(|node| NodeInfo::of(node)), views);
        let mut snapshot = snapshot.with_budgets(budgets).with_namespaces(namespaces.iter().map(labels));
        for (pod, object) in (0..).map(PodId).zip(present) {
            if let Some(node) = self.nomination(object).and_then(|node| snapshot.find_node(node)) {
                snapshot.nominate(pod, node);
            }
        }
        snapshot
    }

    fn count_pending(&self, pods: &[Arc<Pod>]) {
        let (backoff, unschedulable) = self.queue.counts();
        let gated = pods.iter().filter(|pod| is_gated(pod) && !is_bound(pod) && !has_ended(pod)).count();
        self.metrics.pending(backoff, unschedulable, gated);
    }

    /// Whether a pod is ours to place.
    fn waits(&self, pod: &Pod) -> bool {
        let name = scheduler_of(pod);
        self.profiles.iter().any(|profile| profile.name == name) && self.is_open(pod)
    }

    /// Whether a pod is to have a place, and has none.
    fn is_open(&self, pod: &Pod) -> bool {
        !is_gated(pod)
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

    /// The node on which a pod waits for others to leave.
    fn nomination<'a>(&self, pod: &'a Pod) -> Option<&'a str> {
        let node = pod.status.as_ref()?.nominated_node_name.as_deref().filter(|node| !node.is_empty())?;
        self.is_open(pod).then_some(node)
    }

    /// Tells a unit's pods why they got no place, and lets them wait for a change.
    ///
    /// The event counts the attempts; the condition is written when it changes (SEMANTICS 45).
    async fn leave(&mut self, left: &Left, units: &[Unit], present: &[Arc<Pod>], snapshot: &Snapshot, took: Duration) {
        for id in units.iter().filter(|unit| unit.id == left.unit).flat_map(|unit| &unit.pods) {
            let Some(pod) = present.get(id.0 as usize) else { continue };
            let message = wording::unschedulable(left, snapshot, *id);
            let planning = self.now_planning().name.clone();
            self.metrics.attempted(&planning, Result::Unschedulable, took);
            self.tell(pod, message, None).await;
        }
    }

    /// Tells a pod why it has no place yet, and on which node it waits for one; it is tried again after a change.
    async fn tell(&mut self, pod: &Pod, message: String, nominated: Option<&str>) {
        let is_to_be_told = self.queue.found_no_place(&pod.uid().unwrap_or_default(), Instant::now());
        let condition = self.unschedulable(pod, &message);
        if is_to_be_told || condition.is_some() {
            let recorder = self.now_planning().recorder.clone();
            recorder.record(pod, Severity::Warning, "FailedScheduling", message).await;
        }
        let mut status = json!({});
        if let Some(condition) = condition {
            status["conditions"] = json!([condition]);
        }
        if nominated.is_some_and(|node| self.nomination(pod) != Some(node)) {
            status["nominatedNodeName"] = json!(nominated);
        }
        if status != json!({}) {
            self.write_status(pod, &status).await;
        }
    }

    async fn write_status(&self, pod: &Pod, status: &serde_json::Value) {
        let patch = json!({ "metadata": { "uid": pod.uid() }, "status": status });
        let api = Api::<Pod>::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default());
        match api.patch_status(&pod.name_any(), &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(written) => self.pods.shows(&written).await,
            Err(error) => tracing::debug!(pod = %ObjectKey::of(pod), %error, "status not written"),
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

/// The name of the scheduler that a pod is for.
fn scheduler_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.scheduler_name.as_deref()).unwrap_or(DEFAULT_SCHEDULER)
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
