//! The columns of services and of what is behind them.

use std::collections::BTreeSet;

use k8s_openapi::api::{
    core::v1::{EndpointSubset, Endpoints, Service, ServiceSpec},
    discovery::v1::EndpointSlice,
};

use super::{
    AGE, Columns, Description, NAME, Row, string,
    text::{NONE, age, first_few, labels, name, or_none},
    wide,
};
use crate::clock::Timestamp;

const SERVICE_SPEC: &str = "io.k8s.api.core.v1.ServiceSpec";
const SLICE: &str = "io.k8s.api.discovery.v1.EndpointSlice";

/// The columns of services.
pub const SERVICE: Columns<Service> = Columns {
    definitions: &[
        NAME,
        string("Type", Description::Field(SERVICE_SPEC, "type")),
        string("Cluster-IP", Description::Field(SERVICE_SPEC, "clusterIP")),
        string("External-IP", Description::Field(SERVICE_SPEC, "externalIPs")),
        string("Port(s)", Description::Field(SERVICE_SPEC, "ports")),
        AGE,
        wide(string("Selector", Description::Field(SERVICE_SPEC, "selector"))),
    ],
    row: service,
};

/// The columns of endpoints.
pub const ENDPOINTS: Columns<Endpoints> = Columns {
    definitions: &[NAME, string("Endpoints", Description::Field("io.k8s.api.core.v1.Endpoints", "subsets")), AGE],
    row: endpoints,
};

/// The columns of endpoint slices.
pub const ENDPOINT_SLICE: Columns<EndpointSlice> = Columns {
    definitions: &[
        NAME,
        string("AddressType", Description::Field(SLICE, "addressType")),
        string("Ports", Description::Field(SLICE, "ports")),
        string("Endpoints", Description::Field(SLICE, "endpoints")),
        AGE,
    ],
    row: endpoint_slice,
};

fn service(service: &Service, now: Timestamp) -> Row {
    let no_spec = ServiceSpec::default();
    let spec = service.spec.as_ref().unwrap_or(&no_spec);
    let address = spec.cluster_ips.iter().flatten().next().map(String::as_str);
    Row::of(vec![
        name(&service.metadata),
        spec.type_.as_deref().unwrap_or_default().into(),
        or_none(address),
        external(service, spec).into(),
        or_none(Some(&ports(spec))),
        age(&service.metadata, now),
        labels(spec.selector.as_ref()),
    ])
}

/// Where a service is reached from outside of the cluster.
fn external(service: &Service, spec: &ServiceSpec) -> String {
    let given = spec.external_ips.as_deref().unwrap_or_default();
    match spec.type_.as_deref() {
        Some("ClusterIP" | "NodePort") if given.is_empty() => NONE.into(),
        Some("ClusterIP" | "NodePort") => given.join(","),
        Some("LoadBalancer") => {
            let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
            let ingress = status.and_then(|status| status.ingress.as_deref()).unwrap_or_default();
            let address = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
            let balanced: BTreeSet<_> = ingress
                .iter()
                .filter_map(|ingress| address(&ingress.ip).or_else(|| address(&ingress.hostname)))
                .collect();
            let all: Vec<_> = balanced.into_iter().chain(given.iter().cloned()).collect();
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        Some("ExternalName") => spec.external_name.clone().unwrap_or_default(),
        _ => "<unknown>".into(),
    }
}

/// `80/TCP,443:30443/TCP`.
fn ports(spec: &ServiceSpec) -> String {
    let ports = spec.ports.iter().flatten().map(|port| {
        let protocol = port.protocol.as_deref().unwrap_or_default();
        match port.node_port {
            Some(node_port) if node_port > 0 => format!("{}:{node_port}/{protocol}", port.port),
            _ => format!("{}/{protocol}", port.port),
        }
    });
    ports.collect::<Vec<_>>().join(",")
}

fn endpoints(endpoints: &Endpoints, now: Timestamp) -> Row {
    let addresses: Vec<_> = endpoints.subsets.iter().flatten().flat_map(addresses).collect();
    let shown = match endpoints.subsets.as_deref() {
        None | Some([]) => NONE.into(),
        Some(_) => first_few(&addresses),
    };
    Row::of(vec![name(&endpoints.metadata), shown.into(), age(&endpoints.metadata, now)])
}

/// Each ready address with each port; a headless service may have none.
fn addresses(subset: &EndpointSubset) -> Vec<String> {
    let addresses = subset.addresses.as_deref().unwrap_or_default();
    match subset.ports.as_deref() {
        None | Some([]) => addresses.iter().map(|address| address.ip.clone()).collect(),
        Some(ports) => {
            ports.iter().flat_map(|port| addresses.iter().map(|address| host_port(&address.ip, port.port))).collect()
        }
    }
}

fn host_port(host: &str, port: i32) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn endpoint_slice(slice: &EndpointSlice, now: Timestamp) -> Row {
    let ports = slice.ports.iter().flatten().map(|port| match (port.port, &port.name) {
        (Some(number), _) => number.to_string(),
        (None, Some(name)) => name.clone(),
        (None, None) => "*".into(),
    });
    let addresses = slice.endpoints.iter().flatten().flat_map(|endpoint| endpoint.addresses.iter().cloned());
    let or_unset = |items: Vec<String>| match first_few(&items) {
        list if list.is_empty() => "<unset>".into(),
        list => list,
    };
    Row::of(vec![
        name(&slice.metadata),
        slice.address_type.as_str().into(),
        or_unset(ports.collect()).into(),
        or_unset(addresses.collect()).into(),
        age(&slice.metadata, now),
    ])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().expect("a time")
    }

    fn service_cells(spec: &Value, status: &Value) -> Vec<Value> {
        let object = json!({ "metadata": { "name": "web" }, "spec": spec, "status": status });
        let mut cells = service(&serde_json::from_value(object).expect("a service"), now()).cells;
        cells.drain(1..5).collect()
    }

    #[test]
    fn a_service_shows_where_it_is_reached() {
        let ports = json!([{ "port": 80, "protocol": "TCP" }, { "port": 443, "nodePort": 30443, "protocol": "TCP" }]);
        let own = json!({ "type": "ClusterIP", "clusterIPs": ["127.1.0.1"], "ports": ports });
        assert_eq!(service_cells(&own, &json!({})), ["ClusterIP", "127.1.0.1", "<none>", "80/TCP,443:30443/TCP"]);
        let headless = json!({ "type": "ClusterIP", "clusterIPs": ["None"], "externalIPs": ["1.2.3.4", "5.6.7.8"] });
        assert_eq!(service_cells(&headless, &json!({})), ["ClusterIP", "None", "1.2.3.4,5.6.7.8", "<none>"]);
        let alias = json!({ "type": "ExternalName", "externalName": "example.com" });
        assert_eq!(service_cells(&alias, &json!({})), ["ExternalName", "<none>", "example.com", "<none>"]);
    }

    #[test]
    fn a_load_balancer_is_pending_until_it_has_an_address() {
        let spec = json!({ "type": "LoadBalancer", "clusterIPs": ["127.1.0.1"] });
        assert_eq!(service_cells(&spec, &json!({}))[2], "<pending>");
        let status = json!({ "loadBalancer": { "ingress": [{ "ip": "9.9.9.9" }, { "hostname": "a.example.com" }] } });
        assert_eq!(service_cells(&spec, &status)[2], "9.9.9.9,a.example.com");
    }

    #[test]
    fn endpoints_list_the_first_addresses_with_their_ports() {
        let of = |subsets: Value| {
            let object = json!({ "metadata": { "name": "web" }, "subsets": subsets });
            endpoints(&serde_json::from_value(object).expect("endpoints"), now()).cells[1].clone()
        };
        assert_eq!(of(Value::Null), "<none>");
        assert_eq!(of(json!([{ "notReadyAddresses": [{ "ip": "10.0.0.1" }], "ports": [{ "port": 80 }] }])), "");
        assert_eq!(of(json!([{ "addresses": [{ "ip": "::1" }], "ports": [{ "port": 80 }] }])), "[::1]:80");
        let four: Vec<_> = (1..5).map(|last| json!({ "ip": format!("10.0.0.{last}") })).collect();
        assert_eq!(of(json!([{ "addresses": four }])), "10.0.0.1,10.0.0.2,10.0.0.3 + 1 more...");
    }

    #[test]
    fn endpoint_slices_list_ports_and_addresses_apart() {
        let of = |ports: Value, endpoints: Value| {
            let slice = json!({ "metadata": { "name": "web" }, "addressType": "IPv4", "ports": ports,
                "endpoints": endpoints });
            let row = endpoint_slice(&serde_json::from_value(slice).expect("a slice"), now());
            row.cells[1..4].to_vec()
        };
        assert_eq!(of(json!([]), json!([])), ["IPv4", "<unset>", "<unset>"]);
        let ports = json!([{ "port": 80 }, { "name": "any" }, {}]);
        assert_eq!(of(ports, json!([{ "addresses": ["10.0.0.1"] }])), ["IPv4", "80,any,*", "10.0.0.1"]);
    }
}
