//! How containers are started, and what is told when they can't be.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::cluster::{Cluster, events, has_event, is_ready, phase, restarts, terminated, told, waiting_reason, web};

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

/// The events of Kubernetes' own kubelet.
#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_had_is_told_in_kubernetes_words() {
    let cluster = Cluster::start().await;
    cluster.create("web", json!({"containers": [{"name": "web", "image": "missing/web"}]})).await;
    let message = |pod: &Pod| status(pod).state.and_then(|state| state.waiting?.message).unwrap_or_default();
    let pod = cluster.until("web", |pod| waiting_reason(pod) == Some("ErrImagePull")).await;
    assert_eq!(message(&pod), "no such image");
    let pod = cluster.until("web", |pod| waiting_reason(pod) == Some("ImagePullBackOff")).await;
    assert_eq!(message(&pod), "Back-off pulling image \"missing/web\": ErrImagePull: no such image");
    let expected = [
        "Normal BackOff Back-off pulling image \"missing/web\"",
        "Normal Pulling Pulling image \"missing/web\"",
        "Warning Failed Error: ErrImagePull",
        "Warning Failed Error: ImagePullBackOff",
        "Warning Failed Failed to pull image \"missing/web\": no such image",
    ];
    assert_eq!(told(&cluster, "web").await, expected);
}

#[tokio::test(start_paused = true)]
async fn another_kubelet_does_not_tell_again_of_a_backoff_under_way() {
    let mut cluster = Cluster::start().await;
    cluster.create("web", web("exit 3")).await;
    cluster.until("web", |pod| waiting_reason(pod) == Some("CrashLoopBackOff") && restarts(pod) >= 3).await;
    let counted = async |cluster: &Cluster| -> i32 {
        let events = events(cluster, "web").await;
        events.into_iter().filter(|(reason, _)| reason == "BackOff").map(|(_, count)| count).sum()
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = counted(&cluster).await;
    cluster.restart_kubelet();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!((counted(&cluster).await, before), (3, 3), "one for each wait");
}

async fn change_image(cluster: &Cluster, image: &str) {
    let patch = json!({"spec": {"containers": [{"name": "web", "image": image}]}});
    cluster.pods().patch("web", &PatchParams::default(), &Patch::Strategic(patch)).await.expect("patched");
}

/// As `kubectl set image pod/web web=host:2` has it: the container is replaced, whatever the restart policy.
#[tokio::test(start_paused = true)]
async fn a_container_of_a_running_pod_gets_another_image() {
    for policy in ["Always", "Never"] {
        let cluster = Cluster::start().await;
        let mut spec = web("sleep infinity");
        spec["restartPolicy"] = policy.into();
        cluster.create("web", spec).await;
        let pod = cluster.until("web", is_ready).await;
        assert_eq!(status(&pod).image, "host");
        change_image(&cluster, "host:2").await;
        let pod = cluster.until("web", |pod| restarts(pod) == 1 && is_ready(pod)).await;
        assert_eq!(status(&pod).image, "host:2");
        let killing = "Normal Killing Container web definition changed, will be restarted".to_owned();
        assert!(told(&cluster, "web").await.contains(&killing));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(restarts(&cluster.until("web", is_ready).await), 1, "once is enough");
    }
}

#[tokio::test(start_paused = true)]
async fn a_mended_image_is_pulled_at_once() {
    let cluster = Cluster::start().await;
    cluster.create("web", json!({"containers": [{"name": "web", "image": "missing/web"}]})).await;
    tokio::time::sleep(Duration::from_secs(400)).await;
    cluster.until("web", |pod| waiting_reason(pod) == Some("ImagePullBackOff")).await;
    change_image(&cluster, "web:2").await;
    let began = tokio::time::Instant::now();
    cluster.until("web", is_ready).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// Nothing is silently ignored: a container that may not run as root does not, and what it asks for in vain is named.
#[tokio::test(start_paused = true)]
async fn what_a_security_context_asks_for_is_kept_refused_or_told() {
    let cluster = Cluster::start().await;
    let mut spec = web("sleep infinity");
    spec["securityContext"] = json!({"runAsNonRoot": true});
    spec["containers"][0]["securityContext"] = json!({"runAsUser": 0});
    cluster.create("root", spec.clone()).await;
    let pod = cluster.until("root", |pod| waiting_reason(pod) == Some("CreateContainerConfigError")).await;
    let message = status(&pod).state.and_then(|state| state.waiting?.message).expect("it says why");
    assert!(message.starts_with("container's runAsUser breaks non-root policy (pod: \"root_default("), "{message}");
    spec["containers"][0]["securityContext"] =
        json!({"runAsUser": 1_000, "readOnlyRootFilesystem": true, "capabilities": {"drop": ["ALL"]}});
    cluster.create("web", spec).await;
    cluster.until("web", is_ready).await;
    let told = told(&cluster, "web").await;
    let expected = "Warning SecurityNotEnforced securityContext of container web is not enforced in: \
                    readOnlyRootFilesystem, capabilities.drop";
    assert!(told.iter().any(|line| line == expected), "{told:#?}");
}
