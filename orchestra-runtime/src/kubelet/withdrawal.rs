//! Before a pod is asked to end, nobody should be sent to it anymore (SEMANTICS 54).

use std::time::Duration;

use k8s_openapi::api::{
    core::v1::Pod,
    discovery::v1::{Endpoint, EndpointSlice},
};
use kube::{Api, api::ListParams};
use tokio::time::{sleep, timeout};

use super::{Shared, worker::names};

/// How long a pod waits, at most, for its endpoints to be withdrawn.
const WITHDRAWAL_MAX: Duration = Duration::from_secs(1);
/// How long to wait before looking again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// What proxies get to follow once the endpoints are withdrawn.
const PROXIES_FOLLOW: Duration = Duration::from_millis(50);

/// Waits until no endpoint slice offers the pod, and a moment for the proxies to see that; not for long, and not at all for
/// a pod that no slice offers. An API that can't be asked holds no pod back.
pub(super) async fn wait(shared: &Shared, pod: &Pod) {
    let slices: Api<EndpointSlice> = Api::namespaced(shared.client.clone(), names(pod).1);
    let withdrawn = async {
        let mut was_offered = false;
        loop {
            let offered = match slices.list(&ListParams::default()).await {
                Ok(slices) => slices.iter().any(|slice| offers(slice, pod)),
                Err(_) => false,
            };
            if !offered {
                break;
            }
            was_offered = true;
            sleep(LOOK_AGAIN).await;
        }
        if was_offered {
            sleep(PROXIES_FOLLOW).await;
        }
    };
    if timeout(WITHDRAWAL_MAX, withdrawn).await.is_err() {
        tracing::debug!(pod = ?pod.metadata.name, "its endpoints are not withdrawn, but it ends anyway");
    }
}

/// Whether a slice sends new clients to the pod.
fn offers(slice: &EndpointSlice, pod: &Pod) -> bool {
    let is_the_pods = |endpoint: &&Endpoint| {
        endpoint.target_ref.as_ref().is_some_and(|target| target.uid.is_some() && target.uid == pod.metadata.uid)
    };
    let takes_clients = |endpoint: &Endpoint| {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        conditions.ready != Some(false) && conditions.terminating != Some(true)
    };
    slice.endpoints.iter().flatten().filter(is_the_pods).any(takes_clients)
}
