//! Which backend a client gets: round robin, or the one it had.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
};

use tokio::time::Instant;

use orchestra_core::proxy::Route;

/// How many clients' backends are remembered for each frontend; beyond, the one unseen the longest is forgotten.
pub const AFFINITY_CLIENTS_MAX: usize = 4_096;

/// Chooses among a route's backends, which may be replaced under way.
#[derive(Debug, Default)]
pub struct Balancer {
    route: Route,
    next: usize,
    clients: BTreeMap<IpAddr, (SocketAddr, Instant)>,
}

impl Balancer {
    /// Starts with `route`.
    #[must_use]
    pub fn new(route: Route) -> Self {
        Self { route, ..Self::default() }
    }

    /// Replaces the route; a client keeps its backend if the new route still has it.
    pub fn replace(&mut self, route: Route) {
        if route.affinity.is_none() {
            self.clients.clear();
        }
        self.route = route;
        let backends = &self.route.backends;
        self.clients.retain(|_, (backend, _)| backends.binary_search(backend).is_ok());
    }

    /// How many backends there are to try.
    #[must_use]
    pub fn len(&self) -> usize {
        self.route.backends.len()
    }

    /// Whether connections are to be refused.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.route.backends.is_empty()
    }

    /// The backend for a connection of `client`; `None` if there is none.
    pub fn pick(&mut self, client: IpAddr, now: Instant) -> Option<SocketAddr> {
        let Some(timeout) = self.route.affinity else { return self.rotate() };
        let kept = self.clients.get(&client).filter(|(_, seen)| now.duration_since(*seen) < timeout);
        let backend = match kept {
            Some(&(backend, _)) => backend,
            None => self.rotate()?,
        };
        self.remember(client, backend, now);
        Some(backend)
    }

    /// A backend for `client` other than those it `tried`, which don't answer; `None` if that were all.
    pub fn pick_another(&mut self, client: IpAddr, tried: &[SocketAddr], now: Instant) -> Option<SocketAddr> {
        self.clients.remove(&client);
        let backend = (0..self.len()).filter_map(|_| self.rotate()).find(|backend| !tried.contains(backend))?;
        if self.route.affinity.is_some() {
            self.remember(client, backend, now);
        }
        Some(backend)
    }

    /// Whether connections may go to `backend`.
    #[must_use]
    pub fn has(&self, backend: SocketAddr) -> bool {
        self.route.backends.binary_search(&backend).is_ok()
    }

    fn rotate(&mut self) -> Option<SocketAddr> {
        let at = self.next.checked_rem(self.route.backends.len())?;
        self.next = at + 1;
        self.route.backends.get(at).copied()
    }

    fn remember(&mut self, client: IpAddr, backend: SocketAddr, now: Instant) {
        if self.clients.len() >= AFFINITY_CLIENTS_MAX && !self.clients.contains_key(&client) {
            let oldest = self.clients.iter().min_by_key(|(_, (_, seen))| *seen).map(|(client, _)| *client);
            oldest.and_then(|client| self.clients.remove(&client));
        }
        self.clients.insert(client, (backend, now));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr, SocketAddr},
        time::Duration,
    };

    use proptest::prelude::*;
    use tokio::time::Instant;

    use orchestra_core::proxy::Route;

    use super::{AFFINITY_CLIENTS_MAX, Balancer};

    fn backend(n: u8) -> SocketAddr {
        (Ipv4Addr::new(127, 1, 0, n), 80).into()
    }

    fn client(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    fn route(backends: &[u8], affinity: Option<u64>) -> Route {
        Route { backends: backends.iter().map(|&n| backend(n)).collect(), affinity: affinity.map(Duration::from_secs) }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_gets_a_new_backend_once_its_affinity_has_lapsed() {
        let mut balancer = Balancer::new(route(&[1, 2], Some(60)));
        let start = Instant::now();
        let first = balancer.pick(client(1), start);
        assert_eq!(balancer.pick(client(1), start + Duration::from_secs(59)), first);
        assert_ne!(balancer.pick(client(1), start + Duration::from_secs(119)), first);
    }

    #[tokio::test(start_paused = true)]
    async fn remembered_clients_are_bounded() {
        let mut balancer = Balancer::new(route(&[1, 2], Some(60)));
        let now = Instant::now();
        for n in 0..u32::try_from(2 * AFFINITY_CLIENTS_MAX).expect("small") {
            balancer.pick(client(n), now + Duration::from_millis(u64::from(n)));
        }
        assert_eq!(balancer.clients.len(), AFFINITY_CLIENTS_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_sent_to_each_other_backend_once_however_many_ask_meanwhile() {
        let mut balancer = Balancer::new(route(&[1, 2, 3], None));
        let now = Instant::now();
        let mut tried: Vec<_> = balancer.pick(client(1), now).into_iter().collect();
        while let Some(another) = balancer.pick_another(client(1), &tried, now) {
            assert!(!tried.contains(&another));
            tried.push(another);
            balancer.pick(client(2), now);
        }
        assert_eq!(tried.len(), 3);
    }

    proptest! {
        #[test]
        fn each_backend_gets_its_share(count in 1..8_u8, rounds in 1..5_usize) {
            let backends: Vec<u8> = (0..count).collect();
            let mut balancer = Balancer::new(route(&backends, None));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            let now = runtime.block_on(async { Instant::now() });
            let mut picked: Vec<_> = (0..rounds * usize::from(count)).filter_map(|_| balancer.pick(client(1), now)).collect();
            picked.sort();
            let shares: Vec<usize> = picked.chunk_by(PartialEq::eq).map(<[_]>::len).collect();
            prop_assert_eq!(shares, vec![rounds; usize::from(count)]);
        }
    }
}
