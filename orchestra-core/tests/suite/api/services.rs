//! Addresses and ports of Services: SEMANTICS 58.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::fixture::{Cluster, MERGE_PATCH, SERVICES, service};

fn address(service: &Value) -> &str {
    service["spec"]["clusterIP"].as_str().unwrap_or_default()
}

async fn retyped(cluster: &Cluster, name: &str, service_type: &str) -> Value {
    let patch = json!({ "spec": { "type": service_type } });
    cluster.patch(&format!("{SERVICES}/{name}"), MERGE_PATCH, &patch).await.ok()
}

/// SEMANTICS 58.
#[tokio::test(start_paused = true)]
async fn no_two_services_have_one_address_or_port() {
    let cluster = Cluster::contended();
    let creations = (0..50).map(|at| {
        let (cluster, mut given) = (cluster.clone(), service(&format!("s-{at}")));
        given["spec"]["type"] = "NodePort".into();
        async move { cluster.post(SERVICES, &given).await.ok() }
    });
    let made = futures::future::join_all(creations).await;
    let addresses: BTreeSet<_> = made.iter().map(|service| address(service).to_owned()).collect();
    let ports: BTreeSet<_> = made.iter().map(|made| made["spec"]["ports"][0]["nodePort"].as_u64()).collect();
    assert_eq!((addresses.len(), ports.len()), (50, 50));
    assert!(ports.iter().all(|port| port.is_some_and(|port| (30_000..=32_767).contains(&port))));
}

/// What an update allocates is stored, and what it gives up is free for others.
#[tokio::test(start_paused = true)]
async fn a_service_that_changes_its_type_gets_and_gives_back_what_it_needs() {
    let cluster = Cluster::new();
    let made = cluster.post(SERVICES, &service("a")).await.ok();
    assert!(made["spec"]["ports"][0].get("nodePort").is_none());
    let opened = retyped(&cluster, "a", "NodePort").await;
    let port = opened["spec"]["ports"][0]["nodePort"].clone();
    assert!(port.is_u64(), "{opened}");
    assert_eq!(address(&opened), address(&made));
    assert_eq!(cluster.get(&format!("{SERVICES}/a")).await.ok(), opened);

    let mut other = service("b");
    other["spec"]["type"] = "NodePort".into();
    other["spec"]["ports"][0]["nodePort"] = port.clone();
    let reply = cluster.post(SERVICES, &other).await;
    reply.failed_with(422, "Invalid", "spec.ports[0].nodePort: Invalid value: ");
    reply.failed_with(422, "Invalid", "provided port is already allocated");

    let closed = retyped(&cluster, "a", "ClusterIP").await;
    assert!(closed["spec"]["ports"][0].get("nodePort").is_none());
    cluster.post(SERVICES, &other).await.ok();

    let named = json!({ "spec": { "type": "ExternalName", "externalName": "example.com" } });
    let named = cluster.patch(&format!("{SERVICES}/a"), MERGE_PATCH, &named).await.ok();
    assert_eq!(address(&named), "");
    let mut heir = service("c");
    heir["spec"]["clusterIP"] = address(&made).into();
    assert_eq!(address(&cluster.post(SERVICES, &heir).await.ok()), address(&made));
}

/// As Kubernetes' `dropTypeDependentFields`: what only the old type has a use for goes with it, if it is left as it was.
#[tokio::test(start_paused = true)]
async fn what_depends_on_the_type_of_a_service_does_not_outlive_it() {
    let cluster = Cluster::new();
    let mut given = service("a");
    given["spec"]["type"] = "LoadBalancer".into();
    given["spec"]["externalTrafficPolicy"] = "Local".into();
    given["spec"]["healthCheckNodePort"] = 31_000.into();
    given["spec"]["loadBalancerClass"] = "example.com/fast".into();
    let made = cluster.post(SERVICES, &given).await.ok();
    assert_eq!(made["spec"]["allocateLoadBalancerNodePorts"], true);
    let fields = |spec: &Value| spec.as_object().expect("a spec").keys().cloned().collect::<BTreeSet<_>>();

    let opened = retyped(&cluster, "a", "NodePort").await;
    assert_eq!(opened["spec"]["externalTrafficPolicy"], "Local", "a node port has a use for it");
    assert_eq!(opened["spec"]["ports"], made["spec"]["ports"]);
    let gone = ["allocateLoadBalancerNodePorts", "healthCheckNodePort", "loadBalancerClass"];
    assert!(gone.iter().all(|field| opened["spec"].get(field).is_none()), "{opened}");

    let closed = retyped(&cluster, "a", "ClusterIP").await;
    let plain = cluster.post(SERVICES, &service("plain")).await.ok();
    assert_eq!(fields(&closed["spec"]), fields(&plain["spec"]));
    assert_eq!(closed["spec"]["ports"], plain["spec"]["ports"]);

    let named = json!({ "spec": { "type": "ExternalName", "externalName": "example.com" } });
    let named = cluster.patch(&format!("{SERVICES}/a"), MERGE_PATCH, &named).await.ok();
    let gone = ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"];
    assert!(gone.iter().all(|field| named["spec"].get(field).is_none()), "{named}");
}

/// What the author sets anew beside a type that has no use for it is a mistake, and is told.
#[tokio::test(start_paused = true)]
async fn what_a_type_has_no_use_for_is_refused() {
    let cluster = Cluster::new();
    cluster.post(SERVICES, &service("a")).await.ok();
    for (field, value, words) in [
        ("externalTrafficPolicy", json!("Local"), "may only be set for externally-accessible services"),
        ("healthCheckNodePort", json!(31_000), "may only be set when `type` is 'LoadBalancer' and"),
        ("allocateLoadBalancerNodePorts", json!(true), "may only be used when `type` is 'LoadBalancer'"),
        ("loadBalancerClass", json!("example.com/fast"), "may only be used when `type` is 'LoadBalancer'"),
    ] {
        let patch = json!({ "spec": { field: value } });
        let reply = cluster.patch(&format!("{SERVICES}/a"), MERGE_PATCH, &patch).await;
        reply.failed_with(422, "Invalid", &format!("spec.{field}: "));
        reply.failed_with(422, "Invalid", words);
    }
}

#[tokio::test(start_paused = true)]
async fn a_load_balancer_that_wants_no_node_ports_gets_none() {
    let cluster = Cluster::new();
    let mut given = service("a");
    given["spec"]["type"] = "LoadBalancer".into();
    given["spec"]["allocateLoadBalancerNodePorts"] = false.into();
    let made = cluster.post(SERVICES, &given).await.ok();
    assert!(made["spec"]["ports"][0].get("nodePort").is_none(), "{made}");
}

/// A client that writes back the manifest it began with, as `kubectl replace` does, leaves what was allocated.
#[tokio::test(start_paused = true)]
async fn an_update_that_does_not_mention_the_address_keeps_it() {
    let cluster = Cluster::new();
    let mut given = service("a");
    given["spec"]["type"] = "NodePort".into();
    let made = cluster.post(SERVICES, &given).await.ok();
    assert_eq!(cluster.put(&format!("{SERVICES}/a"), &given).await.ok(), made);
    let moved = json!({ "spec": { "clusterIP": "127.96.9.9", "clusterIPs": ["127.96.9.9"] } });
    let reply = cluster.patch(&format!("{SERVICES}/a"), MERGE_PATCH, &moved).await;
    reply.failed_with(422, "Invalid", "may not change once set");
}

#[tokio::test(start_paused = true)]
async fn addresses_and_ports_are_of_their_ranges_and_free() {
    let cluster = Cluster::new();
    let taken = cluster.post(SERVICES, &service("taken")).await.ok();
    let with_address = |text: &str| {
        let mut given = service("a");
        given["spec"]["clusterIP"] = text.into();
        given
    };
    let reply = cluster.post(SERVICES, &with_address("10.0.0.1")).await;
    reply.failed_with(422, "Invalid", "spec.clusterIPs: Invalid value: [\"10.0.0.1\"]: failed to allocate IP 10.0.0.1");
    let reply = cluster.post(SERVICES, &with_address(address(&taken))).await;
    reply.failed_with(422, "Invalid", "provided IP is already allocated");
    let mut low = service("a");
    low["spec"]["type"] = "NodePort".into();
    low["spec"]["ports"][0]["nodePort"] = 80.into();
    let words = "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range";
    cluster.post(SERVICES, &low).await.failed_with(422, "Invalid", words);
    assert_eq!(address(&cluster.post(SERVICES, &with_address("None")).await.ok()), "None");
}

/// SEMANTICS 28: also a Service that goes with its last finalizer gives back its address.
#[tokio::test(start_paused = true)]
async fn a_service_that_is_gone_has_given_back_its_address() {
    let cluster = Cluster::new();
    let mut given = service("a");
    given["metadata"]["finalizers"] = json!(["example.com/hold"]);
    let path = format!("{SERVICES}/a");
    let made = cluster.post(SERVICES, &given).await.ok();
    cluster.delete(&path).await.ok();
    given["metadata"] = json!({ "name": "b" });
    given["spec"]["clusterIP"] = address(&made).into();
    cluster.post(SERVICES, &given).await.failed(422, "Invalid");
    cluster.patch(&path, MERGE_PATCH, &json!({ "metadata": { "finalizers": null } })).await.ok();
    cluster.get(&path).await.failed(404, "NotFound");
    cluster.post(SERVICES, &given).await.ok();
}
