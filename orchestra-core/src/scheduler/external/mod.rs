//! A policy in another program, such as one that was learned: features out, a plan in, a line of JSON each.

mod judge;
mod protocol;
#[cfg(all(test, feature = "conformance"))]
mod tests;

use std::{
    fmt,
    io::{self, BufRead, Read as _, Write},
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use self::{
    judge::Judge,
    protocol::{Answer, Question},
};
use super::{Ask, Lineage, NodeId, Pipeline, Plan, Scheduler, UnitId, Version};

/// The version of the protocol.
pub const PROTOCOL_VERSION: u32 = 1;

/// The longest line that is taken for an answer.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// How many faults are kept until somebody takes them.
const FAULTS_MAX: usize = 100;

/// A scheduler that asks another program, and takes of its plans what holds.
///
/// It writes one line for each ask and reads one line for the plan, both of them JSON objects. What comes back is checked as if a
/// stranger had sent it: a step that names what isn't there, breaks a constraint, takes more than is left, splits a gang or
/// leaves the scope is dropped; the [`Fault`] is noted ([`faults`](Self::faults)), and the unit is left over. Of the nodes that
/// would have taken it, the reason says so; so laws 1, 2, 3, 6, 7 and the first half of 8 hold whatever the program does. Laws 4
/// and 5, and that nothing is left over which a node takes, are the program's to keep.
///
/// A plan waits for the program: how long is up to the reader it is given, which may fail with [`io::ErrorKind::TimedOut`]; a
/// pipe by itself waits for ever. A program that has ended, or can't be talked to, is not asked again.
///
/// # The protocol, version 1
///
/// The ask is one line, of these fields:
///
/// | field | what |
/// |---|---|
/// | `version` | 1 |
/// | `now_micros` | now, in microseconds since 1970 |
/// | `seed` | a whole number of up to 64 bits, to draw by: equal asks are to give equal plans |
/// | `steps_max` | how many candidate placements to look at, at most |
/// | `anew` | whether the cluster begins anew: `nodes` are all there are, and what was said before is void |
/// | `nodes` | the nodes; unless `anew`, only those that may have changed since the ask before |
/// | `scope` | the names of the nodes on offer; absent if all are |
/// | `shapes` | what the pods of this ask need, each shape once |
/// | `units` | what to decide on, in the order to serve it |
///
/// A node has a `name` and a `version`, which rises when something on it changes; `allocatable`, `requested` and
/// `weighed_requests` by resource (`cpu` in thousandths of a core, all else in bytes or units; what is 0 is absent); and, if
/// there is anything to say, `unschedulable`, `labels`, `taints`, `host_ports` (address, protocol, number), and `devices` with
/// their `model` and what is `left` of each in thousandths. To one that [may evict](Self::evicting) it also tells the running
/// `pods` (`id`, `priority`, `requests`, `devices`). A shape has `requests` and `weighed_requests`, and, if there is anything
/// to say, `namespace`, `labels`, `priority`, `devices` (`count`, `millis` of each, `models`), `node_name`, `node_selector`,
/// `tolerations`, `affinity`, `spread`, `host_ports` and `images`, as the Kubernetes API has them. A unit has an `id`, `pods`
/// (each an `id`, a `name` and the place of its `shape` in `shapes`), `pods_min`, `priority`, `queue` and `since_micros`. Nodes
/// are in the order of their names. Where pods run that others want to be near to, or away from, is not told: a plan that
/// doesn't fit with them is refused.
///
/// The answer is one line, `{"version":1,"steps":[…],"left":[…]}`. Each unit of the ask is in exactly one of both: in `left` by
/// its id, or in a step, `{"unit":0,"ops":[…]}`, which is carried out as a whole or not at all, after those before it. An
/// operation is `{"place":{"pod":7,"node":"n1","devices":[0]}}`, where `devices` may be left to the scheduler by leaving them
/// out, or `{"evict":{"pod":3,"for":7}}`. Fields that are not named here are an error in an answer, and are to be ignored in an
/// ask: a later version 1 may have more of them.
///
/// # Examples
///
/// ```
/// use orchestra_core::scheduler::{
///     Ask, External, NodeInfo, PodId, PodView, Resources, Scheduler as _, Shape, Snapshot, Unit, UnitId,
/// };
///
/// let allocatable = Resources { cpu: 1_000, pods: 10, ..Resources::default() };
/// let node = NodeInfo { name: "n0".into(), allocatable, ..NodeInfo::default() };
/// let shape = Shape { requests: Resources { cpu: 600, pods: 1, ..Resources::default() }, ..Shape::default() };
/// let snapshot = Snapshot::new([node], [(PodView::new("web", shape), None)]);
/// let pending = [Unit {
///     id: UnitId(0),
///     pods: vec![PodId(0)],
///     pods_min: 1,
///     priority: 0,
///     queue: "".into(),
///     since: Default::default(),
/// }];
/// // What a program would say, which is not listened to here.
/// let answer = r#"{"version":1,"steps":[{"unit":0,"ops":[{"place":{"pod":0,"node":"n0"}}]}],"left":[]}"#;
/// let mut scheduler = External::new("canned", std::io::sink(), answer.as_bytes());
/// let plan = scheduler.plan(&Ask {
///     now: Default::default(),
///     seed: 1,
///     snapshot: &snapshot,
///     pending: &pending,
///     scope: None,
///     steps_max: std::num::NonZeroU32::MAX,
/// });
/// assert_eq!((plan.steps.len(), scheduler.faults().count()), (1, 0));
/// ```
pub struct External {
    name: Box<str>,
    input: Box<dyn Write + Send + Sync>,
    output: Box<dyn BufRead + Send + Sync>,
    /// The constraints that every plan has to keep.
    required: Pipeline,
    evicts: bool,
    /// Up to where the program knows the cluster, if it does.
    known: Option<(Lineage, Version)>,
    is_gone: bool,
    faults: Faults,
}

/// What was wrong with a program, or with what it answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// It can't be written to, or read from in time.
    #[error("the policy's program can't be talked to")]
    Broken(#[source] io::Error),
    /// It has ended, or closed its output.
    #[error("the policy's program has ended without an answer")]
    Ended,
    /// It failed before, and was not asked.
    #[error("the policy's program is not asked any more")]
    Gone,
    /// Its line is none that the protocol knows.
    #[error("the policy's answer is no plan: {0}")]
    NoPlan(Box<str>),
    /// What it plans for a unit doesn't hold.
    #[error("the policy's plan for unit {unit} doesn't hold: {problem}", unit = unit.0)]
    Unsound {
        /// The unit.
        unit: UnitId,
        /// Why not.
        problem: Box<str>,
    },
}

/// The faults of a program, shared by all clones: the first hundred that nobody has taken yet, and how many there were.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<(Vec<Fault>, u64)>>);

impl Faults {
    /// How many there have been, taken or not.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Takes those that are kept.
    #[must_use]
    pub fn take(&self) -> Vec<Fault> {
        mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner).0)
    }

    fn note(&self, fault: Fault) {
        let (kept, count) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        if kept.len() < FAULTS_MAX {
            kept.push(fault);
        }
    }
}

impl External {
    /// A scheduler of this name that asks whoever reads `input` and writes `output`, such as the standard input and output of a
    /// child process.
    pub fn new(
        name: impl Into<Box<str>>,
        input: impl Write + Send + Sync + 'static,
        output: impl BufRead + Send + Sync + 'static,
    ) -> Self {
        Self {
            name: name.into(),
            input: Box::new(input),
            output: Box::new(output),
            required: Pipeline::new("required").required(),
            evicts: false,
            known: None,
            is_gone: false,
            faults: Faults::default(),
        }
    }

    /// Tells of running pods, too, and lets the program evict them. Each ask then looks at every pod.
    #[must_use]
    pub fn evicting(mut self) -> Self {
        self.evicts = true;
        self
    }

    /// What was wrong with the program so far; the handle goes on to tell when the scheduler is in other hands.
    #[must_use]
    pub fn faults(&self) -> Faults {
        self.faults.clone()
    }

    /// Asks the program.
    fn talk(&mut self, ask: &Ask<'_>) -> Result<Answer, Fault> {
        if self.is_gone {
            return Err(Fault::Gone);
        }
        let snapshot = ask.snapshot;
        let known = self.known.take().filter(|(lineage, _)| lineage == snapshot.lineage());
        let changed = known.and_then(|(_, version)| snapshot.changed_since(version));
        let question = match changed {
            Some(changed) => {
                let mut changed: Vec<NodeId> = changed.to_vec();
                changed.sort_unstable();
                changed.dedup();
                Question::new(ask, false, &changed, self.evicts)
            }
            None => Question::new(ask, true, &snapshot.node_ids().collect::<Vec<_>>(), self.evicts),
        };
        let line = exchange(&mut self.input, &mut self.output, &question).inspect_err(|fault| {
            self.is_gone = !matches!(fault, Fault::NoPlan(_));
        })?;
        let answer: Answer = serde_json::from_slice(&line).map_err(|error| Fault::NoPlan(error.to_string().into()))?;
        if answer.version != PROTOCOL_VERSION {
            let problem = format!("its version is {}, where {PROTOCOL_VERSION} is spoken", answer.version);
            return Err(Fault::NoPlan(problem.into()));
        }
        // One that didn't understand is told everything again.
        self.known = Some((snapshot.lineage().clone(), snapshot.version()));
        Ok(answer)
    }
}

/// Writes a line, and reads one.
fn exchange(input: &mut dyn Write, output: &mut dyn BufRead, question: &Question<'_>) -> Result<Vec<u8>, Fault> {
    let mut line = serde_json::to_vec(question).map_err(|error| Fault::Broken(error.into()))?;
    line.push(b'\n');
    input.write_all(&line).and_then(|()| input.flush()).map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Fault::Ended,
        _ => Fault::Broken(error),
    })?;
    line.clear();
    output.take(ANSWER_BYTES_MAX).read_until(b'\n', &mut line).map_err(Fault::Broken)?;
    match line.last() {
        None => Err(Fault::Ended),
        Some(_) if line.len() as u64 >= ANSWER_BYTES_MAX => {
            Err(Fault::Broken(io::Error::other(format!("its line is longer than {ANSWER_BYTES_MAX} bytes"))))
        }
        Some(_) => Ok(line),
    }
}

impl Scheduler for External {
    fn name(&self) -> &str {
        &self.name
    }

    fn plan(&mut self, ask: &Ask<'_>) -> Plan {
        let answer = self.talk(ask);
        let mut judge = Judge::new(ask, &self.required, self.evicts);
        match answer {
            Ok(answer) => judge.hear(answer),
            Err(fault) => judge.give_up(fault),
        }
        let (plan, faults) = judge.end();
        faults.into_iter().for_each(|fault| self.faults.note(fault));
        plan
    }
}

impl fmt::Debug for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("External")
            .field("name", &self.name)
            .field("faults", &self.faults.count())
            .finish_non_exhaustive()
    }
}
