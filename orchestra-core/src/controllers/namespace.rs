//! Empties namespaces that are on their way out: pods first, then the rest, then the namespace itself (SEMANTICS 30).

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, DynamicObject, ListParams, PostParams},
    core::{ApiResource, GroupVersionKind},
    discovery::Discovery,
};

use super::Parts;
use crate::{
    clock::{Clock, Timestamp},
    controller::{Action, Controller, Error, ObjectKey, Runner},
    informer::Lister,
};

/// How long a namespace is left alone whose content takes its time to end.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// The finalizer that this controller answers for.
const FINALIZER: &str = "kubernetes";

/// What is left in a namespace that goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// How many objects of each resource, such as `pods` or `deployments.apps`, were there.
    pub remaining: BTreeMap<String, usize>,
    /// How many of them each finalizer holds back.
    pub held_by: BTreeMap<String, usize>,
    /// The resources whose objects could not be deleted, and why.
    pub failures: BTreeMap<String, String>,
}

/// The conditions of a namespace that goes, with Kubernetes' own types, reasons and messages; pure.
#[must_use]
pub fn conditions(old: &[NamespaceCondition], content: &Content, now: Timestamp) -> Vec<NamespaceCondition> {
    let listed = |counts: &BTreeMap<String, usize>, of: &str| {
        let each: Vec<_> =
            counts.iter().map(|(name, count)| format!("{name} {of} {count} resource instances")).collect();
        each.join(", ")
    };
    let failures: Vec<_> = content.failures.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    let (remaining, held) = (listed(&content.remaining, "has"), listed(&content.held_by, "in"));
    let rows: [(&str, Option<String>, &str, &str, &str); 4] = [
        ("NamespaceDeletionDiscoveryFailure", None, "", "ResourcesDiscovered", "All resources successfully discovered"),
        (
            "NamespaceDeletionContentFailure",
            (!failures.is_empty()).then(|| {
                format!("Failed to delete all resource types, {} remaining: {}", failures.len(), failures.join(", "))
            }),
            "ContentDeletionFailed",
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization",
        ),
        (
            "NamespaceContentRemaining",
            (!remaining.is_empty()).then(|| format!("Some resources are remaining: {remaining}")),
            "SomeResourcesRemain",
            "ContentRemoved",
            "All content successfully removed",
        ),
        (
            "NamespaceFinalizersRemaining",
            (!held.is_empty()).then(|| format!("Some content in the namespace has finalizers remaining: {held}")),
            "SomeFinalizersRemain",
            "ContentHasNoFinalizers",
            "All content-preserving finalizers finished",
        ),
    ];
    let condition = |(type_, trouble, reason, good_reason, good): (&str, Option<String>, &str, &str, &str)| {
        let status = if trouble.is_some() { "True" } else { "False" };
        let reason = if trouble.is_some() { reason } else { good_reason };
        let since = old.iter().find(|old| old.type_ == type_ && old.status == status);
        NamespaceCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(trouble.unwrap_or_else(|| good.into())),
            last_transition_time: since.and_then(|old| old.last_transition_time.clone()).or(Some(Time(now))),
        }
    };
    rows.into_iter().map(condition).collect()
}

struct Namespaces {
    client: Client,
    namespaces: Lister<Namespace>,
    clock: Arc<dyn Clock>,
}

/// Makes the controller, ready to run.
#[must_use]
pub fn runner(parts: &Parts) -> Runner {
    parts.runner(controller(parts)).reconciles(&parts.informers.of::<Namespace>())
}

/// Makes the controller alone, for those who call it themselves.
#[must_use]
pub fn controller(parts: &Parts) -> impl Controller + use<> {
    Namespaces { client: parts.client.clone(), namespaces: parts.informers.of(), clock: Arc::clone(&parts.clock) }
}

#[async_trait]
impl Controller for Namespaces {
    fn name(&self) -> &str {
        "namespace"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        self.namespaces.synced().await;
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Action::AwaitChange) };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.as_deref()).unwrap_or_default();
        if namespace.metadata.deletion_timestamp.is_none() || !finalizers.iter().any(|held| held == FINALIZER) {
            return Ok(Action::AwaitChange);
        }
        let content = self.empty(&key.name).await?;
        let namespace = self.write_conditions(&namespace, &content).await?;
        if content.remaining.is_empty() && content.failures.is_empty() {
            self.finalize(&namespace, key).await?;
            return Ok(Action::AwaitChange);
        }
        Ok(Action::RequeueAfter(LOOK_AGAIN))
    }
}

impl Namespaces {
    /// Deletes what is in a namespace, nothing else as long as there are pods; tells what was there.
    async fn empty(&self, namespace: &str) -> Result<Content, Error> {
        let mut content = Content::default();
        self.delete_all(namespace, &ApiResource::erase::<Pod>(&()), &mut content).await;
        if content.remaining.is_empty() && content.failures.is_empty() {
            for resource in self.resources().await? {
                self.delete_all(namespace, &resource, &mut content).await;
            }
        }
        Ok(content)
    }

    /// Deletes the objects of one kind; one kind that fails does not keep the others.
    async fn delete_all(&self, namespace: &str, resource: &ApiResource, content: &mut Content) {
        let dot = if resource.group.is_empty() { "" } else { "." };
        let name = format!("{}{dot}{}", resource.plural, resource.group);
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), namespace, resource);
        let found = match api.list_metadata(&ListParams::default()).await {
            Ok(found) => found.items,
            // Not to be listed, or gone since discovery.
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 405) => return,
            Err(error) => {
                content.failures.insert(name, error.to_string());
                return;
            }
        };
        if found.is_empty() {
            return;
        }
        for finalizer in found.iter().flat_map(|object| object.finalizers()) {
            *content.held_by.entry(finalizer.clone()).or_insert(0) += 1;
        }
        // Those that go already need no telling.
        if found.iter().any(|object| object.metadata.deletion_timestamp.is_none())
            && let Err(error) = api.delete_collection(&DeleteParams::background(), &ListParams::default()).await
        {
            content.failures.insert(name.clone(), error.to_string());
        }
        content.remaining.insert(name, found.len());
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

    async fn write_conditions(&self, namespace: &Namespace, content: &Content) -> Result<Namespace, Error> {
        let old = namespace.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
        let new = conditions(&old, content, self.clock.now());
        let mut next = namespace.clone();
        if new == old {
            return Ok(next);
        }
        next.status.get_or_insert_default().conditions = Some(new);
        let api = Api::<Namespace>::all(self.client.clone());
        let written = api.replace_status(&namespace.name_any(), &PostParams::default(), &next).await?;
        self.namespaces.shows(&written).await;
        Ok(written)
    }

    /// Takes this controller's own finalizer off; others' hold the namespace for as long as they like.
    async fn finalize(&self, namespace: &Namespace, key: &ObjectKey) -> Result<(), Error> {
        let mut done = namespace.clone();
        done.spec.get_or_insert_default().finalizers.get_or_insert_default().retain(|held| held != FINALIZER);
        let kind = GroupVersionKind::gvk("", "v1", "Namespace");
        let api = Api::<DynamicObject>::all_with(
            self.client.clone(),
            &ApiResource::from_gvk_with_plural(&kind, "namespaces"),
        );
        match api.replace_subresource("finalize", &key.name, &PostParams::default(), &done).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{Content, Timestamp, conditions};

    proptest! {
        /// SEMANTICS 45: conditions that say what is are written once, and each says whether there is trouble.
        #[test]
        fn conditions_tell_what_is_left_once(
            remaining in proptest::collection::btree_map("[a-z]{1,4}", 1..9_usize, 0..3),
            held_by in proptest::collection::btree_map("[a-z]{1,4}", 1..9_usize, 0..3),
            failures in proptest::collection::btree_map("[a-z]{1,4}", "[a-z]{1,4}", 0..3),
        ) {
            let content = Content { remaining, held_by, failures };
            let first = conditions(&[], &content, Timestamp::UNIX_EPOCH);
            let later = Timestamp::from_second(9).expect("in range");
            prop_assert_eq!(&conditions(&first, &content, later), &first);
            let trouble: Vec<_> = first.iter().map(|condition| condition.status == "True").collect();
            let wanted = [false, !content.failures.is_empty(), !content.remaining.is_empty(), !content.held_by.is_empty()];
            prop_assert_eq!(trouble, wanted);
        }
    }
}
