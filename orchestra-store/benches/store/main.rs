//! The durable store beside etcd, on one disk: `cargo bench -p orchestra-store --features etcd`.
//!
//! Both keep their data in the system's temporary directory: `TMPDIR` chooses the disk. Runs alternate; the table has the
//! median of each side, and the median and range of the ratios of pairs. Processor time is that of every process of a
//! side: of the durable store this one, of etcd this one as its client and etcd itself.
//!
//! Arguments after `--bench store --` choose among `writes`, `latency`, `reads`, `watches` and `restart`; without any, all
//! run. With `--quick`, two small pairs of each show that they work: their figures are printed, and appended nowhere.

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

use measure::Sizes;
use report::Report;

/// The sizes of all values, in bytes: about that of a pod with its status, compressed by nothing.
const VALUE_BYTES: usize = 1_024;

fn main() -> io::Result<()> {
    let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut chosen: Vec<String> = arguments.by_ref().collect();
    if let [word, directory, acknowledged] = &chosen[..]
        && word == restart::CHILD
    {
        return runtime.block_on(restart::serve(directory, acknowledged));
    }
    let all = chosen.len();
    chosen.retain(|argument| argument != "--quick");
    let sizes = if chosen.len() < all { Sizes::QUICK } else { Sizes::FULL };
    let wanted = |name: &str| chosen.is_empty() || chosen.iter().any(|choice| choice == name);
    let mut report = Report::new(sizes)?;
    runtime.block_on(async {
        if wanted("writes") {
            writes::run(sizes, &mut report).await?;
        }
        if wanted("latency") {
            latency::run(sizes, &mut report).await?;
        }
        if wanted("reads") {
            reads::run(sizes, &mut report).await?;
        }
        if wanted("watches") {
            watches::run(sizes, &mut report).await?;
        }
        if wanted("restart") {
            restart::run(sizes, &mut report).await?;
        }
        Ok(())
    })
}
