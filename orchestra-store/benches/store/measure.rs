//! Processor time and memory, as Linux tells them.

use std::{fs, io, time::Duration};

use crate::subject::Subject;

/// What the times in `/proc/PID/stat` are counted in: on Linux always hundredths, whatever the kernel's own clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// How much is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// How many pairs run before any is counted.
    warm_ups: usize,
    /// How many pairs are counted.
    pairs: usize,
    /// What numbers of objects and calls are divided by.
    divisor: u32,
}

impl Sizes {
    pub(crate) const FULL: Self = Self { warm_ups: 2, pairs: 10, divisor: 1 };
    pub(crate) const QUICK: Self = Self { warm_ups: 1, pairs: 2, divisor: 16 };

    /// So many of a full `count`.
    pub(crate) fn of(self, count: usize) -> usize {
        (count / self.divisor as usize).max(1)
    }

    /// So long of a full `duration`.
    pub(crate) fn lasting(self, duration: Duration) -> Duration {
        duration / self.divisor
    }

    pub(crate) fn is_full(self) -> bool {
        self == Self::FULL
    }

    /// The turns of a comparison, each with whether it is counted.
    pub(crate) fn turns(self) -> impl Iterator<Item = bool> {
        (0..self.warm_ups + self.pairs).map(move |turn| turn >= self.warm_ups)
    }
}

/// Whose processor time is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// This process'.
    Alone,
    /// That of this process and of the ones it started that still run.
    WithChildren,
}

/// The figures of both sides, one list for each figure that `run` returns, one number for each pair.
pub(crate) type Pairs = [Vec<Vec<f64>>; 2];

/// Runs each side in turn, A B A B.
pub(crate) async fn pairs(
    sizes: Sizes,
    subjects: &[Subject; 2],
    run: impl AsyncFn(&Subject) -> io::Result<Vec<f64>>,
) -> io::Result<Pairs> {
    let mut pairs = Pairs::default();
    for counts in sizes.turns() {
        for (subject, figures) in subjects.iter().zip(&mut pairs) {
            let results = run(subject).await?;
            if counts {
                figures.resize(results.len(), Vec::new());
                for (figure, result) in figures.iter_mut().zip(results) {
                    figure.push(result);
                }
            }
        }
    }
    Ok(pairs)
}

/// The processor time taken so far, in seconds, by all threads that these processes ever had.
pub(crate) fn cpu_seconds(scope: Scope) -> io::Result<f64> {
    let mut seconds = of_process("self")?;
    if scope == Scope::WithChildren {
        for child in children()? {
            seconds += of_process(&child)?;
        }
    }
    Ok(seconds)
}

/// What a process holds in memory, in bytes.
pub(crate) fn resident_bytes(process: &str) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    Ok(kib.ok_or_else(|| io::Error::other("no VmRSS"))? << 10)
}

/// The processes that this one started and that still run.
pub(crate) fn children() -> io::Result<Vec<String>> {
    let mut children = Vec::new();
    for thread in fs::read_dir("/proc/self/task")? {
        // A thread may have ended since it was listed; its children are another's then.
        let text = fs::read_to_string(thread?.path().join("children")).unwrap_or_default();
        children.extend(text.split_whitespace().map(str::to_owned));
    }
    Ok(children)
}

fn of_process(process: &str) -> io::Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name, in parentheses, may hold anything; of what follows, the state is the third field of all.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let ticks: Vec<u64> = fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    let [user, system] = ticks[..] else { return Err(io::Error::other("no times in /proc")) };
    Ok((user + system) as f64 / TICKS_PER_SECOND)
}
