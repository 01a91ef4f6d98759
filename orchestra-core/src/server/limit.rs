//! How many requests are answered at once: SEMANTICS 35.

use http::Extensions;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::server::{
    Inner, Routed,
    error::{Failure, Result},
    health::is_endpoint,
    identity::vouched,
    route::Route,
};

/// How many requests that only read are answered at once; as in Kubernetes.
pub const READS_IN_FLIGHT_MAX: usize = 400;
/// How many other requests are answered at once; as in Kubernetes.
pub const WRITES_IN_FLIGHT_MAX: usize = 200;

/// The places for requests under way; a place is free again once its request has been answered.
#[derive(Debug)]
pub(crate) struct Places {
    reads: Semaphore,
    writes: Semaphore,
}

impl Places {
    pub(crate) fn new() -> Self {
        Self { reads: Semaphore::new(READS_IN_FLIGHT_MAX), writes: Semaphore::new(WRITES_IN_FLIGHT_MAX) }
    }
}

impl Inner {
    /// Gives a request its place. What stays for long needs none, nor do probes, which should not tell of a server that is
    /// merely busy; nor masters if there is none left, for they are who mends it.
    ///
    /// # Errors
    ///
    /// 429 if all places are taken.
    pub(super) fn place_in_flight(
        &self,
        routed: &Routed,
        extensions: &Extensions,
    ) -> Result<Option<SemaphorePermit<'_>>> {
        if routed.long || is_probe(&routed.route) {
            return Ok(None);
        }
        let places = if routed.labels.reads() { &self.places.reads } else { &self.places.writes };
        if let Ok(place) = places.try_acquire() {
            return Ok(Some(place));
        }
        if vouched(extensions).is_some_and(|user| user.is_master()) {
            return Ok(None);
        }
        self.metrics.dropped(&routed.labels);
        Err(Failure::too_many_requests("Too many requests, please try again later.", Some(1)))
    }
}

fn is_probe(route: &Route) -> bool {
    let Route::Path(segments) = route else { return false };
    segments.first().is_some_and(|first| is_endpoint(first))
}
