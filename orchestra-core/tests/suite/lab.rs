//! The published comparison on the OpenB trace, where the trace is at hand.

#![allow(clippy::print_stdout, reason = "what is skipped is said")]

use std::{fs::File, path::Path};

use orchestra_core::lab::{openb, trace};

/// Where traces are kept beside the project.
const TRACES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data/traces/openb-fgd");

/// One seed each of the best and the second best policy: all of them take minutes here, and are what the example
/// `scheduler_lab` runs.
#[test]
fn policies_do_as_was_published() {
    let folder = Path::new(TRACES);
    let Ok(nodes) = File::open(folder.join("openb_node_list_gpu_node.csv")) else {
        println!("skipped: there is no trace in {TRACES}");
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
