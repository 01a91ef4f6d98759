//! An ordinary kube-rs controller, tested against the real API semantics in-process: no sockets, no binaries.
//!
//!     cargo run --example test_your_operator
//!
//! prints `the operator made its config map`, in some milliseconds.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::{
    Api, Client, Resource as _, ResourceExt as _,
    api::{ObjectMeta, PostParams},
    runtime::{Controller, controller::Action, wait::await_condition, watcher},
};
use orchestra_core::server::{ApiServer, UserInfo};
use orchestra_store::MemoryStore;
use serde_json::{from_value, json};

/// The operator under test: keeps a config map with the address of each service. It knows nothing of this project.
async fn operator(client: Client) {
    let services = Api::<Service>::all(client.clone());
    let owned = Api::<ConfigMap>::all(client.clone());
    Controller::new(services, watcher::Config::default())
        .owns(owned, watcher::Config::default())
        .run(reconcile, |_, _, _| Action::requeue(Duration::from_secs(1)), Arc::new(client))
        .for_each(|_| async {})
        .await;
}

async fn reconcile(service: Arc<Service>, client: Arc<Client>) -> kube::Result<Action> {
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone()).unwrap_or_default();
    let config = ConfigMap {
        metadata: ObjectMeta {
            name: Some(format!("{}-address", service.name_any())),
            owner_references: service.controller_owner_ref(&()).map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        data: Some(BTreeMap::from([("address".to_owned(), address)])),
        ..ConfigMap::default()
    };
    let api = Api::<ConfigMap>::namespaced((*client).clone(), &service.namespace().unwrap_or_default());
    match api.create(&PostParams::default(), &config).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(Action::await_change()),
        made => made.map(|_| Action::await_change()),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let api = ApiServer::builder(Arc::new(MemoryStore::new())).build();
    let client = api.client(UserInfo::master("operator"));
    let operator = tokio::spawn(operator(client.clone()));

    let services = Api::<Service>::default_namespaced(client.clone());
    let web: Service = from_value(json!({ "metadata": { "name": "web" }, "spec": { "ports": [{ "port": 80 }] } }))?;
    let made = services.create(&PostParams::default(), &web).await?;
    let config_maps = Api::<ConfigMap>::default_namespaced(client);
    let there = |config_map: Option<&ConfigMap>| config_map.is_some();
    let config_map = await_condition(config_maps, "web-address", there).await?.expect("it is there");
    assert_eq!(config_map.data.unwrap_or_default().get("address"), made.spec.unwrap_or_default().cluster_ip.as_ref());
    println!("the operator made its config map");
    operator.abort();
    Ok(())
}
