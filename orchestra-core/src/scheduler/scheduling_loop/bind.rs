//! Carrying out the places that a plan has found.

use std::time::Duration;

use futures::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ObjectMeta, PostParams},
};
use tokio::time::Instant;

use super::{
    super::{Heard, metrics::Result},
    Placed, SchedulingLoop,
};
use crate::{controller::Severity, informer::ObjectKey};

/// How many bindings run side by side.
const BINDINGS_AT_ONCE: usize = 16;

impl SchedulingLoop {
    /// Binds pods to nodes, and hears what comes of it.
    pub(super) async fn bind(&mut self, bindings: Vec<Placed>, took: Duration) {
        for (_, pod, node) in &bindings {
            self.assumed.insert(ObjectKey::of(&**pod), (pod.uid().unwrap_or_default(), node.clone()));
        }
        let (planning, recorder) = (self.now_planning().name.clone(), self.now_planning().recorder.clone());
        let bound = bindings.into_iter().map(|(unit, pod, node)| {
            let (client, recorder) = (self.client.clone(), recorder.clone());
            async move {
                let outcome = bind(&client, &pod, &node).await;
                if outcome.is_ok() {
                    let message = format!("Successfully assigned {} to {node}", ObjectKey::of(&*pod));
                    recorder.record(&*pod, Severity::Normal, "Scheduled", message).await;
                }
                (unit, pod, outcome)
            }
        });
        let outcomes: Vec<_> = stream::iter(bound).buffered(BINDINGS_AT_ONCE).collect().await;
        for (unit, pod, outcome) in outcomes {
            match outcome {
                Ok(()) => {
                    self.metrics.attempted(&planning, Result::Scheduled, took);
                    self.now_planning().scheduler.heard(&Heard::Committed(unit));
                }
                Err(error) => {
                    self.metrics.attempted(&planning, Result::Error, took);
                    tracing::debug!(pod = %ObjectKey::of(&*pod), %error, "binding refused");
                    self.assumed.remove(&ObjectKey::of(&*pod));
                    self.queue.refused(&pod.uid().unwrap_or_default(), Instant::now());
                    self.now_planning().scheduler.heard(&Heard::Refused(unit));
                }
            }
        }
    }
}

async fn bind(client: &Client, pod: &Pod, node: &str) -> kube::Result<()> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: pod.metadata.name.clone(),
            namespace: pod.namespace(),
            uid: pod.uid(),
            ..Default::default()
        },
        target: ObjectReference { kind: Some("Node".into()), name: Some(node.into()), ..Default::default() },
    };
    let body = serde_json::to_vec(&binding).map_err(kube::Error::SerdeError)?;
    let api = Api::<Pod>::namespaced(client.clone(), &pod.namespace().unwrap_or_default());
    let request = kube::core::Request::new(api.resource_url())
        .create_subresource("binding", &pod.name_any(), &PostParams::default(), body)
        .map_err(kube::Error::BuildRequest)?;
    client.request_text(request).await.map(drop)
}
