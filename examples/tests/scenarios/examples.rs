//! Every example that ends by itself ends as its head says.

use std::process::Command;

use super::process::{SeparateCluster, example, has_kubectl, text};

fn ends_with(name: &str, last: &str) {
    let output = Command::new(example(name)).output().expect("the example starts");
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{name} failed:\n{stdout}{stderr}");
    assert!(stdout.trim_end().ends_with(last), "{name} printed:\n{stdout}");
}

#[test]
fn quickstart_heals() {
    ends_with("quickstart", "node-3 3 pods");
}

#[test]
fn own_implementations_pass_their_suites() {
    ends_with("own_store", "70 laws and rules hold for ListStore");
    ends_with("own_controller", "3 laws hold for service-address");
    ends_with("own_runtime", "44 laws hold for Trusting");
    ends_with("own_proxy", "8 laws hold for HaproxyConfig");
    ends_with("own_scheduler", "8 laws hold for best-fit");
}

#[test]
fn a_backup_is_taken_and_restored() {
    ends_with("backup", "the restored store holds what the backup held");
}

#[test]
fn an_operator_is_tested_without_a_socket() {
    ends_with("test_your_operator", "the operator made its config map");
}

#[cfg(feature = "etcd")]
#[test]
fn two_servers_on_an_etcd_lose_nothing_when_one_of_each_is_killed() {
    ends_with("etcd", "nothing was lost");
}

/// The programs that serve until they are stopped, as five processes over HTTPS.
#[test]
fn a_cluster_of_separate_processes_rolls_out_a_manifest() {
    if has_kubectl() {
        let mut cluster = SeparateCluster::start();
        cluster.refuses_a_second_server();
        cluster.rolls_out();
        cluster.restarts_the_kubelet();
    }
}
