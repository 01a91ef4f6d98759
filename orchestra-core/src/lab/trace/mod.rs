//! Recorded workloads, read into shapes and nodes.
//!
//! A module for each format says what of it is kept, and what is left out; [`Trace::left_out`] counts the entries. What a trace
//! doesn't say is not made up, unless the module says so; where it gives resources as shares of the largest machine, that one
//! is taken to have 100 cores and 100 GiB. What is compressed has to be decompressed first.

pub mod alibaba2018;
pub mod azure;
pub mod google2011;
pub mod google2019;
pub mod kubernetes;
mod lives;
pub mod openb;
pub mod philly;
pub mod sktrace;
pub mod swf;
mod table;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, error::Error, fmt, io, sync::Arc, time::Duration};

pub(super) use self::table::{Row, Table};
use crate::scheduler::{DEVICE_MILLIS, DeviceRequest, NodeInfo, Resources, Shape};

/// Pods a machine may have, where a trace has no bound: beyond any.
const MACHINE_PODS_MAX: i64 = 10_000;

/// Pods that a task may have: beyond any trace known, but bounded, as files may say anything.
const TASK_PODS_MAX: usize = 1 << 20;

/// Seconds that a moment, or a span, may have: some 3,000 years.
const SECONDS_MAX: f64 = 1e11;

/// What the largest machine is taken to have, where resources are shares of it.
const LARGEST_CPU_MILLIS: f64 = 100_000.0;
const LARGEST_MEMORY_BYTES: f64 = 100.0 * GIBIBYTE;

const GIBIBYTE: f64 = 1_073_741_824.0;

/// What comes as one: a pod, or several of one shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its name in the trace.
    pub name: Box<str>,
    /// What each of its pods needs.
    pub shape: Arc<Shape>,
    /// How many pods it has; at least 1.
    pub pods: usize,
    /// Fewer running than this, and none may start: all of them in a gang, 1 if each is of use by itself.
    pub pods_min: usize,
    /// The tenant; empty if the trace names none.
    pub queue: Box<str>,
    /// A higher one is served first.
    pub priority: i32,
    /// When it comes, from the beginning of the trace.
    pub arrives: Duration,
    /// How long its pods run; `None` if the trace knows no end.
    pub runs: Option<Duration>,
    /// How long its user said they would run, if he was asked.
    pub estimated: Option<Duration>,
}

impl Task {
    /// A single pod of no tenant, there from the beginning and without an end.
    pub fn pod(name: impl Into<Box<str>>, shape: impl Into<Arc<Shape>>) -> Self {
        Self {
            name: name.into(),
            shape: shape.into(),
            pods: 1,
            pods_min: 1,
            queue: Box::default(),
            priority: 0,
            arrives: Duration::ZERO,
            runs: None,
            estimated: None,
        }
    }
}

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// The tasks, in the order of the file or of their names.
    pub tasks: Vec<Task>,
    /// The nodes, if it tells of any.
    pub nodes: Vec<NodeInfo>,
    /// A machine like those it was recorded on, as far as that is known; without a name.
    pub machine: NodeInfo,
    /// How many entries are not among the tasks, by why.
    pub left_out: BTreeMap<&'static str, usize>,
}

impl Trace {
    fn leave_out(&mut self, why: &'static str) {
        *self.left_out.entry(why).or_insert(0) += 1;
    }
}

impl fmt::Display for Trace {
    /// As `13716 tasks with 28372 pods; left out: 1548 (no duration on a V100)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pods: usize = self.tasks.iter().map(|task| task.pods).sum();
        write!(f, "{} tasks with {pods} pods", self.tasks.len())?;
        for (at, (why, count)) in self.left_out.iter().enumerate() {
            write!(f, "{} {count} ({why})", if at == 0 { "; left out:" } else { "," })?;
        }
        Ok(())
    }
}

type ReadTasks = fn(&mut dyn io::Read, &str) -> Result<Trace, TraceError>;
type ReadNodes = fn(&mut dyn io::Read, &str) -> Result<Vec<NodeInfo>, TraceError>;

/// A format of traces.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Its name, for people to choose by.
    pub name: &'static str,
    tasks: ReadTasks,
    nodes: Option<ReadNodes>,
}

/// Every format there is, by name.
pub const FORMATS: [Format; 10] = [
    Format::new("alibaba2018", |input, file| alibaba2018::tasks(input, file))
        .with(|input, file| alibaba2018::nodes(input, file)),
    Format::new("azure-llm", |input, file| azure::requests(input, file)),
    Format::new("azure-vm", |input, file| azure::machines(input, file)),
    Format::new("google2011", |input, file| google2011::tasks(input, file))
        .with(|input, file| google2011::nodes(input, file)),
    Format::new("google2019", |input, file| google2019::tasks(input, file))
        .with(|input, file| google2019::nodes(input, file)),
    Format::new("kubernetes", |input, file| kubernetes::objects(input, file))
        .with(|input, file| kubernetes::objects(input, file).map(|trace| trace.nodes)),
    Format::new("openb", |input, file| openb::pods(input, file).map(openb::trace))
        .with(|input, file| openb::nodes(input, file)),
    Format::new("philly", |input, file| philly::jobs(input, file)),
    Format::new("sktrace", |input, file| sktrace::events(input, file)),
    Format::new("swf", |input, file| swf::jobs(input, file)),
];

impl Format {
    const fn new(name: &'static str, tasks: ReadTasks) -> Self {
        Self { name, tasks, nodes: None }
    }

    const fn with(self, nodes: ReadNodes) -> Self {
        Self { nodes: Some(nodes), ..self }
    }

    /// The format of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        FORMATS.into_iter().find(|format| format.name == name)
    }

    /// Reads tasks; `file` is what errors call the file.
    ///
    /// # Errors
    ///
    /// [`TraceError`] names the file, and the line and field that are wrong.
    pub fn tasks(&self, mut input: impl io::Read, file: &str) -> Result<Trace, TraceError> {
        (self.tasks)(&mut input, file)
    }

    /// Reads a list of nodes, from a file of its own.
    ///
    /// # Errors
    ///
    /// As [`tasks`](Self::tasks); and [`TraceError::NoNodes`] if the format has no lists of nodes.
    pub fn nodes(&self, mut input: impl io::Read, file: &str) -> Result<Vec<NodeInfo>, TraceError> {
        let nodes = self.nodes.ok_or(TraceError::NoNodes { format: self.name })?;
        nodes(&mut input, file)
    }
}

/// Why a trace can't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TraceError {
    /// A field holds what it may not.
    #[error("{file}:{line}: {field}: {problem}")]
    Field {
        /// The file, as the caller calls it.
        file: Box<str>,
        /// The line, from 1; in a file without lines, the event.
        line: u64,
        /// The field's name.
        field: Box<str>,
        /// What is wrong with it.
        problem: Box<str>,
    },
    /// A column is not there.
    #[error("{file}: there is no column {column:?}")]
    Column {
        /// The file, as the caller calls it.
        file: Box<str>,
        /// The column's name.
        column: Box<str>,
    },
    /// The format has no lists of nodes.
    #[error("{format} has no lists of nodes")]
    NoNodes {
        /// The format's name.
        format: &'static str,
    },
    /// It is not of the format at all, or can't be read.
    #[error("{file}: can't be read")]
    Unreadable {
        /// The file, as the caller calls it.
        file: Box<str>,
        /// Why.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
}

impl TraceError {
    fn field(file: &str, line: u64, field: impl Into<Box<str>>, problem: impl Into<Box<str>>) -> Self {
        Self::Field { file: file.into(), line, field: field.into(), problem: problem.into() }
    }

    fn unreadable(file: &str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Unreadable { file: file.into(), source: source.into() }
    }
}

/// A pod that takes so many thousandths of a core, bytes, and devices.
fn shape(cpu: i64, memory: i64, devices: DeviceRequest) -> Arc<Shape> {
    let requests = Resources { cpu, memory, pods: 1, ..Resources::default() };
    Shape { weighed_requests: requests.clone(), requests, devices, ..Shape::default() }.into()
}

/// Some of a node's devices, each the whole of it.
fn whole_devices(count: u8) -> DeviceRequest {
    DeviceRequest { count, millis: DEVICE_MILLIS, ..DeviceRequest::default() }
}

/// A machine with so many thousandths of a core, bytes, and devices.
fn machine(name: &str, cpu: i64, memory: i64, devices: u8) -> NodeInfo {
    let allocatable = Resources { cpu, memory, pods: MACHINE_PODS_MAX, ..Resources::default() };
    NodeInfo { name: name.into(), allocatable, devices, ..NodeInfo::default() }
}

/// A share of the largest machine's cores, in thousandths of one: at least 1 of what is more than none.
fn cpu_share(share: f64) -> i64 {
    amount(share, LARGEST_CPU_MILLIS)
}

/// A share of the largest machine's memory, in bytes.
fn memory_share(share: f64) -> i64 {
    amount(share, LARGEST_MEMORY_BYTES)
}

/// So many of a unit, in whole numbers: at least 1 of what is more than none.
fn amount(count: f64, unit: f64) -> i64 {
    let whole = (count * unit).round() as i64;
    if count > 0.0 { whole.max(1) } else { 0 }
}
