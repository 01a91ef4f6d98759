//! What a node should forward, as a pure function of the cluster's Services and EndpointSlices.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use k8s_openapi::api::{
    core::v1::{Service, ServicePort, ServiceSpec},
    discovery::v1::{Endpoint, EndpointSlice},
};

use super::{Frontend, Protocol, Route, ServiceTable};
use crate::store::Revision;

/// The label by which an endpoint slice names its service.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// How long a client keeps its backend if the service doesn't say: three hours, as in Kubernetes.
const AFFINITY_SECONDS_DEFAULT: u64 = 10_800;

/// The node whose table is computed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeView {
    /// Its name, for services that keep traffic on a node.
    pub name: String,
    /// The addresses at which it serves node ports.
    pub node_port_addresses: Vec<IpAddr>,
}

/// Computes the table of `node` as of `revision`.
///
/// A service's backends are its ready endpoints or, if there is none, those that still serve while they terminate
/// (KEP-1669). Headless and `ExternalName` services have no frontend. What can't be read as an address, a port or a
/// known protocol is left out: it is not for a node to refuse the rest for it.
pub fn table<'a>(
    revision: Revision,
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node: &NodeView,
) -> ServiceTable {
    let mut slices_by_service: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        let service = slice.metadata.labels.as_ref().and_then(|labels| labels.get(SERVICE_NAME_LABEL));
        if let Some(service) = service {
            let namespace = slice.metadata.namespace.as_deref().unwrap_or_default();
            slices_by_service.entry((namespace, service)).or_default().push(slice);
        }
    }
    let mut routes = BTreeMap::new();
    for service in services {
        let key = (
            service.metadata.namespace.as_deref().unwrap_or_default(),
            service.metadata.name.as_deref().unwrap_or_default(),
        );
        let slices = slices_by_service.get(&key).map(Vec::as_slice).unwrap_or_default();
        if let Some(spec) = &service.spec {
            routes.extend(service_routes(spec, slices, node));
        }
    }
    ServiceTable { revision, routes }
}

fn service_routes(spec: &ServiceSpec, slices: &[&EndpointSlice], node: &NodeView) -> Vec<(Frontend, Route)> {
    let kind = spec.type_.as_deref().unwrap_or("ClusterIP");
    if kind == "ExternalName" {
        return Vec::new();
    }
    let affinity = affinity(spec);
    let mut routes = Vec::new();
    for port in spec.ports.iter().flatten() {
        let Some(protocol) = protocol(port.protocol.as_deref()) else { continue };
        let candidates = candidates(port, protocol, slices);
        let mut route = |addresses: &mut dyn Iterator<Item = IpAddr>, port: i32, local: bool| {
            let Some(port) = u16::try_from(port).ok().filter(|&port| port > 0) else { return };
            let backends = backends(&candidates, local.then_some(node.name.as_str()));
            routes.extend(addresses.map(|address| {
                let frontend = Frontend { address: SocketAddr::new(address, port), protocol };
                // A dual-stack service keeps to the family that its client came by.
                let backends = backends.iter().filter(|backend| backend.is_ipv4() == address.is_ipv4());
                (frontend, Route { backends: backends.copied().collect(), affinity })
            }));
        };
        let internal_local = spec.internal_traffic_policy.as_deref() == Some("Local");
        route(&mut cluster_addresses(spec), port.port, internal_local);
        if let (Some(node_port), "NodePort" | "LoadBalancer") = (port.node_port, kind) {
            let external_local = spec.external_traffic_policy.as_deref() == Some("Local");
            route(&mut node.node_port_addresses.iter().copied(), node_port, external_local);
        }
    }
    routes
}

/// The service's addresses; none for a headless one, whose address reads `None`.
fn cluster_addresses(spec: &ServiceSpec) -> impl Iterator<Item = IpAddr> {
    let first = spec.cluster_ip.iter();
    let all = spec.cluster_ips.iter().flatten();
    first.chain(all).filter_map(|address| address.parse().ok()).collect::<BTreeSet<IpAddr>>().into_iter()
}

fn affinity(spec: &ServiceSpec) -> Option<Duration> {
    if spec.session_affinity.as_deref() != Some("ClientIP") {
        return None;
    }
    let configured =
        spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref()?.timeout_seconds);
    let seconds = configured.and_then(|seconds| u64::try_from(seconds).ok()).unwrap_or(AFFINITY_SECONDS_DEFAULT);
    Some(Duration::from_secs(seconds))
}

fn protocol(name: Option<&str>) -> Option<Protocol> {
    match name {
        None | Some("TCP") => Some(Protocol::Tcp),
        Some("UDP") => Some(Protocol::Udp),
        Some(_) => None,
    }
}

/// The endpoints behind one port of a service, each with its addresses at that port.
fn candidates<'a>(
    port: &ServicePort,
    wanted: Protocol,
    slices: &[&'a EndpointSlice],
) -> Vec<(&'a Endpoint, Vec<SocketAddr>)> {
    let mut candidates = Vec::new();
    for slice in slices {
        let target = slice.ports.iter().flatten().find(|candidate| {
            candidate.name.as_deref().unwrap_or_default() == port.name.as_deref().unwrap_or_default()
                && protocol(candidate.protocol.as_deref()) == Some(wanted)
        });
        let Some(target) = target.and_then(|target| u16::try_from(target.port?).ok()) else { continue };
        candidates.extend(slice.endpoints.iter().flatten().map(|endpoint| {
            let addresses = endpoint.addresses.iter().filter_map(|address| address.parse().ok());
            (endpoint, addresses.map(|address| SocketAddr::new(address, target)).collect())
        }));
    }
    candidates
}

/// The ready ones or, without any, those that serve while terminating; only those on `node`, if one is given.
fn backends(candidates: &[(&Endpoint, Vec<SocketAddr>)], node: Option<&str>) -> Vec<SocketAddr> {
    let chosen = |accept: fn(&Endpoint) -> bool| -> BTreeSet<SocketAddr> {
        let near = candidates.iter().filter(|(endpoint, _)| node.is_none() || endpoint.node_name.as_deref() == node);
        near.filter(|(endpoint, _)| accept(endpoint)).flat_map(|(_, addresses)| addresses).copied().collect()
    };
    let ready = chosen(is_ready);
    if ready.is_empty() { chosen(is_draining) } else { ready }.into_iter().collect()
}

/// An endpoint that doesn't say is ready, as the API has it.
fn is_ready(endpoint: &Endpoint) -> bool {
    endpoint.conditions.as_ref().and_then(|conditions| conditions.ready) != Some(false)
}

fn is_draining(endpoint: &Endpoint) -> bool {
    endpoint
        .conditions
        .as_ref()
        .is_some_and(|conditions| conditions.serving == Some(true) && conditions.terminating == Some(true))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
    use proptest::prelude::*;
    use serde_json::json;

    use super::{NodeView, ServiceTable, table};
    use crate::store::Revision;

    fn service(spec: &serde_json::Value) -> Service {
        serde_json::from_value(json!({ "metadata": { "name": "web", "namespace": "a" }, "spec": spec }))
            .expect("a service")
    }

    /// A slice of service `web` with one endpoint for each of `(address, ready, serving, terminating, node)`.
    fn slice(endpoints: &[(&str, bool, bool, bool, &str)]) -> EndpointSlice {
        let endpoints: Vec<_> = endpoints
            .iter()
            .map(|(address, ready, serving, terminating, node)| {
                json!({ "addresses": [address], "nodeName": node,
                    "conditions": { "ready": ready, "serving": serving, "terminating": terminating } })
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": { "name": "web-1", "namespace": "a", "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        }))
        .expect("a slice")
    }

    fn of(spec: &serde_json::Value, slice: &EndpointSlice) -> ServiceTable {
        let node = NodeView { name: "n1".into(), node_port_addresses: vec!["127.0.0.1".parse().expect("an address")] };
        table(Revision(7), [&service(spec)], [slice], &node)
    }

    fn shown(table: &ServiceTable) -> Vec<String> {
        let route =
            |(frontend, route): (&super::Frontend, &super::Route)| format!("{} {:?}", frontend.address, route.backends);
        table.routes.iter().map(route).collect()
    }

    fn spec() -> serde_json::Value {
        json!({ "clusterIP": "127.96.0.9", "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] })
    }

    #[test]
    fn a_frontend_routes_to_the_ready_endpoints_at_their_target_port() {
        let slice = slice(&[("127.1.0.2", true, true, false, "n1"), ("127.1.0.1", false, true, true, "n1")]);
        assert_eq!(shown(&of(&spec(), &slice)), ["127.96.0.9:80 [127.1.0.2:8080]"]);
    }

    /// SEMANTICS 57: backends are the ready ones, else those that serve while terminating.
    #[test]
    fn without_ready_endpoints_the_draining_ones_serve() {
        let slice = slice(&[("127.1.0.1", false, true, true, "n1"), ("127.1.0.2", false, false, true, "n1")]);
        assert_eq!(shown(&of(&spec(), &slice)), ["127.96.0.9:80 [127.1.0.1:8080]"]);
    }

    #[test]
    fn a_frontend_without_endpoints_stays_to_refuse() {
        assert_eq!(shown(&of(&spec(), &slice(&[]))), ["127.96.0.9:80 []"]);
    }

    #[test]
    fn headless_and_external_services_have_no_frontend() {
        let slice = slice(&[("127.1.0.1", true, true, false, "n1")]);
        for spec in [
            json!({ "clusterIP": "None", "ports": [{ "name": "http", "port": 80 }] }),
            json!({ "type": "ExternalName", "externalName": "x", "ports": [{ "name": "http", "port": 80 }] }),
        ] {
            assert_eq!(shown(&of(&spec, &slice)), [""; 0]);
        }
    }

    #[test]
    fn a_local_node_port_keeps_to_the_nodes_own_endpoints() {
        let slice = slice(&[("127.1.0.1", true, true, false, "n1"), ("127.1.0.2", true, true, false, "n2")]);
        let mut spec = spec();
        spec["type"] = "NodePort".into();
        spec["externalTrafficPolicy"] = "Local".into();
        spec["ports"][0]["nodePort"] = 30_080.into();
        assert_eq!(
            shown(&of(&spec, &slice)),
            ["127.0.0.1:30080 [127.1.0.1:8080]", "127.96.0.9:80 [127.1.0.1:8080, 127.1.0.2:8080]"]
        );
    }

    #[test]
    fn an_internal_service_that_is_local_refuses_without_endpoints_of_the_node() {
        let mut spec = spec();
        spec["internalTrafficPolicy"] = "Local".into();
        let far = slice(&[("127.1.0.2", true, true, false, "n2")]);
        assert_eq!(shown(&of(&spec, &far)), ["127.96.0.9:80 []"]);
        let near = slice(&[("127.1.0.1", false, true, true, "n1"), ("127.1.0.2", true, true, false, "n2")]);
        assert_eq!(
            shown(&of(&spec, &near)),
            ["127.96.0.9:80 [127.1.0.1:8080]"],
            "its own draining one, not the far one"
        );
    }

    #[test]
    fn a_frontend_keeps_to_the_backends_of_its_family() {
        let mut spec = spec();
        spec["clusterIPs"] = json!(["127.96.0.9", "::1"]);
        let slice = slice(&[("127.1.0.1", true, true, false, "n1"), ("fd00::1", true, true, false, "n1")]);
        assert_eq!(shown(&of(&spec, &slice)), ["127.96.0.9:80 [127.1.0.1:8080]", "[::1]:80 [[fd00::1]:8080]"]);
    }

    #[test]
    fn a_port_that_is_not_set_is_not_served() {
        let mut spec = spec();
        spec["type"] = "NodePort".into();
        spec["ports"][0]["nodePort"] = 0.into();
        assert_eq!(shown(&of(&spec, &slice(&[]))), ["127.96.0.9:80 []"]);
    }

    #[test]
    fn affinity_lasts_three_hours_unless_the_service_says() {
        let mut spec = spec();
        spec["sessionAffinity"] = "ClientIP".into();
        let affinity = |spec: &_| of(spec, &slice(&[])).routes.into_values().next().and_then(|route| route.affinity);
        assert_eq!(affinity(&spec).map(|a| a.as_secs()), Some(10_800));
        spec["sessionAffinityConfig"] = json!({ "clientIP": { "timeoutSeconds": 60 } });
        assert_eq!(affinity(&spec).map(|a| a.as_secs()), Some(60));
    }

    proptest! {
        /// SEMANTICS 57: no backend is neither ready nor draining, and none draining if one is ready.
        #[test]
        fn backends_are_ready_or_all_draining(conditions in proptest::collection::vec(any::<(bool, bool, bool)>(), 0..8)) {
            let addresses: Vec<_> = (0..conditions.len()).map(|n| format!("127.1.0.{n}")).collect();
            let endpoints: Vec<_> = addresses.iter().zip(&conditions)
                .map(|(address, &(ready, serving, terminating))| (address.as_str(), ready, serving, terminating, "n1"))
                .collect();
            let table = of(&spec(), &slice(&endpoints));
            let backends = &table.routes.values().next().expect("one frontend").backends;
            let any_ready = conditions.iter().any(|&(ready, _, _)| ready);
            for (address, &(ready, serving, terminating)) in addresses.iter().zip(&conditions) {
                let listed = backends.iter().any(|backend| backend.ip().to_string() == *address);
                prop_assert_eq!(listed, if any_ready { ready } else { serving && terminating });
            }
        }
    }
}
