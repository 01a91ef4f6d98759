//! One pod's task: looks, decides, acts, reports, and sleeps until something changes.

use std::{path::PathBuf, sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use orchestra_core::runtime::{ContainerId, SandboxId, SandboxStatus};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};

use super::{
    Shared,
    decide::{Action, Failure, Memory, Plan, Probed, View, decide, failure_backoff_seconds},
    lifecycle::{self, Refusal},
    probe::{Prober, VERDICTS_MAX, Verdict},
    status::{NodeFacts, pod_status},
    volume,
};

/// How long to wait after a call to the API or the runtime failed.
const RETRY_SECONDS: u64 = 1;
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
    /// What the API was last told.
    reported: Option<PodStatus>,
}

/// Runs a pod until it is gone, from the node and from the API.
pub(super) async fn run(
    shared: Arc<Shared>,
    uid: String,
    mut desired: watch::Receiver<Desired>,
    mut hints: mpsc::Receiver<()>,
) {
    let (verdicts, mut judged) = mpsc::channel(VERDICTS_MAX);
    let mut worker = Worker {
        shared,
        sandbox: SandboxId(uid.into()),
        memory: Memory::default(),
        prober: Prober::new(verdicts),
        ending_since: None,
        reported: None,
    };
    loop {
        let now = desired.borrow_and_update().clone();
        let wait = match worker.step(&now, &mut desired).await {
            Ok(Next::Done) => return,
            Ok(Next::Again) => continue,
            Ok(Next::Sleep(wait)) => wait,
            Err(error) => {
                tracing::warn!(pod = %worker.sandbox, %error, "pod can't be brought forward, trying again");
                Some(Duration::from_secs(RETRY_SECONDS))
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
            changed = desired.changed() => if changed.is_err() { return },
            Some(verdict) = judged.recv() => worker.judge(&verdict),
            Some(()) = hints.recv() => {}
            () = timer => {}
        }
    }
}

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
    async fn step(
        &mut self,
        desired: &Desired,
        changes: &mut watch::Receiver<Desired>,
    ) -> Result<Next, Box<dyn std::error::Error + Send + Sync>> {
        let pod = self.known(desired);
        let ending = desired.ending();
        if ending {
            self.ending_since.get_or_insert_with(Instant::now);
        }
        let all = self.shared.runtime.list().await?;
        let sandbox = all.into_iter().find(|status| status.id == self.sandbox);
        self.prober.follow(&self.shared, &pod, sandbox.as_ref(), ending);
        let now = self.shared.clock.now();
        let view = View { pod: &pod, ending, sandbox: sandbox.as_ref(), memory: &self.memory, now };
        let plan = decide(&view);
        // Unready before its containers are asked to end (SEMANTICS 52), and reported before it is removed.
        let node = self.shared.address.to_string();
        let runtime = self.shared.runtime.capabilities().name;
        let status = pod_status(&view, NodeFacts { runtime: &runtime, address: &node });
        if !desired.gone {
            self.report(&pod, status).await?;
        }
        if plan.ended {
            self.remove(desired).await?;
            return Ok(Next::Done);
        }
        let Plan { actions, wake_at, .. } = plan;
        if actions.is_empty() {
            let wait = wake_at.map(|at| Duration::try_from(now.duration_until(at)).unwrap_or_default());
            return Ok(Next::Sleep(wait));
        }
        for action in actions {
            self.act(action, desired, sandbox.as_ref(), changes).await?;
        }
        Ok(Next::Again)
    }

    /// The pod with the status last reported, which a watch may not have shown yet.
    fn known(&self, desired: &Desired) -> Pod {
        let mut pod = Pod::clone(&desired.pod);
        if let Some(reported) = &self.reported {
            let theirs = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
            let mut status = reported.clone();
            let ours = status.conditions.get_or_insert_default();
            let others: Vec<_> =
                theirs.into_iter().filter(|theirs| !ours.iter().any(|own| own.type_ == theirs.type_)).collect();
            ours.extend(others);
            pod.status = Some(status);
        }
        pod
    }

    /// Tells the API, if there is something new to tell.
    async fn report(&mut self, pod: &Pod, status: PodStatus) -> kube::Result<()> {
        if self.reported.as_ref() == Some(&status) {
            return Ok(());
        }
        let (name, namespace) = names(pod);
        let pods: Api<Pod> = Api::namespaced(self.shared.client.clone(), namespace);
        let patch = serde_json::json!({"metadata": {"uid": pod.metadata.uid}, "status": status});
        match pods.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            // Gone, or another by its name: the watch will say so.
            Err(kube::Error::Api(failure)) if matches!(failure.code, 404 | 409) => {}
            other => drop(other?),
        }
        self.reported = Some(status);
        Ok(())
    }

    fn judge(&mut self, verdict: &Verdict) {
        let probed = self.memory.probes.entry(verdict.id.name.clone()).or_default();
        if probed.attempt != verdict.id.attempt {
            *probed = Probed { attempt: verdict.id.attempt, ..Probed::default() };
        }
        verdict.kind.note(probed, verdict.holds);
    }

    /// Removes the pod from the node, and, when nothing of it is left, from the API (SEMANTICS 53).
    async fn remove(&self, desired: &Desired) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
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
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let shared = Arc::clone(&self.shared);
        match action {
            Action::CreateSandbox => {
                let dir = self.dir();
                let refusal = tokio::select! {
                    biased;
                    () = end_moved(changes, desired) => return Ok(()),
                    made = lifecycle::create_sandbox(&shared, &desired.pod, &self.sandbox, &dir) => made.err(),
                };
                self.note("", refusal, &desired.pod).await;
            }
            Action::Start { name, attempt, backoff_seconds } => {
                let id = ContainerId { sandbox: self.sandbox.clone(), name, attempt };
                let address = sandbox.and_then(|sandbox| sandbox.address);
                let place = lifecycle::Place { dir: &self.dir(), address };
                let refusal = tokio::select! {
                    biased;
                    () = end_moved(changes, desired) => return Ok(()),
                    made = lifecycle::start(&shared, &desired.pod, &id, place, backoff_seconds) => made.err(),
                };
                self.note(&id.name, refusal, &desired.pod).await;
            }
            Action::Stop { attempts, why } => {
                let spent = self.ending_since.map(|since| since.elapsed()).unwrap_or_default();
                let grace = desired.grace().saturating_sub(spent);
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

    /// Remembers why something was not started, and until when not to try again.
    async fn note(&mut self, name: &str, refusal: Option<Refusal>, pod: &Pod) {
        let Some(Refusal { reason, later, message }) = refusal else {
            self.memory.failures.remove(name);
            return;
        };
        let count = self.memory.failures.get(name).map_or(0, |failure| failure.count) + 1;
        let wait = Duration::from_secs(failure_backoff_seconds(count));
        let retry_at = self.shared.clock.now().saturating_add(wait).unwrap_or(orchestra_core::clock::Timestamp::MAX);
        let reason = if count > 1 { later } else { reason };
        lifecycle::complain(&self.shared, pod, name, reason, &message).await;
        self.memory.failures.insert(name.into(), Failure { reason, message, count, retry_at });
    }

    fn dir(&self) -> PathBuf {
        self.shared.root_dir.join("pods").join(&*self.sandbox.0)
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

/// A pod's name and namespace.
pub(super) fn names(pod: &Pod) -> (&str, &str) {
    (pod.metadata.name.as_deref().unwrap_or_default(), pod.metadata.namespace.as_deref().unwrap_or("default"))
}
