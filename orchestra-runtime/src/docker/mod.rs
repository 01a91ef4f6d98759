//! Containers of a Docker Engine.
//!
//! A sandbox is a container that only waits (`pause.rs`), whose network the others share. The engine remembers
//! everything: names are made of the node's and the caller's, and what doesn't fit a name is in labels. An engine can't
//! end a command run in a container: a dropped exec session only hangs up on it.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bollard::{
    Docker,
    errors::Error as EngineError,
    models::ContainerInspectResponse,
    query_parameters::{
        CreateContainerOptionsBuilder, CreateImageOptionsBuilder, EventsOptionsBuilder, InspectContainerOptions,
        KillContainerOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
        StartContainerOptions, WaitContainerOptions,
    },
};
use futures::{
    StreamExt as _, TryStreamExt as _,
    future::join_all,
    stream::{self, BoxStream},
};
use orchestra_core::runtime::{
    Capabilities, ContainerExec, ContainerId, ContainerLogs, ContainerRuntime, ContainerSpec, ContainerState, Error,
    Result, SandboxId, SandboxPorts, SandboxSpec, SandboxStatus,
};

use self::{
    convert::{
        Made, NODE_LABEL, SANDBOX_LABEL, as_root, container_body, container_name, made, sandbox_body, sandbox_name,
        state,
    },
    pause::PAUSE_IMAGE,
};

mod convert;
mod exec;
mod logs;
mod pause;
mod ports;

/// How long the removal of a sandbox may take the engine.
const REMOVED_WITHIN: Duration = Duration::from_secs(20);
/// How long to wait before looking again whether the engine has removed something.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long to wait before listening to an engine's events again.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// A container runtime that stands on a Docker Engine. Clones are handles on the same node.
#[derive(Clone)]
pub struct DockerRuntime {
    engine: Docker,
    node: Arc<str>,
    version: Arc<str>,
    /// One lock for each sandbox, so that of two starts of one container only one starts it.
    starting: Arc<Mutex<BTreeMap<SandboxId, Arc<tokio::sync::Mutex<()>>>>>,
}

impl DockerRuntime {
    /// Connects to the machine's engine, as `DOCKER_HOST` says; `node` tells nodes on one engine apart.
    ///
    /// Brings the image that holds sandboxes open, if it isn't there.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`] if there is no engine; [`Error::Invalid`] if `node` is no name.
    pub async fn connect(node: &str) -> Result<Self> {
        if !SandboxId(node.into()).is_valid() {
            return Err(Error::Invalid(format!("node name {node} is no name").into()));
        }
        let engine = Docker::connect_with_defaults().map_err(Error::unavailable)?;
        let engine = engine.negotiate_version().await.map_err(Error::unavailable)?;
        let version = engine.version().await.map_err(Error::unavailable)?.version.unwrap_or_default();
        if engine.inspect_image(PAUSE_IMAGE).await.is_err() {
            let rootfs = pause::rootfs().ok_or_else(|| Error::Invalid("no pause program for this processor".into()))?;
            import(&engine, PAUSE_IMAGE, rootfs).await?;
        }
        Ok(Self { engine, node: node.into(), version: version.into(), starting: Arc::default() })
    }

    /// Makes an image of a tarball of files, under a name with a tag.
    ///
    /// # Errors
    ///
    /// [`Error::Unavailable`].
    pub async fn import(&self, image: &str, rootfs: Vec<u8>) -> Result<()> {
        import(&self.engine, image, rootfs).await
    }

    /// What the engine says of one of its containers; none if there is none by that name.
    async fn inspect(&self, name: &str) -> Result<Option<ContainerInspectResponse>> {
        absent(self.engine.inspect_container(name, None::<InspectContainerOptions>).await)
    }

    async fn state(&self, id: &ContainerId) -> Result<Option<ContainerState>> {
        let inspected = self.inspect(&container_name(&self.node, id)).await?;
        Ok(inspected.as_ref().and_then(state))
    }

    /// The engine's ids of what has this label value, sandboxes after what is in them.
    async fn ids(&self, label: &str, value: &str) -> Result<Vec<String>> {
        let own = format!("{NODE_LABEL}={}", self.node);
        let filters = HashMap::from([("label", vec![own, format!("{label}={value}")])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let list = self.engine.list_containers(Some(options)).await.map_err(Error::unavailable)?;
        Ok(list.into_iter().filter_map(|summary| summary.id).collect())
    }

    /// Starts a container, unless there is one; not to be cancelled halfway.
    async fn start(self, id: ContainerId, spec: ContainerSpec) -> Result<()> {
        let lock = self.lock_of(&id.sandbox);
        let _starting = lock.lock().await;
        let name = container_name(&self.node, &id);
        match self.state(&id).await? {
            Some(ContainerState::Created) => return self.run(&name, &spec).await,
            Some(_) => return Ok(()),
            None => {}
        }
        if self.inspect(&sandbox_name(&self.node, &id.sandbox)).await?.is_none() {
            return Err(Error::NoSandbox(id.sandbox.clone()));
        }
        if spec.non_root
            && let Some(user) = as_root(spec.user, &self.image_user(&spec.image).await?)
        {
            return Err(Error::AsRoot { user });
        }
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        match self.engine.create_container(Some(options), container_body(&self.node, &id, &spec)).await {
            Ok(_) => self.run(&name, &spec).await,
            Err(error) => Err(match status(&error) {
                Some(404) => Error::Image { image: spec.image.clone(), source: error.into() },
                Some(400) => Error::Invalid(error.to_string().into()),
                _ => Error::unavailable(error),
            }),
        }
    }

    /// Whom an image runs as, as it says: empty for root.
    async fn image_user(&self, image: &str) -> Result<String> {
        let image = absent(self.engine.inspect_image(image).await)?;
        Ok(image.and_then(|image| image.config?.user).unwrap_or_default())
    }

    async fn resume(&self, name: &str) -> Result<(), EngineError> {
        self.engine.start_container(name, None::<StartContainerOptions>).await
    }

    async fn kill(&self, id: &ContainerId, signal: &str) -> Result<()> {
        let options = KillContainerOptionsBuilder::default().signal(signal).build();
        match self.engine.kill_container(&container_name(&self.node, id), Some(options)).await {
            Err(error) if !matches!(status(&error), Some(404 | 409)) => Err(Error::unavailable(error)),
            _ => Ok(()),
        }
    }

    /// Waits for a container not to run.
    async fn exited(&self, id: &ContainerId) {
        let name = container_name(&self.node, id);
        // Codes other than 0 come as errors; the code is read where it is listed.
        let _code = self.engine.wait_container(&name, None::<WaitContainerOptions>).next().await;
    }

    async fn remove(&self, name: &str) -> Result<()> {
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match self.engine.remove_container(name, Some(options)).await {
            Err(error) if !matches!(status(&error), Some(404 | 409)) => Err(Error::unavailable(error)),
            _ => Ok(()),
        }
    }

    fn lock_of(&self, id: &SandboxId) -> Arc<tokio::sync::Mutex<()>> {
        let mut starting = self.starting.lock().unwrap_or_else(PoisonError::into_inner);
        starting.entry(id.clone()).or_default().clone()
    }

    /// Starts a container that the engine has made and not yet run.
    async fn run(&self, name: &str, spec: &ContainerSpec) -> Result<()> {
        let Err(error) = self.resume(name).await else { return Ok(()) };
        // What can't be started would be listed as made for ever.
        self.remove(name).await?;
        match status(&error) {
            Some(400 | 404 | 500) => {
                let program = spec.command.first().cloned().unwrap_or_default();
                Err(Error::Start { program, source: error.into() })
            }
            _ => Err(Error::unavailable(error)),
        }
    }
}

impl fmt::Debug for DockerRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DockerRuntime").field("node", &self.node).finish_non_exhaustive()
    }
}

#[async_trait]
impl ContainerRuntime for DockerRuntime {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            name: "docker".into(),
            version: (&*self.version).into(),
            images: "references of registries that the engine reaches".into(),
            limits: true,
            exact_mounts: true,
            users: true,
            own_network: true,
            tty: true,
        }
    }

    async fn pull_image(&self, image: &str) -> Result<Box<str>> {
        let unavailable = |source: EngineError| Error::Image { image: image.into(), source: source.into() };
        // Without a tag the engine would pull all there are.
        let tagged = image.rsplit('/').next().is_some_and(|name| name.contains([':', '@']));
        let reference = if tagged { image.into() } else { format!("{image}:latest") };
        let options = CreateImageOptionsBuilder::default().from_image(&reference).build();
        let pull = self.engine.create_image(Some(options), None, None);
        pull.try_for_each(|_progress| async { Ok(()) }).await.map_err(unavailable)?;
        let absent = || Error::Image { image: image.into(), source: "the engine pulled something else".into() };
        self.image_id(image).await?.ok_or_else(absent)
    }

    async fn image_id(&self, image: &str) -> Result<Option<Box<str>>> {
        Ok(absent(self.engine.inspect_image(image).await)?.and_then(|image| image.id).map(Into::into))
    }

    async fn create_sandbox(&self, id: &SandboxId, spec: &SandboxSpec) -> Result<()> {
        if !id.is_valid() {
            return Err(Error::Invalid(format!("sandbox id {id} is no name").into()));
        }
        let name = sandbox_name(&self.node, id);
        let options = CreateContainerOptionsBuilder::default().name(&name).build();
        match self.engine.create_container(Some(options), sandbox_body(&self.node, id, spec)).await {
            // There is one already.
            Err(error) if status(&error) == Some(409) => {}
            Err(error) => return Err(Error::unavailable(error)),
            Ok(_) => {}
        }
        self.resume(&name).await.map_err(Error::unavailable)
    }

    async fn remove_sandbox(&self, id: &SandboxId) -> Result<()> {
        let lock = self.lock_of(id);
        let _starting = lock.lock().await;
        let removal = async {
            loop {
                let ids = self.ids(SANDBOX_LABEL, &id.0).await?;
                if ids.is_empty() {
                    return Ok(());
                }
                join_all(ids.iter().map(|id| self.remove(id))).await.into_iter().collect::<Result<()>>()?;
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        tokio::time::timeout(REMOVED_WITHIN, removal).await.map_err(Error::unavailable)??;
        self.starting.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
        Ok(())
    }

    async fn start_container(&self, id: &ContainerId, spec: &ContainerSpec) -> Result<()> {
        if !id.is_valid() {
            return Err(Error::Invalid(format!("container id {id} is no name").into()));
        }
        // On a task of its own, which a dropped call leaves to its end: the engine goes on with what it was asked.
        let start = tokio::spawn(self.clone().start(id.clone(), spec.clone()));
        start.await.map_err(Error::unavailable)?
    }

    async fn stop_container(&self, id: &ContainerId, grace: Duration) -> Result<()> {
        if !self.state(id).await?.is_some_and(|state| state.is_running()) {
            return Ok(());
        }
        if !grace.is_zero() {
            self.kill(id, "SIGTERM").await?;
            if tokio::time::timeout(grace, self.exited(id)).await.is_ok() {
                return Ok(());
            }
        }
        self.kill(id, "SIGKILL").await?;
        self.exited(id).await;
        Ok(())
    }

    async fn remove_container(&self, id: &ContainerId) -> Result<()> {
        match self.state(id).await? {
            None => Ok(()),
            Some(ContainerState::Running { .. }) => Err(Error::Running(id.clone())),
            Some(_) => self.remove(&container_name(&self.node, id)).await,
        }
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>> {
        let ids = self.ids(NODE_LABEL, &self.node).await?;
        let mut sandboxes = BTreeMap::new();
        let mut containers = Vec::new();
        for inspected in join_all(ids.iter().map(|id| self.inspect(id))).await {
            match inspected?.as_ref().and_then(made) {
                Some(Made::Sandbox(sandbox)) => drop(sandboxes.insert(sandbox.id.clone(), sandbox)),
                Some(Made::Container(container)) => containers.push(container),
                None => {}
            }
        }
        containers.sort_by(|a, b| a.id.cmp(&b.id));
        for container in containers {
            if let Some(sandbox) = sandboxes.get_mut(&container.id.sandbox) {
                sandbox.containers.push(container);
            }
        }
        Ok(sandboxes.into_values().collect())
    }

    fn events(&self) -> BoxStream<'static, SandboxId> {
        let filters = HashMap::from([("label", vec![format!("{NODE_LABEL}={}", self.node)])]);
        let engine = self.engine.clone();
        let listen = move || {
            let options = EventsOptionsBuilder::default().filters(&filters).build();
            let events = engine.events(Some(options)).take_while(|event| std::future::ready(event.is_ok()));
            let sandbox = |event: bollard::models::EventMessage| {
                Some(SandboxId(event.actor?.attributes?.get(SANDBOX_LABEL)?.as_str().into()))
            };
            events.filter_map(move |event| std::future::ready(event.ok().and_then(sandbox)))
        };
        let again = stream::unfold((listen, false), |(listen, again)| async move {
            if again {
                tokio::time::sleep(LISTEN_AGAIN).await;
            }
            Some((listen(), (listen, true)))
        });
        again.flatten().boxed()
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

async fn import(engine: &Docker, image: &str, rootfs: Vec<u8>) -> Result<()> {
    let (repo, tag) = image.rsplit_once(':').unwrap_or((image, "latest"));
    let options = CreateImageOptionsBuilder::default().from_src("-").repo(repo).tag(tag).build();
    let import = engine.create_image(Some(options), Some(bollard::body_full(rootfs.into())), None);
    import.try_for_each(|_progress| async { Ok(()) }).await.map_err(Error::unavailable)
}

/// The HTTP status of what the engine refused.
fn status(error: &EngineError) -> Option<u16> {
    match error {
        EngineError::DockerResponseServerError { status_code, .. } => Some(*status_code),
        _ => None,
    }
}

/// Takes "not found" for an answer.
fn absent<T>(answer: Result<T, EngineError>) -> Result<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(Error::unavailable(error)),
    }
}

#[cfg(test)]
mod tests;
