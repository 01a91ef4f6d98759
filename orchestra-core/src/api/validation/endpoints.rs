//! The rules of endpoints and endpoint slices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};

use super::metadata::{Scope, immutable, invalid, object_meta, object_meta_update};
use super::names::{self, NameRule};
use super::values::{one_of, port_number};
use super::{FieldError, Path};

/// The most endpoints of a slice.
pub const SLICE_ENDPOINTS_MAX: usize = 1000;
/// The most addresses of an endpoint.
const ADDRESSES_MAX: usize = 100;
/// The most ports of a slice.
const SLICE_PORTS_MAX: usize = 20_000;
const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];
const ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

/// Checks the endpoints of a service.
pub fn endpoints(endpoints: &Endpoints) -> Vec<FieldError> {
    let mut errors = object_meta(&endpoints.metadata, Scope::Namespaced, NameRule::Subdomain);
    let subsets = Path::root("subsets");
    for (index, subset) in endpoints.subsets.iter().flatten().enumerate() {
        let path = subsets.index(index);
        let ready = subset.addresses.as_deref().unwrap_or_default();
        let not_ready = subset.not_ready_addresses.as_deref().unwrap_or_default();
        if ready.is_empty() && not_ready.is_empty() {
            errors.push(FieldError::required(&path, "must specify `addresses` or `notReadyAddresses`"));
        }
        addresses(ready, &path.field("addresses"), &mut errors);
        addresses(not_ready, &path.field("notReadyAddresses"), &mut errors);
        let ports = subset.ports.as_deref().unwrap_or_default();
        let ports_path = path.field("ports");
        for (index, port) in ports.iter().enumerate() {
            let path = ports_path.index(index);
            match port.name.as_deref().unwrap_or_default() {
                "" if ports.len() > 1 => errors.push(FieldError::required(&path.field("name"), "")),
                "" => {}
                name => invalid(&path.field("name"), name, names::dns_1123_label(name), &mut errors),
            }
            port_number(port.port, &path.field("port"), &mut errors);
            one_of(port.protocol.as_deref(), &PROTOCOLS, &path.field("protocol"), &mut errors);
        }
    }
    errors
}

/// Checks what a write changes in the endpoints of a service.
pub fn endpoints_update(new: &Endpoints, old: &Endpoints) -> Vec<FieldError> {
    object_meta_update(&new.metadata, &old.metadata)
}

/// Checks a slice of endpoints.
pub fn endpoint_slice(slice: &EndpointSlice) -> Vec<FieldError> {
    let mut errors = object_meta(&slice.metadata, Scope::Namespaced, NameRule::Subdomain);
    let types = ["FQDN", "IPv4", "IPv6"];
    one_of(Some(&slice.address_type), &types, &Path::root("addressType"), &mut errors);
    let path = Path::root("endpoints");
    let endpoints = slice.endpoints.as_deref().unwrap_or_default();
    if endpoints.len() > SLICE_ENDPOINTS_MAX {
        errors.push(FieldError::too_many(&path, endpoints.len(), SLICE_ENDPOINTS_MAX));
        return errors;
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        self::endpoint(endpoint, &slice.address_type, &path.index(index), &mut errors);
    }
    let path = Path::root("ports");
    let ports = slice.ports.as_deref().unwrap_or_default();
    if ports.len() > SLICE_PORTS_MAX {
        errors.push(FieldError::too_many(&path, ports.len(), SLICE_PORTS_MAX));
        return errors;
    }
    let mut seen = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = port.name.as_deref().unwrap_or_default();
        if !name.is_empty() {
            invalid(&path.field("name"), name, names::dns_1123_label(name), &mut errors);
        }
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(&path.field("name"), name));
        }
        if let Some(number) = port.port {
            port_number(number, &path.field("port"), &mut errors);
        }
        one_of(port.protocol.as_deref(), &PROTOCOLS, &path.field("protocol"), &mut errors);
    }
    errors
}

/// Checks what a write changes in a slice of endpoints, whose type of address stays.
pub fn endpoint_slice_update(new: &EndpointSlice, old: &EndpointSlice) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    immutable(&new.address_type, &old.address_type, &Path::root("addressType"), &mut errors);
    errors
}

fn addresses(addresses: &[EndpointAddress], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for (index, address) in addresses.iter().enumerate() {
        let path = path.index(index);
        match address.ip.parse::<IpAddr>() {
            Err(_) => errors.push(FieldError::invalid(&path.field("ip"), &address.ip, ADDRESS)),
            Ok(ip) if ip.is_unspecified() => {
                let detail = "may not be unspecified (0.0.0.0 or ::)";
                errors.push(FieldError::invalid(&path.field("ip"), &address.ip, detail));
            }
            // Kubernetes refuses loopback here; a cluster without a network of its own lives there.
            Ok(_) => {}
        }
        if let Some(hostname) = address.hostname.as_deref().filter(|hostname| !hostname.is_empty()) {
            invalid(&path.field("hostname"), hostname, names::dns_1123_label(hostname), errors);
        }
    }
}

fn endpoint(endpoint: &Endpoint, address_type: &str, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let addresses = path.field("addresses");
    if endpoint.addresses.is_empty() {
        errors.push(FieldError::required(&addresses, "must contain at least 1 address"));
    } else if endpoint.addresses.len() > ADDRESSES_MAX {
        errors.push(FieldError::too_many(&addresses, endpoint.addresses.len(), ADDRESSES_MAX));
        return;
    }
    for (index, address) in endpoint.addresses.iter().enumerate() {
        let path = addresses.index(index);
        match (address_type, address.parse::<IpAddr>()) {
            ("FQDN", _) => invalid(&path, address, names::dns_1123_subdomain(address), errors),
            ("IPv4", Ok(IpAddr::V4(_))) | ("IPv6", Ok(IpAddr::V6(_))) => {}
            ("IPv4", Ok(_)) => errors.push(FieldError::invalid(&path, address, "must be an IPv4 address")),
            ("IPv6", Ok(_)) => errors.push(FieldError::invalid(&path, address, "must be an IPv6 address")),
            ("IPv4" | "IPv6", Err(_)) => errors.push(FieldError::invalid(&path, address, ADDRESS)),
            _ => {}
        }
    }
    if let Some(hostname) = &endpoint.hostname {
        invalid(&path.field("hostname"), hostname, names::dns_1123_label(hostname), errors);
    }
    if let Some(node) = &endpoint.node_name {
        invalid(&path.field("nodeName"), node, names::dns_1123_subdomain(node), errors);
    }
}
