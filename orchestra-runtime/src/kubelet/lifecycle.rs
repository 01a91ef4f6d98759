//! How sandboxes and containers are started and ended: the calls behind a worker's actions.

use std::{net::IpAddr, path::Path, time::Duration};

use futures::future::join_all;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use orchestra_core::runtime::{ContainerId, ContainerSpec, Error, Labels, Resources, SandboxId, SandboxSpec};

use super::{
    Shared,
    decide::{BACKOFF_LABEL, IMAGE_LABEL, Unstarted, Why, containers},
    dispatch::{NAME_LABEL, NAMESPACE_LABEL},
    env,
    events::{Severity, record},
    image, probe, security,
    sources::KeptSources,
    status::full_name,
    terminal, volume,
    worker::names,
};
use crate::causes::chain;

/// The least that a container gets to end after its hook has used up the grace.
const GRACE_SECONDS_MIN: u64 = 2;

/// Why something was not started.
#[derive(Debug)]
pub(super) struct Refusal {
    /// Kubernetes' word for it.
    pub(super) reason: &'static str,
    pub(super) message: String,
    /// The word and the message when it happens again, if they are others.
    pub(super) later: Option<(&'static str, String)>,
}

impl Refusal {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), later: None }
    }
}

/// Why an attempt of a container does not run.
#[derive(Debug)]
pub(super) enum Setback {
    /// It was not even tried.
    Refused(Refusal),
    /// It was, and counts as one that ended.
    Unstarted(Unstarted),
}

impl From<Refusal> for Setback {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Where a container is started, and with what.
pub(super) struct Place<'a> {
    /// The pod's directory.
    pub(super) dir: &'a Path,
    /// The pod's address; absent before there is a sandbox, and with the node's network.
    pub(super) address: Option<IpAddr>,
    /// What the pod refers to.
    pub(super) sources: &'a mut KeptSources,
}

/// Makes a pod's volumes and sandbox.
pub(super) async fn create_sandbox(
    shared: &Shared,
    pod: &Pod,
    id: &SandboxId,
    place: Place<'_>,
) -> Result<(), Refusal> {
    let waiting = |message| Refusal::new("ContainerCreating", message);
    let sources = place.sources.read(&shared.client, pod).await.map_err(|error| waiting(error.to_string()))?;
    let (host_ip, capacity, dir) = (shared.address.to_string(), &shared.capacity, place.dir);
    let context = volume::Context { pod, sources, pod_ip: "", host_ip: &host_ip, capacity, dir };
    volume::mount_all(context).map_err(waiting)?;
    let (name, namespace) = names(pod);
    let spec = pod.spec.as_ref();
    let hostname = spec.and_then(|spec| spec.hostname.as_deref()).unwrap_or(name);
    let spec = SandboxSpec {
        hostname: hostname.into(),
        labels: [(NAME_LABEL.into(), name.into()), (NAMESPACE_LABEL.into(), namespace.into())].into(),
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
    };
    shared
        .runtime
        .create_sandbox(id, &spec)
        .await
        .map_err(|error| Refusal::new("FailedCreatePodSandBox", chain(&error)))
}

/// Pulls a container's image and starts an attempt of it, which is to be followed by the backoff.
pub(super) async fn start(
    shared: &Shared,
    pod: &Pod,
    id: &ContainerId,
    place: Place<'_>,
    backoff_seconds: u64,
) -> Result<(), Setback> {
    let found = pod.spec.iter().flat_map(containers).find(|(_, container)| *container.name == *id.name);
    let Some((_, container)) = found else {
        return Err(Refusal::new("CreateContainerConfigError", "no such container").into());
    };
    let spec = container_spec(shared, pod, container, id, place).await?;
    image::pull(shared, pod, container).await?;
    let (backoff, image) = (backoff_seconds.to_string().into(), spec.image.clone());
    let labels = Labels::from([(BACKOFF_LABEL.into(), backoff), (IMAGE_LABEL.into(), image)]);
    let spec = ContainerSpec { labels, ..spec };
    match shared.runtime.start_container(id, &spec).await {
        Ok(()) => {}
        Err(error @ Error::Start { .. }) => {
            let (message, now) = (chain(&error), shared.clock.now());
            let failed = ("Failed", format!("Error: {message}"));
            record(shared, pod, Some(&container.name), Severity::Warning, failed).await;
            return Err(Setback::Unstarted(Unstarted::new(id.clone(), spec.labels, &spec.image, now, message)));
        }
        Err(Error::AsRoot { user }) => {
            let message = security::as_root(pod, container, &user);
            return Err(Refusal::new("CreateContainerConfigError", message).into());
        }
        Err(error) => return Err(Refusal::new("CreateContainerError", chain(&error)).into()),
    }
    for (reason, message) in [
        ("Created", format!("Created container: {}", container.name)),
        ("Started", format!("Started container {}", container.name)),
    ] {
        record(shared, pod, Some(&container.name), Severity::Normal, (reason, message)).await;
    }
    tell_of_unenforced(shared, pod, container, &spec).await;
    Ok(post_start(shared, pod, container, id).await?)
}

/// Tells people what a container asks for and runs without.
async fn tell_of_unenforced(shared: &Shared, pod: &Pod, container: &Container, spec: &ContainerSpec) {
    let name = container.name.as_str();
    if spec.resources != Resources::default() && !shared.runtime.capabilities().limits {
        let message = format!("limits of container {name} are not enforced by the container runtime");
        record(shared, pod, Some(name), Severity::Warning, ("LimitsNotEnforced", message)).await;
    }
    let fields = security::unenforced(pod, container);
    if !fields.is_empty() {
        let message = format!("securityContext of container {name} is not enforced in: {}", fields.join(", "));
        record(shared, pod, Some(name), Severity::Warning, ("SecurityNotEnforced", message)).await;
    }
}

/// Runs what a container asks for after its start; if that fails, the container is ended.
async fn post_start(shared: &Shared, pod: &Pod, container: &Container, id: &ContainerId) -> Result<(), Refusal> {
    let Some(hook) = container.lifecycle.as_ref().and_then(|hooks| hooks.post_start.as_ref()) else { return Ok(()) };
    let Err(why) = run_hook(shared, container, id, hook).await else { return Ok(()) };
    let about = Some(container.name.as_str());
    record(shared, pod, about, Severity::Warning, ("FailedPostStartHook", format!("PostStartHook failed: {why}")))
        .await;
    let grace = Duration::from_secs(GRACE_SECONDS_MIN);
    let stopped = shared.runtime.stop_container(id, grace).await;
    // It has been started, and is restarted as any that fails.
    stopped.map_err(|error| Refusal::new("PostStartHookError", chain(&error)))
}

/// Works out what a container is made of, its volumes included.
async fn container_spec(
    shared: &Shared,
    pod: &Pod,
    container: &Container,
    id: &ContainerId,
    place: Place<'_>,
) -> Result<ContainerSpec, Refusal> {
    let config = |message: String| Refusal::new("CreateContainerConfigError", message);
    if let Some(why) = probe::unsupported(container) {
        return Err(config(why.into()));
    }
    let user = security::user(pod, container).map_err(config)?;
    let sources = place.sources.read(&shared.client, pod).await.map_err(|error| config(error.to_string()))?;
    let host_ip = shared.address.to_string();
    let pod_ip = place.address.unwrap_or(shared.address).to_string();
    let (pod_ip, host_ip, capacity) = (pod_ip.as_str(), host_ip.as_str(), &shared.capacity);
    let context = volume::Context { pod, sources, pod_ip, host_ip, capacity, dir: place.dir };
    volume::mount_all(context).map_err(config)?;
    let context = env::Context { pod, container, sources, pod_ip, host_ip, capacity };
    let variables = env::environment(context).map_err(config)?;
    let values = variables.iter().map(|variable| (variable.name.to_string(), variable.value.to_string())).collect();
    let mut mounts = volume::mounts(pod, container, place.dir, &values).map_err(config)?;
    terminal::mount(place.dir, id, container, &mut mounts).map_err(config)?;
    let words = |words: &Option<Vec<String>>| -> Vec<Box<str>> {
        words.iter().flatten().map(|word| env::expand(word, &values).into()).collect()
    };
    Ok(ContainerSpec {
        image: container.image.as_deref().unwrap_or_default().into(),
        command: words(&container.command),
        args: words(&container.args),
        env: variables,
        working_dir: container.working_dir.as_deref().map(Into::into),
        mounts,
        resources: limits(container),
        user,
        non_root: security::is_non_root(pod, container),
        tty: container.tty.unwrap_or(false),
        ..ContainerSpec::default()
    })
}

/// Brings a pod's volumes up to what they are made of now. What is gone stays as it was.
pub(super) async fn refresh(shared: &Shared, pod: &Pod, place: Place<'_>) -> Result<(), String> {
    let sources = place.sources.read(&shared.client, pod).await.map_err(|error| error.to_string())?;
    let host_ip = shared.address.to_string();
    let pod_ip = place.address.unwrap_or(shared.address).to_string();
    let (pod_ip, host_ip, capacity) = (pod_ip.as_str(), host_ip.as_str(), &shared.capacity);
    volume::mount_all(volume::Context { pod, sources, pod_ip, host_ip, capacity, dir: place.dir })
}

/// Ends containers side by side: their hooks, then they are asked, then killed (SEMANTICS 53).
pub(super) async fn stop(
    shared: &Shared,
    pod: &Pod,
    ids: &[ContainerId],
    grace: Duration,
    why: Why,
) -> Result<(), Error> {
    let stops = ids.iter().map(|id| stop_one(shared, pod, id, grace, why));
    join_all(stops).await.into_iter().collect()
}

async fn stop_one(shared: &Shared, pod: &Pod, id: &ContainerId, grace: Duration, why: Why) -> Result<(), Error> {
    let container = pod.spec.iter().flat_map(containers).map(|(_, container)| container);
    let container = container.into_iter().find(|container| *container.name == *id.name);
    let message = match why {
        Why::PodEnds => format!("Stopping container {}", id.name),
        Why::StartupProbe => format!("Container {} failed startup probe, will be restarted", id.name),
        Why::LivenessProbe => format!("Container {} failed liveness probe, will be restarted", id.name),
        Why::Changed => format!("Container {} definition changed, will be restarted", id.name),
    };
    record(shared, pod, Some(&id.name), Severity::Normal, ("Killing", message)).await;
    let began = tokio::time::Instant::now();
    let hook = container.and_then(|container| Some((container, container.lifecycle.as_ref()?.pre_stop.as_ref()?)));
    let mut left = grace;
    if let Some((container, hook)) = hook.filter(|_| !grace.is_zero()) {
        let failed = match tokio::time::timeout(grace, run_hook(shared, container, id, hook)).await {
            Ok(outcome) => outcome.err(),
            Err(_) => Some("it did not end within its pod's grace".into()),
        };
        if let Some(failed) = failed {
            let message = format!("PreStopHook failed: {failed}");
            record(shared, pod, Some(&id.name), Severity::Warning, ("FailedPreStopHook", message)).await;
        }
        let least = Duration::from_secs(GRACE_SECONDS_MIN).min(grace);
        left = grace.saturating_sub(began.elapsed()).max(least);
    }
    shared.runtime.stop_container(id, left).await
}

async fn run_hook(
    shared: &Shared,
    container: &Container,
    id: &ContainerId,
    hook: &LifecycleHandler,
) -> Result<(), String> {
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
    }
    if let Some(exec) = &hook.exec {
        probe::command(shared, id, exec.command.as_deref().unwrap_or_default()).await?;
    }
    if let Some(get) = &hook.http_get {
        probe::http(shared, &id.sandbox, get, container.ports.as_deref().unwrap_or_default()).await?;
    }
    Ok(())
}

/// Tells people why something was not started; of a failed pull, what is not told by it already.
pub(super) async fn complain(shared: &Shared, pod: &Pod, container: &str, refusal: (&'static str, &str)) {
    let image = image::of(pod, container);
    let container = (!container.is_empty()).then_some(container);
    for (severity, reason, message) in complaints(refusal, image) {
        record(shared, pod, container, severity, (reason, message)).await;
    }
}

/// What people are told of a refusal, by its reason and message, in Kubernetes' words. Pure.
fn complaints((reason, message): (&'static str, &str), image: &str) -> Vec<(Severity, &'static str, String)> {
    let failed = |why: &str| (Severity::Warning, "Failed", format!("Error: {why}"));
    match reason {
        "ContainerCreating" => vec![(Severity::Warning, "FailedMount", message.into())],
        "FailedCreatePodSandBox" => {
            vec![(Severity::Warning, reason, format!("Failed to create pod sandbox: {message}"))]
        }
        "ErrImageNeverPull" => vec![(Severity::Warning, reason, message.into()), failed(reason)],
        image::PULL_FAILED => vec![failed(reason)],
        image::BACKING_OFF => {
            vec![failed(image::PULL_FAILED), (Severity::Normal, "BackOff", image::backing_off(image)), failed(reason)]
        }
        _ => vec![failed(message)],
    }
}

/// Tells people that a container has to wait before it is started again.
pub(super) async fn tell_of_backoff(shared: &Shared, pod: &Pod, container: &str) {
    let message = format!("Back-off restarting failed container {container} in pod {}", full_name(pod));
    record(shared, pod, Some(container), Severity::Warning, ("BackOff", message)).await;
}

fn limits(container: &Container) -> Resources {
    let limits = container.resources.as_ref().and_then(|resources| resources.limits.as_ref());
    let limit = |name: &str| limits.and_then(|limits| limits.get(name)).and_then(env::thousandths);
    Resources { cpu_millis: limit("cpu"), memory_bytes: limit("memory").map(|thousandths| thousandths / 1_000) }
}
