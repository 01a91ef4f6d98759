//! Between the contract's words and the engine's: pure.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, HostConfig, Mount, MountType,
};
use orchestra_core::{
    clock::Timestamp,
    runtime::{
        ContainerId, ContainerSpec, ContainerState, ContainerStatus, ExitReason, Labels, SandboxId, SandboxSpec,
        SandboxStatus, User,
    },
};

use super::pause::{PAUSE_IMAGE, PAUSE_PROGRAM};

/// The engine label that says which node made a container.
pub(super) const NODE_LABEL: &str = "orchestra.node";
/// The engine label that says which sandbox a container is, or is in.
pub(super) const SANDBOX_LABEL: &str = "orchestra.sandbox";
const CONTAINER_LABEL: &str = "orchestra.container";
const ATTEMPT_LABEL: &str = "orchestra.attempt";
/// The engine label that holds the caller's labels, as JSON: theirs may have any letters.
const LABELS_LABEL: &str = "orchestra.labels";
const IMAGE_LABEL: &str = "orchestra.image";

/// The engine's name of a sandbox.
pub(super) fn sandbox_name(node: &str, id: &SandboxId) -> String {
    format!("orchestra_{node}_{id}")
}

/// The engine's name of a container.
pub(super) fn container_name(node: &str, id: &ContainerId) -> String {
    format!("orchestra_{node}_{}_{}_{}", id.sandbox, id.name, id.attempt)
}

/// What the engine is to make for a sandbox.
pub(super) fn sandbox_body(node: &str, id: &SandboxId, spec: &SandboxSpec) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(PAUSE_IMAGE.into()),
        entrypoint: Some(vec![PAUSE_PROGRAM.into()]),
        hostname: (!spec.hostname.is_empty() && !spec.host_network).then(|| spec.hostname.to_string()),
        labels: Some(HashMap::from([
            (NODE_LABEL.into(), node.into()),
            (SANDBOX_LABEL.into(), id.to_string()),
            (LABELS_LABEL.into(), encode(&spec.labels)),
        ])),
        host_config: Some(HostConfig {
            network_mode: spec.host_network.then(|| "host".into()),
            ipc_mode: Some("shareable".into()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// What the engine is to make for a container.
pub(super) fn container_body(node: &str, id: &ContainerId, spec: &ContainerSpec) -> ContainerCreateBody {
    let sandbox = format!("container:{}", sandbox_name(node, &id.sandbox));
    let words = |words: &[Box<str>]| (!words.is_empty()).then(|| words.iter().map(ToString::to_string).collect());
    let mounts = spec.mounts.iter().map(|mount| Mount {
        target: Some(mount.container_path.to_string_lossy().into()),
        source: Some(mount.host_path.to_string_lossy().into()),
        typ: Some(MountType::BIND),
        read_only: Some(mount.read_only),
        ..Mount::default()
    });
    ContainerCreateBody {
        image: Some(spec.image.to_string()),
        entrypoint: words(&spec.command),
        cmd: words(&spec.args),
        env: Some(spec.env.iter().map(|variable| format!("{}={}", variable.name, variable.value)).collect()),
        working_dir: spec.working_dir.as_ref().map(ToString::to_string),
        user: spec.user.map(|user| match user.gid {
            Some(gid) => format!("{}:{gid}", user.uid),
            None => user.uid.to_string(),
        }),
        tty: Some(spec.tty),
        labels: Some(HashMap::from([
            (NODE_LABEL.into(), node.into()),
            (SANDBOX_LABEL.into(), id.sandbox.to_string()),
            (CONTAINER_LABEL.into(), id.name.to_string()),
            (ATTEMPT_LABEL.into(), id.attempt.to_string()),
            (IMAGE_LABEL.into(), spec.image.to_string()),
            (LABELS_LABEL.into(), encode(&spec.labels)),
        ])),
        host_config: Some(HostConfig {
            network_mode: Some(sandbox.clone()),
            ipc_mode: Some(sandbox),
            mounts: Some(mounts.collect()),
            nano_cpus: spec.resources.cpu_millis.map(nano_cpus),
            memory: spec.resources.memory_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// What the engine says of one thing that this node made.
pub(super) enum Made {
    Sandbox(SandboxStatus),
    Container(ContainerStatus),
}

/// Reads what the engine says; none of what this node did not make.
pub(super) fn made(inspected: &ContainerInspectResponse) -> Option<Made> {
    let labels = inspected.config.as_ref()?.labels.as_ref()?;
    let sandbox = SandboxId(labels.get(SANDBOX_LABEL)?.as_str().into());
    let own: Labels = serde_json::from_str(labels.get(LABELS_LABEL)?).ok()?;
    let Some(name) = labels.get(CONTAINER_LABEL) else {
        return Some(Made::Sandbox(SandboxStatus {
            id: sandbox,
            labels: own,
            created_at: inspected.created.as_ref()?.parse().ok()?,
            ready: inspected.state.as_ref()?.status == Some(ContainerStateStatusEnum::RUNNING),
            address: address(inspected),
            containers: Vec::new(),
        }));
    };
    let id = ContainerId { sandbox, name: name.as_str().into(), attempt: labels.get(ATTEMPT_LABEL)?.parse().ok()? };
    let image = labels.get(IMAGE_LABEL)?.as_str().into();
    let image_id = inspected.image.as_deref()?.into();
    Some(Made::Container(ContainerStatus { id, labels: own, image, image_id, state: state(inspected)? }))
}

/// Whom a container would run as, asked for or by its image, if that is root or nobody can tell: names of users are looked
/// up in files of the image.
pub(super) fn as_root(asked: Option<User>, image_user: &str) -> Option<Box<str>> {
    let user = match asked {
        Some(user) => user.uid.to_string(),
        None => image_user.split(':').next().unwrap_or_default().into(),
    };
    let is_another = user.parse::<u32>().is_ok_and(|uid| uid != 0);
    (!is_another).then(|| user.into())
}

/// What a container does.
pub(super) fn state(inspected: &ContainerInspectResponse) -> Option<ContainerState> {
    let state = inspected.state.as_ref()?;
    let time = |time: &Option<String>| time.as_ref().and_then(|time| time.parse::<Timestamp>().ok());
    let started_at = time(&state.started_at)?;
    Some(match state.status? {
        ContainerStateStatusEnum::CREATED => ContainerState::Created,
        ContainerStateStatusEnum::EXITED | ContainerStateStatusEnum::DEAD => ContainerState::Exited {
            code: state.exit_code.and_then(|code| code.try_into().ok()).unwrap_or(ExitReason::LOST_CODE),
            reason: if state.oom_killed == Some(true) { ExitReason::OutOfMemory } else { ExitReason::Ended },
            started_at,
            finished_at: time(&state.finished_at)?.max(started_at),
        },
        _ => ContainerState::Running { started_at, pid: state.pid.and_then(|pid| pid.try_into().ok()) },
    })
}

/// The address that the engine gave a sandbox, on the first of its networks that has one.
fn address(inspected: &ContainerInspectResponse) -> Option<IpAddr> {
    let networks = BTreeMap::from_iter(inspected.network_settings.as_ref()?.networks.as_ref()?);
    networks.into_values().find_map(|network| network.ip_address.as_ref()?.parse().ok())
}

fn nano_cpus(millis: u64) -> i64 {
    const NANOS_A_MILLI: u64 = 1_000_000;
    i64::try_from(millis.saturating_mul(NANOS_A_MILLI)).unwrap_or(i64::MAX)
}

fn encode(labels: &Labels) -> String {
    serde_json::to_string(labels).expect("a map of text is JSON")
}

#[cfg(test)]
mod tests {
    use orchestra_core::runtime::User;

    use super::as_root;

    #[test]
    fn only_a_number_other_than_that_of_root_is_known_not_to_be_root() {
        let user = |uid| Some(User { uid, gid: None });
        for (asked, image, root) in [
            (None, "", Some("")),
            (None, "0:5", Some("0")),
            (None, "www", Some("www")),
            (None, "1000:0", None),
            (user(0), "1000", Some("0")),
            (user(1_000), "", None),
        ] {
            assert_eq!(as_root(asked, image).as_deref(), root, "{asked:?} {image:?}");
        }
    }
}
