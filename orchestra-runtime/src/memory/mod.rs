//! Containers that only pretend to run: the reference of the contract, and what tests and simulations stand on.
//!
//! A container's program is a small script, run on tokio's time and the cluster's clock, so that a node full of them
//! costs next to nothing and goes the same way twice. What isn't one of the words below runs until it is stopped, as a
//! server does. The words are those of a POSIX shell, so that the same specs run on real runtimes too:
//!
//! | words | what they do |
//! |---|---|
//! | `sh -c SCRIPT [$0 $1 …]` | runs statements parted by `;`, `&` or line feeds |
//! | `echo WORDS`, `printf WORDS` | writes, with `>&2` to standard error |
//! | `sleep SECONDS`, `sleep infinity` | waits |
//! | `exit [CODE]`, `true`, `false` | ends; succeeds; fails |
//! | `trap 'SCRIPT' TERM`, `trap '' TERM` | says what a request to end does |
//! | `cat` | writes what it reads |
//!
//! Words may hold `'…'`, `"…"`, `$NAME`, `${NAME}` and `$1`. In [`exec`](ContainerRuntime::exec), any other word
//! succeeds at once. Images that begin with `missing/` can't be had, nor can programs below `/no/`.

use std::{
    fmt,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use futures::stream::BoxStream;
use orchestra_core::{
    clock::Clock,
    runtime::{
        Capabilities, ContainerExec, ContainerId, ContainerLogs, ContainerRuntime, ContainerSpec, Error, ExitReason,
        Result, SandboxId, SandboxPorts, SandboxSpec, SandboxStatus,
    },
};
use tokio::sync::broadcast;

use crate::{
    hints::hints,
    memory::{
        process::{Output, Process, Unknown},
        script::Program,
        state::{Container, State},
    },
};

mod exec;
mod log;
mod ports;
mod process;
mod script;
mod state;

/// How many hints wait for a reader; a reader that is further behind looks at everything anyway.
const EVENTS_MAX: usize = 1_024;
/// Where addresses start, unless told otherwise: Kubernetes' usual pod network.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// How many addresses there are.
const ADDRESSES: u32 = 65_534;

/// A container runtime that runs nothing. Clones are handles on one node; its containers end with the last of them.
#[derive(Clone)]
pub struct MemoryRuntime {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Arc<dyn Clock>,
    state: Mutex<State>,
    events: broadcast::Sender<SandboxId>,
}

impl MemoryRuntime {
    /// Makes a node without sandboxes, which stamps by `clock`.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_addresses(clock, FIRST_ADDRESS, ADDRESSES)
    }

    /// Makes a node whose sandboxes get the `count` addresses from `first` on; nodes of one cluster want different ones.
    #[must_use]
    pub fn with_addresses(clock: Arc<dyn Clock>, first: Ipv4Addr, count: u32) -> Self {
        let state = Mutex::new(State::new(first, count));
        Self { shared: Arc::new(Shared { clock, state, events: broadcast::Sender::new(EVENTS_MAX) }) }
    }

    /// Ends a running container with `code`, as a bug in its program would; false if it doesn't run.
    pub fn crash(&self, id: &ContainerId, code: i32) -> bool {
        self.shared.end(id, code, ExitReason::Ended)
    }

    /// Loses all that runs, as a power cut does: containers end, and sandboxes have to be made ready again.
    pub fn reboot(&self) {
        let lost = self.shared.lock().reboot();
        for (id, running) in lost {
            for container in running {
                self.shared.end(&container, ExitReason::LOST_CODE, ExitReason::Lost);
            }
            self.shared.hint(&id);
        }
    }

    /// Says whether calls are answered; while they aren't, each fails with [`Error::Unavailable`], and containers go on.
    pub fn set_available(&self, available: bool) {
        self.shared.lock().available = available;
    }

    /// Says with which HTTP status a sandbox's ports answer; absent: they refuse connections.
    ///
    /// Unless told otherwise, a sandbox in which a container runs answers 200 on every port.
    pub fn set_response(&self, id: &SandboxId, status: Option<u16>) {
        if let Some(sandbox) = self.shared.lock().sandboxes.get_mut(id) {
            sandbox.response = status;
        }
    }

    /// The state, if calls are answered.
    fn answer(&self) -> Result<MutexGuard<'_, State>> {
        let state = self.shared.lock();
        if state.available { Ok(state) } else { Err(Error::unavailable("the memory runtime was made unavailable")) }
    }
}

impl fmt::Debug for MemoryRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryRuntime").finish_non_exhaustive()
    }
}

#[async_trait]
impl ContainerRuntime for MemoryRuntime {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "memory".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            images: "any reference that does not begin with missing/".into(),
            limits: true,
            exact_mounts: true,
            users: true,
            own_network: true,
            tty: true,
        }
    }

    async fn pull_image(&self, image: &str) -> Result<Box<str>> {
        drop(self.answer()?);
        image_id(image).ok_or_else(|| missing(image))
    }

    async fn image_id(&self, image: &str) -> Result<Option<Box<str>>> {
        drop(self.answer()?);
        Ok(image_id(image))
    }

    async fn create_sandbox(&self, id: &SandboxId, spec: &SandboxSpec) -> Result<()> {
        self.answer()?.create_sandbox(id, spec, self.shared.clock.now())?;
        self.shared.hint(id);
        Ok(())
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        if self.answer()?.remove_sandbox(id) {
            self.shared.hint(id);
        }
        Ok(())
    }

    async fn start_container(&self, id: &ContainerId, spec: &ContainerSpec) -> Result<()> {
        if !id.is_valid() {
            return Err(Error::Invalid(format!("container id {id} is no name").into()));
        }
        let mut state = self.answer()?;
        let sandbox = state.sandboxes.get_mut(&id.sandbox).filter(|sandbox| sandbox.ready);
        let sandbox = sandbox.ok_or_else(|| Error::NoSandbox(id.sandbox.clone()))?;
        if sandbox.containers.contains_key(id) {
            return Ok(());
        }
        let image_id = image_id(&spec.image).ok_or_else(|| missing(&spec.image))?;
        // What its images say of their users is not known, and nothing runs as anybody.
        if spec.non_root && spec.user.is_some_and(|user| user.uid == 0) {
            return Err(Error::AsRoot { user: "0".into() });
        }
        let program = Program::new(spec.command.iter().chain(&spec.args))?;
        let mut container = Container::new(spec, image_id, self.shared.clock.now());
        let output = Output::Log { log: container.log.clone(), clock: self.shared.clock.clone() };
        let process = Process::new(program, &spec.env, output, container.term.clone(), Unknown::Runs);
        container.runs_as(&tokio::spawn(run(process, id.clone(), Arc::downgrade(&self.shared))));
        sandbox.containers.insert(id.clone(), container);
        drop(state);
        self.shared.hint(&id.sandbox);
        Ok(())
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        let Some((term, mut exit)) = self.answer()?.running(id).map(|c| (c.term.clone(), c.log.exit())) else {
            return Ok(());
        };
        if !grace.is_zero() {
            term.notify_one();
            // An error means that the container was removed meanwhile, with its end of the channel.
            let in_time = tokio::time::timeout(grace, exit.wait_for(|exited| *exited)).await;
            if in_time.is_ok() {
                return Ok(());
            }
        }
        self.shared.end(id, ExitReason::LOST_CODE, ExitReason::Ended);
        Ok(())
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        let mut state = self.answer()?;
        if state.running(id).is_some() {
            return Err(Error::Running(id.clone()));
        }
        if let Some(sandbox) = state.sandboxes.get_mut(&id.sandbox)
            && sandbox.containers.remove(id).is_some()
        {
            drop(state);
            self.shared.hint(&id.sandbox);
        }
        Ok(())
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>> {
        Ok(self.answer()?.list())
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

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells whoever listens; nobody may.
    fn hint(&self, id: &SandboxId) {
        let _listeners = self.events.send(id.clone());
    }

    fn end(&self, id: &ContainerId, code: i32, reason: ExitReason) -> bool {
        let now = self.clock.now();
        let ended = self.lock().running(id).is_some_and(|container| container.end(code, reason, now));
        if ended {
            self.hint(&id.sandbox);
        }
        ended
    }
}

/// Runs a container's program to its end, and records that, if the container is still there by then.
async fn run(process: Process, id: ContainerId, shared: std::sync::Weak<Shared>) {
    let code = process.run().await;
    if let Some(shared) = shared.upgrade() {
        shared.end(&id, code, ExitReason::Ended);
    }
}

fn image_id(image: &str) -> Option<Box<str>> {
    let present = !image.is_empty() && !image.starts_with("missing/");
    present.then(|| format!("memory://{image}").into())
}

fn missing(image: &str) -> Error {
    Error::Image { image: image.into(), source: "no such image".into() }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod trial;
