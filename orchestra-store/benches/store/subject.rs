//! The two sides of each comparison.

use std::{io, sync::Arc, time::Duration};

use orchestra_core::store::Store;
use orchestra_store::{DurableStore, EtcdOptions, EtcdStore, etcd::testing::Etcd};
use tempfile::TempDir;

use crate::measure::{self, Scope};

/// One side: a store, and what has to live as long as it does.
pub(crate) struct Subject {
    pub(crate) store: Arc<dyn Store>,
    scope: Scope,
    _guard: Box<dyn Send + Sync>,
}

impl Subject {
    /// The durable store, in this process.
    pub(crate) fn durable() -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let store = DurableStore::open(directory.path()).map_err(io::Error::other)?;
        Ok(Self { store: Arc::new(store), scope: Scope::Alone, _guard: Box::new(directory) as Box<TempDir> })
    }

    /// An etcd of one member, as it is installed, and this process as its client.
    pub(crate) async fn etcd() -> io::Result<Self> {
        let etcd = Etcd::start().await;
        // Saturated, it is slow to answer; that is a figure, and no failure.
        let options = EtcdOptions { request_timeout: Duration::from_secs(60), ..etcd.options() };
        let store = EtcdStore::connect(options).await.map_err(io::Error::other)?;
        Ok(Self { store: Arc::new(store), scope: Scope::WithChildren, _guard: Box::new(etcd) })
    }

    /// Ours, and its peer.
    pub(crate) async fn both() -> io::Result<[Self; 2]> {
        Ok([Self::durable()?, Self::etcd().await?])
    }

    /// The processor time that this side has taken so far, in seconds.
    pub(crate) fn cpu_seconds(&self) -> io::Result<f64> {
        measure::cpu_seconds(self.scope)
    }
}
