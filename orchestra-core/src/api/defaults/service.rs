//! The defaults of services.

use k8s_openapi::api::core::v1::{ClientIPConfig, Service, SessionAffinityConfig};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// How long a client stays with a pod under session affinity.
const AFFINITY_SECONDS: i32 = 10_800;

/// Fills in a service, but for the addresses and ports that the server allocates.
pub fn service(service: &mut Service) {
    let spec = service.spec.get_or_insert_default();
    spec.session_affinity.get_or_insert_with(|| "None".to_owned());
    match spec.session_affinity.as_deref() {
        Some("None") => spec.session_affinity_config = None,
        Some("ClientIP") => {
            let config: &mut SessionAffinityConfig = spec.session_affinity_config.get_or_insert_default();
            let client: &mut ClientIPConfig = config.client_ip.get_or_insert_default();
            client.timeout_seconds.get_or_insert(AFFINITY_SECONDS);
        }
        _ => {}
    }
    spec.type_.get_or_insert_with(|| "ClusterIP".to_owned());
    let service_type = spec.type_.as_deref().unwrap_or_default();
    for port in spec.ports.iter_mut().flatten() {
        port.protocol.get_or_insert_with(|| "TCP".to_owned());
        match &port.target_port {
            None | Some(IntOrString::Int(0)) => port.target_port = Some(IntOrString::Int(port.port)),
            Some(IntOrString::String(name)) if name.is_empty() => port.target_port = Some(IntOrString::Int(port.port)),
            Some(_) => {}
        }
    }
    let external = matches!(service_type, "NodePort" | "LoadBalancer");
    if external {
        spec.external_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
    }
    if service_type != "ExternalName" {
        spec.internal_traffic_policy.get_or_insert_with(|| "Cluster".to_owned());
    }
    if service_type == "LoadBalancer" {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
    if matches!(service_type, "ClusterIP" | "NodePort" | "LoadBalancer") {
        families(spec);
    }
}

/// A service has one address family unless it says otherwise: that of its address, if it names one.
fn families(spec: &mut k8s_openapi::api::core::v1::ServiceSpec) {
    let address = spec.cluster_ip.clone().filter(|address| !address.is_empty());
    if let (Some(address), None) = (&address, &spec.cluster_ips) {
        spec.cluster_ips = Some(vec![address.clone()]);
    }
    spec.ip_family_policy.get_or_insert_with(|| "SingleStack".to_owned());
    let family = if address.is_some_and(|address| address.contains(':')) { "IPv6" } else { "IPv4" };
    spec.ip_families.get_or_insert_with(|| vec![family.to_owned()]);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_minimal_service_gets_what_kubernetes_gives_it() {
        let mut minimal: Service =
            serde_json::from_value(json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}})).unwrap();
        service(&mut minimal);
        assert_eq!(
            serde_json::to_value(minimal.spec).unwrap(),
            json!({
                "internalTrafficPolicy": "Cluster",
                "ipFamilies": ["IPv4"],
                "ipFamilyPolicy": "SingleStack",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
                "sessionAffinity": "None",
                "type": "ClusterIP",
            })
        );
    }
}
