//! A proxy of plain sockets: needs neither root nor a kernel module.
//!
//! A frontend's address must be the machine's own; on Linux all of 127.0.0.0/8 is, so that services can have addresses
//! there. A frontend without backends is not listened on, so that its clients are refused at once by the kernel.

mod tcp;
mod udp;

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

use orchestra_core::proxy::{Error, Frontend, Protocol, Proxy, ServiceTable, Synced};

use super::Balancer;

/// A [`Proxy`] that takes each connection and copies its bytes.
///
/// Dropped, it closes every listener and every connection.
#[derive(Debug)]
pub struct UserspaceProxy {
    /// One `sync` at a time; held while listeners close, which takes as long as their tasks take to notice.
    state: tokio::sync::Mutex<State>,
    closed: CancellationToken,
    _close: DropGuard,
}

#[derive(Debug, Default)]
struct State {
    table: ServiceTable,
    listeners: BTreeMap<Frontend, Listener>,
}

/// A bound frontend and the task that serves it.
#[derive(Debug)]
struct Listener {
    balancer: SharedBalancer,
    task: AbortOnDropHandle<()>,
}

/// A frontend that is bound, but not served yet.
enum Bound {
    Tcp(std::net::TcpListener),
    Udp(std::net::UdpSocket),
}

/// A balancer shared by the task that serves a frontend and the `sync` that replaces its route.
#[derive(Clone, Debug, Default)]
struct SharedBalancer(Arc<Mutex<Balancer>>);

impl SharedBalancer {
    fn lock(&self) -> MutexGuard<'_, Balancer> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl UserspaceProxy {
    /// Makes a proxy with nothing in force.
    #[must_use]
    pub fn new() -> Self {
        let closed = CancellationToken::new();
        Self { state: tokio::sync::Mutex::default(), _close: closed.clone().drop_guard(), closed }
    }

    fn listen(&self, bound: Bound, balancer: SharedBalancer) -> io::Result<Listener> {
        let serving = balancer.clone();
        let task = match bound {
            Bound::Tcp(listener) => {
                let listener = tokio::net::TcpListener::from_std(listener)?;
                tokio::spawn(tcp::serve(listener, serving, self.closed.clone()))
            }
            Bound::Udp(socket) => {
                let socket = Arc::new(tokio::net::UdpSocket::from_std(socket)?);
                tokio::spawn(udp::serve(socket, serving, self.closed.clone()))
            }
        };
        Ok(Listener { balancer, task: AbortOnDropHandle::new(task) })
    }
}

impl Default for UserspaceProxy {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Proxy for UserspaceProxy {
    async fn sync(&self, table: &ServiceTable) -> Result<Synced, Error> {
        let mut state = self.state.lock().await;
        if table.revision < state.table.revision {
            return Err(Error::Stale { given: table.revision, current: state.table.revision });
        }
        let synced = state.table.changes_to(table);
        let served = |frontend: &Frontend| table.routes.get(frontend).is_some_and(|route| !route.backends.is_empty());

        // All that can fail comes first, and undoes itself by drop.
        let mut opened = BTreeMap::new();
        for frontend in table.routes.keys().filter(|frontend| served(frontend)) {
            if !state.listeners.contains_key(frontend) {
                let listener = bind(*frontend)
                    .and_then(|bound| self.listen(bound, SharedBalancer::default()))
                    .map_err(|error| Error::Unavailable(format!("can't serve {}: {error}", frontend.address).into()))?;
                opened.insert(*frontend, listener);
            }
        }

        state.listeners.append(&mut opened);
        for (frontend, listener) in &state.listeners {
            listener.balancer.lock().replace(table.routes.get(frontend).cloned().unwrap_or_default());
        }
        state.table = table.clone();
        let kept = std::mem::take(&mut state.listeners);
        let (kept, closing): (BTreeMap<_, _>, BTreeMap<_, _>) =
            kept.into_iter().partition(|(frontend, _)| served(frontend));
        state.listeners = kept;
        for listener in closing.into_values() {
            listener.task.abort();
            // Cancelled, as asked; now the socket is closed.
            let _ = listener.task.await;
        }
        Ok(synced)
    }
}

fn bind(frontend: Frontend) -> io::Result<Bound> {
    Ok(match frontend.protocol {
        Protocol::Tcp => {
            let listener = std::net::TcpListener::bind(frontend.address)?;
            listener.set_nonblocking(true)?;
            Bound::Tcp(listener)
        }
        Protocol::Udp => {
            let socket = std::net::UdpSocket::bind(frontend.address)?;
            socket.set_nonblocking(true)?;
            Bound::Udp(socket)
        }
    })
}
