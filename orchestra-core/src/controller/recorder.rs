//! Events: what a component did or could not do, for the people who ask `kubectl describe`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api, Client, Resource,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};
use serde_json::json;

use crate::{clock::Clock, rng::Entropy};

/// How many different events are remembered, to be counted when they recur; beyond, all are forgotten.
const REMEMBERED_MAX: usize = 1_024;
/// The bits of an event's name that are drawn: 65 microseconds' worth.
const CHANCE: u64 = 0xffff;
/// The longest message, in bytes, as Kubernetes has it.
const MESSAGE_BYTES_MAX: usize = 1_024;

/// Whether an event needs anyone's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It went as it should.
    Normal,
    /// Somebody may have to do something.
    Warning,
}

/// Records events for one component; clones share what they remember.
#[derive(Clone)]
pub struct Recorder {
    client: Client,
    clock: Arc<dyn Clock>,
    entropy: Entropy,
    source: EventSource,
    seen: Arc<Mutex<BTreeMap<String, Seen>>>,
}

#[derive(Clone, Debug)]
struct Seen {
    name: String,
    count: i32,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Records as `component`, on `host` if it is a node's.
    pub fn new(client: Client, clock: Arc<dyn Clock>, entropy: Entropy, component: &str, host: Option<&str>) -> Self {
        let source = EventSource { component: Some(component.into()), host: host.map(Into::into) };
        Self { client, clock, entropy, source, seen: Arc::default() }
    }

    /// Records that something happened to `object`; what recurs is counted. Failing to is not the caller's trouble.
    pub async fn record<K: Resource<DynamicType = ()>>(
        &self,
        object: &K,
        severity: Severity,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut reference = object.object_ref(&());
        reference.resource_version = None;
        self.record_about(reference, severity, reason, message.into()).await;
    }

    /// As [`record`](Self::record), about a part of an object, such as a container.
    pub async fn record_about(&self, object: ObjectReference, severity: Severity, reason: &str, mut message: String) {
        if message.len() > MESSAGE_BYTES_MAX {
            let end = (0..=MESSAGE_BYTES_MAX).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
            message.truncate(end);
        }
        let namespace = object.namespace.clone().unwrap_or_else(|| "default".into());
        let uid = object.uid.as_deref().unwrap_or_default();
        let path = object.field_path.as_deref().unwrap_or_default();
        let identity = format!("{uid} {path} {reason} {message}");
        let api = Api::<Event>::namespaced(self.client.clone(), &namespace);
        let now = Time(self.clock.now());
        if let Some(seen) = self.recurred(&identity) {
            let patch = json!({ "count": seen.count, "lastTimestamp": now });
            match api.patch(&seen.name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => return,
                // Expired, or swept away with its namespace: recorded anew.
                Err(error) => tracing::debug!(%error, reason, "event not counted"),
            }
        }
        let name = format!("{}.{:016x}", object.name.as_deref().unwrap_or_default(), self.moment());
        let event = Event {
            metadata: ObjectMeta { name: Some(name.clone()), namespace: Some(namespace), ..Default::default() },
            type_: Some(format!("{severity:?}")),
            reason: Some(reason.into()),
            message: Some(message),
            source: Some(self.source.clone()),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone().or_else(|| Some(String::new())),
            involved_object: object,
            count: Some(1),
            first_timestamp: Some(now.clone()),
            last_timestamp: Some(now),
            ..Default::default()
        };
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => self.remember(identity, Seen { name, count: 1 }),
            Err(error) => tracing::debug!(%error, reason, "event not recorded"),
        }
    }

    /// Now, in nanoseconds, with chance for its last bits: names are in the order of events, as those of Kubernetes' own
    /// components are, and two of one instant differ.
    fn moment(&self) -> u64 {
        let nanoseconds = u64::try_from(self.clock.now().as_nanosecond()).unwrap_or(0);
        (nanoseconds & !CHANCE) | (self.entropy.next_u64() & CHANCE)
    }

    /// Counts an event that was recorded before.
    fn recurred(&self, identity: &str) -> Option<Seen> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let known = seen.get_mut(identity)?;
        known.count = known.count.saturating_add(1);
        Some(known.clone())
    }

    fn remember(&self, identity: String, new: Seen) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= REMEMBERED_MAX {
            seen.clear();
        }
        seen.insert(identity, new);
    }
}
