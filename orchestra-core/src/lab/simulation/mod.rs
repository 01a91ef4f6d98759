//! A cluster in virtual time: pods arrive, run and end, nodes fail and return, and schedulers think while all of that goes on.
//!
//! A discrete-event simulation after Omega's (Schwarzkopf et al., EuroSys 2013; google/cluster-scheduler-simulator). A
//! scheduler plans on the cell as it is when it wakes; what it planned takes effect when its thinking time is over, by
//! [`commit`](crate::scheduler::commit), as the cell is *then*: what no longer holds is refused, and tried again. So several
//! schedulers of one cell are in each other's way as much as they would be in a cluster.
//!
//! Time is whole microseconds; what happens at one moment happens in the order in which it was brought about. Equal input and
//! an equal seed give an equal [`Outcome`], log included (SEMANTICS 60).
//!
//! # Examples
//!
//! ```
//! use orchestra_core::{
//!     lab::simulation::{Agent, Arrival, Micros, Simulation, Work},
//!     rng::Entropy,
//!     scheduler::{FirstFit, NodeInfo, Resources, Shape},
//! };
//!
//! let allocatable = Resources { cpu: 1_000, pods: 10, ..Resources::default() };
//! let nodes = [NodeInfo { name: "n0".into(), allocatable, ..NodeInfo::default() }];
//! let requests = Resources { cpu: 600, pods: 1, ..Resources::default() };
//! let shape = Shape { requests, ..Shape::default() };
//! let work = Work::new(shape, Some(Micros::from_seconds(60.0)));
//! // Two pods come at once, and only one fits.
//! let arrivals = ["a", "b"].map(|name| Arrival::pod(name, Micros::ZERO, work.clone()));
//! let outcome = Simulation::of(&nodes).run(arrivals, vec![Agent::new(FirstFit::default())], |_| 0, &Entropy::seeded(1));
//! let waits: Vec<_> = outcome.units.iter().filter_map(|unit| Some(unit.placed?.since(unit.arrived).seconds())).collect();
//! assert_eq!(waits, [0.0, 60.0]);
//! ```

mod cell;
mod engine;
mod events;
mod log;
mod outcome;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

pub use self::{
    log::{Decision, Divergence, Fate, Log, Mismatch, Record},
    outcome::{AgentOutcome, Amounts, Change, Outcome, UnitOutcome},
};
use crate::{
    rng::Entropy,
    scheduler::{Commit, Detect, NodeInfo, Scheduler, Shape},
};

/// Virtual time: microseconds since the beginning, or between two moments.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Micros(pub u64);

impl Micros {
    /// The beginning.
    pub const ZERO: Self = Self(0);

    /// Beyond every end.
    pub const MAX: Self = Self(u64::MAX);

    /// The nearest whole number of microseconds; 0 for what is negative, or no number.
    #[must_use]
    pub fn from_seconds(seconds: f64) -> Self {
        Self((seconds * 1e6).round() as u64)
    }

    /// In seconds.
    #[must_use]
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// How long it is since `earlier`; 0 if that is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }

    /// So much later, but no later than [`MAX`](Self::MAX).
    #[must_use]
    pub fn after(self, span: Self) -> Self {
        Self(self.0.saturating_add(span.0))
    }

    /// So many times as long.
    #[must_use]
    pub fn times(self, count: u64) -> Self {
        Self(self.0.saturating_mul(count))
    }
}

impl From<Duration> for Micros {
    /// Rounds down.
    fn from(duration: Duration) -> Self {
        Self(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
    }
}

impl fmt::Debug for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}s", self.seconds())
    }
}

/// What a pod needs, and for how long.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// What it needs.
    pub shape: Arc<Shape>,
    /// How long it runs once it has a place; `None` if it doesn't end.
    pub runs: Option<Micros>,
    /// How long its owner says that it runs, which is what schedulers are told; `None` if that is how long it does.
    pub estimate: Option<Micros>,
}

impl Work {
    /// A pod of which it is known how long it runs.
    pub fn new(shape: impl Into<Arc<Shape>>, runs: Option<Micros>) -> Self {
        Self { shape: shape.into(), runs, estimate: None }
    }
}

/// A unit that comes: a pod, or a gang.
#[derive(Clone, Debug, PartialEq)]
pub struct Arrival {
    /// When. A workload is in the order of time; what comes too late for its place in it comes at once.
    pub at: Micros,
    /// Its name.
    pub name: Box<str>,
    /// The tenant.
    pub queue: Box<str>,
    /// A higher one is served first.
    pub priority: i32,
    /// Its pods.
    pub pods: Vec<Work>,
    /// Fewer running than this, and none may start.
    pub pods_min: usize,
}

impl Arrival {
    /// A single pod of no tenant.
    pub fn pod(name: impl Into<Box<str>>, at: Micros, work: Work) -> Self {
        Self { at, name: name.into(), queue: Box::default(), priority: 0, pods: vec![work], pods_min: 1 }
    }
}

/// How long a scheduler thinks: Omega's t = t_job + t_task × tasks, to which what a step says of its own
/// [`cost`](crate::scheduler::Step::cost) is added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Thinking {
    /// For each unit it decides on.
    pub per_unit: Micros,
    /// For each pod of it that waits.
    pub per_pod: Micros,
}

/// Which of its units an agent is asked for at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serves {
    /// Those that are new, or that room was made for, up to [`Agent::units_max`] of them.
    #[default]
    Due,
    /// All that wait, whenever one is new or room was made: for schedulers that keep room for those who come first
    /// ([`Backfill`](crate::scheduler::Backfill)), or weigh all against each other.
    Queue,
}

/// A scheduler at work: it serves its units by priority, then by arrival, and sees nothing of the others but what they have
/// done to the cell.
#[derive(Debug)]
pub struct Agent {
    /// What decides; asked and told as in a cluster.
    pub scheduler: Box<dyn Scheduler>,
    /// How long that takes.
    pub thinking: Thinking,
    /// How many units it decides on at once.
    pub units_max: usize,
    /// Which ones.
    pub serves: Serves,
    /// When a step of it is refused.
    pub detect: Detect,
    /// Whether its steps stand or fall as wholes; `None` if each step says so itself.
    pub commit: Option<Commit>,
    /// How long a unit waits after it was refused.
    pub retry: Micros,
    /// After so many refusals a unit is given up.
    pub refusals_max: u32,
}

impl Agent {
    /// An agent that takes no time, decides on one unit after another, and is refused only what doesn't fit; what is refused is
    /// tried again after a second, a thousand times (the defaults of Omega's simulator).
    pub fn new(scheduler: impl Scheduler) -> Self {
        Self {
            scheduler: Box::new(scheduler),
            thinking: Thinking::default(),
            units_max: 1,
            serves: Serves::Due,
            detect: Detect::Fit,
            commit: None,
            retry: Micros::from_seconds(1.0),
            refusals_max: 1_000,
        }
    }

    /// Decides on all that wait at once.
    #[must_use]
    pub fn whole_queue(self) -> Self {
        Self { serves: Serves::Queue, ..self }
    }

    /// Thinks for so long.
    #[must_use]
    pub fn thinking(self, per_unit: Micros, per_pod: Micros) -> Self {
        Self { thinking: Thinking { per_unit, per_pod }, ..self }
    }
}

/// What becomes of pods that are lost with their node, or evicted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// They wait for another place, and begin anew.
    ArriveAgain,
    /// They are gone.
    Gone,
}

/// Nodes that fail and return; each span is drawn anew, exponentially distributed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Churn {
    /// How long a node is up, in the mean (MTBF).
    pub up: Micros,
    /// How long it is down, in the mean (MTTR).
    pub down: Micros,
    /// No node fails later.
    pub until: Micros,
}

/// What agents see of the cell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// All of it, all at once; what they do to each other is found out when a plan takes effect (Omega).
    #[default]
    Everything,
    /// What they are offered: all that is free and that nobody else holds, whose share is smallest first
    /// ([`Offers`](crate::scheduler::Offers), Mesos). An offer is held while the agent thinks.
    Offers,
}

/// A cluster, and how it behaves.
#[derive(Clone, Copy, Debug)]
pub struct Simulation<'a> {
    /// The nodes.
    pub nodes: &'a [NodeInfo],
    /// Whether and how nodes fail. A node that is down has nothing allocatable.
    pub churn: Option<Churn>,
    /// What becomes of pods whose node fails, and of those that a plan evicts.
    pub lost: Lost,
    /// What agents see of the cell.
    pub sharing: Sharing,
    /// It ends then, or when nothing is left to happen.
    pub until: Micros,
}

impl<'a> Simulation<'a> {
    /// Nodes that never fail, until nothing is left to happen.
    #[must_use]
    pub fn of(nodes: &'a [NodeInfo]) -> Self {
        Self { nodes, churn: None, lost: Lost::ArriveAgain, sharing: Sharing::Everything, until: Micros::MAX }
    }

    /// Runs a workload. `route` tells by its number which agent a unit goes to; a number beyond the last is the last's.
    ///
    /// A unit that found no place waits until a pod or a node makes room for one of its pods. Pods of a shape that has just
    /// found no place are not asked for again before that (they would fare alike: law 8 of [`Scheduler`]), unless pods of the
    /// workload are bound to where others are, or the agent [serves](Agent::serves) the whole queue.
    ///
    /// # Panics
    ///
    /// If there are no agents, or 2^32 units.
    pub fn run(
        &self,
        arrivals: impl IntoIterator<Item = Arrival>,
        agents: Vec<Agent>,
        route: impl Fn(&Arrival) -> usize,
        entropy: &Entropy,
    ) -> Outcome {
        assert!(!agents.is_empty(), "somebody has to decide");
        engine::Engine::new(self, arrivals.into_iter(), agents, &route, entropy).run()
    }
}
