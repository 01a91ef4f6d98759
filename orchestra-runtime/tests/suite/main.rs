//! Tests of this crate over a whole API server.

mod cluster;
mod kubelet;
mod pod;
mod start;
