//! Every example that ends by itself ends as its head says.

use std::process::Command;

use super::process::{SeparateCluster, example, has_kubectl, has_python, text};

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
fn a_critical_pod_takes_the_place_of_less_important_ones() {
    let output = Command::new(example("preemption")).output().expect("it starts");
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for line in
        ["before: batch-1, batch-2, web-1", "database waits for room on node-1", "after:  batch-1, database, web-1"]
    {
        assert!(said.lines().any(|said| said == line), "{said}");
    }
    assert!(said.contains("batch-2: Preempted by pod"), "{said}");
}

/// In the laboratory, in this process, and behind the kubeconfig of an API server of its own or of another process.
#[test]
fn one_scheduler_plans_the_same_in_three_places() {
    ends_with("three_places", "the same plan in three places");
    let cluster = SeparateCluster::server();
    for round in ["with nothing there", "with what the first left"] {
        let kubeconfig = cluster.kubeconfig();
        let output = Command::new(example("three_places")).arg("--kubeconfig").arg(kubeconfig).output();
        let output = output.expect("the example starts");
        assert!(output.status.success(), "{round}: {}", text(&output.stderr));
        assert!(text(&output.stdout).ends_with("the same plan in three places\n"), "{round}");
    }
}

#[test]
fn a_cell_is_compacted_under_each_policy() {
    let folder = tempfile::tempdir().expect("a folder");
    let output = Command::new(example("compaction")).arg("--out").arg(folder.path()).output().expect("it starts");
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let needed = |name: &str| -> u32 {
        let numbers = said.lines().find_map(|line| line.strip_prefix(name)).expect("a row for each");
        numbers.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number")
    };
    assert!(needed("best-fit  ") < needed("least-allocated  "), "{said}");
    assert!(needed("best-fit  ") < needed("best-fit, two tenants apart"), "{said}");
    assert!(needed("best-fit  ") < needed("best-fit, without sharing of GPUs"), "{said}");
    assert!(folder.path().join("compaction.svg").exists());
}

#[test]
fn gangs_start_whole_one_after_the_other() {
    let output = Command::new(example("gangs")).output().expect("it starts");
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let alone = "as pods by themselves: {\"blue\": 2, \"red\": 2}: none is whole, and none will ever be";
    assert!(said.lines().any(|line| line == alone), "{said}");
    let gangs = "as gangs:              {\"blue\": 0, \"red\": 3}, and once red has ended {\"blue\": 3}";
    assert!(said.lines().any(|line| line == gangs), "{said}");
}

#[test]
fn a_configuration_that_means_nothing_is_named_by_its_field() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("scheduler.yaml");
    let body =
        "{apiVersion: kubescheduler.config.k8s.io/v1, kind: KubeSchedulerConfiguration, percentageOfNodesToScore: 200}";
    std::fs::write(&file, body).expect("written");
    let said = |file: &std::path::Path| {
        let output = Command::new(example("scheduler")).arg("--config").arg(file).output().expect("it starts");
        assert!(!output.status.success());
        text(&output.stderr)
    };
    assert!(said(&file).contains("percentageOfNodesToScore: 200 is not between 0 and 100"), "{}", said(&file));
    assert!(said("/nowhere".as_ref()).contains("--config: /nowhere can't be read"));
}

#[test]
fn own_implementations_pass_their_suites() {
    ends_with("own_store", "87 laws and rules hold for ListStore");
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

/// A small trace, but for what is said in `pods`.
fn trace(pods: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).expect("a file");
    write(
        "openb_node_list_gpu_node.csv",
        "sn,cpu_milli,memory_mib,gpu,model\nn0,64000,262144,2,P100\nn1,64000,262144,8,T4\n",
    );
    write(
        "openb_pod_list_small.csv",
        &format!("name,cpu_milli,memory_mib,num_gpu,gpu_milli\np0,4000,1024,1,500\n{pods}\n"),
    );
    folder
}

fn compare(data: &std::path::Path, out: &std::path::Path, more: &[&str]) -> std::process::Output {
    let mut command = Command::new(example("scheduler_lab"));
    command.args(["--reproduce", "openb", "--data"]).arg(data).arg("--out").arg(out).args(more);
    command.output().expect("the example starts")
}

#[test]
fn policies_are_compared_on_a_trace() {
    let (data, out) = (trace("p1,4000,1024,1,1000"), tempfile::tempdir().expect("a folder"));
    let output = compare(data.path(), &out.path().join("new"), &[]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = std::fs::read_to_string(out.path().join("new/openb.csv")).expect("a table");
    let policies = ["01-Random", "02-DotProd", "03-GpuClustering", "04-GpuPacking", "05-BestFit", "06-FGD"];
    let rows: Vec<&str> = table.lines().skip(1).collect();
    assert!(rows.iter().zip(policies).all(|(row, policy)| row.starts_with(&format!("small,{policy},10,"))), "{table}");
    assert_eq!(rows.len(), 6);
    let picture = std::fs::read_to_string(out.path().join("new/openb-small-allocation.svg")).expect("a picture");
    assert!(picture.contains("06-FGD"));

    let output = compare(data.path(), out.path(), &["--ties"]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    let table = std::fs::read_to_string(out.path().join("openb-ties.csv")).expect("a table");
    assert!(table.contains("\nsmall,06-FGD (any of the best),10,"), "{table}");
}

#[test]
fn policies_are_compared_in_virtual_time() {
    let (data, out) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let lab = |args: &[&str]| {
        let mut command = Command::new(example("scheduler_lab"));
        command.args(["--seeds", "2", "--load", "20"]).args(args).arg("--out").arg(out.path());
        command.output().expect("the example starts")
    };
    let output = lab(&[]);
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(said.lines().any(|line| line.starts_with("fragmentation-gradient ")), "{said}");
    assert!(said.contains(" decisions in common; then "), "{said}");
    let table = std::fs::read_to_string(out.path().join("policies.csv")).expect("a table");
    assert!(table.contains("\nbest-fit,wait_p99,2,"), "{table}");
    assert!(out.path().join("policies-waits.svg").exists());

    let nodes = data.path().join("nodes.csv");
    let pods = data.path().join("pods.csv");
    std::fs::write(&nodes, "sn,cpu_milli,memory_mib,gpu,model\nn0,64000,262144,2,P100\n").expect("a file");
    let header = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,creation_time,deletion_time\n";
    std::fs::write(&pods, format!("{header}p0,4000,1024,1,500,0,60\np1,4000,1024,2,1000,10,70\n")).expect("a file");
    let [nodes, pods] = [&nodes, &pods].map(|path| path.to_str().expect("a path in UTF-8"));
    let recorded = ["--trace", "openb", "--nodes", nodes, "--pods", pods];
    assert!(lab(&recorded).status.success());
    let said = text(&lab(&["--trace", "openb", "--nodes", "/nowhere", "--pods", pods]).stderr);
    assert!(said.contains("--nodes: /nowhere can't be opened"), "{said}");
    std::fs::write(pods, format!("{header}p0,4000,1024,1,1001,0,60\n")).expect("a file");
    let said = text(&lab(&recorded).stderr);
    assert!(
        said.contains("--pods") && said.contains("pods.csv:2: gpu_milli: 1001 is not between 1 and 1000"),
        "{said}"
    );
}

#[test]
fn policies_are_compared_on_a_trace_of_any_format() {
    let data = tempfile::tempdir().expect("a folder");
    let lab = |format: &str, text_of: &str, more: &[&str]| {
        let pods = data.path().join("pods");
        std::fs::write(&pods, text_of).expect("a file");
        let mut command = Command::new(example("scheduler_lab"));
        command.args(["--seeds", "1", "--trace", format, "--pods"]).arg(&pods).args(more);
        let output = command.output().expect("the example starts");
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    let jobs = "vc,job_type,total_steps,arrival_s,scale_factor,duration_v100_s\na,LM,1,0,16,60\nb,LM,1,60,1,NaN\n";
    let (done, said) = lab("philly", jobs, &[]);
    assert!(done && said.contains("1 tasks with 16 pods; left out: 1 (no duration on a V100); 5 nodes\n"), "{said}");
    let (done, said) = lab("philly", jobs, &["--machines", "7"]);
    assert!(done && said.contains("; 7 nodes\n"), "{said}");
    let (done, said) = lab("swf", "; MaxProcs: 4\n1 0 0 60 2 -1 -1 2 90 -1 1 1 1 -1 1 -1 -1 -1\n", &[]);
    assert!(done && said.contains("1 tasks with 2 pods; 4 nodes\n"), "{said}");

    let (done, said) = lab("swf", jobs, &[]);
    assert!(!done && said.contains("--pods") && said.contains("pods:1: fields: there are "), "{said}");
    let (done, said) = lab("philly", jobs, &["--nodes", data.path().join("pods").to_str().expect("a path in UTF-8")]);
    assert!(!done && said.contains("--nodes") && said.contains("philly has no lists of nodes"), "{said}");
    let (done, said) = lab("luck", jobs, &[]);
    assert!(!done && said.contains("google2011"), "the formats there are: {said}");
}

#[test]
fn three_paradigms_are_compared_on_one_workload() {
    let out = tempfile::tempdir().expect("a folder");
    let output = Command::new(example("three_paradigms"))
        .args(["--load", "3", "--out"])
        .arg(out.path())
        .output()
        .expect("it starts");
    let said = text(&output.stdout);
    assert!(output.status.success(), "{}", text(&output.stderr));
    for way in ["monolithic, 30 s", "offers, 30 s", "optimistic, 30 s"] {
        assert_eq!(said.lines().filter(|line| line.starts_with(way)).count(), 2, "{said}");
    }
    let picture = std::fs::read_to_string(out.path().join("paradigms-conflict_fraction.svg")).expect("a picture");
    assert!(picture.contains("optimistic"));
}

#[test]
fn a_policy_in_python_decides_as_the_one_built_in() {
    if !has_python() {
        return;
    }
    ends_with("python_policy", " decisions, all of them the same");
    let folder = tempfile::tempdir().expect("a folder");
    let run = |program: &str| {
        let file = folder.path().join("policy.py");
        std::fs::write(&file, program).expect("a file");
        let output = Command::new(example("python_policy")).arg("--program").arg(&file).output().expect("it starts");
        (output.status.success(), text(&output.stdout) + &text(&output.stderr))
    };
    let (done, said) = run("for line in __import__('sys').stdin:\n    print('nothing', flush=True)\n");
    assert!(!done && said.contains("the policy's answer is no plan: "), "{said}");
    let (done, said) = run("");
    assert!(!done && said.contains("the policy's program has ended without an answer"), "{said}");
}

#[test]
fn a_trace_that_can_not_be_read_is_named_by_its_line() {
    let out = tempfile::tempdir().expect("a folder");
    let output = compare(trace("p1,4000,1024,1,1001").path(), out.path(), &[]);
    let said = text(&output.stderr);
    assert!(said.contains("openb_pod_list_small.csv:3: gpu_milli: 1001 is not between 1 and 1000"), "{said}");
    let output = compare(out.path(), out.path(), &[]);
    let said = text(&output.stderr);
    assert!(!output.status.success() && said.contains("openb_node_list_gpu_node.csv can't be opened"), "{said}");
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
