//! Whether a step still holds: pure, so that every applier, here or behind an API, refuses alike.

use std::collections::BTreeSet;

use super::{Commit, Detect, Filter as _, HostPortsFree, NodeId, Op, Reason, ResourcesFit, Step, Trial};

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
    let mark = trial.mark();
    let mut taken = Vec::new();
    let mut placed = BTreeSet::new();
    for op in &step.ops {
        match check(trial, step, op, detect, &placed) {
            Ok(()) => {
                if let Op::Place { pod, node } = op {
                    trial.place(*pod, *node);
                    placed.insert(*node);
                }
                if let Op::Evict { pod, .. } = op
                    && let Some(node) = trial.snapshot().node_of(*pod)
                {
                    trial.evict(*pod, node);
                }
                taken.push(op.clone());
            }
            Err(refusal) if step.commit == Commit::Whole => {
                trial.roll_back(mark);
                return Err(refusal);
            }
            Err(_) => {}
        }
    }
    Ok(taken)
}

/// `own` are the nodes that this very step has changed: no conflict of its own.
fn check(trial: &Trial<'_>, step: &Step, op: &Op, detect: Detect, own: &BTreeSet<NodeId>) -> Result<(), Refusal> {
    let Op::Place { pod, node } = op else { return Ok(()) };
    if trial.snapshot().node_of(*pod).is_some() {
        return Err(Refusal::Placed);
    }
    let current = trial.node(*node);
    let read = step.reads.iter().find(|(read, _)| read == node);
    if let (Detect::Version, Some((_, version)), false) = (detect, read, own.contains(node))
        && *version != current.version
    {
        return Err(Refusal::Changed(*node));
    }
    let view = trial.snapshot().pod(*pod);
    ResourcesFit.admit(view, current).and_then(|()| HostPortsFree.admit(view, current)).map_err(Refusal::NoRoom)
}
