//! The defaults of containers and their probes.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, EphemeralContainer, HTTPGetAction, Lifecycle, LifecycleHandler, Probe,
    ResourceRequirements,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Fills in a container of a pod, be it an init container or not.
pub(super) fn container(container: &mut Container) {
    pull_policy(container.image.as_deref(), &mut container.image_pull_policy);
    termination_message(&mut container.termination_message_path, &mut container.termination_message_policy);
    container.resources.get_or_insert_default();
    requests_from_limits(&mut container.resources);
    ports(container.ports.as_deref_mut());
    env(container.env.as_deref_mut());
    for one in [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe] {
        one.iter_mut().for_each(probe);
    }
    container.lifecycle.iter_mut().for_each(lifecycle);
}

/// Fills in a container added to a running pod.
pub(super) fn ephemeral_container(container: &mut EphemeralContainer) {
    pull_policy(container.image.as_deref(), &mut container.image_pull_policy);
    termination_message(&mut container.termination_message_path, &mut container.termination_message_policy);
    container.resources.get_or_insert_default();
    env(container.env.as_deref_mut());
}

/// Fills in requests with the limits of the same resource.
pub(super) fn requests_from_limits(resources: &mut Option<ResourceRequirements>) {
    let Some(ResourceRequirements { limits: Some(limits), requests, .. }) = resources else { return };
    if limits.is_empty() {
        return;
    }
    let requests: &mut BTreeMap<String, Quantity> = requests.get_or_insert_default();
    for (resource, limit) in limits {
        requests.entry(resource.clone()).or_insert_with(|| limit.clone());
    }
}

/// An image without a tag, or with the tag `latest` and no digest, is pulled each time.
fn pull_policy(image: Option<&str>, policy: &mut Option<String>) {
    if policy.as_deref().is_some_and(|policy| !policy.is_empty()) {
        return;
    }
    let image = image.unwrap_or_default();
    let last = image.rsplit('/').next().unwrap_or_default();
    let floating = match last.split_once(':') {
        _ if last.contains('@') => false,
        Some((_, tag)) => tag == "latest",
        None => true,
    };
    *policy = Some(if floating { "Always" } else { "IfNotPresent" }.to_owned());
}

fn termination_message(path: &mut Option<String>, policy: &mut Option<String>) {
    path.get_or_insert_with(|| "/dev/termination-log".to_owned());
    policy.get_or_insert_with(|| "File".to_owned());
}

fn ports(ports: Option<&mut [ContainerPort]>) {
    for port in ports.into_iter().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
    }
}

fn env(env: Option<&mut [EnvVar]>) {
    for source in env.into_iter().flatten().filter_map(|var| var.value_from.as_mut()) {
        if let Some(field) = &mut source.field_ref {
            field.api_version.get_or_insert_with(|| "v1".to_owned());
        }
        if let Some(resource) = &mut source.resource_field_ref {
            resource.divisor.get_or_insert_with(|| Quantity("0".to_owned()));
        }
    }
}

fn probe(probe: &mut Probe) {
    // Zero means unset here: Kubernetes' fields are plain integers.
    for (field, default) in [
        (&mut probe.timeout_seconds, 1),
        (&mut probe.period_seconds, 10),
        (&mut probe.success_threshold, 1),
        (&mut probe.failure_threshold, 3),
    ] {
        if field.unwrap_or(0) == 0 {
            *field = Some(default);
        }
    }
    probe.http_get.iter_mut().for_each(http_get);
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn lifecycle(lifecycle: &mut Lifecycle) {
    for hook in [&mut lifecycle.post_start, &mut lifecycle.pre_stop] {
        if let Some(LifecycleHandler { http_get: Some(action), .. }) = hook {
            http_get(action);
        }
    }
}

fn http_get(action: &mut HTTPGetAction) {
    action.path.get_or_insert_with(|| "/".to_owned());
    action.scheme.get_or_insert_with(|| "HTTP".to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floating_tag_is_pulled_always() {
        for (image, expected) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("host:5000/nginx", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("host:5000/nginx:1", "IfNotPresent"),
            ("nginx@sha256:00", "IfNotPresent"),
            ("nginx:latest@sha256:00", "IfNotPresent"),
        ] {
            let mut policy = None;
            pull_policy(Some(image), &mut policy);
            assert_eq!(policy.as_deref(), Some(expected), "{image}");
        }
    }

    #[test]
    fn limits_are_requests_where_none_are_given() {
        let quantity = |text: &str| Quantity(text.to_owned());
        let mut resources = Some(ResourceRequirements {
            limits: Some([("cpu".to_owned(), quantity("2")), ("memory".to_owned(), quantity("1Gi"))].into()),
            requests: Some([("cpu".to_owned(), quantity("1"))].into()),
            ..Default::default()
        });
        requests_from_limits(&mut resources);
        let requests = resources.unwrap().requests.unwrap();
        assert_eq!((&requests["cpu"], &requests["memory"]), (&quantity("1"), &quantity("1Gi")));
    }
}
