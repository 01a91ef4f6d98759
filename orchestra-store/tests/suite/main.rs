//! The durable store against what happens to files and processes.

mod damage;
mod kill;
mod mutants;
mod reopen;
