//! On what terms a request writes: in earnest or not, and under which leader's lease.

use http::HeaderMap;

use crate::{
    api::fence::{FENCE_HEADER, Fence},
    server::{
        Inner, UserInfo,
        error::{Failure, Result},
        object,
        route::{Query, Target},
    },
    store::{self, Check, Key, Revision, Txn},
};

/// The group of leases.
const GROUP: &str = "coordination.k8s.io";

/// On what terms a request writes.
#[derive(Clone, Debug)]
pub(crate) struct Terms {
    /// Whether nothing is to be committed.
    pub(crate) dry_run: bool,
    /// Which leader writes, if one does.
    pub(crate) fence: Option<Fence>,
}

impl Terms {
    /// Those of what the server writes by itself.
    pub(crate) const OWN: Self = Self { dry_run: false, fence: None };
}

impl Inner {
    /// Which leader's a write is; nobody's unless its headers say so.
    ///
    /// # Errors
    ///
    /// 400 if they can't be read; 403 if `user` may not read the lease, of which a refusal tells.
    pub(crate) async fn fence(&self, user: &UserInfo, headers: &HeaderMap) -> Result<Option<Fence>> {
        let Some(value) = headers.get(FENCE_HEADER) else { return Ok(None) };
        let text = std::str::from_utf8(value.as_bytes()).unwrap_or_default();
        let fence: Fence = text
            .parse()
            .map_err(|error| Failure::bad_request(format!("the header {FENCE_HEADER} is malformed: {error}")))?;
        let lease = Target {
            group: GROUP.into(),
            version: "v1".into(),
            plural: "leases".into(),
            namespace: Some(fence.namespace.clone()),
            name: Some(fence.name.clone()),
            subresource: None,
            watched: false,
        };
        self.authorize(user, "get", &lease, &Query::default()).await?;
        Ok(Some(fence))
    }

    /// Commits `txn`; under a fence, on condition that the lease is still its leader's at that very revision. The inner
    /// error is the key of a check that failed: who meets it begins again, be it for a lease that was just renewed.
    ///
    /// # Errors
    ///
    /// 409 if the lease is another's; what the store fails by.
    pub(crate) async fn commit(&self, mut txn: Txn, terms: &Terms) -> Result<Result<Revision, Key>> {
        if let Some(fence) = &terms.fence {
            txn.checks.push(self.held(fence).await?);
        }
        match self.store.commit(txn).await {
            Ok(revision) => Ok(Ok(revision)),
            Err(store::Error::Conflict { key, .. }) => Ok(Err(key)),
            Err(error) => Err(error.into()),
        }
    }

    /// The check that a lease stands as it does now, which is as its leader says.
    async fn held(&self, fence: &Fence) -> Result<Check> {
        let leases = self.registry.find(GROUP, "v1", "leases").expect("built in");
        let lost = |why: String| {
            let why = format!("leader election lost: lease {}/{} {why}", fence.namespace, fence.name);
            Failure::conflict(leases, &fence.name, &why).because("LeaderElectionLost", &why)
        };
        let key = object::key(leases, &fence.namespace, &fence.name)?;
        let Some(entry) = self.store.get(&key).await? else { return Err(lost("is gone".into())) };
        let lease = object::decode(&entry.value, entry.modified)?;
        let spec = lease.get("spec").cloned().unwrap_or_default();
        let holder = spec["holderIdentity"].as_str().unwrap_or_default();
        if holder.is_empty() {
            return Err(lost("is held by nobody".into()));
        }
        if holder != fence.holder {
            return Err(lost(format!("is held by {holder}")));
        }
        let transitions = spec["leaseTransitions"].as_i64().unwrap_or(0);
        if transitions != i64::from(fence.transitions) {
            let why = format!("is held in term {transitions}, not in term {}", fence.transitions);
            return Err(lost(why));
        }
        Ok(Check::Unchanged(key, entry.modified))
    }
}
