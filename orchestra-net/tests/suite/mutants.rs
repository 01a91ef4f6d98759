//! The suite itself on trial: each of these proxies breaks one law, and the case made for it has to say so.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    panic::{AssertUnwindSafe, catch_unwind},
};

use async_trait::async_trait;
use orchestra_core::proxy::{
    Error, Frontend, Protocol, Proxy, ServiceTable, Synced,
    conformance::{self, Fixture},
};
use orchestra_net::proxy::MemoryProxy;

/// What a [`Mutant`] does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It does nothing wrong.
    None,
    /// Keeps frontends that the new table lacks: law 1.
    KeepsFrontends,
    /// Keeps backends that the new table lacks: law 1.
    KeepsBackends,
    /// Goes on serving when there are no backends: law 1.
    KeepsTheLast,
    /// Sends everybody to the first backend: law 1.
    Favors,
    /// Knows no affinity: law 1.
    Forgets,
    /// Counts what didn't change: law 2.
    CountsAgain,
    /// Brings into force what it can of a table that it refuses: law 3.
    AppliesHalf,
    /// Takes an older table: law 4.
    GoesBack,
    /// Refuses an older table as if it could be tried again: law 4.
    HidesStale,
}

#[derive(Debug)]
struct Mutant {
    inner: MemoryProxy,
    fault: Fault,
}

#[async_trait]
impl Proxy for Mutant {
    async fn sync(&self, table: &ServiceTable) -> Result<Synced, Error> {
        let (mut wanted, before) = (table.clone(), self.inner.table());
        let unusable = wanted.routes.remove(&unusable()).is_some();
        if unusable && self.fault != Fault::AppliesHalf {
            return Err(Error::Unavailable("no such address".into()));
        }
        let synced = before.changes_to(&wanted);
        match self.fault {
            Fault::KeepsFrontends => {
                for (frontend, route) in &before.routes {
                    wanted.routes.entry(*frontend).or_insert_with(|| route.clone());
                }
            }
            Fault::KeepsBackends => wanted.routes.iter_mut().for_each(|(frontend, route)| {
                route.backends.extend(before.routes.get(frontend).into_iter().flat_map(|old| &old.backends));
                route.backends.sort();
                route.backends.dedup();
            }),
            Fault::KeepsTheLast => {
                wanted.routes.iter_mut().filter(|(_, new)| new.backends.is_empty()).for_each(|(frontend, route)| {
                    route.backends = before.routes.get(frontend).cloned().unwrap_or_default().backends;
                });
            }
            Fault::Favors => wanted.routes.values_mut().for_each(|route| route.backends.truncate(1)),
            Fault::Forgets => wanted.routes.values_mut().for_each(|route| route.affinity = None),
            Fault::GoesBack => wanted.revision = wanted.revision.max(before.revision),
            _ => {}
        }
        let outcome = self.inner.sync(&wanted).await;
        match (self.fault, outcome) {
            (Fault::CountsAgain, Ok(_)) => Ok(Synced { updated: table.routes.len(), ..synced }),
            (Fault::HidesStale, Err(Error::Stale { .. })) => Err(Error::Unavailable("older".into())),
            (_, Ok(_)) if unusable => Err(Error::Unavailable("no such address".into())),
            (_, outcome) => outcome.map(|_| synced),
        }
    }
}

fn unusable() -> Frontend {
    Frontend { address: ([192, 0, 2, 1], 80).into(), protocol: Protocol::Tcp }
}

#[async_trait]
impl Fixture for Mutant {
    fn proxy(&self) -> &dyn Proxy {
        self
    }

    fn frontend(&self, n: u8) -> Frontend {
        Frontend { address: ([127, 97, 0, n], 80).into(), protocol: Protocol::Tcp }
    }

    fn backend(&self, n: u8) -> SocketAddr {
        (Ipv4Addr::new(127, 1, 0, n), 80).into()
    }

    fn unusable(&self) -> Option<Frontend> {
        Some(unusable())
    }

    async fn connect(&self, frontend: Frontend) -> Option<SocketAddr> {
        self.inner.route(frontend, IpAddr::V4(Ipv4Addr::LOCALHOST))
    }
}

/// Runs a case on a proxy with `fault` and returns whether the case failed.
macro_rules! is_caught {
    ($fault:expr, $case:ident) => {
        catch_unwind(AssertUnwindSafe(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            let mutant = Mutant { inner: MemoryProxy::new(), fault: $fault };
            runtime.block_on(conformance::$case(&mutant));
        }))
        .is_err()
    };
}

#[test]
fn the_suite_catches_a_proxy_whose_routes_are_not_the_tables() {
    assert!(is_caught!(Fault::Favors, a_route_reaches_all_its_backends));
    assert!(is_caught!(Fault::KeepsFrontends, a_removed_frontend_is_refused));
    assert!(is_caught!(Fault::KeepsBackends, a_removed_backend_is_not_reached));
    assert!(is_caught!(Fault::KeepsTheLast, a_frontend_without_backends_refuses));
    assert!(is_caught!(Fault::Forgets, a_client_keeps_its_backend_with_affinity));
}

#[test]
fn the_suite_catches_a_proxy_that_counts_what_did_not_change() {
    assert!(is_caught!(Fault::CountsAgain, the_same_table_again_changes_nothing));
}

#[test]
fn the_suite_catches_a_proxy_that_applies_half_of_what_it_refuses() {
    assert!(is_caught!(Fault::AppliesHalf, a_refused_table_leaves_the_old_one_in_force));
}

#[test]
fn the_suite_catches_a_proxy_that_goes_back() {
    assert!(is_caught!(Fault::GoesBack, an_older_table_is_refused_as_stale));
    assert!(is_caught!(Fault::HidesStale, an_older_table_is_refused_as_stale));
    assert!(is_caught!(Fault::GoesBack, a_refused_table_leaves_the_old_one_in_force));
}

mod sound {
    use super::{Fault, Mutant};
    use orchestra_net::proxy::MemoryProxy;

    orchestra_core::proxy_conformance!(Mutant { inner: MemoryProxy::new(), fault: Fault::None });
}
