//! Fill a cluster until it is full, and beyond: pods come one by one, and none ever leaves.
//!
//! The experiment of FGD's authors (Weng et al., ATC 2023, section 6.1): what is allocated, and how much of what is idle
//! can't be used, against how much has been asked for.

use std::{num::NonZeroU32, sync::Arc};

use crate::{
    clock::Timestamp,
    rng::mixed,
    scheduler::{
        Ask, Detect, NodeId, NodeInfo, PodView, Scheduler, Shape, Snapshot, TypicalPods, Unit, UnitId, commit,
    },
};

/// A cluster, and a workload to fill it with.
#[derive(Clone, Debug)]
pub struct Inflation<'a> {
    /// The nodes. A seeded permutation of them is the order in which ties are broken.
    pub nodes: &'a [NodeInfo],
    /// The pods, each of which comes once, in an order that the seed draws; then any of them again.
    pub pods: &'a [Arc<Shape>],
    /// What fragmentation is measured by.
    pub typical: &'a TypicalPods,
    /// Until so much has been asked for, as a multiple of the devices there are.
    pub until: f64,
    /// Decides the order of nodes and pods, and is what the scheduler draws by.
    pub seed: u64,
}

/// How the cluster stood after a pod had come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// The devices asked for so far, placed or not, in hundredths of those there are.
    pub arrived: f64,
    /// The devices allocated, in hundredths of those there are.
    pub allocated: f64,
    /// What typical pods can't use, in hundredths of what is idle.
    pub fragmented_of_idle: f64,
    /// What typical pods can't use, in hundredths of all there is.
    pub fragmented_of_all: f64,
}

/// What one run found: a sample for each pod, in the order they came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve(pub Vec<Sample>);

impl Curve {
    /// The mean of a quantity over the samples whose arrived share is `percent`, when rounded; `None` if there are none.
    pub fn at(&self, percent: u32, quantity: impl Fn(&Sample) -> f64) -> Option<f64> {
        let there = self.0.iter().filter(|sample| sample.arrived.round() as i64 == i64::from(percent));
        let (sum, count) = there.fold((0.0, 0_usize), |(sum, count), sample| (sum + quantity(sample), count + 1));
        (count > 0).then(|| sum / count as f64)
    }
}

impl Inflation<'_> {
    /// Runs it with a scheduler.
    pub fn run(&self, scheduler: &mut dyn Scheduler) -> Curve {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        let mut snapshot = self.cluster(&mut rng);
        let capacity: f64 = self.nodes.iter().map(|node| f64::from(node.devices) * 1_000.0).sum();
        let mut by_node: Vec<f64> = snapshot.nodes().iter().map(|node| self.typical.fragmented(node)).collect();
        let mut fragmented: f64 = by_node.iter().sum();
        let (mut arrived, mut allocated, mut curve) = (0.0, 0.0, Curve::default());
        for (at, shape) in self.arrivals(&mut rng, capacity).into_iter().enumerate() {
            let wanted = shape.devices.total_millis() as f64;
            arrived += wanted;
            if let Some(node) = place(scheduler, &mut snapshot, shape, mixed(self.seed, at as u64)) {
                allocated += wanted;
                let now = self.typical.fragmented(snapshot.node(node));
                fragmented += now - std::mem::replace(&mut by_node[node.0 as usize], now);
            }
            let (percent, idle) = (100.0 / capacity, capacity - allocated);
            curve.0.push(Sample {
                arrived: arrived * percent,
                allocated: allocated * percent,
                fragmented_of_idle: if idle > 0.0 { 100.0 * fragmented / idle } else { 0.0 },
                fragmented_of_all: fragmented * percent,
            });
        }
        curve
    }

    fn cluster(&self, rng: &mut fastrand::Rng) -> Snapshot {
        let mut order: Vec<&NodeInfo> = self.nodes.iter().collect();
        rng.shuffle(&mut order);
        let named = |(rank, node): (usize, &NodeInfo)| NodeInfo {
            name: format!("{rank:06}-{}", node.name).into(),
            ..node.clone()
        };
        Snapshot::new(order.into_iter().enumerate().map(named), [])
    }

    /// The pods in the order they come: all of them, shuffled, then any of them while they fit into what may be asked for. As
    /// in the original, that test counts one device of the pod to come, however many it needs.
    fn arrivals(&self, rng: &mut fastrand::Rng, capacity: f64) -> Vec<Arc<Shape>> {
        let mut arrivals = self.pods.to_vec();
        rng.shuffle(&mut arrivals);
        let mut asked: f64 = arrivals.iter().map(|shape| shape.devices.total_millis() as f64).sum();
        while let Some(shape) = rng.choice(self.pods) {
            let one = if shape.devices.count == 0 { 0.0 } else { f64::from(shape.devices.millis) };
            // A workload that asks for no devices never gets there.
            if asked + one > self.until * capacity || asked == 0.0 {
                break;
            }
            asked += shape.devices.total_millis() as f64;
            arrivals.push(Arc::clone(shape));
        }
        arrivals
    }
}

/// Places a pod, and says where; `None` if no node takes it, and it is gone.
fn place(scheduler: &mut dyn Scheduler, snapshot: &mut Snapshot, shape: Arc<Shape>, seed: u64) -> Option<NodeId> {
    let pod = snapshot.add(PodView::new("", shape));
    let (now, queue) = (Timestamp::UNIX_EPOCH, Box::default());
    let unit = Unit { id: UnitId(0), pods: vec![pod], pods_min: 1, priority: 0, queue, since: now };
    let pending = std::slice::from_ref(&unit);
    let plan = scheduler.plan(&Ask { now, seed, snapshot, pending, scope: None, steps_max: NonZeroU32::MAX });
    let refused = plan.steps.iter().find_map(|step| commit(snapshot, step, Detect::Fit).err());
    debug_assert_eq!(refused, None, "a plan for the cluster as it is holds");
    let place = snapshot.place_of(pod);
    if place.is_none() {
        snapshot.remove(pod);
    }
    place.map(|place| place.node)
}
