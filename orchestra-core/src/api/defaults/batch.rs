//! The defaults of jobs and cron jobs.

use k8s_openapi::api::batch::v1::{CronJob, Job, JobSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::pod::template;

/// The label by which a job knows its pods.
const CONTROLLER_UID_LABEL: &str = "batch.kubernetes.io/controller-uid";

/// How often the pods of a job may fail.
const BACKOFF_LIMIT: i32 = 6;

/// Fills in a job, but for its selector and the labels of its pods, which the server makes from its uid.
pub fn job(job: &mut Job) {
    let Some(spec) = &mut job.spec else { return };
    job_spec(spec);
    // A job without labels has those of its pods.
    let labels = spec.template.metadata.as_ref().and_then(|metadata| metadata.labels.clone());
    if job.metadata.labels.as_ref().is_none_or(|labels| labels.is_empty()) && labels.is_some() {
        job.metadata.labels = labels;
    }
}

/// Makes the selector of a job that brings none, and the labels of its pods, from its name and uid.
///
/// The server calls it once, when it has given the job its uid; a job without a uid or with a manual selector is left
/// as it is.
pub fn job_selector(job: &mut Job) {
    let (Some(name), Some(uid)) = (&job.metadata.name, &job.metadata.uid) else { return };
    let Some(spec) = job.spec.as_mut().filter(|spec| spec.manual_selector != Some(true)) else { return };
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (key, value) in [
        (CONTROLLER_UID_LABEL, uid),
        ("batch.kubernetes.io/job-name", name),
        // The names of these labels before Kubernetes 1.27, which selectors still use.
        ("controller-uid", uid),
        ("job-name", name),
    ] {
        labels.insert(key.to_owned(), value.clone());
    }
    let selector: &mut LabelSelector = spec.selector.get_or_insert_default();
    let selected = selector.match_labels.get_or_insert_default();
    selected.insert(CONTROLLER_UID_LABEL.to_owned(), uid.clone());
}

/// Fills in a cron job.
pub fn cron_job(cron_job: &mut CronJob) {
    let spec = &mut cron_job.spec;
    spec.concurrency_policy.get_or_insert_with(|| "Allow".to_owned());
    spec.suspend.get_or_insert(false);
    spec.successful_jobs_history_limit.get_or_insert(3);
    spec.failed_jobs_history_limit.get_or_insert(1);
    if let Some(job) = &mut spec.job_template.spec {
        template(&mut job.template);
    }
}

fn job_spec(spec: &mut JobSpec) {
    template(&mut spec.template);
    if spec.completions.is_none() && spec.parallelism.is_none() {
        spec.completions = Some(1);
    }
    spec.parallelism.get_or_insert(1);
    let per_index = spec.backoff_limit_per_index.is_some();
    spec.backoff_limit.get_or_insert(if per_index { i32::MAX } else { BACKOFF_LIMIT });
    spec.completion_mode.get_or_insert_with(|| "NonIndexed".to_owned());
    spec.suspend.get_or_insert(false);
    let replacement = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
    spec.pod_replacement_policy.get_or_insert_with(|| replacement.to_owned());
    spec.manual_selector.get_or_insert(false);
    for rule in spec.pod_failure_policy.iter_mut().flat_map(|policy| &mut policy.rules) {
        for pattern in rule.on_pod_conditions.iter_mut().flatten() {
            pattern.status.get_or_insert_with(|| "True".to_owned());
        }
    }
}
