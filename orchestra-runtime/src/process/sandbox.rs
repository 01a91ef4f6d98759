//! A sandbox of processes: a directory, an address, and what runs there.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use orchestra_core::{
    clock::Timestamp,
    runtime::{ContainerId, Error, Result, SandboxId, SandboxSpec, SandboxStatus},
};
use tokio_util::sync::CancellationToken;

use super::{
    DIR_MODE,
    container::Container,
    record::{self, SandboxRecord},
    unpack::remove_dir,
};

/// Where a sandbox is written down.
const SANDBOX_FILE: &str = "sandbox.json";

/// A sandbox and its containers.
pub(super) struct Sandbox {
    pub(super) id: SandboxId,
    pub(super) dir: PathBuf,
    pub(super) record: SandboxRecord,
    /// Held while a container is started or the sandbox removed, so that each is done once.
    pub(super) changing: tokio::sync::Mutex<()>,
    /// Cancelled once it is to be removed: no container is wanted anymore.
    pub(super) ending: CancellationToken,
    containers: Mutex<BTreeMap<ContainerId, Arc<Container>>>,
}

impl Sandbox {
    pub(super) fn create(
        id: &SandboxId,
        dir: PathBuf,
        spec: &SandboxSpec,
        address: Option<Ipv4Addr>,
        now: Timestamp,
    ) -> Result<Self> {
        let (hostname, labels) = (spec.hostname.clone(), spec.labels.clone());
        let record = SandboxRecord { hostname, labels, created_at: now, address };
        remove_dir(&dir).and_then(|()| create_dir(&dir)).map_err(Error::unavailable)?;
        record::write(&dir.join(SANDBOX_FILE), &record)?;
        Ok(Self::new(id.clone(), dir, record, BTreeMap::new()))
    }

    /// Reads the sandboxes that another runtime left in `dir`. What it had not finished making is removed.
    pub(super) fn load_all(dir: &Path) -> Result<Vec<Self>> {
        let mut sandboxes = Vec::new();
        for (name, dir) in dirs(dir).map_err(Error::unavailable)? {
            match record::read(&dir.join(SANDBOX_FILE))? {
                Some(record) => sandboxes.push(Self::load(SandboxId(name.into()), dir, record)?),
                None => remove_dir(&dir).map_err(Error::unavailable)?,
            }
        }
        Ok(sandboxes)
    }

    fn load(id: SandboxId, dir: PathBuf, record: SandboxRecord) -> Result<Self> {
        let mut containers = BTreeMap::new();
        for (name, dir) in dirs(&dir).map_err(Error::unavailable)? {
            let Some((name, attempt)) = name.rsplit_once('.') else { continue };
            let Ok(attempt) = attempt.parse() else { continue };
            let id = ContainerId { sandbox: id.clone(), name: name.into(), attempt };
            match Container::load(id.clone(), &dir)? {
                Some(container) => drop(containers.insert(id, Arc::new(container))),
                None => remove_dir(&dir).map_err(Error::unavailable)?,
            }
        }
        Ok(Self::new(id, dir, record, containers))
    }

    fn new(
        id: SandboxId,
        dir: PathBuf,
        record: SandboxRecord,
        containers: BTreeMap<ContainerId, Arc<Container>>,
    ) -> Self {
        let (changing, ending) = (tokio::sync::Mutex::new(()), CancellationToken::new());
        Self { id, dir, record, changing, ending, containers: Mutex::new(containers) }
    }

    /// Makes an empty directory for a container that is about to start.
    pub(super) fn fresh_dir(&self, id: &ContainerId) -> io::Result<PathBuf> {
        let dir = self.dir.join(format!("{}.{}", id.name, id.attempt));
        remove_dir(&dir)?;
        create_dir(&dir)?;
        Ok(dir)
    }

    pub(super) fn container(&self, id: &ContainerId) -> Option<Arc<Container>> {
        self.lock().get(id).cloned()
    }

    pub(super) fn containers(&self) -> Vec<Arc<Container>> {
        self.lock().values().cloned().collect()
    }

    pub(super) fn insert(&self, container: Arc<Container>) {
        self.lock().insert(container.id.clone(), container);
    }

    /// Forgets a container that has exited.
    pub(super) fn remove(&self, id: &ContainerId) -> Result<()> {
        let mut containers = self.lock();
        let Some(container) = containers.get(id) else { return Ok(()) };
        if container.is_running() {
            return Err(Error::Running(id.clone()));
        }
        remove_dir(&container.dir).map_err(Error::unavailable)?;
        containers.remove(id);
        Ok(())
    }

    /// Stops every container, at the same time; the first error is returned when all are done.
    pub(super) async fn stop_all(&self, grace: Duration) -> Result<()> {
        let containers = self.containers();
        join_all(containers.iter().map(|container| container.stop(grace))).await.into_iter().collect()
    }

    pub(super) fn status(&self) -> SandboxStatus {
        SandboxStatus {
            id: self.id.clone(),
            labels: self.record.labels.clone(),
            created_at: self.record.created_at,
            ready: true,
            address: self.record.address.map(IpAddr::V4),
            containers: self.lock().values().map(|container| container.status()).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ContainerId, Arc<Container>>> {
        self.containers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn create_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(DIR_MODE).create(dir)
}

/// The directories in a directory, with their names, in no order.
fn dirs(dir: &Path) -> io::Result<Vec<(String, PathBuf)>> {
    let mut dirs = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if let (true, Ok(name)) = (entry.file_type()?.is_dir(), entry.file_name().into_string()) {
            dirs.push((name, entry.path()));
        }
    }
    Ok(dirs)
}
