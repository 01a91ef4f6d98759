//! The columns of what runs to an end.

use k8s_openapi::api::batch::v1::{CronJob, Job, JobSpec, JobStatus};

use super::{
    AGE, CONTAINERS, Columns, Description, IMAGES, NAME, Row, boolean,
    duration::human,
    integer, string,
    text::{NONE, age, containers, name, selector, since},
    wide,
};
use crate::clock::Timestamp;

const JOB_SPEC: &str = "io.k8s.api.batch.v1.JobSpec";
const CRON_JOB_SPEC: &str = "io.k8s.api.batch.v1.CronJobSpec";
const CRON_JOB_STATUS: &str = "io.k8s.api.batch.v1.CronJobStatus";

/// The columns of jobs.
pub const JOB: Columns<Job> = Columns {
    definitions: &[
        NAME,
        string("Status", Description::Text("Status of the job.")),
        string("Completions", Description::Field("io.k8s.api.batch.v1.JobStatus", "succeeded")),
        string("Duration", Description::Text("Time required to complete the job.")),
        AGE,
        CONTAINERS,
        IMAGES,
        wide(string("Selector", Description::Field(JOB_SPEC, "selector"))),
    ],
    row: job,
};

/// The columns of cron jobs.
pub const CRON_JOB: Columns<CronJob> = Columns {
    definitions: &[
        NAME,
        string("Schedule", Description::Field(CRON_JOB_SPEC, "schedule")),
        string("Timezone", Description::Field(CRON_JOB_SPEC, "timeZone")),
        boolean("Suspend", Description::Field(CRON_JOB_SPEC, "suspend")),
        integer("Active", Description::Field(CRON_JOB_STATUS, "active")),
        string("Last Schedule", Description::Field(CRON_JOB_STATUS, "lastScheduleTime")),
        AGE,
        CONTAINERS,
        IMAGES,
        wide(string("Selector", Description::Field(JOB_SPEC, "selector"))),
    ],
    row: cron_job,
};

fn job(job: &Job, now: Timestamp) -> Row {
    let (no_spec, no_status) = (JobSpec::default(), JobStatus::default());
    let spec = job.spec.as_ref().unwrap_or(&no_spec);
    let status = job.status.as_ref().unwrap_or(&no_status);
    let [names, images] = containers(Some(&spec.template));
    Row::of(vec![
        name(&job.metadata),
        state(job, status).into(),
        completions(spec, status).into(),
        took(status, now).into(),
        age(&job.metadata, now),
        names,
        images,
        selector(spec.selector.as_ref()),
    ])
}

fn state(job: &Job, status: &JobStatus) -> &'static str {
    let has = |condition_type: &str| {
        let found = status.conditions.iter().flatten().find(|condition| condition.type_ == condition_type);
        found.is_some_and(|condition| condition.status == "True")
    };
    match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if job.metadata.deletion_timestamp.is_some() => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () => "Running",
    }
}

fn completions(spec: &JobSpec, status: &JobStatus) -> String {
    let succeeded = status.succeeded.unwrap_or(0);
    match (spec.completions, spec.parallelism.unwrap_or(0)) {
        (Some(completions), _) => format!("{succeeded}/{completions}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

/// How long a job took, or has been running; empty before it began.
fn took(status: &JobStatus, now: Timestamp) -> String {
    let end = status.completion_time.as_ref().map_or(now, |time| time.0);
    status.start_time.as_ref().map(|start| human(end.duration_since(start.0))).unwrap_or_default()
}

fn cron_job(job: &CronJob, now: Timestamp) -> Row {
    let spec = &job.spec;
    let status = job.status.as_ref();
    let last = status.and_then(|status| status.last_schedule_time.as_ref());
    let suspended = spec.suspend.map_or("<unset>", |yes| if yes { "True" } else { "False" });
    let active = status.and_then(|status| status.active.as_ref()).map_or(0, Vec::len);
    let job_spec = spec.job_template.spec.as_ref();
    let [names, images] = containers(job_spec.map(|spec| &spec.template));
    Row::of(vec![
        name(&job.metadata),
        spec.schedule.as_str().into(),
        spec.time_zone.as_deref().unwrap_or(NONE).into(),
        suspended.into(),
        active.into(),
        last.map_or_else(|| NONE.into(), |last| since(Some(last.0), now)).into(),
        age(&job.metadata, now),
        names,
        images,
        selector(job_spec.and_then(|spec| spec.selector.as_ref())),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn shown(spec: &Value, status: &Value) -> Value {
        let now = "2026-01-01T00:02:00Z".parse().expect("a time");
        let mut spec = spec.clone();
        spec["template"] = json!({});
        let object = json!({ "metadata": { "name": "a" }, "spec": spec, "status": status });
        json!(job(&serde_json::from_value(object).expect("a job"), now).cells[1..4])
    }

    #[test]
    fn a_job_shows_its_state_its_completions_and_how_long_it_took() {
        let done = json!({ "succeeded": 3, "startTime": "2026-01-01T00:00:00Z",
            "completionTime": "2026-01-01T00:00:50Z", "conditions": [{ "type": "Complete", "status": "True" }] });
        assert_eq!(shown(&json!({ "completions": 3 }), &done), json!(["Complete", "3/3", "50s"]));
        let under_way = json!({ "startTime": "2026-01-01T00:00:00Z" });
        assert_eq!(shown(&json!({ "parallelism": 2 }), &under_way), json!(["Running", "0/1 of 2", "2m"]));
        let suspended = json!({ "conditions": [{ "type": "Suspended", "status": "True" }] });
        assert_eq!(shown(&json!({ "parallelism": 1 }), &suspended), json!(["Suspended", "0/1", ""]));
    }

    #[test]
    fn a_cron_job_shows_when_it_last_ran() {
        let now = "2026-01-01T00:00:30Z".parse().expect("a time");
        let template = json!({ "spec": { "template": {} } });
        let object = json!({ "metadata": { "name": "a" }, "spec": { "schedule": "* * * * *", "suspend": false,
            "jobTemplate": template }, "status": { "lastScheduleTime": "2026-01-01T00:00:00Z", "active": [{}] } });
        let cells = cron_job(&serde_json::from_value(object).expect("a cron job"), now).cells;
        assert_eq!(json!(cells[1..6]), json!(["* * * * *", "<none>", "False", 1, "30s"]));
    }
}
