//! Tells people what happened to a pod.

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{
    Api,
    api::{ObjectMeta, PostParams},
};

use super::Shared;

/// How grave an event is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Severity {
    Normal,
    Warning,
}

/// Records an event about `pod`, or about one of its containers. One that can't be written is dropped.
pub(super) async fn record(
    shared: &Shared,
    pod: &Pod,
    container: Option<&str>,
    severity: Severity,
    (reason, message): (&str, String),
) {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let name = pod.metadata.name.clone().unwrap_or_default();
    let now = Time(shared.clock.now());
    let event = Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:016x}", shared.entropy.next_u64())),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".into()),
            kind: Some("Pod".into()),
            namespace: Some(namespace.clone()),
            name: Some(name),
            uid: pod.metadata.uid.clone(),
            field_path: container.map(|container| format!("spec.containers{{{container}}}")),
            ..ObjectReference::default()
        },
        type_: Some(format!("{severity:?}")),
        reason: Some(reason.into()),
        message: Some(message),
        first_timestamp: Some(now.clone()),
        last_timestamp: Some(now),
        count: Some(1),
        source: Some(EventSource { component: Some("kubelet".into()), host: Some(shared.node_name.clone()) }),
        reporting_component: Some("kubelet".into()),
        reporting_instance: Some(shared.node_name.clone()),
        ..Event::default()
    };
    let events: Api<Event> = Api::namespaced(shared.client.clone(), &namespace);
    if let Err(error) = events.create(&PostParams::default(), &event).await {
        tracing::debug!(%error, "event was not recorded");
    }
}
