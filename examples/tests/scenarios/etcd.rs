//! API servers on an etcd.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::ListParams};
use orchestra_core::{
    server::{ApiServer, UserInfo},
    store::{Key, Prefix, Store as _, Txn},
};
use orchestra_store::{EtcdOptions, EtcdStore, etcd::testing::Etcd};

/// SEMANTICS 7: a consistent list waits for the cache to have come as far as the etcd has, which is further than the
/// cluster ever writes.
#[tokio::test]
async fn a_list_is_answered_though_others_write_to_the_etcd() {
    let etcd = Etcd::start().await;
    let store = EtcdStore::connect(etcd.options()).await.expect("etcd answers");
    let elsewhere = Prefix::new(["elsewhere"]).expect("a prefix");
    let other = EtcdStore::connect(EtcdOptions { prefix: elsewhere, ..etcd.options() }).await.expect("etcd answers");
    let server = ApiServer::builder(Arc::new(store)).build();
    let maps = Api::<ConfigMap>::all(server.client(UserInfo::master("test")));
    for round in 0..3 {
        let key = Key::new([round.to_string().as_str()]).expect("a key");
        let written = other.commit(Txn::create(key, "x".into())).await.expect("a commit");
        let list = maps.list(&ListParams::default()).await.expect("a list");
        let shown: u64 = list.metadata.resource_version.expect("a version").parse().expect("a number");
        assert!(shown >= written.0, "as of {shown}, though {written} had been written");
    }
}
