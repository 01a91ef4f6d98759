//! Applies manifests: creates what is absent, and merges what is there with what the manifest says.

use k8s_openapi::api::apps::v1::Deployment;
use kube::{
    Api, Client,
    api::{DynamicObject, ListParams, Patch, PatchParams, PostParams},
    core::GroupVersionKind,
    discovery,
};
use serde_json::Value;

/// Why an object of a manifest was not applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It is no object: it lacks a field, or the field is no text.
    #[error("document {document} of the manifest has no {field}")]
    Malformed {
        /// Which one, from 1.
        document: usize,
        /// What it lacks.
        field: &'static str,
    },
    /// The server refused it.
    #[error("{kind} {name} was not applied")]
    Refused {
        /// The object's kind.
        kind: String,
        /// The object's name.
        name: String,
        /// Why.
        #[source]
        source: kube::Error,
    },
}

/// Applies the objects in order; one without a namespace goes to `default`, if its kind has namespaces.
///
/// # Errors
///
/// [`Error`] for the first object that can't be applied; those before it are.
pub async fn apply(client: &Client, objects: impl IntoIterator<Item = Value>) -> Result<(), Error> {
    for (at, object) in objects.into_iter().enumerate().filter(|(_, object)| !object.is_null()) {
        let field = |name: &'static str, value: &Value| {
            let text = value.as_str().map(str::to_owned).filter(|text| !text.is_empty());
            text.ok_or(Error::Malformed { document: at + 1, field: name })
        };
        let api_version = field("apiVersion", &object["apiVersion"])?;
        let kind = field("kind", &object["kind"])?;
        let name = field("metadata.name", &object["metadata"]["name"])?;
        apply_one(client, &api_version, &kind, &name, object).await.map_err(|source| Error::Refused {
            kind,
            name,
            source,
        })?;
    }
    Ok(())
}

/// How many pods of all deployments are available, and how many there should be.
///
/// # Errors
///
/// As the client's.
pub async fn availability(client: &Client) -> kube::Result<(i32, i32)> {
    let deployments = Api::<Deployment>::all(client.clone()).list(&ListParams::default()).await?;
    let available = deployments.iter().filter_map(|deployment| deployment.status.as_ref()?.available_replicas).sum();
    Ok((available, deployments.iter().filter_map(|deployment| deployment.spec.replicas).sum()))
}

async fn apply_one(client: &Client, api_version: &str, kind: &str, name: &str, object: Value) -> kube::Result<()> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
    let (resource, capabilities) = discovery::pinned_kind(client, &GroupVersionKind::gvk(group, version, kind)).await?;
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
    let api: Api<DynamicObject> = match capabilities.scope {
        discovery::Scope::Namespaced => Api::namespaced_with(client.clone(), namespace, &resource),
        discovery::Scope::Cluster => Api::all_with(client.clone(), &resource),
    };
    let typed: DynamicObject = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
    match api.create(&PostParams::default(), &typed).await {
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            api.patch(name, &PatchParams::default(), &Patch::Merge(object)).await.map(drop)
        }
        created => created.map(drop),
    }
}
