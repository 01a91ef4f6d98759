//! Tests of this crate over a whole API server.

mod kubelet;
