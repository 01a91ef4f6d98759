//! The variables by which containers find the services of their namespace, as Kubernetes has them. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Service;

/// The variables for `services`: host and port of each, and those of Docker's links.
pub(super) fn variables<'a>(services: impl IntoIterator<Item = &'a Service>) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for service in services {
        let Some(spec) = &service.spec else { continue };
        let ip = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None");
        let (Some(ip), Some(first)) = (ip, spec.ports.iter().flatten().next()) else { continue };
        let name = upper(service.metadata.name.as_deref().unwrap_or_default());
        all.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
        all.insert(format!("{name}_SERVICE_PORT"), first.port.to_string());
        for (index, port) in spec.ports.iter().flatten().enumerate() {
            if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
                all.insert(format!("{name}_SERVICE_PORT_{}", upper(port_name)), port.port.to_string());
            }
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let url = format!("{}://{}:{}", protocol.to_lowercase(), bracketed(ip), port.port);
            if index == 0 {
                all.insert(format!("{name}_PORT"), url.clone());
            }
            let prefix = format!("{name}_PORT_{}_{}", port.port, protocol.to_uppercase());
            all.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
            all.insert(format!("{prefix}_PORT"), port.port.to_string());
            all.insert(format!("{prefix}_ADDR"), ip.to_owned());
            all.insert(prefix, url);
        }
    }
    all
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

fn bracketed(ip: &str) -> String {
    if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::variables;

    #[test]
    fn a_service_is_found_by_its_variables() {
        let service = |spec| -> Service {
            serde_json::from_value(json!({"metadata": {"name": "my-web"}, "spec": spec})).expect("a service")
        };
        let web = service(json!({"clusterIP": "127.96.0.9", "ports": [{"name": "http", "port": 80}]}));
        let found: Vec<_> = variables([&web]).into_iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(
            found,
            [
                "MY_WEB_PORT=tcp://127.96.0.9:80",
                "MY_WEB_PORT_80_TCP=tcp://127.96.0.9:80",
                "MY_WEB_PORT_80_TCP_ADDR=127.96.0.9",
                "MY_WEB_PORT_80_TCP_PORT=80",
                "MY_WEB_PORT_80_TCP_PROTO=tcp",
                "MY_WEB_SERVICE_HOST=127.96.0.9",
                "MY_WEB_SERVICE_PORT=80",
                "MY_WEB_SERVICE_PORT_HTTP=80",
            ]
        );
        let headless = service(json!({"clusterIP": "None", "ports": [{"port": 80}]}));
        assert!(variables([&headless]).is_empty());
    }
}
