//! What a kubelet does with pods, on the memory runtime under paused time.

use std::time::Duration;

use k8s_openapi::api::core::v1::{ConfigMap, Node};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, LogParams, PostParams},
};
use orchestra_core::runtime::ContainerRuntime as _;
use serde_json::json;

use crate::cluster::{Cluster, container, has_event, is_ready, phase, restarts, waiting_reason, web};

#[tokio::test(start_paused = true)]
async fn a_node_registers_and_its_pods_become_ready() {
    let cluster = Cluster::start().await;
    cluster.create("web", web("echo hello; sleep infinity")).await;
    let pod = cluster.until("web", is_ready).await;
    assert_eq!(phase(&pod), "Running");
    assert!(pod.status.expect("a status").pod_ip.is_some());
    let node = Api::<Node>::all(cluster.client.clone()).get("n1").await.expect("registered");
    let conditions = node.status.expect("a status").conditions.unwrap_or_default();
    assert!(conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True"));
}

#[tokio::test(start_paused = true)]
async fn a_crashed_container_is_restarted_with_backoff() {
    let cluster = Cluster::start().await;
    cluster.create("web", web("exit 3")).await;
    cluster.until("web", |pod| waiting_reason(pod) == Some("CrashLoopBackOff")).await;
    cluster.until("web", |pod| restarts(pod) >= 4).await;
    assert!(has_event(&cluster, "web", "BackOff").await);
}

/// SEMANTICS 51.
#[tokio::test(start_paused = true)]
async fn a_restarted_kubelet_takes_on_what_runs() {
    let mut cluster = Cluster::start().await;
    let pod = cluster.create("web", web("sleep infinity")).await;
    cluster.until("web", is_ready).await;
    cluster.restart_kubelet();
    tokio::time::sleep(Duration::from_secs(120)).await;
    let pod_now = cluster.until("web", is_ready).await;
    assert_eq!((restarts(&pod_now), pod_now.uid()), (0, pod.uid()));
    assert!(cluster.runtime.crash(&container(&pod, 0), 1), "the first attempt still runs");
    cluster.until("web", |pod| restarts(pod) == 1 && is_ready(pod)).await;
}

/// SEMANTICS 51: a pod deleted while no kubelet looked is removed from its node.
#[tokio::test(start_paused = true)]
async fn what_is_left_of_a_deleted_pod_is_removed() {
    let mut cluster = Cluster::start().await;
    cluster.create("web", web("sleep infinity")).await;
    cluster.until("web", is_ready).await;
    cluster.kubelet.abort();
    cluster.pods().delete("web", &DeleteParams::default().grace_period(0)).await.expect("deleted");
    cluster.restart_kubelet();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(cluster.runtime.list().await.expect("a list").is_empty());
}

/// SEMANTICS 53.
#[tokio::test(start_paused = true)]
async fn a_deleted_pod_gets_its_grace_and_then_goes() {
    let cluster = Cluster::start().await;
    cluster.create("web", web("trap '' TERM; sleep infinity")).await;
    cluster.until("web", is_ready).await;
    let began = tokio::time::Instant::now();
    cluster.pods().delete("web", &DeleteParams::default().grace_period(7)).await.expect("deleted");
    cluster.until("web", |pod| !is_ready(pod)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "unready at once");
    cluster.until_gone("web").await;
    let took = began.elapsed();
    assert!((Duration::from_secs(7)..=Duration::from_secs(9)).contains(&took), "{took:?}");
    assert!(cluster.runtime.list().await.expect("a list").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_runs_to_its_end_succeeds_or_fails() {
    let cluster = Cluster::start().await;
    for (name, script, ended) in [("good", "exit 0", "Succeeded"), ("bad", "exit 1", "Failed")] {
        let mut spec = web(script);
        spec["restartPolicy"] = "Never".into();
        cluster.create(name, spec).await;
        cluster.until(name, |pod| phase(pod) == ended).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_image_that_cannot_be_had_is_reported() {
    let cluster = Cluster::start().await;
    let spec = json!({"containers": [{"name": "web", "image": "missing/image"}]});
    cluster.create("web", spec).await;
    cluster.until("web", |pod| waiting_reason(pod) == Some("ErrImagePull")).await;
    cluster.until("web", |pod| waiting_reason(pod) == Some("ImagePullBackOff")).await;
    assert!(has_event(&cluster, "web", "BackOff").await);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fails_its_readiness_probe_is_not_ready() {
    let cluster = Cluster::start().await;
    let mut spec = web("sleep infinity");
    spec["containers"][0]["readinessProbe"] = json!({"httpGet": {"path": "/", "port": 80}, "periodSeconds": 1});
    let pod = cluster.create("web", spec).await;
    cluster.until("web", is_ready).await;
    cluster.runtime.set_response(&container(&pod, 0).sandbox, Some(500));
    cluster.until("web", |pod| !is_ready(pod)).await;
    cluster.runtime.set_response(&container(&pod, 0).sandbox, Some(200));
    assert_eq!(restarts(&cluster.until("web", is_ready).await), 0);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_fails_its_liveness_probe_is_restarted() {
    let cluster = Cluster::start().await;
    let mut spec = web("sleep infinity");
    spec["containers"][0]["livenessProbe"] = json!({"tcpSocket": {"port": 80}, "periodSeconds": 1});
    let pod = cluster.create("web", spec).await;
    cluster.until("web", is_ready).await;
    cluster.runtime.set_response(&container(&pod, 0).sandbox, None);
    cluster.until("web", |pod| restarts(pod) > 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_log_is_read_through_the_api_also_of_the_attempt_before() {
    let cluster = Cluster::start().await;
    let mut spec = web("echo $GREETING; sleep infinity");
    spec["containers"][0]["env"] = json!([
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "GREETING", "value": "hello $(NAME)"},
    ]);
    let pod = cluster.create("web", spec).await;
    cluster.until("web", is_ready).await;
    let log = cluster.pods().logs("web", &LogParams::default()).await.expect("a log");
    assert_eq!(log, "hello web\n");
    cluster.runtime.crash(&container(&pod, 0), 1);
    cluster.until("web", |pod| restarts(pod) == 1 && is_ready(pod)).await;
    let previous = LogParams { previous: true, ..LogParams::default() };
    assert_eq!(cluster.pods().logs("web", &previous).await.expect("a log"), "hello web\n");
}

#[tokio::test(start_paused = true)]
async fn a_pod_waits_for_the_config_map_it_names() {
    let cluster = Cluster::start().await;
    let mut spec = web("sleep infinity");
    spec["containers"][0]["envFrom"] = json!([{"configMapRef": {"name": "settings"}}]);
    cluster.create("web", spec).await;
    cluster.until("web", |pod| waiting_reason(pod) == Some("CreateContainerConfigError")).await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "default");
    let map = serde_json::from_value(json!({"metadata": {"name": "settings"}, "data": {"A": "1"}})).expect("a map");
    maps.create(&PostParams::default(), &map).await.expect("created");
    cluster.until("web", is_ready).await;
}
