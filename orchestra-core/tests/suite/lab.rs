//! Recorded workloads, and the published comparison on one of them, where they are at hand.

#![allow(clippy::print_stdout, reason = "what is skipped is said")]

use std::{fs::File, path::Path};

use orchestra_core::lab::{openb, trace, workload};

/// Where traces are kept beside the project.
const TRACES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/traces");

/// One seed each of the best and the second best policy: all of them take minutes here, and are what the example
/// `scheduler_lab` runs.
#[test]
fn policies_do_as_was_published() {
    let folder = Path::new(TRACES).join("openb-fgd");
    let Ok(nodes) = File::open(folder.join("openb_node_list_gpu_node.csv")) else {
        println!("skipped: there is no trace in {}", folder.display());
        return;
    };
    let open = |file: &str| File::open(folder.join(file)).expect("it is in the same folder");
    let nodes = trace::openb::nodes(nodes, "nodes").expect("nodes");
    let published = openb::published(open("published_results_mean10.csv"), "published").expect("a table");
    for name in ["default", "gpuspec33"] {
        let pods = trace::openb::pods(open(&format!("openb_pod_list_{name}.csv")), name).expect("pods");
        let workload = openb::Workload::new(name, pods.into_iter().map(|task| task.shape).collect());
        for policy in ["05-BestFit", "06-FGD"] {
            let curve =
                workload.run(&nodes, openb::Variant { policy, ties: openb::TieBreak::First }, 42).expect("a policy");
            let (allocated, fragmented) = published[&(name.into(), policy.into())];
            let at_100 = curve.at(100, |sample| sample.allocated).expect("a sample");
            let at_80 = curve.at(80, |sample| sample.fragmented_of_idle).expect("a sample");
            assert!((at_100 - allocated).abs() < 1.0, "{name} {policy}: {at_100} allocated, published {allocated}");
            assert!((at_80 - fragmented).abs() < 4.0, "{name} {policy}: {at_80} fragmented, published {fragmented}");
        }
    }
}

/// What the traces' own description says of them, or a count by other means.
#[test]
fn recorded_workloads_are_read_whole() {
    for (format, file, said) in [
        ("alibaba2018", "alibaba2018-batch/jobs.csv", "31756 tasks with 2551075 pods"),
        ("azure-llm", "azure-llm-2023/AzureLLMInferenceTrace_code.csv", "8819 tasks with 8819 pods"),
        ("azure-llm", "azure-llm-2023/AzureLLMInferenceTrace_conv.csv", "19366 tasks with 19366 pods"),
        ("openb", "openb-fgd/openb_pod_list_default.csv", "8152 tasks with 8152 pods"),
        (
            "philly",
            "philly-gavel/philly_vcs_seed0.csv",
            "13716 tasks with 28372 pods; left out: 1548 (no duration on a V100)",
        ),
        ("sktrace", "format-samples/simkube/dsb-scaling.sktrace", "54 tasks with 54 pods"),
    ] {
        let Ok(input) = File::open(Path::new(TRACES).join(file)) else {
            println!("skipped: there is no {file} in {TRACES}");
            continue;
        };
        let format = trace::Format::named(format).expect("it is one of them");
        let trace = format.tasks(input, file).expect("a trace");
        assert_eq!(trace.to_string(), said, "{file}");
        let nodes = workload::nodes_of_trace(&trace, None);
        assert!(!nodes.is_empty() && nodes.len() < 10_000, "{file}: {} nodes", nodes.len());
    }
}
