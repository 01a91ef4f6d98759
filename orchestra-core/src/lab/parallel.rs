//! Seeds run side by side.

use std::{
    num::NonZeroUsize,
    sync::{Mutex, PoisonError},
};

/// Runs every job, as many at a time as the machine has processors, and returns the results in the order of the jobs.
///
/// Which job runs when is left to the machine; a job that depends on its own input alone gives the same result every time.
pub fn run<J: Sync, T: Send>(jobs: &[J], run: impl Fn(&J) -> T + Sync) -> Vec<T> {
    let (next, results) = (Mutex::new(0..jobs.len()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(jobs.len()) {
            scope.spawn(|| {
                loop {
                    let at = next.lock().unwrap_or_else(PoisonError::into_inner).next();
                    let Some((at, job)) = at.and_then(|at| Some((at, jobs.get(at)?))) else { return };
                    let result = run(job);
                    results.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn results_come_in_the_order_of_the_jobs() {
        let jobs: Vec<u64> = (0..100).collect();
        assert_eq!(super::run(&jobs, |job| job * job), jobs.iter().map(|job| job * job).collect::<Vec<_>>());
        assert_eq!(super::run(&[] as &[u64], |job| *job), Vec::<u64>::new());
    }
}
