//! Where the servers of a store are found: the endpoints of the `kubernetes` Service.
//!
//! Each server keeps a mark of its own in the store, and renews it. The endpoints are computed from the marks alone, so
//! that servers never differ about them; a mark that is not renewed any more is taken out by whichever server sees it
//! first, by the time that has passed on its own clock.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    server::{
        Inner,
        bootstrap::RETRY,
        error::Result,
        object::{self, Object, meta_mut},
        registry::Kind,
        route::Target,
        write::{CreateError, Part, Terms},
    },
    store::{self, Check, Key, Op, Prefix, Revision, Txn},
};

/// How often a server renews its mark, in seconds; as in Kubernetes.
const RENEW_SECONDS: u64 = 10;
/// How long a mark counts that is not renewed, in seconds; as in Kubernetes.
const MARK_SECONDS: u64 = 15;
/// Where the marks are; no resource is there.
const MARKS: [&str; 2] = ["server", "addresses"];
/// The Service, and its endpoints.
const NAME: &str = "kubernetes";
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
const SKIP_MIRROR_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";

/// The servers, by their ports: what shares a port shares a subset and a slice.
type Servers = BTreeMap<u16, Vec<Ipv4Addr>>;

/// When each mark was first seen as it is.
type Sightings = BTreeMap<Key, (Revision, Instant)>;

impl Inner {
    /// Keeps `address` among the endpoints until the server drains.
    pub(super) async fn advertise(&self, address: SocketAddrV4) {
        let mut sightings = Sightings::new();
        loop {
            let wait = match self.advertise_once(address, &mut sightings).await {
                Ok(()) => Duration::from_secs(RENEW_SECONDS),
                Err(failure) => {
                    tracing::warn!(message = failure.status().message, "can't tell where this server is");
                    RETRY
                }
            };
            tokio::select! {
                biased;
                _ = self.draining.wait() => break,
                () = sleep(wait) => {}
            }
        }
        // If it fails, the others take the mark out once its time is over.
        if let Err(failure) = self.withdraw(address).await {
            tracing::warn!(message = failure.status().message, "can't tell that this server ends");
        }
    }

    async fn advertise_once(&self, address: SocketAddrV4, sightings: &mut Sightings) -> Result<()> {
        self.ensure_api_service().await;
        let key = mark(address)?;
        let check = match self.store.get(&key).await? {
            Some(entry) => Check::Unchanged(key.clone(), entry.modified),
            None => Check::Absent(key.clone()),
        };
        self.store.commit(Txn { checks: vec![check], ops: vec![Op::Put(key, Bytes::new())] }).await?;
        self.expire_marks(sightings).await?;
        self.write_endpoints().await
    }

    async fn withdraw(&self, address: SocketAddrV4) -> Result<()> {
        let key = mark(address)?;
        if let Some(entry) = self.store.get(&key).await? {
            self.store.commit(Txn::delete(key, entry.modified)).await?;
        }
        self.write_endpoints().await
    }

    /// Takes out the marks whose servers are gone: never before their time, and never one that was just renewed
    /// (SEMANTICS 16).
    async fn expire_marks(&self, sightings: &mut Sightings) -> Result<()> {
        let marks = self.store.list(&Prefix::new(MARKS)?).await?;
        sightings.retain(|key, _| marks.entries.iter().any(|entry| entry.key == *key));
        for entry in marks.entries {
            let now = Instant::now();
            let seen = sightings.entry(entry.key.clone()).or_insert((entry.modified, now));
            if seen.0 != entry.modified {
                *seen = (entry.modified, now);
            } else if now.duration_since(seen.1) >= Duration::from_secs(MARK_SECONDS) {
                match self.store.commit(Txn::delete(entry.key, entry.modified)).await {
                    Ok(_) | Err(store::Error::Conflict { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Brings the endpoints in line with the marks; what is so already is not written.
    async fn write_endpoints(&self) -> Result<()> {
        let marks = self.store.list(&Prefix::new(MARKS)?).await?;
        let mut servers = Servers::new();
        for address in marks.entries.iter().filter_map(|entry| entry.key.segments().last()?.parse().ok()) {
            let address: SocketAddrV4 = address;
            servers.entry(address.port()).or_default().push(*address.ip());
        }
        let endpoints = self.registry.find("", "v1", "endpoints").expect("built in");
        self.write_object(endpoints, NAME, SKIP_MIRROR_LABEL, "true", subsets(&servers)).await?;
        let slices = self.registry.find("discovery.k8s.io", "v1", "endpointslices").expect("built in");
        for (at, (port, addresses)) in servers.iter().enumerate() {
            self.write_object(slices, &slice_name(at), SERVICE_NAME_LABEL, NAME, slice(*port, addresses)).await?;
        }
        self.delete_surplus(slices, servers.len()).await
    }

    /// Writes the fields of an object of the `default` namespace, which is made if it is absent.
    async fn write_object(&self, kind: &Kind, name: &str, label: &str, value: &str, fields: Object) -> Result<()> {
        let labeled = |object: &Object| {
            let mut object = object.clone();
            object.extend(fields.clone());
            let labels = meta_mut(&mut object).entry("labels").or_insert_with(|| json!({}));
            labels[label] = value.into();
            object
        };
        let target = Target {
            group: kind.group.into(),
            version: kind.version.into(),
            plural: kind.plural.into(),
            namespace: Some("default".into()),
            name: Some(name.into()),
            subresource: None,
            watched: false,
        };
        if self.store.get(&object::key(kind, "default", name)?).await?.is_some() {
            return self.modify(kind, &target, Part::Spec, &Terms::OWN, false, |old| Ok(labeled(old))).await.map(drop);
        }
        let mut object = Object::new();
        object.insert("apiVersion".into(), kind.api_version().into());
        object.insert("kind".into(), kind.kind.into());
        object.insert("metadata".into(), json!({ "name": name, "namespace": "default" }));
        match self.create_object(kind, labeled(&object), &Terms::OWN).await {
            // Another server was first, and wrote the same.
            Ok(_) | Err(CreateError::Exists) => Ok(()),
            Err(CreateError::Failed(failure)) => Err(failure),
        }
    }

    /// Deletes the slices beyond the first `count`, left from when the servers had more ports.
    async fn delete_surplus(&self, slices: &Kind, count: usize) -> Result<()> {
        for at in count.. {
            let key = object::key(slices, "default", &slice_name(at))?;
            let Some(entry) = self.store.get(&key).await? else { break };
            match self.store.commit(Txn::delete(key, entry.modified)).await {
                Ok(_) | Err(store::Error::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

fn mark(address: SocketAddrV4) -> Result<Key> {
    Ok(Key::new(MARKS.into_iter().chain([address.to_string().as_str()]))?)
}

/// As Kubernetes calls the first, and it has but one.
fn slice_name(at: usize) -> String {
    if at == 0 { NAME.into() } else { format!("{NAME}-{at}") }
}

/// What is peculiar to the `Endpoints` of these servers.
fn subsets(servers: &Servers) -> Object {
    let subsets = servers.iter().map(|(port, addresses)| {
        let addresses: Vec<_> = addresses.iter().map(|address| json!({ "ip": address })).collect();
        json!({ "addresses": addresses, "ports": [{ "name": "https", "port": port, "protocol": "TCP" }] })
    });
    [("subsets".into(), Value::from_iter(subsets))].into_iter().collect()
}

/// What is peculiar to the slice of the servers of one port.
fn slice(port: u16, addresses: &[Ipv4Addr]) -> Object {
    let endpoints = addresses.iter().map(|address| json!({ "addresses": [address], "conditions": { "ready": true } }));
    let ports = json!([{ "name": "https", "port": port, "protocol": "TCP" }]);
    let fields = [("addressType", "IPv4".into()), ("endpoints", Value::from_iter(endpoints)), ("ports", ports)];
    fields.into_iter().map(|(field, value)| (field.to_owned(), value)).collect()
}
