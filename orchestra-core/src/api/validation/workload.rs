//! The rules of what keeps a number of pods: deployments and their kin.

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::core::v1::{PodTemplateSpec, ReplicationController};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata::{Scope, immutable, invalid, object_meta, object_meta_update};
use super::names::{self, NameRule};
use super::values::{count_or_percent, is_zero, non_negative, not_more_than_all, one_of};
use super::{FieldError, Path};
use super::{pod, selector};

const MISMATCH: &str = "`selector` does not match template `labels`";
const STATEFUL_SET_MUTABLE: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
     'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
     'minReadySeconds' are forbidden";

/// Checks a deployment.
pub fn deployment(deployment: &Deployment) -> Vec<FieldError> {
    let mut errors = object_meta(&deployment.metadata, Scope::Namespaced, NameRule::Subdomain);
    let (spec, path) = (&deployment.spec, Path::root("spec"));
    non_negative(spec.replicas, &path.field("replicas"), &mut errors);
    pods(&spec.selector, Some(&spec.template), "deployment", &path, &mut errors);
    non_negative(spec.min_ready_seconds, &path.field("minReadySeconds"), &mut errors);
    non_negative(spec.revision_history_limit, &path.field("revisionHistoryLimit"), &mut errors);
    let deadline = path.field("progressDeadlineSeconds");
    non_negative(spec.progress_deadline_seconds, &deadline, &mut errors);
    let ready = spec.min_ready_seconds.unwrap_or(0);
    if let Some(seconds) = spec.progress_deadline_seconds.filter(|seconds| *seconds <= ready) {
        errors.push(FieldError::invalid(&deadline, seconds, "must be greater than minReadySeconds"));
    }
    if let Some(strategy) = &spec.strategy {
        let path = path.field("strategy");
        let rolling_path = path.field("rollingUpdate");
        let rolling = strategy.rolling_update.as_ref();
        one_of(strategy.type_.as_deref(), &["Recreate", "RollingUpdate"], &path.field("type"), &mut errors);
        match (strategy.type_.as_deref(), rolling) {
            (Some("Recreate"), Some(_)) => {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(FieldError::forbidden(&rolling_path, detail));
            }
            (Some("RollingUpdate"), None) => {
                let detail = "this should be defaulted and never be nil";
                errors.push(FieldError::required(&rolling_path, detail));
            }
            (Some("RollingUpdate"), Some(rolling)) => {
                let (unavailable, surge) = (rolling.max_unavailable.as_ref(), rolling.max_surge.as_ref());
                rolling_update(unavailable, surge, &rolling_path, &mut errors);
            }
            _ => {}
        }
    }
    errors
}

/// Checks what a write changes in a deployment, whose selector stays.
pub fn deployment_update(new: &Deployment, old: &Deployment) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    immutable(&new.spec.selector, &old.spec.selector, &Path::root("spec").field("selector"), &mut errors);
    errors
}

/// Checks a replica set.
pub fn replica_set(set: &ReplicaSet) -> Vec<FieldError> {
    let mut errors = object_meta(&set.metadata, Scope::Namespaced, NameRule::Subdomain);
    let (spec, path) = (&set.spec, Path::root("spec"));
    non_negative(spec.replicas, &path.field("replicas"), &mut errors);
    non_negative(spec.min_ready_seconds, &path.field("minReadySeconds"), &mut errors);
    pods(&spec.selector, spec.template.as_ref(), "deployment", &path, &mut errors);
    errors
}

/// Checks what a write changes in a replica set, whose selector stays.
pub fn replica_set_update(new: &ReplicaSet, old: &ReplicaSet) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    immutable(&new.spec.selector, &old.spec.selector, &Path::root("spec").field("selector"), &mut errors);
    errors
}

/// Checks a daemon set.
pub fn daemon_set(set: &DaemonSet) -> Vec<FieldError> {
    let mut errors = object_meta(&set.metadata, Scope::Namespaced, NameRule::Subdomain);
    let (spec, path) = (&set.spec, Path::root("spec"));
    pods(&spec.selector, Some(&spec.template), "daemonset", &path, &mut errors);
    non_negative(spec.min_ready_seconds, &path.field("minReadySeconds"), &mut errors);
    non_negative(spec.revision_history_limit, &path.field("revisionHistoryLimit"), &mut errors);
    if let Some(strategy) = &spec.update_strategy {
        let path = path.field("updateStrategy");
        one_of(strategy.type_.as_deref(), &["OnDelete", "RollingUpdate"], &path.field("type"), &mut errors);
        if let Some(rolling) = &strategy.rolling_update {
            let path = path.field("rollingUpdate");
            for (field, value) in [("maxUnavailable", &rolling.max_unavailable), ("maxSurge", &rolling.max_surge)] {
                if let Some(value) = value {
                    count_or_percent(value, &path.field(field), &mut errors);
                    not_more_than_all(value, &path.field(field), &mut errors);
                }
            }
            let zero = |value: &Option<IntOrString>| value.as_ref().is_none_or(is_zero);
            match (zero(&rolling.max_unavailable), zero(&rolling.max_surge)) {
                (true, true) => {
                    let detail = "cannot be 0 when maxSurge is 0";
                    errors.push(FieldError::required(&path.field("maxUnavailable"), detail));
                }
                (false, false) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    errors.push(FieldError::invalid(&path.field("maxSurge"), &rolling.max_surge, detail));
                }
                _ => {}
            }
        }
    }
    errors
}

/// Checks what a write changes in a daemon set, whose selector stays.
pub fn daemon_set_update(new: &DaemonSet, old: &DaemonSet) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    immutable(&new.spec.selector, &old.spec.selector, &Path::root("spec").field("selector"), &mut errors);
    errors
}

/// Checks a stateful set, whose name is the beginning of its pods' hostnames.
pub fn stateful_set(set: &StatefulSet) -> Vec<FieldError> {
    let mut errors = object_meta(&set.metadata, Scope::Namespaced, NameRule::Label);
    let (spec, path) = (&set.spec, Path::root("spec"));
    let policy = path.field("podManagementPolicy");
    match spec.pod_management_policy.as_deref().unwrap_or_default() {
        "" => errors.push(FieldError::required(&policy, "")),
        "OrderedReady" | "Parallel" => {}
        other => errors.push(FieldError::invalid(&policy, other, "must be 'OrderedReady' or 'Parallel'")),
    }
    non_negative(spec.replicas, &path.field("replicas"), &mut errors);
    non_negative(spec.min_ready_seconds, &path.field("minReadySeconds"), &mut errors);
    non_negative(spec.revision_history_limit, &path.field("revisionHistoryLimit"), &mut errors);
    if let Some(ordinals) = &spec.ordinals {
        non_negative(ordinals.start, &path.field("ordinals").field("start"), &mut errors);
    }
    pods(&spec.selector, Some(&spec.template), "statefulset", &path, &mut errors);
    if let Some(strategy) = &spec.update_strategy {
        let path = path.field("updateStrategy");
        let rolling_path = path.field("rollingUpdate");
        match (strategy.type_.as_deref().unwrap_or_default(), &strategy.rolling_update) {
            ("", _) => errors.push(FieldError::required(&path, "")),
            ("OnDelete", Some(_)) => {
                let detail = "only allowed for updateStrategy 'RollingUpdate'";
                errors.push(FieldError::invalid(&rolling_path, &strategy.rolling_update, detail));
            }
            ("OnDelete", None) | ("RollingUpdate", None) => {}
            ("RollingUpdate", Some(rolling)) => {
                non_negative(rolling.partition, &rolling_path.field("partition"), &mut errors);
                if let Some(unavailable) = &rolling.max_unavailable {
                    let path = rolling_path.field("maxUnavailable");
                    count_or_percent(unavailable, &path, &mut errors);
                    not_more_than_all(unavailable, &path, &mut errors);
                    if is_zero(unavailable) {
                        errors.push(FieldError::invalid(&path, unavailable, "cannot be 0"));
                    }
                }
            }
            (other, _) => {
                errors.push(FieldError::invalid(&path, other, "must be 'RollingUpdate' or 'OnDelete'"));
            }
        }
    }
    errors
}

/// Checks what a write changes in a stateful set: only what its pods can follow one by one.
pub fn stateful_set_update(new: &StatefulSet, old: &StatefulSet) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    let mut spec = old.spec.clone();
    spec.replicas = new.spec.replicas;
    spec.ordinals.clone_from(&new.spec.ordinals);
    spec.template.clone_from(&new.spec.template);
    spec.update_strategy.clone_from(&new.spec.update_strategy);
    spec.revision_history_limit = new.spec.revision_history_limit;
    spec.min_ready_seconds = new.spec.min_ready_seconds;
    let retention = &new.spec.persistent_volume_claim_retention_policy;
    spec.persistent_volume_claim_retention_policy.clone_from(retention);
    if spec != new.spec {
        errors.push(FieldError::forbidden(&Path::root("spec"), STATEFUL_SET_MUTABLE));
    }
    errors
}

/// Checks a replication controller.
pub fn replication_controller(controller: &ReplicationController) -> Vec<FieldError> {
    let mut errors = object_meta(&controller.metadata, Scope::Namespaced, NameRule::Subdomain);
    let path = Path::root("spec");
    let no_spec = Default::default();
    let spec = controller.spec.as_ref().unwrap_or(&no_spec);
    non_negative(spec.replicas, &path.field("replicas"), &mut errors);
    non_negative(spec.min_ready_seconds, &path.field("minReadySeconds"), &mut errors);
    let selector_path = path.field("selector");
    let selector = spec.selector.clone().unwrap_or_default();
    if selector.is_empty() {
        errors.push(FieldError::required(&selector_path, ""));
    }
    for (key, value) in &selector {
        invalid(&selector_path, key, names::qualified_name(key), &mut errors);
        invalid(&selector_path, value, names::label_value(value), &mut errors);
    }
    let selector = LabelSelector { match_labels: Some(selector), match_expressions: None };
    template(&selector, spec.template.as_ref(), &path, &mut errors);
    errors
}

/// Checks what a write changes in a replication controller.
pub fn replication_controller_update(new: &ReplicationController, old: &ReplicationController) -> Vec<FieldError> {
    object_meta_update(&new.metadata, &old.metadata)
}

/// Checks a controller revision.
pub fn controller_revision(revision: &ControllerRevision) -> Vec<FieldError> {
    let mut errors = object_meta(&revision.metadata, Scope::Namespaced, NameRule::Subdomain);
    if revision.data.0.is_null() {
        errors.push(FieldError::required(&Path::root("data"), "data is mandatory"));
    }
    non_negative(revision.revision, &Path::root("revision"), &mut errors);
    errors
}

/// Checks what a write changes in a controller revision, whose data stays.
pub fn controller_revision_update(new: &ControllerRevision, old: &ControllerRevision) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    immutable(&new.data.0, &old.data.0, &Path::root("data"), &mut errors);
    errors
}

/// Checks a selector, the template of the pods it is to select, and that it does.
fn pods(
    selects: &LabelSelector,
    pods: Option<&PodTemplateSpec>,
    kind: &str,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let selector_path = path.field("selector");
    if *selects == LabelSelector::default() {
        errors.push(FieldError::required(&selector_path, ""));
    } else if selector::is_empty(selects) {
        let detail = format!("empty selector is invalid for {kind}");
        errors.push(FieldError::invalid(&selector_path, selects, detail));
    }
    selector::label_selector(selects, &selector_path, errors);
    template(selects, pods, path, errors);
}

/// Checks the template of pods that are to run forever, and that they are selected.
fn template(
    selects: &LabelSelector,
    template: Option<&PodTemplateSpec>,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let path = path.field("template");
    let Some(template) = template else {
        errors.push(FieldError::required(&path, ""));
        return;
    };
    let no_labels = BTreeMap::new();
    let labels = template.metadata.as_ref().and_then(|metadata| metadata.labels.as_ref()).unwrap_or(&no_labels);
    if selector::is_empty(selects) || !selector::matches(selects, labels) {
        let metadata = path.field("metadata");
        errors.push(FieldError::invalid(&metadata.field("labels"), labels, MISMATCH));
    }
    pod::template(template, &path, errors);
    let spec_path = path.field("spec");
    let Some(spec) = &template.spec else { return };
    if let Some(policy @ ("Never" | "OnFailure")) = spec.restart_policy.as_deref() {
        errors.push(FieldError::not_supported(&spec_path.field("restartPolicy"), policy, &["Always"]));
    }
    if spec.active_deadline_seconds.is_some() {
        let detail = "activeDeadlineSeconds in ReplicaSet is not Supported";
        errors.push(FieldError::forbidden(&spec_path.field("activeDeadlineSeconds"), detail));
    }
}

fn rolling_update(
    unavailable: Option<&IntOrString>,
    surge: Option<&IntOrString>,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let unavailable_path = path.field("maxUnavailable");
    for (value, path) in [(unavailable, unavailable_path), (surge, path.field("maxSurge"))] {
        if let Some(value) = value {
            count_or_percent(value, &path, errors);
        }
    }
    if unavailable.is_none_or(is_zero) && surge.is_none_or(is_zero) {
        let detail = "may not be 0 when `maxSurge` is 0";
        errors.push(FieldError::invalid(&unavailable_path, unavailable, detail));
    }
    if let Some(unavailable) = unavailable {
        not_more_than_all(unavailable, &unavailable_path, errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api::defaults;

    fn read(spec: &Value) -> Deployment {
        let object = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
        let mut deployment = serde_json::from_value(object).unwrap();
        defaults::deployment(&mut deployment);
        deployment
    }

    fn template() -> Value {
        json!({"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "b"}]}})
    }

    fn texts(errors: &[FieldError]) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_selector_is_required_and_selects_the_template() {
        assert_eq!(
            texts(&deployment(&read(&json!({"template": template()})))),
            [
                "spec.selector: Required value",
                concat!(
                    r#"spec.template.metadata.labels: Invalid value: {"app":"web"}: "#,
                    "`selector` does not match template `labels`"
                ),
            ]
        );
        assert_eq!(
            deployment(&read(&json!({"selector": {"matchLabels": {"app": "web"}}, "template": template()}))),
            []
        );
    }

    #[test]
    fn a_selector_stays() {
        let with = |app: &str| read(&json!({"selector": {"matchLabels": {"app": app}}, "template": template()}));
        assert_eq!(
            texts(&deployment_update(&with("web"), &with("db"))),
            [r#"spec.selector: Invalid value: {"matchLabels":{"app":"web"}}: field is immutable"#]
        );
    }

    #[test]
    fn a_rollout_must_be_able_to_move() {
        let errors = deployment(&read(&json!({
            "replicas": -1,
            "selector": {"matchLabels": {"app": "web"}},
            "template": template(),
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": "0%"}},
        })));
        assert_eq!(
            texts(&errors),
            [
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
            ]
        );
    }
}
