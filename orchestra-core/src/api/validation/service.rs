//! The rules of services.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use serde_json::json;

use super::metadata::{Scope, invalid, object_meta, object_meta_update};
use super::names::{self, NameRule};
use super::values::{one_of, one_of_or_absent, port, port_number};
use super::{FieldError, Path};
use crate::api::service::{has_health_check, is_external, is_load_balancer};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const POLICIES: [&str; 2] = ["Cluster", "Local"];
const ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
/// The longest that a client can stay with a pod: a day.
const AFFINITY_SECONDS_MAX: i32 = 86_400;

/// Checks a service.
pub fn service(service: &Service) -> Vec<FieldError> {
    let mut errors = object_meta(&service.metadata, Scope::Namespaced, NameRule::Label1035);
    let no_spec = ServiceSpec::default();
    let (spec, path) = (service.spec.as_ref().unwrap_or(&no_spec), Path::root("spec"));
    ports(spec, &path.field("ports"), &mut errors);
    by_type(spec, &path, &mut errors);
    only_from_outside(spec, &path, &mut errors);
    one_of(spec.type_.as_deref(), &TYPES, &path.field("type"), &mut errors);
    let selector = path.field("selector");
    for (key, value) in spec.selector.iter().flatten() {
        invalid(&selector, key, names::qualified_name(key), &mut errors);
        invalid(&selector, value, names::label_value(value), &mut errors);
    }
    session_affinity(spec, &path, &mut errors);
    for (field, policy) in [
        ("internalTrafficPolicy", &spec.internal_traffic_policy),
        ("externalTrafficPolicy", &spec.external_traffic_policy),
    ] {
        one_of_or_absent(policy.as_deref(), &POLICIES, &path.field(field), &mut errors);
    }
    let families = path.field("ipFamilies");
    for (index, family) in spec.ip_families.iter().flatten().enumerate() {
        one_of(Some(family), &["IPv4", "IPv6"], &families.index(index), &mut errors);
    }
    let policies = ["SingleStack", "PreferDualStack", "RequireDualStack"];
    one_of_or_absent(spec.ip_family_policy.as_deref(), &policies, &path.field("ipFamilyPolicy"), &mut errors);
    addresses(spec, &path, &mut errors);
    errors
}

/// Checks what a write changes in a service: the address it was given stays, unless it becomes a mere name.
pub fn service_update(new: &Service, old: &Service) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    let (Some(new), Some(old)) = (&new.spec, &old.spec) else { return errors };
    let is_name = |spec: &ServiceSpec| spec.type_.as_deref() == Some("ExternalName");
    let before = old.cluster_ip.as_deref().unwrap_or_default();
    if is_name(new) || is_name(old) || before.is_empty() {
        return errors;
    }
    let path = Path::root("spec");
    let path = path.field("clusterIPs");
    match new.cluster_ip.as_deref().unwrap_or_default() {
        "" => errors.push(FieldError::invalid(&path.index(0), &new.cluster_ips, "primary clusterIP can not be unset")),
        after if after != before => {
            errors.push(FieldError::invalid(&path.index(0), [after], "may not change once set"));
        }
        _ => {}
    }
    errors
}

fn ports(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let ports = spec.ports.as_deref().unwrap_or_default();
    let headless = spec.cluster_ip.as_deref() == Some("None");
    if ports.is_empty() && !headless && spec.type_.as_deref() != Some("ExternalName") {
        errors.push(FieldError::required(path, ""));
    }
    let mut seen_names = BTreeSet::new();
    let mut seen_ports = BTreeSet::new();
    for (index, one) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = one.name.as_deref().unwrap_or_default();
        if name.is_empty() && ports.len() > 1 {
            errors.push(FieldError::required(&path.field("name"), ""));
        } else if !name.is_empty() {
            invalid(&path.field("name"), name, names::dns_1123_label(name), errors);
            if !seen_names.insert(name) {
                errors.push(FieldError::duplicate(&path.field("name"), name));
            }
        }
        service_port(one, spec, &path, errors);
        if !seen_ports.insert((one.port, one.protocol.as_deref().unwrap_or_default())) {
            errors.push(FieldError::duplicate(&path, json!({"protocol": one.protocol, "port": one.port})));
        }
    }
}

fn service_port(one: &ServicePort, spec: &ServiceSpec, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    port_number(one.port, &path.field("port"), errors);
    one_of(one.protocol.as_deref(), &PROTOCOLS, &path.field("protocol"), errors);
    if let Some(target) = &one.target_port {
        port(target, &path.field("targetPort"), errors);
    }
    let node_port = one.node_port.unwrap_or(0);
    if node_port == 0 {
        return;
    }
    match spec.type_.as_deref() {
        Some("ClusterIP") => {
            let detail = "may not be used when `type` is 'ClusterIP'";
            errors.push(FieldError::forbidden(&path.field("nodePort"), detail));
        }
        Some("ExternalName") => {
            let detail = "may not be used when `type` is 'ExternalName'";
            errors.push(FieldError::forbidden(&path.field("nodePort"), detail));
        }
        _ => port_number(node_port, &path.field("nodePort"), errors),
    }
}

fn by_type(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let addresses = path.field("clusterIPs");
    match spec.type_.as_deref() {
        Some(service_type @ ("LoadBalancer" | "NodePort")) if headless => {
            let detail = format!("may not be set to 'None' for {service_type} services");
            errors.push(FieldError::invalid(&addresses.index(0), "None", detail));
        }
        Some("ExternalName") => {
            if spec.cluster_ip.as_deref().is_some_and(|address| !address.is_empty()) {
                let detail = "may not be set for ExternalName services";
                errors.push(FieldError::forbidden(&addresses.index(0), detail));
            }
            let name = spec.external_name.as_deref().unwrap_or_default();
            // A trailing dot makes the name absolute.
            match name.strip_suffix('.').unwrap_or(name) {
                "" => errors.push(FieldError::required(&path.field("externalName"), "")),
                name => invalid(&path.field("externalName"), name, names::dns_1123_subdomain(name), errors),
            }
        }
        _ => {}
    }
}

/// Checks that what is for clients outside of the cluster is said of a service that has any.
fn only_from_outside(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let traffic = spec.external_traffic_policy.as_deref().unwrap_or_default();
    if !traffic.is_empty() && !is_external(spec) {
        let detail = "may only be set for externally-accessible services";
        errors.push(FieldError::invalid(&path.field("externalTrafficPolicy"), traffic, detail));
    }
    let checked = spec.health_check_node_port.unwrap_or(0);
    if checked != 0 && !has_health_check(spec) {
        let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.push(FieldError::invalid(&path.field("healthCheckNodePort"), checked, detail));
    }
    for (field, is_set) in [
        ("allocateLoadBalancerNodePorts", spec.allocate_load_balancer_node_ports.is_some()),
        ("loadBalancerClass", spec.load_balancer_class.is_some()),
    ] {
        if is_set && !is_load_balancer(spec) {
            errors.push(FieldError::forbidden(&path.field(field), "may only be used when `type` is 'LoadBalancer'"));
        }
    }
}

fn session_affinity(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    one_of(spec.session_affinity.as_deref(), &["ClientIP", "None"], &path.field("sessionAffinity"), errors);
    let client = spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
    let seconds = client.and_then(|client| client.timeout_seconds);
    if let Some(seconds) = seconds.filter(|seconds| !(1..=AFFINITY_SECONDS_MAX).contains(seconds)) {
        let path = path.field("sessionAffinityConfig");
        let path = path.field("clientIP");
        let detail = format!("must be greater than 0 and less than {AFFINITY_SECONDS_MAX}");
        errors.push(FieldError::invalid(&path.field("timeoutSeconds"), seconds, detail));
    }
}

fn addresses(spec: &ServiceSpec, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let is_address = |text: &str| text.parse::<IpAddr>().is_ok();
    let cluster_ips = path.field("clusterIPs");
    let cluster_ip = spec.cluster_ip.as_deref().filter(|text| !text.is_empty() && *text != "None");
    if let Some(address) = cluster_ip.filter(|address| !is_address(address)) {
        errors.push(FieldError::invalid(&cluster_ips.index(0), address, ADDRESS));
    }
    let first = spec.cluster_ips.iter().flatten().next();
    if first.is_some() && first.map(String::as_str) != spec.cluster_ip.as_deref() {
        let detail = "first value must match `clusterIP`";
        errors.push(FieldError::invalid(&cluster_ips, &spec.cluster_ips, detail));
    }
    let external = path.field("externalIPs");
    for (index, address) in spec.external_ips.iter().flatten().enumerate() {
        if !is_address(address) {
            errors.push(FieldError::invalid(&external.index(index), address, ADDRESS));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::defaults;

    fn read(spec: &serde_json::Value) -> Service {
        let object = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec});
        let mut service = serde_json::from_value(object).unwrap();
        defaults::service(&mut service);
        service
    }

    fn check(spec: &serde_json::Value) -> Vec<String> {
        service(&read(spec)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ports_are_required_named_and_unique() {
        assert_eq!(check(&json!({})), ["spec.ports: Required value"]);
        assert_eq!(
            check(&json!({"ports": [{"port": 0}, {"name": "b", "port": 80}, {"name": "b", "port": 80}]})),
            [
                "spec.ports[0].name: Required value",
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                "spec.ports[0].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                r#"spec.ports[2].name: Duplicate value: "b""#,
                r#"spec.ports[2]: Duplicate value: {"port":80,"protocol":"TCP"}"#,
            ]
        );
    }

    #[test]
    fn the_address_of_a_service_stays() {
        let at = |address: &str| read(&json!({"clusterIP": address, "ports": [{"port": 80}]}));
        assert_eq!(service_update(&at("127.96.0.1"), &at("127.96.0.1")), []);
        assert_eq!(
            service_update(&at("127.96.0.2"), &at("127.96.0.1"))[0].to_string(),
            r#"spec.clusterIPs[0]: Invalid value: ["127.96.0.2"]: may not change once set"#
        );
    }

    #[test]
    fn a_headless_service_needs_no_port_and_an_external_one_a_name() {
        assert_eq!(check(&json!({"clusterIP": "None"})), Vec::<String>::new());
        assert_eq!(check(&json!({"type": "ExternalName"})), ["spec.externalName: Required value"]);
    }
}
