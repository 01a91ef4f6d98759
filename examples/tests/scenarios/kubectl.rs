//! The `cluster` example, driven by the real `kubectl` as its users would.

use std::{process::Command, time::Instant};

use super::process::{Cluster, PATIENCE, has_kubectl, text};

pub(crate) const MANIFEST: &str = "examples/manifests/web.yaml";

/// Asks again until `accept` takes the answer.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> T, accept: impl Fn(&T) -> bool) -> T
where
    T: std::fmt::Debug,
{
    #[allow(clippy::disallowed_methods, reason = "bounds a wait for real processes")]
    let start = Instant::now();
    loop {
        let answer = ask();
        if accept(&answer) {
            return answer;
        }
        assert!(start.elapsed() < PATIENCE, "not in time: {what}; last: {answer:?}");
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

pub(crate) fn pods(cluster: &Cluster) -> Vec<String> {
    let names = cluster.ok(&["-n", "web", "get", "pods", "-o", "name", "--field-selector=status.phase=Running"]);
    names.lines().map(str::to_owned).collect()
}

pub(crate) fn curl(address: &str) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect((address, 80)).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn a_manifest_is_rolled_out_and_everyday_commands_work() {
    if !has_kubectl() {
        return;
    }
    let mut cluster = Cluster::start(&[MANIFEST]);
    cluster.wait_for_line("ready");

    let table = cluster.ok(&["-n", "web", "get", "deployment,replicaset,pods,service", "-o", "wide"]);
    assert!(table.contains("3/3     3            3"), "{table}");
    let nodes = cluster.ok(&["get", "nodes"]);
    assert_eq!(nodes.matches(" Ready ").count(), 3, "{nodes}");

    let address = cluster.ok(&["-n", "web", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    let answer = eventually("the service answers", || curl(&address), Option::is_some);
    assert!(answer.is_some_and(|answer| answer.starts_with("HTTP/1.1 200") && answer.contains("Hello")));

    let pod = pods(&cluster).remove(0);
    assert!(cluster.ok(&["-n", "web", "describe", &pod]).contains("Successfully assigned web/"));
    assert!(cluster.ok(&["-n", "web", "describe", "deployment/web"]).contains("ScalingReplicaSet"));
    assert!(cluster.ok(&["describe", "nodes"]).contains("cpu"));
    assert!(cluster.ok(&["-n", "web", "logs", &pod]).contains("GET /"));
    assert_eq!(cluster.ok(&["-n", "web", "logs", &pod, "--tail=1"]).lines().count(), 1);
    let said = cluster.ok(&["-n", "web", "exec", &pod, "--", "sh", "-c", "echo $POD_NAME"]);
    assert_eq!(said.trim(), pod.trim_start_matches("pod/"));
    let failed = cluster.kubectl(&["-n", "web", "exec", &pod, "--", "sh", "-c", "exit 3"]);
    assert_eq!(failed.status.code(), Some(3), "{}", text(&failed.stderr));
    let missing = cluster.refused(&["-n", "web", "exec", &pod, "--", "no-such-program"], "");
    assert!(missing.contains("no such program") && !missing.contains("websocket"), "{missing}");
    let echoed = cluster.ok_with_input(&["-n", "web", "exec", "-i", &pod, "--", "cat"], "through\n");
    assert_eq!(echoed, "through\n");

    let connect = "exec 3<>/dev/tcp/$KUBERNETES_SERVICE_HOST/$KUBERNETES_SERVICE_PORT && echo reached";
    let reached = || text(&cluster.kubectl(&["-n", "web", "exec", &pod, "--", "bash", "-c", connect]).stdout);
    eventually("the pod reaches the API", reached, |said| said.trim() == "reached");
    assert!(cluster.ok(&["get", "endpoints", "kubernetes"]).contains("127.0.0.1:"));

    cluster.ok(&["-n", "web", "label", &pod, "tier=front"]);
    cluster.ok(&["-n", "web", "annotate", &pod, "note=kept"]);
    assert!(cluster.ok(&["-n", "web", "get", "pods", "-l", "tier=front", "-o", "name"]).contains(&pod));
    assert!(cluster.ok(&["explain", "deployment.spec.strategy"]).contains("rollingUpdate"));
    assert!(cluster.ok(&["api-resources"]).contains("deployments"));
    assert!(cluster.ok(&["-n", "web", "apply", "-f", MANIFEST]).contains("deployment.apps/web unchanged"));
    cluster.stop();
}

#[test]
fn a_deployment_scales_rolls_rolls_back_and_heals() {
    if !has_kubectl() {
        return;
    }
    let mut cluster = Cluster::start(&[MANIFEST]);
    cluster.wait_for_line("ready");

    cluster.ok(&["-n", "web", "scale", "deployment/web", "--replicas=4"]);
    cluster.ok(&["-n", "web", "rollout", "status", "deployment/web", "--timeout=60s"]);
    eventually("four pods run", || pods(&cluster).len(), |&count| count == 4);

    cluster.ok(&["-n", "web", "set", "env", "deployment/web", "COLOR=green"]);
    assert!(
        cluster.ok(&["-n", "web", "rollout", "status", "deployment/web", "--timeout=60s"]).contains("successfully")
    );
    let color = ["-n", "web", "get", "deployment", "web", "-o", "jsonpath={.spec.template.spec.containers[0].env}"];
    assert!(cluster.ok(&color).contains("green"));
    assert!(cluster.ok(&["-n", "web", "rollout", "history", "deployment/web"]).contains('2'));
    cluster.ok(&["-n", "web", "rollout", "undo", "deployment/web"]);
    cluster.ok(&["-n", "web", "rollout", "status", "deployment/web", "--timeout=60s"]);
    assert!(!cluster.ok(&color).contains("green"));

    let patch =
        r#"{"spec":{"template":{"spec":{"containers":[{"name":"web","resources":{"requests":{"cpu":"60m"}}}]}}}}"#;
    cluster.ok(&["-n", "web", "patch", "deployment", "web", "-p", patch]);
    cluster.ok(&["-n", "web", "rollout", "status", "deployment/web", "--timeout=60s"]);
    cluster.ok(&["-n", "web", "wait", "--for=condition=Available", "deployment/web", "--timeout=60s"]);

    eventually("old pods are gone", || pods(&cluster).len(), |&count| count == 4);
    let victim = pods(&cluster).remove(0);
    cluster.ok(&["-n", "web", "delete", &victim]);
    eventually("a new pod takes its place", || pods(&cluster), |pods| pods.len() == 4 && !pods.contains(&victim));

    let bitten = pods(&cluster).remove(0);
    let pid = cluster.ok(&["-n", "web", "exec", &bitten, "--", "sh", "-c", "echo $PPID; pgrep -f serve-web"]);
    let restarts = ["-n", "web", "get", &bitten, "-o", "jsonpath={.status.containerStatuses[0].restartCount}"];
    assert_eq!(cluster.ok(&restarts), "0");
    kill_one_web_process(&cluster, &bitten);
    eventually("the container is restarted", || cluster.ok(&restarts), |count| count == "1");
    assert!(!pid.is_empty());
    cluster.ok(&["-n", "web", "logs", &bitten, "--previous"]);

    cluster.ok(&["cordon", "node-1"]);
    assert!(cluster.ok(&["get", "nodes"]).contains("Ready,SchedulingDisabled"));
    cluster.ok(&["drain", "node-1", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=60s"]);
    let on_node = ["-n", "web", "get", "pods", "-o", "name", "--field-selector=spec.nodeName=node-1"];
    eventually("the drained node is empty", || cluster.ok(&on_node), String::is_empty);
    cluster.ok(&["uncordon", "node-1"]);

    cluster.ok(&["delete", "namespace", "web", "--timeout=60s"]);
    assert!(cluster.refused(&["get", "namespace", "web"], "").contains("(NotFound): namespaces \"web\" not found"));
    cluster.stop();
}

/// Kills the one process whose environment names `pod`, as an operator would by `kill -9`.
fn kill_one_web_process(cluster: &Cluster, pod: &str) {
    let name = format!("POD_NAME={}", pod.trim_start_matches("pod/"));
    let own = cluster.pid().to_string();
    let of_pod = |entry: &std::fs::DirEntry| {
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        entry.file_name().to_string_lossy() != own
            && text(&environment).split('\0').any(|variable| variable == name)
            && text(&command).split('\0').nth(1) == Some("--serve-web")
    };
    let process =
        std::fs::read_dir("/proc").expect("/proc is mounted").flatten().find(of_pod).expect("the pod has a process");
    let pid = process.file_name().to_string_lossy().into_owned();
    let killed = Command::new("kill").args(["-9", &pid]).status();
    assert!(killed.is_ok_and(|status| status.success()));
}

#[test]
fn bad_input_is_refused_with_the_field_and_the_server_goes_on() {
    if !has_kubectl() {
        return;
    }
    let cluster = Cluster::start(&[]);
    let apply = ["apply", "-f", "-"];
    let pod = |body: &str| format!("apiVersion: v1\nkind: Pod\n{body}");
    let cases = [
        (
            pod("metadata: {name: a}\nspec: {containers: [{name: a, imag: b}]}"),
            "unknown field \"spec.containers[0].imag\"",
        ),
        (pod("metadata: {name: a}\nspec: {containers: 7}"), "spec.containers"),
        (pod("metadata: {}\nspec: {containers: [{name: a, image: b}]}"), "resource name may not be empty"),
        (pod("metadata: {name: a, labels: {x: 'b c'}}\nspec: {containers: [{name: a, image: b}]}"), "metadata.labels"),
        (pod("metadata: {name: Not_Valid}\nspec: {containers: [{name: a, image: b}]}"), "metadata.name"),
        (pod("metadata: {name: a}\nspec: {containers: [{name: a}]}"), "spec.containers[0].image: Required value"),
        ("apiVersion: v1\nkind: Nonsense\nmetadata: {name: a}".to_owned(), "no matches for kind \"Nonsense\""),
        ("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a".to_owned(), "error"),
    ];
    for (manifest, complaint) in &cases {
        let said = cluster.refused(&apply, manifest);
        assert!(said.contains(complaint), "for\n{manifest}\nkubectl said\n{said}instead of {complaint}");
    }
    let large =
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: large}}\ndata: {{x: {}}}", "y".repeat(1_600_000));
    let said = cluster.refused(&["create", "-f", "-"], &large);
    assert!(said.contains("data: Too long") || said.contains("too large"), "{said}");
    assert!(cluster.ok(&["get", "--raw", "/readyz"]).contains("ok"));
    cluster.stop();
}
