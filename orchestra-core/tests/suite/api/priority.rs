//! Priority classes, and the priority of pods.

use serde_json::{Value, json};

use super::fixture::{Cluster, PODS, pod};

const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";

fn pod_of(name: &str, class: &str) -> Value {
    let mut pod = pod(name);
    pod["spec"]["priorityClassName"] = class.into();
    pod
}

#[tokio::test(start_paused = true)]
async fn a_pod_has_the_priority_of_its_class() {
    let cluster = Cluster::new();
    let low = json!({ "metadata": { "name": "low" }, "value": -5, "preemptionPolicy": "Never" });
    cluster.post(CLASSES, &low).await.ok();
    for (class, priority, preemption) in [
        ("low", -5, "Never"),
        ("system-cluster-critical", 2_000_000_000, "PreemptLowerPriority"),
        ("system-node-critical", 2_000_001_000, "PreemptLowerPriority"),
    ] {
        let made = cluster.post(PODS, &pod_of(class, class)).await.ok();
        assert_eq!(
            (&made["spec"]["priority"], &made["spec"]["preemptionPolicy"]),
            (&json!(priority), &json!(preemption))
        );
    }
    let refused = cluster.post(PODS, &pod_of("a", "none")).await;
    refused.failed_with(403, "Forbidden", "pods \"a\" is forbidden: no PriorityClass with name none was found");
}

#[tokio::test(start_paused = true)]
async fn a_pod_without_a_class_has_that_of_the_default() {
    let cluster = Cluster::new();
    let made = cluster.post(PODS, &pod("a")).await.ok();
    assert_eq!((&made["spec"]["priority"], &made["spec"]["priorityClassName"]), (&json!(0), &Value::Null));
    let class = json!({ "metadata": { "name": "usual" }, "value": 100, "globalDefault": true });
    cluster.post(CLASSES, &class).await.ok();
    let made = cluster.post(PODS, &pod("b")).await.ok();
    assert_eq!((&made["spec"]["priority"], &made["spec"]["priorityClassName"]), (&json!(100), &json!("usual")));
}

#[tokio::test(start_paused = true)]
async fn no_pod_gives_itself_a_priority() {
    let cluster = Cluster::new();
    let mut given = pod("a");
    given["spec"]["priority"] = 1_000.into();
    let words = "the integer value of priority (1000) must not be provided in pod spec; priority admission controller \
                 computed 0 from the given PriorityClass name";
    cluster.post(PODS, &given).await.failed_with(403, "Forbidden", words);
    given["spec"]["priority"] = 0.into();
    cluster.post(PODS, &given).await.ok();
    let mut given = pod("b");
    given["spec"]["preemptionPolicy"] = "Never".into();
    cluster.post(PODS, &given).await.failed_with(403, "Forbidden", "the string value of PreemptionPolicy (Never)");
}

#[tokio::test(start_paused = true)]
async fn a_second_default_class_is_refused() {
    let cluster = Cluster::new();
    let class =
        |name: &str, default: bool| json!({ "metadata": { "name": name }, "value": 1, "globalDefault": default });
    cluster.post(CLASSES, &class("one", true)).await.ok();
    cluster.post(CLASSES, &class("two", false)).await.ok();
    let words = "is forbidden: PriorityClass one is already marked as default. Only one default can exist";
    cluster.post(CLASSES, &class("three", true)).await.failed_with(403, "Forbidden", words);
    let two = format!("{CLASSES}/two");
    cluster.put(&two, &class("two", true)).await.failed_with(403, "Forbidden", words);
    cluster.put(&format!("{CLASSES}/one"), &class("one", true)).await.ok();
    cluster.delete(&format!("{CLASSES}/one")).await.ok();
    cluster.put(&two, &class("two", true)).await.ok();
}
