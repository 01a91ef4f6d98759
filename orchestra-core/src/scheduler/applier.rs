//! Whether a step still holds: pure, so that every applier, here or behind an API, refuses alike.

use std::collections::BTreeSet;

use super::{
    Commit, Detect, Filter as _, HostPortsFree, NodeId, NodeView, Op, Place, PodId, PodView, Reason, ResourcesFit,
    Snapshot, Step, Trial,
};

/// Why an operation was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A node that the decision rested on has changed.
    Changed(NodeId),
    /// The pod has a place already.
    Placed,
    /// It no longer fits.
    NoRoom(Reason),
}

/// Applies a step to a trial of the cluster as it is now; `Ok` holds the operations that were taken.
///
/// # Errors
///
/// The first [`Refusal`], if the step is committed whole; then nothing of it is applied.
pub fn apply(trial: &mut Trial<'_>, step: &Step, detect: Detect) -> Result<Vec<Op>, Refusal> {
    let mut taken = Vec::new();
    for (op, verdict) in step.ops.iter().zip(verdicts(trial, step, detect, |_, _, _| Ok(()))) {
        match verdict {
            Ok(()) => taken.push(op.clone()),
            Err(refusal) if step.commit == Commit::Whole => return Err(refusal),
            Err(_) => {}
        }
    }
    Ok(taken)
}

/// What becomes of each operation of a step on a trial, on which those are applied that are taken; `admit` says what else a
/// pod's place has to meet. If the step is committed whole, the first refusal is the last verdict, and nothing is applied.
pub(super) fn verdicts(
    trial: &mut Trial<'_>,
    step: &Step,
    detect: Detect,
    admit: impl Fn(&Trial<'_>, PodId, NodeId) -> Result<(), Reason>,
) -> Vec<Result<(), Refusal>> {
    let mark = trial.mark();
    let mut verdicts = Vec::with_capacity(step.ops.len());
    let mut own = BTreeSet::new();
    for op in &step.ops {
        let verdict = check(trial, step, op, detect, &own).and_then(|()| match op {
            Op::Place { pod, place } => admit(trial, *pod, place.node).map_err(Refusal::NoRoom),
            _ => Ok(()),
        });
        match (&verdict, op) {
            (Ok(()), Op::Place { pod, place }) => {
                trial.place(*pod, *place);
                own.insert(place.node);
            }
            (Ok(()), Op::Evict { pod, .. }) => {
                own.extend(trial.place_of(*pod).map(|place| place.node));
                trial.evict(*pod);
            }
            _ => {}
        }
        let is_over = verdict.is_err() && step.commit == Commit::Whole;
        verdicts.push(verdict);
        if is_over {
            trial.roll_back(mark);
            break;
        }
    }
    verdicts
}

/// Applies a step to the cluster itself; `Ok` holds the operations that were taken.
///
/// # Errors
///
/// As [`apply`].
pub fn commit(snapshot: &mut Snapshot, step: &Step, detect: Detect) -> Result<Vec<Op>, Refusal> {
    let taken = match &step.ops[..] {
        // What is one operation needs no trial.
        [op] => match check(snapshot, step, op, detect, &BTreeSet::new()) {
            Ok(()) => vec![op.clone()],
            Err(refusal) if step.commit == Commit::Whole => return Err(refusal),
            Err(_) => Vec::new(),
        },
        _ => apply(&mut Trial::new(snapshot), step, detect)?,
    };
    for op in &taken {
        match op {
            Op::Place { pod, place } => snapshot.place(*pod, *place),
            Op::Evict { pod, .. } => snapshot.evict(*pod),
            Op::Nominate { pod, node } => snapshot.nominate(*pod, *node),
            Op::Probe { .. } => {}
        }
    }
    Ok(taken)
}

/// What a step is checked against.
trait Ground {
    fn node(&self, id: NodeId) -> &NodeView;
    fn pod(&self, id: PodId) -> &PodView;
    fn place_of(&self, pod: PodId) -> Option<Place>;
}

impl Ground for Snapshot {
    fn node(&self, id: NodeId) -> &NodeView {
        Self::node(self, id)
    }

    fn pod(&self, id: PodId) -> &PodView {
        Self::pod(self, id)
    }

    fn place_of(&self, pod: PodId) -> Option<Place> {
        Self::place_of(self, pod)
    }
}

impl Ground for Trial<'_> {
    fn node(&self, id: NodeId) -> &NodeView {
        Self::node(self, id)
    }

    fn pod(&self, id: PodId) -> &PodView {
        self.snapshot().pod(id)
    }

    fn place_of(&self, pod: PodId) -> Option<Place> {
        Self::place_of(self, pod)
    }
}

/// `own` are the nodes that this very step has changed: no conflict of its own.
fn check(now: &impl Ground, step: &Step, op: &Op, detect: Detect, own: &BTreeSet<NodeId>) -> Result<(), Refusal> {
    let (pod, node) = match op {
        Op::Place { pod, place } => (pod, &place.node),
        Op::Nominate { pod, node } => (pod, node),
        Op::Evict { .. } | Op::Probe { .. } => return Ok(()),
    };
    if now.place_of(*pod).is_some() {
        return Err(Refusal::Placed);
    }
    let current = now.node(*node);
    let read = step.reads.iter().find(|(read, _)| read == node);
    if let (Detect::Version, Some((_, version)), false) = (detect, read, own.contains(node))
        && *version != current.version
    {
        return Err(Refusal::Changed(*node));
    }
    let Op::Place { place: Place { devices, .. }, .. } = op else { return Ok(()) };
    let view = now.pod(*pod);
    ResourcesFit.admit(view, current).and_then(|()| HostPortsFree.admit(view, current)).map_err(Refusal::NoRoom)?;
    if !view.devices.is_met_by(*devices, &current.devices_left) {
        return Err(Refusal::NoRoom(Reason::crowded("node(s) had too little left of the chosen devices")));
    }
    Ok(())
}
