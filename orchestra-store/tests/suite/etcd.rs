//! The store on a real etcd; one for each case, as compaction is global to it.

use orchestra_store::{EtcdOptions, EtcdStore, etcd::testing::Etcd};

mod conformance {
    use super::{Etcd, EtcdOptions, EtcdStore};

    orchestra_core::store_conformance!(|| async {
        let etcd = Etcd::start().await;
        let store = EtcdStore::connect(EtcdOptions::new([etcd.endpoint()])).await.expect("etcd answers");
        (store, etcd)
    });
}
