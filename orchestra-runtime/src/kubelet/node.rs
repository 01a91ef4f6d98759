//! The node's own object: registration, lease and heartbeat; independent of pod work (SEMANTICS 55).

use std::{convert::Infallible, time::Duration};

use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::{DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus, NodeSystemInfo},
    },
    apimachinery::pkg::apis::meta::v1::{MicroTime, OwnerReference, Time},
};
use kube::{
    Api,
    api::{ObjectMeta, Patch, PatchParams, PostParams},
};

use super::Shared;
use crate::causes::chain;

/// How often the lease is renewed; a node whose lease is 40 s old counts as lost.
const LEASE_RENEW_SECONDS: u64 = 10;
/// How long a lease says it holds.
const LEASE_SECONDS: i32 = 40;
/// After how many renewals the status is written though nothing changed: every five minutes.
const HEARTBEAT_RENEWALS: u64 = 30;
/// How long the API, or the runtime, may take to answer.
const CALL_SECONDS_MAX: u64 = 10;
/// How long to wait after a failed call.
const RETRY_SECONDS: u64 = 1;
/// The namespace of the leases of nodes.
const LEASE_NAMESPACE: &str = "kube-node-lease";

/// Keeps the node's object and lease up to date.
pub(super) async fn run(shared: &Shared) -> Infallible {
    let mut renewals: u64 = 0;
    let mut told = None;
    loop {
        // The whole answer or none: half an answer from an API that hangs would cost the node its lease.
        let health = health(shared).await;
        let heartbeat = renewals.is_multiple_of(HEARTBEAT_RENEWALS) || told.as_ref() != Some(&health);
        let renewal = renew(shared, heartbeat, &health);
        let renewed = match tokio::time::timeout(Duration::from_secs(CALL_SECONDS_MAX), renewal).await {
            Ok(renewed) => renewed.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {CALL_SECONDS_MAX} s")),
        };
        let wait = match renewed {
            Ok(()) => {
                renewals += 1;
                told = Some(health);
                Duration::from_secs(LEASE_RENEW_SECONDS).mul_f64(1.0 - 0.1 * shared.entropy.next_f64())
            }
            Err(error) => {
                tracing::warn!(node = %shared.node_name, %error, "node can't report itself, trying again");
                Duration::from_secs(RETRY_SECONDS)
            }
        };
        tokio::time::sleep(wait).await;
    }
}

/// Whether the node can run pods; why not, if it can't.
type Health = Result<(), String>;

/// Asks the container runtime.
async fn health(shared: &Shared) -> Health {
    let list = tokio::time::timeout(Duration::from_secs(CALL_SECONDS_MAX), shared.runtime.list());
    match list.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("container runtime is down: {}", chain(&error))),
        Err(_) => Err("container runtime does not answer".into()),
    }
}

/// Renews the lease, then the status if it is time to, or if the API shows another: a node that was silent for a while
/// was declared lost (SEMANTICS 55).
async fn renew(shared: &Shared, heartbeat: bool, health: &Health) -> kube::Result<()> {
    let node = register(shared).await?;
    renew_lease(shared, &node).await?;
    if heartbeat || !shows(&node, health) {
        report(shared, &node, health).await?;
    }
    Ok(())
}

async fn renew_lease(shared: &Shared, node: &Node) -> kube::Result<()> {
    let leases: Api<Lease> = Api::namespaced(shared.client.clone(), LEASE_NAMESPACE);
    let now = MicroTime(shared.clock.now());
    let renewal = serde_json::json!({"spec": {"renewTime": now, "holderIdentity": shared.node_name}});
    match leases.patch(&shared.node_name, &PatchParams::default(), &Patch::Merge(&renewal)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        other => return other.map(drop),
    }
    let owner = OwnerReference {
        api_version: "v1".into(),
        kind: "Node".into(),
        name: shared.node_name.clone(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        ..OwnerReference::default()
    };
    let metadata = ObjectMeta {
        name: Some(shared.node_name.clone()),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    let spec = LeaseSpec {
        holder_identity: Some(shared.node_name.clone()),
        lease_duration_seconds: Some(LEASE_SECONDS),
        renew_time: Some(now),
        ..LeaseSpec::default()
    };
    leases.create(&PostParams::default(), &Lease { metadata, spec: Some(spec) }).await.map(drop)
}

/// The node's object, made if there is none.
async fn register(shared: &Shared) -> kube::Result<Node> {
    let nodes: Api<Node> = Api::all(shared.client.clone());
    if let Some(node) = nodes.get_opt(&shared.node_name).await? {
        return Ok(node);
    }
    let mut labels = shared.labels.clone();
    let known = [
        ("kubernetes.io/hostname", shared.node_name.as_str()),
        ("kubernetes.io/os", std::env::consts::OS),
        ("kubernetes.io/arch", architecture()),
    ];
    labels.extend(known.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let metadata = ObjectMeta { name: Some(shared.node_name.clone()), labels: Some(labels), ..ObjectMeta::default() };
    nodes.create(&PostParams::default(), &Node { metadata, ..Node::default() }).await
}

/// Whether the API says of the node what it says of itself.
fn shows(node: &Node, health: &Health) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let ready = conditions.iter().find(|condition| condition.type_ == "Ready");
    ready.is_some_and(|ready| ready.status == if health.is_ok() { "True" } else { "False" })
}

async fn report(shared: &Shared, node: &Node, health: &Health) -> kube::Result<()> {
    let nodes: Api<Node> = Api::all(shared.client.clone());
    let status = serde_json::json!({"status": node_status(shared, node, health)});
    nodes.patch_status(&shared.node_name, &PatchParams::default(), &Patch::Merge(&status)).await.map(drop)
}

fn node_status(shared: &Shared, node: &Node, health: &Health) -> NodeStatus {
    let now = Time(shared.clock.now());
    let before = node.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    let conditions = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
        match health {
            Ok(()) => ("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
            Err(why) => ("Ready", "False", "KubeletNotReady", why.as_str()),
        },
    ];
    let conditions = conditions.map(|(type_, status, reason, message)| {
        let old = before.iter().find(|old| old.type_ == type_ && old.status == status);
        NodeCondition {
            type_: type_.into(),
            status: status.into(),
            reason: Some(reason.into()),
            message: Some(message.into()),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: old.and_then(|old| old.last_transition_time.clone()).or(Some(now.clone())),
        }
    });
    let address = |type_: &str, address: String| NodeAddress { type_: type_.into(), address };
    let capabilities = shared.runtime.capabilities();
    NodeStatus {
        addresses: Some(vec![
            address("InternalIP", shared.address.to_string()),
            address("Hostname", shared.node_name.clone()),
        ]),
        allocatable: Some(shared.capacity.clone()),
        capacity: Some(shared.capacity.clone()),
        conditions: Some(conditions.into()),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: shared.port.into() }),
        }),
        node_info: Some(NodeSystemInfo {
            architecture: architecture().into(),
            container_runtime_version: format!("{}://{}", capabilities.name, capabilities.version),
            kubelet_version: concat!("v1.37.0-orchestra.", env!("CARGO_PKG_VERSION")).into(),
            operating_system: std::env::consts::OS.into(),
            os_image: "orchestra".into(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    }
}

/// The machine's architecture, as Go calls it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}
