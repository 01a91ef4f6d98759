//! What a deployment's replica sets need, as plain data.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::{apis::meta::v1::ObjectMeta, util::intstr::IntOrString},
};
use kube::ResourceExt as _;

use super::{
    super::replica_set::{controlled_by, with_label},
    status,
};
use crate::clock::Timestamp;

pub(super) const REVISION_ANNOTATION: &str = "deployment.kubernetes.io/revision";
const HASH_LABEL: &str = "pod-template-hash";
/// Annotations that are the deployment's own business.
const NOT_INHERITED: [&str; 2] = [REVISION_ANNOTATION, "kubectl.kubernetes.io/last-applied-configuration"];

/// One change to the replica sets.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A set for a template that had none.
    Create(Box<ReplicaSet>),
    /// A set's size, from and to, or its revision.
    Update {
        /// Which set.
        name: String,
        /// The resource version that the decision rests on.
        version: String,
        /// From how many replicas to how many.
        replicas: Option<(i32, i32)>,
        /// The revision it becomes.
        revision: Option<i64>,
    },
    /// A set that history needs no longer.
    Delete {
        /// Which set.
        name: String,
        /// Its uid.
        uid: String,
    },
}

/// What a deployment needs done.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The changes, in order.
    pub changes: Vec<Change>,
    /// The revision that the deployment is at; `None` if that is not to be touched.
    pub revision: Option<i64>,
    /// The status as it should read, once the changes are seen.
    pub status: DeploymentStatus,
    /// When to look again although nothing changes: at the progress deadline.
    pub look_again_after: Option<Duration>,
}

/// Decides what `deployment` needs, given the replica sets it controls; pure.
#[must_use]
pub fn plan(deployment: &Deployment, sets: &[Arc<ReplicaSet>], now: Timestamp) -> Plan {
    let spec = &deployment.spec;
    let mut sets: Vec<&ReplicaSet> = sets.iter().map(AsRef::as_ref).collect();
    sets.sort_by_key(|set| (created(set), set.name_any()));
    let newest = sets.iter().copied().find(|set| is_of(set, &spec.template));
    let old: Vec<&ReplicaSet> =
        sets.iter().copied().filter(|set| newest.is_none_or(|newest| newest.name_any() != set.name_any())).collect();
    let mut changes = Vec::new();
    let mut reached = None;
    let paused = spec.paused.unwrap_or(false);
    if deployment.metadata.deletion_timestamp.is_none() {
        let next = old.iter().map(|set| revision_of(set)).max().unwrap_or(0) + 1;
        // A template that was there before comes back with a new revision: that is a rollback.
        let revision = newest.map_or(next, |set| revision_of(set).max(next));
        let (new_size, old_sizes) = sizes(spec, newest, &old);
        match newest {
            Some(set) => {
                reached = Some(revision);
                let resized = resize(set, new_size);
                let revised = (revision_of(set) != revision).then_some(revision);
                changes.extend(update(set, resized, revised));
            }
            None if paused => {}
            None => {
                reached = Some(revision);
                changes.push(Change::Create(Box::new(replica_set(deployment, spec, &sets, new_size, revision))));
            }
        }
        for (set, size) in old.iter().zip(&old_sizes) {
            changes.extend(update(set, resize(set, *size), None));
        }
        changes.extend(outdated(spec, &old));
    }
    let (status, look_again_after) = status::status(deployment, spec, newest, &sets, now);
    Plan { changes, revision: reached, status, look_again_after }
}

/// The size of the newest set, and of each old one.
fn sizes(spec: &DeploymentSpec, newest: Option<&ReplicaSet>, old: &[&ReplicaSet]) -> (i32, Vec<i32>) {
    let wanted = spec.replicas.unwrap_or(1);
    let old_sizes: Vec<i32> = old.iter().map(|set| size(set)).collect();
    let old_total: i32 = old_sizes.iter().sum();
    let current = newest.map_or(0, size);
    if spec.paused.unwrap_or(false) {
        // Paused, only a change of the size itself is followed, by the newest set.
        return (if old_total == 0 { wanted } else { current }, old_sizes);
    }
    if spec.strategy.as_ref().and_then(|strategy| strategy.type_.as_deref()) == Some("Recreate") {
        let gone = old.iter().all(|set| set.status.as_ref().is_none_or(|status| status.replicas == 0));
        return (if gone { wanted } else { current }, vec![0; old.len()]);
    }
    let (surge, unavailable) = bounds(spec);
    let room = (wanted + surge - old_total - current).max(0);
    let new_size = if current > wanted { wanted } else { wanted.min(current + room) };
    // What may go: all that is beyond the minimum that has to be available, once the newest set's own gaps are counted.
    let new_available = newest.and_then(|set| set.status.as_ref()?.available_replicas).unwrap_or(0);
    let minimum = wanted - unavailable;
    let mut excess = (old_total + current - minimum - (current - new_available).max(0)).max(0);
    let mut next = old_sizes;
    // First pods that are of no use to anyone, oldest set first.
    for (set, size) in old.iter().zip(&mut next) {
        let available = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
        let useless = (*size - available).max(0).min(excess);
        *size -= useless;
        excess -= useless;
    }
    let old_available: i32 = old
        .iter()
        .zip(&next)
        .map(|(set, size)| set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0).min(*size))
        .sum();
    let mut excess = (old_available + new_available - minimum).max(0);
    for size in &mut next {
        let going = (*size).min(excess);
        *size -= going;
        excess -= going;
    }
    (new_size, next)
}

/// How many pods there may be beyond the wanted number, and how many of it may be missing: percentages of the first
/// round up, of the second down, and both are never zero (as `ResolveFenceposts` in Kubernetes).
pub(super) fn bounds(spec: &DeploymentSpec) -> (i32, i32) {
    let wanted = spec.replicas.unwrap_or(1);
    let rolling = spec.strategy.as_ref().and_then(|strategy| strategy.rolling_update.as_ref());
    let quarter = IntOrString::String("25%".into());
    let surge = share(rolling.and_then(|rolling| rolling.max_surge.as_ref()).unwrap_or(&quarter), wanted, true);
    let unavailable =
        share(rolling.and_then(|rolling| rolling.max_unavailable.as_ref()).unwrap_or(&quarter), wanted, false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable.min(wanted)) }
}

fn share(value: &IntOrString, of: i32, up: bool) -> i32 {
    match value {
        IntOrString::Int(count) => (*count).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let scaled = percent * i64::from(of);
            let share = if up { (scaled + 99) / 100 } else { scaled / 100 };
            i32::try_from(share).unwrap_or(i32::MAX).max(0)
        }
    }
}

fn size(set: &ReplicaSet) -> i32 {
    set.spec.replicas.unwrap_or(1)
}

fn resize(set: &ReplicaSet, to: i32) -> Option<(i32, i32)> {
    (size(set) != to).then(|| (size(set), to))
}

fn update(set: &ReplicaSet, replicas: Option<(i32, i32)>, revision: Option<i64>) -> Option<Change> {
    (replicas.is_some() || revision.is_some()).then(|| Change::Update {
        name: set.name_any(),
        version: set.resource_version().unwrap_or_default(),
        replicas,
        revision,
    })
}

/// The sets beyond the history limit, lowest revision first.
fn outdated(spec: &DeploymentSpec, old: &[&ReplicaSet]) -> Vec<Change> {
    let kept = usize::try_from(spec.revision_history_limit.unwrap_or(10)).unwrap_or(0);
    let empty = |set: &&&ReplicaSet| {
        size(set) == 0
            && set.status.as_ref().is_none_or(|status| status.replicas == 0)
            && set.metadata.deletion_timestamp.is_none()
    };
    let mut candidates: Vec<_> = old.iter().filter(empty).collect();
    candidates.sort_by_key(|set| revision_of(set));
    let surplus = candidates.len().saturating_sub(kept);
    let delete = |set: &ReplicaSet| Change::Delete { name: set.name_any(), uid: set.uid().unwrap_or_default() };
    candidates.iter().take(surplus).map(|set| delete(set)).collect()
}

pub(super) fn revision_of(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION_ANNOTATION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn created(set: &ReplicaSet) -> Timestamp {
    set.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// Whether a set is of this template, the label that tells sets apart left aside.
fn is_of(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
    let mut own = set.spec.template.clone().unwrap_or_default();
    if let Some(labels) = own.metadata.as_mut().and_then(|meta| meta.labels.as_mut()) {
        labels.remove(HASH_LABEL);
    }
    let mut template = template.clone();
    for meta in [&mut own.metadata, &mut template.metadata] {
        let filled = meta.get_or_insert_default();
        filled.creation_timestamp = None;
        filled.labels.get_or_insert_default();
        filled.annotations.get_or_insert_default();
    }
    own == template
}

fn replica_set(
    deployment: &Deployment,
    spec: &DeploymentSpec,
    sets: &[&ReplicaSet],
    replicas: i32,
    revision: i64,
) -> ReplicaSet {
    let hash = template_hash(&spec.template, |hash| {
        let name = format!("{}-{hash}", deployment.name_any());
        sets.iter().all(|set| set.name_any() != name)
    });
    let mut template = spec.template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.labels = Some(with_label(meta.labels.as_ref(), HASH_LABEL, &hash));
    let mut selector = spec.selector.clone();
    selector.match_labels = Some(with_label(selector.match_labels.as_ref(), HASH_LABEL, &hash));
    let mut annotations = deployment.annotations().clone();
    annotations.retain(|key, _| !NOT_INHERITED.contains(&key.as_str()));
    annotations.insert(REVISION_ANNOTATION.into(), revision.to_string());
    ReplicaSet {
        metadata: ObjectMeta {
            name: Some(format!("{}-{hash}", deployment.name_any())),
            namespace: deployment.namespace(),
            labels: template.metadata.as_ref().and_then(|meta| meta.labels.clone()),
            annotations: Some(annotations),
            owner_references: Some(vec![controlled_by(deployment)]),
            ..Default::default()
        },
        spec: ReplicaSetSpec {
            replicas: Some(replicas),
            min_ready_seconds: spec.min_ready_seconds,
            selector,
            template: Some(template),
        },
        status: None,
    }
}

/// A short name for a template: the FNV-1a hash of its encoding, drawn on until `is_free` takes it, in letters that
/// spell nothing.
fn template_hash(template: &PodTemplateSpec, is_free: impl Fn(&str) -> bool) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    const OFFSET: u32 = 2_166_136_261;
    const PRIME: u32 = 16_777_619;
    let encoded = serde_json::to_vec(template).expect("a template encodes");
    let fnv =
        |hash: u32, bytes: &[u8]| bytes.iter().fold(hash, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(PRIME));
    let base = fnv(OFFSET, &encoded);
    (0_u32..)
        .map(|collisions| {
            let hash = if collisions == 0 { base } else { fnv(base, &collisions.to_le_bytes()) };
            hash.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit - b'0')])).collect::<String>()
        })
        .find(|name| is_free(name))
        .expect("some hash is free among finitely many sets")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
    use proptest::prelude::*;
    use serde_json::json;

    use super::{Change, Timestamp, bounds, plan, size};

    fn deployment(replicas: i32, surge: &str, unavailable: &str, image: &str) -> Deployment {
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "a", "uid": "d" },
            "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "web" } },
                "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } },
                "template": { "metadata": { "labels": { "app": "web" } },
                    "spec": { "containers": [{ "name": "web", "image": image }] } } } }))
        .expect("a deployment")
    }

    /// Applies a plan's changes, as the API would.
    fn apply(sets: &mut Vec<Arc<ReplicaSet>>, changes: &[Change]) {
        for change in changes {
            match change {
                Change::Create(set) => sets.push(Arc::new((**set).clone())),
                Change::Update { name, replicas, revision, .. } => {
                    let set = sets.iter_mut().find(|set| set.metadata.name.as_ref() == Some(name)).expect("there");
                    let set = Arc::make_mut(set);
                    if let Some((_, to)) = replicas {
                        set.spec.replicas = Some(*to);
                    }
                    if let Some(revision) = revision {
                        set.metadata
                            .annotations
                            .get_or_insert_default()
                            .insert(super::REVISION_ANNOTATION.into(), revision.to_string());
                    }
                }
                Change::Delete { name, .. } => sets.retain(|set| set.metadata.name.as_ref() != Some(name)),
            }
        }
    }

    /// Lets each set have the pods it asks for, of which at most `ready` new ones are available at once.
    fn settle(sets: &mut [Arc<ReplicaSet>], ready: i32) {
        for set in sets {
            let set = Arc::make_mut(set);
            let wanted = set.spec.replicas.unwrap_or(0);
            let available = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
            let available = wanted.min(available + ready);
            set.status =
                Some(ReplicaSetStatus { replicas: wanted, available_replicas: Some(available), ..Default::default() });
        }
    }

    fn available(sets: &[Arc<ReplicaSet>]) -> i32 {
        sets.iter().filter_map(|set| set.status.as_ref()?.available_replicas).sum()
    }

    #[test]
    fn a_template_that_comes_back_is_a_new_revision_of_its_old_set() {
        let (first, second) = (deployment(2, "1", "0", "a"), deployment(2, "1", "0", "b"));
        let mut sets = Vec::new();
        for wanted in [&first, &second, &first] {
            for _ in 0..20 {
                let plan = plan(wanted, &sets, Timestamp::UNIX_EPOCH);
                apply(&mut sets, &plan.changes);
                settle(&mut sets, 1);
            }
        }
        assert_eq!(sets.len(), 2);
        assert_eq!(plan(&first, &sets, Timestamp::UNIX_EPOCH).revision, Some(3));
    }

    proptest! {
        /// SEMANTICS 50: a rolling update keeps within its bounds at every step, ends, and then changes nothing.
        #[test]
        fn a_rolling_update_keeps_its_bounds_and_ends(
            replicas in 0..12_i32,
            surge in 0..120_u32,
            unavailable in 0..100_u32,
            ready in 1..4_i32,
        ) {
            let (surge, unavailable) = (format!("{surge}%"), format!("{unavailable}%"));
            let (old, new) = (deployment(replicas, &surge, &unavailable, "a"), deployment(replicas, &surge, &unavailable, "b"));
            let (max_surge, max_unavailable) = bounds(&new.spec);
            let mut sets = Vec::new();
            let first = plan(&old, &sets, Timestamp::UNIX_EPOCH);
            apply(&mut sets, &first.changes);
            settle(&mut sets, replicas);
            for _ in 0..60 {
                let next = plan(&new, &sets, Timestamp::UNIX_EPOCH);
                apply(&mut sets, &next.changes);
                let total: i32 = sets.iter().map(|set| size(set)).sum();
                prop_assert!(total <= replicas + max_surge, "{total} pods of {replicas} + {max_surge}");
                settle(&mut sets, 0);
                prop_assert!(available(&sets) >= replicas - max_unavailable, "{} of {replicas}", available(&sets));
                settle(&mut sets, ready);
            }
            let last = plan(&new, &sets, Timestamp::UNIX_EPOCH);
            prop_assert_eq!(last.changes, vec![]);
            prop_assert_eq!(last.status.updated_replicas.unwrap_or(0), replicas);
            prop_assert_eq!(sets.iter().map(|set| size(set)).sum::<i32>(), replicas);
        }
    }
}
