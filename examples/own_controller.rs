//! A controller of your own, under the suite: it keeps a config map with the address of a service, and is killed at each
//! of its writes.
//!
//!     cargo run --example own_controller
//!
//! prints `3 laws hold for service-address`.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::{
    Api, Client,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use orchestra_core::{
    controller::{Action, Controller, Error, ObjectKey, conformance::Fixture},
    server::{ApiServer, UserInfo},
};
use orchestra_store::MemoryStore;
use serde_json::{Value, from_value, json};

struct ServiceAddress(Client);

#[async_trait]
impl Controller for ServiceAddress {
    fn name(&self) -> &str {
        "service-address"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some(service) = Api::<Service>::namespaced(self.0.clone(), &key.namespace).get_opt(&key.name).await? else {
            return Ok(Action::AwaitChange);
        };
        let name = format!("{}-address", key.name);
        let address = service.spec.and_then(|spec| spec.cluster_ip).unwrap_or_default();
        let data = BTreeMap::from([("address".to_owned(), address)]);
        let config_maps = Api::<ConfigMap>::namespaced(self.0.clone(), &key.namespace);
        match config_maps.get_opt(&name).await? {
            Some(there) if there.data.as_ref() == Some(&data) => {}
            Some(there) => {
                let patch = json!({ "metadata": { "uid": there.metadata.uid }, "data": data });
                config_maps.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            }
            None => {
                let metadata = ObjectMeta { name: Some(name), ..ObjectMeta::default() };
                let config_map = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
                config_maps.create(&PostParams::default(), &config_map).await?;
            }
        }
        Ok(Action::AwaitChange)
    }
}

/// A world with one service in it.
struct OneService;

#[async_trait]
impl Fixture for OneService {
    async fn world(&self) -> Client {
        let api = ApiServer::builder(Arc::new(MemoryStore::new())).build();
        let client = api.client(UserInfo::master("test"));
        let service = json!({ "metadata": { "name": "web" },
            "spec": { "clusterIP": "127.96.0.80", "ports": [{ "port": 80 }] } });
        let service: Service = from_value(service).expect("a service");
        let services = Api::<Service>::default_namespaced(client.clone());
        services.create(&PostParams::default(), &service).await.expect("created");
        client
    }

    async fn controller(&self, client: Client) -> Box<dyn Controller> {
        Box::new(ServiceAddress(client))
    }

    fn key(&self) -> ObjectKey {
        ObjectKey::new("default", "web")
    }

    async fn outcome(&self, client: &Client) -> Value {
        let config_maps = Api::<ConfigMap>::default_namespaced(client.clone());
        let all = config_maps.list(&Default::default()).await.expect("listed");
        all.into_iter().map(|config_map| json!([config_map.metadata.name, config_map.data])).collect()
    }
}

mod laws {
    orchestra_core::controller_conformance!(super::OneService);
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    println!("{} laws hold for service-address", laws::all().await);
}
