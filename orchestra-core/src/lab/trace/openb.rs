//! Alibaba's OpenB trace of pods that share GPUs (clusterdata 2023, as FGD's authors publish it).

use std::{io, time::Duration};

use super::{Row, Table, Task, Trace, TraceError, machine, shape};
use crate::scheduler::{DEVICE_MILLIS, DEVICES_MAX, DeviceRequest, NodeInfo};

/// What a node is taken for if there is no list of them: the largest of the trace's, but for its memory.
const MACHINE_CPU_MILLIS: i64 = 128_000;
const MACHINE_MEMORY_BYTES: i64 = 768 << 30;
const MACHINE_DEVICES: u8 = 8;

/// Reads a list of nodes: `sn,cpu_milli,memory_mib,gpu,model`.
///
/// # Errors
///
/// [`TraceError`] names the file, the line and the field.
pub fn nodes(input: impl io::Read, file: &str) -> Result<Vec<NodeInfo>, TraceError> {
    Table::new(input, file, &["sn", "cpu_milli", "memory_mib", "gpu", "model"])?.rows(|row| {
        let (cpu, memory) = (row.number("cpu_milli", 0, i64::MAX)?, mebibytes(row)?);
        let devices = row.number("gpu", 0, DEVICES_MAX as u8)?;
        let node = machine(row.text("sn"), cpu, memory, devices);
        Ok(NodeInfo { device_model: row.text("model").into(), ..node })
    })
}

/// Reads a list of pods: `name,cpu_milli,memory_mib,num_gpu,gpu_milli`, and, where they are there, `gpu_spec`,
/// `creation_time` and `deletion_time` (seconds).
///
/// # Errors
///
/// [`TraceError`] names the file, the line and the field.
pub fn pods(input: impl io::Read, file: &str) -> Result<Vec<Task>, TraceError> {
    Table::new(input, file, &["name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli"])?.rows(|row| {
        let (cpu, memory) = (row.number("cpu_milli", 0, i64::MAX)?, mebibytes(row)?);
        let time = |column: &str| -> Result<Option<Duration>, TraceError> {
            if row.text(column).is_empty() {
                Ok(None)
            } else {
                row.number(column, 0, u64::MAX).map(Duration::from_secs).map(Some)
            }
        };
        let arrives = time("creation_time")?;
        let ends = time("deletion_time")?;
        Ok(Task {
            arrives: arrives.unwrap_or_default(),
            runs: arrives.zip(ends).and_then(|(arrives, ends)| ends.checked_sub(arrives)),
            ..Task::pod(row.text("name"), shape(cpu, memory, devices(row)?))
        })
    })
}

/// The pods as a trace.
pub(super) fn trace(tasks: Vec<Task>) -> Trace {
    let machine = machine("", MACHINE_CPU_MILLIS, MACHINE_MEMORY_BYTES, MACHINE_DEVICES);
    Trace { tasks, machine, ..Trace::default() }
}

fn mebibytes(row: &Row<'_>) -> Result<i64, TraceError> {
    Ok(row.number("memory_mib", 0, i64::MAX >> 20)? << 20)
}

fn devices(row: &Row<'_>) -> Result<DeviceRequest, TraceError> {
    let count = row.number("num_gpu", 0, DEVICES_MAX as u8)?;
    if count == 0 {
        return Ok(DeviceRequest::default());
    }
    let millis = row.number("gpu_milli", 1, DEVICE_MILLIS)?;
    if count > 1 && millis < DEVICE_MILLIS {
        return Err(row.problem("gpu_milli", format!("a pod of {count} GPUs takes the whole of each")));
    }
    let models = row.text("gpu_spec").split('|').filter(|model| !model.is_empty()).map(Into::into).collect();
    Ok(DeviceRequest { count, millis, models })
}

#[cfg(test)]
mod tests {
    use super::{nodes, pods};

    #[test]
    fn nodes_and_pods_are_read() {
        let list = "sn,cpu_milli,memory_mib,gpu,model\nn0,64000,262144,2,P100\nn1,32000,1024,0,\n";
        let nodes = nodes(list.as_bytes(), "nodes.csv").expect("a list");
        assert_eq!((nodes[0].allocatable.cpu, nodes[0].devices, &*nodes[0].device_model), (64_000, 2, "P100"));
        let list = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos,pod_phase,creation_time,deletion_time\n\
                    p0,6000,12288,1,460,V100M16|T4,LS,Running,10,25\np1,100,1,0,0,,LS,Running,7,\n";
        let pods = pods(list.as_bytes(), "pods.csv").expect("a list");
        assert_eq!((pods[0].shape.devices.millis, pods[0].shape.devices.models.len()), (460, 2));
        assert_eq!((pods[0].arrives.as_secs(), pods[0].runs.map(|runs| runs.as_secs())), (10, Some(15)));
        assert_eq!((pods[1].shape.devices.count, pods[1].runs), (0, None));
    }

    #[test]
    fn what_is_wrong_is_named_by_file_line_and_field() {
        let header = "name,cpu_milli,memory_mib,num_gpu,gpu_milli\n";
        for (line, message) in [
            ("p,1,1,1,1001", "pods.csv:3: gpu_milli: 1001 is not between 1 and 1000"),
            ("p,1,1,2,500", "pods.csv:3: gpu_milli: a pod of 2 GPUs takes the whole of each"),
            ("p,x,1,0,0", "pods.csv:3: cpu_milli: \"x\" is no number of this kind"),
            ("p,1,-1,0,0", "pods.csv:3: memory_mib: -1 is not between 0 and 8796093022207"),
            ("p,1,1,65,1000", "pods.csv:3: num_gpu: 65 is not between 0 and 64"),
        ] {
            let list = format!("{header}good,1,1,0,0\n{line}\n");
            assert_eq!(pods(list.as_bytes(), "pods.csv").expect_err("a bad line").to_string(), message);
        }
        let error = pods("name,cpu_milli\n".as_bytes(), "pods.csv").expect_err("a column is missing");
        assert_eq!(error.to_string(), "pods.csv: there is no column \"memory_mib\"");
    }
}
