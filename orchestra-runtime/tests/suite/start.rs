//! How containers are started, and what is told when they can't be.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use serde_json::json;

use crate::cluster::{Cluster, has_event, phase, restarts, terminated, waiting_reason, web};

fn status(pod: &Pod) -> ContainerStatus {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.clone()).unwrap_or_default();
    statuses.into_iter().next().expect("one container")
}

/// A start that fails is an attempt, as in Kubernetes: it counts, shows as the last state, and is tried again later.
#[tokio::test(start_paused = true)]
async fn a_container_whose_program_is_missing_is_restarted_with_backoff() {
    let mut cluster = Cluster::start().await;
    let mut spec = web("");
    spec["containers"][0]["command"] = json!(["/no/such"]);
    cluster.create("web", spec).await;
    let waits = |pod: &Pod| waiting_reason(pod) == Some("CrashLoopBackOff") && restarts(pod) >= 3;
    let pod = cluster.until("web", waits).await;
    let last = status(&pod).last_state.and_then(|state| state.terminated).expect("the last attempt");
    assert_eq!((last.exit_code, last.reason.as_deref()), (128, Some("StartError")));
    assert_eq!(last.message.as_deref(), Some("can't run /no/such: no such file"));
    assert_eq!(last.started_at.expect("a time").0, orchestra_core::clock::Timestamp::UNIX_EPOCH);
    assert_eq!(phase(&pod), "Running");
    assert!(has_event(&cluster, "web", "BackOff").await && has_event(&cluster, "web", "Failed").await);
    cluster.restart_kubelet();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let again = restarts(&cluster.until("web", |_| true).await);
    assert!(again >= restarts(&pod), "another kubelet goes on counting: {again}");
    cluster.until("web", |pod| restarts(pod) >= again + 2).await;
}

/// SEMANTICS 52: a final phase stays, and so does what led to it.
#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_restart_fails_if_its_program_is_missing() {
    let mut cluster = Cluster::start().await;
    let mut spec = web("");
    spec["containers"][0]["command"] = json!(["/no/such"]);
    spec["restartPolicy"] = "Never".into();
    cluster.create("web", spec).await;
    let failed = cluster.until("web", |pod| phase(pod) == "Failed").await;
    let last = terminated(&failed).expect("it was tried");
    assert_eq!((last.exit_code, last.reason.as_deref()), (128, Some("StartError")));
    cluster.restart_kubelet();
    tokio::time::sleep(Duration::from_secs(90)).await;
    let later = cluster.until("web", |_| true).await;
    assert_eq!((phase(&later), status(&later)), ("Failed", status(&failed)));
}
