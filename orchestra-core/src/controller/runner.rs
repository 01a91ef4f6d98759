//! The loop around a controller: changes in, keys queued, reconciles running.

use std::{convert::Infallible, fmt, panic::AssertUnwindSafe, sync::Arc};

use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered, SelectAll},
};
use tokio::time::{Instant, sleep_until};
use tracing::Instrument as _;

use super::{
    Action, Controller, Error, ObjectKey,
    metrics::{Meter, Metrics},
    queue::Queue,
};
use crate::{
    informer::{Cached, Change, Lister},
    rng::Entropy,
};

/// How many keys of one controller are worked on at once, unless it is told otherwise.
pub const CONCURRENCY_DEFAULT: usize = 16;

struct Outcome {
    key: ObjectKey,
    began: Instant,
    result: std::thread::Result<Result<Action, Error>>,
}

/// Runs one controller over everything it watches.
///
/// Reconciles run inside [`run`](Self::run)'s own future: dropping that stops them at their next `await`, as law 3 of
/// [`Controller`] allows.
pub struct Runner {
    controller: Arc<dyn Controller>,
    sources: SelectAll<BoxStream<'static, Vec<ObjectKey>>>,
    entropy: Entropy,
    concurrency: usize,
    metrics: Metrics,
}

impl fmt::Debug for Runner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Runner").field("controller", &self.controller.name()).finish_non_exhaustive()
    }
}

impl Runner {
    /// Makes a runner that watches nothing yet; `entropy` draws the jitter of backoffs.
    pub fn new(controller: impl Controller, entropy: Entropy) -> Self {
        Self {
            controller: Arc::new(controller),
            sources: SelectAll::new(),
            entropy,
            concurrency: CONCURRENCY_DEFAULT,
            metrics: Metrics::default(),
        }
    }

    /// Reconciles each object of a kind when it changes.
    #[must_use]
    pub fn reconciles<K: Cached>(self, lister: &Lister<K>) -> Self {
        self.watches(lister, |change| vec![change.key.clone()])
    }

    /// Reconciles the controlling owner, of kind `O`, of each object that changes: the new one, and the one before.
    #[must_use]
    pub fn owns<O: Cached, K: Cached>(self, lister: &Lister<K>) -> Self {
        self.watches(lister, |change: &Change<K>| {
            let owners = [&change.old, &change.new].into_iter().flatten().filter_map(|object| owner::<O, K>(object));
            let mut owners: Vec<_> = owners.collect();
            owners.dedup();
            owners
        })
    }

    /// Reconciles what `keys` tells of each change.
    #[must_use]
    pub fn watches<K: Cached>(
        mut self,
        lister: &Lister<K>,
        keys: impl Fn(&Change<K>) -> Vec<ObjectKey> + Send + 'static,
    ) -> Self {
        self.sources.push(lister.subscribe().into_stream().map(move |change| keys(&change)).boxed());
        self
    }

    /// Works on up to `concurrency` keys at once.
    #[must_use]
    pub fn concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency.max(1);
        self
    }

    /// Counts what its queue does in `metrics`, under the controller's name.
    #[must_use]
    pub fn metrics(mut self, metrics: &Metrics) -> Self {
        self.metrics = metrics.clone();
        self
    }

    /// Runs until dropped.
    pub async fn run(mut self) -> Infallible {
        let mut queue = Queue::default();
        let mut meter = self.metrics.of(self.controller.name());
        let mut running: FuturesUnordered<BoxFuture<'static, Outcome>> = FuturesUnordered::new();
        loop {
            while running.len() < self.concurrency
                && let Some(key) = queue.take(Instant::now())
            {
                meter.taken(&key, queue.len(), Instant::now());
                running.push(self.start(key));
            }
            let timer = queue.next_at();
            tokio::select! {
                biased;
                Some(keys) = self.sources.next(), if !self.sources.is_empty() => {
                    for key in keys {
                        meter.added(&key, Instant::now());
                        queue.add(key);
                    }
                    meter.deep(queue.len());
                }
                Some(outcome) = running.next(), if !running.is_empty() => {
                    self.finish(&mut queue, &meter, outcome);
                }
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => {}
                // It watches nothing: nothing will ever be to do.
                else => std::future::pending().await,
            }
        }
    }

    fn start(&self, key: ObjectKey) -> BoxFuture<'static, Outcome> {
        let controller = Arc::clone(&self.controller);
        let span = tracing::debug_span!("reconcile", controller = controller.name(), %key);
        let work = async move {
            let began = Instant::now();
            // A panic is a bug of one controller with one object; the others go on (SEMANTICS 44).
            let result = AssertUnwindSafe(controller.reconcile(&key)).catch_unwind().await;
            Outcome { key, began, result }
        };
        work.instrument(span).boxed()
    }

    fn finish(&self, queue: &mut Queue, meter: &Meter, Outcome { key, began, result }: Outcome) {
        let name = self.controller.name();
        meter.worked(began.elapsed());
        let mut failed = || {
            meter.retried();
            queue.failed(&key, Instant::now(), self.entropy.next_f64())
        };
        match result {
            Ok(Ok(action)) => {
                queue.succeeded(&key);
                if let Action::RequeueAfter(wait) = action {
                    queue.add_at(key.clone(), Instant::now() + wait);
                }
            }
            Ok(Err(Error::Terminal(cause))) => {
                queue.succeeded(&key);
                tracing::warn!(controller = name, %key, cause = &*cause as &dyn std::error::Error, "given up until it changes");
            }
            Ok(Err(Error::Retry(cause))) => {
                let backoff = failed();
                tracing::debug!(controller = name, %key, cause = &*cause as &dyn std::error::Error, ?backoff, "trying again");
            }
            Err(_) => {
                let backoff = failed();
                tracing::error!(controller = name, %key, ?backoff, "reconcile panicked");
            }
        }
        queue.done(&key);
    }
}

/// The controlling owner of an object, if it is of kind `O`.
fn owner<O: Cached, K: Cached>(object: &K) -> Option<ObjectKey> {
    let references = object.meta().owner_references.as_deref().unwrap_or_default();
    let controller = references.iter().find(|reference| reference.controller == Some(true))?;
    let is_kind = controller.kind == O::kind(&()) && controller.api_version == O::api_version(&());
    is_kind.then(|| ObjectKey::new(object.meta().namespace.clone().unwrap_or_default(), controller.name.as_str()))
}
