//! What the scheduling loop does with pods that wait: SEMANTICS 49.

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::core::v1::{Event, Node, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use orchestra_core::{
    clock::TokioClock,
    control_plane::ControlPlane,
    informer::Informers,
    rng::Entropy,
    scheduler::{Pipeline, SchedulingLoop, Snapshot, Verdict, configuration},
};
use orchestra_store::MemoryStore;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::{network::Network, world};

pub(super) fn run(client: &Client) -> JoinHandle<std::convert::Infallible> {
    let scheduler = Box::new(Pipeline::kubernetes_default());
    let (informers, clock) = (Informers::new(client.clone()), Arc::new(TokioClock::default()));
    tokio::spawn(SchedulingLoop::new(client.clone(), &informers, scheduler, clock, Entropy::seeded(3)).run())
}

pub(super) fn waiting(name: &str, cpu: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "default" },
        "spec": { "containers": [{ "name": "c", "image": "host", "resources": { "requests": { "cpu": cpu } } }] } })
}

pub(super) async fn pod(client: &Client, name: &str) -> Pod {
    Api::<Pod>::default_namespaced(client.clone()).get(name).await.expect("there")
}

pub(super) async fn node_of(client: &Client, name: &str) -> Option<String> {
    pod(client, name).await.spec.and_then(|spec| spec.node_name)
}

async fn patch_pod(client: &Client, name: &str, patch: Value) {
    let pods = Api::<Pod>::default_namespaced(client.clone());
    pods.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.expect("patched");
}

pub(super) async fn seconds(count: u64) {
    tokio::time::sleep(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_a_place_says_why_and_gets_one_when_there_is_one() {
    let client = world::empty();
    let _running = run(&client);
    world::create(&client, world::node("small", "True")).await;
    let mut tainted = world::node("tainted", "True");
    tainted["spec"] = json!({ "taints": [{ "key": "dedicated", "value": "db", "effect": "NoSchedule" }] });
    tainted["status"]["allocatable"]["cpu"] = "16".into();
    world::create(&client, tainted).await;
    world::create(&client, waiting("filler", "3")).await;
    world::create(&client, waiting("p", "2")).await;
    seconds(30).await;
    let message = "0/2 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint {dedicated: db}. \
        preemption: 0/2 nodes are available: 1 No preemption victims found for incoming pod, \
        1 Preemption is not helpful for scheduling.";
    let conditions = pod(&client, "p").await.status.and_then(|status| status.conditions).unwrap_or_default();
    let scheduled = conditions.iter().find(|condition| condition.type_ == "PodScheduled").expect("told");
    assert_eq!((scheduled.status.as_str(), scheduled.reason.as_deref()), ("False", Some("Unschedulable")));
    assert_eq!(scheduled.message.as_deref(), Some(message));
    let failed = failures(&client).await;
    assert_eq!(failed.iter().filter_map(|event| event.message.as_deref()).collect::<Vec<_>>(), [message]);

    world::create(&client, world::node("large", "True")).await;
    seconds(11).await;
    assert_eq!(node_of(&client, "p").await.as_deref(), Some("large"));
}

/// The events that tell of pods without a place.
async fn failures(client: &Client) -> Vec<Event> {
    let events = Api::<Event>::default_namespaced(client.clone()).list(&ListParams::default()).await.expect("listed");
    events.items.into_iter().filter(|event| event.reason.as_deref() == Some("FailedScheduling")).collect()
}

/// What fails again is counted, as `kubectl describe` shows it: `x2 over 5m`.
#[tokio::test(start_paused = true)]
async fn a_pod_that_fails_to_be_placed_again_has_one_event_that_counts() {
    let client = world::empty();
    let _running = run(&client);
    world::create(&client, world::node("n1", "True")).await;
    world::create(&client, waiting("huge", "64")).await;
    seconds(1).await;
    let first = failures(&client).await;
    let written = pod(&client, "huge").await;
    seconds(301).await;
    let again = failures(&client).await;
    assert_eq!((first.len(), again.len()), (1, 1));
    assert_eq!((first[0].count, again[0].count), (Some(1), Some(2)));
    assert!(again[0].last_timestamp > first[0].last_timestamp && again[0].first_timestamp == first[0].first_timestamp);
    assert_eq!(pod(&client, "huge").await.metadata.resource_version, written.metadata.resource_version);
}

/// As in Kubernetes: all that is lacking is told, not only the first.
#[tokio::test(start_paused = true)]
async fn each_resource_that_a_node_lacks_is_named() {
    let client = world::empty();
    let _running = run(&client);
    world::create(&client, world::node("n1", "True")).await;
    let mut huge = waiting("huge", "64");
    huge["spec"]["containers"][0]["resources"]["requests"]["memory"] = "64Gi".into();
    world::create(&client, huge).await;
    seconds(1).await;
    let conditions = pod(&client, "huge").await.status.and_then(|status| status.conditions).unwrap_or_default();
    let message = "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. \
        preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.";
    assert_eq!(conditions[0].message.as_deref(), Some(message));
}

/// SEMANTICS 49: what a pod has to be near of comes, and the pod is placed as soon as it may be tried again.
#[tokio::test(start_paused = true)]
async fn a_pod_that_waits_for_another_is_placed_once_that_is() {
    let client = world::empty();
    let _running = run(&client);
    for name in ["n1", "n2"] {
        let mut node = world::node(name, "True");
        node["metadata"]["labels"] = json!({ "host": name });
        world::create(&client, node).await;
    }
    let mut follower = waiting("follower", "1");
    follower["spec"]["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
        json!([{ "topologyKey": "host", "labelSelector": { "matchLabels": { "app": "leader" } } }]);
    world::create(&client, follower).await;
    seconds(30).await;
    assert_eq!(node_of(&client, "follower").await, None);
    let mut leader = waiting("leader", "1");
    leader["metadata"]["labels"] = json!({ "app": "leader" });
    world::create(&client, leader).await;
    seconds(2).await;
    let place = node_of(&client, "leader").await;
    assert!(place.is_some() && node_of(&client, "follower").await == place);
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_learns_to_tolerate_is_tried_again_at_once() {
    let client = world::empty();
    let _running = run(&client);
    let mut tainted = world::node("tainted", "True");
    tainted["spec"] = json!({ "taints": [{ "key": "dedicated", "effect": "NoSchedule" }] });
    world::create(&client, tainted).await;
    world::create(&client, waiting("p", "1")).await;
    seconds(20).await;
    assert_eq!(node_of(&client, "p").await, None);
    let tolerations = json!([{ "key": "dedicated", "operator": "Exists", "effect": "NoSchedule" }]);
    let mut all = serde_json::to_value(pod(&client, "p").await.spec).expect("encodes")["tolerations"].clone();
    all.as_array_mut().expect("defaulted").extend(tolerations.as_array().expect("a list").clone());
    patch_pod(&client, "p", json!({ "spec": { "tolerations": all } })).await;
    seconds(2).await;
    assert_eq!(node_of(&client, "p").await.as_deref(), Some("tainted"));
}

#[tokio::test(start_paused = true)]
async fn a_gated_pod_waits_until_its_last_gate_is_lifted() {
    let client = world::empty();
    let _running = run(&client);
    world::create(&client, world::node("n1", "True")).await;
    let mut gated = waiting("p", "1");
    gated["spec"]["schedulingGates"] = json!([{ "name": "example.com/quota" }]);
    world::create(&client, gated).await;
    seconds(400).await;
    assert_eq!(node_of(&client, "p").await, None);
    patch_pod(&client, "p", json!({ "spec": { "schedulingGates": null } })).await;
    seconds(1).await;
    assert_eq!(node_of(&client, "p").await.as_deref(), Some("n1"));
}

#[tokio::test(start_paused = true)]
async fn a_pod_that_ends_makes_room_for_the_next() {
    let client = world::empty();
    let _running = run(&client);
    world::create(&client, world::node("n1", "True")).await;
    world::create(&client, waiting("first", "3")).await;
    seconds(1).await;
    world::create(&client, waiting("second", "3")).await;
    seconds(30).await;
    assert_eq!(node_of(&client, "second").await, None);
    let patch = json!({ "status": { "phase": "Succeeded" } });
    let pods = Api::<Pod>::default_namespaced(client.clone());
    pods.patch_status("first", &PatchParams::default(), &Patch::Merge(patch)).await.expect("ended");
    seconds(1).await;
    assert_eq!(node_of(&client, "second").await.as_deref(), Some("n1"));
}

/// Each profile serves the pods that call it by name, on what the others have left.
#[tokio::test(start_paused = true)]
async fn profiles_are_never_in_each_others_way() {
    let client = world::empty();
    world::create(&client, world::node("n1", "True")).await;
    for (name, scheduler) in [("a", "default-scheduler"), ("b", "packer"), ("c", "nobody")] {
        let mut pod = waiting(name, "3");
        pod["spec"]["schedulerName"] = scheduler.into();
        world::create(&client, pod).await;
    }
    let configuration = "
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles:
- schedulerName: packer
  pluginConfig: [{ name: NodeResourcesFit, args: { scoringStrategy: { type: MostAllocated } } }]
";
    let [packer] = &mut configuration::read(configuration).expect("a configuration")[..] else { panic!("one profile") };
    let packer = std::mem::replace(&mut packer.pipeline, Pipeline::new("none"));
    let (informers, clock) = (Informers::new(client.clone()), Arc::new(TokioClock::default()));
    let default = Box::new(Pipeline::kubernetes_default());
    let scheduling = SchedulingLoop::new(client.clone(), &informers, default, clock, Entropy::seeded(3));
    tokio::spawn(scheduling.profile("packer", Box::new(packer)).run());
    seconds(30).await;
    assert_eq!(node_of(&client, "a").await.as_deref(), Some("n1"));
    assert_eq!((node_of(&client, "b").await, node_of(&client, "c").await), (None, None));
    let failed = failures(&client).await;
    let told: Vec<_> = failed.iter().map(|event| (&event.involved_object.name, &event.reporting_component)).collect();
    assert_eq!(told, [(&Some("b".into()), &Some("packer".into()))], "by whom it was looked at, and no other");
    let pods = Api::<Pod>::default_namespaced(client.clone());
    pods.delete("a", &DeleteParams::default().grace_period(0)).await.expect("it was there");
    seconds(30).await;
    assert_eq!(node_of(&client, "b").await.as_deref(), Some("n1"));
}

#[tokio::test(start_paused = true)]
async fn a_binding_that_fails_gives_its_room_back() {
    let (client, network) = (world::empty(), Network::default());
    network.refuse_bindings(3);
    let _running = run(&network.client(&client));
    world::create(&client, world::node("n1", "True")).await;
    world::create(&client, waiting("unlucky", "3")).await;
    seconds(1).await;
    // It takes the room that the other one did not get.
    world::create(&client, waiting("other", "1")).await;
    seconds(30).await;
    assert_eq!(node_of(&client, "unlucky").await.as_deref(), Some("n1"));
    assert_eq!(node_of(&client, "other").await.as_deref(), Some("n1"));
}

#[tokio::test(start_paused = true)]
async fn a_decision_is_explained_on_request_over_a_live_cluster() {
    let client = world::empty();
    for (name, ready) in [("a", "True"), ("b", "True")] {
        world::create(&client, world::node(name, ready)).await;
    }
    let mut cordoned = world::node("c", "True");
    cordoned["spec"] = json!({ "unschedulable": true });
    world::create(&client, cordoned).await;
    world::create(&client, world::pod("running", &json!({}), Some("a"), true)).await;
    world::create(&client, waiting("p", "1")).await;
    let nodes = Api::<Node>::all(client.clone()).list(&ListParams::default()).await.expect("listed").items;
    let pods = world::pods(&client).await;
    let snapshot = Snapshot::of(&nodes, &pods);
    let told = Pipeline::kubernetes_default().explain(&snapshot, snapshot.find_pod("default", "p").expect("there"));
    let totals: Vec<_> = told.iter().map(|each| (&*each.node, each.verdict.total())).collect();
    assert!(matches!(totals[..], [("a", Some(a)), ("b", Some(b)), ("c", None)] if b > a), "{totals:?}");
    let Verdict::RuledOut { filter, reasons } = &told[2].verdict else { panic!("{told:?}") };
    assert_eq!((&**filter, &*reasons[0].text), ("NodeUnschedulable", "node(s) were unschedulable"));
    assert_eq!(told[2].to_string(), "c: node(s) were unschedulable (NodeUnschedulable)");
}

#[tokio::test(start_paused = true)]
async fn controllers_and_scheduler_count_what_they_do() {
    let cluster = ControlPlane::builder(MemoryStore::new()).clock(TokioClock::default()).seed(1).start();
    let client = cluster.client();
    world::create(&client, world::node("n1", "True")).await;
    world::create(&client, world::deployment(2, "host")).await;
    world::create(&client, waiting("huge", "64")).await;
    seconds(5).await;
    let text = cluster.metrics();
    let shown = |text: &str| text.lines().filter(|line| !line.contains("_bucket")).collect::<Vec<_>>().join("\n");
    for line in [
        "workqueue_depth{name=\"deployment\"} 0",
        "scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} 2",
        "scheduler_pending_pods{queue=\"unschedulable\"} 1",
    ] {
        assert!(text.lines().any(|shown| shown == line), "no {line} in\n{}", shown(&text));
    }
    for name in [
        "workqueue_adds_total",
        "workqueue_retries_total",
        "workqueue_queue_duration_seconds_bucket",
        "workqueue_work_duration_seconds_count",
        "scheduler_scheduling_attempt_duration_seconds_sum",
    ] {
        assert!(text.lines().any(|shown| shown.starts_with(&format!("{name}{{"))), "no {name} in\n{}", shown(&text));
    }
}

/// SEMANTICS 47: of two control planes over one store, one acts; when it is gone, the other does.
#[tokio::test(start_paused = true)]
async fn the_second_of_two_control_planes_takes_over() {
    let store = Arc::new(MemoryStore::new());
    let start = |host: &str, seed: u64| {
        ControlPlane::builder(Arc::clone(&store)).clock(TokioClock::default()).seed(seed).elected(host).start()
    };
    let (first, second) = (start("a", 1), start("b", 2));
    let client = second.client();
    seconds(5).await;
    drop(first);
    world::create(&client, world::node("n1", "True")).await;
    world::create(&client, world::deployment(2, "host")).await;
    world::until_pods(&client, "two placed pods", |pods| {
        pods.len() == 2 && pods.iter().all(|pod| pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some()))
    })
    .await;
    let lines = second.metrics();
    assert!(lines.contains("scheduler_schedule_attempts_total{profile=\"default-scheduler\",result=\"scheduled\"} 2"));
}
