//! What a pod may ask of its node, and gets or is told that it doesn't; what stays when a kubelet restarts.

use std::time::Duration;

use k8s_openapi::api::{
    core::v1::{ConfigMap, Node, Pod, Service},
    discovery::v1::EndpointSlice,
};
use kube::{
    Api, ResourceExt as _,
    api::{DeleteParams, LogParams, Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

use crate::cluster::{Cluster, events, has_event, is_ready, phase, restarts, terminated, waiting_reason, web};

/// Two schedulers may bind at the same time: the node has the last word.
#[tokio::test(start_paused = true)]
async fn a_pod_that_does_not_fit_on_its_node_fails_and_says_why() {
    let cluster = Cluster::start().await;
    let mut large = web("sleep infinity");
    large["containers"][0]["resources"] = json!({"requests": {"cpu": "3"}});
    cluster.create("first", large.clone()).await;
    cluster.until("first", is_ready).await;
    cluster.create("second", large.clone()).await;
    let pod = cluster.until("second", |pod| phase(pod) == "Failed").await;
    let status = pod.status.expect("a status");
    assert_eq!(status.reason.as_deref(), Some("OutOfcpu"));
    assert!(status.message.expect("a message").starts_with("Pod was rejected: Node didn't have enough resource: cpu"));
    assert!(has_event(&cluster, "second", "OutOfcpu").await);
    let mut elsewhere = web("sleep infinity");
    elsewhere["nodeSelector"] = json!({"disk": "ssd"});
    cluster.create("elsewhere", elsewhere).await;
    cluster.until("elsewhere", |pod| phase(pod) == "Failed").await;
    cluster.pods().delete("first", &DeleteParams::default().grace_period(0)).await.expect("deleted");
    cluster.until_gone("first").await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.create("third", large).await;
    cluster.until("third", is_ready).await;
}

#[tokio::test(start_paused = true)]
async fn a_pod_taken_on_again_still_takes_its_part_of_the_node() {
    let mut cluster = Cluster::start().await;
    let mut large = web("sleep infinity");
    large["containers"][0]["resources"] = json!({"requests": {"cpu": "3"}});
    cluster.create("first", large.clone()).await;
    cluster.until("first", is_ready).await;
    cluster.kubelet.abort();
    cluster.create("second", large).await;
    cluster.restart_kubelet();
    cluster.until("second", |pod| phase(pod) == "Failed").await;
    assert_eq!(phase(&cluster.until("first", is_ready).await), "Running");
}

#[tokio::test(start_paused = true)]
async fn a_pod_past_its_deadline_fails() {
    let cluster = Cluster::start().await;
    let mut spec = web("sleep infinity");
    spec["activeDeadlineSeconds"] = 20.into();
    let began = tokio::time::Instant::now();
    cluster.create("web", spec).await;
    let pod = cluster.until("web", |pod| phase(pod) == "Failed" && terminated(pod).is_some()).await;
    assert!((20..55).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(pod.status.and_then(|status| status.reason).as_deref(), Some("DeadlineExceeded"));
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_fails_after_the_start_ends_the_container() {
    let cluster = Cluster::start().await;
    let mut spec = web("sleep infinity");
    spec["containers"][0]["lifecycle"] = json!({"postStart": {"exec": {"command": ["sh", "-c", "exit 4"]}}});
    cluster.create("web", spec).await;
    cluster.until("web", |pod| restarts(pod) > 0).await;
    assert!(has_event(&cluster, "web", "FailedPostStartHook").await);
}

/// SEMANTICS 53.
#[tokio::test(start_paused = true)]
async fn a_hook_before_the_end_has_part_of_the_grace() {
    let cluster = Cluster::start().await;
    let mut spec = web("trap '' TERM; sleep infinity");
    spec["containers"][0]["lifecycle"] = json!({"preStop": {"sleep": {"seconds": 5}}});
    cluster.create("web", spec).await;
    cluster.until("web", is_ready).await;
    let began = tokio::time::Instant::now();
    cluster.pods().delete("web", &DeleteParams::default().grace_period(9)).await.expect("deleted");
    cluster.until_gone("web").await;
    assert!((Duration::from_secs(9)..=Duration::from_secs(11)).contains(&began.elapsed()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn the_last_words_of_a_container_are_in_its_status() {
    let cluster = Cluster::start().await;
    let mut spec = web("echo out of cheese; exit 5");
    spec["restartPolicy"] = "Never".into();
    spec["containers"][0]["terminationMessagePolicy"] = "FallbackToLogsOnError".into();
    cluster.create("web", spec).await;
    let pod = cluster.until("web", |pod| phase(pod) == "Failed").await;
    let last = terminated(&pod).expect("it has ended");
    assert_eq!((last.exit_code, last.message.as_deref()), (5, Some("out of cheese\n")));
}

#[tokio::test(start_paused = true)]
async fn a_container_finds_the_services_of_its_namespace() {
    let cluster = Cluster::start().await;
    let services: Api<Service> = Api::namespaced(cluster.client.clone(), "default");
    let service = json!({"metadata": {"name": "my-db"}, "spec": {"ports": [{"port": 5432}]}});
    let service = serde_json::from_value(service).expect("a service");
    let service = services.create(&PostParams::default(), &service).await.expect("created");
    let address = service.spec.and_then(|spec| spec.cluster_ip).expect("an address");
    let mut spec = web("echo $MY_DB_SERVICE_HOST:$MY_DB_SERVICE_PORT $DB; sleep infinity");
    spec["containers"][0]["env"] = json!([{"name": "DB", "value": "$(MY_DB_PORT)"}]);
    cluster.create("web", spec).await;
    cluster.until("web", is_ready).await;
    let log = cluster.pods().logs("web", &LogParams::default()).await.expect("a log");
    assert_eq!(log, format!("{address}:5432 tcp://{address}:5432\n"));
}

#[tokio::test(start_paused = true)]
async fn a_change_of_a_config_map_reaches_its_volume() {
    let cluster = Cluster::start().await;
    let maps: Api<ConfigMap> = Api::namespaced(cluster.client.clone(), "default");
    let map =
        |data: Value| serde_json::from_value(json!({"metadata": {"name": "settings"}, "data": data})).expect("a map");
    maps.create(&PostParams::default(), &map(json!({"color": "red", "size": "9"}))).await.expect("created");
    let mut spec = web("sleep infinity");
    spec["volumes"] = json!([{"name": "settings", "configMap": {"name": "settings"}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "settings", "mountPath": "/etc/settings"}]);
    let pod = cluster.create("web", spec).await;
    cluster.until("web", is_ready).await;
    let volume = cluster.dir.path().join("pods").join(pod.uid().expect("a uid")).join("volumes/settings");
    assert_eq!(std::fs::read_to_string(volume.join("color")).expect("a file"), "red");
    maps.replace("settings", &PostParams::default(), &map(json!({"color": "blue"}))).await.expect("replaced");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(std::fs::read_to_string(volume.join("color")).expect("a file"), "blue");
    assert!(!volume.join("size").exists(), "what is gone is gone");
    assert_eq!(restarts(&cluster.until("web", is_ready).await), 0);
}

#[tokio::test(start_paused = true)]
async fn a_change_of_a_label_reaches_the_volume_that_shows_it() {
    let cluster = Cluster::start().await;
    let mut spec = web("sleep infinity");
    let item = json!({"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}});
    spec["volumes"] = json!([{"name": "info", "downwardAPI": {"items": [item]}}]);
    let pod = cluster.create("web", spec).await;
    cluster.until("web", is_ready).await;
    let patch = Patch::Merge(json!({"metadata": {"labels": {"color": "blue"}}}));
    cluster.pods().patch("web", &PatchParams::default(), &patch).await.expect("patched");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let labels = cluster.dir.path().join("pods").join(pod.uid().expect("a uid")).join("volumes/info/labels");
    assert_eq!(std::fs::read_to_string(labels).expect("a file"), "color=\"blue\"");
}

/// SEMANTICS 55: a restart of the kubelet is none of its pods' business.
#[tokio::test(start_paused = true)]
async fn a_probed_pod_stays_ready_while_its_kubelet_restarts() {
    let mut cluster = Cluster::start().await;
    let mut spec = web("sleep infinity");
    let probe = json!({"httpGet": {"path": "/", "port": 80}, "initialDelaySeconds": 60});
    spec["containers"][0]["readinessProbe"] = probe.clone();
    spec["containers"][0]["startupProbe"] = probe;
    cluster.create("web", spec).await;
    cluster.until("web", is_ready).await;
    let changed = |pod: &Pod| {
        let conditions = pod.status.clone().and_then(|status| status.conditions).unwrap_or_default();
        conditions.into_iter().find(|condition| condition.type_ == "Ready").and_then(|ready| ready.last_transition_time)
    };
    let before = changed(&cluster.until("web", is_ready).await);
    cluster.restart_kubelet();
    tokio::time::sleep(Duration::from_secs(200)).await;
    assert_eq!(changed(&cluster.until("web", is_ready).await), before, "it was never unready");
}

/// SEMANTICS 45: what recurs is counted, not told again.
#[tokio::test(start_paused = true)]
async fn a_probe_that_goes_on_failing_is_one_event() {
    let cluster = Cluster::start().await;
    let mut spec = web("sleep infinity");
    spec["containers"][0]["readinessProbe"] = json!({"exec": {"command": ["sh", "-c", "exit 1"]}, "periodSeconds": 1});
    cluster.create("web", spec).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let unhealthy: Vec<_> =
        events(&cluster, "web").await.into_iter().filter(|(reason, _)| reason == "Unhealthy").collect();
    assert!(matches!(unhealthy[..], [(_, 30..)]), "{unhealthy:?}");
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_there_is_not_is_refused_and_not_counted_as_failed() {
    let cluster = Cluster::start().await;
    let mut spec = web("sleep infinity");
    spec["containers"][0]["livenessProbe"] = json!({"grpc": {"port": 9000}});
    cluster.create("web", spec).await;
    cluster.until("web", |pod| waiting_reason(pod) == Some("CreateContainerConfigError")).await;
}

#[tokio::test(start_paused = true)]
async fn the_log_before_a_restart_to_come_is_that_of_the_last_attempt() {
    let cluster = Cluster::start().await;
    cluster.create("web", web("echo bye; exit 3")).await;
    cluster.until("web", |pod| waiting_reason(pod) == Some("CrashLoopBackOff") && restarts(pod) >= 1).await;
    for previous in [false, true] {
        let params = LogParams { previous, ..LogParams::default() };
        assert_eq!(cluster.pods().logs("web", &params).await.expect("a log"), "bye\n");
    }
}

/// SEMANTICS 51: what a pod that is gone left on the disk goes too.
#[tokio::test(start_paused = true)]
async fn volumes_of_a_pod_deleted_while_no_kubelet_looked_are_removed() {
    let mut cluster = Cluster::start().await;
    let mut spec = web("sleep infinity");
    spec["volumes"] = json!([{"name": "scratch", "emptyDir": {}}]);
    let pod = cluster.create("web", spec).await;
    cluster.until("web", is_ready).await;
    let dir = cluster.dir.path().join("pods").join(pod.uid().expect("a uid"));
    assert!(dir.join("volumes/scratch").is_dir());
    cluster.kubelet.abort();
    cluster.pods().delete("web", &DeleteParams::default().grace_period(0)).await.expect("deleted");
    cluster.restart_kubelet();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!dir.exists());
}

/// SEMANTICS 55.
#[tokio::test(start_paused = true)]
async fn a_node_whose_runtime_is_down_says_so_and_goes_on_with_its_lease() {
    let cluster = Cluster::start().await;
    cluster.create("web", web("sleep infinity")).await;
    cluster.until("web", is_ready).await;
    let ready = async |expected: &str| {
        tokio::time::sleep(Duration::from_secs(15)).await;
        let node = Api::<Node>::all(cluster.client.clone()).get("n1").await.expect("registered");
        let conditions = node.status.expect("a status").conditions.unwrap_or_default();
        let ready = conditions.into_iter().find(|condition| condition.type_ == "Ready").expect("a condition");
        assert_eq!((ready.status.as_str(), ready.reason.is_some()), (expected, true), "{ready:?}");
    };
    ready("True").await;
    cluster.runtime.set_available(false);
    ready("False").await;
    cluster.runtime.set_available(true);
    ready("True").await;
    assert_eq!(restarts(&cluster.until("web", is_ready).await), 0);
}

/// SEMANTICS 54: a pod that clients are sent to is asked to end only once they are not, or after a bounded time.
#[tokio::test(start_paused = true)]
async fn a_pod_is_asked_to_end_after_its_endpoints_are_withdrawn() {
    let cluster = Cluster::start().await;
    let slices: Api<EndpointSlice> = Api::namespaced(cluster.client.clone(), "default");
    let slice = |name: &str, pod: &Pod, ready: bool| -> EndpointSlice {
        serde_json::from_value(json!({
            "metadata": {"name": name}, "addressType": "IPv4", "ports": [],
            "endpoints": [{"addresses": ["10.244.0.1"], "conditions": {"ready": ready},
                           "targetRef": {"kind": "Pod", "uid": pod.uid()}}],
        }))
        .expect("a slice")
    };
    for (name, withdrawn_after, least, most) in [("served", 400, 400, 700), ("forgotten", 60_000, 950, 1_300)] {
        cluster.create(name, web("trap 'exit 0' TERM; sleep infinity")).await;
        let pod = cluster.until(name, is_ready).await;
        slices.create(&PostParams::default(), &slice(name, &pod, true)).await.expect("created");
        let began = tokio::time::Instant::now();
        cluster.pods().delete(name, &DeleteParams::default()).await.expect("deleted");
        tokio::time::sleep(Duration::from_millis(withdrawn_after.min(500))).await;
        if withdrawn_after < 500 {
            slices.replace(name, &PostParams::default(), &slice(name, &pod, false)).await.expect("replaced");
        }
        while cluster.pods().get_opt(name).await.expect("an answer").is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let took = began.elapsed();
        assert!((Duration::from_millis(least)..Duration::from_millis(most)).contains(&took), "{name}: {took:?}");
    }
}
