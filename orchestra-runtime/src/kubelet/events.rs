//! Tells people what happened to a pod; what recurs is counted, not told again.

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
pub(super) use orchestra_core::controller::Severity;

use super::Shared;

/// Records an event about `pod`, or about one of its containers. One that can't be written is dropped.
pub(super) async fn record(
    shared: &Shared,
    pod: &Pod,
    container: Option<&str>,
    severity: Severity,
    (reason, message): (&str, String),
) {
    let object = ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
        field_path: container.map(|container| field_path(pod, container)),
        ..ObjectReference::default()
    };
    shared.recorder.record_about(object, severity, reason, message).await;
}

fn field_path(pod: &Pod, container: &str) -> String {
    let inits = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let field = if inits.into_iter().any(|init| init.name == container) { "initContainers" } else { "containers" };
    format!("spec.{field}{{{container}}}")
}
