//! A deployment's status, with Kubernetes' own conditions, reasons and messages.

use std::time::Duration;

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt as _;

use super::{super::replica_set::REPLICA_FAILURE, sizes::bounds};
use crate::clock::Timestamp;

const AVAILABLE: &str = "Available";
const PROGRESSING: &str = "Progressing";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const DONE: &str = "NewReplicaSetAvailable";
const PAUSED: &str = "DeploymentPaused";
/// The deadline of a deployment that names none.
const DEADLINE_SECONDS: i32 = 600;

/// A deployment's replica sets.
#[derive(Debug)]
pub(super) struct Rollout<'a> {
    /// The one of its template.
    pub newest: Option<&'a ReplicaSet>,
    /// The name of the one that is about to be made.
    pub creates: Option<String>,
    /// All of them.
    pub sets: &'a [&'a ReplicaSet],
}

/// The status, and after how long it changes by itself.
pub(super) fn status(
    deployment: &Deployment,
    rollout: &Rollout<'_>,
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let spec = &deployment.spec;
    let sum = |count: fn(&ReplicaSetStatus) -> i32| -> i32 {
        rollout.sets.iter().filter_map(|set| set.status.as_ref()).map(count).sum()
    };
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let asked: i32 = rollout.sets.iter().filter_map(|set| set.spec.replicas).sum();
    let some = |count: i32| (count > 0).then_some(count);
    let old = deployment.status.clone().unwrap_or_default();
    let mut conditions = Conditions { all: old.conditions.clone().unwrap_or_default(), now };
    let mut status = DeploymentStatus {
        replicas: some(sum(|status| status.replicas)),
        updated_replicas: some(rollout.newest.and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas)),
        ready_replicas: some(sum(|status| status.ready_replicas.unwrap_or(0))),
        available_replicas: some(available),
        unavailable_replicas: some(asked - available),
        observed_generation: deployment.metadata.generation,
        collision_count: old.collision_count,
        conditions: None,
        terminating_replicas: None,
    };
    if available >= spec.replicas.unwrap_or(1) - bounds(spec).1 {
        let message = "Deployment has minimum availability.".to_owned();
        conditions.set(AVAILABLE, "True", "MinimumReplicasAvailable", message);
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        conditions.set(AVAILABLE, "False", "MinimumReplicasUnavailable", message);
    }
    failing(&mut conditions, rollout);
    let look_again_after = progress(&mut conditions, deployment, rollout, &old, &status);
    status.conditions = Some(conditions.all);
    (status, look_again_after)
}

/// That pods can't be made or deleted is the newest set's trouble first.
fn failing(conditions: &mut Conditions, rollout: &Rollout<'_>) {
    let mut sets = rollout.newest.into_iter().chain(rollout.sets.iter().copied());
    let failure = sets.find_map(|set| {
        let all = set.status.as_ref()?.conditions.as_deref()?;
        all.iter().find(|condition| condition.type_.as_deref() == Some(REPLICA_FAILURE))
    });
    match failure {
        Some(failure) => {
            let [status, reason, message] = [&failure.status, &failure.reason, &failure.message].map(Clone::clone);
            let (status, reason) = (status.unwrap_or_default(), reason.unwrap_or_default());
            conditions.set(REPLICA_FAILURE, &status, &reason, message.unwrap_or_default());
        }
        None => conditions.remove(REPLICA_FAILURE),
    }
}

/// Tells whether the rollout goes on, as `progress.go` of Kubernetes' controller does; when it has to be looked at again.
fn progress(
    conditions: &mut Conditions,
    deployment: &Deployment,
    rollout: &Rollout<'_>,
    old: &DeploymentStatus,
    new: &DeploymentStatus,
) -> Option<Duration> {
    let spec = &deployment.spec;
    let deadline = spec.progress_deadline_seconds.unwrap_or(DEADLINE_SECONDS);
    if deadline == i32::MAX {
        conditions.remove(PROGRESSING);
        return None;
    }
    let paused = spec.paused.unwrap_or(false);
    let was_paused = conditions.reason(PROGRESSING) == Some(PAUSED);
    if conditions.reason(PROGRESSING) != Some(TIMED_OUT) && paused != was_paused {
        let (reason, what) = if paused { (PAUSED, "paused") } else { ("DeploymentResumed", "resumed") };
        conditions.set(PROGRESSING, "Unknown", reason, format!("Deployment is {what}"));
    }
    match (rollout.newest, &rollout.creates) {
        (Some(set), _) if conditions.get(PROGRESSING).is_none() => {
            let message = format!("Found new replica set \"{}\"", set.name_any());
            conditions.set(PROGRESSING, "True", "FoundNewReplicaSet", message);
        }
        (None, Some(name)) => {
            conditions.set(PROGRESSING, "True", "NewReplicaSetCreated", format!("Created new replica set \"{name}\""));
        }
        _ => {}
    }
    // Once rolled out, a set that loses pods or is scaled is healed, not rolled out: its deadline does not run.
    let rolled_out = new.replicas == new.updated_replicas && conditions.reason(PROGRESSING) == Some(DONE);
    if paused || rolled_out {
        return None;
    }
    let name = rollout.newest.map(|set| set.name_any()).or_else(|| rollout.creates.clone());
    let what = name
        .map_or_else(|| format!("Deployment \"{}\"", deployment.name_any()), |name| format!("ReplicaSet \"{name}\""));
    if is_complete(spec, new) {
        conditions.set(PROGRESSING, "True", DONE, format!("{what} has successfully progressed."));
        return None;
    }
    if has_moved(old, new) {
        conditions.renew(PROGRESSING, "True", "ReplicaSetUpdated", format!("{what} is progressing."));
    }
    let since = conditions.get(PROGRESSING)?.last_update_time.as_ref().map_or(conditions.now, |time| time.0);
    if matches!(conditions.reason(PROGRESSING), Some(TIMED_OUT | DONE)) {
        return None;
    }
    let left = i64::from(deadline) - conditions.now.duration_since(since).as_secs();
    if left <= 0 {
        conditions.set(PROGRESSING, "False", TIMED_OUT, format!("{what} has timed out progressing."));
        return None;
    }
    Some(Duration::from_secs(left.unsigned_abs()))
}

fn is_complete(spec: &DeploymentSpec, status: &DeploymentStatus) -> bool {
    let wanted = spec.replicas.unwrap_or(1);
    [status.updated_replicas, status.replicas, status.available_replicas]
        .iter()
        .all(|count| count.unwrap_or(0) == wanted)
}

/// Whether more pods are updated, ready or available, or fewer are old, than before.
fn has_moved(old: &DeploymentStatus, new: &DeploymentStatus) -> bool {
    let outdated = |status: &DeploymentStatus| status.replicas.unwrap_or(0) - status.updated_replicas.unwrap_or(0);
    new.updated_replicas > old.updated_replicas
        || outdated(new) < outdated(old)
        || new.ready_replicas > old.ready_replicas
        || new.available_replicas > old.available_replicas
}

/// A deployment's conditions, as of a moment.
struct Conditions {
    all: Vec<DeploymentCondition>,
    now: Timestamp,
}

impl Conditions {
    fn get(&self, type_: &str) -> Option<&DeploymentCondition> {
        self.all.iter().find(|condition| condition.type_.as_deref() == Some(type_))
    }

    fn reason(&self, type_: &str) -> Option<&str> {
        self.get(type_)?.reason.as_deref()
    }

    fn remove(&mut self, type_: &str) {
        self.all.retain(|condition| condition.type_.as_deref() != Some(type_));
    }

    /// Sets a condition; one of the same status and reason stands as it is.
    fn set(&mut self, type_: &str, status: &str, reason: &str, message: String) {
        let same =
            |old: &DeploymentCondition| old.status.as_deref() == Some(status) && old.reason.as_deref() == Some(reason);
        if !self.get(type_).is_some_and(same) {
            self.renew(type_, status, reason, message);
        }
    }

    /// Sets a condition as of now; the time of its transition stands if its status does.
    fn renew(&mut self, type_: &str, status: &str, reason: &str, message: String) {
        let kept = self.get(type_).filter(|old| old.status.as_deref() == Some(status));
        let since = kept.and_then(|old| old.last_transition_time.clone());
        let condition = DeploymentCondition {
            type_: Some(type_.into()),
            status: Some(status.into()),
            reason: Some(reason.into()),
            message: Some(message),
            last_transition_time: Some(since.unwrap_or(Time(self.now))),
            last_update_time: Some(Time(self.now)),
        };
        match self.all.iter_mut().find(|old| old.type_.as_deref() == Some(type_)) {
            Some(old) => *old = condition,
            None => self.all.push(condition),
        }
    }
}
