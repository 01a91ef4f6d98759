//! Deletes what belonged to something that is gone, by owner reference: in the background, in the foreground, or not at
//! all, as the deletion said (SEMANTICS 48).

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, DaemonSet, Deployment, ReplicaSet, StatefulSet},
        batch::v1::{CronJob, Job},
        core::v1::{ConfigMap, Endpoints, Pod, ReplicationController, Secret, Service},
        discovery::v1::EndpointSlice,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, Preconditions, PropagationPolicy},
    core::DynamicObject,
};
use serde_json::json;

use super::Parts;
use crate::{
    controller::{Action, Controller, Error, ObjectKey, Runner},
    informer::{Cached, Change, Lister},
};

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// How soon a deletion in the foreground looks again whether its dependents are gone.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(500);

/// One object as the collector sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Thing {
    /// Its uid.
    pub uid: String,
    /// Those it belongs to.
    pub owners: Vec<OwnerReference>,
    /// What holds it back.
    pub finalizers: Vec<String>,
    /// Whether it was asked to go.
    pub going: bool,
}

/// What is to be done about one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing.
    Keep,
    /// Every owner is gone: it goes as well.
    Delete,
    /// It waits for an owner's dependents in the foreground: it goes, in the foreground too.
    DeleteInForeground,
    /// It was deleted to orphan its dependents: they are cut loose, then it may go.
    Orphan,
    /// It was deleted in the foreground, and these dependents go first.
    AwaitDependents,
    /// It was deleted in the foreground, and nothing holds it any longer.
    Release,
}

/// Decides about one object, given which of its owners are there and going, and its dependents; pure.
#[must_use]
pub fn verdict(thing: &Thing, owners: &[Option<Thing>], dependents: &[Thing]) -> Verdict {
    let held_by = |finalizer: &str| thing.finalizers.iter().any(|held| held == finalizer);
    if thing.going && held_by(ORPHAN) {
        return Verdict::Orphan;
    }
    if thing.going && held_by(FOREGROUND) {
        let blocks = |dependent: &Thing| {
            dependent.owners.iter().any(|owner| owner.uid == thing.uid && owner.block_owner_deletion == Some(true))
        };
        return if dependents.iter().any(blocks) { Verdict::AwaitDependents } else { Verdict::Release };
    }
    if thing.going || thing.owners.is_empty() {
        return Verdict::Keep;
    }
    let solid = |owner: &Option<Thing>| {
        owner.as_ref().is_some_and(|owner| !(owner.going && owner.finalizers.iter().any(|held| held == FOREGROUND)))
    };
    let waiting = |owner: &Option<Thing>| owner.is_some() && !solid(owner);
    match () {
        () if owners.iter().any(solid) => Verdict::Keep,
        () if owners.iter().any(waiting) => Verdict::DeleteInForeground,
        () => Verdict::Delete,
    }
}

fn thing<K: Resource>(object: &K) -> Thing {
    let meta = object.meta();
    Thing {
        uid: meta.uid.clone().unwrap_or_default(),
        owners: meta.owner_references.clone().unwrap_or_default(),
        finalizers: meta.finalizers.clone().unwrap_or_default(),
        going: meta.deletion_timestamp.is_some(),
    }
}

/// The cache of one kind, its type forgotten.
trait Kind: std::fmt::Debug + Send + Sync {
    fn name(&self) -> &'static str;
    fn group_version(&self) -> String;
    fn get(&self, key: &ObjectKey) -> Option<Thing>;
    /// The objects that name `uid` among their owners.
    fn dependents(&self, namespace: &str, uid: &str) -> Vec<(ObjectKey, Thing)>;
    /// The objects that name any owner.
    fn dependents_of_any(&self, namespace: &str) -> Vec<(ObjectKey, Thing)>;
    fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject>;
    fn watch(&self, runner: Runner, at: usize) -> Runner;
}

#[derive(Debug)]
struct Typed<K> {
    lister: Lister<K>,
}

impl<K: Cached + Resource<Scope = k8s_openapi::NamespaceResourceScope>> Kind for Typed<K> {
    fn name(&self) -> &'static str {
        match K::kind(&()) {
            std::borrow::Cow::Borrowed(name) => name,
            std::borrow::Cow::Owned(_) => "",
        }
    }

    fn group_version(&self) -> String {
        K::api_version(&()).into_owned()
    }

    fn get(&self, key: &ObjectKey) -> Option<Thing> {
        self.lister.get(key).map(|object| thing(&*object))
    }

    fn dependents(&self, namespace: &str, uid: &str) -> Vec<(ObjectKey, Thing)> {
        let of = |object: &Arc<K>| object.owner_references().iter().any(|owner| owner.uid == uid);
        let objects = self.lister.list_namespace(namespace).into_iter().filter(of);
        objects.map(|object| (ObjectKey::of(&*object), thing(&*object))).collect()
    }

    fn dependents_of_any(&self, namespace: &str) -> Vec<(ObjectKey, Thing)> {
        let objects = self.lister.list_namespace(namespace).into_iter();
        let owned = objects.filter(|object| !object.owner_references().is_empty());
        owned.map(|object| (ObjectKey::of(&*object), thing(&*object))).collect()
    }

    fn api(&self, client: &Client, namespace: &str) -> Api<DynamicObject> {
        Api::namespaced_with(client.clone(), namespace, &kube::core::ApiResource::erase::<K>(&()))
    }

    fn watch(&self, runner: Runner, at: usize) -> Runner {
        // The kind rides in front of the namespace: one queue for all kinds.
        runner.watches(&self.lister, move |change: &Change<K>| {
            let own = ObjectKey::new(format!("{at}/{}", change.key.namespace), change.key.name.clone());
            vec![own]
        })
    }
}

struct Garbage {
    client: Client,
    kinds: Vec<Box<dyn Kind>>,
}

/// Makes the controller, ready to run.
#[must_use]
pub fn runner(parts: &Parts) -> Runner {
    fn kind<K: Cached + Resource<Scope = k8s_openapi::NamespaceResourceScope>>(parts: &Parts) -> Box<dyn Kind> {
        Box::new(Typed { lister: parts.informers.of::<K>() })
    }
    let kinds = || {
        vec![
            kind::<Pod>(parts),
            kind::<ReplicaSet>(parts),
            kind::<Deployment>(parts),
            kind::<DaemonSet>(parts),
            kind::<StatefulSet>(parts),
            kind::<ControllerRevision>(parts),
            kind::<ReplicationController>(parts),
            kind::<Job>(parts),
            kind::<CronJob>(parts),
            kind::<Service>(parts),
            kind::<EndpointSlice>(parts),
            kind::<Endpoints>(parts),
            kind::<ConfigMap>(parts),
            kind::<Secret>(parts),
        ]
    };
    let watched = kinds();
    let controller = Garbage { client: parts.client.clone(), kinds: kinds() };
    let runner = Runner::new(controller, parts.entropy.fork());
    watched.iter().enumerate().fold(runner, |runner, (at, kind)| kind.watch(runner, at))
}

#[async_trait]
impl Controller for Garbage {
    fn name(&self) -> &str {
        "garbage"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        let Some((at, namespace)) = key.namespace.split_once('/') else { return Ok(Action::AwaitChange) };
        let Some(kind) = at.parse::<usize>().ok().and_then(|at| self.kinds.get(at)) else {
            return Ok(Action::AwaitChange);
        };
        let own = ObjectKey::new(namespace, key.name.clone());
        let Some(thing) = kind.get(&own) else {
            return self.sweep_dependents(namespace).await;
        };
        if !thing.going && thing.owners.is_empty() {
            return Ok(Action::AwaitChange);
        }
        let mut owners = Vec::new();
        for owner in &thing.owners {
            owners.push(self.owner(namespace, owner).await?);
        }
        let dependents: Vec<_> = self
            .kinds
            .iter()
            .flat_map(|kind| {
                kind.dependents(namespace, &thing.uid).into_iter().map(move |(key, thing)| (kind, key, thing))
            })
            .collect();
        let things: Vec<_> = dependents.iter().map(|(_, _, thing)| thing.clone()).collect();
        let api = kind.api(&self.client, namespace);
        match verdict(&thing, &owners, &things) {
            Verdict::Keep => return Ok(Action::AwaitChange),
            Verdict::Delete => delete(&api, &own, &thing, PropagationPolicy::Background).await?,
            Verdict::DeleteInForeground => delete(&api, &own, &thing, PropagationPolicy::Foreground).await?,
            Verdict::Release => release(&api, &own, &thing, FOREGROUND).await?,
            Verdict::Orphan => {
                for (kind, key, dependent) in &dependents {
                    let left: Vec<_> = dependent.owners.iter().filter(|owner| owner.uid != thing.uid).collect();
                    let patch = json!({ "metadata": { "uid": dependent.uid, "ownerReferences": left } });
                    settled(
                        kind.api(&self.client, namespace)
                            .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
                            .await,
                    )?;
                }
                release(&api, &own, &thing, ORPHAN).await?;
            }
            Verdict::AwaitDependents => {
                for (kind, key, dependent) in dependents.iter().filter(|(_, _, dependent)| !dependent.going) {
                    delete(&kind.api(&self.client, namespace), key, dependent, PropagationPolicy::Foreground).await?;
                }
                return Ok(Action::RequeueAfter(LOOK_AGAIN));
            }
        }
        Ok(Action::AwaitChange)
    }
}

impl Garbage {
    /// An owner as it is: by the cache if that shows it, by a live read if it doesn't (SEMANTICS 43). Owners of kinds
    /// that are not watched count as there.
    async fn owner(&self, namespace: &str, owner: &OwnerReference) -> Result<Option<Thing>, Error> {
        let kind =
            self.kinds.iter().find(|kind| kind.name() == owner.kind && kind.group_version() == owner.api_version);
        let Some(kind) = kind else {
            return Ok(Some(Thing {
                uid: owner.uid.clone(),
                owners: Vec::new(),
                finalizers: Vec::new(),
                going: false,
            }));
        };
        let cached = kind.get(&ObjectKey::new(namespace, owner.name.as_str())).filter(|thing| thing.uid == owner.uid);
        if cached.is_some() {
            return Ok(cached);
        }
        let live = kind.api(&self.client, namespace).get_opt(&owner.name).await?;
        Ok(live.map(|object| thing(&object)).filter(|thing| thing.uid == owner.uid))
    }

    /// Something is gone: whoever names an owner that is no longer there is looked at.
    async fn sweep_dependents(&self, namespace: &str) -> Result<Action, Error> {
        for kind in &self.kinds {
            for (key, dependent) in kind.dependents_of_any(namespace) {
                if dependent.going {
                    continue;
                }
                let mut owners = Vec::new();
                for owner in &dependent.owners {
                    owners.push(self.owner(namespace, owner).await?);
                }
                if verdict(&dependent, &owners, &[]) == Verdict::Delete {
                    delete(&kind.api(&self.client, namespace), &key, &dependent, PropagationPolicy::Background).await?;
                }
            }
        }
        Ok(Action::AwaitChange)
    }
}

async fn delete(
    api: &Api<DynamicObject>,
    key: &ObjectKey,
    thing: &Thing,
    policy: PropagationPolicy,
) -> Result<(), Error> {
    let params = DeleteParams {
        propagation_policy: Some(policy),
        preconditions: Some(Preconditions { uid: Some(thing.uid.clone()), resource_version: None }),
        ..Default::default()
    };
    settled(api.delete(&key.name, &params).await)
}

/// Takes a finalizer off an object that is going.
async fn release(api: &Api<DynamicObject>, key: &ObjectKey, thing: &Thing, finalizer: &str) -> Result<(), Error> {
    let left: Vec<_> = thing.finalizers.iter().filter(|held| *held != finalizer).collect();
    let patch = json!({ "metadata": { "uid": thing.uid, "finalizers": left } });
    settled(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await)
}

/// An object that is gone, or another one by its name, is as good as done.
fn settled<T>(outcome: kube::Result<T>) -> Result<(), Error> {
    match outcome {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use proptest::prelude::*;

    use super::{FOREGROUND, ORPHAN, Thing, Verdict, verdict};

    fn thing(uid: &str, owners: &[&str], finalizers: &[&str], going: bool) -> Thing {
        let owner =
            |uid: &&str| OwnerReference { uid: (*uid).into(), block_owner_deletion: Some(true), ..Default::default() };
        Thing {
            uid: uid.into(),
            owners: owners.iter().map(owner).collect(),
            finalizers: finalizers.iter().map(|finalizer| (*finalizer).to_owned()).collect(),
            going,
        }
    }

    #[test]
    fn the_deletion_says_what_becomes_of_dependents() {
        let dependent = thing("d", &["o"], &[], false);
        assert_eq!(verdict(&dependent, &[None], &[]), Verdict::Delete);
        let foreground = thing("o", &[], &[FOREGROUND], true);
        assert_eq!(verdict(&dependent, &[Some(foreground.clone())], &[]), Verdict::DeleteInForeground);
        assert_eq!(verdict(&foreground, &[], std::slice::from_ref(&dependent)), Verdict::AwaitDependents);
        assert_eq!(verdict(&foreground, &[], &[]), Verdict::Release);
        assert_eq!(verdict(&thing("o", &[], &[ORPHAN], true), &[], &[dependent]), Verdict::Orphan);
    }

    proptest! {
        /// SEMANTICS 48: what has one owner left, that is not on its way out, stays.
        #[test]
        fn nothing_with_a_solid_owner_is_deleted(gone in 0..4_usize, going in any::<bool>()) {
            let owners: Vec<_> = (0..=gone).map(|n| n.to_string()).collect();
            let names: Vec<_> = owners.iter().map(String::as_str).collect();
            let mut there: Vec<Option<Thing>> = vec![None; gone];
            there.push(Some(thing("x", &[], &[], going)));
            prop_assert_eq!(verdict(&thing("d", &names, &[], false), &there, &[]), Verdict::Keep);
        }
    }
}
