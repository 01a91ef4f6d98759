//! Affinity between pods and spreading, by the plans of [`FirstFit`].

use std::{collections::BTreeMap, num::NonZeroU32};

use k8s_openapi::api::core::v1::{Node, Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{Ask, FirstFit, Op, PodId, Scheduler as _, Snapshot, Unit, UnitId};
use crate::clock::Timestamp;

/// A node of a zone; of none if that is empty.
fn node(name: &str, zone: &str) -> Node {
    let labels = if zone.is_empty() { json!({}) } else { json!({ "zone": zone }) };
    let object = json!({ "metadata": { "name": name, "labels": labels },
        "status": { "allocatable": { "pods": "100" } } });
    serde_json::from_value(object).expect("a node")
}

/// A pod of an app, on a node or waiting, with these fields of a spec.
fn pod(name: &str, app: &str, node: Option<&str>, spec: &Value) -> Pod {
    let mut object = json!({ "metadata": { "name": name, "namespace": "default", "labels": { "app": app } },
        "spec": { "nodeName": node, "containers": [] } });
    json_patch::merge(&mut object["spec"], spec);
    serde_json::from_value(object).expect("a pod")
}

/// For each pod that waits, the node it gets or what is said against all of them.
fn places(nodes: &[Node], pods: &[Pod]) -> Vec<String> {
    places_in(&Snapshot::of(nodes, pods))
}

fn places_in(snapshot: &Snapshot) -> Vec<String> {
    let waiting = (0..).map(PodId).take(snapshot.pods().len()).filter(|id| snapshot.place_of(*id).is_none());
    let units: Vec<_> = waiting
        .map(|pod| Unit {
            id: UnitId(pod.0),
            pods: vec![pod],
            pods_min: 1,
            priority: 0,
            queue: "default".into(),
            since: Timestamp::UNIX_EPOCH,
        })
        .collect();
    let (now, steps_max) = (Timestamp::UNIX_EPOCH, NonZeroU32::MAX);
    let ask = Ask { now, seed: 0, snapshot, pending: &units, scope: None, steps_max };
    let plan = FirstFit::default().plan(&ask);
    let placed = plan.steps.iter().flat_map(|step| &step.ops).filter_map(|op| match op {
        Op::Place { pod, place } => Some((pod.0, snapshot.node(place.node).name.to_string())),
        _ => None,
    });
    let left = plan.left.iter().map(|left| {
        let reasons =
            left.why.iter().flat_map(|(reasons, count)| reasons.iter().map(move |one| format!("{count} {one}")));
        (left.unit.0, reasons.collect::<Vec<_>>().join(", "))
    });
    placed.chain(left).collect::<BTreeMap<_, _>>().into_values().collect()
}

fn spread(fields: &Value) -> Value {
    let mut constraint = json!({ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": { "matchLabels": { "app": "web" } } });
    json_patch::merge(&mut constraint, fields);
    json!({ "topologySpreadConstraints": [constraint] })
}

fn affinity(which: &str, app: &str, fields: &Value) -> Value {
    let mut term = json!({ "topologyKey": "zone", "labelSelector": { "matchLabels": { "app": app } } });
    json_patch::merge(&mut term, fields);
    json!({ "affinity": { which: { "requiredDuringSchedulingIgnoredDuringExecution": [term] } } })
}

const MISSING: &str = "1 node(s) didn't match pod topology spread constraints (missing required label)";
const SKEWED: &str = "node(s) didn't match pod topology spread constraints";

#[test]
fn pods_that_must_be_spread_are() {
    let nodes = [node("a", "x"), node("b", "x"), node("c", "y"), node("d", "")];
    let waiting = |name: &str, fields: &Value| pod(name, "web", None, &spread(fields));
    let three: Vec<_> = ["1", "2", "3"].map(|name| waiting(name, &json!({}))).into();
    assert_eq!(places(&nodes, &three), ["a", "c", "a"]);
    let running = pod("0", "web", Some("a"), &json!({}));
    assert_eq!(places(&nodes, &[running.clone(), waiting("1", &json!({}))]), ["c"]);
    let mut leaving = running.clone();
    leaving.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).expect("a time");
    assert_eq!(places(&nodes, &[leaving, waiting("1", &json!({}))]), ["a"], "what is on its way out doesn't count");
    let other = pod("0", "db", Some("a"), &json!({}));
    assert_eq!(places(&nodes, &[other, waiting("1", &json!({}))]), ["a"]);
    // The least is that of a zone which the pod can't reach, unless only those it selects are counted, as by default.
    let mut bound = spread(&json!({}));
    bound["nodeSelector"] = json!({ "zone": "x" });
    assert_eq!(places(&nodes, &[running.clone(), pod("1", "web", None, &bound)]), ["a"]);
    bound["topologySpreadConstraints"][0]["nodeAffinityPolicy"] = "Ignore".into();
    let told = places(&nodes, &[running.clone(), pod("1", "web", None, &bound)]);
    assert_eq!(told, [format!("2 node(s) didn't match Pod's node affinity/selector, 2 {SKEWED}")]);
    assert_eq!(
        places(&nodes[..2], &[running.clone(), waiting("1", &json!({ "minDomains": 2 }))]),
        [format!("2 {SKEWED}")]
    );
    assert_eq!(places(&nodes[3..], &[waiting("1", &json!({}))]), [MISSING]);
    assert_eq!(
        places(
            &nodes[..2],
            &[running, waiting("1", &json!({ "whenUnsatisfiable": "ScheduleAnyway", "minDomains": null }))]
        ),
        ["a"]
    );
}

#[test]
fn a_tainted_node_counts_for_the_spread_unless_it_says_otherwise() {
    let mut tainted = node("b", "y");
    tainted.spec =
        serde_json::from_value(json!({ "taints": [{ "key": "k", "effect": "NoSchedule" }] })).expect("a spec");
    let nodes = [node("a", "x"), tainted];
    let running = pod("0", "web", Some("a"), &json!({}));
    let told = places(&nodes, &[running.clone(), pod("1", "web", None, &spread(&json!({})))]);
    assert_eq!(told, [format!("1 {SKEWED}, 1 node(s) had untolerated taint {{k: }}")]);
    let honest = spread(&json!({ "nodeTaintsPolicy": "Honor" }));
    assert_eq!(places(&nodes, &[running, pod("1", "web", None, &honest)]), ["a"]);
}

#[test]
fn a_pod_goes_where_those_are_that_it_has_to_be_near_of() {
    let nodes = [node("a", "x"), node("b", "y"), node("c", "y"), node("d", "")];
    let near_db = affinity("podAffinity", "db", &json!({}));
    let db = pod("db", "db", Some("c"), &json!({}));
    assert_eq!(places(&nodes, &[db.clone(), pod("web", "web", None, &near_db)]), ["b"]);
    let told = places(&nodes, &[pod("web", "web", None, &near_db)]);
    assert_eq!(told, ["4 node(s) didn't match pod affinity rules"]);
    // The first of a group that wants to be together has nobody to be near of.
    let together = affinity("podAffinity", "web", &json!({}));
    let group = [pod("1", "web", None, &together), pod("2", "web", None, &together)];
    assert_eq!(places(&nodes[1..], &group), ["b", "b"]);
    let mut elsewhere = db;
    elsewhere.metadata.namespace = Some("other".into());
    assert_eq!(places(&nodes, &[elsewhere.clone(), pod("web", "web", None, &near_db)]), told);
    for fields in [json!({ "namespaceSelector": {} }), json!({ "namespaces": ["other"] })] {
        let near = affinity("podAffinity", "db", &fields);
        assert_eq!(places(&nodes, &[elsewhere.clone(), pod("web", "web", None, &near)]), ["b"], "{fields}");
    }
}

#[test]
fn pods_keep_away_from_those_they_can_not_bear_and_those_from_them() {
    let nodes = [node("a", "x"), node("b", "x"), node("c", "y")];
    let no_db = affinity("podAntiAffinity", "db", &json!({}));
    let (db, picky) = (pod("db", "db", Some("a"), &json!({})), pod("web", "web", Some("a"), &no_db));
    assert_eq!(places(&nodes, &[db.clone(), pod("web", "web", None, &no_db)]), ["c"]);
    let told = places(&nodes[..2], &[db, pod("web", "web", None, &no_db)]);
    assert_eq!(told, ["2 node(s) didn't match pod anti-affinity rules"]);
    assert_eq!(places(&nodes, &[picky.clone(), pod("db", "db", None, &json!({}))]), ["c"]);
    let told = places(&nodes[..2], &[picky, pod("db", "db", None, &json!({}))]);
    assert_eq!(told, ["2 node(s) didn't satisfy existing pods anti-affinity rules"]);
    // One a zone, also within one plan.
    let alone = affinity("podAntiAffinity", "web", &json!({}));
    let three: Vec<_> = ["1", "2", "3"].map(|name| pod(name, "web", None, &alone)).into();
    assert_eq!(places(&nodes, &three), ["a", "c", "3 node(s) didn't match pod anti-affinity rules"]);
}

/// As a deployment's `matchLabelKeys: [pod-template-hash]`: those of the same rollout only.
#[test]
fn keys_narrow_a_selector_to_pods_like_this_one() {
    let nodes = [node("a", "x"), node("b", "y")];
    let hashed = |name: &str, hash: &str, node: Option<&str>, spec: &Value| {
        let mut pod = pod(name, "web", node, spec);
        pod.metadata.labels.get_or_insert_default().insert("hash".into(), hash.into());
        pod
    };
    let running = hashed("old", "1", Some("a"), &json!({}));
    let keys = spread(&json!({ "matchLabelKeys": ["hash"] }));
    assert_eq!(places(&nodes, &[running.clone(), hashed("new", "2", None, &keys)]), ["a"]);
    assert_eq!(places(&nodes, &[running.clone(), hashed("new", "1", None, &keys)]), ["b"]);
    let other = affinity("podAntiAffinity", "web", &json!({ "mismatchLabelKeys": ["hash"] }));
    assert_eq!(places(&nodes, &[running.clone(), hashed("new", "2", None, &other)]), ["b"]);
    assert_eq!(places(&nodes, &[running, hashed("new", "1", None, &other)]), ["a"]);
}

/// Where the namespaces are not known, nobody is placed as if it had not asked.
#[test]
fn namespaces_are_selected_by_their_labels() {
    let fields = json!({ "namespaceSelector": { "matchLabels": { "team": "a" } } });
    let picky = affinity("podAntiAffinity", "db", &fields);
    let (nodes, pods) = ([node("a", "x")], [pod("web", "web", None, &picky)]);
    let field = "spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].namespaceSelector";
    let told = places(&nodes, &pods);
    assert_eq!(told, [format!("1 node(s) can't be judged by {field}, as the namespaces are not known")]);

    let nodes = [node("a", "x"), node("b", "y")];
    let of_namespace = |namespace: &str, node: &str| {
        let mut pod = pod("db", "db", Some(node), &json!({}));
        pod.metadata.namespace = Some(namespace.into());
        pod
    };
    let pods = [of_namespace("ours", "a"), of_namespace("theirs", "b"), pods[0].clone()];
    let labelled = |name: &str, team: &str| (name.into(), [("team".into(), team.into())].into());
    let place = |teams: [&str; 2]| {
        let known = [labelled("ours", teams[0]), labelled("theirs", teams[1])];
        places_in(&Snapshot::of(&nodes, &pods).with_namespaces(known))
    };
    assert_eq!(place(["a", "b"]), ["b"]);
    assert_eq!(place(["b", "a"]), ["a"]);
    assert_eq!(place(["a", "a"]), ["2 node(s) didn't match pod anti-affinity rules"]);
}

proptest! {
    /// Whoever runs already, no pod is placed beyond the skew that it allows.
    #[test]
    fn no_plan_goes_beyond_the_skew(zones in 1..5_usize, running in proptest::collection::vec(0..5_usize, 0..8), waiting in 0..12_usize, skew in 1..4_usize) {
        let names: Vec<_> = (0..zones).map(|zone| format!("n{zone}")).collect();
        let nodes: Vec<_> = names.iter().map(|name| node(name, name)).collect();
        let on = |zone: usize| names[zone % zones].as_str();
        let mut pods: Vec<_> = running.iter().map(|zone| pod("r", "web", Some(on(*zone)), &json!({}))).collect();
        let mut counts: BTreeMap<&str, usize> = names.iter().map(|name| (name.as_str(), 0)).collect();
        running.iter().for_each(|zone| *counts.entry(on(*zone)).or_default() += 1);
        pods.extend((0..waiting).map(|_| pod("w", "web", None, &spread(&json!({ "maxSkew": skew })))));
        let places = places(&nodes, &pods);
        prop_assert_eq!(places.len(), waiting);
        for place in &places {
            let least = counts.values().copied().min().unwrap_or(0);
            let count = counts.get_mut(place.as_str());
            prop_assert!(count.is_some(), "the least zone always takes one: {}", place);
            let count = count.expect("just looked");
            *count += 1;
            prop_assert!(*count <= least + skew);
        }
    }
}
