//! Pods that start together or not at all: SEMANTICS 49 for groups (KEP-4671).

use k8s_openapi::api::{core::v1::Pod, scheduling::v1beta1::PodGroup};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use super::{
    network::Network,
    scheduling::{node_of, pod, run, seconds, waiting},
    world,
};

fn group(name: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "scheduling.k8s.io/v1beta1", "kind": "PodGroup",
        "metadata": { "name": name, "namespace": "default" }, "spec": spec })
}

fn gang(name: &str, min_count: usize) -> Value {
    group(name, &json!({ "schedulingPolicy": { "gang": { "minCount": min_count } } }))
}

/// Pods `GROUP-0` and on, of one core each.
async fn members(client: &Client, group: &str, numbers: std::ops::Range<usize>) {
    for number in numbers {
        let mut pod = waiting(&format!("{group}-{number}"), "1");
        pod["spec"]["schedulingGroup"] = json!({ "podGroupName": group });
        world::create(client, pod).await;
    }
}

fn pods(client: &Client) -> Api<Pod> {
    Api::default_namespaced(client.clone())
}

/// The nodes of a group's pods that have one.
async fn nodes_of(client: &Client, group: &str) -> Vec<String> {
    let all = pods(client).list(&ListParams::default()).await.expect("a list");
    let of_group = |pod: &Pod| pod.metadata.name.as_ref().is_some_and(|name| name.starts_with(&format!("{group}-")));
    all.into_iter().filter(of_group).filter_map(|pod| pod.spec?.node_name).collect()
}

async fn told(client: &Client, name: &str) -> String {
    let conditions = pod(client, name).await.status.and_then(|status| status.conditions).unwrap_or_default();
    let scheduled = conditions.into_iter().find(|condition| condition.type_ == "PodScheduled");
    scheduled.and_then(|condition| condition.message).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_gang_waits_for_its_group_and_for_enough_of_its_pods() {
    let client = world::empty();
    let _running = run(&client);
    world::create(&client, world::node("n1", "True")).await;
    members(&client, "job", 0..2).await;
    seconds(1).await;
    assert_eq!(told(&client, "job-0").await, "waiting for pod group \"job\" to be created");
    world::create(&client, gang("job", 3)).await;
    seconds(11).await;
    assert_eq!(told(&client, "job-1").await, "waiting for pod group \"job\": 2 of 3 pods are there");
    assert_eq!(nodes_of(&client, "job").await.len(), 0);
    members(&client, "job", 2..3).await;
    seconds(11).await;
    assert_eq!(nodes_of(&client, "job").await.len(), 3);
    // Whoever comes later may start by itself.
    members(&client, "job", 3..4).await;
    seconds(1).await;
    assert_eq!(nodes_of(&client, "job").await.len(), 4);
}

/// Pod by pod each would hold a part of the room, and none would ever start.
#[tokio::test(start_paused = true)]
async fn of_two_gangs_that_dont_fit_together_one_starts_whole() {
    let client = world::empty();
    let _running = run(&client);
    for name in ["red", "blue"] {
        world::create(&client, gang(name, 3)).await;
    }
    for number in 0..3 {
        for name in ["red", "blue"] {
            members(&client, name, number..number + 1).await;
        }
    }
    world::create(&client, world::node("n1", "True")).await;
    seconds(30).await;
    let counts = [nodes_of(&client, "red").await.len(), nodes_of(&client, "blue").await.len()];
    assert!(counts == [3, 0] || counts == [0, 3], "{counts:?} pods have a place, of room for four");
    let winner = if counts[0] == 3 { "red" } else { "blue" };
    for number in 0..3 {
        let name = format!("{winner}-{number}");
        pods(&client).delete(&name, &DeleteParams::default().grace_period(0)).await.expect("it was there");
    }
    seconds(30).await;
    let other = if winner == "red" { "blue" } else { "red" };
    assert_eq!(nodes_of(&client, other).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_gang_may_start_with_fewer_than_all() {
    let client = world::empty();
    let _running = run(&client);
    world::create(&client, gang("job", 3)).await;
    members(&client, "job", 0..6).await;
    world::create(&client, world::node("n1", "True")).await;
    seconds(11).await;
    assert_eq!(nodes_of(&client, "job").await.len(), 4, "as many as there is room for");
}

/// One domain of the topology takes it whole, or none does; what comes later goes to the same.
#[tokio::test(start_paused = true)]
async fn a_gang_is_confined_to_one_domain_of_its_topology() {
    let client = world::empty();
    let _running = run(&client);
    let constraints = json!({ "topology": [{ "key": "zone" }] });
    let policy = json!({ "gang": { "minCount": 5 } });
    let spec = json!({ "schedulingPolicy": policy, "schedulingConstraints": constraints });
    world::create(&client, group("job", &spec)).await;
    let node = |name: &str, zone: &str| {
        let mut node = world::node(name, "True");
        node["metadata"]["labels"] = json!({ "zone": zone });
        node
    };
    for (name, zone) in [("a1", "a"), ("b1", "b"), ("c1", "c")] {
        world::create(&client, node(name, zone)).await;
    }
    members(&client, "job", 0..5).await;
    seconds(11).await;
    assert_eq!(nodes_of(&client, "job").await.len(), 0, "there is room for five, but not in one zone");
    world::create(&client, node("b2", "b")).await;
    seconds(11).await;
    let nodes = nodes_of(&client, "job").await;
    assert!(nodes.len() == 5 && nodes.iter().all(|node| node.starts_with('b')), "{nodes:?}");
    members(&client, "job", 5..9).await;
    seconds(30).await;
    let nodes = nodes_of(&client, "job").await;
    assert!(nodes.len() == 8 && nodes.iter().all(|node| node.starts_with('b')), "{nodes:?}");
}

/// The pods of a group without a gang are placed one by one, as all pods are by an API that knows no groups.
#[tokio::test(start_paused = true)]
async fn pods_of_no_gang_start_one_by_one() {
    let client = world::empty();
    let _running = run(&client);
    world::create(&client, group("loose", &json!({ "schedulingPolicy": { "basic": {} } }))).await;
    members(&client, "loose", 0..2).await;
    world::create(&client, world::node("n1", "True")).await;
    seconds(11).await;
    assert_eq!(nodes_of(&client, "loose").await.len(), 2);

    let plain = world::empty();
    let network = Network::without("/apis/scheduling.k8s.io/v1beta1");
    let _running = run(&network.client(&plain));
    world::create(&plain, gang("job", 3)).await;
    members(&plain, "job", 0..1).await;
    world::create(&plain, world::node("n1", "True")).await;
    seconds(11).await;
    assert_eq!(node_of(&plain, "job-0").await.as_deref(), Some("n1"));
}

/// SEMANTICS 26: what can't be meant is refused, by the name of its field.
#[tokio::test(start_paused = true)]
async fn a_group_that_makes_no_sense_is_refused() {
    let client = world::empty();
    let groups = Api::<PodGroup>::default_namespaced(client.clone());
    for (spec, why) in [
        (
            json!({ "schedulingPolicy": {} }),
            "spec.schedulingPolicy: Required value: must specify one of: `basic`, `gang`",
        ),
        (
            json!({ "schedulingPolicy": { "basic": {}, "gang": { "minCount": 1 } } }),
            "spec.schedulingPolicy: Invalid value",
        ),
        (
            json!({ "schedulingPolicy": { "gang": { "minCount": 0 } } }),
            "spec.schedulingPolicy.gang.minCount: Invalid value: 0: must be greater than or equal to 1",
        ),
        (
            json!({ "schedulingPolicy": { "basic": {} }, "schedulingConstraints": { "topology": [{ "key": "a b" }] } }),
            "spec.schedulingConstraints.topology[0].key: Invalid value: \"a b\"",
        ),
    ] {
        let group = serde_json::from_value(group("g", &spec)).expect("a group");
        let error = groups.create(&PostParams::default(), &group).await.expect_err("it makes no sense");
        assert!(error.to_string().contains(why), "{error}");
    }
    world::create(&client, gang("g", 2)).await;
    let change = async |patch| groups.patch("g", &PatchParams::default(), &Patch::Merge(patch)).await;
    let more = json!({ "spec": { "schedulingPolicy": { "gang": { "minCount": 5 } } } });
    change(more).await.expect("a gang may grow");
    let error = change(json!({ "spec": { "priority": 5 } })).await.expect_err("the rest stays");
    assert!(error.to_string().contains("spec: Invalid value"), "{error}");
    assert!(error.to_string().contains("field is immutable"), "{error}");
}
