//! A laboratory for schedulers: the same [`Scheduler`](crate::scheduler::Scheduler) objects as in a cluster, on workloads
//! that were recorded or generated, without a cluster.
//!
//! Everything here is a pure function of its input and a seed: no clock, no files, no threads but those that run seeds side
//! by side. A trace is read from anything that can be read; what comes out is plain numbers, CSV text and SVG text.
//!
//! [`your_first_scheduler`] is the guide to begin with.

pub mod compaction;
pub mod comparison;
pub mod inflation;
pub mod metrics;
pub mod openb;
pub mod parallel;
pub mod plot;
pub mod policies;
pub mod simulation;
pub mod statistics;
pub mod trace;
pub mod workload;

#[doc = include_str!("../../docs/your-first-scheduler.md")]
pub mod your_first_scheduler {}
