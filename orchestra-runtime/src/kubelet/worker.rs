//! One pod's task: looks, decides, acts, reports, and sleeps until something changes.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use kube::{
    Api,
    api::{DeleteParams, Preconditions},
};
use orchestra_core::{
    api::pod::{has_ended, is_final},
    clock::Timestamp,
    runtime::{ContainerId, ContainerStatus, SandboxId, SandboxStatus},
    scheduler::{DeviceSet, NodeInfo, NodeView, PodView, Resources},
};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    Shared, admission,
    admission::Rejection,
    decide::{Action, Failure, Memory, Plan, Probed, View, Why, containers, decide, failure_backoff_seconds, listed},
    events::{Severity, record},
    image,
    lifecycle::{self, Refusal, Setback},
    probe::{Prober, VERDICTS_MAX, Verdict},
    report::Reporter,
    sources::{self, KeptSources},
    status::{CRASH_LOOP, NodeFacts, container_id, pod_status, rejected, told_unstarted},
    terminal, volume, withdrawal,
};

/// How long to wait after a call to the API or the runtime failed; each further failure doubles it.
const RETRY_SECONDS: u64 = 1;
/// The longest such wait.
const RETRY_SECONDS_MAX: u64 = 30;
/// How long a pod may take to end, in seconds, unless it says.
const GRACE_SECONDS: i64 = 30;

/// What the API wants of a pod.
#[derive(Clone, Debug)]
pub(super) struct Desired {
    pub(super) pod: Arc<Pod>,
    /// Whether the pod is gone from the API.
    pub(super) gone: bool,
}

impl Desired {
    fn ending(&self) -> bool {
        self.gone || self.pod.metadata.deletion_timestamp.is_some()
    }

    /// How long its containers have to end, from when the end was first seen.
    fn grace(&self) -> Duration {
        let metadata = self.pod.metadata.deletion_grace_period_seconds;
        let spec = self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let seconds = metadata.or(spec).unwrap_or(GRACE_SECONDS);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    }
}

/// A pod's task, and what it knows.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) sandbox: SandboxId,
    pub(super) memory: Memory,
    prober: Prober,
    /// When the end was first seen.
    ending_since: Option<Instant>,
    reporter: Reporter,
    sources: KeptSources,
    /// Whether the node has taken the pod on, or turned it away.
    judged: bool,
    /// When the pod was first seen, until all its containers have run.
    starting_since: Option<Instant>,
    /// Whether nobody is sent to it anymore, or was long enough.
    withdrawn: bool,
    /// The attempts whose backoff was told of, by the container's name.
    backing_off: BTreeMap<Box<str>, u32>,
    /// The labels and annotations that its volumes show.
    shown: Option<Shown>,
}

/// A pod's labels and annotations.
type Shown = (Option<BTreeMap<String, String>>, Option<BTreeMap<String, String>>);

/// Runs a pod until it is gone, from the node and from the API.
pub(super) async fn run(
    shared: Arc<Shared>,
    uid: String,
    mut desired: watch::Receiver<Desired>,
    mut hints: mpsc::Receiver<()>,
) {
    let (verdicts, mut judged) = mpsc::channel(VERDICTS_MAX);
    let mut volumes = sources::volume_changes(&shared.client, &desired.borrow().pod);
    let mut worker = Worker {
        shared,
        sandbox: SandboxId(uid.into()),
        memory: Memory::default(),
        prober: Prober::new(verdicts),
        ending_since: None,
        reporter: Reporter::default(),
        sources: KeptSources::default(),
        judged: false,
        starting_since: Some(Instant::now()),
        withdrawn: false,
        backing_off: BTreeMap::new(),
        shown: None,
    };
    let mut failures: u32 = 0;
    loop {
        let now = desired.borrow_and_update().clone();
        let began = Instant::now();
        let outcome = worker.step(&now, &mut desired).await;
        worker.shared.metrics.pod_worked(began.elapsed());
        let wait = match outcome {
            Ok(Next::Done) => return,
            Ok(Next::Again) => {
                failures = 0;
                continue;
            }
            Ok(Next::Sleep(wait)) => {
                failures = 0;
                wait
            }
            Err(error) => {
                let wait = retry_after(failures);
                failures += 1;
                // Said once: while an API server is away, every pod of every node has the same to say.
                match failures {
                    1 => tracing::warn!(pod = %worker.sandbox, %error, "pod can't be brought forward, trying again"),
                    _ => tracing::debug!(pod = %worker.sandbox, %error, ?wait, "pod still can't be brought forward"),
                }
                Some(wait)
            }
        };
        let timer = async {
            match wait {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            changed = desired.changed() => match changed {
                Ok(()) => worker.reporter.retry_now(),
                Err(_) => return,
            },
            Some(verdict) = judged.recv() => worker.judge(&verdict),
            Some(()) = hints.recv() => {}
            Some(()) = volumes.next() => worker.shown = None,
            () = timer => {}
        }
    }
}

/// How long to wait after a failure that `failures` others went before.
pub(super) fn retry_after(failures: u32) -> Duration {
    Duration::from_secs((RETRY_SECONDS << failures.min(5)).min(RETRY_SECONDS_MAX))
}

/// Why a step could not be taken.
pub(super) type Trouble = Box<dyn std::error::Error + Send + Sync>;

/// What follows a step.
enum Next {
    /// Another look, at once.
    Again,
    /// Sleep until something changes, or this long.
    Sleep(Option<Duration>),
    /// The pod is gone.
    Done,
}

impl Worker {
    async fn step(&mut self, desired: &Desired, changes: &mut watch::Receiver<Desired>) -> Result<Next, Trouble> {
        let desired = &Desired { pod: self.reporter.known(&desired.pod), gone: desired.gone };
        let pod: &Pod = &desired.pod;
        let ending = desired.ending();
        if ending {
            self.ending_since.get_or_insert_with(Instant::now);
        }
        let all = self.shared.runtime.list().await?;
        let sandbox = all.into_iter().find(|status| status.id == self.sandbox);
        let node = self.shared.address.to_string();
        let runtime = self.shared.runtime.capabilities().name;
        let facts = NodeFacts { runtime: &runtime, address: &node };
        if !self.judged {
            self.judged = true;
            self.recall(pod, sandbox.as_ref(), facts);
            if !ending
                && let Err(rejection) = self.admit(pod, sandbox.as_ref()).await.inspect_err(|_| self.judged = false)?
            {
                return Ok(self.turn_away(pod, &rejection, facts).await);
            }
        }
        self.listen(pod, sandbox.as_ref()).await;
        if !ending {
            self.refresh(pod, sandbox.as_ref()).await;
        }
        self.prober.follow(&self.shared, pod, sandbox.as_ref(), &self.memory, ending);
        let now = self.shared.clock.now();
        let view = View { pod, ending, sandbox: sandbox.as_ref(), memory: &self.memory, now };
        let plan = decide(&view);
        // Unready before its containers are asked to end (SEMANTICS 52), and reported before it is removed.
        let status = pod_status(&view, facts);
        self.count(&status);
        let untold = if desired.gone { None } else { self.reporter.tell(&self.shared, pod, status).await };
        if plan.ended {
            if untold.is_some() {
                return Ok(Next::Sleep(untold));
            }
            self.remove(desired).await?;
            return Ok(Next::Done);
        }
        let Plan { actions, backing_off, wake_at, .. } = plan;
        self.tell_of_backoff(pod, &backing_off).await;
        if actions.is_empty() {
            let wait = wake_at.map(|at| Duration::try_from(now.duration_until(at)).unwrap_or_default());
            return Ok(Next::Sleep(wait.into_iter().chain(untold).min()));
        }
        for action in actions {
            self.act(action, desired, sandbox.as_ref(), changes).await?;
        }
        Ok(Next::Again)
    }

    /// Says once for each attempt that its successor has to wait.
    async fn tell_of_backoff(&mut self, pod: &Pod, waiting: &[ContainerId]) {
        for id in waiting {
            if self.backing_off.insert(id.name.clone(), id.attempt) != Some(id.attempt) {
                lifecycle::tell_of_backoff(&self.shared, pod, &id.name).await;
            }
        }
    }

    /// Finds out whether the node takes the pod on; what runs already was taken on before.
    async fn admit(&self, pod: &Pod, sandbox: Option<&SandboxStatus>) -> kube::Result<Result<(), Rejection>> {
        let (shared, view) = (&self.shared, PodView::of(pod));
        let is_over = has_ended(pod);
        if sandbox.is_none() && !is_over {
            // As others may label the node, only a live read tells whether it is the one that was asked for.
            let nodes: Api<Node> = Api::all(shared.client.clone());
            let live = nodes.get_opt(&shared.node_name).await?;
            let known = shared.pods().values().cloned().collect::<Vec<_>>();
            let mut admitted = shared.admitted();
            let node = node_view(shared, &live.unwrap_or_default(), &known, &admitted, pod);
            if let Err(rejection) = admission::admit(&view, &node) {
                return Ok(Err(rejection));
            }
            admitted.insert(self.sandbox.0.to_string(), view);
        } else if !is_over {
            shared.admitted().insert(self.sandbox.0.to_string(), view);
        }
        Ok(Ok(()))
    }

    async fn turn_away(&mut self, pod: &Pod, rejection: &Rejection, facts: NodeFacts<'_>) -> Next {
        let now = self.shared.clock.now();
        let view = View { pod, ending: false, sandbox: None, memory: &self.memory, now };
        let status = rejected(&view, rejection, facts);
        let (reason, message) = (rejection.reason.as_str(), rejection.message.clone());
        record(&self.shared, pod, None, Severity::Warning, (reason, message)).await;
        let untold = self.reporter.tell(&self.shared, pod, status).await;
        // One that nobody was told of is judged again, or it would be run after all.
        self.judged = untold.is_none();
        if self.judged { Next::Again } else { Next::Sleep(untold) }
    }

    /// Takes over what an earlier kubelet knew of containers (SEMANTICS 51, 55): that those that still run were ready, and
    /// which could not be started.
    fn recall(&mut self, pod: &Pod, sandbox: Option<&SandboxStatus>, facts: NodeFacts<'_>) {
        let status = pod.status.as_ref();
        let mains = status.and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
        let inits = status.and_then(|status| status.init_container_statuses.as_deref()).unwrap_or_default();
        for told in mains.iter().chain(inits) {
            let waiting = told.state.as_ref().and_then(|state| state.waiting.as_ref()?.reason.as_deref());
            if let (Some(CRASH_LOOP), Ok(attempt)) = (waiting, told.restart_count.try_into()) {
                // People were told of it.
                self.backing_off.insert(told.name.as_str().into(), attempt);
            }
            let last = listed(sandbox, &told.name).max_by_key(|last| last.id.attempt);
            let unstarted = told_unstarted(&self.sandbox, told);
            let is_listed = |id: &ContainerId| listed(sandbox, &told.name).any(|status| status.id == *id);
            if let Some(unstarted) = unstarted.filter(|unstarted| !is_listed(&unstarted.status.id)) {
                self.memory.unstarted.insert(told.name.as_str().into(), unstarted);
            }
            let last = last.filter(|last| last.state.is_running());
            let same = |last: &&ContainerStatus| told.container_id == Some(container_id(last, facts.runtime));
            if let Some(last) = last.filter(same) {
                let (started, ready) =
                    (told.started.filter(|started| *started), Some(told.ready).filter(|ready| *ready));
                let probed = Probed { attempt: last.id.attempt, started, ready, alive: None };
                self.memory.probes.insert(told.name.as_str().into(), probed);
            }
        }
    }

    /// Reads the last words of what has exited, once.
    async fn listen(&mut self, pod: &Pod, sandbox: Option<&SandboxStatus>) {
        let all = sandbox.map(|sandbox| sandbox.containers.as_slice()).unwrap_or_default();
        self.memory.messages.retain(|id, _| all.iter().any(|status| status.id == *id));
        for status in all.iter().filter(|status| status.state.exit_code().is_some()) {
            let container =
                pod.spec.iter().flat_map(containers).find(|(_, container)| *container.name == *status.id.name);
            if let Some((_, container)) = container
                && !self.memory.messages.contains_key(&status.id)
            {
                let message = terminal::message(&self.shared, &self.dir(), container, status).await;
                self.memory.messages.insert(status.id.clone(), message);
            }
        }
    }

    /// Brings the volumes of a running pod up to date, if what they show may have changed.
    async fn refresh(&mut self, pod: &Pod, sandbox: Option<&SandboxStatus>) {
        let shown = (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
        let Some(sandbox) = sandbox.filter(|sandbox| sandbox.ready && self.shown.as_ref() != Some(&shown)) else {
            return;
        };
        let place = lifecycle::Place { dir: &self.dir(), address: sandbox.address, sources: &mut self.sources };
        match lifecycle::refresh(&self.shared, pod, place).await {
            Ok(()) => self.shown = self.sources.is_fresh().then_some(shown),
            // What its containers see stays as it was, until the next change.
            Err(error) => tracing::debug!(pod = %self.sandbox, %error, "volumes were not brought up to date"),
        }
    }

    /// Counts a pod's start, and gives back what it took once it is over.
    fn count(&mut self, status: &PodStatus) {
        if status.phase.as_deref() == Some("Running")
            && let Some(since) = self.starting_since.take()
        {
            self.shared.metrics.pod_started(since.elapsed());
        }
        if status.phase.as_deref().is_some_and(is_final) {
            self.shared.admitted().remove(&*self.sandbox.0);
        }
    }

    fn judge(&mut self, verdict: &Verdict) {
        let probed = self.memory.probes.entry(verdict.id.name.clone()).or_default();
        if probed.attempt != verdict.id.attempt {
            *probed = Probed { attempt: verdict.id.attempt, ..Probed::default() };
        }
        verdict.kind.note(probed, verdict.holds);
    }

    /// Removes the pod from the node, and, when nothing of it is left, from the API (SEMANTICS 53).
    async fn remove(&self, desired: &Desired) -> Result<(), Trouble> {
        self.shared.runtime.remove_sandbox(&self.sandbox).await?;
        volume::unmount_all(&self.dir())?;
        if desired.gone {
            return Ok(());
        }
        let (name, namespace) = names(&desired.pod);
        let pods: Api<Pod> = Api::namespaced(self.shared.client.clone(), namespace);
        let preconditions = Preconditions { uid: desired.pod.metadata.uid.clone(), resource_version: None };
        let now = DeleteParams { preconditions: Some(preconditions), ..DeleteParams::default() }.grace_period(0);
        match pods.delete(name, &now).await {
            Err(kube::Error::Api(failure)) if matches!(failure.code, 404 | 409) => Ok(()),
            other => other.map(drop).map_err(Into::into),
        }
    }

    async fn act(
        &mut self,
        action: Action,
        desired: &Desired,
        sandbox: Option<&SandboxStatus>,
        changes: &mut watch::Receiver<Desired>,
    ) -> Result<(), Trouble> {
        let shared = Arc::clone(&self.shared);
        match action {
            Action::CreateSandbox => {
                let place = lifecycle::Place { dir: &self.dir(), address: None, sources: &mut self.sources };
                let refusal = tokio::select! {
                    biased;
                    () = end_moved(changes, desired) => return Ok(()),
                    made = lifecycle::create_sandbox(&shared, &desired.pod, &self.sandbox, place) => made.err(),
                };
                self.note("", refusal, &desired.pod).await;
            }
            Action::Start { name, attempt, backoff_seconds } => {
                let id = ContainerId { sandbox: self.sandbox.clone(), name, attempt };
                let address = sandbox.and_then(|sandbox| sandbox.address);
                let place = lifecycle::Place { dir: &self.dir(), address, sources: &mut self.sources };
                let outcome = tokio::select! {
                    biased;
                    () = end_moved(changes, desired) => return Ok(()),
                    made = lifecycle::start(&shared, &desired.pod, &id, place, backoff_seconds) => made,
                };
                let refusal = self.tried(outcome);
                self.note(&id.name, refusal, &desired.pod).await;
            }
            Action::Stop { attempts, why } => {
                if why == Why::PodEnds && !self.withdrawn && !desired.grace().is_zero() {
                    tokio::select! {
                        biased;
                        () = end_moved(changes, desired) => return Ok(()),
                        () = withdrawal::wait(&shared, &desired.pod) => self.withdrawn = true,
                    }
                }
                let spent = self.ending_since.map(|since| since.elapsed()).unwrap_or_default();
                let own = attempts.first().and_then(|(name, _)| probe_grace(&desired.pod, name, why));
                let grace = own.unwrap_or_else(|| desired.grace()).saturating_sub(spent);
                let ids = attempts.into_iter().map(|(name, attempt)| ContainerId {
                    sandbox: self.sandbox.clone(),
                    name,
                    attempt,
                });
                let ids: Vec<_> = ids.collect();
                tokio::select! {
                    biased;
                    () = end_moved(changes, desired) => {}
                    stopped = lifecycle::stop(&shared, &desired.pod, &ids, grace, why) => stopped?,
                }
            }
            Action::Forget { name, attempt } => {
                let id = ContainerId { sandbox: self.sandbox.clone(), name, attempt };
                shared.runtime.remove_container(&id).await?;
            }
        }
        Ok(())
    }

    /// Counts a start, and remembers an attempt that failed; returns why there was none.
    fn tried(&mut self, outcome: Result<(), Setback>) -> Option<Refusal> {
        let metrics = &self.shared.metrics;
        if outcome.is_ok() { &metrics.started_containers } else { &metrics.started_containers_errors }.inc();
        match outcome {
            Ok(()) => None,
            Err(Setback::Refused(refusal)) => Some(refusal),
            Err(Setback::Unstarted(unstarted)) => {
                self.memory.unstarted.insert(unstarted.status.id.name.clone(), unstarted);
                None
            }
        }
    }

    /// Remembers why something was not started, and until when not to try again.
    async fn note(&mut self, name: &str, refusal: Option<Refusal>, pod: &Pod) {
        let Some(Refusal { reason, message, later }) = refusal else {
            self.memory.failures.remove(name);
            return;
        };
        let image: Box<str> = image::of(pod, name).into();
        let before = self.memory.failures.get(name).filter(|failure| *failure.image == *image);
        let count = before.map_or(0, |failure| failure.count) + 1;
        let wait = Duration::from_secs(failure_backoff_seconds(count));
        let retry_at = self.shared.clock.now().saturating_add(wait).unwrap_or(Timestamp::MAX);
        let (reason, message) = later.filter(|_| count > 1).unwrap_or((reason, message));
        lifecycle::complain(&self.shared, pod, name, (reason, &message)).await;
        self.memory.failures.insert(name.into(), Failure { reason, message, count, retry_at, image });
    }

    fn dir(&self) -> PathBuf {
        volume::pod_dir(self.shared.root_dir.path(), &self.sandbox.0)
    }
}

/// Waits until a pod's end comes, or comes sooner.
async fn end_moved(changes: &mut watch::Receiver<Desired>, known: &Desired) {
    let moved = |new: &Desired| new.gone != known.gone || new.ending() != known.ending() || new.grace() < known.grace();
    loop {
        if changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        if moved(&changes.borrow()) {
            // Seen here, but to be acted upon by the next step.
            changes.mark_changed();
            return;
        }
    }
}

/// The grace that a failed probe gives its container, if it says so.
fn probe_grace(pod: &Pod, name: &str, why: Why) -> Option<Duration> {
    let (_, container) = pod.spec.iter().flat_map(containers).find(|(_, container)| container.name == name)?;
    let probe = match why {
        Why::PodEnds | Why::Changed => return None,
        Why::StartupProbe => container.startup_probe.as_ref()?,
        Why::LivenessProbe => container.liveness_probe.as_ref()?,
    };
    Some(Duration::from_secs(u64::try_from(probe.termination_grace_period_seconds?).ok()?))
}

/// The node, with the pods on it that take some of it: those taken on, and those that an earlier kubelet had.
fn node_view(
    shared: &Shared,
    live: &Node,
    known: &[Arc<Pod>],
    admitted: &BTreeMap<String, PodView>,
    pod: &Pod,
) -> NodeView {
    let mut info = NodeInfo::of(live);
    info.name = shared.node_name.as_str().into();
    info.allocatable = Resources::of(Some(&shared.capacity));
    if live.metadata.name.is_none() {
        info.labels.extend(shared.labels.clone());
    }
    let mut node = NodeView::from(info);
    let place = |node: &mut NodeView, pod: &PodView| node.place(pod, DeviceSet::EMPTY);
    let others = admitted.iter().filter(|(uid, _)| pod.metadata.uid.as_ref() != Some(uid));
    others.for_each(|(_, taken)| place(&mut node, taken));
    for other in known.iter().filter(|other| other.metadata.uid != pod.metadata.uid && !has_ended(other)) {
        let begun = other.status.as_ref().is_some_and(|status| status.start_time.is_some());
        if begun && other.metadata.uid.as_ref().is_none_or(|uid| !admitted.contains_key(uid)) {
            place(&mut node, &PodView::of(other));
        }
    }
    node
}

/// A pod's name and namespace.
pub(super) fn names(pod: &Pod) -> (&str, &str) {
    (pod.metadata.name.as_deref().unwrap_or_default(), pod.metadata.namespace.as_deref().unwrap_or("default"))
}
