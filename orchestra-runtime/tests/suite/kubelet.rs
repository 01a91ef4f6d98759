//! A kubelet on the memory runtime, an API server on the memory store, and paused time.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, LogParams, PostParams},
};
use orchestra_core::{
    clock::{Clock, TokioClock},
    rng::Entropy,
    runtime::{ContainerId, ContainerRuntime as _, SandboxId},
    server::{ApiServer, UserInfo},
};
use orchestra_runtime::{Kubelet, MemoryRuntime, kubelet::LocalNodes};
use orchestra_store::MemoryStore;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// How long a pod may take to get where it should, in virtual seconds.
const PATIENCE_SECONDS: u64 = 900;

struct Cluster {
    client: Client,
    runtime: MemoryRuntime,
    nodes: LocalNodes,
    clock: Arc<dyn Clock>,
    dir: tempfile::TempDir,
    kubelet: JoinHandle<()>,
}

impl Cluster {
    async fn start() -> Self {
        let clock: Arc<dyn Clock> = Arc::new(TokioClock::default());
        let nodes = LocalNodes::default();
        let server = ApiServer::builder(Arc::new(MemoryStore::new()))
            .clock(Arc::clone(&clock))
            .entropy(Entropy::seeded(1))
            .dialer(Arc::new(nodes.clone()))
            .build();
        let client = server.client(UserInfo::master("test"));
        let namespaces: Api<Namespace> = Api::all(client.clone());
        for name in ["default", "kube-node-lease"] {
            let namespace = serde_json::from_value(json!({"metadata": {"name": name}})).expect("a namespace");
            // It may be there already.
            let _ = namespaces.create(&PostParams::default(), &namespace).await;
        }
        let runtime = MemoryRuntime::new(Arc::clone(&clock));
        let dir = tempfile::tempdir().expect("a directory");
        let mut cluster = Self { client, runtime, nodes, clock, dir, kubelet: tokio::spawn(async {}) };
        cluster.restart_kubelet();
        cluster
    }

    fn restart_kubelet(&mut self) {
        self.kubelet.abort();
        let kubelet = Kubelet::builder(self.client.clone(), Arc::new(self.runtime.clone()), "n1")
            .clock(Arc::clone(&self.clock))
            .entropy(Entropy::seeded(2))
            .root_dir(self.dir.path())
            .build();
        self.nodes.insert(&kubelet);
        self.kubelet = tokio::spawn(async move {
            kubelet.run().await;
        });
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Makes a pod that is bound to the node already.
    async fn create(&self, name: &str, mut spec: Value) -> Pod {
        spec["nodeName"] = "n1".into();
        let pod = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        let pod = serde_json::from_value(pod).expect("a pod");
        self.pods().create(&PostParams::default(), &pod).await.expect("created")
    }

    /// Waits until the pod is as it should be; shows it if it never is.
    async fn until(&self, name: &str, holds: impl Fn(&Pod) -> bool) -> Pod {
        for _ in 0..PATIENCE_SECONDS * 2 {
            let pod = self.pods().get_opt(name).await.expect("an answer");
            if let Some(pod) = pod.filter(|pod| holds(pod)) {
                return pod;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("{:#?}", self.pods().get_opt(name).await.expect("an answer").and_then(|pod| pod.status));
    }

    async fn until_gone(&self, name: &str) {
        for _ in 0..PATIENCE_SECONDS * 2 {
            if self.pods().get_opt(name).await.expect("an answer").is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("{name} is still there");
    }
}

fn web(script: &str) -> Value {
    json!({"containers": [{"name": "web", "image": "host", "command": ["sh", "-c", script]}]})
}

fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    statuses.iter().map(|status| status.restart_count).sum()
}

fn waiting_reason(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    status.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

fn container(pod: &Pod, attempt: u32) -> ContainerId {
    let sandbox = SandboxId(pod.uid().expect("the server gave one").into());
    ContainerId { sandbox, name: "web".into(), attempt }
}

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
    let maps: Api<k8s_openapi::api::core::v1::ConfigMap> = Api::namespaced(cluster.client.clone(), "default");
    let map = serde_json::from_value(json!({"metadata": {"name": "settings"}, "data": {"A": "1"}})).expect("a map");
    maps.create(&PostParams::default(), &map).await.expect("created");
    cluster.until("web", is_ready).await;
}
