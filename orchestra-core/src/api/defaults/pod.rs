//! The defaults of pods and of the templates they are made from.

use k8s_openapi::api::core::v1::{Pod, PodSpec, PodTemplateSpec};

use super::container::{container, ephemeral_container, requests_from_limits};
use super::volume::volume;

/// How long a pod has to end by itself.
const GRACE_SECONDS: i64 = 30;

/// Fills in a pod.
pub fn pod(pod: &mut Pod) {
    let Some(spec) = &mut pod.spec else { return };
    pod_spec(spec);
    // Only a pod has this, not a template: a user of the template can see whether it was said.
    spec.enable_service_links.get_or_insert(true);
}

/// Fills in the template of a workload's pods.
pub fn template(template: &mut PodTemplateSpec) {
    template.spec.iter_mut().for_each(pod_spec);
}

fn pod_spec(spec: &mut PodSpec) {
    let text = |field: &mut Option<String>, default: &str| {
        if field.as_deref().unwrap_or_default().is_empty() {
            *field = Some(default.to_owned());
        }
    };
    text(&mut spec.restart_policy, "Always");
    text(&mut spec.dns_policy, "ClusterFirst");
    text(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(GRACE_SECONDS);
    spec.security_context.get_or_insert_default();
    // The old name of the field is kept in step, for old clients.
    match (&spec.service_account_name, &spec.service_account) {
        (Some(name), _) if !name.is_empty() => spec.service_account = Some(name.clone()),
        (_, Some(name)) if !name.is_empty() => spec.service_account_name = Some(name.clone()),
        _ => {}
    }
    spec.volumes.iter_mut().flatten().for_each(volume);
    spec.init_containers.iter_mut().flatten().for_each(container);
    spec.containers.iter_mut().for_each(container);
    spec.ephemeral_containers.iter_mut().flatten().for_each(ephemeral_container);
    requests_from_limits(&mut spec.resources);
    if spec.host_network == Some(true) {
        host_ports(spec);
    }
    for constraint in spec.topology_spread_constraints.iter_mut().flatten() {
        constraint.node_affinity_policy.get_or_insert_with(|| "Honor".to_owned());
        constraint.node_taints_policy.get_or_insert_with(|| "Ignore".to_owned());
    }
}

/// On the host's network a container's port is the host's.
fn host_ports(spec: &mut PodSpec) {
    let containers = spec.init_containers.iter_mut().flatten().chain(&mut spec.containers);
    for port in containers.flat_map(|container| container.ports.iter_mut().flatten()) {
        if port.host_port.unwrap_or(0) == 0 {
            port.host_port = Some(port.container_port);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_minimal_pod_gets_what_kubernetes_gives_it() {
        let mut minimal: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web"},
            "spec": {
                "containers": [{
                    "name": "web", "image": "host:1", "ports": [{"containerPort": 80}],
                    "readinessProbe": {"httpGet": {"port": 80}},
                }],
                "volumes": [{"name": "a", "configMap": {"name": "c"}}, {"name": "b"}],
            },
        }))
        .unwrap();
        pod(&mut minimal);
        assert_eq!(
            serde_json::to_value(minimal.spec).unwrap(),
            json!({
                "containers": [{
                    "name": "web", "image": "host:1", "imagePullPolicy": "IfNotPresent",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "readinessProbe": {
                        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3,
                    },
                    "resources": {},
                    "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                }],
                "dnsPolicy": "ClusterFirst",
                "enableServiceLinks": true,
                "restartPolicy": "Always",
                "schedulerName": "default-scheduler",
                "securityContext": {},
                "terminationGracePeriodSeconds": 30,
                "volumes": [
                    {"name": "a", "configMap": {"name": "c", "defaultMode": 420}},
                    {"name": "b", "emptyDir": {}},
                ],
            })
        );
    }
}
