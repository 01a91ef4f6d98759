//! What is often asked of a Service, and has one answer: what its type has a use for.

use k8s_openapi::api::core::v1::ServiceSpec;

/// The type; `ClusterIP` if none is given.
#[must_use]
pub fn type_of(spec: &ServiceSpec) -> &str {
    spec.type_.as_deref().unwrap_or("ClusterIP")
}

/// Whether it has an address in the cluster, or says that it wants none: all but mere names do.
#[must_use]
pub fn has_address(spec: &ServiceSpec) -> bool {
    type_of(spec) != "ExternalName"
}

/// Whether a load balancer stands before it.
#[must_use]
pub fn is_load_balancer(spec: &ServiceSpec) -> bool {
    type_of(spec) == "LoadBalancer"
}

/// Whether each of its ports has one on every node.
#[must_use]
pub fn has_node_ports(spec: &ServiceSpec) -> bool {
    type_of(spec) == "NodePort" || is_load_balancer(spec) && spec.allocate_load_balancer_node_ports != Some(false)
}

/// Whether a load balancer asks each node for pods of its own.
#[must_use]
pub fn has_health_check(spec: &ServiceSpec) -> bool {
    is_load_balancer(spec) && spec.external_traffic_policy.as_deref() == Some("Local")
}

/// Whether it is reached from outside of the cluster.
#[must_use]
pub fn is_external(spec: &ServiceSpec) -> bool {
    let has_addresses = spec.external_ips.as_ref().is_some_and(|addresses| !addresses.is_empty());
    matches!(type_of(spec), "LoadBalancer" | "NodePort") || type_of(spec) == "ClusterIP" && has_addresses
}
