//! Processor time and memory, as Linux tells them.

use std::{fs, io, path::Path};

use crate::subject::Subject;

/// How many pairs are counted, and how many run before.
const PAIRS: usize = 10;
const WARM_UPS: usize = 2;

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
    subjects: &[Subject; 2],
    run: impl AsyncFn(&Subject) -> io::Result<Vec<f64>>,
) -> io::Result<Pairs> {
    let mut pairs = Pairs::default();
    for turn in 0..WARM_UPS + PAIRS {
        for (subject, figures) in subjects.iter().zip(&mut pairs) {
            let results = run(subject).await?;
            if turn >= WARM_UPS {
                figures.resize(results.len(), Vec::new());
                for (figure, result) in figures.iter_mut().zip(results) {
                    figure.push(result);
                }
            }
        }
    }
    Ok(pairs)
}

/// The processor time taken so far, in seconds, by threads that still live.
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
    for_each_thread("self", |thread| {
        let text = fs::read_to_string(thread.join("children"))?;
        children.extend(text.split_whitespace().map(str::to_owned));
        Ok(())
    })?;
    Ok(children)
}

fn of_process(process: &str) -> io::Result<f64> {
    let mut nanoseconds = 0;
    for_each_thread(process, |thread| {
        // A thread may have ended since it was listed.
        let text = fs::read_to_string(thread.join("schedstat")).unwrap_or_default();
        nanoseconds += text.split_whitespace().next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
        Ok(())
    })?;
    Ok(nanoseconds as f64 / 1e9)
}

fn for_each_thread(process: &str, mut each: impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        each(&thread?.path())?;
    }
    Ok(())
}
