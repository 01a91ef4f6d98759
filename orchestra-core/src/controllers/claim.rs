//! Which objects a controller's selector makes its own: adopted if nobody's, let go if they no longer match (SEMANTICS 48).

use std::sync::Arc;

use k8s_openapi::{NamespaceResourceScope, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    api::selector::LabelSelector,
    controller::{Error, ObjectKey},
    informer::{Cached, Lister},
};

/// The objects of a namespace, as one owner sees them.
#[derive(Debug)]
pub struct Claims<K> {
    /// It controls these, and they match.
    pub own: Vec<Arc<K>>,
    /// Nobody controls these, and they match.
    pub adopt: Vec<Arc<K>>,
    /// It controls these, and they match no longer.
    pub release: Vec<Arc<K>>,
}

/// Sorts objects by what the owner of this uid is to do about them; pure. An owner on its way out adopts nothing and lets
/// go of nothing, and what is itself on its way out is not adopted.
pub fn claims<K: Resource>(uid: &str, going: bool, selector: &LabelSelector, objects: Vec<Arc<K>>) -> Claims<K> {
    let mut claims = Claims { own: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    for object in objects {
        let meta = object.meta();
        let matches = selector.matches(meta.labels.as_ref().unwrap_or(&std::collections::BTreeMap::new()));
        match controller_of(&*object) {
            Some(owner) if owner.uid != uid => {}
            Some(_) if matches => claims.own.push(object),
            Some(_) if !going => claims.release.push(object),
            None if matches && !going && meta.deletion_timestamp.is_none() => claims.adopt.push(object),
            _ => {}
        }
    }
    claims
}

/// The reference by which an object is controlled.
pub(crate) fn controller_of<K: Resource>(object: &K) -> Option<&OwnerReference> {
    object.meta().owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// The reference by which `owner` controls what it made.
pub(crate) fn controlled_by<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    owner.controller_owner_ref(&()).expect("an object that was read from the API has a name and a uid")
}

/// Carries the claims of `owner` out, and returns what it controls then.
pub(crate) async fn claim<O, K>(
    client: &Client,
    lister: &Lister<K>,
    owner: &O,
    selector: &LabelSelector,
) -> Result<Vec<Arc<K>>, Error>
where
    O: Cached + Resource<Scope = NamespaceResourceScope>,
    K: Cached + Resource<Scope = NamespaceResourceScope>,
{
    let (uid, key) = (owner.uid().unwrap_or_default(), ObjectKey::of(owner));
    let going = owner.meta().deletion_timestamp.is_some();
    let Claims { mut own, adopt, release } = claims(&uid, going, selector, lister.list_namespace(&key.namespace));
    let api = Api::<K>::namespaced(client.clone(), &key.namespace);
    for object in release {
        let kept: Vec<_> = object.owner_references().iter().filter(|other| other.uid != uid).cloned().collect();
        write_owners(&api, lister, &object, &kept).await?;
    }
    if adopt.is_empty() {
        return Ok(own);
    }
    // The cache may be behind: what it shows as standing may be gone, or another one by this name.
    let live = Api::<O>::namespaced(client.clone(), &key.namespace).get_opt(&key.name).await?;
    if live.is_none_or(|live| live.uid().as_deref() != Some(&uid) || live.meta().deletion_timestamp.is_some()) {
        return Ok(own);
    }
    for object in adopt {
        let owners: Vec<_> = object.owner_references().iter().cloned().chain([controlled_by(owner)]).collect();
        own.extend(write_owners(&api, lister, &object, &owners).await?.map(Arc::new));
    }
    own.sort_by_key(|object| ObjectKey::of(&**object));
    Ok(own)
}

/// Writes an object's owners, if it is still as it was seen; else its change is looked at in turn.
async fn write_owners<K>(
    api: &Api<K>,
    lister: &Lister<K>,
    object: &K,
    owners: &[OwnerReference],
) -> Result<Option<K>, Error>
where
    K: Cached,
{
    let patch = json!({ "metadata": {
        "uid": object.uid(), "resourceVersion": object.resource_version(), "ownerReferences": owners } });
    match api.patch(&object.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(written) => {
            lister.shows(&written).await;
            Ok(Some(written))
        }
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::{
        api::core::v1::Pod,
        apimachinery::pkg::apis::meta::v1::{OwnerReference, Time},
    };
    use proptest::prelude::*;

    use super::{LabelSelector, claims, controller_of};
    use crate::clock::Timestamp;

    fn pod(owner: usize, labeled: bool, going: bool) -> Arc<Pod> {
        let mut pod = Pod::default();
        pod.metadata.labels = labeled.then(|| [("app".to_owned(), "web".to_owned())].into());
        pod.metadata.deletion_timestamp = going.then_some(Time(Timestamp::UNIX_EPOCH));
        let controller = OwnerReference { controller: Some(true), uid: owner.to_string(), ..Default::default() };
        pod.metadata.owner_references = (owner > 0).then(|| vec![controller]);
        Arc::new(pod)
    }

    proptest! {
        /// SEMANTICS 48: nobody takes what another controls, and nothing that goes is adopted, nor by one that goes.
        #[test]
        fn only_what_nobody_controls_is_adopted(
            pods in proptest::collection::vec((0..3_usize, any::<bool>(), any::<bool>()), 0..20),
            going in any::<bool>(),
        ) {
            let selector = LabelSelector::parse("app=web").expect("a selector");
            let all: Vec<_> = pods.into_iter().map(|(owner, labeled, going)| pod(owner, labeled, going)).collect();
            let claims = claims("1", going, &selector, all);
            let is_own = |pod: &Arc<Pod>| controller_of(&**pod).is_some_and(|owner| owner.uid == "1");
            prop_assert!(claims.own.iter().chain(&claims.release).all(is_own));
            for adopted in &claims.adopt {
                prop_assert!(!going && controller_of(&**adopted).is_none());
                prop_assert!(adopted.metadata.deletion_timestamp.is_none());
            }
            prop_assert!(!going || claims.release.is_empty());
            prop_assert!(claims.release.iter().all(|pod| pod.metadata.labels.is_none()));
            prop_assert!(claims.own.iter().chain(&claims.adopt).all(|pod| pod.metadata.labels.is_some()));
        }
    }
}
