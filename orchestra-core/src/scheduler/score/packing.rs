//! Scores that pack nodes with devices, as the authors of FGD compare them (Weng et al., ATC 2023, section 6; formulas and
//! rounding of their simulator, hkust-adsl/kubernetes-scheduler-simulator).

use crate::scheduler::{DEVICE_MILLIS, NodeView, Scale, Score, Shape};

/// The most that any node has of each resource, which amounts are measured by.
#[derive(Clone, Copy, Debug)]
pub struct Largest {
    /// Thousandths of a core.
    pub cpu_millis: i64,
    /// Thousandths of a device.
    pub device_millis: i64,
}

impl Default for Largest {
    /// 128 cores and 8 devices.
    fn default() -> Self {
        Self { cpu_millis: 128_000, device_millis: 8_000 }
    }
}

impl Largest {
    /// What is left on the node, and what the pod takes, of cpu and of devices; each 1 for the most there is.
    pub(super) fn shares(&self, pod: &Shape, node: &NodeView) -> [(f64, f64); 2] {
        let cpu = (node.allocatable.cpu - node.requested.cpu, pod.requests.cpu, self.cpu_millis);
        let wanted = i64::try_from(pod.devices.total_millis()).unwrap_or(i64::MAX);
        let devices = (device_millis_left(node), wanted, self.device_millis);
        [cpu, devices].map(|(left, wanted, most)| {
            let most = most.max(1) as f64;
            (left as f64 / most, wanted as f64 / most)
        })
    }
}

fn device_millis_left(node: &NodeView) -> i64 {
    node.devices_left.iter().map(|left| i64::from(*left)).sum()
}

/// Prefers nodes whose free vector is least like the pod's (Tetris' dot product, SIGCOMM 2014, turned to pack): 1 less the
/// mean of the products.
#[derive(Clone, Copy, Debug, Default)]
pub struct DotProduct(pub Largest);

impl Score for DotProduct {
    fn name(&self) -> &str {
        "dot-product"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        let [cpu, devices] = self.0.shares(pod, node).map(|(left, wanted)| left * wanted);
        ((1.0 - (cpu + devices) / 2.0) * 100.0) as i64
    }

    fn scale(&self) -> Scale {
        Scale::Points
    }
}

/// Prefers nodes of which the pod leaves the least, cpu and devices weighing alike.
#[derive(Clone, Copy, Debug, Default)]
pub struct BestFit(pub Largest);

impl Score for BestFit {
    fn name(&self) -> &str {
        "best-fit"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        let [cpu, devices] = self.0.shares(pod, node).map(|(left, wanted)| (left - wanted) * 0.5);
        ((1.0 - (cpu + devices)) * 100.0) as i64
    }

    fn scale(&self) -> Scale {
        Scale::Span
    }
}

/// Prefers nodes that have pods of the same kind, most of all those that have no others: the kinds are whole devices by
/// their number, and shares of one.
#[derive(Clone, Copy, Debug, Default)]
pub struct DeviceClustering(pub Largest);

impl Score for DeviceClustering {
    fn name(&self) -> &str {
        "device-clustering"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        let Some(class) = pod.devices.class() else { return 0 };
        let alike = node.device_pods.contains_key(&class);
        let base = match (alike, node.device_pods.len()) {
            (true, 1) => 75,
            (true, _) => 50,
            (false, 0) => 25,
            (false, _) => 0,
        };
        let most = self.0.device_millis.max(1);
        25 * (most - device_millis_left(node)) / most + base
    }

    fn scale(&self) -> Scale {
        Scale::Points
    }
}

/// Prefers devices in use to free ones, and free ones of a node in use to those of an idle node.
#[derive(Clone, Copy, Debug)]
pub struct DevicePacking;

impl Score for DevicePacking {
    fn name(&self) -> &str {
        "device-packing"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        if pod.devices.count == 0 {
            return 0;
        }
        let free = node.devices_left.iter().filter(|left| **left == DEVICE_MILLIS).count();
        if free == node.devices_left.len() {
            let free = i64::try_from(free).unwrap_or(i64::MAX);
            return (33 - free).max(free);
        }
        let mut enough: Vec<i64> =
            node.devices_left.iter().filter(|left| **left >= pod.devices.millis).map(|left| i64::from(*left)).collect();
        enough.sort_unstable();
        enough.truncate(usize::from(pod.devices.count));
        let whole = i64::from(DEVICE_MILLIS);
        let opened = enough.iter().filter(|left| **left == whole).count();
        if opened > 0 {
            return (50 - i64::try_from(opened).unwrap_or(50)).max(33);
        }
        let left_percent: i64 = enough.iter().map(|left| left * 100 / whole).sum();
        (100 - left_percent / 10).max(50)
    }

    fn scale(&self) -> Scale {
        Scale::Points
    }
}
