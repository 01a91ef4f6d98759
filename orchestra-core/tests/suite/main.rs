//! The API server and the loops around it, over the memory store, under paused time.

mod api;
mod backfilling;
mod control;
mod fairness;
mod lab;
