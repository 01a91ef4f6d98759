//! What of a Service goes with its type: an update that leaves a field as it was keeps it while the type has a use for it,
//! and gives it up with the type. What the author sets anew stays, for validation to judge.

use k8s_openapi::api::core::v1::{ServicePort, ServiceSpec};
use serde_json::Value;

use crate::{
    api::service::{has_address, has_health_check, has_node_ports, is_external, is_load_balancer},
    server::object::Object,
};

/// Brings the spec of a Service that is being updated in line with its type, as far as its author has left it to the
/// server.
pub(crate) fn follow_type(new: &mut Object, old: &Object) {
    let spec = |service: &Object| serde_json::from_value::<ServiceSpec>(service.get("spec")?.clone()).ok();
    // What can't be read is refused by validation, with a message.
    let (Some(mut after), Some(before)) = (spec(new), spec(old)) else { return };
    keep_allocated(&mut after, &before);
    drop_type_dependent(&mut after, &before);
    new.insert("spec".into(), serde_json::to_value(&after).unwrap_or(Value::Null));
}

/// Lets it keep what it was given and doesn't mention (Kubernetes' `patchAllocatedValues`).
fn keep_allocated(new: &mut ServiceSpec, old: &ServiceSpec) {
    if has_address(old) && has_address(new) {
        if is_unset(new.cluster_ip.as_ref()) && new.cluster_ips.as_ref().is_none_or(Vec::is_empty) {
            new.cluster_ip.clone_from(&old.cluster_ip);
        }
        if new.cluster_ips.as_ref().is_none_or(Vec::is_empty) && new.cluster_ip == old.cluster_ip {
            new.cluster_ips.clone_from(&old.cluster_ips);
        }
    }
    if has_node_ports(old) && has_node_ports(new) {
        let protocol = |port: &ServicePort| port.protocol.clone().unwrap_or_else(|| "TCP".into());
        for port in new.ports.iter_mut().flatten().filter(|port| port.node_port.unwrap_or(0) == 0) {
            let same = |old: &&ServicePort| old.port == port.port && protocol(old) == protocol(port);
            port.node_port = old.ports.iter().flatten().find(same).and_then(|old| old.node_port);
        }
    }
    if has_health_check(old) && has_health_check(new) && new.health_check_node_port.unwrap_or(0) == 0 {
        new.health_check_node_port = old.health_check_node_port;
    }
}

/// Takes off what the old type had a use for and the new one has not (Kubernetes' `dropTypeDependentFields`).
fn drop_type_dependent(new: &mut ServiceSpec, old: &ServiceSpec) {
    if has_address(old) && !has_address(new) {
        if new.cluster_ip == old.cluster_ip && new.cluster_ips == old.cluster_ips {
            (new.cluster_ip, new.cluster_ips) = (None, None);
        }
        drop_unchanged(&mut new.ip_families, &old.ip_families);
        drop_unchanged(&mut new.ip_family_policy, &old.ip_family_policy);
    }
    if has_node_ports(old) && !has_node_ports(new) && node_ports(new) == node_ports(old) {
        new.ports.iter_mut().flatten().for_each(|port| port.node_port = None);
    }
    if has_health_check(old) && !has_health_check(new) {
        drop_unchanged(&mut new.health_check_node_port, &old.health_check_node_port);
    }
    if is_load_balancer(old) && !is_load_balancer(new) {
        drop_unchanged(&mut new.allocate_load_balancer_node_ports, &old.allocate_load_balancer_node_ports);
        drop_unchanged(&mut new.load_balancer_class, &old.load_balancer_class);
    }
    if is_external(old) && !is_external(new) {
        drop_unchanged(&mut new.external_traffic_policy, &old.external_traffic_policy);
    }
}

fn drop_unchanged<T: PartialEq>(new: &mut Option<T>, old: &Option<T>) {
    if new == old {
        *new = None;
    }
}

fn is_unset(text: Option<&String>) -> bool {
    text.is_none_or(String::is_empty)
}

/// The node ports, sorted: ports in another order have the same.
fn node_ports(spec: &ServiceSpec) -> Vec<i32> {
    let mut ports: Vec<_> = spec.ports.iter().flatten().filter_map(|port| port.node_port).collect();
    ports.sort_unstable();
    ports
}
