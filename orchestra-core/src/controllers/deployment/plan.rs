//! What a deployment's replica sets need, as plain data.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use k8s_openapi::{
    api::{
        apps::v1::{Deployment, DeploymentSpec, DeploymentStatus, ReplicaSet, ReplicaSetSpec},
        core::v1::PodTemplateSpec,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::ResourceExt as _;

use super::{
    super::{claim::controlled_by, replica_set::with_label},
    sizes::{DESIRED_ANNOTATION, MOST_ANNOTATION, bounds, size, sizes},
    status::{self, Rollout},
};
use crate::clock::Timestamp;

pub(super) const REVISION_ANNOTATION: &str = "deployment.kubernetes.io/revision";
/// The revisions that a set has been, before it came back.
const HISTORY_ANNOTATION: &str = "deployment.kubernetes.io/revision-history";
const HASH_LABEL: &str = "pod-template-hash";
/// Annotations that are a deployment's, or a set's, own business.
const NOT_INHERITED: [&str; 6] = [
    REVISION_ANNOTATION,
    HISTORY_ANNOTATION,
    DESIRED_ANNOTATION,
    MOST_ANNOTATION,
    "kubectl.kubernetes.io/last-applied-configuration",
    "deprecated.deployment.rollback.to",
];

/// One change to the replica sets.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A set for a template that had none.
    Create(Box<ReplicaSet>),
    /// A set that is to differ.
    Update(Update),
    /// A set that history needs no longer.
    Delete {
        /// Which set.
        name: String,
        /// Its uid.
        uid: String,
        /// The resource version that the decision rests on.
        version: String,
    },
}

/// What is to differ about one set; the rest stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// Which set.
    pub name: String,
    /// The resource version that the decision rests on.
    pub version: String,
    /// From how many replicas to how many.
    pub replicas: Option<(i32, i32)>,
    /// How long its pods have to be ready to count as available.
    pub min_ready_seconds: Option<i32>,
    /// The annotations to set.
    pub annotations: BTreeMap<String, String>,
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

/// Decides what `deployment` needs, given the replica sets it controls, and whether pods of any but the newest of them
/// have not ended yet; pure.
#[must_use]
pub fn plan(deployment: &Deployment, sets: &[Arc<ReplicaSet>], old_pods_run: bool, now: Timestamp) -> Plan {
    let spec = &deployment.spec;
    let mut sets: Vec<&ReplicaSet> = sets.iter().map(AsRef::as_ref).collect();
    sets.sort_by_key(|set| (created(set), set.name_any()));
    let newest = newest(deployment, &sets);
    let old: Vec<&ReplicaSet> =
        sets.iter().copied().filter(|set| newest.is_none_or(|newest| newest.name_any() != set.name_any())).collect();
    let mut rollout = Rollout { newest, creates: None, sets: &sets };
    if deployment.metadata.deletion_timestamp.is_some() {
        let (status, _) = status::status(deployment, &rollout, now);
        return Plan { changes: Vec::new(), revision: None, status, look_again_after: None };
    }
    let mut changes = Vec::new();
    let next = old.iter().map(|set| revision_of(set)).max().unwrap_or(0) + 1;
    // A template that was there before comes back with a new revision: that is a rollback.
    let revision = newest.map_or(next, |set| revision_of(set).max(next));
    let (new_size, old_sizes) = sizes(spec, newest, &old, old_pods_run);
    let paused = spec.paused.unwrap_or(false);
    match newest {
        Some(set) => changes.extend(updated(deployment, set, new_size, revision)),
        None if paused => {}
        None => {
            let set = replica_set(deployment, new_size, revision);
            rollout.creates = Some(set.name_any());
            changes.push(Change::Create(Box::new(set)));
        }
    }
    for (set, size) in old.iter().zip(&old_sizes) {
        changes.extend(resized(spec, set, *size));
    }
    changes.extend(outdated(spec, &old));
    let (status, look_again_after) = status::status(deployment, &rollout, now);
    let revision = (newest.is_some() || !paused).then_some(revision);
    Plan { changes, revision, status, look_again_after }
}

/// The set of the deployment's template: the oldest, if there are several.
pub(super) fn newest<'a>(deployment: &Deployment, sets: &[&'a ReplicaSet]) -> Option<&'a ReplicaSet> {
    sets.iter().copied().find(|set| is_of(set, &deployment.spec.template))
}

/// The newest set, brought up to date with its deployment.
fn updated(deployment: &Deployment, set: &ReplicaSet, to: i32, revision: i64) -> Option<Change> {
    let spec = &deployment.spec;
    let mut annotations = inherited(deployment);
    annotations.extend(scale_annotations(spec));
    let was = revision_of(set);
    if was < revision {
        annotations.insert(REVISION_ANNOTATION.into(), revision.to_string());
        if was > 0 {
            let history = set.annotations().get(HISTORY_ANNOTATION).map(|past| format!("{past},")).unwrap_or_default();
            annotations.insert(HISTORY_ANNOTATION.into(), format!("{history}{was}"));
        }
    }
    let own = set.spec.min_ready_seconds.unwrap_or(0);
    let min_ready_seconds = spec.min_ready_seconds.unwrap_or(0);
    change(
        Update {
            min_ready_seconds: (own != min_ready_seconds).then_some(min_ready_seconds),
            annotations,
            ..sized(set, to)
        },
        set,
    )
}

/// An old set at its new size; empty ones don't care what size their deployment is.
fn resized(spec: &DeploymentSpec, set: &ReplicaSet, to: i32) -> Option<Change> {
    let annotations = if to > 0 || size(set) > 0 { scale_annotations(spec).into() } else { BTreeMap::new() };
    change(Update { annotations, ..sized(set, to) }, set)
}

fn sized(set: &ReplicaSet, to: i32) -> Update {
    Update {
        name: set.name_any(),
        version: set.resource_version().unwrap_or_default(),
        replicas: (size(set) != to).then(|| (size(set), to)),
        ..Update::default()
    }
}

/// An update, less what the set has already; `None` if nothing is left.
fn change(mut update: Update, set: &ReplicaSet) -> Option<Change> {
    update.annotations.retain(|key, value| set.annotations().get(key) != Some(value));
    let differs = update.replicas.is_some() || update.min_ready_seconds.is_some() || !update.annotations.is_empty();
    differs.then_some(Change::Update(update))
}

fn inherited(deployment: &Deployment) -> BTreeMap<String, String> {
    let mut annotations = deployment.annotations().clone();
    annotations.retain(|key, _| !NOT_INHERITED.contains(&key.as_str()));
    annotations
}

fn scale_annotations(spec: &DeploymentSpec) -> [(String, String); 2] {
    let wanted = spec.replicas.unwrap_or(1);
    let most = wanted.saturating_add(bounds(spec).0);
    [(DESIRED_ANNOTATION.into(), wanted.to_string()), (MOST_ANNOTATION.into(), most.to_string())]
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
    let delete = |set: &ReplicaSet| Change::Delete {
        name: set.name_any(),
        uid: set.uid().unwrap_or_default(),
        version: set.resource_version().unwrap_or_default(),
    };
    candidates.iter().take(surplus).map(|set| delete(set)).collect()
}

fn revision_of(set: &ReplicaSet) -> i64 {
    set.annotations().get(REVISION_ANNOTATION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

pub(super) fn created(set: &ReplicaSet) -> Timestamp {
    set.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// Whether a set is of this template, the label that tells sets apart left aside.
pub(super) fn is_of(set: &ReplicaSet, template: &PodTemplateSpec) -> bool {
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

fn replica_set(deployment: &Deployment, replicas: i32, revision: i64) -> ReplicaSet {
    let spec = &deployment.spec;
    let collisions = deployment.status.as_ref().and_then(|status| status.collision_count).unwrap_or(0);
    let hash = template_hash(&spec.template, collisions);
    let mut template = spec.template.clone();
    let meta = template.metadata.get_or_insert_default();
    meta.labels = Some(with_label(meta.labels.as_ref(), HASH_LABEL, &hash));
    let mut selector = spec.selector.clone();
    selector.match_labels = Some(with_label(selector.match_labels.as_ref(), HASH_LABEL, &hash));
    let mut annotations = inherited(deployment);
    annotations.extend(scale_annotations(spec));
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

/// A short name for a template: the FNV-1a hash of its encoding, and of how often such names were found taken, in letters
/// that spell nothing.
fn template_hash(template: &PodTemplateSpec, collisions: i32) -> String {
    const LETTERS: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    const OFFSET: u32 = 2_166_136_261;
    const PRIME: u32 = 16_777_619;
    let encoded = serde_json::to_vec(template).expect("a template encodes");
    let fnv =
        |hash: u32, bytes: &[u8]| bytes.iter().fold(hash, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(PRIME));
    let base = fnv(OFFSET, &encoded);
    let hash = if collisions == 0 { base } else { fnv(base, &collisions.to_le_bytes()) };
    hash.to_string().bytes().map(|digit| char::from(LETTERS[usize::from(digit - b'0')])).collect()
}

#[cfg(test)]
mod tests;
