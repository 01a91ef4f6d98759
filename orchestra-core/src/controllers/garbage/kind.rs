//! The kinds that the collector keeps in view, their types forgotten.

use std::{fmt, sync::Arc};

use k8s_openapi::{
    ClusterResourceScope, NamespaceResourceScope,
    api::{
        apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        coordination::v1::Lease,
        core::v1::{
            ConfigMap, Endpoints, Namespace, Node, Pod, ReplicationController, Secret, Service, ServiceAccount,
        },
        discovery::v1::EndpointSlice,
    },
};
use kube::{
    Api, Client, Resource,
    core::{ApiResource, DynamicObject},
};

use super::verdict::Thing;
use crate::{
    controller::{ObjectKey, Runner},
    controllers::Parts,
    informer::{Cached, Change, Lister},
};

/// Every kind that is kept in view: those of a namespace first.
pub(super) fn all(parts: &Parts) -> Vec<Arc<dyn Kind>> {
    fn namespaced<K: Cached + Resource<Scope = NamespaceResourceScope>>(parts: &Parts) -> Arc<dyn Kind> {
        Arc::new(Typed { lister: parts.informers.of::<K>(), namespaced: true })
    }
    fn cluster<K: Cached + Resource<Scope = ClusterResourceScope>>(parts: &Parts) -> Arc<dyn Kind> {
        Arc::new(Typed { lister: parts.informers.of::<K>(), namespaced: false })
    }
    vec![
        namespaced::<Pod>(parts),
        namespaced::<ReplicaSet>(parts),
        namespaced::<Deployment>(parts),
        namespaced::<DaemonSet>(parts),
        namespaced::<StatefulSet>(parts),
        namespaced::<ControllerRevision>(parts),
        namespaced::<ReplicationController>(parts),
        namespaced::<Job>(parts),
        namespaced::<CronJob>(parts),
        namespaced::<Service>(parts),
        namespaced::<EndpointSlice>(parts),
        namespaced::<Endpoints>(parts),
        namespaced::<ConfigMap>(parts),
        namespaced::<Secret>(parts),
        namespaced::<ServiceAccount>(parts),
        namespaced::<Lease>(parts),
        cluster::<Node>(parts),
        cluster::<Namespace>(parts),
    ]
}

/// One kind.
#[async_trait::async_trait]
pub(super) trait Kind: fmt::Debug + Send + Sync {
    fn resource(&self) -> ApiResource;
    fn namespaced(&self) -> bool;
    async fn synced(&self);
    fn get(&self, key: &ObjectKey) -> Option<Thing>;
    /// The objects that name `uid` among their owners.
    fn dependents(&self, uid: &str) -> Vec<(ObjectKey, Thing)>;
    /// The objects that name any owner.
    fn owned(&self) -> Vec<(ObjectKey, Thing)>;
    fn watch(&self, runner: Runner, keys: Box<dyn Fn(Seen) -> Vec<ObjectKey> + Send>) -> Runner;
}

/// A change, its type forgotten.
#[derive(Debug)]
pub(super) struct Seen {
    pub key: ObjectKey,
    pub old: Option<Thing>,
    pub new: Option<Thing>,
}

#[derive(Debug)]
struct Typed<K> {
    lister: Lister<K>,
    namespaced: bool,
}

impl<K: Cached> Typed<K> {
    fn select(&self, wanted: impl Fn(&Arc<K>) -> bool) -> Vec<(ObjectKey, Thing)> {
        let objects = self.lister.list().into_iter().filter(|object| wanted(object));
        objects.map(|object| (ObjectKey::of(&*object), Thing::of(&*object))).collect()
    }
}

#[async_trait::async_trait]
impl<K: Cached> Kind for Typed<K> {
    fn resource(&self) -> ApiResource {
        ApiResource::erase::<K>(&())
    }

    fn namespaced(&self) -> bool {
        self.namespaced
    }

    async fn synced(&self) {
        self.lister.synced().await;
    }

    fn get(&self, key: &ObjectKey) -> Option<Thing> {
        self.lister.get(key).map(|object| Thing::of(&*object))
    }

    fn dependents(&self, uid: &str) -> Vec<(ObjectKey, Thing)> {
        self.select(|object| object.meta().owner_references.iter().flatten().any(|owner| owner.uid == uid))
    }

    fn owned(&self) -> Vec<(ObjectKey, Thing)> {
        self.select(|object| object.meta().owner_references.as_ref().is_some_and(|owners| !owners.is_empty()))
    }

    fn watch(&self, runner: Runner, keys: Box<dyn Fn(Seen) -> Vec<ObjectKey> + Send>) -> Runner {
        runner.watches(&self.lister, move |change: &Change<K>| {
            let thing = |object: &Option<Arc<K>>| object.as_ref().map(|object| Thing::of(&**object));
            keys(Seen { key: change.key.clone(), old: thing(&change.old), new: thing(&change.new) })
        })
    }
}

/// The API of a resource, in a namespace if it has those.
pub(super) fn api(client: &Client, resource: &ApiResource, namespaced: bool, namespace: &str) -> Api<DynamicObject> {
    if namespaced {
        Api::namespaced_with(client.clone(), namespace, resource)
    } else {
        Api::all_with(client.clone(), resource)
    }
}
