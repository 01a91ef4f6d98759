//! The durable store beside etcd, on one disk: `cargo bench -p orchestra-store --features etcd`.
//!
//! Both keep their data in the system's temporary directory: `TMPDIR` chooses the disk. Runs alternate; the table has the
//! median of each side, and the median and range of the ratios of pairs. Processor time is that of every process of a
//! side: of the durable store this one, of etcd this one as its client and etcd itself.
//!
//! Arguments choose among `writes`, `latency`, `reads`, `watches` and `restart`; without any, all run.

#![allow(clippy::print_stdout, reason = "the table is what a benchmark is run for")]

mod latency;
mod load;
mod measure;
mod reads;
mod report;
mod restart;
mod subject;
mod watches;
mod writes;

use std::{env, io};

use report::Report;

/// The sizes of all values, in bytes: about that of a pod with its status, compressed by nothing.
const VALUE_BYTES: usize = 1_024;

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let chosen: Vec<String> = arguments.by_ref().collect();
    if let [word, directory] = &chosen[..]
        && word == restart::CHILD
    {
        return runtime.block_on(restart::serve(directory));
    }
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|choice| choice == name);
    let mut report = Report::new()?;
    runtime.block_on(async {
        if wanted("writes") {
            writes::run(&mut report).await?;
        }
        if wanted("latency") {
            latency::run(&mut report).await?;
        }
        if wanted("reads") {
            reads::run(&mut report).await?;
        }
        if wanted("watches") {
            watches::run(&mut report).await?;
        }
        if wanted("restart") {
            restart::run(&mut report).await?;
        }
        Ok(())
    })
}
