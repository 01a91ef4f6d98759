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
    api::{DeleteParams, ObjectMeta, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    Parts,
    replica_set::{controlled_by, is_ready, phase},
};
use crate::{
    controller::{Action, Controller, Error, ObjectKey, Runner},
    informer::{Change, Lister},
};

/// The most endpoints of one slice; Kubernetes' default.
const ENDPOINTS_MAX: usize = 100;
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const MANAGED_BY_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
const MANAGED_BY: &str = "endpointslice-controller.k8s.io";

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
        if let Some(endpoint) = endpoint(pod, unready) {
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

fn endpoint(pod: &Pod, unready: bool) -> Option<Endpoint> {
    let status = pod.status.as_ref()?;
    let address = status.pod_ip.clone().filter(|address| !address.is_empty())?;
    if matches!(phase(pod), "Succeeded" | "Failed") {
        return None;
    }
    let (serving, terminating) = (is_ready(pod), pod.metadata.deletion_timestamp.is_some());
    Some(Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(unready || (serving && !terminating)),
            serving: Some(unready || serving),
            terminating: Some(terminating),
        }),
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
                is_ready == ready && !(going && !is_ready)
            });
            let address = |endpoint: &Endpoint| {
                let ip = endpoint.addresses.first()?.clone();
                Some(EndpointAddress {
                    ip,
                    hostname: None,
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
    let (slices, endpoints) = (informers.of::<EndpointSlice>(), informers.of::<Endpoints>());
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
    let controller = EndpointSlices {
        client: parts.client.clone(),
        services: services.clone(),
        pods: pods.clone(),
        slices: slices.clone(),
        endpoints: endpoints.clone(),
    };
    Runner::new(controller, parts.entropy.fork())
        .reconciles(&services)
        .watches(&pods, of_pod)
        .owns::<Service, EndpointSlice>(&slices)
        .owns::<Service, Endpoints>(&endpoints)
}

#[async_trait]
impl Controller for EndpointSlices {
    fn name(&self) -> &str {
        "endpoint-slice"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        self.pods.synced().await;
        self.slices.synced().await;
        self.endpoints.synced().await;
        // What a deleted service leaves behind is garbage by its owner reference.
        let Some(service) = self.services.get(key) else { return Ok(Action::AwaitChange) };
        let Some(wanted) = slices(&service, &self.pods.list_namespace(&key.namespace)) else {
            return Ok(Action::AwaitChange);
        };
        for slice in &wanted {
            let same = |old: &EndpointSlice| {
                old.endpoints.as_deref().unwrap_or_default() == slice.endpoints.as_deref().unwrap_or_default()
                    && old.ports.as_deref().unwrap_or_default() == slice.ports.as_deref().unwrap_or_default()
                    && old.metadata.labels == slice.metadata.labels
            };
            write(&self.client, &self.slices, slice, same).await?;
        }
        let surplus = self.slices.list_namespace(&key.namespace).into_iter().filter(|slice| {
            slice.labels().get(SERVICE_NAME_LABEL).is_some_and(|name| **name == *key.name)
                && slice.labels().get(MANAGED_BY_LABEL).is_some_and(|by| by == MANAGED_BY)
                && wanted.iter().all(|wanted| wanted.metadata.name != slice.metadata.name)
        });
        let api = Api::<EndpointSlice>::namespaced(self.client.clone(), &key.namespace);
        for slice in surplus.collect::<Vec<_>>() {
            match api.delete(&slice.name_any(), &DeleteParams::default()).await {
                Ok(_) => {}
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                Err(error) => return Err(error.into()),
            }
        }
        let old_form = endpoints(&service, &wanted);
        write(&self.client, &self.endpoints, &old_form, |old| old.subsets == old_form.subsets).await?;
        Ok(Action::AwaitChange)
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
