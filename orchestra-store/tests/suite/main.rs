//! The stores against what happens to files and processes.

mod damage;
#[cfg(feature = "etcd")]
mod etcd;
mod fan_out;
mod kill;
mod mutants;
mod reopen;
