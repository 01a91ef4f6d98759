//! Steps of plans: re-checked, committed whole, or refused for what is in the way.

use futures::future::join_all;
use orchestra_core::{server::UserInfo, store::Store as _};
use orchestra_store::MemoryStore;
use serde_json::{Value, json};
use std::sync::Arc;

use super::fixture::{Cluster, MERGE_PATCH, NAMESPACES, PODS};

const STEPS: &str = "/apis/scheduling.orchestra.dev/v1alpha1/plansteps";
const NODES: &str = "/api/v1/nodes";

async fn node(cluster: &Cluster, name: &str, cpu: &str) {
    cluster.post(NODES, &json!({ "metadata": { "name": name, "labels": { "zone": "z" } } })).await.ok();
    let status = json!({ "status": { "allocatable": { "cpu": cpu, "memory": "8Gi", "pods": "110" } } });
    cluster.patch(&format!("{NODES}/{name}/status"), MERGE_PATCH, &status).await.ok();
}

fn wanting(name: &str, cpu: &str) -> Value {
    let resources = json!({ "requests": { "cpu": cpu } });
    json!({ "metadata": { "name": name, "labels": { "app": "a" } },
        "spec": { "containers": [{ "name": "c", "image": "host", "resources": resources }] } })
}

async fn pod(cluster: &Cluster, name: &str, cpu: &str) {
    cluster.post(PODS, &wanting(name, cpu)).await.ok();
}

fn place(name: &str, node: &str) -> Value {
    json!({ "type": "Place", "pod": { "namespace": "default", "name": name }, "node": node })
}

fn step(operations: &[Value]) -> Value {
    json!({ "spec": { "operations": operations } })
}

fn each(operations: &[Value]) -> Value {
    json!({ "spec": { "commit": "Each", "operations": operations } })
}

async fn node_of(cluster: &Cluster, name: &str) -> Value {
    cluster.get(&format!("{PODS}/{name}")).await.ok()["spec"]["nodeName"].clone()
}

/// A step is refused, for this reason, by this object.
fn refused(status: &Value, reason: &str, kind: &str, name: &str, at: usize) {
    let (details, cause) = (&status["details"], &status["details"]["causes"][0]);
    assert_eq!((&details["kind"], &details["name"]), (&json!(kind), &json!(name)), "{status}");
    assert_eq!(cause["reason"], reason, "{status}");
    assert_eq!(cause["field"], format!("spec.operations[{at}]"), "{status}");
}

#[tokio::test(start_paused = true)]
async fn a_step_binds_all_its_pods_in_one_commit() {
    let store = Arc::new(MemoryStore::new());
    let cluster = Cluster::over(store.clone());
    for name in ["n1", "n2"] {
        node(&cluster, name, "2").await;
    }
    for name in ["a", "b", "c"] {
        pod(&cluster, name, "1").await;
    }
    let before = store.revision().await.expect("a revision").0;
    let done = cluster.post(STEPS, &step(&[place("a", "n1"), place("b", "n1"), place("c", "n2")])).await;
    assert_eq!(done.code, 201, "{}", done.text());
    assert_eq!(done.json()["kind"], "PlanStep");
    let version = (before + 1).to_string();
    assert_eq!(done.json()["status"]["resourceVersion"], json!(version));
    let committed = json!({ "committed": true });
    assert_eq!(done.json()["status"]["operations"], json!([committed, committed, committed]));
    assert_eq!(store.revision().await.expect("a revision").0, before + 1);
    for (name, node) in [("a", "n1"), ("b", "n1"), ("c", "n2")] {
        let pod = cluster.get(&format!("{PODS}/{name}")).await.ok();
        assert_eq!((&pod["spec"]["nodeName"], &pod["metadata"]["resourceVersion"]), (&json!(node), &json!(version)));
        assert_eq!(pod["status"]["conditions"][0]["type"], "PodScheduled");
    }
}

#[tokio::test(start_paused = true)]
async fn a_step_that_does_not_fit_binds_nothing_and_names_the_node() {
    let cluster = Cluster::new();
    node(&cluster, "n1", "2").await;
    node(&cluster, "n2", "1").await;
    for name in ["a", "b", "c"] {
        pod(&cluster, name, "1").await;
    }
    let gang = [place("a", "n1"), place("b", "n2"), place("c", "n2")];
    let status = cluster.post(STEPS, &step(&gang)).await.failed(409, "Conflict");
    refused(&status, "Unfit", "nodes", "n2", 2);
    assert!(status["message"].as_str().expect("text").contains("pod default/c on node \"n2\": Insufficient cpu"));
    for name in ["a", "b", "c"] {
        assert_eq!(node_of(&cluster, name).await, Value::Null);
    }
    // Each for itself, those go that can.
    let done = cluster.post(STEPS, &each(&gang)).await.ok();
    let became = &done["status"]["operations"];
    assert_eq!([&became[0]["committed"], &became[1]["committed"]], [&json!(true); 2]);
    assert_eq!((&became[2]["committed"], &became[2]["reason"]), (&json!(false), &json!("Unfit")));
    assert_eq!((node_of(&cluster, "b").await, node_of(&cluster, "c").await), (json!("n2"), Value::Null));
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_pod_is_told() {
    let cluster = Cluster::new();
    node(&cluster, "n1", "8").await;
    for name in ["bound", "gated", "other"] {
        let mut pod = wanting(name, "1");
        if name == "gated" {
            pod["spec"]["schedulingGates"] = json!([{ "name": "example.com/gate" }]);
        }
        cluster.post(PODS, &pod).await.ok();
    }
    cluster.post(&format!("{PODS}/bound/binding"), &json!({ "target": { "name": "n1" } })).await.ok();
    let mut stale = place("other", "n1");
    stale["pod"]["resourceVersion"] = "1".into();
    let mut another = place("other", "n1");
    another["pod"]["uid"] = "1-2".into();
    for (operation, reason, name) in [
        (place("none", "n1"), "PodGone", "none"),
        (place("bound", "n1"), "PodBound", "bound"),
        (place("gated", "n1"), "PodHeld", "gated"),
        (stale, "PodChanged", "other"),
        (another, "PodGone", "other"),
    ] {
        let status = cluster.post(STEPS, &step(&[operation])).await.failed(409, "Conflict");
        refused(&status, reason, "pods", name, 0);
    }
    let status = cluster.post(STEPS, &step(&[place("other", "none")])).await.failed(409, "Conflict");
    refused(&status, "NodeGone", "nodes", "none", 0);
}

/// What a node, or a pod, requires is no less than room.
#[tokio::test(start_paused = true)]
async fn constraints_are_checked_as_room_is() {
    let cluster = Cluster::new();
    for name in ["cordoned", "tainted", "plain", "far"] {
        node(&cluster, name, "8").await;
    }
    let patch = |name: &str| format!("{NODES}/{name}");
    cluster.patch(&patch("cordoned"), MERGE_PATCH, &json!({ "spec": { "unschedulable": true } })).await.ok();
    let taints = json!({ "spec": { "taints": [{ "key": "k", "value": "v", "effect": "NoSchedule" }] } });
    cluster.patch(&patch("tainted"), MERGE_PATCH, &taints).await.ok();
    cluster.patch(&patch("far"), MERGE_PATCH, &json!({ "metadata": { "labels": { "zone": "y" } } })).await.ok();
    let mut lone = wanting("lone", "1");
    lone["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
        json!([{ "topologyKey": "zone", "labelSelector": { "matchLabels": { "app": "a" } } }]);
    cluster.post(PODS, &lone).await.ok();
    let mut choosy = wanting("choosy", "1");
    choosy["spec"]["nodeSelector"] = json!({ "zone": "y" });
    cluster.post(PODS, &choosy).await.ok();
    pod(&cluster, "p", "1").await;
    let words = |reply: super::fixture::Reply, words: &str| reply.failed_with(409, "Conflict", words);
    words(cluster.post(STEPS, &step(&[place("p", "cordoned")])).await, "node(s) were unschedulable");
    words(cluster.post(STEPS, &step(&[place("p", "tainted")])).await, "had untolerated taint {k: v}");
    words(cluster.post(STEPS, &step(&[place("choosy", "plain")])).await, "node affinity/selector");
    cluster.post(STEPS, &step(&[place("lone", "plain")])).await.ok();
    // Another node, but of the zone of one that bears no other.
    words(cluster.post(STEPS, &step(&[place("p", "plain")])).await, "existing pods anti-affinity rules");
    cluster.post(STEPS, &step(&[place("p", "far")])).await.ok();
}

/// Write skew: each sees room for itself, and there is room for one.
#[tokio::test(start_paused = true)]
async fn of_many_steps_for_the_last_room_one_gets_it() {
    let cluster = Cluster::contended();
    node(&cluster, "n1", "3").await;
    let names: Vec<String> = (0..20).map(|at| format!("p{at}")).collect();
    for name in &names {
        pod(&cluster, name, "1").await;
    }
    let replies = join_all(names.iter().map(|name| {
        let (cluster, body) = (cluster.clone(), step(&[place(name, "n1")]));
        async move { cluster.post(STEPS, &body).await }
    }))
    .await;
    let (done, refusals): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.code == 201);
    assert_eq!(done.len(), 3);
    refusals.iter().for_each(|reply| reply.failed_with(409, "Conflict", "Insufficient cpu"));
    let metrics = cluster.get("/metrics").await.text();
    let shown = |line: &str| metrics.lines().any(|shown| shown == line);
    assert!(shown("apiserver_plan_step_operations_total{operation=\"Place\",result=\"Committed\"} 3"), "{metrics}");
    assert!(shown("apiserver_plan_step_operations_total{operation=\"Place\",result=\"Unfit\"} 17"), "{metrics}");
    assert!(!shown("apiserver_plan_step_retries_total 0"), "nobody was in anybody's way: {metrics}");
}

/// Write skew over several nodes: each sees a zone without the others, and they bear no other in it.
#[tokio::test(start_paused = true)]
async fn of_many_steps_for_one_zone_one_gets_it() {
    let cluster = Cluster::contended();
    let names: Vec<String> = (0..8).map(|at| format!("p{at}")).collect();
    for name in &names {
        node(&cluster, name, "2").await;
        let mut lone = wanting(name, "1");
        lone["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
            json!([{ "topologyKey": "zone", "labelSelector": { "matchLabels": { "app": "a" } } }]);
        cluster.post(PODS, &lone).await.ok();
    }
    let replies = join_all(names.iter().map(|name| {
        let (cluster, body) = (cluster.clone(), step(&[place(name, name)]));
        async move { cluster.post(STEPS, &body).await }
    }))
    .await;
    let (done, refusals): (Vec<_>, Vec<_>) = replies.iter().partition(|reply| reply.code == 201);
    assert_eq!(done.len(), 1);
    refusals.iter().for_each(|reply| reply.failed_with(409, "Conflict", "pod anti-affinity rules"));
}

/// A stranger binds as Kubernetes has it, to a full node, too; but no step counts on the room that it has taken.
#[tokio::test(start_paused = true)]
async fn a_plain_binding_in_between_is_never_overlooked() {
    for round in 0..40 {
        let cluster = Cluster::contended();
        node(&cluster, "n1", "1").await;
        pod(&cluster, "ours", "1").await;
        pod(&cluster, "theirs", "1").await;
        let ours = async {
            for _ in 0..round % 8 {
                tokio::task::yield_now().await;
            }
            cluster.post(STEPS, &step(&[place("ours", "n1")])).await
        };
        let theirs = async {
            for _ in 0..round / 8 {
                tokio::task::yield_now().await;
            }
            let body = json!({ "target": { "name": "n1" } });
            match round % 2 {
                0 => cluster.post(&format!("{PODS}/theirs/binding"), &body).await.ok(),
                // Or makes a pod that has its node from the first.
                _ => {
                    let mut direct = wanting("direct", "1");
                    direct["spec"]["nodeName"] = "n1".into();
                    cluster.post(PODS, &direct).await.ok()
                }
            }
        };
        let (ours, theirs) = tokio::join!(ours, theirs);
        let name = if round % 2 == 0 { "theirs" } else { "direct" };
        let version = |pod: &Value| super::fixture::version(pod);
        let bound = cluster.get(&format!("{PODS}/{name}")).await.ok();
        assert!(theirs["code"] == 201 || theirs["kind"] == "Pod");
        if ours.code == 201 {
            let own = cluster.get(&format!("{PODS}/ours")).await.ok();
            assert!(version(&own) < version(&bound), "round {round}: committed onto a full node");
        } else {
            ours.failed_with(409, "Conflict", "Insufficient cpu");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_shrinks_or_goes_in_between_is_not_counted_on() {
    for round in 0..32 {
        let cluster = Cluster::contended();
        node(&cluster, "n1", "1").await;
        pod(&cluster, "p", "1").await;
        let step = async {
            for _ in 0..round / 2 % 8 {
                tokio::task::yield_now().await;
            }
            cluster.post(STEPS, &step(&[place("p", "n1")])).await
        };
        let change = async {
            let less = json!({ "status": { "allocatable": { "cpu": "500m" } } });
            match round % 2 {
                0 => cluster.patch(&format!("{NODES}/n1/status"), MERGE_PATCH, &less).await.ok(),
                _ => cluster.delete(&format!("{NODES}/n1")).await.ok(),
            }
        };
        let (reply, _) = tokio::join!(step, change);
        let later = cluster.get(&format!("{NODES}/n1")).await;
        match (reply.code, round % 2) {
            // It was first.
            (201, 0) => {
                let pod = cluster.get(&format!("{PODS}/p")).await.ok();
                assert!(super::fixture::version(&pod) < super::fixture::version(&later.ok()), "round {round}");
            }
            (201, _) => {}
            (409, 0) => reply.failed_with(409, "Conflict", "Insufficient cpu"),
            _ => reply.failed_with(409, "Conflict", "node \"n1\" not found"),
        }
    }
}

/// The coarse way of telling a conflict: whatever has changed on the node, though there is room.
#[tokio::test(start_paused = true)]
async fn a_step_may_rest_on_the_version_of_a_node() {
    let cluster = Cluster::new();
    node(&cluster, "n1", "8").await;
    for name in ["a", "b", "c"] {
        pod(&cluster, name, "1").await;
    }
    let read = cluster.now().await.to_string();
    let on_version = |operation: Value, version: &str| {
        json!({ "spec": { "detect": "Version", "operations": [operation],
            "reads": [{ "node": "n1", "resourceVersion": version }] } })
    };
    // A heartbeat is no change.
    let beat = json!({ "status": { "conditions": [{ "type": "Ready", "status": "True" }] } });
    cluster.patch(&format!("{NODES}/n1/status"), MERGE_PATCH, &beat).await.ok();
    cluster.post(STEPS, &on_version(place("a", "n1"), &read)).await.ok();
    let status = cluster.post(STEPS, &on_version(place("b", "n1"), &read)).await.failed(409, "Conflict");
    refused(&status, "NodeChanged", "nodes", "n1", 0);
    let read = cluster.now().await.to_string();
    cluster.post(STEPS, &on_version(place("b", "n1"), &read)).await.ok();
    // Who rests on none is refused only for want of room.
    cluster.post(STEPS, &step(&[place("c", "n1")])).await.ok();
}

#[tokio::test(start_paused = true)]
async fn a_step_nominates_and_evicts_in_the_same_commit() {
    let store = Arc::new(MemoryStore::new());
    let cluster = Cluster::over(store.clone());
    node(&cluster, "n1", "1").await;
    for name in ["victim", "hasty", "critical"] {
        let mut pod = wanting(name, "1");
        if name == "hasty" {
            pod["spec"]["terminationGracePeriodSeconds"] = 0.into();
        }
        cluster.post(PODS, &pod).await.ok();
    }
    let nominate = json!({ "type": "Nominate", "pod": { "namespace": "default", "name": "critical" }, "node": "n1" });
    let evict = |name: &str| json!({ "type": "Evict", "pod": { "namespace": "default", "name": name }, "message": "for critical" });
    cluster.post(STEPS, &step(&[place("victim", "n1")])).await.ok();
    let before = store.revision().await.expect("a revision").0;
    cluster.post(STEPS, &step(&[nominate, evict("victim")])).await.ok();
    assert_eq!(store.revision().await.expect("a revision").0, before + 1);
    let victim = cluster.get(&format!("{PODS}/victim")).await.ok();
    assert!(victim["metadata"]["deletionTimestamp"].is_string(), "{victim}");
    let target = &victim["status"]["conditions"][1];
    assert_eq!((&target["type"], &target["message"]), (&json!("DisruptionTarget"), &json!("for critical")));
    let critical = cluster.get(&format!("{PODS}/critical")).await.ok();
    assert_eq!(critical["status"]["nominatedNodeName"], "n1");
    // It is in its grace, and takes its room until it has gone.
    let both = [evict("victim"), place("critical", "n1")];
    cluster.post(STEPS, &step(&both)).await.failed_with(409, "Conflict", "Insufficient cpu");
    cluster.delete(&format!("{PODS}/victim?gracePeriodSeconds=0")).await.ok();
    // One without grace goes at once, and its room is another's in the same commit.
    cluster.post(STEPS, &step(&[place("hasty", "n1")])).await.ok();
    cluster.post(STEPS, &step(&[evict("hasty"), place("critical", "n1")])).await.ok();
    assert_eq!(node_of(&cluster, "critical").await, "n1");
    cluster.get(&format!("{PODS}/hasty")).await.failed(404, "NotFound");
}

#[tokio::test(start_paused = true)]
async fn a_malformed_step_is_refused_by_the_names_of_its_fields() {
    let cluster = Cluster::new();
    for (body, words) in [
        (json!({}), "spec.operations: Required value"),
        (step(&[json!({ "type": "Move" })]), "spec.operations[0].type: Unsupported value: \"Move\""),
        (step(&[place("", "n")]), "spec.operations[0].pod.name: Required value"),
        (step(&[place("a", "")]), "spec.operations[0].node: Required value"),
        (step(&[place("a", "n"), place("a", "m")]), "spec.operations[1].pod: Duplicate value: \"default/a\""),
        (json!({ "spec": { "commit": "Some", "operations": [place("a", "n")] } }), "spec.commit: Unsupported value"),
        (
            json!({ "spec": { "operations": [place("a", "n")], "reads": [{ "node": "n", "resourceVersion": "x" }] } }),
            "spec.reads[0].resourceVersion: Invalid value: \"x\"",
        ),
    ] {
        cluster.post(STEPS, &body).await.failed_with(422, "Invalid", words);
    }
    cluster.post(STEPS, &json!({ "spec": { "operations": 1 } })).await.failed(400, "BadRequest");
}

#[tokio::test(start_paused = true)]
async fn a_step_too_large_for_one_commit_is_refused_as_that() {
    let cluster = Cluster::new();
    node(&cluster, "n1", "500").await;
    let status = json!({ "status": { "allocatable": { "pods": "500" } } });
    cluster.patch(&format!("{NODES}/n1/status"), MERGE_PATCH, &status).await.ok();
    let names: Vec<String> = (0..126).map(|at| format!("p{at}")).collect();
    for name in &names {
        pod(&cluster, name, "1").await;
    }
    let places: Vec<Value> = names.iter().map(|name| place(name, "n1")).collect();
    let words = "spec.operations: Too many: 127: one transaction writes at most 126 keys";
    cluster.post(STEPS, &step(&places)).await.failed_with(422, "Invalid", words);
    cluster.post(STEPS, &step(&places[1..])).await.ok();
    assert_eq!((node_of(&cluster, "p0").await, node_of(&cluster, "p125").await), (Value::Null, json!("n1")));
}

#[tokio::test(start_paused = true)]
async fn a_dry_run_is_judged_and_not_committed() {
    let cluster = Cluster::new();
    node(&cluster, "n1", "1").await;
    pod(&cluster, "a", "1").await;
    pod(&cluster, "b", "2").await;
    let dry = format!("{STEPS}?dryRun=All");
    let done = cluster.post(&dry, &step(&[place("a", "n1")])).await.ok();
    assert_eq!(
        (&done["status"]["operations"][0]["committed"], node_of(&cluster, "a").await),
        (&json!(true), Value::Null)
    );
    cluster.post(&dry, &step(&[place("b", "n1")])).await.failed_with(409, "Conflict", "Insufficient cpu");
}

/// A step gives nobody what they may not do one by one.
#[tokio::test(start_paused = true)]
async fn the_scheduler_may_commit_steps_and_others_may_not() {
    let cluster = Cluster::new();
    node(&cluster, "n1", "1").await;
    pod(&cluster, "a", "1").await;
    let by = |name: &str| cluster.by(Some(UserInfo { name: name.into(), ..UserInfo::default() }));
    let body = step(&[place("a", "n1")]);
    by("system:kube-proxy").post(STEPS, &body).await.failed(403, "Forbidden");
    by("system:kube-scheduler").post(STEPS, &body).await.ok();
    assert_eq!(node_of(&cluster, "a").await, "n1");
}

#[tokio::test(start_paused = true)]
async fn steps_are_told_of_and_not_kept() {
    let cluster = Cluster::new();
    let list = cluster.get("/apis/scheduling.orchestra.dev/v1alpha1").await.ok();
    let row = &list["resources"][0];
    assert_eq!((&row["name"], &row["kind"]), (&json!("plansteps"), &json!("PlanStep")));
    assert_eq!((&row["namespaced"], &row["verbs"]), (&json!(false), &json!(["create"])));
    cluster.get(STEPS).await.failed(405, "MethodNotAllowed");
    let described = cluster.get("/openapi/v3/apis/scheduling.orchestra.dev/v1alpha1").await.ok();
    let schemas = &described["components"]["schemas"];
    let spec = &schemas["dev.orchestra.scheduling.v1alpha1.PlanStepSpec"];
    assert_eq!(spec["properties"]["operations"]["type"], "array", "{spec}");
    assert!(described["paths"][STEPS]["post"].is_object());
}

/// A node's guard goes with it, and one that nobody can use is not made.
#[tokio::test(start_paused = true)]
async fn guards_are_of_nodes_that_are_there() {
    let store = Arc::new(MemoryStore::new());
    let cluster = Cluster::over(store.clone());
    cluster.post(NAMESPACES, &json!({ "metadata": { "name": "space" } })).await.ok();
    node(&cluster, "n1", "4").await;
    for name in ["a", "b"] {
        pod(&cluster, name, "1").await;
    }
    for (name, node) in [("a", "n1"), ("b", "nowhere")] {
        cluster.post(&format!("{PODS}/{name}/binding"), &json!({ "target": { "name": node } })).await.ok();
    }
    let guards = || async {
        let prefix = orchestra_core::store::Prefix::new(["scheduling.orchestra.dev", "guards"]).expect("a prefix");
        let entries = store.list(&prefix).await.expect("listed").entries;
        entries.iter().map(|entry| entry.key.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(guards().await, ["/scheduling.orchestra.dev/guards/n1"]);
    cluster.delete(&format!("{NODES}/n1")).await.ok();
    assert_eq!(guards().await, [""; 0]);
}
