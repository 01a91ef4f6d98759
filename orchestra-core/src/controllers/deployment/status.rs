//! A deployment's status, with Kubernetes' own conditions, reasons and messages.

use std::time::Duration;

use k8s_openapi::{
    api::apps::v1::{Deployment, DeploymentCondition, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetStatus},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::ResourceExt as _;

use super::plan::bounds;
use crate::clock::Timestamp;

/// The status, and after how long it changes by itself.
pub(super) fn status(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    newest: Option<&ReplicaSet>,
    sets: &[&ReplicaSet],
    now: Timestamp,
) -> (DeploymentStatus, Option<Duration>) {
    let sum = |count: fn(&ReplicaSetStatus) -> i32| -> i32 {
        sets.iter().filter_map(|set| set.status.as_ref()).map(count).sum()
    };
    let replicas = sum(|status| status.replicas);
    let ready = sum(|status| status.ready_replicas.unwrap_or(0));
    let available = sum(|status| status.available_replicas.unwrap_or(0));
    let updated = newest.and_then(|set| set.status.as_ref()).map_or(0, |status| status.replicas);
    let asked: i32 = sets.iter().filter_map(|set| set.spec.replicas).sum();
    let some = |count: i32| (count > 0).then_some(count);
    let old = deployment.status.clone().unwrap_or_default();
    let mut status = DeploymentStatus {
        replicas: some(replicas),
        updated_replicas: some(updated),
        ready_replicas: some(ready),
        available_replicas: some(available),
        unavailable_replicas: some(asked - available),
        observed_generation: deployment.metadata.generation,
        collision_count: old.collision_count,
        conditions: None,
        terminating_replicas: None,
    };
    let wanted = spec.replicas.unwrap_or(1);
    let conditions = old.conditions.as_deref().unwrap_or_default();
    let complete = updated == wanted && replicas == wanted && available == wanted;
    let (progressing, look_again) = progressing(deployment, spec, newest, &old, &status, complete, now);
    let minimum = wanted - bounds(spec).1;
    let available = if available >= minimum {
        ("Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.".to_owned())
    } else {
        let message = "Deployment does not have minimum availability.".to_owned();
        ("Available", "False", "MinimumReplicasUnavailable", message)
    };
    let conditions =
        [Some(available), progressing].into_iter().flatten().map(|new| condition(conditions, new, &old, &status, now));
    status.conditions = Some(conditions.collect());
    (status, look_again)
}

type Condition = (&'static str, &'static str, &'static str, String);

fn progressing(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    newest: Option<&ReplicaSet>,
    old: &DeploymentStatus,
    new: &DeploymentStatus,
    complete: bool,
    now: Timestamp,
) -> (Option<Condition>, Option<Duration>) {
    if spec.paused.unwrap_or(false) {
        let message = "Deployment is paused".to_owned();
        return (Some(("Progressing", "Unknown", "DeploymentPaused", message)), None);
    }
    let name = newest.map_or_else(|| deployment.name_any(), |set| set.name_any());
    let set = if newest.is_some() { "ReplicaSet" } else { "Deployment" };
    if complete {
        let message = format!("{set} \"{name}\" has successfully progressed.");
        return (Some(("Progressing", "True", "NewReplicaSetAvailable", message)), None);
    }
    let last = old
        .conditions
        .as_deref()
        .unwrap_or_default()
        .iter()
        .find(|condition| condition.type_.as_deref() == Some("Progressing"));
    let moved = counts(old) != counts(new) || old.observed_generation != new.observed_generation;
    let deadline = i64::from(spec.progress_deadline_seconds.unwrap_or(600));
    // Once complete, a set that loses pods is healed, not rolled out: its deadline does not run.
    let healing = last.is_some_and(|last| last.reason.as_deref() == Some("NewReplicaSetAvailable")) && !moved;
    if let Some(last) = last.filter(|_| !moved && !healing) {
        let since = last.last_update_time.as_ref().map_or(now, |time| time.0);
        let left = deadline - now.duration_since(since).as_secs();
        if left <= 0 || last.reason.as_deref() == Some("ProgressDeadlineExceeded") {
            let message = format!("{set} \"{name}\" has timed out progressing.");
            return (Some(("Progressing", "False", "ProgressDeadlineExceeded", message)), None);
        }
        let kept = ("Progressing", "True", "ReplicaSetUpdated", format!("{set} \"{name}\" is progressing."));
        return (Some(kept), Some(Duration::from_secs(left.unsigned_abs())));
    }
    if healing {
        let message = format!("{set} \"{name}\" has successfully progressed.");
        return (Some(("Progressing", "True", "NewReplicaSetAvailable", message)), None);
    }
    let (reason, verb) = if newest.is_some() {
        ("ReplicaSetUpdated", "is progressing.")
    } else {
        ("NewReplicaSetCreated", "is progressing.")
    };
    let wait = Duration::from_secs(deadline.unsigned_abs());
    (Some(("Progressing", "True", reason, format!("{set} \"{name}\" {verb}"))), Some(wait))
}

fn counts(status: &DeploymentStatus) -> [Option<i32>; 4] {
    [status.replicas, status.updated_replicas, status.ready_replicas, status.available_replicas]
}

/// The condition with its times: the transition's moves with the status, the update's with any progress.
fn condition(
    old_conditions: &[DeploymentCondition],
    (type_, status, reason, message): Condition,
    old: &DeploymentStatus,
    new: &DeploymentStatus,
    now: Timestamp,
) -> DeploymentCondition {
    let last = old_conditions.iter().find(|condition| condition.type_.as_deref() == Some(type_));
    let same =
        last.is_some_and(|last| last.status.as_deref() == Some(status) && last.reason.as_deref() == Some(reason));
    let progressed = type_ == "Progressing" && counts(old) != counts(new);
    let at = |kept: Option<&Time>| kept.cloned().unwrap_or(Time(now));
    DeploymentCondition {
        type_: Some(type_.into()),
        status: Some(status.into()),
        reason: Some(reason.into()),
        message: Some(message),
        last_transition_time: Some(at(last
            .filter(|last| last.status.as_deref() == Some(status))
            .and_then(|last| last.last_transition_time.as_ref()))),
        last_update_time: Some(at(last
            .filter(|_| same && !progressed)
            .and_then(|last| last.last_update_time.as_ref()))),
    }
}
