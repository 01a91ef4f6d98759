//! What a memory node holds.

use std::{collections::BTreeMap, net::IpAddr, net::Ipv4Addr, sync::Arc};

use orchestra_core::{
    clock::Timestamp,
    runtime::{
        ContainerId, ContainerSpec, ContainerState, ContainerStatus, EnvVar, Error, ExitReason, Labels, Result,
        SandboxId, SandboxSpec, SandboxStatus,
    },
};
use tokio::{
    sync::Notify,
    task::{AbortHandle, JoinHandle},
};

use crate::{address::AddressPool, memory::log::Log};

/// A node: its sandboxes, and what is left to give them.
pub(super) struct State {
    pub(super) available: bool,
    pub(super) sandboxes: BTreeMap<SandboxId, Sandbox>,
    addresses: AddressPool,
}

/// A sandbox and its containers.
pub(super) struct Sandbox {
    pub(super) ready: bool,
    pub(super) response: Option<u16>,
    pub(super) containers: BTreeMap<ContainerId, Container>,
    labels: Labels,
    created_at: Timestamp,
    address: Option<Ipv4Addr>,
}

/// One attempt to run a container; its program ends when it is dropped.
pub(super) struct Container {
    pub(super) env: Vec<EnvVar>,
    pub(super) log: Arc<Log>,
    pub(super) term: Arc<Notify>,
    state: ContainerState,
    labels: Labels,
    image: Box<str>,
    image_id: Box<str>,
    program: Option<AbortHandle>,
}

impl State {
    pub(super) fn new(first: Ipv4Addr, count: u32) -> Self {
        Self { available: true, sandboxes: BTreeMap::new(), addresses: AddressPool::new(first, count) }
    }

    pub(super) fn create_sandbox(&mut self, id: &SandboxId, spec: &SandboxSpec, now: Timestamp) -> Result<()> {
        if !id.is_valid() {
            return Err(Error::Invalid(format!("sandbox id {id} is no name").into()));
        }
        if let Some(sandbox) = self.sandboxes.get_mut(id) {
            sandbox.ready = true;
            return Ok(());
        }
        let address = match spec.host_network {
            true => None,
            false => Some(self.addresses.take().ok_or_else(|| Error::unavailable("all addresses are used"))?),
        };
        let sandbox = Sandbox {
            ready: true,
            response: Some(200),
            containers: BTreeMap::new(),
            labels: spec.labels.clone(),
            created_at: now,
            address,
        };
        self.sandboxes.insert(id.clone(), sandbox);
        Ok(())
    }

    /// Forgets a sandbox and ends all in it; false if there was none.
    pub(super) fn remove_sandbox(&mut self, id: &SandboxId) -> bool {
        let removed = self.sandboxes.remove(id);
        if let Some(address) = removed.as_ref().and_then(|sandbox| sandbox.address) {
            self.addresses.free(address);
        }
        removed.is_some()
    }

    /// Makes every sandbox not ready, and names what ran in each.
    pub(super) fn reboot(&mut self) -> Vec<(SandboxId, Vec<ContainerId>)> {
        let lost = self.sandboxes.iter_mut().map(|(id, sandbox)| {
            sandbox.ready = false;
            let running = sandbox.containers.iter().filter(|(_, container)| container.state.is_running());
            (id.clone(), running.map(|(id, _)| id.clone()).collect())
        });
        lost.collect()
    }

    pub(super) fn container(&self, id: &ContainerId) -> Option<&Container> {
        self.sandboxes.get(&id.sandbox)?.containers.get(id)
    }

    pub(super) fn running(&mut self, id: &ContainerId) -> Option<&mut Container> {
        let container = self.sandboxes.get_mut(&id.sandbox)?.containers.get_mut(id)?;
        container.state.is_running().then_some(container)
    }

    /// Whether a container runs in a sandbox.
    pub(super) fn runs(&self, id: &SandboxId) -> bool {
        let containers = self.sandboxes.get(id).map(|sandbox| &sandbox.containers);
        containers.is_some_and(|containers| containers.values().any(|container| container.state.is_running()))
    }

    pub(super) fn list(&self) -> Vec<SandboxStatus> {
        let statuses = self.sandboxes.iter().map(|(id, sandbox)| SandboxStatus {
            id: id.clone(),
            labels: sandbox.labels.clone(),
            created_at: sandbox.created_at,
            ready: sandbox.ready,
            address: sandbox.address.map(IpAddr::V4),
            containers: sandbox.containers.iter().map(|(id, container)| container.status(id)).collect(),
        });
        statuses.collect()
    }
}

impl Container {
    pub(super) fn new(spec: &ContainerSpec, image_id: Box<str>, now: Timestamp) -> Self {
        Self {
            env: spec.env.clone(),
            log: Arc::default(),
            term: Arc::default(),
            state: ContainerState::Running { started_at: now, pid: None },
            labels: spec.labels.clone(),
            image: spec.image.clone(),
            image_id,
            program: None,
        }
    }

    /// Ties the container's life to the task of its program.
    pub(super) fn runs_as(&mut self, task: &JoinHandle<()>) {
        self.program = Some(task.abort_handle());
    }

    /// Records the end of a running container; false if it had ended before.
    pub(super) fn end(&mut self, code: i32, reason: ExitReason, now: Timestamp) -> bool {
        let ContainerState::Running { started_at, .. } = self.state else { return false };
        self.state = ContainerState::Exited { code, reason, started_at, finished_at: now };
        self.abort();
        self.log.close(now);
        true
    }

    fn status(&self, id: &ContainerId) -> ContainerStatus {
        ContainerStatus {
            id: id.clone(),
            labels: self.labels.clone(),
            image: self.image.clone(),
            image_id: self.image_id.clone(),
            state: self.state.clone(),
        }
    }

    fn abort(&self) {
        if let Some(program) = &self.program {
            program.abort();
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        self.abort();
    }
}
