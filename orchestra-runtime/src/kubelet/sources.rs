//! What a pod refers to: the config maps and secrets behind its environment and volumes, and the services it finds.

use std::collections::{BTreeMap, BTreeSet};

use futures::{
    StreamExt as _,
    stream::{self, BoxStream, SelectAll},
};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret, Service};
use kube::{
    Api, Client,
    api::ListParams,
    runtime::{
        WatchStreamExt as _,
        watcher::{Config, Event, watcher},
    },
};
use orchestra_core::store::BoxError;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{API_PATIENCE, decide::containers, links};

/// The namespace of the service by which pods reach the API.
const API_SERVICE: (&str, &str) = ("default", "kubernetes");

/// The config maps, secrets and services that a pod refers to, as far as they exist. `Debug` is left out: it holds secrets.
#[derive(Default)]
pub(super) struct Sources {
    pub(super) config_maps: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    pub(super) secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    /// The variables by which its containers find services.
    pub(super) links: BTreeMap<String, String>,
}

/// A pod's sources as they were last read: with them its containers are restarted while the API is away (SEMANTICS 55).
#[derive(Default)]
pub(super) struct KeptSources {
    last: Option<Sources>,
    is_fresh: bool,
}

impl KeptSources {
    /// Reads what `pod` refers to; while the API is out of reach, what was read last.
    ///
    /// # Errors
    ///
    /// What the API refused; or why it can't be reached, if nothing was ever read.
    pub(super) async fn read(&mut self, client: &Client, pod: &Pod) -> Result<&Sources, BoxError> {
        let failure: BoxError = match timeout(API_PATIENCE, Sources::read(client, pod)).await {
            Ok(Ok(sources)) => {
                self.is_fresh = true;
                return Ok(self.last.insert(sources));
            }
            Ok(Err(error)) if !is_out_of_reach(&error) => return Err(error.into()),
            Ok(Err(error)) => error.into(),
            Err(late) => late.into(),
        };
        self.is_fresh = false;
        self.last.as_ref().ok_or(failure)
    }

    /// Whether the last reading was of the API itself.
    pub(super) fn is_fresh(&self) -> bool {
        self.is_fresh
    }
}

/// Whether an answer means that the API can't be asked now; any other refusal is its word.
fn is_out_of_reach(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => !(400..500).contains(&status.code) || status.code == 429,
        _ => true,
    }
}

impl Sources {
    /// Reads what `pod` refers to; what doesn't exist is left out.
    async fn read(client: &Client, pod: &Pod) -> kube::Result<Self> {
        let (mut config_maps, mut secrets) = volume_references(pod);
        env_references(pod, &mut config_maps, &mut secrets);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let mut sources = Self { links: links::variables(&services(client, pod).await?), ..Self::default() };
        for name in config_maps {
            if let Some(map) = Api::<ConfigMap>::namespaced(client.clone(), namespace).get_opt(&name).await? {
                let text = map.data.unwrap_or_default().into_iter().map(|(key, text)| (key, text.into_bytes()));
                let binary = map.binary_data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
                sources.config_maps.insert(name, text.chain(binary).collect());
            }
        }
        for name in secrets {
            if let Some(secret) = Api::<Secret>::namespaced(client.clone(), namespace).get_opt(&name).await? {
                let data = secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0));
                sources.secrets.insert(name, data.collect());
            }
        }
        Ok(sources)
    }
}

/// The services of the pod's namespace, unless it wants none, and the one of the API.
async fn services(client: &Client, pod: &Pod) -> kube::Result<Vec<Service>> {
    let (api_namespace, api_name) = API_SERVICE;
    let api = Api::<Service>::namespaced(client.clone(), api_namespace).get_opt(api_name).await?;
    let mut services = Vec::from_iter(api);
    if pod.spec.as_ref().and_then(|spec| spec.enable_service_links) != Some(false) {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let own: Api<Service> = Api::namespaced(client.clone(), namespace);
        services.extend(own.list(&ListParams::default()).await?);
    }
    Ok(services)
}

/// Tells whenever something that the pod's volumes are made of may have changed; never, if there is nothing.
pub(super) fn volume_changes(client: &Client, pod: &Pod) -> BoxStream<'static, ()> {
    let (config_maps, secrets) = volume_references(pod);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let mut all: SelectAll<BoxStream<'static, ()>> = SelectAll::new();
    all.extend(config_maps.iter().map(|name| changes::<ConfigMap>(client, namespace, name)));
    all.extend(secrets.iter().map(|name| changes::<Secret>(client, namespace, name)));
    if all.is_empty() { stream::pending().boxed() } else { all.boxed() }
}

fn changes<K>(client: &Client, namespace: &str, name: &str) -> BoxStream<'static, ()>
where
    K: kube::Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
    K: Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let objects: Api<K> = Api::namespaced(client.clone(), namespace);
    let config = Config::default().fields(&format!("metadata.name={name}"));
    let changed = |event| async move { matches!(event, Ok(Event::Apply(_) | Event::InitDone)).then_some(()) };
    watcher(objects, config).default_backoff().filter_map(changed).boxed()
}

/// The names of the config maps, and of the secrets, that a pod's volumes are made of.
fn volume_references(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        maps.extend(volume.config_map.iter().map(|source| source.name.clone()));
        secrets.extend(volume.secret.iter().filter_map(|source| source.secret_name.clone()));
        let projected = volume.projected.iter().flat_map(|projected| projected.sources.iter().flatten());
        for source in projected {
            maps.extend(source.config_map.iter().map(|source| source.name.clone()));
            secrets.extend(source.secret.iter().map(|source| source.name.clone()));
        }
    }
    (maps, secrets)
}

/// Adds the names of those that its containers' environments are made of.
fn env_references(pod: &Pod, maps: &mut BTreeSet<String>, secrets: &mut BTreeSet<String>) {
    for (_, container) in pod.spec.iter().flat_map(containers) {
        for from in container.env_from.iter().flatten() {
            maps.extend(from.config_map_ref.iter().map(|source| source.name.clone()));
            secrets.extend(from.secret_ref.iter().map(|source| source.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            maps.extend(from.config_map_key_ref.iter().map(|source| source.name.clone()));
            secrets.extend(from.secret_key_ref.iter().map(|source| source.name.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::{Error, core::Status};

    use super::is_out_of_reach;

    /// SEMANTICS 55: what the API refuses is refused, what it can't be asked is not.
    #[test]
    fn only_an_api_that_cannot_answer_is_out_of_reach() {
        for (code, out_of_reach) in [(403, false), (404, false), (422, false), (429, true), (500, true), (503, true)] {
            let error = Error::Api(Box::new(Status::failure("no", "No").with_code(code)));
            assert_eq!(is_out_of_reach(&error), out_of_reach, "{code}");
        }
        assert!(is_out_of_reach(&Error::Service("no route".into())));
    }
}
