//! Preferred affinity between pods and preferred spreading, by the points that nodes get.

use k8s_openapi::api::core::v1::{Node, Pod};
use serde_json::{Value, json};

use super::{NodeId, PodId, PreferredPodAffinity, PreferredSpread, RelationScore, Snapshot, Trial};

fn node(name: &str, labels: &Value) -> Node {
    serde_json::from_value(json!({ "metadata": { "name": name, "labels": labels } })).expect("a node")
}

/// A pod with one label, on a node or waiting.
fn pod(label: (&str, &str), node: Option<&str>, spec: &Value) -> Pod {
    let (key, value) = label;
    let mut object = json!({ "metadata": { "name": "p", "namespace": "default", "labels": { key: value } },
        "spec": { "nodeName": node, "containers": [] } });
    json_patch::merge(&mut object["spec"], spec);
    serde_json::from_value(object).expect("a pod")
}

/// What a score gives each node for the last of the pods.
fn points(score: &dyn RelationScore, nodes: &[Node], pods: &[Pod]) -> Vec<i64> {
    let snapshot = Snapshot::of(nodes, pods);
    let (trial, pod) = (Trial::new(&snapshot), PodId(u32::try_from(pods.len()).expect("few") - 1));
    assert!(score.concerns(pod, &trial));
    let all: Vec<NodeId> = snapshot.node_ids().collect();
    score.points(pod, &trial, &all)
}

fn regions() -> [Node; 3] {
    [
        node("machine1", &json!({ "region": "China" })),
        node("machine2", &json!({ "region": "India" })),
        node("machine3", &json!({ "az": "az1" })),
    ]
}

fn term(value: &str) -> Value {
    json!({ "labelSelector": { "matchLabels": { "security": value } }, "topologyKey": "region" })
}

fn preferred(kind: &str, weight: i64, value: &str) -> Value {
    let weighted = json!([{ "weight": weight, "podAffinityTerm": term(value) }]);
    json!({ "affinity": { kind: { "preferredDuringSchedulingIgnoredDuringExecution": weighted } } })
}

const FIRST: (&str, &str) = ("security", "S1");
const SECOND: (&str, &str) = ("security", "S2");

/// As upstream's `TestPreferredAffinity`: the pod goes where its peers are, or away from them.
#[test]
fn a_pod_is_drawn_to_whom_it_likes_and_away_from_whom_it_does_not() {
    let none = json!({});
    let running = [pod(FIRST, Some("machine1"), &none), pod(SECOND, Some("machine2"), &none)];
    let with = |waiting: Pod| [running[0].clone(), running[1].clone(), waiting];
    let near = pod(FIRST, None, &preferred("podAffinity", 5, "S1"));
    assert_eq!(points(&PreferredPodAffinity::default(), &regions(), &with(near)), [100, 0, 0]);
    let far = pod(FIRST, None, &preferred("podAntiAffinity", 5, "S1"));
    assert_eq!(points(&PreferredPodAffinity::default(), &regions(), &with(far)), [0, 100, 100]);
}

#[test]
fn a_pod_is_drawn_to_who_likes_it_and_to_who_has_to_be_near_it() {
    let waiting = || pod(FIRST, None, &json!({}));
    let likes = |weight| preferred("podAffinity", weight, "S1");
    let running = [pod(SECOND, Some("machine1"), &likes(3)), pod(SECOND, Some("machine2"), &likes(6)), waiting()];
    assert_eq!(points(&PreferredPodAffinity::default(), &regions(), &running), [50, 100, 0]);
    let required = json!({ "affinity": { "podAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": [term("S1")] } } });
    let running = [pod(SECOND, Some("machine1"), &required), waiting()];
    assert_eq!(points(&PreferredPodAffinity::default(), &regions(), &running), [100, 0, 0]);
    let dislikes = preferred("podAntiAffinity", 3, "S1");
    let running = [pod(SECOND, Some("machine1"), &dislikes), waiting()];
    assert_eq!(points(&PreferredPodAffinity::default(), &regions(), &running), [0, 100, 100]);
}

fn spread(keys: &[&str]) -> Value {
    let constraint = |key: &&str| {
        json!({ "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": { "matchLabels": { "security": "S1" } } })
    };
    json!({ "topologySpreadConstraints": keys.iter().map(constraint).collect::<Vec<_>>() })
}

/// The formula by hand: of four hosts each peer counts ln 6, so 2, 1, 0 and 3 peers are 4, 2, 0 and 5 after rounding.
#[test]
fn fewer_peers_are_better() {
    let host = |name: &str| node(name, &json!({ "kubernetes.io/hostname": name }));
    let nodes = ["a", "b", "c", "d"].map(host);
    let mut pods: Vec<Pod> =
        ["a", "a", "b", "d", "d", "d"].map(|on| pod(FIRST, Some(on), &json!({}))).into_iter().collect();
    pods.push(pod(SECOND, Some("c"), &json!({})));
    pods.push(pod(FIRST, None, &spread(&["kubernetes.io/hostname"])));
    assert_eq!(points(&PreferredSpread, &nodes, &pods), [20, 60, 100, 0]);
}

#[test]
fn a_node_without_the_label_gets_nothing_and_an_empty_cluster_all() {
    let nodes = [node("a", &json!({ "zone": "x" })), node("b", &json!({ "zone": "y" })), node("c", &json!({}))];
    let waiting = || pod(FIRST, None, &spread(&["zone"]));
    assert_eq!(points(&PreferredSpread, &nodes, &[waiting()]), [100, 100, 0]);
    // Those on a node without the label are not counted.
    let running = [pod(FIRST, Some("a"), &json!({})), pod(FIRST, Some("c"), &json!({})), waiting()];
    assert_eq!(points(&PreferredSpread, &nodes, &running), [0, 100, 0]);
}
