//! What a pod refers to: the config maps and secrets behind its environment and volumes.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
use kube::{Api, Client};

use super::decide::containers;

/// The config maps and secrets that a pod names, as far as they exist. `Debug` is left out: it holds secrets.
#[derive(Default)]
pub(super) struct Sources {
    pub(super) config_maps: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    pub(super) secrets: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
}

impl Sources {
    /// Reads what `pod` refers to; what doesn't exist is left out.
    pub(super) async fn read(client: &Client, pod: &Pod) -> kube::Result<Self> {
        let (config_maps, secrets) = references(pod);
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let mut sources = Self::default();
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

/// The names of the config maps, and of the secrets, that a pod refers to.
fn references(pod: &Pod) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut maps, mut secrets) = (BTreeSet::new(), BTreeSet::new());
    let Some(spec) = &pod.spec else { return (maps, secrets) };
    for (_, container) in containers(spec) {
        for from in container.env_from.iter().flatten() {
            maps.extend(from.config_map_ref.iter().map(|source| source.name.clone()));
            secrets.extend(from.secret_ref.iter().map(|source| source.name.clone()));
        }
        for from in container.env.iter().flatten().filter_map(|variable| variable.value_from.as_ref()) {
            maps.extend(from.config_map_key_ref.iter().map(|source| source.name.clone()));
            secrets.extend(from.secret_key_ref.iter().map(|source| source.name.clone()));
        }
    }
    for volume in spec.volumes.iter().flatten() {
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
