//! The defaults of what keeps a number of pods: deployments and their kin.

use k8s_openapi::api::apps::v1::{
    DaemonSet, Deployment, ReplicaSet, StatefulSet, StatefulSetPersistentVolumeClaimRetentionPolicy,
};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimStatus, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod::template;
use super::volume::claim;

/// How many old revisions of a workload are kept to go back to.
const REVISIONS_KEPT: i32 = 10;
/// How long a rollout may make no progress.
const PROGRESS_SECONDS: i32 = 600;

/// Fills in a deployment.
pub fn deployment(deployment: &mut Deployment) {
    let spec = &mut deployment.spec;
    template(&mut spec.template);
    spec.replicas.get_or_insert(1);
    spec.revision_history_limit.get_or_insert(REVISIONS_KEPT);
    spec.progress_deadline_seconds.get_or_insert(PROGRESS_SECONDS);
    let strategy = spec.strategy.get_or_insert_default();
    if rolls(&mut strategy.type_) {
        let rolling = strategy.rolling_update.get_or_insert_default();
        rolling.max_unavailable.get_or_insert_with(|| IntOrString::String("25%".to_owned()));
        rolling.max_surge.get_or_insert_with(|| IntOrString::String("25%".to_owned()));
    }
}

/// Fills in a replica set.
pub fn replica_set(set: &mut ReplicaSet) {
    let spec = &mut set.spec;
    spec.template.iter_mut().for_each(template);
    spec.replicas.get_or_insert(1);
}

/// Fills in a replication controller, whose selector and labels are those of its template.
pub fn replication_controller(controller: &mut ReplicationController) {
    let Some(spec) = &mut controller.spec else { return };
    spec.replicas.get_or_insert(1);
    let Some(pods) = &mut spec.template else { return };
    template(pods);
    let labels =
        pods.metadata.as_ref().and_then(|metadata| metadata.labels.clone()).filter(|labels| !labels.is_empty());
    if let Some(labels) = labels {
        if spec.selector.as_ref().is_none_or(|selector| selector.is_empty()) {
            spec.selector = Some(labels.clone());
        }
        label(&mut controller.metadata, labels);
    }
}

/// Fills in a daemon set.
pub fn daemon_set(set: &mut DaemonSet) {
    let spec = &mut set.spec;
    template(&mut spec.template);
    spec.revision_history_limit.get_or_insert(REVISIONS_KEPT);
    let strategy = spec.update_strategy.get_or_insert_default();
    if rolls(&mut strategy.type_) {
        let rolling = strategy.rolling_update.get_or_insert_default();
        rolling.max_unavailable.get_or_insert(IntOrString::Int(1));
        rolling.max_surge.get_or_insert(IntOrString::Int(0));
    }
}

/// Fills in a stateful set.
pub fn stateful_set(set: &mut StatefulSet) {
    let spec = &mut set.spec;
    template(&mut spec.template);
    spec.replicas.get_or_insert(1);
    spec.revision_history_limit.get_or_insert(REVISIONS_KEPT);
    spec.pod_management_policy.get_or_insert_with(|| "OrderedReady".to_owned());
    let strategy = spec.update_strategy.get_or_insert_default();
    if rolls(&mut strategy.type_) {
        strategy.rolling_update.get_or_insert_default().partition.get_or_insert(0);
    }
    let retention: &mut StatefulSetPersistentVolumeClaimRetentionPolicy =
        spec.persistent_volume_claim_retention_policy.get_or_insert_default();
    retention.when_deleted.get_or_insert_with(|| "Retain".to_owned());
    retention.when_scaled.get_or_insert_with(|| "Retain".to_owned());
    for template in spec.volume_claim_templates.iter_mut().flatten() {
        template.spec.iter_mut().for_each(claim);
        let status: &mut PersistentVolumeClaimStatus = template.status.get_or_insert_default();
        status.phase.get_or_insert_with(|| "Pending".to_owned());
    }
}

/// Fills in the type of an update strategy, and says whether it is a rolling one.
fn rolls(strategy_type: &mut Option<String>) -> bool {
    if strategy_type.as_deref().unwrap_or_default().is_empty() {
        *strategy_type = Some("RollingUpdate".to_owned());
    }
    strategy_type.as_deref() == Some("RollingUpdate")
}

fn label(metadata: &mut ObjectMeta, labels: std::collections::BTreeMap<String, String>) {
    if metadata.labels.as_ref().is_none_or(|labels| labels.is_empty()) {
        metadata.labels = Some(labels);
    }
}
