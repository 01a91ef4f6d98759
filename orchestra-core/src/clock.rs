//! Time of day, passed in: the one module of this crate that asks the machine what time it is.
//!
//! Waiting is `tokio::time`'s business; a [`Clock`] only stamps. Under paused time a [`TokioClock`] moves exactly as far
//! as tokio's timers do, so that a whole cluster can be run twice with the same stamps.

use std::{fmt, sync::Arc};

pub use jiff::Timestamp;

/// Tells the time of day.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// Returns the current time; two calls in a row may return the same one, and a corrected system clock may step back.
    fn now(&self) -> Timestamp;
}

impl<C: Clock + ?Sized> Clock for Arc<C> {
    fn now(&self) -> Timestamp {
        self.as_ref().now()
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "this is the one place where the time of day enters")]
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// A clock that starts at a chosen moment and then follows tokio's timers, paused or not.
#[derive(Clone, Copy, Debug)]
pub struct TokioClock {
    epoch: Timestamp,
    start: tokio::time::Instant,
}

impl TokioClock {
    /// Makes a clock that shows `epoch` now.
    #[must_use]
    pub fn starting_at(epoch: Timestamp) -> Self {
        Self { epoch, start: tokio::time::Instant::now() }
    }
}

impl Default for TokioClock {
    /// Starts at 2030-01-01T00:00:00Z, a date that nobody takes for the real one.
    fn default() -> Self {
        const EPOCH_SECONDS: i64 = 1_893_456_000;
        Self::starting_at(Timestamp::constant(EPOCH_SECONDS, 0))
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        self.epoch.saturating_add(self.start.elapsed()).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Clock as _, TokioClock};

    #[tokio::test(start_paused = true)]
    async fn a_tokio_clock_moves_with_paused_time_only() {
        let clock = TokioClock::default();
        let before = clock.now();
        assert_eq!(before, clock.now());
        tokio::time::advance(Duration::from_secs(90)).await;
        assert_eq!(before.duration_until(clock.now()).as_secs(), 90);
    }
}
