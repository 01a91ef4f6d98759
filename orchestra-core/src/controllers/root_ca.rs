//! Publishes the certificates of the API server in every namespace, as the config map `kube-root-ca.crt`, so that pods
//! know whom they talk to.

use std::collections::BTreeMap;

use async_trait::async_trait;
use k8s_openapi::{
    ByteString,
    api::core::v1::{ConfigMap, Namespace},
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use serde_json::Value;

use super::Parts;
use crate::{
    controller::{Action, Controller, Error, ObjectKey, Runner},
    informer::{Change, Lister},
};

/// The config map's name, in each namespace.
pub const CONFIG_MAP: &str = "kube-root-ca.crt";
const KEY: &str = "ca.crt";
const DESCRIPTION_ANNOTATION: &str = "kubernetes.io/description";
const DESCRIPTION: &str = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";

/// What a namespace's config map should read, given the one there is; `None` if nothing is to be written. Pure.
#[must_use]
pub fn plan(namespace: &Namespace, current: Option<&ConfigMap>, root_ca: &str) -> Option<ConfigMap> {
    let data = BTreeMap::from([(KEY.to_owned(), root_ca.to_owned())]);
    if namespace.metadata.deletion_timestamp.is_some() || current.is_some_and(|map| map.data.as_ref() == Some(&data)) {
        return None;
    }
    let mut metadata = current.map(|map| map.metadata.clone()).unwrap_or_else(|| ObjectMeta {
        name: Some(CONFIG_MAP.into()),
        namespace: namespace.metadata.name.clone(),
        ..ObjectMeta::default()
    });
    metadata.annotations.get_or_insert_default().insert(DESCRIPTION_ANNOTATION.into(), DESCRIPTION.into());
    Some(ConfigMap { metadata, data: Some(data), ..ConfigMap::default() })
}

/// Certificates, as DER, in the form in which they are published.
#[must_use]
pub fn pem(certificates: &[Vec<u8>]) -> String {
    const LINE: usize = 64;
    let mut text = String::new();
    for der in certificates {
        let encoded = serde_json::to_value(ByteString(der.clone())).ok();
        let encoded = encoded.as_ref().and_then(Value::as_str).unwrap_or_default();
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in encoded.as_bytes().chunks(LINE) {
            text.push_str(&String::from_utf8_lossy(line));
            text.push('\n');
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

struct RootCa {
    client: Client,
    root_ca: Option<String>,
    namespaces: Lister<Namespace>,
    config_maps: Lister<ConfigMap>,
}

/// Makes the controller, ready to run; it does nothing if the parts have no certificates.
#[must_use]
pub fn runner(parts: &Parts) -> Runner {
    let published = |change: &Change<ConfigMap>| match &*change.key.name {
        CONFIG_MAP => vec![ObjectKey::new("", change.key.namespace.clone())],
        _ => Vec::new(),
    };
    let namespaces = parts.informers.of::<Namespace>();
    let runner = parts.runner(controller(parts));
    match parts.root_ca {
        Some(_) => runner.reconciles(&namespaces).watches(&config_maps(parts), published),
        None => runner,
    }
}

/// Makes the controller alone, for those who call it themselves.
#[must_use]
pub fn controller(parts: &Parts) -> impl Controller + use<> {
    RootCa {
        client: parts.client.clone(),
        root_ca: parts.root_ca.clone(),
        namespaces: parts.informers.of(),
        config_maps: config_maps(parts),
    }
}

/// Only the config maps in question are kept: there may be many others, and large ones.
fn config_maps(parts: &Parts) -> Lister<ConfigMap> {
    parts.informers.selected(&format!("metadata.name={CONFIG_MAP}"))
}

#[async_trait]
impl Controller for RootCa {
    fn name(&self) -> &str {
        "root-ca"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        self.namespaces.synced().await;
        self.config_maps.synced().await;
        let (Some(root_ca), Some(namespace)) = (&self.root_ca, self.namespaces.get(key)) else {
            return Ok(Action::AwaitChange);
        };
        let current = self.config_maps.get(&ObjectKey::new(key.name.clone(), CONFIG_MAP));
        let Some(wanted) = plan(&namespace, current.as_deref(), root_ca) else { return Ok(Action::AwaitChange) };
        let api = Api::<ConfigMap>::namespaced(self.client.clone(), &key.name);
        let written = match current {
            Some(_) => api.replace(CONFIG_MAP, &PostParams::default(), &wanted).await,
            None => api.create(&PostParams::default(), &wanted).await,
        };
        match written {
            Ok(written) => self.config_maps.shows(&written).await,
            // Its namespace is going, or gone.
            Err(kube::Error::Api(status)) if matches!(status.code, 403 | 404) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Action::AwaitChange)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Namespace;
    use proptest::prelude::*;

    use super::{pem, plan};

    #[test]
    fn certificates_are_written_as_openssl_writes_them() {
        let text = pem(&[vec![0; 60]]);
        let lines: Vec<_> = text.lines().map(str::len).collect();
        assert_eq!((text.lines().next(), lines), (Some("-----BEGIN CERTIFICATE-----"), vec![27, 64, 16, 25]));
    }

    proptest! {
        /// SEMANTICS 45: what is written as planned needs no writing again, and what others added to it stays.
        #[test]
        fn a_config_map_is_written_once_for_each_bundle(first in "[a-z]{0,8}", second in "[a-z]{0,8}") {
            let mut namespace = Namespace::default();
            namespace.metadata.name = Some("a".into());
            let mut map = plan(&namespace, None, &first).expect("absent");
            map.metadata.labels = Some([("team".to_owned(), "x".to_owned())].into());
            prop_assert_eq!(plan(&namespace, Some(&map), &first), None);
            let changed = plan(&namespace, Some(&map), &second);
            prop_assert_eq!(changed.is_some(), first != second);
            if let Some(changed) = changed {
                prop_assert_eq!(&changed.metadata.labels, &map.metadata.labels);
                prop_assert_eq!(plan(&namespace, Some(&changed), &second), None);
            }
        }
    }
}
