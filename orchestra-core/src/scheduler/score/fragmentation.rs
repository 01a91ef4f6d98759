//! Fragmentation gradient descent: place a pod where it adds the least to what typical pods can't use (Weng, Yang, Yu, Wang,
//! Tang, Yang, Zhang: "Beware of Fragmentation: Scheduling GPU-Sharing Workloads with Fragmentation Gradient Descent",
//! ATC 2023).

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::scheduler::{
    DEVICE_MILLIS, DEVICES_MAX, DeviceRequest, DeviceSet, FullestDevices, NodeView, PickDevices, Scale, Score, Shape,
};

/// The pods that a cluster is asked for, each kind with its share; what they can't use of a node's devices is fragmented.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TypicalPods {
    /// How many kinds there are.
    len: usize,
    /// The models that some kind names, each with what is asked of nodes that have it.
    by_model: Vec<(Box<str>, Asked)>,
    /// What is asked of all others.
    of_others: Asked,
}

/// What is asked of nodes with devices of one model.
#[derive(Clone, Debug, Default, PartialEq)]
struct Asked {
    /// The share of those kinds that can't run there at all.
    useless: f64,
    /// The others, those that need the least of each device first.
    kinds: Vec<Kinds>,
}

/// The kinds that need the same devices.
#[derive(Clone, Debug, PartialEq)]
struct Kinds {
    millis: u16,
    count: usize,
    /// The cpu that each needs, ascending, with the share of it and of those before it.
    by_cpu: Vec<(i64, f64)>,
}

impl TypicalPods {
    /// The most frequent kinds among `pods`, as many as make up `coverage` of them (0 to 1), each with its share of these. Pods
    /// are of one kind if they need as much cpu and the same devices.
    pub fn of<'a>(pods: impl IntoIterator<Item = &'a Shape>, coverage: f64) -> Self {
        let (mut counts, mut all) = (BTreeMap::<(i64, &DeviceRequest), usize>::new(), 0_usize);
        for pod in pods {
            *counts.entry((pod.requests.cpu, &pod.devices)).or_insert(0) += 1;
            all += 1;
        }
        let mut by_count: Vec<_> = counts.into_iter().collect();
        by_count.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let (mut typical, mut covered) = (Vec::new(), 0);
        for (kind, count) in by_count {
            if covered as f64 >= coverage * all as f64 {
                break;
            }
            covered += count;
            typical.push((kind, count));
        }
        let typical: Vec<_> = typical.into_iter().map(|(kind, count)| (kind, count as f64 / covered as f64)).collect();
        let models: BTreeSet<&str> =
            typical.iter().flat_map(|((_, devices), _)| &*devices.models).map(|model| &**model).collect();
        Self {
            len: typical.len(),
            by_model: models.into_iter().map(|model| (model.into(), Asked::of(&typical, Some(model)))).collect(),
            of_others: Asked::of(&typical, None),
        }
    }

    /// How many kinds there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How much of a node's idle devices a typical pod can't use, in thousandths of a device: the paper's F, section 4.2.
    #[must_use]
    pub fn fragmented(&self, node: &NodeView) -> f64 {
        let cpu_left = node.allocatable.cpu - node.requested.cpu;
        self.asked_of(&node.device_model).fragmented(cpu_left, node.devices_left.iter().copied())
    }

    fn asked_of(&self, model: &str) -> &Asked {
        let named = self.by_model.binary_search_by(|(known, _)| (**known).cmp(model)).ok();
        named.and_then(|at| self.by_model.get(at)).map_or(&self.of_others, |(_, asked)| asked)
    }
}

impl Asked {
    /// Of nodes with this model, or with one that no kind names.
    fn of(typical: &[((i64, &DeviceRequest), f64)], model: Option<&str>) -> Self {
        let mut asked = Self::default();
        let mut kinds = BTreeMap::<(u16, usize), BTreeMap<i64, f64>>::new();
        for ((cpu, devices), share) in typical {
            if devices.count == 0 || !model.map_or(devices.models.is_empty(), |model| devices.allows(model)) {
                asked.useless += share;
            } else {
                *kinds.entry((devices.millis, devices.count.into())).or_default().entry(*cpu).or_insert(0.0) += share;
            }
        }
        asked.kinds.extend(kinds.into_iter().map(|((millis, count), by_cpu)| {
            let mut sum = 0.0;
            let up_to = |(cpu, share): (i64, f64)| {
                sum += share;
                (cpu, sum)
            };
            Kinds { millis, count, by_cpu: by_cpu.into_iter().map(up_to).collect() }
        }));
        asked
    }

    /// The F of a node that has so much left.
    fn fragmented(&self, cpu_left: i64, left: impl Iterator<Item = u16>) -> f64 {
        let (mut ascending, mut devices) = ([0; DEVICES_MAX], 0);
        for left in left.take(DEVICES_MAX) {
            let at = ascending[..devices].partition_point(|other| *other <= left);
            ascending.copy_within(at..devices, at + 1);
            ascending[at] = left;
            devices += 1;
        }
        let idle: u32 = ascending[..devices].iter().map(|left| u32::from(*left)).sum();
        // The devices too full for a kind are too full for all kinds after it.
        let (mut too_full, mut scraps) = (0, 0);
        let mut unusable = self.useless * f64::from(idle);
        for kinds in &self.kinds {
            while too_full < devices && ascending[too_full] < kinds.millis {
                scraps += u32::from(ascending[too_full]);
                too_full += 1;
            }
            let (cpu_most, all) = kinds.by_cpu.last().copied().unwrap_or_default();
            let served = if devices - too_full < kinds.count {
                0.0
            } else if cpu_most <= cpu_left {
                all
            } else {
                let up_to = kinds.by_cpu.partition_point(|(cpu, _)| *cpu <= cpu_left);
                up_to.checked_sub(1).and_then(|last| kinds.by_cpu.get(last)).map_or(0.0, |(_, sum)| *sum)
            };
            unusable += served * f64::from(scraps) + (all - served) * f64::from(idle);
        }
        unusable
    }
}

/// Prefers nodes that the pod fragments least, and on them the device whose share it fragments least.
///
/// Points are 100 times the logistic function of what it takes off the node's fragmentation, in devices, rounded down: the
/// rounding makes ties, and who wins these is part of the published result.
#[derive(Clone, Debug)]
pub struct Fragmentation(pub Arc<TypicalPods>);

impl Fragmentation {
    /// The points for a place with the best of the devices, and these.
    fn best(&self, pod: &Shape, node: &NodeView) -> (i64, DeviceSet) {
        let (asked, cpu_left) = (self.0.asked_of(&node.device_model), node.allocatable.cpu - node.requested.cpu);
        let before = asked.fragmented(cpu_left, node.devices_left.iter().copied());
        let points = |taken: DeviceSet| {
            let left = node.devices_left.iter().enumerate();
            let left =
                left.map(|(device, left)| if taken.contains(device) { left - pod.devices.millis } else { *left });
            let after = asked.fragmented(cpu_left - pod.requests.cpu, left);
            (100.0 / (1.0 + ((after - before) / f64::from(DEVICE_MILLIS)).exp())) as i64
        };
        if pod.devices.count != 1 || pod.devices.millis >= DEVICE_MILLIS {
            let devices = FullestDevices.pick(pod, node, 0);
            return (points(devices), devices);
        }
        let mut best: Option<(i64, DeviceSet)> = None;
        for (device, left) in node.devices_left.iter().enumerate() {
            // Devices with as much left are alike: the first stands for all of them.
            if *left < pod.devices.millis || node.devices_left.iter().take(device).any(|other| other == left) {
                continue;
            }
            let devices = DeviceSet::from_iter([device]);
            let points = points(devices);
            if best.is_none_or(|(most, _)| points > most) {
                best = Some((points, devices));
            }
        }
        best.unwrap_or_default()
    }
}

impl Score for Fragmentation {
    fn name(&self) -> &str {
        "fragmentation"
    }

    fn score(&self, pod: &Shape, node: &NodeView) -> i64 {
        self.best(pod, node).0
    }

    fn scale(&self) -> Scale {
        Scale::Points
    }
}

impl PickDevices for Fragmentation {
    fn pick(&self, pod: &Shape, node: &NodeView, _: u64) -> DeviceSet {
        self.best(pod, node).1
    }
}
