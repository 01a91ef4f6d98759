//! `kill -9` of the whole cluster, and another one on what it left.

use std::{
    collections::BTreeSet,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
};

use super::{
    kubectl::{MANIFEST, curl, eventually, pods},
    process::{Cluster, example, has_kubectl, text},
};

/// The running processes that were started below `data`, as a pod's are.
pub(crate) fn processes_below(data: &Path) -> BTreeSet<String> {
    let below = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path().join("cwd")).is_ok_and(|directory| directory.starts_with(data))
    };
    let processes = std::fs::read_dir("/proc").expect("/proc is mounted").flatten().filter(below);
    processes.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// How `kubectl` tells how often each of the manifest's pods has been started again.
const RESTARTS: [&str; 6] =
    ["-n", "web", "get", "pods", "-o", "jsonpath={.items[*].status.containerStatuses[0].restartCount}"];

/// A cluster that is kept at `data`, with the manifest rolled out.
fn rolled_out(data: &str) -> Cluster {
    let mut cluster = Cluster::start(&["--data", data, MANIFEST]);
    cluster.wait_for_line("ready");
    cluster
}

/// SEMANTICS 3, 46, 51: nothing acknowledged is lost, running pods are taken on, and the rollout is completed.
#[test]
fn a_cluster_killed_in_a_rollout_goes_on_where_it_was() {
    if !has_kubectl() {
        return;
    }
    let data = tempfile::tempdir().expect("a temporary directory");
    let path = data.path().to_str().expect("a plain path");
    let cluster = rolled_out(path);
    assert_eq!(cluster.ok(&RESTARTS), "0 0 0");
    let steady = pods(&cluster);

    // Killed at rest: the pods go on without it, and its successor finds them running.
    cluster.kill();
    assert!(!processes_below(data.path()).is_empty(), "processes outlive the cluster that started them");
    let cluster = Cluster::start(&["--data", path]);
    eventually("the pods are as they were", || pods(&cluster), |now| *now == steady);
    assert_eq!(cluster.ok(&RESTARTS), "0 0 0", "nothing was started again");

    // Killed in the midst of a rollout, with writes acknowledged until the last moment.
    cluster.ok(&["-n", "web", "scale", "deployment/web", "--replicas=5"]);
    cluster.ok(&["-n", "web", "set", "env", "deployment/web", "COLOR=green"]);
    let mut acknowledged = Vec::new();
    for n in 0..8 {
        let name = format!("kept-{n}");
        cluster.ok(&["create", "configmap", &name, &format!("--from-literal=n={n}")]);
        acknowledged.push(name);
    }
    cluster.kill();
    let cluster = Cluster::start(&["--data", path]);
    for (n, name) in acknowledged.iter().enumerate() {
        assert_eq!(cluster.ok(&["get", "configmap", name, "-o", "jsonpath={.data.n}"]), n.to_string());
    }
    let rolled = cluster.ok(&["-n", "web", "rollout", "status", "deployment/web", "--timeout=90s"]);
    assert!(rolled.contains("successfully rolled out"), "{rolled}");
    eventually("five pods run", || pods(&cluster).len(), |&count| count == 5);
    let colors =
        cluster.ok(&["-n", "web", "get", "pods", "-o", "jsonpath={.items[*].spec.containers[0].env[1].value}"]);
    assert_eq!(colors, ["green"; 5].join(" "));
    let address = cluster.ok(&["-n", "web", "get", "service", "web", "-o", "jsonpath={.spec.clusterIP}"]);
    eventually("the service answers", || curl(&address), Option::is_some);

    cluster.stop();
    assert_eq!(processes_below(data.path()), BTreeSet::new(), "a cluster that is asked to stop leaves no process");
}

/// A directory that a running cluster has open is refused to a second one, which says so.
#[test]
fn a_second_cluster_on_the_same_data_is_refused() {
    if !has_kubectl() {
        return;
    }
    let data = tempfile::tempdir().expect("a temporary directory");
    let path = data.path().to_str().expect("a plain path");
    let cluster = Cluster::start(&["--data", path]);
    let second = std::process::Command::new(example("cluster")).args(["--data", path]).output();
    let second = second.expect("the example starts");
    let complaint = text(&second.stderr);
    assert!(!second.status.success() && complaint.contains("open") && complaint.contains(path), "{complaint}");
    assert!(cluster.ok(&["get", "--raw", "/readyz"]).contains("ok"));
    cluster.stop();
}

/// SEMANTICS 50, 56: what was stopped with the cluster is counted as stopped, as after a restart of the machine; and whoever
/// fails beside the manifest holds nothing up.
#[test]
fn a_cluster_that_was_stopped_goes_on_as_its_machine_would() {
    if !has_kubectl() {
        return;
    }
    let data = tempfile::tempdir().expect("a temporary directory");
    let path = data.path().to_str().expect("a plain path");
    let cluster = rolled_out(path);
    let notes = data.path().join("notes");
    let noting = |word: &str, then: &str| format!("echo {word} >> {}; {then}", notes.display());
    for (name, script) in [
        ("short", noting("short", "exit 0")),
        ("failing", noting("failing", "exit 1")),
        ("long", noting("long", "sleep 600")),
    ] {
        cluster.ok(&["run", name, "--image=host", "--restart=Never", "--", "sh", "-c", &script]);
    }
    let phases = ["get", "pods", "-o", "jsonpath={.items[*].status.phase}"];
    eventually("each has come to its phase", || cluster.ok(&phases), |now| now == "Failed Running Succeeded");
    cluster.stop();
    assert_eq!(processes_below(data.path()), BTreeSet::new());

    let cluster = rolled_out(path);
    eventually("what never restarts has failed", || cluster.ok(&phases), |now| now == "Failed Failed Succeeded");
    eventually("the others are started again", || cluster.ok(&RESTARTS), |now| now == "1 1 1");
    cluster.ok(&["-n", "web", "wait", "pods", "--all", "--for=condition=Ready", "--timeout=60s"]);
    let mut noted: Vec<String> = std::fs::read_to_string(&notes).expect("notes").lines().map(Into::into).collect();
    noted.sort();
    assert_eq!(noted, ["failing", "long", "short"], "each ran once");
}

/// Whoever started it in a pipe may be content with the first line.
#[test]
fn a_cluster_whose_reader_is_gone_stays_until_it_is_stopped() {
    let data = tempfile::tempdir().expect("a temporary directory");
    let mut child = Command::new(example("cluster"))
        .args(["--data", data.path().to_str().expect("a plain path"), MANIFEST])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stdout(Stdio::piped())
        .spawn()
        .expect("the example starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("stdout is piped")).read_line(&mut line).expect("a line");
    assert!(line.starts_with("export KUBECONFIG="), "{line}");
    eventually("its pods run", || processes_below(data.path()).len(), |&count| count >= 3);
    assert!(child.try_wait().expect("it can be waited for").is_none(), "it is still there");
    let asked = Command::new("kill").args(["-HUP", &child.id().to_string()]).status();
    assert!(asked.is_ok_and(|status| status.success()));
    assert!(child.wait().expect("it ends").success());
    assert_eq!(processes_below(data.path()), BTreeSet::new());
}
