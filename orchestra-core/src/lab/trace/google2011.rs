//! Google's cluster data of 2011, version 2.1 (google/cluster-data, `ClusterData2011_2.md` and the format document it names).
//!
//! Each task is a pod by itself, as Borg's tasks are, and its user is its queue. It comes when it was submitted, and runs as
//! long as its last run did; runs that were evicted or lost before are not run again. Resources are shares of the largest
//! machine's. Left out are the placement constraints, and that tasks of a job may not share a machine.

use std::{collections::BTreeMap, io};

use super::{
    Row, Table, Trace, TraceError, cpu_share,
    lives::{Event, Lives, What},
    machine, memory_share,
};
use crate::scheduler::NodeInfo;

/// The columns of a part of `task_events`, which gives no names.
const TASK_COLUMNS: [&str; 13] = [
    "timestamp",
    "missing info",
    "job ID",
    "task index",
    "machine ID",
    "event type",
    "user",
    "scheduling class",
    "priority",
    "CPU request",
    "memory request",
    "disk space request",
    "different machines restriction",
];

/// The columns of `machine_events`, which gives no names.
const MACHINE_COLUMNS: [&str; 6] = ["timestamp", "machine ID", "event type", "platform ID", "CPUs", "memory"];

/// What happens to tasks: submit, schedule, evict, fail, finish, kill, lost, update pending, update running.
const EVENTS: [What; 9] = [
    What::Noted,
    What::Began,
    What::Stopped,
    What::Stopped,
    What::Stopped,
    What::Stopped,
    What::Stopped,
    What::Noted,
    What::Noted,
];

/// Reads `task_events`: one part, or several one after the other.
///
/// A task that runs at the end of the last part has no end. Left out are tasks that never ran, or have no request.
///
/// # Errors
///
/// [`TraceError`] names the file, the line and the field.
pub fn tasks(input: impl io::Read, file: &str) -> Result<Trace, TraceError> {
    let mut trace = Trace { machine: machine("", cpu_share(0.5), memory_share(0.5), 0), ..Trace::default() };
    let (mut lives, mut users) = (Lives::default(), BTreeMap::<u64, Box<str>>::new());
    Table::open(input, file, |_| false, &TASK_COLUMNS)?.rows(|row| {
        let job = row.number("job ID", 0, u64::MAX)?;
        let what = EVENTS[row.number("event type", 0, EVENTS.len() - 1)?];
        let event = Event {
            at_micros: row.number("timestamp", 0, u64::MAX)?,
            what,
            request: request(row, ["CPU request", "memory request"])?,
            priority: row.number("priority", 0, i32::MAX)?,
        };
        lives.note((job, row.number("task index", 0, u64::MAX)?), event);
        users.entry(job).or_insert_with(|| row.text("user").into());
        Ok(())
    })?;
    lives.tell(&mut trace, |job| users.get(&job).cloned().unwrap_or_default());
    Ok(trace)
}

/// Reads `machine_events`: each machine as it was added first, whether it was removed later or not.
///
/// # Errors
///
/// [`TraceError`] names the file, the line and the field.
pub fn nodes(input: impl io::Read, file: &str) -> Result<Vec<NodeInfo>, TraceError> {
    let mut all = BTreeMap::new();
    Table::open(input, file, |_| false, &MACHINE_COLUMNS)?.rows(|row| {
        let name = row.text("machine ID");
        let is_added = row.number("event type", 0, 2)? == 0;
        if let (true, Some([cpu, memory])) = (is_added, request(row, ["CPUs", "memory"])?) {
            let node = machine(name, cpu_share(cpu), memory_share(memory), 0);
            all.entry(name.to_owned()).or_insert(node);
        }
        Ok(())
    })?;
    Ok(all.into_values().collect())
}

/// Shares of cpu and memory; none if one is missing.
fn request(row: &Row<'_>, columns: [&str; 2]) -> Result<Option<[f64; 2]>, TraceError> {
    if columns.iter().any(|column| row.text(column).is_empty()) {
        return Ok(None);
    }
    let [cpu, memory] = columns.map(|column| row.number(column, 0.0, 1.0));
    Ok(Some([cpu?, memory?]))
}

#[cfg(test)]
mod tests {
    use super::{nodes, tasks};

    #[test]
    fn a_task_runs_as_long_as_its_last_run_did() {
        let events = "0,2,1,0,,0,u=,3,9,0.5,0.25,0,0\n0,2,1,0,5,1,u=,3,9,0.5,0.25,0,0\n\
                      601000000,,2,0,,0,v=,0,1,0.0625,0.01,0,1\n602000000,,2,0,7,1,v=,0,1,0.0625,0.01,0,1\n\
                      603000000,,2,0,7,2,v=,0,1,0.0625,0.01,0,1\n603000001,,2,0,,0,v=,0,1,0.125,0.01,0,1\n\
                      604000000,,2,0,8,1,v=,0,1,0.125,0.01,0,1\n609000000,,2,0,8,4,v=,0,1,0.125,0.01,0,1\n\
                      605000000,,3,0,,0,v=,0,1,0.1,0.1,0,0\n606000000,,3,1,9,1,v=,0,1,,,,\n";
        let trace = tasks(events.as_bytes(), "part.csv").expect("events");
        assert_eq!(trace.to_string(), "2 tasks with 2 pods; left out: 1 (never ran), 1 (no request)");
        let [there, evicted] = &trace.tasks[..] else { panic!("{trace:?}") };
        assert_eq!((&*there.queue, there.arrives.as_secs(), there.runs, there.priority), ("u=", 0, None, 9));
        assert_eq!((there.shape.requests.cpu, there.shape.requests.memory), (50_000, 25 << 30));
        let runs = evicted.runs.map(|runs| runs.as_secs());
        assert_eq!((&*evicted.name, evicted.arrives.as_secs(), runs), ("2-0", 1, Some(5)));
        assert_eq!(evicted.shape.requests.cpu, 12_500, "as it was changed to");
    }

    #[test]
    fn machines_are_as_they_were_added_first() {
        let events = "0,5,0,p,0.5,0.25\n0,4,0,p,1,1\n9,5,1,p,0.5,0.25\n10,5,0,p,1,0.25\n11,6,0,p,,\n";
        let nodes = nodes(events.as_bytes(), "machines.csv").expect("machines");
        let seen: Vec<_> = nodes.iter().map(|node| (&*node.name, node.allocatable.cpu)).collect();
        assert_eq!(seen, [("4", 100_000), ("5", 50_000)]);
    }

    #[test]
    fn what_is_wrong_is_named_by_file_line_and_field() {
        let good = "0,2,1,0,,0,u=,3,9,0.5,0.25,0,0\n";
        for (bad, message) in [
            ("0,2,1,0,,9,u=,3,9,0.5,0.25,0,0", "e.csv:2: event type: 9 is not between 0 and 8"),
            ("0,2,1,0,,0,u=,3,9,1.5,0.25,0,0", "e.csv:2: CPU request: 1.5 is not between 0 and 1"),
            ("-1,2,1,0,,0,u=,3,9,0.5,0.25,0,0", "e.csv:2: timestamp: \"-1\" is no number of this kind"),
            ("0,2,1", "e.csv:2: columns: there are 3, where 13 are to be"),
        ] {
            assert_eq!(tasks(format!("{good}{bad}").as_bytes(), "e.csv").expect_err("bad").to_string(), message);
        }
    }
}
