//! The rules of the containers of a pod.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Container, ContainerPort, VolumeMount};

use super::metadata::invalid;
use super::names;
use super::values::{one_of, port_number, required};
use super::{FieldError, Path};
use super::{env, probe, resources, security};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];
const MESSAGE_POLICIES: [&str; 2] = ["FallbackToLogsOnError", "File"];

/// What of its pod a container depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Context<'a> {
    /// The names of the volumes there are to mount.
    pub(super) volumes: &'a BTreeSet<&'a str>,
    /// Whether the pod has the network of its host.
    pub(super) host_network: bool,
}

/// Checks one of a pod's main containers.
pub(super) fn container(one: &Container, context: Context<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    every_container(one, context, path, errors);
    if let Some(policy) = one.restart_policy.as_deref() {
        one_of(Some(policy), &["Always", "OnFailure", "Never"], &path.field("restartPolicy"), errors);
    }
}

/// Checks a container that runs before the main ones or, as a sidecar, beside them.
pub(super) fn init_container(one: &Container, context: Context<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    every_container(one, context, path, errors);
    if let Some(policy) = one.restart_policy.as_deref() {
        one_of(Some(policy), &["Always", "OnFailure", "Never"], &path.field("restartPolicy"), errors);
    }
    if one.restart_policy.as_deref() == Some("Always") {
        return;
    }
    for (field, present) in [
        ("lifecycle", one.lifecycle.is_some()),
        ("livenessProbe", one.liveness_probe.is_some()),
        ("readinessProbe", one.readiness_probe.is_some()),
        ("startupProbe", one.startup_probe.is_some()),
    ] {
        if present {
            let detail = "may not be set for init containers without restartPolicy=Always";
            errors.push(FieldError::forbidden(&path.field(field), detail));
        }
    }
}

/// Checks that no other container of the pod has this one's name.
pub(super) fn unique<'a>(
    one: &'a Container,
    seen: &mut BTreeSet<&'a str>,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    if !one.name.is_empty() && !seen.insert(&one.name) {
        errors.push(FieldError::duplicate(&path.field("name"), &one.name));
    }
}

/// Checks that no other container of the pod has this one's ports on the host.
pub(super) fn host_ports<'a>(
    one: &'a Container,
    seen: &mut BTreeSet<(i32, &'a str, &'a str)>,
    path: &Path<'_>,
    errors: &mut Vec<FieldError>,
) {
    let path = path.field("ports");
    for (index, port) in one.ports.iter().flatten().enumerate() {
        let host_port = port.host_port.unwrap_or(0);
        let protocol = port.protocol.as_deref().unwrap_or_default();
        let address = port.host_ip.as_deref().unwrap_or_default();
        if host_port != 0 && !seen.insert((host_port, address, protocol)) {
            let value = format!("{protocol}/{address}/{host_port}");
            errors.push(FieldError::duplicate(&path.index(index).field("hostPort"), value));
        }
    }
}

fn every_container(one: &Container, context: Context<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let name = path.field("name");
    match one.name.as_str() {
        "" => errors.push(FieldError::required(&name, "")),
        text => invalid(&name, text, names::dns_1123_label(text), errors),
    }
    let image = path.field("image");
    match one.image.as_deref().unwrap_or_default() {
        "" => errors.push(FieldError::required(&image, "")),
        text if text.trim() != text => {
            errors.push(FieldError::invalid(&image, text, "must not have leading or trailing whitespace"));
        }
        _ => {}
    }
    let message = one.termination_message_policy.as_deref();
    one_of(message, &MESSAGE_POLICIES, &path.field("terminationMessagePolicy"), errors);
    ports(one.ports.as_deref().unwrap_or_default(), context, &path.field("ports"), errors);
    env::env(one.env.as_deref().unwrap_or_default(), &path.field("env"), errors);
    env::env_from(one.env_from.as_deref().unwrap_or_default(), &path.field("envFrom"), errors);
    mounts(one.volume_mounts.as_deref().unwrap_or_default(), context, &path.field("volumeMounts"), errors);
    if let Some(lifecycle) = &one.lifecycle {
        probe::lifecycle(lifecycle, &path.field("lifecycle"), errors);
    }
    for (field, probe, kind) in [
        ("livenessProbe", &one.liveness_probe, probe::Kind::Liveness),
        ("readinessProbe", &one.readiness_probe, probe::Kind::Readiness),
        ("startupProbe", &one.startup_probe, probe::Kind::Startup),
    ] {
        if let Some(probe) = probe {
            probe::probe(probe, kind, &path.field(field), errors);
        }
    }
    one_of(one.image_pull_policy.as_deref(), &PULL_POLICIES, &path.field("imagePullPolicy"), errors);
    if let Some(resources) = &one.resources {
        resources::requirements(resources, &path.field("resources"), errors);
    }
    if let Some(context) = &one.security_context {
        security::container(context, &path.field("securityContext"), errors);
    }
}

fn ports(ports: &[ContainerPort], context: Context<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        if let Some(name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            let problems = names::port_name(name);
            if problems.is_empty() && !seen.insert(name) {
                errors.push(FieldError::duplicate(&path.field("name"), name));
            }
            invalid(&path.field("name"), name, problems, errors);
        }
        match port.container_port {
            0 => errors.push(FieldError::required(&path.field("containerPort"), "")),
            number => port_number(number, &path.field("containerPort"), errors),
        }
        match port.host_port.unwrap_or(0) {
            0 => {}
            number => port_number(number, &path.field("hostPort"), errors),
        }
        if context.host_network && port.host_port.is_some_and(|host_port| host_port != port.container_port) {
            let detail = "must match `hostPort` when `hostNetwork` is true";
            errors.push(FieldError::invalid(&path.field("containerPort"), port.container_port, detail));
        }
        one_of(port.protocol.as_deref(), &PROTOCOLS, &path.field("protocol"), errors);
    }
}

fn mounts(mounts: &[VolumeMount], context: Context<'_>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, mount) in mounts.iter().enumerate() {
        let path = path.index(index);
        required(Some(&mount.name), &path.field("name"), errors);
        if !mount.name.is_empty() && !context.volumes.contains(mount.name.as_str()) {
            errors.push(FieldError::not_found(&path.field("name"), &mount.name));
        }
        required(Some(&mount.mount_path), &path.field("mountPath"), errors);
        if !mount.mount_path.is_empty() && !seen.insert(&mount.mount_path) {
            errors.push(FieldError::invalid(&path.field("mountPath"), &mount.mount_path, "must be unique"));
        }
        for (field, sub_path) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
            if let Some(sub_path) = sub_path.as_deref() {
                relative_path(sub_path, &path.field(field), errors);
            }
        }
        let both = |field: &Option<String>| field.as_deref().is_some_and(|text| !text.is_empty());
        if both(&mount.sub_path) && both(&mount.sub_path_expr) {
            let detail = "subPathExpr and subPath are mutually exclusive";
            errors.push(FieldError::invalid(&path.field("subPathExpr"), &mount.sub_path_expr, detail));
        }
    }
}

/// Checks that a path stays below the directory it is in.
pub(super) fn relative_path(text: &str, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if text.starts_with('/') {
        errors.push(FieldError::invalid(path, text, "must be a relative path"));
    }
    if text.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, text, "must not contain '..'"));
    }
}
