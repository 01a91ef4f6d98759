//! Probes: what they find, and how often they must before it counts.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use jiff::SignedDuration;
use k8s_openapi::{
    api::core::v1::{Container, ContainerPort, HTTPGetAction, Pod, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use orchestra_core::runtime::{BoxIo, ContainerId, ContainerState, ExecSpec, SandboxId, SandboxStatus};
use tokio::{net::TcpStream, sync::mpsc, task::JoinSet};

use super::{
    Shared,
    decide::{Memory, Probed, containers},
    events::{Severity, record},
};
use crate::causes::chain;

/// How many verdicts wait for their worker; a prober waits when there are more.
pub(super) const VERDICTS_MAX: usize = 16;

/// What a probe is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ProbeKind {
    Startup,
    Liveness,
    Readiness,
}

impl ProbeKind {
    /// Writes down what a probe of this kind found.
    pub(super) fn note(self, probed: &mut Probed, holds: bool) {
        match self {
            Self::Startup => probed.started = Some(holds),
            Self::Liveness => probed.alive = Some(holds),
            Self::Readiness => probed.ready = Some(holds),
        }
    }
}

/// A change of what is known of a container.
#[derive(Clone, Debug)]
pub(super) struct Verdict {
    pub(super) id: ContainerId,
    pub(super) kind: ProbeKind,
    pub(super) holds: bool,
}

/// Counts results until they count. Pure.
#[derive(Clone, Copy, Debug)]
struct Threshold {
    successes: u32,
    failures: u32,
    run: u32,
    last: Option<bool>,
    verdict: Option<bool>,
}

impl Threshold {
    fn new(probe: &Probe) -> Self {
        let least = |threshold: Option<i32>, default| threshold.and_then(|n| u32::try_from(n).ok()).unwrap_or(default);
        let (successes, failures) =
            (least(probe.success_threshold, 1).max(1), least(probe.failure_threshold, 3).max(1));
        Self { successes, failures, run: 0, last: None, verdict: None }
    }

    /// Takes a result; returns the verdict if it is a new one.
    fn observe(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let enough = self.run >= if success { self.successes } else { self.failures };
        (enough && self.verdict.replace_if(success)).then_some(success)
    }
}

/// Replaces what differs.
trait ReplaceIf {
    fn replace_if(&mut self, value: bool) -> bool;
}

impl ReplaceIf for Option<bool> {
    fn replace_if(&mut self, value: bool) -> bool {
        self.replace(value) != Some(value)
    }
}

/// Runs the probes of one pod's containers.
pub(super) struct Prober {
    verdicts: mpsc::Sender<Verdict>,
    /// The probes of each running attempt; dropped with it.
    running: BTreeMap<ContainerId, JoinSet<()>>,
}

impl Prober {
    pub(super) fn new(verdicts: mpsc::Sender<Verdict>) -> Self {
        Self { verdicts, running: BTreeMap::new() }
    }

    /// Probes exactly the containers that run; none of a pod that ends.
    pub(super) fn follow(
        &mut self,
        shared: &Arc<Shared>,
        pod: &Pod,
        sandbox: Option<&SandboxStatus>,
        memory: &Memory,
        ending: bool,
    ) {
        let all = sandbox.into_iter().flat_map(|sandbox| &sandbox.containers);
        let live: Vec<_> = all.filter(|status| status.state.is_running() && !ending).collect();
        self.running.retain(|id, _| live.iter().any(|status| status.id == *id));
        for status in live {
            let id = &status.id;
            let container = pod.spec.iter().flat_map(containers).find(|(_, container)| *container.name == *id.name);
            if let Some((_, container)) = container
                && !self.running.contains_key(id)
            {
                let ran = match status.state {
                    ContainerState::Running { started_at, .. } => started_at.duration_until(shared.clock.now()),
                    _ => SignedDuration::ZERO,
                };
                let begun = Begun {
                    ran: Duration::try_from(ran).unwrap_or_default(),
                    started: memory.probed(id).started == Some(true),
                };
                let probes = start(shared, pod, container, id, (&self.verdicts, begun));
                self.running.insert(id.clone(), probes);
            }
        }
    }
}

/// How far a container is when its probes begin: one that was taken on from an earlier kubelet is past its start.
#[derive(Clone, Copy, Debug)]
struct Begun {
    ran: Duration,
    /// Whether its startup probe succeeded before.
    started: bool,
}

fn start(
    shared: &Arc<Shared>,
    pod: &Pod,
    container: &Container,
    id: &ContainerId,
    (verdicts, begun): (&mpsc::Sender<Verdict>, Begun),
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    if container.startup_probe.is_none() && container.liveness_probe.is_none() && container.readiness_probe.is_none() {
        return tasks;
    }
    let (shared, pod, container) = (Arc::clone(shared), pod.clone(), container.clone());
    let (id, verdicts) = (id.clone(), verdicts.clone());
    tasks.spawn(async move {
        let all =
            Probes { shared: &shared, pod: &pod, container: &container, id: &id, verdicts: &verdicts, ran: begun.ran };
        if let Some(startup) = container.startup_probe.as_ref().filter(|_| !begun.started) {
            all.repeat(ProbeKind::Startup, startup).await;
        }
        let liveness = async {
            if let Some(probe) = &container.liveness_probe {
                all.repeat(ProbeKind::Liveness, probe).await;
            }
        };
        let readiness = async {
            if let Some(probe) = &container.readiness_probe {
                all.repeat(ProbeKind::Readiness, probe).await;
            }
        };
        tokio::join!(liveness, readiness);
    });
    tasks
}

/// The probes of one attempt.
#[derive(Clone, Copy)]
struct Probes<'a> {
    shared: &'a Shared,
    pod: &'a Pod,
    container: &'a Container,
    id: &'a ContainerId,
    verdicts: &'a mpsc::Sender<Verdict>,
    /// How long the container had run when its probes began.
    ran: Duration,
}

impl Probes<'_> {
    /// Probes on and on; a startup probe until there is a verdict.
    async fn repeat(&self, kind: ProbeKind, probe: &Probe) {
        let seconds = |value: Option<i32>, default: u64| {
            Duration::from_secs(value.and_then(|value| u64::try_from(value).ok()).unwrap_or(default))
        };
        let period = seconds(probe.period_seconds, 10).max(Duration::from_secs(1));
        let limit = seconds(probe.timeout_seconds, 1).max(Duration::from_secs(1));
        let mut threshold = Threshold::new(probe);
        tokio::time::sleep(seconds(probe.initial_delay_seconds, 0).saturating_sub(self.ran)).await;
        loop {
            let result = match tokio::time::timeout(limit, self.once(probe)).await {
                Ok(result) => result,
                Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
            };
            if let Err(why) = &result {
                let message = format!("{kind:?} probe failed: {why}");
                let about = Some(self.container.name.as_str());
                record(self.shared, self.pod, about, Severity::Warning, ("Unhealthy", message)).await;
            }
            if let Some(holds) = threshold.observe(result.is_ok()) {
                let verdict = Verdict { id: self.id.clone(), kind, holds };
                if self.verdicts.send(verdict).await.is_err() || kind == ProbeKind::Startup {
                    return;
                }
            }
            tokio::time::sleep(period).await;
        }
    }

    async fn once(&self, probe: &Probe) -> Result<(), String> {
        let ports = self.container.ports.as_deref().unwrap_or_default();
        if let Some(exec) = &probe.exec {
            return command(self.shared, self.id, exec.command.as_deref().unwrap_or_default()).await;
        }
        if let Some(get) = &probe.http_get {
            return http(self.shared, &self.id.sandbox, get, ports).await;
        }
        if let Some(socket) = &probe.tcp_socket {
            let host = socket.host.as_deref();
            return connect(self.shared, &self.id.sandbox, host, &socket.port, ports).await.map(drop);
        }
        Err("this kind of probe is not supported".into())
    }
}

/// Runs a command in a container to its end; one that fails says so.
pub(super) async fn command(shared: &Shared, id: &ContainerId, command: &[String]) -> Result<(), String> {
    let runtime = shared.runtime.exec().ok_or("the container runtime can't run commands")?;
    let command = command.iter().map(|word| word.as_str().into()).collect();
    let spec = ExecSpec { command, stdin: false, tty: false };
    let session = runtime.exec(id, &spec).await.map_err(|error| chain(&error))?;
    let (mut out, mut err) = (session.stdout, session.stderr);
    // Read and thrown away, so that a command that writes a lot does not wait forever.
    let drain = async {
        let _ = tokio::io::copy(&mut out, &mut tokio::io::sink()).await;
    };
    let complaints = async {
        if let Some(err) = &mut err {
            let _ = tokio::io::copy(err, &mut tokio::io::sink()).await;
        }
    };
    let (code, (), ()) = tokio::join!(session.control.wait(), drain, complaints);
    match code {
        Ok(0) => Ok(()),
        Ok(code) => Err(format!("command exited with {code}")),
        Err(error) => Err(chain(&error)),
    }
}

/// What a container's probes and hooks ask for that there is not.
pub(super) fn unsupported(container: &Container) -> Option<&'static str> {
    let probes = [&container.startup_probe, &container.liveness_probe, &container.readiness_probe];
    let hooks = container.lifecycle.iter().flat_map(|hooks| [&hooks.post_start, &hooks.pre_stop]);
    let gets = probes.iter().filter_map(|probe| probe.as_ref()?.http_get.as_ref());
    let hook_gets = hooks.filter_map(|hook| hook.as_ref()?.http_get.as_ref());
    if probes.iter().any(|probe| probe.as_ref().is_some_and(|probe| probe.grpc.is_some())) {
        return Some("gRPC probes are not supported by this kubelet");
    }
    let mut gets = gets.chain(hook_gets);
    gets.any(|get| get.scheme.as_deref() == Some("HTTPS")).then_some("HTTPS probes are not supported by this kubelet")
}

/// Asks a pod by HTTP; an answer from 200 to 399 is a success.
pub(super) async fn http(
    shared: &Shared,
    sandbox: &SandboxId,
    get: &HTTPGetAction,
    ports: &[ContainerPort],
) -> Result<(), String> {
    let io = connect(shared, sandbox, get.host.as_deref(), &get.port, ports).await?;
    let failed = |error: &dyn std::error::Error| chain(error);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(io)).await.map_err(|error| failed(&error))?;
    let path = get.path.as_deref().filter(|path| !path.is_empty()).unwrap_or("/");
    let mut request = http::Request::get(path).header("user-agent", "kube-probe/1.37");
    let headers = get.http_headers.as_deref().unwrap_or_default();
    if !headers.iter().any(|header| header.name.eq_ignore_ascii_case("host")) {
        request = request.header("host", get.host.as_deref().unwrap_or("localhost"));
    }
    for header in headers {
        request = request.header(&header.name, &header.value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| failed(&error))?;
    let answer = async { sender.send_request(request).await.map_err(|error| failed(&error)) };
    let response = tokio::select! {
        biased;
        response = answer => response?,
        Err(error) = connection => return Err(failed(&error)),
    };
    match response.status().as_u16() {
        200..400 => Ok(()),
        code => Err(format!("HTTP probe failed with statuscode: {code}")),
    }
}

async fn connect(
    shared: &Shared,
    sandbox: &SandboxId,
    host: Option<&str>,
    port: &IntOrString,
    ports: &[ContainerPort],
) -> Result<BoxIo, String> {
    let number = match port {
        IntOrString::Int(number) => *number,
        IntOrString::String(name) => {
            let named = ports.iter().find(|port| port.name.as_ref() == Some(name));
            named.map(|port| port.container_port).ok_or_else(|| format!("no port is named {name}"))?
        }
    };
    let number = u16::try_from(number).map_err(|_| format!("{number} is no port"))?;
    if let Some(host) = host.filter(|host| !host.is_empty()) {
        let stream = TcpStream::connect((host, number)).await.map_err(|error| error.to_string())?;
        return Ok(Box::new(stream));
    }
    let runtime = shared.runtime.ports().ok_or("the container runtime can't reach ports")?;
    runtime.connect(sandbox, number).await.map_err(|error| format!("port {number}: {}", root_cause(&error)))
}

/// The last of an error's causes: that a port refuses is no trouble of the runtime.
fn root_cause(error: &dyn std::error::Error) -> &dyn std::error::Error {
    std::iter::successors(Some(error), |error| error.source()).last().unwrap_or(error)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Probe;
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::Threshold;

    proptest! {
        #[test]
        fn a_verdict_takes_as_many_results_in_a_row_as_the_probe_asks(
            results in prop::collection::vec(any::<bool>(), 0..40), successes in 1_i32..4, failures in 1_i32..4,
        ) {
            let probe =
                Probe { success_threshold: Some(successes), failure_threshold: Some(failures), ..Probe::default() };
            let mut threshold = Threshold::new(&probe);
            let mut known = None;
            for (i, &result) in results.iter().enumerate() {
                let needed = usize::try_from(if result { successes } else { failures }).expect("positive");
                let run = results[..=i].iter().rev().take_while(|&&earlier| earlier == result).count();
                let verdict = threshold.observe(result);
                prop_assert_eq!(verdict.is_some(), run >= needed && known != Some(result));
                prop_assert!(verdict.is_none_or(|verdict| verdict == result));
                known = verdict.or(known);
            }
        }
    }
}
