//! A kubelet on the memory runtime, an API server on the memory store, and paused time.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{ContainerStateTerminated, Event, Namespace, Pod};
use kube::{
    Api, Client, ResourceExt as _,
    api::{ListParams, PostParams},
};
use orchestra_core::{
    clock::{Clock, TokioClock},
    rng::Entropy,
    runtime::{ContainerId, SandboxId},
    server::{ApiServer, UserInfo},
};
use orchestra_runtime::{Kubelet, MemoryRuntime, kubelet::LocalNodes};
use orchestra_store::MemoryStore;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

/// How long a pod may take to get where it should, in virtual seconds.
const PATIENCE_SECONDS: u64 = 900;

pub(crate) struct Cluster {
    pub(crate) client: Client,
    pub(crate) runtime: MemoryRuntime,
    nodes: LocalNodes,
    clock: Arc<dyn Clock>,
    pub(crate) dir: tempfile::TempDir,
    pub(crate) kubelet: JoinHandle<()>,
}

impl Cluster {
    pub(crate) async fn start() -> Self {
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

    pub(crate) fn restart_kubelet(&mut self) {
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

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "default")
    }

    /// Makes a pod that is bound to the node already.
    pub(crate) async fn create(&self, name: &str, mut spec: Value) -> Pod {
        spec["nodeName"] = "n1".into();
        let pod = json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
        let pod = serde_json::from_value(pod).expect("a pod");
        self.pods().create(&PostParams::default(), &pod).await.expect("created")
    }

    /// Waits until the pod is as it should be; shows it if it never is.
    pub(crate) async fn until(&self, name: &str, holds: impl Fn(&Pod) -> bool) -> Pod {
        for _ in 0..PATIENCE_SECONDS * 2 {
            let pod = self.pods().get_opt(name).await.expect("an answer");
            if let Some(pod) = pod.filter(|pod| holds(pod)) {
                return pod;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("{:#?}", self.pods().get_opt(name).await.expect("an answer").and_then(|pod| pod.status));
    }

    pub(crate) async fn until_gone(&self, name: &str) {
        for _ in 0..PATIENCE_SECONDS * 2 {
            if self.pods().get_opt(name).await.expect("an answer").is_none() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        panic!("{name} is still there");
    }
}

pub(crate) fn web(script: &str) -> Value {
    json!({"containers": [{"name": "web", "image": "host", "command": ["sh", "-c", script]}]})
}

pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or_default()
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub(crate) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.as_ref().and_then(|status| status.container_statuses.as_deref()).unwrap_or_default();
    statuses.iter().map(|status| status.restart_count).sum()
}

pub(crate) fn waiting_reason(pod: &Pod) -> Option<&str> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    status.state.as_ref()?.waiting.as_ref()?.reason.as_deref()
}

pub(crate) fn container(pod: &Pod, attempt: u32) -> ContainerId {
    let sandbox = SandboxId(pod.uid().expect("the server gave one").into());
    ContainerId { sandbox, name: "web".into(), attempt }
}

/// The events about a pod, each by its reason and how often it was counted.
pub(crate) async fn events(cluster: &Cluster, pod: &str) -> Vec<(String, i32)> {
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), "default");
    let all = events.list(&ListParams::default()).await.expect("a list");
    let about = all.into_iter().filter(|event| event.involved_object.name.as_deref() == Some(pod));
    about.map(|event| (event.reason.unwrap_or_default(), event.count.unwrap_or(1))).collect()
}

pub(crate) async fn has_event(cluster: &Cluster, pod: &str, reason: &str) -> bool {
    events(cluster, pod).await.iter().any(|(told, _)| told == reason)
}

pub(crate) fn terminated(pod: &Pod) -> Option<&ContainerStateTerminated> {
    let status = pod.status.as_ref()?.container_statuses.as_ref()?.first()?;
    status.state.as_ref()?.terminated.as_ref()
}

/// What people are told about a pod, sorted: type, reason and message of each event.
pub(crate) async fn told(cluster: &Cluster, pod: &str) -> Vec<String> {
    let events: Api<Event> = Api::namespaced(cluster.client.clone(), "default");
    let all = events.list(&ListParams::default()).await.expect("a list");
    let about = all.into_iter().filter(|event| event.involved_object.name.as_deref() == Some(pod));
    let line = |event: Event| {
        let parts = [event.type_, event.reason, event.message];
        parts.map(Option::unwrap_or_default).join(" ")
    };
    let mut lines: Vec<_> = about.map(line).collect();
    lines.sort();
    lines
}
