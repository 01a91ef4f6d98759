//! The Standard Workload Format of the Parallel Workloads Archive, version 2.2
//! (<https://www.cs.huji.ac.il/labs/parallel/workload/swf.html>): one job a line, 18 numbers, -1 for what is not known.
//!
//! A job is a gang of as many pods as it requests processors, each with one core; its user is its queue. The requested time is
//! its estimate. Requested memory is left out, since the format doesn't say what a node has. The header's `MaxNodes` and
//! `MaxProcs` make the nodes.

use std::{io, time::Duration};

use super::{
    SECONDS_MAX, TASK_PODS_MAX, Task, Trace, TraceError, machine, shape,
    table::{lines, number},
};
use crate::scheduler::{DeviceRequest, NodeInfo};

/// The fields, in order.
const FIELDS: [&str; 18] = [
    "job number",
    "submit time",
    "wait time",
    "run time",
    "allocated processors",
    "average cpu time",
    "used memory",
    "requested processors",
    "requested time",
    "requested memory",
    "status",
    "user",
    "group",
    "executable",
    "queue",
    "partition",
    "preceding job",
    "think time",
];
const JOB: usize = 0;
const SUBMITTED: usize = 1;
const RAN: usize = 3;
const ALLOCATED: usize = 4;
const REQUESTED: usize = 7;
const ESTIMATED: usize = 8;
const STATUS: usize = 10;
const USER: usize = 11;
const QUEUE: usize = 14;

/// A core, in the thousandths that resources are counted in.
const CORE_MILLIS: i64 = 1_000;

/// Nodes, or processors, that a header may speak of: beyond any machine known.
const HEADER_MAX: u32 = 1 << 24;

/// What the header says of the machine.
#[derive(Debug, Default)]
struct Header {
    nodes: Option<u32>,
    processors: Option<u32>,
}

/// Reads jobs, and the nodes that the header tells of.
///
/// A job that asks for no number of processors takes as many as it was given. Jobs that failed or were cancelled have taken their
/// processors, and are kept. Left out are those that never ran, or of which the time or the processors are not known, and
/// lines on parts of a job (status 2, 3 and 4), which has another line as a whole.
///
/// # Errors
///
/// [`TraceError`] names the file, the line and the field.
pub fn jobs(input: impl io::Read, file: &str) -> Result<Trace, TraceError> {
    let mut header = Header::default();
    let mut trace = Trace { machine: machine("", CORE_MILLIS, 0, 0), ..Trace::default() };
    lines(input, file, |line, text| {
        if let Some(comment) = text.strip_prefix(';') {
            return header.note(comment).map_err(|(field, problem)| TraceError::field(file, line, field, problem));
        }
        match job(text).map_err(|(field, problem)| TraceError::field(file, line, field, problem))? {
            Ok(job) => trace.tasks.push(job),
            Err(why) => trace.leave_out(why),
        }
        Ok(())
    })?;
    trace.nodes = header.machines();
    Ok(trace)
}

impl Header {
    fn note(&mut self, comment: &str) -> Result<(), (&'static str, String)> {
        let Some((key, value)) = comment.split_once(':') else { return Ok(()) };
        let (name, known) = match key.trim() {
            "MaxNodes" => ("MaxNodes", &mut self.nodes),
            "MaxProcs" => ("MaxProcs", &mut self.processors),
            _ => return Ok(()),
        };
        // What comes after the number is a remark.
        let Some(first) = value.split_whitespace().next().filter(|first| *first != "-1") else { return Ok(()) };
        *known = Some(number(first, 1, HEADER_MAX).map_err(|problem| (name, problem))?);
        Ok(())
    }

    /// As many nodes as there are, which share the processors; a node for each processor if it doesn't say how many.
    fn machines(&self) -> Vec<NodeInfo> {
        let Some(count) = self.nodes.or(self.processors) else { return Vec::new() };
        let cores = self.processors.unwrap_or(count).div_ceil(count);
        (0..count).map(|at| machine(&format!("node-{at:06}"), i64::from(cores) * CORE_MILLIS, 0, 0)).collect()
    }
}

/// A job; or what is wrong with its line, by field; or why it is left out.
fn job(line: &str) -> Result<Result<Task, &'static str>, (&'static str, String)> {
    let texts: Vec<&str> = line.split_whitespace().collect();
    if texts.len() != FIELDS.len() {
        return Err(("fields", format!("there are {}, where {} are to be", texts.len(), FIELDS.len())));
    }
    let mut numbers = [0.0; FIELDS.len()];
    for ((number_at, text), field) in numbers.iter_mut().zip(texts).zip(FIELDS) {
        *number_at = number(text, -1.0, SECONDS_MAX).map_err(|problem| (field, problem))?;
    }
    let known = |field: usize| numbers.get(field).copied().filter(|number| *number >= 0.0);
    let id = |field: usize| known(field).map(|number| number as u64);
    if let Some(2..=4) = id(STATUS) {
        return Ok(Err("part of a job that is listed as a whole"));
    }
    let (Some(submitted), Some(ran)) = (known(SUBMITTED), known(RAN)) else {
        return Ok(Err("no submit time or run time"));
    };
    let Some(processors) =
        [REQUESTED, ALLOCATED].into_iter().find_map(|field| known(field).filter(|count| *count > 0.0))
    else {
        return Ok(Err("no number of processors"));
    };
    if id(STATUS) == Some(5) && ran == 0.0 {
        return Ok(Err("cancelled before it ran"));
    }
    if processors > TASK_PODS_MAX as f64 {
        return Err((FIELDS[REQUESTED], format!("{processors} is not between 1 and {TASK_PODS_MAX}")));
    }
    let pods = processors as usize;
    let queue = id(USER).map(|user| format!("user-{user}")).or_else(|| Some(format!("queue-{}", id(QUEUE)?)));
    let task = Task::pod(format!("job-{}", id(JOB).unwrap_or(0)), shape(CORE_MILLIS, 0, DeviceRequest::default()));
    Ok(Ok(Task {
        pods,
        pods_min: pods,
        queue: queue.unwrap_or_default().into(),
        arrives: Duration::from_secs_f64(submitted),
        runs: Some(Duration::from_secs_f64(ran)),
        estimated: known(ESTIMATED).map(Duration::from_secs_f64),
        ..task
    }))
}

#[cfg(test)]
mod tests {
    use super::jobs;

    fn line(status: i32, processors: [i32; 2], ran: &str) -> String {
        let [allocated, requested] = processors;
        format!("7 30 5 {ran} {allocated} -1 -1 {requested} 3600 -1 {status} 3 1 -1 2 -1 -1 -1\n")
    }

    #[test]
    fn a_job_is_a_gang_of_the_processors_it_requests() {
        let log = format!("; MaxNodes: 3 (of one kind)\n;MaxProcs: 10\n; Note: a: b\n\n{}", line(1, [8, 4], "12.5"));
        let trace = jobs(log.as_bytes(), "log.swf").expect("a log");
        let job = &trace.tasks[0];
        assert_eq!((&*job.name, &*job.queue, job.pods, job.pods_min), ("job-7", "user-3", 4, 4));
        let seconds = [Some(job.arrives), job.runs, job.estimated].map(|span| span.map(|span| span.as_secs_f64()));
        assert_eq!(seconds, [Some(30.0), Some(12.5), Some(3_600.0)]);
        assert_eq!((trace.nodes.len(), trace.nodes[0].allocatable.cpu), (3, 4_000), "10 processors on 3 nodes");
        let trace = jobs(line(0, [8, -1], "1").as_bytes(), "log.swf").expect("a log");
        assert_eq!((trace.tasks[0].pods, trace.nodes.len()), (8, 0), "as many as it was given");
    }

    #[test]
    fn what_is_left_out_is_counted() {
        let log = [
            line(2, [1, 1], "9"),
            line(1, [1, 1], "-1"),
            line(1, [-1, 0], "9"),
            line(5, [-1, 2], "0"),
            line(5, [2, 2], "9"),
        ];
        let trace = jobs(log.concat().as_bytes(), "log.swf").expect("a log");
        let why: Vec<_> = trace.left_out.into_iter().collect();
        assert_eq!(trace.tasks.len(), 1, "what was cancelled while it ran has run");
        assert_eq!(
            why,
            [
                ("cancelled before it ran", 1),
                ("no number of processors", 1),
                ("no submit time or run time", 1),
                ("part of a job that is listed as a whole", 1)
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_named_by_file_line_and_field() {
        let good = line(1, [1, 1], "9");
        for (bad, message) in [
            ("1 2 3".to_owned(), "log.swf:2: fields: there are 3, where 18 are to be"),
            (good.replace("3600", "soon"), "log.swf:2: requested time: \"soon\" is no number of this kind"),
            (good.replace("30 5", "-2 5"), "log.swf:2: submit time: -2 is not between -1 and 100000000000"),
            (line(1, [1, 2_000_000], "9"), "log.swf:2: requested processors: 2000000 is not between 1 and 1048576"),
            ("; MaxProcs: many".to_owned(), "log.swf:2: MaxProcs: \"many\" is no number of this kind"),
        ] {
            assert_eq!(
                jobs(format!("{good}{bad}").as_bytes(), "log.swf").expect_err("a bad line").to_string(),
                message
            );
        }
        let error = jobs(&b"; \xff\n"[..], "log.swf").expect_err("no text");
        assert_eq!(error.to_string(), "log.swf:1: line: it is no text in UTF-8");
    }
}
