//! Deletes what belonged to something that is gone, by owner reference: in the background, in the foreground, or not at
//! all, as the deletion said (SEMANTICS 48).

mod kind;
mod verdict;

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{
    Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy},
    core::GroupVersionKind,
    discovery::{self, Scope},
};
use serde_json::json;

use super::Parts;
use crate::controller::{Action, Controller, Error, ObjectKey, Runner};

use kind::{Kind, Seen};
use verdict::{FOREGROUND, ORPHAN};

pub use verdict::{Thing, Verdict, verdict};

/// In place of a kind: everything that names an owner is looked at.
const SWEEP: &str = "sweep";

struct Garbage {
    client: Client,
    kinds: Arc<[Arc<dyn Kind>]>,
}

/// One object of one kind.
struct Item<'a> {
    kind: &'a dyn Kind,
    key: ObjectKey,
    thing: Thing,
}

/// Makes the controller, ready to run.
#[must_use]
pub fn runner(parts: &Parts) -> Runner {
    let kinds: Arc<[_]> = kind::all(parts).into();
    let controller = Garbage { client: parts.client.clone(), kinds: Arc::clone(&kinds) };
    kinds.iter().enumerate().fold(parts.runner(controller), |runner, (at, kind)| {
        let kinds = Arc::clone(&kinds);
        kind.watch(runner, Box::new(move |seen| keys(&kinds, at, &seen)))
    })
}

/// Makes the controller alone, for those who call it themselves, by [`key`].
#[must_use]
pub fn controller(parts: &Parts) -> impl Controller + use<> {
    Garbage { client: parts.client.clone(), kinds: kind::all(parts).into() }
}

/// The key by which the collector looks at everything that names an owner.
#[must_use]
pub fn key() -> ObjectKey {
    ObjectKey::new(SWEEP, "")
}

/// What a change makes worth a look: the object itself; if it is gone, those who may have belonged to it, and its owners,
/// who may wait for that.
fn keys(kinds: &[Arc<dyn Kind>], at: usize, Seen { key: own, old, new }: &Seen) -> Vec<ObjectKey> {
    // The kind rides in front of the namespace: one queue for all kinds.
    let key = |at: usize, namespace: &str, name: &str| ObjectKey::new(format!("{at}/{namespace}"), name);
    let mut keys = Vec::new();
    if new.as_ref().is_some_and(|thing| thing.going || !thing.owners.is_empty()) {
        keys.push(key(at, &own.namespace, &own.name));
    }
    let Some(old) = old else { return keys };
    if new.as_ref().is_none_or(|new| new.uid != old.uid) {
        keys.push(self::key());
    }
    for owner in &old.owners {
        let kept = new.as_ref().is_some_and(|new| new.owners.iter().any(|kept| kept.uid == owner.uid));
        if let (false, Some((at, kind))) = (kept, find(kinds, owner)) {
            let namespace = if kind.namespaced() { &*own.namespace } else { "" };
            keys.push(key(at, namespace, &owner.name));
        }
    }
    keys
}

fn find<'a>(kinds: &'a [Arc<dyn Kind>], owner: &OwnerReference) -> Option<(usize, &'a dyn Kind)> {
    let is_kind = |kind: &Arc<dyn Kind>| {
        let resource = kind.resource();
        resource.kind == owner.kind && resource.api_version == owner.api_version
    };
    kinds.iter().enumerate().find(|(_, kind)| is_kind(kind)).map(|(at, kind)| (at, &**kind))
}

#[async_trait]
impl Controller for Garbage {
    fn name(&self) -> &str {
        "garbage"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        for kind in &*self.kinds {
            kind.synced().await;
        }
        if &*key.namespace == SWEEP {
            let owned = self
                .kinds
                .iter()
                .flat_map(|kind| kind.owned().into_iter().map(|(key, thing)| Item { kind: &**kind, key, thing }));
            // One that can't be deleted now does not keep the others.
            let mut outcome = Ok(());
            for item in owned.filter(|item| !item.thing.going).collect::<Vec<_>>() {
                outcome = outcome.and(self.judge(&item).await.map(drop));
            }
            return outcome.map(|()| Action::AwaitChange);
        }
        let Some((at, namespace)) = key.namespace.split_once('/') else { return Ok(Action::AwaitChange) };
        let kind = at.parse::<usize>().ok().and_then(|at| self.kinds.get(at));
        let own = ObjectKey::new(namespace, key.name.clone());
        if let Some((kind, thing)) = kind.and_then(|kind| Some((kind, kind.get(&own)?))) {
            let item = Item { kind: &**kind, key: own, thing };
            if self.judge(&item).await? == Verdict::AwaitDependents {
                // Each goes, or forgets this one if it has another owner.
                for dependent in self.dependents(&item).iter().filter(|dependent| !dependent.thing.going) {
                    self.judge(dependent).await?;
                }
            }
        }
        Ok(Action::AwaitChange)
    }
}

impl Garbage {
    /// Decides about one object, and carries it out.
    async fn judge(&self, item: &Item<'_>) -> Result<Verdict, Error> {
        let thing = &item.thing;
        let mut owners = Vec::new();
        for owner in &thing.owners {
            owners.push(self.owner(item, owner).await?);
        }
        let dependents = if thing.going { self.dependents(item) } else { Vec::new() };
        let things: Vec<_> = dependents.iter().map(|dependent| dependent.thing.clone()).collect();
        let verdict = verdict(thing, &owners, &things);
        match &verdict {
            Verdict::Keep | Verdict::AwaitDependents => {}
            Verdict::Forget(uids) => self.cut(item, |owner| uids.contains(&owner.uid)).await?,
            Verdict::Delete if thing.held_by(ORPHAN) => self.delete(item, PropagationPolicy::Orphan).await?,
            Verdict::Delete if thing.held_by(FOREGROUND) => self.delete(item, PropagationPolicy::Foreground).await?,
            Verdict::Delete => self.delete(item, PropagationPolicy::Background).await?,
            Verdict::DeleteInForeground => self.delete(item, PropagationPolicy::Foreground).await?,
            Verdict::Release => self.release(item, FOREGROUND).await?,
            Verdict::Orphan => {
                for dependent in &dependents {
                    self.cut(dependent, |owner| owner.uid == thing.uid).await?;
                }
                self.release(item, ORPHAN).await?;
            }
        }
        Ok(verdict)
    }

    fn dependents(&self, item: &Item<'_>) -> Vec<Item<'_>> {
        let all = self.kinds.iter().flat_map(|kind| {
            kind.dependents(&item.thing.uid).into_iter().map(|(key, thing)| Item { kind: &**kind, key, thing })
        });
        // A reference reaches into no other namespace.
        all.filter(|other| !item.kind.namespaced() || other.key.namespace == item.key.namespace).collect()
    }

    /// An owner as it is: by the cache if that shows it, by a live read if it doesn't (SEMANTICS 43). One that can't be
    /// looked up counts as there.
    async fn owner(&self, item: &Item<'_>, owner: &OwnerReference) -> Result<Option<Thing>, Error> {
        let assumed = Ok(Some(Thing { uid: owner.uid.clone(), ..Thing::default() }));
        let (resource, namespaced) = match find(&self.kinds, owner) {
            Some((_, kind)) => {
                let namespace = if kind.namespaced() { &*item.key.namespace } else { "" };
                let cached = kind.get(&ObjectKey::new(namespace, owner.name.as_str()));
                if let Some(thing) = cached.filter(|thing| thing.uid == owner.uid) {
                    return Ok(Some(thing));
                }
                (kind.resource(), kind.namespaced())
            }
            None => {
                let (group, version) = owner.api_version.rsplit_once('/').unwrap_or(("", &owner.api_version));
                let kind = GroupVersionKind::gvk(group, version, &owner.kind);
                match discovery::pinned_kind(&self.client, &kind).await {
                    Ok((resource, capabilities)) => (resource, capabilities.scope == Scope::Namespaced),
                    // Nobody serves such a kind, now.
                    Err(kube::Error::Discovery(_)) => return assumed,
                    Err(kube::Error::Api(status)) if status.code == 404 => return assumed,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        if namespaced && !item.kind.namespaced() {
            // An object of the cluster can't belong to one of a namespace: nobody can say which is meant.
            return assumed;
        }
        let live = kind::api(&self.client, &resource, namespaced, &item.key.namespace).get_opt(&owner.name).await?;
        Ok(live.map(|object| Thing::of(&object)).filter(|thing| thing.uid == owner.uid))
    }

    async fn delete(&self, item: &Item<'_>, policy: PropagationPolicy) -> Result<(), Error> {
        let params = DeleteParams {
            propagation_policy: Some(policy),
            // As it was judged: with another owner, say, it would be judged otherwise.
            preconditions: Some(Preconditions {
                uid: Some(item.thing.uid.clone()),
                resource_version: Some(item.thing.version.clone()),
            }),
            ..Default::default()
        };
        gone_is_done(self.api(item).delete(&item.key.name, &params).await)
    }

    /// Takes owners off an object.
    async fn cut(&self, item: &Item<'_>, gone: impl Fn(&OwnerReference) -> bool) -> Result<(), Error> {
        let left: Vec<_> = item.thing.owners.iter().filter(|owner| !gone(owner)).collect();
        self.patch(item, &json!({ "ownerReferences": left })).await
    }

    /// Takes a finalizer off an object that goes.
    async fn release(&self, item: &Item<'_>, finalizer: &str) -> Result<(), Error> {
        let left: Vec<_> = item.thing.finalizers.iter().filter(|held| *held != finalizer).collect();
        self.patch(item, &json!({ "finalizers": left })).await
    }

    async fn patch(&self, item: &Item<'_>, metadata: &serde_json::Value) -> Result<(), Error> {
        let mut patch = json!({ "metadata": metadata });
        patch["metadata"]["uid"] = item.thing.uid.as_str().into();
        patch["metadata"]["resourceVersion"] = item.thing.version.as_str().into();
        gone_is_done(self.api(item).patch(&item.key.name, &PatchParams::default(), &Patch::Merge(patch)).await)
    }

    fn api(&self, item: &Item<'_>) -> kube::Api<kube::core::DynamicObject> {
        kind::api(&self.client, &item.kind.resource(), item.kind.namespaced(), &item.key.namespace)
    }
}

/// An object that is gone is as good as done with.
fn gone_is_done<T>(outcome: kube::Result<T>) -> Result<(), Error> {
    match outcome {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}
