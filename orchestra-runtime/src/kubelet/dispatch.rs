//! From the node's pods, as the API has them, to one worker each; and what is left of pods that are gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api,
    runtime::watcher::{Config, Event, watcher},
};
use orchestra_core::runtime::SandboxId;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{Shared, volume, worker, worker::Desired};

/// How long to wait before watching again after a failure.
const RETRY_SECONDS: u64 = 1;
/// How often everything is looked at, in case a hint of the runtime was lost.
const RESYNC_SECONDS: u64 = 60;
/// How long a pod is left alone after its worker hit a bug.
const PANIC_RETRY_SECONDS: u64 = 30;
/// How many hints wait for a worker: one says it all.
const HINTS_MAX: usize = 1;

/// The label of a sandbox that names its pod's namespace.
pub(super) const NAMESPACE_LABEL: &str = "io.kubernetes.pod.namespace";
/// The label of a sandbox that names its pod.
pub(super) const NAME_LABEL: &str = "io.kubernetes.pod.name";

/// The handle on a pod's worker.
struct Worker {
    desired: watch::Sender<Desired>,
    hints: mpsc::Sender<()>,
}

/// The workers, by uid of their pods.
struct Workers<'a> {
    shared: &'a Arc<Shared>,
    all: BTreeMap<String, Worker>,
    tasks: JoinSet<(String, End)>,
    /// The uids that the last whole listing had; none before the first.
    listed: Option<BTreeSet<String>>,
}

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Its pod is gone.
    Done,
    /// It hit a bug.
    Panicked,
}

/// Runs the pods of the node.
pub(super) async fn run(shared: &Arc<Shared>) -> Infallible {
    let pods: Api<Pod> = Api::all(shared.client.clone());
    let config = Config::default().fields(&format!("spec.nodeName={}", shared.node_name));
    let mut watching = std::pin::pin!(watcher(pods, config));
    let mut events = shared.runtime.events();
    let mut resync = tokio::time::interval(Duration::from_secs(RESYNC_SECONDS));
    let mut workers = Workers { shared, all: BTreeMap::new(), tasks: JoinSet::new(), listed: None };
    let mut listed: Option<Vec<Pod>> = None;
    loop {
        tokio::select! {
            biased;
            Some(ended) = workers.tasks.join_next() => {
                if let Ok((uid, end)) = ended {
                    workers.ended(&uid, end);
                }
            }
            event = watching.next() => match event {
                Some(Ok(Event::Init)) => listed = Some(Vec::new()),
                Some(Ok(Event::InitApply(pod))) => listed.get_or_insert_default().push(pod),
                Some(Ok(Event::InitDone)) => workers.replace(listed.take().unwrap_or_default()).await,
                Some(Ok(Event::Apply(pod))) => workers.apply(pod, false),
                Some(Ok(Event::Delete(pod))) => workers.apply(pod, true),
                Some(Err(error)) => {
                    tracing::debug!(node = %shared.node_name, %error, "watching pods failed, trying again");
                    tokio::time::sleep(Duration::from_secs(RETRY_SECONDS)).await;
                }
                None => std::future::pending().await,
            },
            Some(SandboxId(uid)) = events.next() => workers.hint(&uid),
            _ = resync.tick() => workers.resync().await,
        }
    }
}

impl Worker {
    fn hint(&self) {
        // One that is full has a hint to come.
        let _ = self.hints.try_send(());
    }
}

impl Workers<'_> {
    /// Takes a whole listing: starts and updates workers, and ends what isn't in it.
    async fn replace(&mut self, pods: Vec<Pod>) {
        let listed: BTreeSet<_> = pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        for (_, worker) in self.all.iter().filter(|(uid, _)| !listed.contains(*uid)) {
            worker.desired.send_modify(|desired| desired.gone = true);
        }
        self.shared.pods().retain(|_, pod| pod.metadata.uid.as_ref().is_some_and(|uid| listed.contains(uid)));
        pods.into_iter().for_each(|pod| self.apply(pod, false));
        self.listed = Some(listed);
        self.clear_orphans().await;
    }

    /// Looks at everything, in case a hint was lost or orphans could not be removed.
    async fn resync(&mut self) {
        self.all.values().for_each(Worker::hint);
        self.clear_orphans().await;
    }

    async fn clear_orphans(&self) {
        // Before the first listing, nothing is known to be an orphan (SEMANTICS 51, 55).
        let Some(listed) = &self.listed else { return };
        if let Err(error) = self.remove_orphans(listed).await {
            tracing::warn!(node = %self.shared.node_name, %error, "orphaned pods were not removed, trying again");
        }
    }

    /// Forgets a worker; one that hit a bug is replaced, after a while.
    fn ended(&mut self, uid: &str, end: End) {
        self.shared.admitted().remove(uid);
        let worker = self.all.remove(uid);
        self.count();
        if let (End::Panicked, Some(worker)) = (end, worker) {
            tracing::error!(pod = %uid, node = %self.shared.node_name, "a pod's worker panicked, starting another");
            let desired = worker.desired.borrow().clone();
            self.start(uid.to_owned(), desired, Duration::from_secs(PANIC_RETRY_SECONDS));
        }
    }

    fn count(&self) {
        self.shared.metrics.running_pods.set(i64::try_from(self.all.len()).unwrap_or(i64::MAX));
    }

    fn apply(&mut self, pod: Pod, gone: bool) {
        let Some(uid) = pod.metadata.uid.clone() else { return };
        let key = (pod.metadata.namespace.clone().unwrap_or_default(), pod.metadata.name.clone().unwrap_or_default());
        let pod = Arc::new(pod);
        if gone {
            let mut pods = self.shared.pods();
            if pods.get(&key).is_some_and(|known| known.metadata.uid == pod.metadata.uid) {
                pods.remove(&key);
            }
        } else {
            self.shared.pods().insert(key, Arc::clone(&pod));
        }
        if let Some(worker) = self.all.get(&uid) {
            worker.desired.send_replace(Desired { pod, gone });
            return;
        }
        if gone {
            return;
        }
        self.start(uid, Desired { pod, gone }, Duration::ZERO);
    }

    fn start(&mut self, uid: String, desired: Desired, after: Duration) {
        let (desired, pods) = watch::channel(desired);
        let (hints, hinted) = mpsc::channel(HINTS_MAX);
        let work = worker::run(Arc::clone(self.shared), uid.clone(), pods, hinted);
        self.all.insert(uid.clone(), Worker { desired, hints });
        self.tasks.spawn(async move {
            tokio::time::sleep(after).await;
            // What it leaves half done is seen and done by the next one.
            let outcome = AssertUnwindSafe(work).catch_unwind().await;
            (uid, if outcome.is_ok() { End::Done } else { End::Panicked })
        });
        self.count();
    }

    fn hint(&self, uid: &str) {
        if let Some(worker) = self.all.get(uid) {
            worker.hint();
        }
    }

    /// Removes sandboxes whose pods are known to be gone: a live read says so (SEMANTICS 43, 51).
    async fn remove_orphans(&self, listed: &BTreeSet<String>) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        for sandbox in self.shared.runtime.list().await? {
            let uid = sandbox.id.0.to_string();
            let (Some(namespace), Some(name)) = (sandbox.labels.get(NAMESPACE_LABEL), sandbox.labels.get(NAME_LABEL))
            else {
                continue;
            };
            if listed.contains(&uid) || self.all.contains_key(&uid) {
                continue;
            }
            let pods: Api<Pod> = Api::namespaced(self.shared.client.clone(), namespace);
            let live = pods.get_opt(name).await?;
            if live.is_none_or(|pod| pod.metadata.uid.as_ref() != Some(&uid)) {
                tracing::info!(pod = %name, %namespace, "removing what is left of a deleted pod");
                self.shared.runtime.remove_sandbox(&sandbox.id).await?;
            }
        }
        for uid in volume::pods(self.shared.root_dir.path())? {
            if !listed.contains(&uid) && !self.all.contains_key(&uid) {
                volume::unmount_all(&volume::pod_dir(self.shared.root_dir.path(), &uid))?;
            }
        }
        Ok(())
    }
}
