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
use tokio::{
    net::{TcpListener, TcpSocket, UdpSocket},
    sync::Semaphore,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::AbortOnDropHandle,
};

use orchestra_core::proxy::{Error, Frontend, Protocol, Proxy, ServiceTable, Synced};

use super::Balancer;

/// The most connections that are open at once, each with two file descriptors; more wait to be served.
pub const CONNECTIONS_MAX: usize = 8_192;

/// How many connections wait for each listener to be accepted.
const BACKLOG_MAX: u32 = 4_096;

/// A [`Proxy`] that takes each connection and copies its bytes.
///
/// Dropped, it closes every listener and every connection.
#[derive(Debug)]
pub struct UserspaceProxy {
    /// One `sync` at a time; held while listeners close, which takes as long as their tasks take to notice.
    state: tokio::sync::Mutex<State>,
    places: Arc<Semaphore>,
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
    Tcp(TcpListener),
    Udp(UdpSocket),
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
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Self { state: tokio::sync::Mutex::default(), places, _close: closed.clone().drop_guard(), closed }
    }

    /// Binds and serves frontends: all of them or none.
    async fn open(&self, wanted: Vec<Frontend>) -> Result<BTreeMap<Frontend, Listener>, Error> {
        let (mut opened, mut unusable, mut first) = (BTreeMap::new(), Vec::new(), None);
        for frontend in wanted {
            match bind(frontend).await {
                Ok(bound) => drop(opened.insert(frontend, self.listen(bound, SharedBalancer::default()))),
                Err(error) => {
                    let why = format!("can't serve {}: {error}", frontend.address);
                    if !is_the_frontends(&error) {
                        return Err(Error::Unavailable(why.into()));
                    }
                    unusable.push(frontend);
                    first.get_or_insert(why);
                }
            }
        }
        match first {
            Some(why) => Err(Error::Unusable { frontends: unusable, source: why.into() }),
            None => Ok(opened),
        }
    }

    fn listen(&self, bound: Bound, balancer: SharedBalancer) -> Listener {
        let serving = balancer.clone();
        let task = match bound {
            Bound::Tcp(listener) => {
                tokio::spawn(tcp::serve(listener, serving, Arc::clone(&self.places), self.closed.clone()))
            }
            Bound::Udp(socket) => tokio::spawn(udp::serve(Arc::new(socket), serving, self.closed.clone())),
        };
        Listener { balancer, task: AbortOnDropHandle::new(task) }
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
        let wanted = table.routes.keys().filter(|frontend| served(frontend) && !state.listeners.contains_key(frontend));
        let mut opened = self.open(wanted.copied().collect()).await?;

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

/// Whether an error is about this one frontend: its address is not the machine's, or not to be had.
fn is_the_frontends(error: &io::Error) -> bool {
    use io::ErrorKind::{AddrInUse, AddrNotAvailable, InvalidInput, PermissionDenied};
    matches!(error.kind(), AddrInUse | AddrNotAvailable | InvalidInput | PermissionDenied)
}

async fn bind(frontend: Frontend) -> io::Result<Bound> {
    let address = frontend.address;
    Ok(match frontend.protocol {
        Protocol::Tcp => {
            let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            // Connections of an earlier listener may still linger.
            socket.set_reuseaddr(true)?;
            socket.bind(address)?;
            Bound::Tcp(socket.listen(BACKLOG_MAX)?)
        }
        Protocol::Udp => Bound::Udp(UdpSocket::bind(address).await?),
    })
}
