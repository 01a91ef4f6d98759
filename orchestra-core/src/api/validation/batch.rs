//! The rules of jobs and cron jobs.

use k8s_openapi::api::batch::v1::{CronJob, Job, JobSpec};

use super::metadata::{Scope, immutable, labels_and_annotations, object_meta, object_meta_update};
use super::names::NameRule;
use super::values::{non_negative, one_of};
use super::{FieldError, Path};
use super::{pod, schedule, selector};

/// The most bytes of a cron job's name: its jobs add eleven to it.
const CRON_JOB_NAME_BYTES_MAX: usize = 52;
/// The most pods of an indexed job that may fail or succeed apart.
const INDEXED_COMPLETIONS_MAX: i32 = 100_000;

/// Checks a job, whose selector the server has made.
pub fn job(job: &Job) -> Vec<FieldError> {
    let mut errors = object_meta(&job.metadata, Scope::Namespaced, NameRule::Subdomain);
    let path = Path::root("spec");
    let no_spec = JobSpec::default();
    let spec = job.spec.as_ref().unwrap_or(&no_spec);
    let no_labels = Default::default();
    let metadata = spec.template.metadata.as_ref();
    let labels = metadata.and_then(|metadata| metadata.labels.as_ref()).unwrap_or(&no_labels);
    match &spec.selector {
        None => errors.push(FieldError::required(&path.field("selector"), "")),
        Some(selects) => {
            selector::label_selector(selects, &path.field("selector"), &mut errors);
            if !selector::matches(selects, labels) {
                let template = path.field("template");
                let metadata = template.field("metadata");
                let detail = "`selector` does not match template `labels`";
                errors.push(FieldError::invalid(&metadata.field("labels"), labels, detail));
            }
        }
    }
    job_spec(spec, &path, &mut errors);
    errors
}

/// Checks what a write changes in a job: not what its pods are or how many are to succeed.
pub fn job_update(new: &Job, old: &Job) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return errors };
    let path = Path::root("spec");
    // An indexed job may grow and shrink as long as all of it runs at once.
    let elastic = new.completion_mode.as_deref() == Some("Indexed") && new.completions == new.parallelism;
    if !elastic {
        immutable(&new.completions, &old.completions, &path.field("completions"), &mut errors);
    }
    immutable(&new.selector, &old.selector, &path.field("selector"), &mut errors);
    if old.suspend != Some(true) {
        immutable(&new.template, &old.template, &path.field("template"), &mut errors);
    }
    immutable(&new.completion_mode, &old.completion_mode, &path.field("completionMode"), &mut errors);
    immutable(&new.pod_failure_policy, &old.pod_failure_policy, &path.field("podFailurePolicy"), &mut errors);
    errors
}

/// Checks a cron job.
pub fn cron_job(cron_job: &CronJob) -> Vec<FieldError> {
    let mut errors = object_meta(&cron_job.metadata, Scope::Namespaced, NameRule::Subdomain);
    let name = cron_job.metadata.name.as_deref().unwrap_or_default();
    if name.len() > CRON_JOB_NAME_BYTES_MAX {
        let detail = format!("must be no more than {CRON_JOB_NAME_BYTES_MAX} characters");
        errors.push(FieldError::invalid(&Path::root("metadata").field("name"), name, detail));
    }
    let (spec, path) = (&cron_job.spec, Path::root("spec"));
    match spec.schedule.as_str() {
        "" => errors.push(FieldError::required(&path.field("schedule"), "")),
        text => {
            if let Err(problem) = schedule::check(text) {
                errors.push(FieldError::invalid(&path.field("schedule"), text, problem));
            }
        }
    }
    if spec.schedule.contains("TZ") {
        let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
        errors.push(FieldError::invalid(&path.field("schedule"), &spec.schedule, detail));
    }
    if spec.time_zone.as_deref() == Some("") {
        errors.push(FieldError::invalid(&path.field("timeZone"), "", "timeZone must be nil or non-empty string"));
    }
    let policies = ["Allow", "Forbid", "Replace"];
    one_of(spec.concurrency_policy.as_deref(), &policies, &path.field("concurrencyPolicy"), &mut errors);
    non_negative(spec.starting_deadline_seconds, &path.field("startingDeadlineSeconds"), &mut errors);
    non_negative(spec.successful_jobs_history_limit, &path.field("successfulJobsHistoryLimit"), &mut errors);
    non_negative(spec.failed_jobs_history_limit, &path.field("failedJobsHistoryLimit"), &mut errors);
    let template = path.field("jobTemplate");
    if let Some(metadata) = &spec.job_template.metadata {
        labels_and_annotations(metadata, &template.field("metadata"), &mut errors);
    }
    let no_spec = JobSpec::default();
    job_spec(spec.job_template.spec.as_ref().unwrap_or(&no_spec), &template.field("spec"), &mut errors);
    errors
}

/// Checks what a write changes in a cron job.
pub fn cron_job_update(new: &CronJob, old: &CronJob) -> Vec<FieldError> {
    object_meta_update(&new.metadata, &old.metadata)
}

fn job_spec(spec: &JobSpec, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    non_negative(spec.parallelism, &path.field("parallelism"), errors);
    non_negative(spec.completions, &path.field("completions"), errors);
    non_negative(spec.active_deadline_seconds, &path.field("activeDeadlineSeconds"), errors);
    non_negative(spec.backoff_limit, &path.field("backoffLimit"), errors);
    non_negative(spec.backoff_limit_per_index, &path.field("backoffLimitPerIndex"), errors);
    non_negative(spec.max_failed_indexes, &path.field("maxFailedIndexes"), errors);
    non_negative(spec.ttl_seconds_after_finished, &path.field("ttlSecondsAfterFinished"), errors);
    match spec.completion_mode.as_deref() {
        None | Some("NonIndexed") => {}
        Some("Indexed") => {
            let completions = path.field("completions");
            match spec.completions {
                None => {
                    let detail = "when completion mode is Indexed";
                    errors.push(FieldError::required(&completions, detail));
                }
                Some(count) if count > INDEXED_COMPLETIONS_MAX && spec.parallelism > Some(INDEXED_COMPLETIONS_MAX) => {
                    let detail = format!(
                        "must be less than or equal to {INDEXED_COMPLETIONS_MAX} when completion mode is Indexed"
                    );
                    errors.push(FieldError::invalid(&path.field("parallelism"), spec.parallelism, detail));
                }
                Some(_) => {}
            }
        }
        Some(mode) => {
            let supported = ["Indexed", "NonIndexed"];
            errors.push(FieldError::not_supported(&path.field("completionMode"), mode, &supported));
        }
    }
    let template = path.field("template");
    pod::template(&spec.template, &template, errors);
    let policy = spec.template.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref());
    if policy == Some("Always") {
        let detail = r#"valid values: "OnFailure", "Never""#;
        let pod_path = template.field("spec");
        errors.push(FieldError::required(&pod_path.field("restartPolicy"), detail));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::defaults;

    #[test]
    fn a_cron_job_needs_a_schedule_and_pods_that_end() {
        let mut minimal: CronJob = serde_json::from_value(json!({
            "metadata": {"name": "a", "namespace": "default"},
            "spec": {
                "schedule": "61 * * * *",
                "jobTemplate": {"spec": {"template": {"spec": {"containers": [{"name": "a", "image": "b"}]}}}},
            },
        }))
        .unwrap();
        defaults::cron_job(&mut minimal);
        let errors: Vec<String> = cron_job(&minimal).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors,
            [
                concat!(r#"spec.schedule: Invalid value: "61 * * * *": "#, "end of range (61) above maximum (59): 61"),
                concat!(
                    "spec.jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: ",
                    r#""OnFailure", "Never""#
                ),
            ]
        );
    }
}
