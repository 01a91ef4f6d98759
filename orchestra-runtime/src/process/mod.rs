//! Containers that are plain processes, without root.
//!
//! A container is a process group under a small shell that outlives the kubelet and leaves the exit code behind
//! (`script.rs`); output goes to files first, so that nothing ever waits for a kubelet (`spool.rs`). Each sandbox has an
//! address of its own in 127.0.0.0/8, in its variable `POD_IP`, but no ports of its own: a server that binds to all
//! addresses takes the port from everybody. The image `host` is the node's own files: a container starts in an empty
//! directory of its own, named by `CONTAINER_SANDBOX_MOUNT_POINT`, below which its mounts appear. As root, an image may
//! also be a directory or a tarball, by its path: a copy of it is the container's root (`image.rs`). A process that makes
//! a session of its own (a daemon) leaves its group and is not ended with it. Linux only, for inotify and pidfds.
//!
//! ```text
//! DIR/lock                           held while a runtime uses the directory
//! DIR/sandboxes/ID/sandbox.json      what was asked for, the address
//! DIR/sandboxes/ID/NAME.ATTEMPT/     container.json, root/, stdout, stderr, log, log.1, moved, exit, ended.json
//! ```

use std::{
    collections::BTreeMap,
    fmt, fs,
    fs::File,
    io,
    net::Ipv4Addr,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use orchestra_core::{
    clock::Clock,
    runtime::{
        Capabilities, ContainerExec, ContainerId, ContainerLogs, ContainerRuntime, ContainerSpec, Error, Result,
        SandboxId, SandboxPorts, SandboxSpec, SandboxStatus,
    },
};
use rustix::fs::{FlockOperation, flock};
use tokio::{
    sync::{Notify, broadcast},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use self::{
    container::{CONTAINER_FILE, Container},
    growth::Growth,
    image::Image,
    launch::Launch,
    record::{ContainerRecord, ProcessRecord},
    sandbox::Sandbox,
    spool::Spool,
    supervisor::Supervisor,
    unpack::remove_dir,
};
use crate::{address::AddressPool, hints::hints};

mod container;
mod exec;
mod growth;
mod image;
mod launch;
mod log;
mod ports;
mod record;
mod sandbox;
mod script;
mod spool;
mod supervisor;
mod unpack;

/// How many hints wait for a reader; a reader that is further behind looks at everything anyway.
const EVENTS_MAX: usize = 1_024;
/// How often a lock that another process has is tried again, and what is waited before each: a second in all.
const LOCK_TRIES: usize = 50;
const LOCK_WAIT: Duration = Duration::from_millis(20);
/// Where sandboxes are kept.
const SANDBOXES_DIR: &str = "sandboxes";
/// Where a container starts, and its mounts appear.
const ROOT_DIR: &str = "root";
/// The mode of directories: what containers write and are told is their user's alone.
const DIR_MODE: u32 = 0o700;

/// A container runtime whose containers are processes of this machine. Clones are handles on the same one.
///
/// Dropping the last one leaves the containers running, for the next that opens the directory; [`remove_all`] ends them.
///
/// [`remove_all`]: crate::remove_all
#[derive(Clone)]
pub struct ProcessRuntime {
    shared: Arc<Shared>,
}

struct Shared {
    dir: PathBuf,
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    events: broadcast::Sender<SandboxId>,
    growth: Arc<Growth>,
    tasks: Mutex<JoinSet<()>>,
    _lock: Lock,
}

/// The hold on a directory.
///
/// Given up by name: a process that is just being forked has the file open too, until it becomes another program.
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _closed_anyway = flock(&self.0, FlockOperation::NonBlockingUnlock);
    }
}

struct State {
    sandboxes: BTreeMap<SandboxId, Arc<Sandbox>>,
    addresses: AddressPool,
}

impl ProcessRuntime {
    /// Opens a runtime that keeps its state in `dir`, and takes on what an earlier one left there.
    ///
    /// Its sandboxes get the `addresses` addresses from `first` on; nodes of one machine want ranges of their own, each
    /// inside 127.0.0.0/8. Makes the directory if there is none. Runs on the tokio runtime it is called on, and blocks for up
    /// to a second if a process that has the directory is just ending.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if the directory can't be used, or is in use by another runtime.
    pub fn open(dir: impl Into<PathBuf>, first: Ipv4Addr, addresses: u32, clock: Arc<dyn Clock>) -> Result<Self> {
        let dir = open_dir(&dir.into()).map_err(Error::unavailable)?;
        let lock = File::create(dir.join("lock")).map_err(Error::unavailable)?;
        if !lock_soon(&lock) {
            return Err(Error::unavailable(format!("{} is in use by another runtime", dir.display())));
        }
        let growth = Arc::new(Growth::new().map_err(Error::unavailable)?);
        let mut state = State { sandboxes: BTreeMap::new(), addresses: AddressPool::new(first, addresses) };
        for sandbox in Sandbox::load_all(&dir.join(SANDBOXES_DIR))? {
            if let Some(address) = sandbox.record.address {
                state.addresses.reserve(address);
            }
            state.sandboxes.insert(sandbox.id.clone(), Arc::new(sandbox));
        }
        let shared = Shared {
            dir,
            clock,
            state: Mutex::new(state),
            events: broadcast::Sender::new(EVENTS_MAX),
            growth: growth.clone(),
            tasks: Mutex::default(),
            _lock: Lock(lock),
        };
        shared.run(async move {
            if let Err(error) = growth.run().await {
                tracing::error!(%error, "container output is no longer watched");
            }
        });
        shared.adopt_all()?;
        Ok(Self { shared: Arc::new(shared) })
    }

    fn sandbox(&self, id: &SandboxId) -> Option<Arc<Sandbox>> {
        self.shared.lock().sandboxes.get(id).cloned()
    }

    fn container(&self, id: &ContainerId) -> Option<Arc<Container>> {
        self.sandbox(&id.sandbox)?.container(id)
    }

    /// Starts a container, unless there is one; not to be dropped halfway. Once it is `unwanted`, it is left unless it has
    /// come as far as to run something.
    async fn start(self, id: ContainerId, spec: ContainerSpec, unwanted: CancellationToken) -> Result<()> {
        let absent = || Error::NoSandbox(id.sandbox.clone());
        let sandbox = self.sandbox(&id.sandbox).ok_or_else(absent)?;
        let _changing = sandbox.changing.lock().await;
        if !self.sandbox(&id.sandbox).is_some_and(|current| Arc::ptr_eq(&current, &sandbox)) {
            return Err(absent());
        }
        if sandbox.container(&id).is_some() {
            return Ok(());
        }
        let image = Image::find(&spec.image, &self.shared.dir)?;
        let dir = sandbox.fresh_dir(&id).map_err(Error::unavailable)?;
        let launched = match unpack_into(&image, &dir, &sandbox.ending, &unwanted).await {
            Ok(()) => self.shared.launch(&sandbox, &id, &spec, &image, &dir).await,
            Err(_) if sandbox.ending.is_cancelled() => Err(absent()),
            failed => failed,
        };
        if launched.is_err() {
            let _left_for_the_next = remove_dir(&dir);
        }
        launched
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever listens; nobody may.
    fn hint(&self, id: &SandboxId) {
        let _listeners = self.events.send(id.clone());
    }

    /// Runs a task until it or the runtime ends.
    fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }

    /// Starts a container's processes in its directory, which has its root, and the task that watches over them.
    async fn launch(
        &self,
        sandbox: &Sandbox,
        id: &ContainerId,
        spec: &ContainerSpec,
        image: &Image,
        dir: &Path,
    ) -> Result<()> {
        let root = dir.join(ROOT_DIR);
        let launch = Launch::new(spec, image, &root, &sandbox.record.hostname, sandbox.record.address)?;
        let script = script::supervise(dir, &launch.line)?;
        let spool = Spool::open(dir).map_err(Error::unavailable)?;
        let started_at = self.clock.now();
        let spawned = Supervisor::spawn(id, &launch.working_dir, &launch.env);
        let mut child = spawned.map_err(|source| Error::Start { program: "/bin/sh".into(), source: source.into() })?;
        let supervisor = child.id().and_then(|pid| ProcessRecord::of(pid.try_into().ok()?));
        let mut record = ContainerRecord {
            image: spec.image.clone(),
            image_id: image.id(),
            labels: spec.labels.clone(),
            started_at,
            supervisor: supervisor.ok_or_else(|| Error::unavailable("the supervisor ended at once"))?,
            program: None,
        };
        // Written down before anything runs: what dies in between leaves no process that nobody knows.
        record::write(&dir.join(CONTAINER_FILE), &record)?;
        record.program = Supervisor::begin(&mut child, &script).await?;
        record::write(&dir.join(CONTAINER_FILE), &record)?;
        let container = Arc::new(Container::new(id.clone(), dir.into(), record));
        sandbox.insert(container.clone());
        self.hint(&id.sandbox);
        self.watch_over(container, Supervisor::Child(Box::new(child)), spool)
    }

    fn watch_over(&self, container: Arc<Container>, supervisor: Supervisor, spool: Spool) -> Result<()> {
        let grown = Arc::new(Notify::new());
        let watch = self.growth.watch(&spool.sources(), &grown).map_err(Error::unavailable)?;
        // What was written before the watch began would not be told.
        grown.notify_one();
        let (clock, events) = (self.clock.clone(), self.events.clone());
        self.run(async move {
            let _watch = watch;
            container.watch_over(supervisor, spool, &grown, &clock).await;
            let _listeners = events.send(container.id.sandbox.clone());
        });
        Ok(())
    }

    /// Takes on the containers of an earlier runtime, running or ended meanwhile.
    fn adopt_all(&self) -> Result<()> {
        let sandboxes: Vec<_> = self.lock().sandboxes.values().cloned().collect();
        for container in sandboxes.iter().flat_map(|sandbox| sandbox.containers()) {
            if !container.is_running() {
                continue;
            }
            let mut spool = Spool::open(&container.dir).map_err(Error::unavailable)?;
            match Supervisor::adopt(&container.record.supervisor) {
                Supervisor::Gone => container.settle(&mut spool, self.clock.now()),
                supervisor => self.watch_over(container, supervisor, spool)?,
            }
        }
        Ok(())
    }

    /// Forgets a sandbox in which nothing runs.
    fn forget(&self, sandbox: &Arc<Sandbox>) -> Result<()> {
        remove_dir(&sandbox.dir).map_err(Error::unavailable)?;
        let mut state = self.lock();
        if state.sandboxes.get(&sandbox.id).is_some_and(|current| Arc::ptr_eq(current, sandbox)) {
            state.sandboxes.remove(&sandbox.id);
            sandbox.record.address.into_iter().for_each(|address| state.addresses.free(address));
        }
        drop(state);
        self.hint(&sandbox.id);
        Ok(())
    }
}

impl fmt::Debug for ProcessRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessRuntime").field("dir", &self.shared.dir).finish_non_exhaustive()
    }
}

#[async_trait]
impl ContainerRuntime for ProcessRuntime {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "process".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            images: "host, the node's own files; as root also directories and tarballs by their paths".into(),
            limits: false,
            exact_mounts: false,
            users: false,
            own_network: false,
            tty: false,
        }
    }

    async fn pull_image(&self, image: &str) -> Result<Box<str>> {
        Image::find(image, &self.shared.dir).map(|image| image.id())
    }

    async fn image_id(&self, image: &str) -> Result<Option<Box<str>>> {
        Ok(Image::find(image, &self.shared.dir).ok().map(|image| image.id()))
    }

    async fn create_sandbox(&self, id: &SandboxId, spec: &SandboxSpec) -> Result<()> {
        if !id.is_valid() {
            return Err(Error::Invalid(format!("sandbox id {id} is no name").into()));
        }
        let mut state = self.shared.lock();
        if state.sandboxes.contains_key(id) {
            return Ok(());
        }
        let address = match spec.host_network {
            true => None,
            false => Some(state.addresses.take().ok_or_else(|| Error::unavailable("all addresses are used"))?),
        };
        let dir = self.shared.dir.join(SANDBOXES_DIR).join(&*id.0);
        match Sandbox::create(id, dir, spec, address, self.shared.clock.now()) {
            Ok(sandbox) => state.sandboxes.insert(id.clone(), Arc::new(sandbox)),
            Err(error) => {
                address.into_iter().for_each(|address| state.addresses.free(address));
                return Err(error);
            }
        };
        drop(state);
        self.shared.hint(id);
        Ok(())
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        let Some(sandbox) = self.sandbox(id) else { return Ok(()) };
        sandbox.ending.cancel();
        let _changing = sandbox.changing.lock().await;
        sandbox.stop_all(Duration::ZERO).await?;
        self.shared.forget(&sandbox)
    }

    async fn start_container(&self, id: &ContainerId, spec: &ContainerSpec) -> Result<()> {
        if !id.is_valid() {
            return Err(Error::Invalid(format!("container id {id} is no name").into()));
        }
        // On a task of its own, for half a start would leave processes behind: a dropped call only tells it.
        let unwanted = CancellationToken::new();
        let start = tokio::spawn(self.clone().start(id.clone(), spec.clone(), unwanted.clone()));
        let _dropped = unwanted.drop_guard();
        start.await.map_err(Error::unavailable)?
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        match self.container(id) {
            Some(container) => container.stop(grace).await,
            None => Ok(()),
        }
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        let Some(sandbox) = self.sandbox(&id.sandbox) else { return Ok(()) };
        sandbox.remove(id)?;
        self.shared.hint(&id.sandbox);
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>> {
        Ok(self.shared.lock().sandboxes.values().map(|sandbox| sandbox.status()).collect())
    }

    fn events(&self) -> BoxStream<'static, SandboxId> {
        hints(&self.shared.events)
    }

    fn logs(&self) -> Option<&dyn ContainerLogs> {
        Some(self)
    }

    fn exec(&self) -> Option<&dyn ContainerExec> {
        Some(self)
    }

    fn ports(&self) -> Option<&dyn SandboxPorts> {
        Some(self)
    }
}

/// Makes and fills the root of a container in its fresh directory. Given up once the sandbox is `ending` or the container
/// `unwanted`, it returns when nothing is written there any more.
async fn unpack_into(
    image: &Image,
    dir: &Path,
    ending: &CancellationToken,
    unwanted: &CancellationToken,
) -> Result<()> {
    let root = dir.join(ROOT_DIR);
    fs::create_dir(&root).map_err(Error::unavailable)?;
    let stop = ending.child_token();
    let mut unpacking = std::pin::pin!(image.unpack(&root, &stop));
    tokio::select! {
        biased;
        unpacked = &mut unpacking => return unpacked,
        () = unwanted.cancelled() => stop.cancel(),
    }
    unpacking.await
}

/// Makes the directory, for this user alone, and returns its absolute path.
fn open_dir(dir: &Path) -> io::Result<PathBuf> {
    fs::DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir.join(SANDBOXES_DIR))?;
    dir.canonicalize()
}

/// Whether the lock could be had: a process that was killed holds its own until the kernel has cleared it away.
fn lock_soon(lock: &File) -> bool {
    let try_lock = || flock(lock, FlockOperation::NonBlockingLockExclusive).is_ok();
    let mut again = std::iter::repeat_n((), LOCK_TRIES);
    try_lock()
        || again.any(|()| {
            std::thread::sleep(LOCK_WAIT);
            try_lock()
        })
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod trial;
