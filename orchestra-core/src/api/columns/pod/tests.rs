use serde_json::{Value, json};

use super::*;

/// The first five cells of a pod whose metadata, spec and status are as given.
fn cells(pod: &Value) -> Vec<String> {
    let mut whole = json!({ "metadata": { "name": "web", "creationTimestamp": "2026-01-01T00:00:00Z" },
        "spec": { "containers": [{ "name": "a" }, { "name": "b" }] } });
    json_patch::merge(&mut whole, pod);
    let pod: Pod = serde_json::from_value(whole).expect("a pod");
    let now = "2026-01-01T00:01:00Z".parse().expect("a time");
    let cells = row(&pod, now).cells;
    cells.iter().map(|cell| cell.as_str().expect("all cells of a pod are text").to_owned()).collect()
}

/// The cells `READY`, `STATUS` and `RESTARTS`.
fn shown(pod: &Value) -> String {
    let cells = cells(pod);
    assert_eq!((cells[0].as_str(), cells[4].as_str()), ("web", "60s"));
    cells[1..4].join(" ")
}

fn container(name: &str, state: &Value) -> Value {
    let mut container = json!({ "name": name, "ready": false, "restartCount": 0, "image": "", "imageID": "" });
    json_patch::merge(&mut container, state);
    container
}

fn running(name: &str) -> Value {
    container(name, &json!({ "ready": true, "state": { "running": {} } }))
}

fn waiting(name: &str, reason: &str) -> Value {
    container(name, &json!({ "state": { "waiting": { "reason": reason } } }))
}

fn ended(name: &str, how: &Value) -> Value {
    container(name, &json!({ "state": { "terminated": how } }))
}

#[test]
fn a_pod_is_as_its_phase_says_until_its_containers_say_more() {
    assert_eq!(shown(&json!({})), "0/2  0");
    assert_eq!(shown(&json!({ "status": { "phase": "Pending" } })), "0/2 Pending 0");
    assert_eq!(shown(&json!({ "status": { "phase": "Failed", "reason": "Evicted" } })), "0/2 Evicted 0");
    let gated = json!([{ "type": "PodScheduled", "status": "False", "reason": "SchedulingGated" }]);
    assert_eq!(shown(&json!({ "status": { "phase": "Pending", "conditions": gated } })), "0/2 SchedulingGated 0");
}

#[test]
fn the_first_container_that_has_something_to_say_says_it() {
    let of = |containers: Value| shown(&json!({ "status": { "phase": "Running", "containerStatuses": containers } }));
    assert_eq!(of(json!([running("a"), running("b")])), "2/2 Running 0");
    assert_eq!(of(json!([running("a"), waiting("b", "ContainerCreating")])), "1/2 ContainerCreating 0");
    assert_eq!(of(json!([waiting("a", "ErrImagePull"), waiting("b", "ContainerCreating")])), "0/2 ErrImagePull 0");
    assert_eq!(of(json!([ended("a", &json!({ "exitCode": 137, "reason": "OOMKilled" }))])), "0/2 OOMKilled 0");
    assert_eq!(of(json!([ended("a", &json!({ "exitCode": 3 }))])), "0/2 ExitCode:3 0");
    assert_eq!(of(json!([ended("a", &json!({ "exitCode": 0, "signal": 9 }))])), "0/2 Signal:9 0");
}

#[test]
fn one_container_that_completed_beside_one_that_runs_is_no_end() {
    let completed = ended("b", &json!({ "exitCode": 0, "reason": "Completed" }));
    let of = |ready: &str| {
        shown(&json!({ "status": { "phase": "Running", "containerStatuses": [running("a"), completed],
            "conditions": [{ "type": "Ready", "status": ready }] } }))
    };
    assert_eq!(of("True"), "1/2 Running 0");
    assert_eq!(of("False"), "1/2 NotReady 0");
}

#[test]
fn restarts_tell_when_the_last_one_was() {
    let restarted = |name: &str, count: u32, at: &str| {
        container(
            name,
            &json!({ "restartCount": count, "state": { "waiting": { "reason": "CrashLoopBackOff" } },
            "lastState": { "terminated": { "exitCode": 1, "finishedAt": at } } }),
        )
    };
    let containers = json!([restarted("a", 2, "2026-01-01T00:00:55Z"), restarted("b", 1, "2026-01-01T00:00:10Z")]);
    let pod = json!({ "status": { "phase": "Running", "containerStatuses": containers } });
    assert_eq!(shown(&pod), "0/2 CrashLoopBackOff 3 (5s ago)");
}

#[test]
fn init_containers_hold_a_pod_up_one_after_another() {
    let spec = json!({ "initContainers": [{ "name": "i" }, { "name": "j" }] });
    let of = |init: Value| {
        let containers = json!([waiting("a", "PodInitializing"), waiting("b", "PodInitializing")]);
        shown(&json!({ "spec": spec, "status": { "phase": "Pending", "initContainerStatuses": init,
            "containerStatuses": containers } }))
    };
    let done = ended("i", &json!({ "exitCode": 0, "reason": "Completed" }));
    assert_eq!(of(json!([waiting("i", "PodInitializing"), waiting("j", "PodInitializing")])), "0/2 Init:0/2 0");
    assert_eq!(of(json!([done, container("j", &json!({ "state": { "running": {} } }))])), "0/2 Init:1/2 0");
    assert_eq!(of(json!([waiting("i", "CrashLoopBackOff")])), "0/2 Init:CrashLoopBackOff 0");
    assert_eq!(of(json!([ended("i", &json!({ "exitCode": 1, "reason": "Error" }))])), "0/2 Init:Error 0");
    assert_eq!(of(json!([ended("i", &json!({ "exitCode": 1 }))])), "0/2 Init:ExitCode:1 0");
    assert_eq!(of(json!([ended("i", &json!({ "exitCode": 1, "signal": 9 }))])), "0/2 Init:Signal:9 0");
    assert_eq!(of(json!([done, ended("j", &json!({ "exitCode": 0 }))])), "0/2 PodInitializing 0");
}

#[test]
fn sidecars_count_among_the_containers_and_their_restarts_last() {
    let spec = json!({ "initContainers": [{ "name": "s", "restartPolicy": "Always" }, { "name": "i" }] });
    let sidecar = container(
        "s",
        &json!({ "ready": true, "started": true, "restartCount": 1,
        "state": { "running": {} } }),
    );
    let init = container("i", &json!({ "restartCount": 4, "state": { "terminated": { "exitCode": 0 } } }));
    let pod = json!({ "spec": spec, "status": { "phase": "Running", "initContainerStatuses": [sidecar, init],
        "containerStatuses": [running("a"), running("b")] } });
    assert_eq!(shown(&pod), "3/3 Running 1");
}

#[test]
fn a_pod_that_is_to_go_is_terminating_or_unknown_or_over() {
    let of = |status: Value| {
        shown(&json!({ "metadata": { "deletionTimestamp": "2026-01-01T00:00:30Z" }, "status": status }))
    };
    assert_eq!(of(json!({ "phase": "Running" })), "0/2 Terminating 0");
    assert_eq!(of(json!({ "phase": "Running", "reason": "NodeLost" })), "0/2 Unknown 0");
    assert_eq!(of(json!({ "phase": "Succeeded" })), "0/2 Succeeded 0");
}

#[test]
fn wide_cells_name_address_node_nomination_and_gates() {
    let none = cells(&json!({}));
    assert_eq!(none[5..], ["<none>", "<none>", "<none>", "<none>"]);
    let gates = json!([{ "conditionType": "x" }, { "conditionType": "y" }]);
    let pod = json!({ "spec": { "nodeName": "n1", "readinessGates": gates }, "status": { "phase": "Running",
        "podIPs": [{ "ip": "10.0.0.1" }], "nominatedNodeName": "n2", "conditions": [{ "type": "y", "status": "True" }] } });
    assert_eq!(cells(&pod)[5..], ["10.0.0.1", "n1", "n2", "1/2"]);
}

#[test]
fn a_pod_that_is_over_says_so_beside_its_cells() {
    let of = |phase: &str| completed(&PodStatus { phase: Some(phase.into()), ..PodStatus::default() });
    assert_eq!(of("Failed").map(|completed| completed.message), Some("The pod failed."));
    assert_eq!(of("Running"), None);
}
