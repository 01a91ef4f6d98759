//! The stores against what happens to files and processes, and the wrappers over them.

mod backup;
mod damage;
#[cfg(feature = "etcd")]
mod etcd;
mod fan_out;
mod full_disk;
mod history;
mod kill;
mod model;
mod mutants;
mod reopen;
mod wrap;
