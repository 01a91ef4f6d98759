//! Batch tasks of Alibaba's cluster trace of 2018 (alibaba/clusterdata, cluster-trace-v2018, `schema.md`), as they were published
//! or as CloudSimPy's authors cut them.
//!
//! A task's instances are the pods of one unit, each of use by itself. It comes when its first instance started, by when all
//! that it depends on had ended; the dependencies themselves are left out. Memory is normalised: the largest machine's is taken
//! to be 100 GiB.

use std::{io, time::Duration};

use super::{Row, SECONDS_MAX, TASK_PODS_MAX, Table, Task, Trace, TraceError, amount, machine, memory_share, shape};
use crate::scheduler::{DeviceRequest, NodeInfo};

/// The columns of `batch_task.csv`, which gives no names.
const TASK_COLUMNS: [&str; 9] =
    ["task_name", "instance_num", "job_name", "task_type", "status", "start_time", "end_time", "plan_cpu", "plan_mem"];

/// The columns of `machine_meta.csv`, which gives no names.
const MACHINE_COLUMNS: [&str; 7] =
    ["machine_id", "time_stamp", "failure_domain_1", "failure_domain_2", "cpu_num", "mem_size", "status"];

/// The columns that CloudSimPy's table needs.
const CUT_COLUMNS: [&str; 7] = ["submit_time", "duration", "cpu", "memory", "job_id", "task_id", "instances_num"];

/// Cores of the trace's machines, of which nearly all have as many.
const MACHINE_CORES: f64 = 96.0;

const CORE_MILLIS: f64 = 1_000.0;

/// The most cores that anything may have.
const CORES_MAX: f64 = 1e6;

/// Reads tasks: `batch_task.csv` as it was published, or a table with the names that CloudSimPy gives (`submit_time,duration,cpu,
/// memory,job_id,task_id,instances_num`).
///
/// Left out of the former are tasks that have not ended by themselves (any status but `Terminated`), that end before they start,
/// or that request nothing.
///
/// # Errors
///
/// [`TraceError`] names the file, the line and the field.
pub fn tasks(input: impl io::Read, file: &str) -> Result<Trace, TraceError> {
    let is_cut = |first: &csv::StringRecord| first.iter().any(|name| name == "submit_time");
    let table = Table::open(input, file, is_cut, &TASK_COLUMNS)?;
    let cut = table.has("submit_time");
    if let Some(column) = CUT_COLUMNS.into_iter().find(|column| cut && !table.has(column)) {
        return Err(TraceError::Column { file: file.into(), column: column.into() });
    }
    let mut trace =
        Trace { machine: machine("", amount(MACHINE_CORES, CORE_MILLIS), memory_share(1.0), 0), ..Trace::default() };
    for row in table.rows(|row| if cut { cut_task(row).map(Ok) } else { task(row) })? {
        match row {
            Ok(task) => trace.tasks.push(task),
            Err(why) => trace.leave_out(why),
        }
    }
    Ok(trace)
}

/// Reads `machine_meta.csv`: each machine as its first line has it.
///
/// # Errors
///
/// [`TraceError`] names the file, the line and the field.
pub fn nodes(input: impl io::Read, file: &str) -> Result<Vec<NodeInfo>, TraceError> {
    let mut all = Table::open(input, file, |_| false, &MACHINE_COLUMNS)?.rows(|row| {
        let cpu = amount(row.number("cpu_num", 0.0, CORES_MAX)?, CORE_MILLIS);
        let memory = memory_share(row.number("mem_size", 0.0, 100.0)? / 100.0);
        Ok(machine(row.text("machine_id"), cpu, memory, 0))
    })?;
    // The sort keeps the order of a machine's lines.
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.dedup_by(|later, first| later.name == first.name);
    Ok(all)
}

fn cut_task(row: &Row<'_>) -> Result<Task, TraceError> {
    let cpu = amount(row.number("cpu", 0.0, CORES_MAX)?, CORE_MILLIS);
    let memory = memory_share(row.number("memory", 0.0, 1.0)?);
    let name = format!("{}-{}", row.text("job_id"), row.text("task_id"));
    Ok(Task {
        pods: row.number("instances_num", 1, TASK_PODS_MAX)?,
        arrives: row.seconds("submit_time")?,
        runs: Some(row.seconds("duration")?),
        ..Task::pod(name, shape(cpu, memory, DeviceRequest::default()))
    })
}

fn task(row: &Row<'_>) -> Result<Result<Task, &'static str>, TraceError> {
    let started = row.number("start_time", 0.0, SECONDS_MAX)?;
    let ended = row.number("end_time", 0.0, SECONDS_MAX)?;
    if row.text("status") != "Terminated" {
        return Ok(Err("not ended by itself"));
    }
    if ended < started {
        return Ok(Err("ends before it starts"));
    }
    if row.text("plan_cpu").is_empty() || row.text("plan_mem").is_empty() {
        return Ok(Err("no request"));
    }
    // 100 of both: a core, and all memory of the largest machine.
    let cpu = amount(row.number("plan_cpu", 0.0, CORES_MAX)? / 100.0, CORE_MILLIS);
    let memory = memory_share(row.number("plan_mem", 0.0, 100.0)? / 100.0);
    let name = format!("{}-{}", row.text("job_name"), row.text("task_name"));
    Ok(Ok(Task {
        pods: row.number("instance_num", 1, TASK_PODS_MAX)?,
        arrives: Duration::from_secs_f64(started),
        runs: Some(Duration::from_secs_f64(ended - started)),
        ..Task::pod(name, shape(cpu, memory, DeviceRequest::default()))
    }))
}

#[cfg(test)]
mod tests {
    use super::{nodes, tasks};

    #[test]
    fn tasks_are_read_as_published_and_as_cut() {
        let published = "M2_1,3,j_1,1,Terminated,100,160,50.0,0.5\nR1,1,j_1,1,Failed,1,2,100,1\n\
                         task_x,1,j_2,1,Terminated,9,4,100,1\ntask_y,1,j_2,1,Terminated,1,2,,\n";
        let cut = ",submit_time,duration,cpu,memory,job_id,task_id,instances_num,disk\n0,100,60.0,0.5,0.005,1,2,3,0\n";
        let [published, cut] = [published, cut].map(|text| tasks(text.as_bytes(), "tasks.csv").expect("tasks"));
        assert_eq!((&*published.tasks[0].name, &*cut.tasks[0].name), ("j_1-M2_1", "1-2"));
        for task in [&published.tasks[0], &cut.tasks[0]] {
            assert_eq!((task.pods, task.pods_min, task.arrives.as_secs()), (3, 1, 100));
            assert_eq!((task.shape.requests.cpu, task.runs.map(|runs| runs.as_secs())), (500, Some(60)));
            assert_eq!(task.shape.requests.memory, 1 << 29, "half a hundredth of 100 GiB");
        }
        assert_eq!(published.left_out.into_values().collect::<Vec<_>>(), [1, 1, 1]);
        assert_eq!((published.tasks.len(), cut.tasks.len(), cut.left_out.len()), (1, 1, 0));
    }

    #[test]
    fn machines_are_read_once_each() {
        let list = "m_2,0,1,2,96,100,USING\nm_1,0,1,2,64,50,USING\nm_2,7,1,2,32,100,IMPORT\n";
        let nodes = nodes(list.as_bytes(), "machine_meta.csv").expect("machines");
        let seen: Vec<_> =
            nodes.iter().map(|node| (&*node.name, node.allocatable.cpu, node.allocatable.memory)).collect();
        assert_eq!(seen, [("m_1", 64_000, 50 << 30), ("m_2", 96_000, 100 << 30)]);
    }

    #[test]
    fn what_is_wrong_is_named_by_file_line_and_field() {
        for (text, message) in [
            ("a,0,j,1,Terminated,1,2,1,1\n", "t.csv:1: instance_num: 0 is not between 1 and 1048576"),
            ("a,1,j,1,Terminated,1,2,1,101\n", "t.csv:1: plan_mem: 101 is not between 0 and 100"),
            ("a,1,j,1,Terminated,1,2,1\n", "t.csv:1: columns: there are 8, where 9 are to be"),
            ("submit_time,duration\n1,2\n", "t.csv: there is no column \"cpu\""),
        ] {
            assert_eq!(tasks(text.as_bytes(), "t.csv").expect_err("bad").to_string(), message);
        }
        assert!(
            nodes(&b"m,0,1,2,many,1,U\n"[..], "m.csv")
                .is_err_and(|error| error.to_string().contains("m.csv:1: cpu_num"))
        );
    }
}
