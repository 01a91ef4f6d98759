//! Contract: how the cluster repairs itself.

use std::time::Duration;

use async_trait::async_trait;

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod election;
mod metrics;
mod queue;
mod recorder;
mod runner;

pub use election::LeaderElection;
pub use metrics::Metrics;
pub use queue::{BACKOFF_MAX, BACKOFF_MIN, Queue};
pub use recorder::{Recorder, Severity};
pub use runner::{CONCURRENCY_DEFAULT, Runner};

pub use crate::informer::ObjectKey;
use crate::store::BoxError;

/// When to look at the object again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Action {
    /// When something it watches changes.
    AwaitChange,
    /// Then, or after this long, whichever comes first.
    RequeueAfter(Duration),
}

/// Why an object could not be reconciled.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Worth another try, with backoff: a conflict, a store out of reach.
    #[error("reconciling failed for now")]
    Retry(#[source] BoxError),
    /// Not worth another try until the object changes: its spec can't be met.
    #[error("reconciling failed until the object changes")]
    Terminal(#[source] BoxError),
}

impl From<kube::Error> for Error {
    fn from(error: kube::Error) -> Self {
        Self::Retry(error.into())
    }
}

/// Drives the world towards what one object's spec says, again and again.
///
/// `reconcile` gets a key, never an event: it must read what is, compare it with what should be,
/// and write the difference. Calls for one key never overlap; those for different keys may.
///
/// # Laws
///
/// 1. **Level-triggered.** The outcome depends on the state read, not on how often or why it ran.
/// 2. **Idempotent.** With nothing changed in between, a second call writes nothing.
/// 3. **Cancel-safe.** Dropped at any `await`, a later call still converges.
///
/// Each is a check of `conformance`, which kills a controller at each of its writes.
#[async_trait]
pub trait Controller: Send + Sync + 'static {
    /// A short name for logs and events, such as `replica-set`.
    fn name(&self) -> &str;

    /// Brings the object at `key`, which may be gone, one step closer to its spec.
    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error>;
}
