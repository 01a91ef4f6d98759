//! What all formats have in common: nothing that a file may hold makes an importer panic.

use proptest::{prelude::*, sample::Index};
use serde_json::json;

use super::{FORMATS, Format, TraceError, sktrace};

/// A small file of a format, with a list of nodes if it has such.
fn samples(format: &Format) -> (Vec<u8>, Option<&'static str>) {
    let (tasks, nodes) = match format.name {
        "alibaba2018" => ("M1,3,j_1,1,Terminated,100,160,50.0,0.5\n", Some("m_1,0,1,2,96,100,USING\n")),
        "azure-llm" => ("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,4808,10\n", None),
        "azure-vm" => ("a,s1,d1,0,2591700,99,9,50,Delay-insensitive,2,3.5\n", None),
        "google2011" => {
            ("0,,1,0,,0,u=,3,9,0.5,0.25,0,0\n700000000,,1,0,5,1,u=,3,9,0.5,0.25,0,0\n", Some("0,5,0,p,0.5,0.25\n"))
        }
        "google2019" => (
            "{\"time\":\"0\",\"type\":\"3\",\"collection_id\":\"7\",\"instance_index\":\"1\",\"priority\":\"200\",\
             \"resource_request\":{\"cpus\":0.02,\"memory\":0.01}}\n",
            Some("{\"time\":\"0\",\"machine_id\":\"5\",\"type\":\"1\",\"capacity\":{\"cpus\":0.5,\"memory\":0.25}}\n"),
        ),
        "kubernetes" => (
            "kind: Pod\nmetadata: {name: a}\nspec:\n  containers:\n  - {name: c, resources: {requests: {cpu: 1}}}\n",
            Some("---\nkind: Node\nmetadata: {name: n}\nstatus: {capacity: {cpu: 4, memory: 8Gi}}\n"),
        ),
        "openb" => (
            "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time\n\
             p0,6000,12288,1,460,V100M16|T4,LS,Running,10,25\n",
            Some("sn,cpu_milli,memory_mib,gpu,model\nn0,64000,262144,2,P100\n"),
        ),
        "philly" => (
            "vc,job_type,total_steps,arrival_s,scale_factor,duration_v100_s\n0e4a51,LM (batch size 10),9,0.0,2,17465.9\n",
            None,
        ),
        "swf" => ("; MaxProcs: 8\n1 0 -1 60 4 -1 -1 4 90 -1 1 1 1 -1 1 -1 -1 -1\n", None),
        _ => ("", None),
    };
    if format.name != "sktrace" {
        return (tasks.into(), nodes);
    }
    let object = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" },
        "spec": { "replicas": 2, "template": { "spec": { "containers": [{ "name": "c" }] } } },
    });
    let trace = sktrace::tests::exported(2, &json!([{ "ts": 1, "applied_objs": [object], "deleted_objs": [] }]));
    (trace, nodes)
}

#[test]
fn every_format_is_found_by_its_name() {
    assert!(FORMATS.is_sorted_by_key(|format| format.name));
    for format in FORMATS {
        let format = Format::named(format.name).expect("it is one of them");
        let (tasks, nodes) = samples(&format);
        let trace = format.tasks(&tasks[..], "tasks").unwrap_or_else(|error| panic!("{}: {error}", format.name));
        assert!(!trace.tasks.is_empty(), "{}", format.name);
        match (nodes, format.nodes(nodes.unwrap_or_default().as_bytes(), "nodes")) {
            (Some(_), Ok(nodes)) => assert_eq!(nodes.len(), 1, "{}", format.name),
            (None, Err(TraceError::NoNodes { .. })) => {}
            (_, other) => panic!("{}: {other:?}", format.name),
        }
    }
    assert!(Format::named("luck").is_none());
}

proptest! {
    #[test]
    fn no_bytes_make_an_importer_panic(bytes in any::<Vec<u8>>(), text in "\\PC*") {
        for (format, bytes) in FORMATS.iter().flat_map(|format| [(format, &bytes[..]), (format, text.as_bytes())]) {
            let _ = format.tasks(bytes, "noise").map_err(|error| error.to_string());
            let _ = format.nodes(bytes, "noise").map_err(|error| error.to_string());
        }
    }

    #[test]
    fn no_damage_to_a_file_makes_an_importer_panic(
        damage in prop::collection::vec((any::<Index>(), any::<u8>()), 1..6),
        cut in any::<Index>(),
        is_cut in any::<bool>(),
    ) {
        for format in FORMATS {
            let (tasks, nodes) = samples(&format);
            for (is_nodes, mut bytes) in [(false, tasks), (true, nodes.unwrap_or_default().into())] {
                if bytes.is_empty() {
                    continue;
                }
                for (at, byte) in &damage {
                    let at = at.index(bytes.len());
                    bytes[at] = *byte;
                }
                if is_cut {
                    bytes.truncate(cut.index(bytes.len()));
                }
                let error = if is_nodes {
                    format.nodes(&bytes[..], "damaged").err()
                } else {
                    format.tasks(&bytes[..], "damaged").err()
                };
                if let Some(error) = error {
                    prop_assert!(error.to_string().starts_with("damaged"), "{error}");
                }
            }
        }
    }
}
