//! The laws of [`Proxy`] as tests, for every implementation.
//!
//! An implementor provides a [`Fixture`] that can ask where a client ends up, and one line:
//!
//! ```ignore
//! orchestra_core::proxy_conformance!(MyFixture::start().await);
//! ```

#![allow(clippy::missing_panics_doc, reason = "a law panics when it does not hold")]

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use async_trait::async_trait;

use super::{Error, Frontend, Proxy, Route, ServiceTable, Synced};
use crate::store::Revision;

/// A proxy under test, and the world around it.
#[async_trait]
pub trait Fixture: Send + Sync {
    /// The proxy.
    fn proxy(&self) -> &dyn Proxy;

    /// The address of the `n`th service; up to four are asked for.
    fn frontend(&self, n: u8) -> Frontend;

    /// The address of the `n`th backend, which serves; up to four are asked for.
    fn backend(&self, n: u8) -> SocketAddr;

    /// A frontend that the data plane can't serve, if there is such a thing.
    fn unusable(&self) -> Option<Frontend>;

    /// Connects to `frontend` as a client would, and tells which backend answered; `None` if it was refused.
    async fn connect(&self, frontend: Frontend) -> Option<SocketAddr>;
}

/// How often a connection is repeated to see where it may go.
const TRIES: usize = 12;

fn table(fixture: &dyn Fixture, revision: u64, routes: &[(u8, &[u8])]) -> ServiceTable {
    let routes = routes.iter().map(|(frontend, backends)| {
        let mut backends: Vec<_> = backends.iter().map(|&n| fixture.backend(n)).collect();
        backends.sort();
        (fixture.frontend(*frontend), Route { backends, affinity: None })
    });
    ServiceTable { revision: Revision(revision), routes: routes.collect::<BTreeMap<_, _>>() }
}

async fn reached(fixture: &dyn Fixture, frontend: u8) -> Vec<SocketAddr> {
    let mut reached = Vec::new();
    for _ in 0..TRIES {
        reached.extend(fixture.connect(fixture.frontend(frontend)).await);
    }
    reached.sort();
    reached.dedup();
    reached
}

async fn in_force(fixture: &dyn Fixture, table: &ServiceTable) {
    for n in 0..4 {
        let wanted = table.routes.get(&fixture.frontend(n)).map(|route| route.backends.clone()).unwrap_or_default();
        assert_eq!(reached(fixture, n).await, wanted, "service {n} of {table:?}");
    }
}

/// Law 1: every backend of a route is reached, and no other.
pub async fn a_route_reaches_all_its_backends(fixture: &dyn Fixture) {
    let table = table(fixture, 1, &[(0, &[0, 1, 2]), (1, &[3])]);
    assert_eq!(fixture.proxy().sync(&table).await.expect("in force"), Synced { added: 2, updated: 0, removed: 0 });
    in_force(fixture, &table).await;
}

/// Law 1: what the new table lacks is no longer routed.
pub async fn a_removed_frontend_is_refused(fixture: &dyn Fixture) {
    fixture.proxy().sync(&table(fixture, 1, &[(0, &[0]), (1, &[1])])).await.expect("in force");
    let next = table(fixture, 2, &[(1, &[1])]);
    assert_eq!(fixture.proxy().sync(&next).await.expect("in force"), Synced { added: 0, updated: 0, removed: 1 });
    in_force(fixture, &next).await;
}

/// Law 1: a removed backend gets no new connection.
pub async fn a_removed_backend_is_not_reached(fixture: &dyn Fixture) {
    fixture.proxy().sync(&table(fixture, 1, &[(0, &[0, 1])])).await.expect("in force");
    let next = table(fixture, 2, &[(0, &[1, 2])]);
    assert_eq!(fixture.proxy().sync(&next).await.expect("in force"), Synced { added: 0, updated: 1, removed: 0 });
    in_force(fixture, &next).await;
}

/// Law 1: a frontend without backends refuses, and serves as soon as it has one again.
pub async fn a_frontend_without_backends_refuses(fixture: &dyn Fixture) {
    for (revision, backends) in [(1, &[][..]), (2, &[0][..]), (3, &[][..]), (4, &[1, 2][..])] {
        let next = table(fixture, revision, &[(0, backends)]);
        fixture.proxy().sync(&next).await.expect("in force");
        in_force(fixture, &next).await;
    }
}

/// Law 1: with affinity, a client keeps its backend.
pub async fn a_client_keeps_its_backend_with_affinity(fixture: &dyn Fixture) {
    let mut next = table(fixture, 1, &[(0, &[0, 1, 2])]);
    for route in next.routes.values_mut() {
        route.affinity = Some(Duration::from_secs(3_600));
    }
    fixture.proxy().sync(&next).await.expect("in force");
    let first = reached(fixture, 0).await;
    assert_eq!(first.len(), 1, "one client, one backend");

    let left: Vec<u8> = (0..3).filter(|&n| !first.contains(&fixture.backend(n))).collect();
    let mut next = table(fixture, 2, &[(0, &left)]);
    for route in next.routes.values_mut() {
        route.affinity = Some(Duration::from_secs(3_600));
    }
    fixture.proxy().sync(&next).await.expect("in force");
    let second = reached(fixture, 0).await;
    assert!(second.len() == 1 && second != first, "a client whose backend is gone gets another: {second:?}");
}

/// Law 2: the same table again changes nothing.
pub async fn the_same_table_again_changes_nothing(fixture: &dyn Fixture) {
    let table = table(fixture, 5, &[(0, &[0, 1]), (1, &[])]);
    fixture.proxy().sync(&table).await.expect("in force");
    assert_eq!(fixture.proxy().sync(&table).await.expect("in force"), Synced::default());
    in_force(fixture, &table).await;
}

/// Law 3: after an error, what was in force still is.
pub async fn a_refused_table_leaves_the_old_one_in_force(fixture: &dyn Fixture) {
    let good = table(fixture, 1, &[(0, &[0]), (1, &[1])]);
    fixture.proxy().sync(&good).await.expect("in force");
    if let Some(unusable) = fixture.unusable() {
        let mut bad = table(fixture, 2, &[(1, &[2]), (2, &[3])]);
        bad.routes.insert(unusable, Route { backends: vec![fixture.backend(0)], affinity: None });
        let error = fixture.proxy().sync(&bad).await.expect_err("a frontend can't be served");
        match error {
            Error::Unusable { frontends, .. } => assert_eq!(frontends, [unusable]),
            Error::Unavailable(_) => {}
            error => panic!("no reason to refuse: {error:?}"),
        }
    }
    let stale = table(fixture, 0, &[(0, &[3])]);
    fixture.proxy().sync(&stale).await.expect_err("older than the one in force");
    in_force(fixture, &good).await;
}

/// Law 4: a table older than the one in force is refused, and says so.
pub async fn an_older_table_is_refused_as_stale(fixture: &dyn Fixture) {
    let newer = table(fixture, 9, &[(0, &[0])]);
    fixture.proxy().sync(&newer).await.expect("in force");
    let error = fixture.proxy().sync(&table(fixture, 8, &[(0, &[1])])).await.expect_err("older");
    assert!(matches!(error, Error::Stale { given: Revision(8), current: Revision(9) }), "{error:?}");
    in_force(fixture, &newer).await;
}

/// Makes a test of each law for the proxy of a [`Fixture`], built anew for each test by an expression that may await.
#[macro_export]
macro_rules! proxy_conformance {
    ($fixture:expr) => {
        $crate::proxy_conformance!(@each $fixture;
            a_route_reaches_all_its_backends
            a_removed_frontend_is_refused
            a_removed_backend_is_not_reached
            a_frontend_without_backends_refuses
            a_client_keeps_its_backend_with_affinity
            the_same_table_again_changes_nothing
            a_refused_table_leaves_the_old_one_in_force
            an_older_table_is_refused_as_stale
        );
    };
    (@each $fixture:expr; $($law:ident)*) => {
        $(#[tokio::test]
        async fn $law() {
            let fixture = $fixture;
            $crate::proxy::conformance::$law(&fixture).await;
        })*

        /// Runs every law in turn, for programs that are no tests.
        #[allow(dead_code, reason = "used by programs only")]
        pub(crate) async fn all() -> usize {
            let mut laws = 0;
            $({
                let fixture = $fixture;
                $crate::proxy::conformance::$law(&fixture).await;
                laws += 1;
            })*
            laws
        }
    };
}
