//! Three optimistic schedulers over one store, after Omega: each plans on its own copy of the cluster, which is out of date by the
//! time that it commits, and may die at any moment.
//!
//! Whatever happens, at no revision is a node over its allocatable, a gang bound in part, or a pod bound to another node than before;
//! and in the end no pod waits that a node could take.

#![allow(clippy::print_stdout, reason = "a campaign tells how far it is, and what it met")]

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::join_all};
use k8s_openapi::api::core::v1::{Node, Pod};
use orchestra_core::{
    clock::Timestamp,
    rng::Entropy,
    scheduler::{Ask, Commit, Op, Pipeline, Plan, PodId, Scheduler as _, Snapshot, Step, Unit, UnitId},
    store::{Change, Prefix, Store, Watch},
};
use serde_json::{Value, json};
use tokio::{task::yield_now, time::sleep};

use crate::api::fixture::{Cluster, Contended, MERGE_PATCH, PODS};

/// How many clusters are tried, unless this variable says otherwise.
const SEEDS: u64 = 200;
const SEEDS_VARIABLE: &str = "ORCHESTRA_OMEGA_SEEDS";
const SCHEDULERS: usize = 3;
/// After so many turns in a row that found no place on a fresh copy, a scheduler takes it that there is none.
const IDLE_TURNS_MAX: u32 = 4;
/// More turns than any of them needs.
const TURNS_MAX: u32 = 10_000;
const NODES: &str = "/api/v1/nodes";
const STEPS: &str = "/apis/scheduling.orchestra.dev/v1alpha1/plansteps";
const GANG: &str = "gang";

/// What happened in a run.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    committed: u64,
    refused: u64,
    /// Schedulers that died between plan and commit, and while their commit was under way.
    died_before: u64,
    died_during: u64,
    gangs: u64,
    waiting: u64,
}

/// Chance, drawn from one seed.
#[derive(Clone)]
struct Dice(Entropy);

impl Dice {
    fn below(&self, bound: u64) -> u64 {
        self.0.next_u64() % bound
    }

    fn one_in(&self, many: u64) -> bool {
        self.below(many) == 0
    }
}

fn node(name: &str, zone: u64) -> Value {
    json!({ "metadata": { "name": name, "labels": { "zone": format!("z{zone}"), "host": name } } })
}

/// A pod that asks for so many cores; what keeps it from others is drawn by its app.
fn pod(name: &str, cpu: u64, app: u64, gang: Option<u64>) -> Value {
    let mut pod = json!({ "metadata": { "name": name, "labels": { "app": format!("a{app}") } },
        "spec": { "containers": [{ "name": "c", "image": "i", "resources": { "requests": { "cpu": cpu.to_string() } } }] } });
    if let Some(gang) = gang {
        pod["metadata"]["labels"][GANG] = format!("g{gang}").into();
    }
    let alone = |key: &str, app: u64| json!([{ "topologyKey": key, "labelSelector": { "matchLabels": { "app": format!("a{app}") } } }]);
    let required = &mut pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    match app {
        // One in a zone, and one that shares no node with those of app 2, who don't mind.
        0 => *required = alone("zone", 0),
        1 => *required = alone("host", 2),
        _ => drop(pod["spec"].as_object_mut().expect("a spec").remove("affinity")),
    }
    pod
}

/// Fills a cluster: two to four nodes, and pods that wait, some in gangs, of which not all find a place.
async fn fill(cluster: &Cluster, dice: &Dice) {
    for at in 0..2 + dice.below(3) {
        cluster.post(NODES, &node(&format!("n{at}"), at % 2)).await.ok();
        let allocatable = json!({ "cpu": (2 + dice.below(4)).to_string(), "pods": "20" });
        let status = json!({ "status": { "allocatable": allocatable } });
        cluster.patch(&format!("{NODES}/n{at}/status"), MERGE_PATCH, &status).await.ok();
    }
    for unit in 0..4 + dice.below(6) {
        let size = if dice.one_in(3) { 2 + dice.below(3) } else { 1 };
        let app = dice.below(6);
        for member in 0..size {
            let gang = (size > 1).then_some(unit);
            let pod = pod(&format!("p{unit}-{member}"), 1 + dice.below(2), app, gang);
            cluster.post(PODS, &pod).await.ok();
        }
    }
}

/// A copy of the cluster, with the pods by their ids.
struct Copy {
    snapshot: Snapshot,
    pods: Vec<Pod>,
}

async fn copy(cluster: &Cluster) -> Copy {
    let items = |list: Value| list["items"].as_array().cloned().unwrap_or_default();
    let nodes = items(cluster.get(NODES).await.ok());
    let nodes: Vec<Node> = nodes.into_iter().map(|item| serde_json::from_value(item).expect("a node")).collect();
    let pods = items(cluster.get(PODS).await.ok());
    let pods: Vec<Pod> = pods.into_iter().map(|item| serde_json::from_value(item).expect("a pod")).collect();
    Copy { snapshot: Snapshot::of(&nodes, &pods), pods }
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

fn label<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    pod.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// The pods that wait, by gang.
fn units(copy: &Copy) -> Vec<Unit> {
    let mut units: BTreeMap<String, Vec<PodId>> = BTreeMap::new();
    for (id, pod) in (0..).map(PodId).zip(&copy.pods).filter(|(_, pod)| node_of(pod).is_none()) {
        let name = label(pod, GANG).map_or_else(|| pod.metadata.name.clone().unwrap_or_default(), str::to_owned);
        units.entry(name).or_default().push(id);
    }
    let unit = |(at, pods): (u32, Vec<PodId>)| Unit {
        id: UnitId(at),
        pods_min: pods.len(),
        pods,
        priority: 0,
        queue: "default".into(),
        since: Timestamp::UNIX_EPOCH,
    };
    (0..).zip(units.into_values()).map(unit).collect()
}

fn plan(copy: &Copy, pending: &[Unit], seed: u64) -> Plan {
    let ask = Ask {
        now: Timestamp::UNIX_EPOCH,
        seed,
        snapshot: &copy.snapshot,
        pending,
        scope: None,
        steps_max: NonZeroU32::MAX,
    };
    Pipeline::kubernetes_default().plan(&ask)
}

/// The request for a step's places.
fn request(copy: &Copy, step: &Step) -> Option<Value> {
    let operation = |op: &Op| {
        let Op::Place { pod, place } = op else { return None };
        let pod = &copy.pods[pod.0 as usize].metadata;
        let reference = json!({ "namespace": pod.namespace, "name": pod.name, "uid": pod.uid });
        Some(json!({ "type": "Place", "pod": reference, "node": *copy.snapshot.node(place.node).name }))
    };
    let operations: Vec<Value> = step.ops.iter().filter_map(operation).collect();
    let commit = if step.commit == Commit::Whole { "Whole" } else { "Each" };
    (!operations.is_empty()).then(|| json!({ "spec": { "commit": commit, "operations": operations } }))
}

/// Waits for so many turns of the others; `None` if that was sooner over than `work`, which then is dropped where it is.
async fn unless_dead<T>(work: impl Future<Output = T>, turns: u64) -> Option<T> {
    let dying = async {
        for _ in 0..turns {
            yield_now().await;
        }
    };
    tokio::select! {
        biased;
        done = work => Some(done),
        () = dying => None,
    }
}

/// Plans and commits until nothing is left to do; it dies now and then, and the next one knows nothing of it.
async fn schedule(cluster: Cluster, dice: Dice) -> Tally {
    let (mut tally, mut idle, mut kept) = (Tally::default(), 0, None);
    for turn in 0.. {
        assert!(turn < TURNS_MAX, "it comes to no end: {tally:?}");
        if idle == IDLE_TURNS_MAX {
            break;
        }
        let is_fresh = kept.is_none() || !dice.one_in(3);
        if is_fresh {
            kept = Some(copy(&cluster).await);
        }
        let Some(own) = &kept else { continue };
        let mut pending = units(own);
        pending.retain(|_| dice.below(4) > 0);
        let is_all = pending.len() == units(own).len();
        let plan = plan(own, &pending, dice.below(u64::MAX));
        for _ in 0..dice.below(12) {
            yield_now().await;
        }
        if plan.steps.is_empty() {
            idle += u32::from(is_fresh && is_all);
            sleep(Duration::from_millis(1 + dice.below(3))).await;
            continue;
        }
        idle = 0;
        let mut is_dead = dice.one_in(8);
        tally.died_before += u64::from(is_dead);
        for request in plan.steps.iter().filter_map(|step| request(own, step)) {
            if is_dead {
                break;
            }
            let sent = cluster.post(STEPS, &request);
            let turns = if dice.one_in(8) { dice.below(8) } else { u64::MAX };
            match unless_dead(sent, turns).await {
                Some(reply) if reply.code == 201 => tally.committed += 1,
                Some(reply) => {
                    reply.failed(409, "Conflict");
                    tally.refused += 1;
                }
                None => {
                    tally.died_during += 1;
                    is_dead = true;
                }
            }
        }
        if is_dead {
            kept = None;
            sleep(Duration::from_millis(dice.below(3))).await;
        }
    }
    tally
}

/// Who knows nothing of steps: binds pods that ask for nothing, and takes pods away, which makes room.
async fn disturb(cluster: Cluster, dice: Dice) {
    for at in 0..dice.below(8) {
        for _ in 0..dice.below(40) {
            yield_now().await;
        }
        let on = format!("n{}", dice.below(2));
        let name = format!("s{at}");
        cluster.post(PODS, &pod(&name, 0, 9, None)).await.ok();
        // One of the schedulers may have been faster.
        cluster.post(&format!("{PODS}/{name}/binding"), &json!({ "target": { "name": on } })).await;
        if dice.one_in(2) {
            // Whatever it is, and whoever is about to bind it.
            let victim = format!("p{}-0", dice.below(8));
            cluster.delete(&format!("{PODS}/{victim}?gracePeriodSeconds=0")).await;
        }
    }
}

/// Holds each revision against what must never be; in the end, the pods are these.
fn check(mut watch: Watch, last: &[Pod], nodes: &BTreeMap<String, (i64, String)>, what: &str) -> Tally {
    let (mut pods, mut tally) = (BTreeMap::<String, Pod>::new(), Tally::default());
    // What was committed is there to be read.
    while let Some(batch) = watch.next().now_or_never().flatten() {
        let batch = batch.expect("the history is kept");
        let at = batch.revision;
        for change in batch.changes {
            let name = change.key().to_string();
            match change {
                Change::Delete(_) => drop(pods.remove(&name)),
                Change::Put(entry) => {
                    let pod: Pod = serde_json::from_slice(&entry.value).expect("a pod");
                    let old = pods.get(&name).and_then(node_of);
                    assert!(old.is_none() || old == node_of(&pod), "{what}, {at}: {name} was on {old:?}");
                    pods.insert(name, pod);
                }
            }
        }
        hold(&pods, nodes, &format!("{what}, {at}"));
    }
    assert!(pods.values().map(node_of).eq(last.iter().map(node_of)), "{what}: not all of it was seen");
    let bound = pods.values().filter(|pod| node_of(pod).is_some());
    tally.gangs = bound.filter_map(|pod| label(pod, GANG)).collect::<BTreeSet<_>>().len() as u64;
    tally.waiting = pods.values().filter(|pod| node_of(pod).is_none()).count() as u64;
    tally
}

/// No node is over its allocatable, no gang is bound in part, and nobody is where it may not be.
fn hold(pods: &BTreeMap<String, Pod>, nodes: &BTreeMap<String, (i64, String)>, what: &str) {
    let (mut taken, mut gangs) = (BTreeMap::<&str, i64>::new(), BTreeMap::<&str, [u32; 2]>::new());
    let (mut zones, mut apps) = (BTreeMap::<&str, u32>::new(), BTreeSet::new());
    for pod in pods.values() {
        if let Some(gang) = label(pod, GANG) {
            gangs.entry(gang).or_default()[usize::from(node_of(pod).is_some())] += 1;
        }
        let Some(node) = node_of(pod) else { continue };
        let spec = pod.spec.as_ref().expect("a spec");
        let requests = spec.containers[0].resources.as_ref().and_then(|resources| resources.requests.as_ref());
        let cores: i64 = requests.map_or(0, |requests| requests["cpu"].0.parse().expect("whole cores"));
        *taken.entry(node).or_default() += cores;
        match label(pod, "app") {
            Some("a0") => *zones.entry(&nodes[node].1).or_default() += 1,
            Some(app) => drop(apps.insert((app, node))),
            None => {}
        }
    }
    for (node, taken) in taken {
        assert!(taken <= nodes[node].0, "{what}: {taken} cores are taken of {node}'s {}", nodes[node].0);
    }
    for (gang, [waiting, bound]) in gangs {
        assert!(waiting == 0 || bound == 0, "{what}: of {gang}, {waiting} wait and {bound} are bound");
    }
    for (zone, count) in zones {
        assert!(count <= 1, "{what}: {count} in zone {zone} who bear no other");
    }
    for node in nodes.keys() {
        let both = apps.contains(&("a1", node.as_str())) && apps.contains(&("a2", node.as_str()));
        assert!(!both, "{what}: on {node} are those who don't bear one another");
    }
}

async fn run(seed: u64) -> Tally {
    let store: Arc<dyn Store> = Arc::new(Contended::default());
    let (cluster, dice) = (Cluster::over(Arc::clone(&store)), Dice(Entropy::seeded(seed)));
    let start = store.revision().await.expect("a revision");
    let watch = store.watch(&Prefix::new(["core", "pods"]).expect("a prefix"), start).await.expect("a watch");
    fill(&cluster, &dice).await;
    let schedulers = (0..SCHEDULERS).map(|_| schedule(cluster.clone(), Dice(dice.0.fork())));
    let (tallies, ()) = tokio::join!(join_all(schedulers), disturb(cluster.clone(), Dice(dice.0.fork())));
    // Who was first to find nothing to do may have missed what was taken away later.
    let last = schedule(cluster.clone(), Dice(dice.0.fork())).await;

    let left = copy(&cluster).await;
    let capacity = |node: &orchestra_core::scheduler::NodeView| {
        (node.name.to_string(), (node.allocatable.cpu / 1_000, node.labels["zone"].clone()))
    };
    let nodes = left.snapshot.nodes().iter().map(capacity).collect();
    let mut tally = check(watch, &left.pods, &nodes, &format!("seed {seed}"));
    let starved = plan(&left, &units(&left), 0);
    assert!(starved.steps.is_empty(), "seed {seed}: still to be had: {:?}", starved.steps);
    for one in tallies.iter().chain([&last]) {
        tally.committed += one.committed;
        tally.refused += one.refused;
        tally.died_before += one.died_before;
        tally.died_during += one.died_during;
    }
    tally
}

#[test]
fn three_optimistic_schedulers_neither_overcommit_nor_split_nor_starve() {
    let seeds = std::env::var(SEEDS_VARIABLE).map_or(SEEDS, |count| count.parse().expect("a number of seeds"));
    let mut all = Tally::default();
    for seed in 0..seeds {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let one = runtime.expect("a runtime").block_on(run(seed));
        all.committed += one.committed;
        all.refused += one.refused;
        all.died_before += one.died_before;
        all.died_during += one.died_during;
        all.gangs += one.gangs;
        all.waiting += one.waiting;
        if (seed + 1) % 1_000 == 0 {
            println!("{} seeds: {all:?}", seed + 1);
        }
    }
    println!("{seeds} seeds: {all:?}");
    let happened = [all.committed, all.refused, all.died_before, all.died_during, all.gangs, all.waiting];
    assert!(happened.iter().all(|count| *count > 0), "not much of a trial: {all:?}");
}
