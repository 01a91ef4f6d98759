//! Empties namespaces that are on their way out: pods first, then the rest, then the namespace itself (SEMANTICS 30).

use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, DynamicObject, ListParams, PostParams},
    core::{ApiResource, GroupVersionKind},
    discovery::Discovery,
};

use super::Parts;
use crate::{
    controller::{Action, Controller, Error, ObjectKey, Runner},
    informer::Lister,
};

/// How long a namespace is left alone whose content takes its time to end.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(500);

struct Namespaces {
    client: Client,
    namespaces: Lister<Namespace>,
    pods: Lister<Pod>,
}

/// Makes the controller, ready to run.
#[must_use]
pub fn runner(parts: &Parts) -> Runner {
    let (namespaces, pods) = (parts.informers.of::<Namespace>(), parts.informers.of::<Pod>());
    let controller = Namespaces { client: parts.client.clone(), namespaces: namespaces.clone(), pods };
    Runner::new(controller, parts.entropy.fork()).reconciles(&namespaces)
}

#[async_trait]
impl Controller for Namespaces {
    fn name(&self) -> &str {
        "namespace"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        self.pods.synced().await;
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Action::AwaitChange) };
        if namespace.metadata.deletion_timestamp.is_none() {
            return Ok(Action::AwaitChange);
        }
        let pods = Api::<Pod>::namespaced(self.client.clone(), &key.name);
        if !pods.list(&ListParams::default().limit(1)).await?.items.is_empty() {
            pods.delete_collection(&DeleteParams::default(), &ListParams::default()).await?;
            return Ok(Action::RequeueAfter(LOOK_AGAIN));
        }
        if self.empty(&key.name).await? {
            self.finalize(&namespace, key).await?;
            return Ok(Action::AwaitChange);
        }
        Ok(Action::RequeueAfter(LOOK_AGAIN))
    }
}

impl Namespaces {
    /// Deletes what is in a namespace; whether nothing was.
    async fn empty(&self, namespace: &str) -> Result<bool, Error> {
        let mut empty = true;
        for resource in self.resources().await? {
            let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, &resource);
            match api.list(&ListParams::default().limit(1)).await {
                Ok(list) if list.items.is_empty() => {}
                Ok(_) => {
                    empty = false;
                    api.delete_collection(&DeleteParams::background(), &ListParams::default()).await?;
                }
                // Not to be listed, or gone since discovery.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(empty)
    }

    /// Every namespaced kind that can be deleted.
    async fn resources(&self) -> Result<Vec<ApiResource>, Error> {
        let discovery = Discovery::new(self.client.clone()).run_aggregated().await?;
        let mut resources = Vec::new();
        for group in discovery.groups() {
            for (resource, capabilities) in group.recommended_resources() {
                if capabilities.scope == kube::discovery::Scope::Namespaced
                    && capabilities.supports_operation("deletecollection")
                {
                    resources.push(resource);
                }
            }
        }
        resources.sort_by(|a, b| (&a.group, &a.plural).cmp(&(&b.group, &b.plural)));
        Ok(resources)
    }

    async fn finalize(&self, namespace: &Namespace, key: &ObjectKey) -> Result<(), Error> {
        let mut done = namespace.clone();
        done.spec.get_or_insert_default().finalizers = Some(Vec::new());
        let body = serde_json::to_vec(&done).map_err(|error| Error::Retry(error.into()))?;
        let kind = GroupVersionKind::gvk("", "v1", "Namespace");
        let api = Api::<DynamicObject>::all_with(
            self.client.clone(),
            &ApiResource::from_gvk_with_plural(&kind, "namespaces"),
        );
        match api.replace_subresource("finalize", &key.name, &PostParams::default(), &body).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
