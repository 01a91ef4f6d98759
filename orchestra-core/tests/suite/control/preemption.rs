//! Pods that take the places of less important ones: SEMANTICS 49.

use k8s_openapi::api::core::v1::{Event, Pod};
use kube::{
    Api, Client,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};

use super::{
    network::Network,
    scheduling::{node_of, pod, run, seconds, waiting},
    world,
};

fn important(name: &str, cpu: &str) -> Value {
    let mut pod = waiting(name, cpu);
    pod["spec"]["priorityClassName"] = "important".into();
    pod
}

/// A cluster with one node of four cores, and a priority class.
async fn crowded() -> Client {
    let client = world::empty();
    let class = json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
        "metadata": { "name": "important" }, "value": 1_000 });
    world::create(&client, class).await;
    world::create(&client, world::node("n1", "True")).await;
    client
}

fn pods(client: &Client) -> Api<Pod> {
    Api::default_namespaced(client.clone())
}

fn nominated(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.nominated_node_name.as_deref()
}

/// What a kubelet does once the containers of a pod that is to leave have ended.
async fn let_go(client: &Client, name: &str) {
    pods(client).delete(name, &DeleteParams::default().grace_period(0)).await.expect("it was there");
}

#[tokio::test(start_paused = true)]
async fn who_is_more_important_waits_for_the_room_of_who_has_to_leave() {
    preempts(&Network::default()).await;
}

/// Where the API server takes no steps, it is done bit by bit.
#[tokio::test(start_paused = true)]
async fn it_waits_so_on_a_foreign_server_too() {
    preempts(&Network::foreign()).await;
}

async fn preempts(network: &Network) {
    let client = crowded().await;
    let _running = run(&network.client(&client));
    world::create(&client, waiting("victim", "3")).await;
    seconds(1).await;
    assert_eq!(node_of(&client, "victim").await.as_deref(), Some("n1"));
    world::create(&client, important("critical", "3")).await;
    seconds(1).await;

    let victim = pod(&client, "victim").await;
    assert!(victim.metadata.deletion_timestamp.is_some(), "it is asked to leave, and has its grace");
    let conditions = victim.status.and_then(|status| status.conditions).unwrap_or_default();
    let target = conditions.iter().find(|condition| condition.type_ == "DisruptionTarget").expect("told");
    assert_eq!((target.status.as_str(), target.reason.as_deref()), ("True", Some("PreemptionByScheduler")));
    let critical = pod(&client, "critical").await;
    assert_eq!((nominated(&critical), node_of(&client, "critical").await), (Some("n1"), None));
    let uid = critical.metadata.uid.expect("a uid");
    let events = Api::<Event>::default_namespaced(client.clone()).list(&ListParams::default()).await.expect("listed");
    let preempted = events.iter().find(|event| event.reason.as_deref() == Some("Preempted")).expect("told");
    assert_eq!(preempted.message, Some(format!("Preempted by pod {uid} on node n1")));

    // Its room is kept: from one that is no more important, and would fit beside it only if it were not.
    world::create(&client, waiting("small", "2")).await;
    let_go(&client, "victim").await;
    seconds(30).await;
    assert_eq!(node_of(&client, "critical").await.as_deref(), Some("n1"));
    assert_eq!(node_of(&client, "small").await, None);
}

#[tokio::test(start_paused = true)]
async fn nobody_leaves_for_who_would_not_fit_even_so_or_is_not_to_preempt() {
    let client = crowded().await;
    let _running = run(&client);
    world::create(&client, waiting("resident", "3")).await;
    seconds(1).await;
    world::create(&client, important("huge", "5")).await;
    world::create(
        &client,
        json!({ "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": { "name": "modest" },
            "value": 1_000, "preemptionPolicy": "Never" }),
    )
    .await;
    let mut modest = waiting("modest", "2");
    modest["spec"]["priorityClassName"] = "modest".into();
    world::create(&client, modest).await;
    seconds(60).await;
    assert!(pod(&client, "resident").await.metadata.deletion_timestamp.is_none());
    for name in ["huge", "modest"] {
        assert_eq!((nominated(&pod(&client, name).await), node_of(&client, name).await), (None, None));
    }
}

/// Budgets are kept to where there is a choice.
#[tokio::test(start_paused = true)]
async fn those_leave_whose_budget_allows_it() {
    let client = crowded().await;
    let _running = run(&client);
    for (name, cpu) in [("guarded", "2"), ("free", "2")] {
        let mut resident = waiting(name, cpu);
        resident["metadata"]["labels"] = json!({ "app": name });
        world::create(&client, resident).await;
    }
    seconds(1).await;
    let budget = json!({ "apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": { "name": "guard", "namespace": "default" },
        "spec": { "minAvailable": 1, "selector": { "matchLabels": { "app": "guarded" } } } });
    world::create(&client, budget).await;
    world::create(&client, important("critical", "2")).await;
    seconds(1).await;
    assert!(pod(&client, "free").await.metadata.deletion_timestamp.is_some());
    assert!(pod(&client, "guarded").await.metadata.deletion_timestamp.is_none());
}

/// Who waits for room loses it to who is more important still, and looks for another.
#[tokio::test(start_paused = true)]
async fn a_nomination_ends_when_a_better_one_takes_its_room() {
    let client = crowded().await;
    let _running = run(&client);
    world::create(&client, waiting("victim", "3")).await;
    seconds(1).await;
    world::create(&client, important("first", "3")).await;
    seconds(1).await;
    assert_eq!(nominated(&pod(&client, "first").await), Some("n1"));
    let mut better = waiting("better", "3");
    better["spec"]["priorityClassName"] = "system-node-critical".into();
    world::create(&client, better).await;
    seconds(1).await;
    assert_eq!(nominated(&pod(&client, "better").await), Some("n1"));
    assert_eq!(nominated(&pod(&client, "first").await).filter(|node| !node.is_empty()), None);
    let_go(&client, "victim").await;
    seconds(30).await;
    assert_eq!(node_of(&client, "better").await.as_deref(), Some("n1"));
    assert_eq!(node_of(&client, "first").await, None);
}
