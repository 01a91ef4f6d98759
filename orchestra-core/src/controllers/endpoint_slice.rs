//! Tells where the pods of each service are, in an endpoint slice and in the older `Endpoints`.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use k8s_openapi::{
    api::{
        core::v1::{
            EndpointAddress, EndpointPort as OldPort, EndpointSubset, Endpoints, ObjectReference, Pod, Service,
            ServicePort,
        },
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice},
    },
    apimachinery::pkg::util::intstr::IntOrString,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, ObjectMeta, PostParams, Preconditions},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{Parts, claim::controlled_by};
use crate::{
    api::pod::{has_ended, is_ready},
    controller::{Action, Controller, Error, ObjectKey, Runner},
    informer::{Change, Lister},
};

/// The most endpoints of one slice; Kubernetes' default.
const ENDPOINTS_MAX: usize = 100;
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";
/// Whose slices repeat what a user wrote as `Endpoints`.
const MIRRORED_BY: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP_MIRROR_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// The slices that a service should have, given the pods of its namespace; pure.
///
/// A slice holds one set of port numbers: pods that name a port differently end in different ones. None if the service
/// selects nothing: then its endpoints are somebody else's.
#[must_use]
pub fn slices(service: &Service, pods: &[Arc<Pod>]) -> Option<Vec<EndpointSlice>> {
    let spec = service.spec.as_ref()?;
    let selector = spec.selector.as_ref().filter(|selector| !selector.is_empty())?;
    let unready = spec.publish_not_ready_addresses.unwrap_or(false);
    let mut by_ports: BTreeMap<Vec<(String, i32, String)>, Vec<Endpoint>> = BTreeMap::new();
    for pod in pods.iter().filter(|pod| selector.iter().all(|(key, value)| pod.labels().get(key) == Some(value))) {
        if let Some(endpoint) = endpoint(service, pod, unready) {
            let ports = spec.ports.iter().flatten().filter_map(|port| target(port, pod)).collect();
            by_ports.entry(ports).or_default().push(endpoint);
        }
    }
    if by_ports.is_empty() {
        by_ports.insert(Vec::new(), Vec::new());
    }
    let chunks = by_ports.iter().flat_map(|(ports, endpoints)| {
        let chunks: Vec<&[Endpoint]> =
            if endpoints.is_empty() { vec![&[]] } else { endpoints.chunks(ENDPOINTS_MAX).collect() };
        chunks.into_iter().map(move |chunk| (ports, chunk))
    });
    Some(chunks.enumerate().map(|(at, (ports, endpoints))| slice(service, at, ports, endpoints)).collect())
}

fn endpoint(service: &Service, pod: &Pod, unready: bool) -> Option<Endpoint> {
    let status = pod.status.as_ref()?;
    let address = status.pod_ip.clone().filter(|address| !address.is_empty())?;
    if has_ended(pod) {
        return None;
    }
    let (serving, terminating) = (is_ready(pod), pod.metadata.deletion_timestamp.is_some());
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(unready || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        // A pod of a governing service has a name of its own in the cluster's names.
        hostname: pod
            .spec
            .as_ref()
            .filter(|spec| spec.subdomain == service.metadata.name)
            .and_then(|spec| spec.hostname.clone())
            .filter(|name| !name.is_empty()),
        node_name: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
        target_ref: Some(ObjectReference { resource_version: None, ..pod.object_ref(&()) }),
        ..Default::default()
    })
}

/// A service port's name, number and protocol at one pod; `None` if the pod has no port of the name it targets.
fn target(port: &ServicePort, pod: &Pod) -> Option<(String, i32, String)> {
    let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
    let number = match &port.target_port {
        None => port.port,
        Some(IntOrString::Int(number)) => *number,
        Some(IntOrString::String(name)) => {
            let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
            let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
            ports.find(|port| port.name.as_ref() == Some(name))?.container_port
        }
    };
    Some((port.name.clone().unwrap_or_default(), number, protocol))
}

fn slice(service: &Service, at: usize, ports: &[(String, i32, String)], endpoints: &[Endpoint]) -> EndpointSlice {
    let mut labels = service.labels().clone();
    labels.insert(SERVICE_NAME_LABEL.into(), service.name_any());
    labels.insert(MANAGED_BY_LABEL.into(), MANAGED_BY.into());
    if is_headless(service) {
        labels.insert(HEADLESS_LABEL.into(), String::new());
    }
    let ports = ports.iter().map(|(name, port, protocol)| EndpointPort {
        name: Some(name.clone()),
        port: Some(*port),
        protocol: Some(protocol.clone()),
        app_protocol: None,
    });
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(format!("{}-{at}", service.name_any())),
            namespace: service.namespace(),
            labels: Some(labels),
            owner_references: Some(vec![controlled_by(service)]),
            ..Default::default()
        },
        address_type: "IPv4".into(),
        endpoints: Some(endpoints.to_vec()),
        ports: Some(ports.collect()),
    }
}

/// The `Endpoints` of a service that has these slices; pure.
#[must_use]
pub fn endpoints(service: &Service, slices: &[EndpointSlice]) -> Endpoints {
    let subsets = slices.iter().filter_map(|slice| {
        let addresses = |ready: bool| -> Vec<EndpointAddress> {
            let wanted = slice.endpoints.iter().flatten().filter(|endpoint| {
                let conditions = endpoint.conditions.as_ref();
                let is_ready = conditions.and_then(|conditions| conditions.ready) == Some(true);
                let going = conditions.and_then(|conditions| conditions.terminating) == Some(true);
                is_ready == ready && (is_ready || !going)
            });
            let address = |endpoint: &Endpoint| {
                let ip = endpoint.addresses.first()?.clone();
                Some(EndpointAddress {
                    ip,
                    hostname: endpoint.hostname.clone(),
                    node_name: endpoint.node_name.clone(),
                    target_ref: endpoint.target_ref.clone(),
                })
            };
            wanted.filter_map(address).collect()
        };
        let (ready, unready) = (addresses(true), addresses(false));
        let some = |addresses: Vec<_>| (!addresses.is_empty()).then_some(addresses);
        let port = |port: &EndpointPort| {
            let name = port.name.clone().filter(|name| !name.is_empty());
            Some(OldPort { name, port: port.port?, protocol: port.protocol.clone(), app_protocol: None })
        };
        let ports: Vec<OldPort> = slice.ports.iter().flatten().filter_map(port).collect();
        (!ready.is_empty() || !unready.is_empty()).then(|| EndpointSubset {
            addresses: some(ready),
            not_ready_addresses: some(unready),
            ports: (!ports.is_empty()).then_some(ports),
        })
    });
    let subsets: Vec<_> = subsets.collect();
    Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.namespace(),
            labels: service.metadata.labels.clone(),
            owner_references: Some(vec![controlled_by(service)]),
            ..Default::default()
        },
        subsets: (!subsets.is_empty()).then_some(subsets),
    }
}

fn is_headless(service: &Service) -> bool {
    service.spec.as_ref().and_then(|spec| spec.cluster_ip.as_deref()) == Some("None")
}

/// The slices that repeat the `Endpoints` a user keeps for a service that selects nothing; pure.
#[must_use]
pub fn mirrored(service: &Service, endpoints: Option<&Endpoints>) -> Vec<EndpointSlice> {
    let Some(endpoints) = endpoints.filter(|endpoints| {
        endpoints.metadata.deletion_timestamp.is_none()
            && endpoints.labels().get(SKIP_MIRROR_LABEL).is_none_or(|skip| skip != "true")
    }) else {
        return Vec::new();
    };
    let mut packed = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports = subset.ports.iter().flatten().map(|port| {
            let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
            (port.name.clone().unwrap_or_default(), port.port, protocol)
        });
        let ports: Vec<_> = ports.collect();
        let of = |addresses: &Option<Vec<EndpointAddress>>, ready: bool| -> Vec<Endpoint> {
            let endpoint = |address: &EndpointAddress| Endpoint {
                addresses: vec![address.ip.clone()],
                conditions: Some(EndpointConditions { ready: Some(ready), ..Default::default() }),
                hostname: address.hostname.clone().filter(|name| !name.is_empty()),
                node_name: address.node_name.clone(),
                target_ref: address.target_ref.clone(),
                ..Default::default()
            };
            addresses.iter().flatten().map(endpoint).collect()
        };
        let all = [of(&subset.addresses, true), of(&subset.not_ready_addresses, false)].concat();
        let (six, four): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|endpoint| endpoint.addresses.iter().any(|ip| ip.contains(':')));
        for (address_type, endpoints) in [("IPv4", four), ("IPv6", six)] {
            packed.extend(endpoints.chunks(ENDPOINTS_MAX).map(|chunk| (address_type, ports.clone(), chunk.to_vec())));
        }
    }
    let slices = packed.into_iter().enumerate().map(|(at, (address_type, ports, endpoints))| {
        let mut slice = slice(service, at, &ports, &endpoints);
        slice.address_type = address_type.into();
        slice.metadata.labels.get_or_insert_default().insert(MANAGED_BY_LABEL.into(), MIRRORED_BY.into());
        slice
    });
    slices.collect()
}

struct EndpointSlices {
    client: Client,
    services: Lister<Service>,
    pods: Lister<Pod>,
    slices: Lister<EndpointSlice>,
    endpoints: Lister<Endpoints>,
}

/// Makes the controller, ready to run.
#[must_use]
pub fn runner(parts: &Parts) -> Runner {
    let informers = &parts.informers;
    let (services, pods) = (informers.of::<Service>(), informers.of::<Pod>());
    let selecting = services.clone();
    let of_pod = move |change: &Change<Pod>| {
        let labels: Vec<_> = [&change.old, &change.new].into_iter().flatten().map(|pod| pod.labels().clone()).collect();
        let selects = |service: &Arc<Service>| {
            let selector = service.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            selector.is_some_and(|selector| {
                labels.iter().any(|labels| selector.iter().all(|(key, value)| labels.get(key) == Some(value)))
            })
        };
        let services = selecting.list_namespace(&change.key.namespace);
        services.iter().filter(|service| selects(service)).map(|service| ObjectKey::of(&**service)).collect()
    };
    parts
        .runner(controller(parts))
        .reconciles(&services)
        .watches(&pods, of_pod)
        .owns::<Service, EndpointSlice>(&informers.of::<EndpointSlice>())
        // By name: those that a user keeps have no owner.
        .reconciles(&informers.of::<Endpoints>())
}

/// Makes the controller alone, for those who call it themselves.
#[must_use]
pub fn controller(parts: &Parts) -> impl Controller + use<> {
    EndpointSlices {
        client: parts.client.clone(),
        services: parts.informers.of(),
        pods: parts.informers.of(),
        slices: parts.informers.of(),
        endpoints: parts.informers.of(),
    }
}

#[async_trait]
impl Controller for EndpointSlices {
    fn name(&self) -> &str {
        "endpoint-slice"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        self.services.synced().await;
        self.pods.synced().await;
        self.slices.synced().await;
        self.endpoints.synced().await;
        // What a deleted service leaves behind is garbage by its owner reference.
        let Some(service) = self.services.get(key).filter(|service| service.metadata.deletion_timestamp.is_none())
        else {
            return Ok(Action::AwaitChange);
        };
        match slices(&service, &self.pods.list_namespace(&key.namespace)) {
            Some(wanted) => {
                self.write_slices(key, &wanted).await?;
                let old_form = endpoints(&service, &wanted);
                let same = |old: &Endpoints| {
                    old.subsets == old_form.subsets && old.metadata.labels == old_form.metadata.labels
                };
                write(&self.client, &self.endpoints, &old_form, same).await?;
            }
            None => self.write_slices(key, &mirrored(&service, self.endpoints.get(key).as_deref())).await?,
        }
        Ok(Action::AwaitChange)
    }
}

impl EndpointSlices {
    /// Writes the slices that differ, and deletes the service's others.
    async fn write_slices(&self, key: &ObjectKey, wanted: &[EndpointSlice]) -> Result<(), Error> {
        for slice in wanted {
            let same = |old: &EndpointSlice| {
                old.endpoints.as_deref().unwrap_or_default() == slice.endpoints.as_deref().unwrap_or_default()
                    && old.ports.as_deref().unwrap_or_default() == slice.ports.as_deref().unwrap_or_default()
                    && old.metadata.labels == slice.metadata.labels
            };
            write(&self.client, &self.slices, slice, same).await?;
        }
        let surplus = self.slices.list_namespace(&key.namespace).into_iter().filter(|slice| {
            slice.labels().get(SERVICE_NAME_LABEL).is_some_and(|name| **name == *key.name)
                && slice.labels().get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY || by == MIRRORED_BY)
                && wanted.iter().all(|wanted| wanted.metadata.name != slice.metadata.name)
        });
        let api = Api::<EndpointSlice>::namespaced(self.client.clone(), &key.namespace);
        for slice in surplus.collect::<Vec<_>>() {
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid: slice.uid(), resource_version: None }),
                ..Default::default()
            };
            match api.delete(&slice.name_any(), &params).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                Err(error) => return Err(error.into()),
            }
            let gone = |now: Option<&EndpointSlice>| {
                now.is_none_or(|now| now.uid() != slice.uid() || now.metadata.deletion_timestamp.is_some())
            };
            self.slices.until(&ObjectKey::of(&*slice), gone).await;
        }
        Ok(())
    }
}

/// Creates an object, or brings the one there is up to date, unless it is `same` already.
async fn write<K>(client: &Client, lister: &Lister<K>, object: &K, same: impl Fn(&K) -> bool) -> Result<(), Error>
where
    K: crate::informer::Cached + Serialize + DeserializeOwned + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    let key = ObjectKey::of(object);
    let api = Api::<K>::namespaced(client.clone(), &key.namespace);
    let written = match lister.get(&key) {
        Some(old) if same(&old) => return Ok(()),
        Some(old) => {
            let mut new = object.clone();
            new.meta_mut().resource_version = old.resource_version();
            api.replace(&key.name, &PostParams::default(), &new).await
        }
        None => api.create(&PostParams::default(), object).await,
    };
    match written {
        Ok(written) => {
            lister.shows(&written).await;
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::core::v1::{Pod, Service};
    use proptest::prelude::*;
    use serde_json::json;

    use super::{endpoints, slices};

    fn service() -> Service {
        serde_json::from_value(json!({ "metadata": { "name": "web", "namespace": "a", "uid": "s" },
            "spec": { "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80, "targetPort": "http" }] } }))
        .expect("a service")
    }

    fn pod(n: usize, labeled: bool, ready: bool, going: bool) -> Arc<Pod> {
        let app = if labeled { "web" } else { "db" };
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": { "name": format!("p{n}"), "namespace": "a", "labels": { "app": app } },
            "spec": { "containers": [{ "name": "c", "ports": [{ "name": "http", "containerPort": 8080 }] }] },
            "status": { "phase": "Running", "podIP": format!("127.1.{}.{}", n / 250, n % 250 + 1),
                "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" } }] } }))
        .expect("a pod");
        pod.metadata.deletion_timestamp =
            going.then_some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(crate::clock::Timestamp::UNIX_EPOCH));
        Arc::new(pod)
    }

    #[test]
    fn a_service_without_a_selector_is_left_alone() {
        let mut service = service();
        service.spec.as_mut().expect("a spec").selector = None;
        assert_eq!(slices(&service, &[pod(0, true, true, false)]), None);
    }

    proptest! {
        #[test]
        fn every_selected_pod_is_one_endpoint_and_ready_as_it_is(
            pods in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<bool>()), 0..300),
        ) {
            let pods: Vec<_> = pods.iter().enumerate().map(|(n, &(labeled, ready, going))| pod(n, labeled, ready, going)).collect();
            let slices = slices(&service(), &pods).expect("it selects");
            let ready = |pod: &Arc<Pod>| super::is_ready(pod) && pod.metadata.deletion_timestamp.is_none();
            let mut wanted: Vec<_> = pods.iter().filter(|pod| pod.metadata.labels.as_ref().is_some_and(|l| l["app"] == "web"))
                .map(|pod| (pod.status.as_ref().and_then(|s| s.pod_ip.clone()).unwrap_or_default(), ready(pod))).collect();
            let mut found: Vec<_> = slices.iter().flat_map(|slice| slice.endpoints.iter().flatten())
                .map(|endpoint| (endpoint.addresses[0].clone(),
                    endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or_default()))
                .collect();
            wanted.sort();
            found.sort();
            prop_assert_eq!(&found, &wanted);
            prop_assert!(slices.iter().all(|slice| slice.endpoints.as_ref().is_none_or(|all| all.len() <= super::ENDPOINTS_MAX)));
            let subsets = endpoints(&service(), &slices).subsets.unwrap_or_default();
            let listed: usize = subsets.iter().map(|subset| subset.addresses.as_ref().map_or(0, Vec::len)).sum();
            prop_assert_eq!(listed, wanted.iter().filter(|(_, ready)| *ready).count());
        }
    }
}
