//! Health: whether a server lives, and whether it is ready, check by check as Kubernetes tells it.

use std::{fmt::Write as _, time::Duration};

use http::{Response, StatusCode};
use tokio::time::timeout;

use crate::server::{
    Body, Inner,
    error::{Failure, Result},
    respond::text_response,
    route::Query,
};

/// How long a check may take: less than any prober's patience, more than a start.
const CHECK_SECONDS_MAX: u64 = 1;

/// What tells the health of the server.
const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];
/// What is checked, in this order.
const CHECKS: [Check; 5] = [Check::Ping, Check::Store, Check::Cache, Check::Bootstrap, Check::Shutdown];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// The server answers.
    Ping,
    /// The store answers.
    Store,
    /// The watch cache has come as far as the store.
    Cache,
    /// Everything is there that every cluster has.
    Bootstrap,
    /// The server isn't about to stop.
    Shutdown,
}

impl Check {
    /// Its name, which is Kubernetes' where that has the check; the store is where an `etcd` would be.
    fn name(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::Store => "etcd",
            Self::Cache => "watch-cache-sync",
            Self::Bootstrap => "poststarthook/bootstrap",
            Self::Shutdown => "shutdown",
        }
    }

    /// Whether a server that fails it is no longer alive, or merely not ready.
    fn concerns(self, endpoint: &str) -> bool {
        match self {
            Self::Ping | Self::Store => true,
            Self::Bootstrap => endpoint != "livez",
            Self::Cache | Self::Shutdown => endpoint == "readyz",
        }
    }
}

/// The paths of the endpoints, and of each of their checks.
pub(super) fn paths() -> impl Iterator<Item = String> {
    ENDPOINTS.into_iter().flat_map(|endpoint| {
        let checks = CHECKS.into_iter().filter(|check| check.concerns(endpoint));
        let checks = checks.map(move |check| format!("/{endpoint}/{}", check.name()));
        std::iter::once(format!("/{endpoint}")).chain(checks)
    })
}

/// Whether a first segment is an endpoint of health.
pub(super) fn is_endpoint(segment: &str) -> bool {
    ENDPOINTS.contains(&segment)
}

impl Inner {
    /// Answers `/livez`, `/readyz` and `/healthz`, whole or one check; `?verbose` names each check, `?exclude=` leaves
    /// one out.
    pub(super) async fn health(&self, endpoint: &str, path: &[&str], query: &Query) -> Result<Response<Body>> {
        let asked = path.join("/");
        let checks = CHECKS.into_iter().filter(|check| check.concerns(endpoint));
        let checks: Vec<_> = checks.filter(|check| asked.is_empty() || check.name() == asked).collect();
        if checks.is_empty() {
            return Err(Failure::no_such_path());
        }
        let (mut healthy, mut report) = (true, String::new());
        for check in checks {
            let holds = query.values("exclude").any(|name| name == check.name()) || self.holds(check).await;
            healthy &= holds;
            let line = if holds { "[+]{} ok" } else { "[-]{} failed: reason withheld" };
            writeln!(report, "{}", line.replace("{}", check.name())).expect("writing to a string never fails");
        }
        let outcome = if healthy { "passed" } else { "failed" };
        writeln!(report, "{endpoint} check {outcome}").expect("writing to a string never fails");
        Ok(match healthy {
            true if query.has("verbose") => text_response(StatusCode::OK, report),
            true => text_response(StatusCode::OK, "ok".into()),
            false => text_response(StatusCode::INTERNAL_SERVER_ERROR, report),
        })
    }

    async fn holds(&self, check: Check) -> bool {
        let patience = Duration::from_secs(CHECK_SECONDS_MAX);
        let holds = timeout(patience, async {
            match check {
                Check::Ping => true,
                Check::Store => self.store.revision().await.is_ok(),
                Check::Cache => match self.store.revision().await {
                    Ok(revision) => {
                        self.cache.reach(revision).await;
                        true
                    }
                    Err(_) => false,
                },
                Check::Bootstrap => {
                    self.bootstrapped.wait().await;
                    true
                }
                Check::Shutdown => !self.draining.initialized(),
            }
        });
        holds.await.unwrap_or(false)
    }
}
