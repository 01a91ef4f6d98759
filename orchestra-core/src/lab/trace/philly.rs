//! Deep-learning jobs of Microsoft's Philly cluster (Jeon et al., ATC 2019), as Gavel's authors re-encode them
//! (stanford-futuredata/gavel): each job has a model, whose speed on a V100 they measured, and as many steps as make it run
//! as long as it did.
//!
//! A job is a gang of `scale_factor` pods with one GPU each, and its virtual cluster is its queue. Cores and memory are not in
//! it: Philly gave them in proportion to the GPUs.

use std::{io, time::Duration};

use super::{SECONDS_MAX, TASK_PODS_MAX, Table, Task, Trace, TraceError, machine, shape, whole_devices};

/// GPUs of the larger of Philly's two kinds of machines.
const MACHINE_DEVICES: u8 = 8;

/// Reads jobs: `vc,job_type,total_steps,arrival_s,scale_factor,duration_v100_s`.
///
/// A job whose duration is `NaN` or empty is left out: its model was not measured on as many V100s.
///
/// # Errors
///
/// [`TraceError`] names the file, the line and the field.
pub fn jobs(input: impl io::Read, file: &str) -> Result<Trace, TraceError> {
    let columns = ["vc", "job_type", "total_steps", "arrival_s", "scale_factor", "duration_v100_s"];
    let mut trace = Trace { machine: machine("", 0, 0, MACHINE_DEVICES), ..Trace::default() };
    let pod = shape(0, 0, whole_devices(1));
    let rows = Table::new(input, file, &columns)?.rows(|row| {
        let arrives = row.seconds("arrival_s")?;
        let pods = row.number("scale_factor", 1, TASK_PODS_MAX)?;
        // Pandas writes what is not a number as nothing at all.
        if matches!(row.text("duration_v100_s").to_ascii_lowercase().as_str(), "" | "nan") {
            return Ok(None);
        }
        let runs = row.number("duration_v100_s", 0.0, SECONDS_MAX).map(Duration::from_secs_f64)?;
        Ok(Some(Task {
            pods,
            pods_min: pods,
            queue: row.text("vc").into(),
            arrives,
            runs: Some(runs),
            ..Task::pod(format!("{}-{}", row.text("vc"), row.line()), pod.clone())
        }))
    })?;
    for row in rows {
        match row {
            Some(task) => trace.tasks.push(task),
            None => trace.leave_out("no duration on a V100"),
        }
    }
    Ok(trace)
}

#[cfg(test)]
mod tests {
    use super::jobs;

    const HEADER: &str = "vc,job_type,total_steps,arrival_s,scale_factor,duration_v100_s\n";

    #[test]
    fn a_job_is_a_gang_of_its_virtual_cluster() {
        let list =
            format!("{HEADER}a1,LM (batch size 10),5,0.5,4,17465.9\nb2,Transformer,1,9.0,2,\nb2,LM,1,9.0,2,NaN\n");
        let trace = jobs(list.as_bytes(), "jobs.csv").expect("jobs");
        assert_eq!(trace.to_string(), "1 tasks with 4 pods; left out: 2 (no duration on a V100)");
        let job = &trace.tasks[0];
        assert_eq!((&*job.name, &*job.queue, job.pods_min, job.shape.devices.count), ("a1-2", "a1", 4, 1));
        assert_eq!((job.arrives.as_secs_f64(), job.runs.map(|runs| runs.as_secs_f64())), (0.5, Some(17_465.9)));
    }

    #[test]
    fn what_is_wrong_is_named_by_file_line_and_field() {
        for (line, message) in [
            ("a,LM,1,0,0,1", "jobs.csv:2: scale_factor: 0 is not between 1 and 1048576"),
            ("a,LM,1,-1,1,1", "jobs.csv:2: arrival_s: -1 is not between 0 and 100000000000"),
            ("a,LM,1,NaN,1,1", "jobs.csv:2: arrival_s: NaN is not between 0 and 100000000000"),
            ("a,LM,1,0,1,soon", "jobs.csv:2: duration_v100_s: \"soon\" is no number of this kind"),
            ("a,LM,1,0,1", "jobs.csv:2: columns: there are 5, where 6 are to be"),
        ] {
            let list = format!("{HEADER}{line}\n");
            assert_eq!(jobs(list.as_bytes(), "jobs.csv").expect_err("a bad line").to_string(), message);
        }
    }
}
