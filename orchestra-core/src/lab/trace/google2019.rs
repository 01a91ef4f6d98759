//! Google's cluster data of 2019 (google/cluster-data, `ClusterData2019.md` and `clusterdata_trace_format_v3.proto`), as BigQuery
//! exports its tables: an object of JSON a line, whose whole numbers are texts.
//!
//! An instance is a pod, and the user of its collection, if collection events are there, too, its queue. Instances of alloc sets
//! are pods, for they are what takes room on a machine; tasks that run inside one are left out. When an instance comes and how
//! long it runs is as with [`google2011`](super::google2011). Left out are constraints, and bounds on instances for each machine.

use std::{collections::BTreeMap, io};

use serde_json::Value;

use super::{
    Trace, TraceError, cpu_share,
    lives::{Event, Lives, What},
    machine, memory_share,
    table::lines,
};
use crate::scheduler::NodeInfo;

/// What happens to instances: submit, queue, enable, schedule, evict, fail, finish, kill, lost, update pending, update running.
const EVENTS: [What; 11] = [
    What::Noted,
    What::Noted,
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

/// The most that a request may be, as a share of the largest machine.
const SHARE_MAX: f64 = 100.0;

/// The event by which a machine is added.
const MACHINE_ADDED: u64 = 1;

/// A line, and where it is.
struct Line<'a> {
    file: &'a str,
    number: u64,
    value: Value,
}

/// Reads `instance_events`, with lines of `collection_events` before or between them.
///
/// An instance that runs at the end of the file has no end. Left out are those that never ran, have no request, or run inside
/// an alloc.
///
/// # Errors
///
/// [`TraceError`] names the file, the line and the field.
pub fn tasks(input: impl io::Read, file: &str) -> Result<Trace, TraceError> {
    let mut trace = Trace { machine: machine("", cpu_share(0.5), memory_share(0.5), 0), ..Trace::default() };
    let (mut lives, mut users) = (Lives::default(), BTreeMap::<u64, Box<str>>::new());
    let mut inside = BTreeMap::new();
    each(input, file, |line| {
        let collection = line.whole("collection_id")?;
        if line.value.get("instance_index").is_none() {
            let user = line.value.get("user").and_then(Value::as_str).unwrap_or_default();
            users.entry(collection).or_insert_with(|| user.into());
            return Ok(());
        }
        let key = (collection, line.whole("instance_index")?);
        let what = usize::try_from(line.whole("type")?).ok().and_then(|at| EVENTS.get(at)).copied();
        let event = Event {
            at_micros: line.whole("time")?,
            what: what.ok_or_else(|| line.problem("type", "there is no such event"))?,
            request: line.resources("resource_request")?,
            priority: line.whole_or("priority", 0)?.try_into().unwrap_or(i32::MAX),
        };
        if line.whole_or("alloc_collection_id", 0)? > 0 {
            inside.insert(key, ());
        } else {
            lives.note(key, event);
        }
        Ok(())
    })?;
    if !inside.is_empty() {
        trace.left_out.insert("inside of an alloc", inside.len());
    }
    lives.tell(&mut trace, |collection| users.get(&collection).cloned().unwrap_or_default());
    Ok(trace)
}

/// Reads `machine_events`: each machine as it was added first, whether it was removed later or not.
///
/// # Errors
///
/// [`TraceError`] names the file, the line and the field.
pub fn nodes(input: impl io::Read, file: &str) -> Result<Vec<NodeInfo>, TraceError> {
    let mut all = BTreeMap::new();
    each(input, file, |line| {
        let id = line.whole("machine_id")?;
        if let (MACHINE_ADDED, Some([cpu, memory])) = (line.whole("type")?, line.resources("capacity")?) {
            all.entry(id).or_insert_with(|| machine(&id.to_string(), cpu_share(cpu), memory_share(memory), 0));
        }
        Ok(())
    })?;
    Ok(all.into_values().collect())
}

fn each(
    input: impl io::Read,
    file: &str,
    mut read: impl FnMut(&Line<'_>) -> Result<(), TraceError>,
) -> Result<(), TraceError> {
    lines(input, file, |number, text| {
        let value = serde_json::from_str(text)
            .map_err(|error| TraceError::field(file, number, "line", format!("it is no JSON: {error}")))?;
        read(&Line { file, number, value })
    })
}

impl Line<'_> {
    fn problem(&self, field: &str, problem: impl Into<Box<str>>) -> TraceError {
        TraceError::field(self.file, self.number, field, problem)
    }

    /// A whole number, which may be written as a text.
    fn whole(&self, field: &str) -> Result<u64, TraceError> {
        let value = self.value.get(field).filter(|value| !value.is_null());
        let value = value.ok_or_else(|| self.problem(field, "it is missing"))?;
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        number.ok_or_else(|| self.problem(field, format!("{value} is no whole number")))
    }

    fn whole_or(&self, field: &str, absent: u64) -> Result<u64, TraceError> {
        if self.value.get(field).is_none_or(Value::is_null) { Ok(absent) } else { self.whole(field) }
    }

    /// Shares of cpu and memory; none if one is missing.
    fn resources(&self, field: &str) -> Result<Option<[f64; 2]>, TraceError> {
        let share = |name: &str| {
            let Some(value) = self.value.get(field).and_then(|resources| resources.get(name)) else { return Ok(None) };
            let share = value.as_f64().filter(|share| (0.0..=SHARE_MAX).contains(share));
            let problem =
                || self.problem(&format!("{field}.{name}"), format!("{value} is not between 0 and {SHARE_MAX}"));
            share.ok_or_else(problem).map(Some)
        };
        Ok(share("cpus")?.zip(share("memory")?).map(Into::into))
    }
}

#[cfg(test)]
mod tests {
    use super::{nodes, tasks};

    #[test]
    fn instances_are_pods_of_their_users() {
        let events = [
            r#"{"time":"0","type":"0","collection_id":"7","user":"u=","priority":"200"}"#,
            r#"{"time":"700000000","type":"0","collection_id":"7","instance_index":"1","priority":"200",
                "alloc_collection_id":"0","resource_request":{"cpus":0.02,"memory":0.01}}"#,
            r#"{"time":"701000000","type":"3","collection_id":"7","instance_index":"1","priority":"200"}"#,
            r#"{"time":"705500000","type":"6","collection_id":"7","instance_index":"1","priority":"200"}"#,
            r#"{"time":0,"type":3,"collection_id":7,"instance_index":2,"alloc_collection_id":9}"#,
            r#"{"time":0,"type":3,"collection_id":8,"instance_index":0,"resource_request":{"cpus":0.5,"memory":0.5}}"#,
        ];
        let text = events.map(|event| event.replace('\n', " ")).join("\n");
        let trace = tasks(text.as_bytes(), "events.json").expect("events");
        assert_eq!(trace.to_string(), "2 tasks with 2 pods; left out: 1 (inside of an alloc)");
        let [one, other] = &trace.tasks[..] else { panic!("{trace:?}") };
        assert_eq!((&*one.name, &*one.queue, one.priority, one.arrives.as_secs()), ("7-1", "u=", 200, 100));
        assert_eq!((one.runs.map(|runs| runs.as_millis()), one.shape.requests.cpu), (Some(4_500), 2_000));
        assert_eq!((&*other.queue, other.runs), ("", None));
    }

    #[test]
    fn machines_are_as_they_were_added_first() {
        let events = r#"{"time":"0","machine_id":"5","type":"1","capacity":{"cpus":0.5,"memory":0.25}}
            {"time":"9","machine_id":"5","type":"3","capacity":{"cpus":1.0,"memory":0.25}}
            {"time":"9","machine_id":"6","type":"1"}"#;
        let nodes = nodes(events.as_bytes(), "machines.json").expect("machines");
        assert_eq!((nodes.len(), nodes[0].allocatable.cpu, nodes[0].allocatable.memory), (1, 50_000, 25 << 30));
    }

    #[test]
    fn what_is_wrong_is_named_by_file_line_and_field() {
        for (text, message) in [
            ("\n{}", "e.json:2: collection_id: it is missing"),
            (r#"{"collection_id":-1}"#, "e.json:1: collection_id: -1 is no whole number"),
            (
                r#"{"collection_id":1,"instance_index":0,"type":"11","time":"0"}"#,
                "e.json:1: type: there is no such event",
            ),
            (
                r#"{"collection_id":1,"instance_index":0,"type":0,"time":0,"resource_request":{"cpus":-2,"memory":0}}"#,
                "e.json:1: resource_request.cpus: -2 is not between 0 and 100",
            ),
        ] {
            assert_eq!(tasks(text.as_bytes(), "e.json").expect_err("bad").to_string(), message);
        }
        let error = tasks("time,type\n".as_bytes(), "e.csv").expect_err("no JSON").to_string();
        assert!(error.starts_with("e.csv:1: line: it is no JSON: "), "{error}");
    }
}
