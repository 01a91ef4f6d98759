//! A whole cluster in memory, under paused time: the same blocks as everywhere, and a trace of all that is written.

use std::{collections::BTreeMap, net::Ipv4Addr, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod},
};
use kube::{
    Api, Client, Resource, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use orchestra_core::{
    clock::TokioClock,
    control_plane::ControlPlane,
    proxy::NodeView,
    rng::Entropy,
    runtime::{ContainerId, ContainerRuntime as _, ContainerStatus, SandboxId},
    store::{Change, Prefix, Revision, Store as _},
};
use orchestra_net::proxy::{MemoryProxy, ServiceProxy};
use orchestra_runtime::{MemoryRuntime, kubelet::Kubelet};
use orchestra_store::MemoryStore;
use serde::de::DeserializeOwned;
use serde_json::{Value, from_value, json};
use tokio_util::task::AbortOnDropHandle;

use super::link::Link;

/// How much virtual time anything may take.
const PATIENCE: Duration = Duration::from_secs(1_200);
/// How often a condition is looked at, in virtual time.
const LOOK: Duration = Duration::from_millis(100);

/// A cluster in memory; what it stored outlives its control plane, and its runtimes outlive their kubelets.
pub(crate) struct Simulated {
    pub(crate) clock: TokioClock,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) proxy: Arc<MemoryProxy>,
    pub(crate) client: Client,
    entropy: Entropy,
    control_plane: Option<ControlPlane>,
    runtimes: BTreeMap<u8, Arc<MemoryRuntime>>,
    kubelets: BTreeMap<u8, AbortOnDropHandle<()>>,
    links: BTreeMap<u8, Link>,
    _proxying: AbortOnDropHandle<()>,
}

impl Simulated {
    /// Starts a cluster of `nodes` nodes whose whole future is `seed`.
    pub(crate) async fn start(seed: u64, nodes: u8) -> Self {
        let (clock, store, entropy) = (TokioClock::default(), Arc::new(MemoryStore::new()), Entropy::seeded(seed));
        let control_plane = control_plane(&store, clock, &entropy);
        let proxy = Arc::new(MemoryProxy::new());
        let view = NodeView { name: "node-1".into(), node_port_addresses: vec![Ipv4Addr::LOCALHOST.into()] };
        let proxying = ServiceProxy::new(control_plane.informers(), Arc::clone(&proxy) as _, view);
        let mut cluster = Self {
            clock,
            store,
            proxy,
            client: control_plane.client(),
            entropy,
            control_plane: Some(control_plane),
            runtimes: BTreeMap::new(),
            kubelets: BTreeMap::new(),
            links: BTreeMap::new(),
            _proxying: AbortOnDropHandle::new(tokio::spawn(proxying.run().map(|never| match never {}))),
        };
        for n in 1..=nodes {
            let addresses = Ipv4Addr::new(10, 0, n, 1);
            cluster.runtimes.insert(n, Arc::new(MemoryRuntime::with_addresses(Arc::new(clock), addresses, 250)));
            cluster.start_kubelet(n);
        }
        let all_ready = |ready: &Vec<String>| ready.len() == usize::from(nodes);
        cluster.eventually("the nodes are ready", async || cluster.ready_nodes().await, all_ready).await;
        cluster
    }

    /// Starts the kubelet of node `n`, on the runtime it had.
    pub(crate) fn start_kubelet(&mut self, n: u8) {
        let runtime = Arc::clone(&self.runtimes[&n]);
        let client = self.links.entry(n).or_default().client(&self.client);
        let kubelet = Kubelet::builder(client, runtime, format!("node-{n}"))
            .clock(Arc::new(self.clock))
            .entropy(self.entropy.fork())
            .build();
        let run = async move { match kubelet.run().await {} };
        self.kubelets.insert(n, AbortOnDropHandle::new(tokio::spawn(run)));
    }

    /// Ends the kubelet of node `n` as a crash would; its containers go on.
    pub(crate) fn kill_kubelet(&mut self, n: u8) {
        drop(self.kubelets.remove(&n).expect("it runs"));
    }

    /// Cuts the kubelet of node `n` off the API, or heals that; its containers go on, and clients reach them.
    pub(crate) fn cut(&self, n: u8, cut: bool) {
        self.links[&n].cut(cut);
    }

    /// Ends a container with code 1, as a bug in its program would.
    pub(crate) fn crash(&self, pod: &Pod, container: &str, attempt: u32) {
        let id = ContainerId { sandbox: sandbox_of(pod), name: container.into(), attempt };
        assert!(self.runtimes.values().any(|runtime| runtime.crash(&id, 1)), "no node runs {id:?}");
    }

    /// What the runtime of node `n` has of a pod: each attempt of its containers.
    pub(crate) async fn attempts(&self, n: u8, pod: &Pod) -> Vec<ContainerStatus> {
        let all = self.runtimes[&n].list().await.expect("listed");
        all.into_iter().filter(|sandbox| sandbox.id == sandbox_of(pod)).flat_map(|sandbox| sandbox.containers).collect()
    }

    /// Ends the API server, the controllers and the scheduler, and starts others on the same store.
    pub(crate) fn restart_control_plane(&mut self) {
        drop(self.control_plane.take());
        let control_plane = control_plane(&self.store, self.clock, &self.entropy);
        self.client = control_plane.client();
        self.control_plane = Some(control_plane);
        for n in self.kubelets.keys().copied().collect::<Vec<_>>() {
            self.kill_kubelet(n);
            self.start_kubelet(n);
        }
    }

    pub(crate) fn api<K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>>(&self) -> Api<K> {
        Api::default_namespaced(self.client.clone())
    }

    /// Creates an object in the namespace `default`.
    pub(crate) async fn create<K>(&self, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
        K: Clone + std::fmt::Debug + DeserializeOwned + serde::Serialize,
    {
        let object = from_value(object).expect("an object of its kind");
        self.api().create(&PostParams::default(), &object).await.expect("created")
    }

    /// Merges `patch` into the deployment `web`.
    pub(crate) async fn patch_web(&self, patch: Value) -> Deployment {
        self.api().patch("web", &PatchParams::default(), &Patch::Merge(patch)).await.expect("patched")
    }

    pub(crate) async fn cordon(&self, node: &str) {
        let patch = Patch::Merge(json!({ "spec": { "unschedulable": true } }));
        let nodes = Api::<Node>::all(self.client.clone());
        nodes.patch(node, &PatchParams::default(), &patch).await.expect("patched");
    }

    pub(crate) async fn delete_pod(&self, pod: &Pod) {
        self.api::<Pod>().delete(&pod.name_any(), &DeleteParams::default()).await.expect("deleted");
    }

    /// The pods that are not on their way out.
    pub(crate) async fn pods(&self) -> Vec<Pod> {
        let pods = self.api::<Pod>().list(&ListParams::default()).await.expect("listed");
        pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect()
    }

    async fn ready_nodes(&self) -> Vec<String> {
        let nodes = Api::<Node>::all(self.client.clone()).list(&ListParams::default()).await.expect("listed");
        let ready = |node: &Node| {
            let conditions = node.status.iter().flat_map(|status| status.conditions.iter().flatten());
            conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        nodes.iter().filter(|node| ready(node)).map(Node::name_any).collect()
    }

    /// Waits until every replica of the deployment `web` is up to date and available, and no other is left.
    pub(crate) async fn rolled_out(&self) -> Deployment {
        let done = |web: &Deployment| {
            let status = web.status.clone().unwrap_or_default();
            let counts = [status.replicas, status.updated_replicas, status.available_replicas];
            status.observed_generation == web.metadata.generation
                && counts.map(Option::unwrap_or_default) == [web.spec.replicas.unwrap_or(1); 3]
        };
        let web = || async { self.api::<Deployment>().get("web").await.expect("it is there") };
        self.eventually("web is rolled out", web, done).await
    }

    /// Asks again, in virtual time, until `accept` takes the answer.
    pub(crate) async fn eventually<T: std::fmt::Debug>(
        &self,
        what: &str,
        mut ask: impl AsyncFnMut() -> T,
        accept: impl Fn(&T) -> bool,
    ) -> T {
        let start = tokio::time::Instant::now();
        loop {
            let answer = ask().await;
            if accept(&answer) {
                return answer;
            }
            if start.elapsed() >= PATIENCE {
                for line in self
                    .trace()
                    .await
                    .iter()
                    .rev()
                    .filter(|l| !l.contains("/leases/") && !l.contains("/core/nodes"))
                    .take(14)
                {
                    eprintln!("{}", &line[..line.len().min(1500)]);
                }
            }
            assert!(start.elapsed() < PATIENCE, "not in time: {what}; last: {answer:#?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// All that was ever written, a line a change: the revision, the key and the value.
    pub(crate) async fn trace(&self) -> Vec<String> {
        let mut watch = self.store.watch(&Prefix::all(), Revision(0)).await.expect("a watch");
        let mut lines = Vec::new();
        while let Some(Some(batch)) = watch.next().now_or_never() {
            let batch = batch.expect("the history is all there");
            lines.extend(batch.changes.iter().map(|change| match change {
                Change::Put(entry) => {
                    format!("{} {} {}", batch.revision, entry.key, String::from_utf8_lossy(&entry.value))
                }
                Change::Delete(key) => format!("{} {key} gone", batch.revision),
            }));
        }
        lines
    }
}

fn control_plane(store: &Arc<MemoryStore>, clock: TokioClock, entropy: &Entropy) -> ControlPlane {
    ControlPlane::builder(Arc::clone(store)).clock(clock).seed(entropy.next_u64()).start()
}

/// The deployment `web`, whose pods are ready two seconds after their start.
pub(crate) fn web(replicas: u32) -> Value {
    json!({
        "metadata": { "name": "web" },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "web" } }, "template": {
            "metadata": { "labels": { "app": "web" } },
            "spec": { "containers": [{ "name": "web", "image": "registry.example/web:1",
                "ports": [{ "name": "http", "containerPort": 8080 }],
                "readinessProbe": { "httpGet": { "port": "http" }, "initialDelaySeconds": 2, "periodSeconds": 1 } }] } } },
    })
}

fn sandbox_of(pod: &Pod) -> SandboxId {
    SandboxId(pod.uid().expect("a pod of the API").into())
}

pub(crate) fn node_of(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()).unwrap_or_default()
}

pub(crate) fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.into_iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub(crate) fn restarts(pod: &Pod) -> i32 {
    let statuses = pod.status.iter().flat_map(|status| status.container_statuses.iter().flatten());
    statuses.map(|status| status.restart_count).sum()
}
