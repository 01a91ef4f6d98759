//! Tells people what happened to a pod; what recurs is counted, not told again.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ObjectReference, Pod};
pub(super) use orchestra_core::controller::Severity;

use super::Shared;

/// How long an event may take to be written: a pod doesn't wait for an API that is away.
const RECORDED_WITHIN: Duration = Duration::from_secs(2);

/// Records an event about `pod`, or about one of its containers. One that can't be written, or not soon, is dropped.
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
    let recording = shared.recorder.record_about(object, severity, reason, message);
    if tokio::time::timeout(RECORDED_WITHIN, recording).await.is_err() {
        tracing::debug!(reason, "event not recorded in time");
    }
}

fn field_path(pod: &Pod, container: &str) -> String {
    let inits = pod.spec.iter().flat_map(|spec| spec.init_containers.iter().flatten());
    let field = if inits.into_iter().any(|init| init.name == container) { "initContainers" } else { "containers" };
    format!("spec.{field}{{{container}}}")
}
