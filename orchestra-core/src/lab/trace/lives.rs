//! Tasks put together from what happened to them, event by event.

use std::{collections::BTreeMap, time::Duration};

use super::{Task, Trace, cpu_share, memory_share, shape};
use crate::scheduler::DeviceRequest;

/// When a trace of Google's cells begins: what was there before has happened at 0.
const BEGINS_MICROS: u64 = 600_000_000;

/// What happened to a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// It was submitted, or changed.
    Noted,
    /// It began to run.
    Began,
    /// It stopped, for whatever reason.
    Stopped,
}

/// An event.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    pub(super) at_micros: u64,
    pub(super) what: What,
    /// Shares of the largest machine's cpu and memory, if the event tells.
    pub(super) request: Option<[f64; 2]>,
    pub(super) priority: i32,
}

/// What is known of a task so far.
#[derive(Debug)]
struct Life {
    first: u64,
    began: Option<u64>,
    ran: Option<u64>,
    request: Option<[f64; 2]>,
    priority: i32,
}

/// The tasks of a trace, each by its job and its number there.
#[derive(Debug, Default)]
pub(super) struct Lives(BTreeMap<(u64, u64), Life>);

impl Lives {
    /// Takes the next event; a task's are to come in the order of time.
    pub(super) fn note(&mut self, task: (u64, u64), event: Event) {
        let Event { at_micros, what, request, priority } = event;
        let fresh = Life { first: at_micros, began: None, ran: None, request: None, priority };
        let life = self.0.entry(task).or_insert(fresh);
        life.first = life.first.min(at_micros);
        life.priority = priority;
        life.request = request.or(life.request);
        match what {
            What::Noted => {}
            What::Began => life.began = Some(at_micros),
            What::Stopped => life.ran = life.began.take().map(|began| at_micros.saturating_sub(began)).or(life.ran),
        }
    }

    /// Adds a task for each that ran: it comes when it was first heard of, and runs as long as its last run did, or without an
    /// end if that went on. The queue is its job's.
    pub(super) fn tell(self, trace: &mut Trace, queue: impl Fn(u64) -> Box<str>) {
        for ((job, number), life) in self.0 {
            let Life { first, began, ran, request, priority } = life;
            let Some([cpu, memory]) = request else {
                trace.leave_out("no request");
                continue;
            };
            if began.is_none() && ran.is_none() {
                trace.leave_out("never ran");
                continue;
            }
            let runs = if began.is_some() { None } else { ran.map(Duration::from_micros) };
            let shape = shape(cpu_share(cpu), memory_share(memory), DeviceRequest::default());
            trace.tasks.push(Task {
                queue: queue(job),
                priority,
                arrives: Duration::from_micros(first.saturating_sub(BEGINS_MICROS)),
                runs,
                ..Task::pod(format!("{job}-{number}"), shape)
            });
        }
    }
}
