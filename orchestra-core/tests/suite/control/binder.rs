//! The scheduling loop on an API server that re-checks what is bound, and on one that doesn't: SEMANTICS 49.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Client, ResourceExt,
    api::{Api, ListParams},
};
use orchestra_core::{
    clock::TokioClock,
    informer::Informers,
    rng::Entropy,
    scheduler::{Ask, Commit, Heard, Metrics, Op, Pipeline, Plan, Scheduler, SchedulingLoop, Step, UnitId},
    server::{ApiServer, UserInfo},
    store::{Prefix, Revision, Store},
};
use orchestra_store::MemoryStore;
use prometheus_client::registry::Registry;
use serde_json::Value;

use super::{
    network::Network,
    scheduling::{node_of, seconds, waiting},
    world,
};

fn scheduling(client: &Client, scheduler: impl Scheduler, seed: u64, metrics: Metrics) -> SchedulingLoop {
    let (informers, clock) = (Informers::new(client.clone()), Arc::new(TokioClock::default()));
    SchedulingLoop::new(client.clone(), &informers, Box::new(scheduler), clock, Entropy::seeded(seed)).metrics(metrics)
}

fn named(name: &str, cpu: &str, scheduler: &str) -> Value {
    let mut pod = waiting(name, cpu);
    pod["spec"]["schedulerName"] = scheduler.into();
    pod
}

fn text(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).expect("a string takes it");
    text
}

/// The requests of the pods on each node, in cores, as of the last revision.
async fn cores(client: &Client) -> std::collections::BTreeMap<String, i64> {
    let mut cores = std::collections::BTreeMap::new();
    for pod in world::pods(client).await {
        let spec = pod.spec.expect("a spec");
        let Some(node) = spec.node_name else { continue };
        let requests =
            spec.containers[0].resources.clone().and_then(|resources| resources.requests).unwrap_or_default();
        *cores.entry(node).or_default() += requests["cpu"].0.parse::<i64>().expect("whole cores");
    }
    cores
}

/// Two loops that know of each other by watches which tell late: without the server's own look they would over-commit.
async fn race(network: &Network) -> std::collections::BTreeMap<String, i64> {
    let client = world::empty();
    for name in ["n1", "n2", "n3"] {
        world::create(&client, world::node(name, "True")).await;
    }
    for (at, scheduler) in (0..12).flat_map(|at| [(at, "first"), (at, "second")]) {
        world::create(&client, named(&format!("{scheduler}-{at}"), "1", scheduler)).await;
    }
    for (seed, name) in [(1, "first"), (2, "second")] {
        let client = network.client(&client);
        let one = scheduling(&client, Pipeline::kubernetes_default(), seed, Metrics::default()).scheduler_name(name);
        tokio::spawn(one.run());
    }
    seconds(120).await;
    cores(&client).await
}

#[tokio::test(start_paused = true)]
async fn two_loops_that_see_each_other_late_fill_the_nodes_and_no_more() {
    let full = race(&Network::lagging(Duration::from_secs(2))).await;
    assert_eq!(full.values().collect::<Vec<_>>(), [&4, &4, &4], "{full:?}");
    // That it takes the server's look: with plain bindings they over-commit.
    let over = race(&Network::foreign().slower(Duration::from_secs(2))).await;
    assert!(over.values().any(|cores| *cores > 4), "{over:?}");
}

#[tokio::test(start_paused = true)]
async fn what_binds_pods_is_counted() {
    for (network, shown) in [
        (Network::default(), "scheduler_bindings_total{request=\"PlanStep\",result=\"bound\"} 2"),
        (Network::foreign(), "scheduler_bindings_total{request=\"Binding\",result=\"bound\"} 2"),
    ] {
        let (client, mut registry) = (world::empty(), Registry::default());
        let metrics = Metrics::registered(&mut registry);
        tokio::spawn(scheduling(&network.client(&client), Pipeline::kubernetes_default(), 1, metrics).run());
        world::create(&client, world::node("n1", "True")).await;
        for name in ["a", "b"] {
            world::create(&client, waiting(name, "1")).await;
        }
        seconds(5).await;
        assert_eq!(node_of(&client, "b").await.as_deref(), Some("n1"));
        let text = text(&registry);
        assert!(text.lines().any(|line| line == shown), "no {shown} in {text}");
    }
}

/// The pods of an application go together: all the units of an ask are one step, on the nodes in turn.
#[derive(Debug, Default)]
struct Together {
    heard: Arc<std::sync::Mutex<Vec<Heard>>>,
}

impl Scheduler for Together {
    fn name(&self) -> &str {
        "together"
    }

    fn plan(&mut self, ask: &Ask<'_>) -> Plan {
        let nodes = ask.snapshot.node_ids().collect::<Vec<_>>().into_iter().cycle();
        let places = ask.pending.iter().flat_map(|unit| &unit.pods).zip(nodes);
        let ops = places.map(|(pod, node)| Op::Place { pod: *pod, place: node.into() }).collect();
        let step = Step { unit: UnitId(0), ops, reads: Vec::new(), commit: Commit::Whole, cost: Duration::ZERO };
        Plan { steps: vec![step], left: Vec::new() }
    }

    fn heard(&mut self, heard: &Heard) {
        self.heard.lock().expect("not poisoned").push(heard.clone());
    }
}

/// A step that is committed whole appears in one revision, or not at all.
#[tokio::test(start_paused = true)]
async fn a_gang_is_bound_in_one_revision() {
    let store = Arc::new(MemoryStore::new());
    let api =
        ApiServer::builder(store.clone()).clock(Arc::new(TokioClock::default())).entropy(Entropy::seeded(1)).build();
    let client = api.client(UserInfo::master("test"));
    let network = Network::slow_to_bind(Duration::from_secs(2));
    for name in ["n1", "n2"] {
        world::create(&client, world::node(name, "True")).await;
    }
    for at in 0..4 {
        world::create(&client, waiting(&format!("p{at}"), "2")).await;
    }
    let scheduler = Together::default();
    let heard = Arc::clone(&scheduler.heard);
    tokio::spawn(scheduling(&network.client(&client), scheduler, 1, Metrics::default()).run());
    // While its step is under way, a stranger takes the room of one of them.
    let mut stranger = named("stranger", "1", "nobody");
    stranger["spec"]["nodeName"] = "n2".into();
    seconds(1).await;
    world::create(&client, stranger).await;
    seconds(10).await;
    assert_eq!(heard.lock().expect("not poisoned").first(), Some(&Heard::Refused(UnitId(0))));
    for at in 0..4 {
        assert_eq!(node_of(&client, &format!("p{at}")).await, None, "none goes alone");
    }
    let pods = Api::<Pod>::default_namespaced(client.clone());
    pods.delete("stranger", &kube::api::DeleteParams::default().grace_period(0)).await.expect("it was there");
    seconds(30).await;
    assert_eq!(heard.lock().expect("not poisoned").last(), Some(&Heard::Committed(UnitId(0))));
    let listed = pods.list(&ListParams::default()).await.expect("listed").items;
    let versions: std::collections::BTreeSet<_> = listed.iter().filter_map(ResourceExt::resource_version).collect();
    assert_eq!((listed.len(), versions.len()), (4, 1), "{versions:?}");
    let revision: u64 = versions.first().and_then(|text| text.parse().ok()).expect("a number");
    let mut watch =
        store.watch(&Prefix::new(["core", "pods"]).expect("a prefix"), Revision(revision - 1)).await.expect("a watch");
    assert_eq!(watch.next().await.expect("a batch").expect("kept").changes.len(), 4);
}
