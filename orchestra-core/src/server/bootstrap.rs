//! What every cluster has from its first moment.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use ring::hmac;
use serde_json::{Value, json};

use crate::{
    server::{
        Inner,
        error::Result,
        object::{self, Object, meta},
        registry::Kind,
        write::{CreateError, Terms},
    },
    store::{self, Key, Txn},
};

/// The namespaces that exist without anybody's doing.
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// The priority classes of what a cluster can't do without: name, value, and what for; as Kubernetes has them.
const PRIORITY_CLASSES: [(&str, i32, &str); 2] = [
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];
/// Where the key of continue tokens is; no resource is there.
const TOKEN_KEY: [&str; 3] = ["server", "keys", "continue"];
/// What a server waits before it asks an unavailable store again.
pub(super) const RETRY: Duration = Duration::from_millis(100);

impl Inner {
    /// Makes what is missing.
    pub(super) async fn bootstrap(&self) {
        self.ensure_namespaces().await;
        for (name, value, description) in PRIORITY_CLASSES {
            let class = json!({ "metadata": { "name": name }, "value": value, "description": description });
            self.ensure("scheduling.k8s.io", "v1", "priorityclasses", class).await;
        }
        self.ensure_api_service().await;
        self.share_token_key().await;
        self.bootstrapped.set(()).expect("a server starts once");
    }

    /// Makes those of [`NAMESPACES`] again that go, as soon as they are gone: without one of them the nodes could not renew
    /// their leases.
    ///
    /// Any change of a namespace makes it look, which costs a read of the store for each of the few.
    pub(super) async fn keep_namespaces(&self) -> Infallible {
        let namespaces = self.registry.find("", "v1", "namespaces").expect("built in");
        let changes = self.cache.changes(&namespaces.shelf());
        loop {
            // Taken first, so that what changes under way is looked at again.
            let seen = changes.get();
            self.ensure_namespaces().await;
            changes.reach(seen + 1).await;
        }
    }

    async fn ensure_namespaces(&self) {
        for namespace in NAMESPACES {
            self.ensure("", "v1", "namespaces", json!({ "metadata": { "name": namespace } })).await;
        }
    }

    /// Makes the Service by which pods reach the API servers.
    pub(super) async fn ensure_api_service(&self) {
        let address = self.ranges.first_address().to_string();
        let service = json!({
            "metadata": { "name": "kubernetes", "namespace": "default",
                "labels": { "component": "apiserver", "provider": "kubernetes" } },
            "spec": { "clusterIP": address, "clusterIPs": [address],
                "ports": [{ "name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443 }] },
        });
        self.ensure("", "v1", "services", service).await;
    }

    /// Takes the key of continue tokens from the store, so that a client's pages may come from several servers, and after
    /// a restart; makes one if there is none.
    async fn share_token_key(&self) {
        loop {
            match self.stored_token_key().await {
                Ok(key) => {
                    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
                    return self.token_key.set(key).expect("a server starts once");
                }
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "can't share the key of continue tokens");
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    async fn stored_token_key(&self) -> Result<Bytes, store::Error> {
        let at = Key::new(TOKEN_KEY)?;
        if let Some(entry) = self.store.get(&at).await? {
            return Ok(entry.value);
        }
        // It keeps clients from mixing tokens up, and guards nothing: what a token leads to, its bearer may list anyway.
        let key = Bytes::from([self.entropy.uuid().into_bytes(), self.entropy.uuid().into_bytes()].concat());
        match self.store.commit(Txn::create(at.clone(), key.clone())).await {
            Ok(_) => Ok(key),
            // Another server was first.
            Err(store::Error::Conflict { .. }) => {
                let entry = self.store.get(&at).await?;
                entry.map(|entry| entry.value).ok_or(store::Error::Unavailable("the key is gone again".into()))
            }
            Err(error) => Err(error),
        }
    }

    async fn ensure(&self, group: &str, version: &str, plural: &str, object: Value) {
        let kind = self.registry.find(group, version, plural).expect("built in");
        let Value::Object(mut object) = object else { return };
        object.insert("apiVersion".into(), kind.api_version().into());
        object.insert("kind".into(), kind.kind.into());
        let object: Object = object;
        loop {
            match self.ensure_once(kind, &object).await {
                Ok(()) => return,
                Err(failure) => {
                    tracing::warn!(
                        kind = kind.kind,
                        message = failure.status().message,
                        "can't make what a cluster needs"
                    );
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// Looks first: what is there already holds what it would claim anew, such as an address.
    async fn ensure_once(&self, kind: &Kind, object: &Object) -> Result<()> {
        let key = object::key(kind, meta(object, "namespace"), meta(object, "name"))?;
        if self.store.get(&key).await?.is_some() {
            return Ok(());
        }
        match self.create_object(kind, object.clone(), &Terms::OWN).await {
            Ok(_) | Err(CreateError::Exists) => Ok(()),
            Err(CreateError::Failed(failure)) => Err(failure),
        }
    }
}
