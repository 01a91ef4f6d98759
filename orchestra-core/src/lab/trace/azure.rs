//! Azure's public datasets (Azure/AzurePublicDataset): requests to language models, as arrivals to scale by, and virtual
//! machines.

use std::{io, time::Duration};

use jiff::civil::DateTime;

use super::{Row, SECONDS_MAX, Table, Task, Trace, TraceError, amount, machine, shape};
use crate::scheduler::DeviceRequest;

/// How long a request keeps its place for each token that it brings, and for each that is generated: round numbers of our own.
const CONTEXT_TOKEN: Duration = Duration::from_micros(250);
const GENERATED_TOKEN: Duration = Duration::from_millis(25);

/// Which share of a device a request takes, in thousandths, so that 20 share one: a round number of our own.
const REQUEST_MILLIS: u16 = 50;

/// Devices of a machine that serves requests: one, to scale by the smallest step.
const MACHINE_DEVICES: u8 = 1;

/// Tokens that a request may have: beyond any model's context.
const TOKENS_MAX: u32 = 1 << 30;

/// Cores, and gibibytes, of a machine that virtual machines are put on: a round number of our own, beyond the largest of them.
const HOST_CORES: i64 = 64;
const HOST_GIBIBYTES: i64 = 512;

/// The most cores, or gibibytes, that a virtual machine may have.
const VM_MAX: f64 = 1e6;

const CORE_MILLIS: f64 = 1_000.0;

/// The columns of `vmtable.csv`, which gives no names.
const VM_COLUMNS: [&str; 11] = [
    "vmid",
    "subscriptionid",
    "deploymentid",
    "vmcreated",
    "vmdeleted",
    "maxcpu",
    "avgcpu",
    "p95maxcpu",
    "vmcategory",
    "vmcorecount",
    "vmmemory",
];

/// Reads requests to a language model (Patel et al., Splitwise, ISCA 2024): `TIMESTAMP,ContextTokens,GeneratedTokens`.
///
/// The trace says when requests came and how long they were, not how long they took: each is a pod that takes a twentieth of a
/// device, for 250 µs a token of its context and 25 ms a token generated, which are numbers of our own.
///
/// # Errors
///
/// [`TraceError`] names the file, the line and the field.
pub fn requests(input: impl io::Read, file: &str) -> Result<Trace, TraceError> {
    let devices = DeviceRequest { count: 1, millis: REQUEST_MILLIS, ..DeviceRequest::default() };
    let pod = shape(0, 0, devices);
    let rows = Table::new(input, file, &["TIMESTAMP", "ContextTokens", "GeneratedTokens"])?.rows(|row| {
        let moment: DateTime = row
            .text("TIMESTAMP")
            .parse()
            .map_err(|_| row.problem("TIMESTAMP", format!("{:?} is no date and time", row.text("TIMESTAMP"))))?;
        let context = row.number("ContextTokens", 0, TOKENS_MAX)?;
        let generated = row.number("GeneratedTokens", 0, TOKENS_MAX)?;
        let runs = CONTEXT_TOKEN * context + GENERATED_TOKEN * generated;
        Ok((moment, Task { runs: Some(runs), ..Task::pod(format!("request-{}", row.line()), pod.clone()) }))
    })?;
    let Some(first) = rows.iter().map(|(moment, _)| *moment).min() else { return Ok(Trace::default()) };
    let arrived = rows.into_iter().map(|(moment, request)| {
        let arrives = Duration::try_from(moment.duration_since(first)).unwrap_or_default();
        Task { arrives, ..request }
    });
    Ok(Trace { tasks: arrived.collect(), machine: machine("", 0, 0, MACHINE_DEVICES), ..Trace::default() })
}

/// Reads virtual machines: `vmtable.csv` of the datasets of 2017 and 2019 (Cortez et al., Resource Central, SOSP 2017).
///
/// A machine is a pod, of its subscription's queue, that runs for as long as the machine was there: one that was still there in
/// the end runs until then. Where the later dataset says only that it has more than so many cores or gibibytes (`>24`), it is
/// taken to have that many. One that is deleted before it is created is left out.
///
/// # Errors
///
/// [`TraceError`] names the file, the line and the field.
pub fn machines(input: impl io::Read, file: &str) -> Result<Trace, TraceError> {
    let named = |first: &csv::StringRecord| first.get(0) == Some("vmid");
    let table = Table::open(input, file, named, &VM_COLUMNS)?;
    let mut trace = Trace { machine: machine("", HOST_CORES * 1_000, HOST_GIBIBYTES << 30, 0), ..Trace::default() };
    for row in table.rows(virtual_machine)? {
        match row {
            Some(task) => trace.tasks.push(task),
            None => trace.leave_out("deleted before it is created"),
        }
    }
    Ok(trace)
}

fn virtual_machine(row: &Row<'_>) -> Result<Option<Task>, TraceError> {
    let created = row.number("vmcreated", 0.0, SECONDS_MAX)?;
    let deleted = row.number("vmdeleted", 0.0, SECONDS_MAX)?;
    let cpu = amount(bucket(row, &["vmcorecount", "vmcorecountbucket"])?, CORE_MILLIS);
    let memory = amount(bucket(row, &["vmmemory", "vmmemorybucket"])?, super::GIBIBYTE);
    if deleted < created {
        return Ok(None);
    }
    Ok(Some(Task {
        queue: row.text("subscriptionid").into(),
        arrives: Duration::from_secs_f64(created),
        runs: Some(Duration::from_secs_f64(deleted - created)),
        ..Task::pod(row.text("vmid"), shape(cpu, memory, DeviceRequest::default()))
    }))
}

/// The number in whichever of the columns is there, or that it is said to exceed.
fn bucket(row: &Row<'_>, columns: &[&str]) -> Result<f64, TraceError> {
    let column = columns.iter().find(|column| !row.text(column).is_empty()).or(columns.first()).copied();
    let column = column.unwrap_or_default();
    let text = row.text(column);
    super::table::number(text.strip_prefix('>').unwrap_or(text), 0.0, VM_MAX)
        .map_err(|problem| row.problem(column, problem))
}

#[cfg(test)]
mod tests {
    use super::{machines, requests};

    #[test]
    fn requests_come_as_they_came_to_the_model() {
        let list = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4000,10\n\
                    2023-11-16 18:17:04.0319600,0,8";
        let trace = requests(list.as_bytes(), "llm.csv").expect("requests");
        let seen: Vec<_> =
            trace.tasks.iter().map(|task| (task.arrives.as_micros(), task.runs.map(|runs| runs.as_millis()))).collect();
        assert_eq!(seen, [(0, Some(1_250)), (52_000, Some(200))]);
        assert_eq!(trace.tasks[0].shape.devices.millis, 50);
    }

    #[test]
    fn virtual_machines_are_pods_of_their_subscription() {
        let list = "a,s1,d1,0,2591700,99,9,50,Delay-insensitive,2,3.5\nb,s2,d1,300,600,99,9,50,Unknown,>24,>64\n\
                    c,s2,d1,9,1,99,9,50,Unknown,1,1\n";
        let trace = machines(list.as_bytes(), "vmtable.csv").expect("machines");
        let requests: Vec<_> =
            trace.tasks.iter().map(|task| (task.shape.requests.cpu, task.shape.requests.memory)).collect();
        assert_eq!(requests, [(2_000, 7 << 29), (24_000, 64 << 30)]);
        assert_eq!((&*trace.tasks[1].queue, trace.tasks[1].runs.map(|runs| runs.as_secs())), ("s2", Some(300)));
        assert_eq!(trace.left_out["deleted before it is created"], 1);
    }

    #[test]
    fn what_is_wrong_is_named_by_file_line_and_field() {
        let header = "TIMESTAMP,ContextTokens,GeneratedTokens\n";
        for (line, message) in [
            ("noon,1,1", "llm.csv:2: TIMESTAMP: \"noon\" is no date and time"),
            ("2023-11-16 18:17:03,-1,1", "llm.csv:2: ContextTokens: \"-1\" is no number of this kind"),
        ] {
            let error = requests(format!("{header}{line}").as_bytes(), "llm.csv").expect_err("a bad line");
            assert_eq!(error.to_string(), message);
        }
        let error = machines("a,s,d,0,1,1,1,1,x,>many,1\n".as_bytes(), "vm.csv").expect_err("a bad line");
        assert_eq!(error.to_string(), "vm.csv:1: vmcorecount: \"many\" is no number of this kind");
    }
}
