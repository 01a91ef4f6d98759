//! A proxy of your own: this one writes the configuration of HAProxy, and passes the suite.
//!
//!     cargo run --example own_proxy
//!
//! prints a configuration, and `8 laws hold for HaproxyConfig`.

use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use orchestra_core::proxy::{Error, Frontend, Protocol, Proxy, ServiceTable, Synced, conformance::Fixture};

/// Keeps a configuration file equal to the table; HAProxy would be told to reload it.
#[derive(Debug)]
struct HaproxyConfig {
    file: PathBuf,
    in_force: Mutex<ServiceTable>,
}

#[async_trait]
impl Proxy for HaproxyConfig {
    async fn sync(&self, table: &ServiceTable) -> Result<Synced, Error> {
        let mut in_force = self.in_force.lock().expect("no writer panics");
        if table.revision < in_force.revision {
            return Err(Error::Stale { given: table.revision, current: in_force.revision });
        }
        let synced = in_force.changes_to(table);
        let config = render(table).ok_or_else(|| Error::Unavailable("HAProxy speaks no UDP".into()))?;
        // The rename is what makes it atomic: a reader sees the old file or the new one.
        let staged = self.file.with_extension("new");
        fs::write(&staged, config)
            .and_then(|()| fs::rename(&staged, &self.file))
            .map_err(|error| Error::Unavailable(error.into()))?;
        *in_force = table.clone();
        Ok(synced)
    }
}

/// The configuration for `table`: pure, so that it can be tested as text.
fn render(table: &ServiceTable) -> Option<String> {
    let mut config = String::new();
    for (frontend, route) in &table.routes {
        if frontend.protocol != Protocol::Tcp {
            return None;
        }
        let balance = if route.affinity.is_some() { "source" } else { "roundrobin" };
        write!(config, "listen {0}\n  bind {0}\n  balance {balance}\n", frontend.address).ok()?;
        for backend in &route.backends {
            writeln!(config, "  server {backend} {backend}").ok()?;
        }
    }
    Some(config)
}

/// Stands in for HAProxy: reads the file for each connection.
struct Reader {
    proxy: HaproxyConfig,
    connections: AtomicUsize,
    _dir: tempfile::TempDir,
}

impl Reader {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let proxy = HaproxyConfig { file: dir.path().join("haproxy.cfg"), in_force: Mutex::default() };
        Self { proxy, connections: AtomicUsize::new(0), _dir: dir }
    }
}

#[async_trait]
impl Fixture for Reader {
    fn proxy(&self) -> &dyn Proxy {
        &self.proxy
    }

    fn frontend(&self, n: u8) -> Frontend {
        Frontend { address: ([10, 96, 0, n], 80).into(), protocol: Protocol::Tcp }
    }

    fn backend(&self, n: u8) -> SocketAddr {
        ([10, 1, 0, n], 8080).into()
    }

    fn unusable(&self) -> Option<Frontend> {
        Some(Frontend { address: ([10, 96, 0, 53], 53).into(), protocol: Protocol::Udp })
    }

    async fn connect(&self, frontend: Frontend) -> Option<SocketAddr> {
        let config = fs::read_to_string(&self.proxy.file).ok()?;
        let listen = config.split("listen ").find(|part| part.starts_with(&format!("{}\n", frontend.address)))?;
        let servers: Vec<_> = listen.lines().filter_map(|line| line.trim().strip_prefix("server ")).collect();
        let at = if listen.contains("balance source") { 0 } else { self.connections.fetch_add(1, Ordering::Relaxed) };
        servers.get(at.checked_rem(servers.len())?)?.split(' ').nth(1)?.parse().ok()
    }
}

mod laws {
    orchestra_core::proxy_conformance!(super::Reader::start());
}

#[tokio::main]
async fn main() {
    let reader = Reader::start();
    let backends = vec![reader.backend(1), reader.backend(2)];
    let route = orchestra_core::proxy::Route { backends, affinity: None };
    let table =
        ServiceTable { revision: orchestra_core::store::Revision(1), routes: [(reader.frontend(1), route)].into() };
    reader.proxy.sync(&table).await.expect("a configuration");
    print!("{}", fs::read_to_string(&reader.proxy.file).expect("just written"));
    println!("{} laws hold for HaproxyConfig", laws::all().await);
}
