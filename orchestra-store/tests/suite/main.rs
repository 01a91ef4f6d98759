//! The stores against what happens to files and processes.

mod damage;
#[cfg(feature = "etcd")]
mod etcd;
mod kill;
mod mutants;
mod reopen;
