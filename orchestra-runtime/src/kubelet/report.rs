//! Tells the API what is seen of a pod; one that can't be told now is told later, and holds no pod up (SEMANTICS 55).

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use tokio::time::{Instant, timeout};

use super::{
    API_PATIENCE, Shared,
    worker::{Trouble, names, retry_after},
};

/// Reports on one pod.
#[derive(Default)]
pub(super) struct Reporter {
    /// The pod as the API last answered: newer than what the watch shows, until that has caught up.
    told: Option<Arc<Pod>>,
    /// How many reports in a row have failed.
    failures: u32,
    /// Not before this moment.
    retry_at: Option<Instant>,
}

impl Reporter {
    /// The pod as the API has it: as the watch shows it, or as the last report left it, whichever is newer.
    pub(super) fn known(&self, watched: &Arc<Pod>) -> Arc<Pod> {
        let told = self.told.as_ref().filter(|told| revision(told) >= revision(watched));
        Arc::clone(told.unwrap_or(watched))
    }

    /// Tells the API, unless `pod` shows it already; returns how long to wait with the next try if it can't be told.
    /// Whatever others made of it meanwhile is told anew.
    pub(super) async fn tell(&mut self, shared: &Shared, pod: &Pod, status: PodStatus) -> Option<Duration> {
        let left = self.retry_at.map(|at| at.saturating_duration_since(Instant::now()));
        if let Some(left) = left.filter(|left| !left.is_zero()) {
            return Some(left);
        }
        let Err(error) = self.patch(shared, pod, status).await else {
            (self.failures, self.retry_at) = (0, None);
            return None;
        };
        let wait = retry_after(self.failures);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(Instant::now() + wait);
        // Said once: while an API server is away, every pod of every node has the same to say.
        let pod = pod.metadata.name.as_deref().unwrap_or_default();
        match self.failures {
            1 => tracing::warn!(pod, %error, "the API can't be told of a pod, trying again"),
            _ => tracing::debug!(pod, %error, ?wait, "the API still can't be told of a pod"),
        }
        Some(wait)
    }

    /// Ends the wait after a failure: the API was heard of.
    pub(super) fn retry_now(&mut self) {
        self.retry_at = None;
    }

    async fn patch(&mut self, shared: &Shared, pod: &Pod, status: PodStatus) -> Result<(), Trouble> {
        // As the API has them: times in whole seconds.
        let (shown, wanted) = (serde_json::to_value(&pod.status)?, serde_json::to_value(&status)?);
        if shown == wanted {
            return Ok(());
        }
        let (name, namespace) = names(pod);
        let pods: Api<Pod> = Api::namespaced(shared.client.clone(), namespace);
        let patch = Patch::Merge(serde_json::json!({"metadata": {"uid": pod.metadata.uid}, "status": wanted}));
        let answer = timeout(API_PATIENCE, pods.patch_status(name, &PatchParams::default(), &patch)).await?;
        self.told = Some(Arc::new(match answer {
            // Gone, or another by its name: the watch will say so.
            Err(kube::Error::Api(failure)) if matches!(failure.code, 404 | 409) => {
                Pod { status: Some(status), ..pod.clone() }
            }
            other => other?,
        }));
        Ok(())
    }
}

/// The revision at which the API had a pod like this.
fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}
