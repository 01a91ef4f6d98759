//! Why no node takes a pod, in kube-scheduler's own words.

use std::collections::BTreeMap;

use super::{Left, PodId, Snapshot};

/// As `0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. preemption: …`.
///
/// Nothing is said of preemption where less important pods run: whether the scheduler has tried it is not known here.
pub(super) fn unschedulable(left: &Left, snapshot: &Snapshot, pod: PodId) -> String {
    let nodes = snapshot.nodes().len();
    if nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut counts = BTreeMap::new();
    for (reason, count) in left.why.iter().flat_map(|(reasons, count)| reasons.iter().map(move |one| (one, count))) {
        // Whether it would help if pods left the node is no part of the words.
        *counts.entry(&*reason.text).or_insert(0) += count;
    }
    let reasons = counts.iter().map(|(reason, count)| format!("{count} {reason}"));
    let said = format!("0/{nodes} nodes are available: {}.", sorted(reasons));
    let priority = snapshot.pod(pod).priority;
    if snapshot.placed().any(|(other, _)| snapshot.pod(other).priority < priority) {
        return said;
    }
    let mut preemption = BTreeMap::new();
    for (reasons, count) in &left.why {
        let verdict = if reasons.iter().all(|reason| reason.crowded) {
            "No preemption victims found for incoming pod"
        } else {
            "Preemption is not helpful for scheduling"
        };
        *preemption.entry(verdict).or_insert(0) += count;
    }
    let verdicts = preemption.iter().map(|(verdict, count)| format!("{count} {verdict}"));
    format!("{said} preemption: 0/{nodes} nodes are available: {}.", sorted(verdicts))
}

fn sorted(reasons: impl Iterator<Item = String>) -> String {
    let mut reasons: Vec<_> = reasons.collect();
    reasons.sort();
    reasons.join(", ")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{Left, PodId, Snapshot, unschedulable};
    use crate::scheduler::{NodeInfo, PodView, Reason, Shape, UnitId};

    #[test]
    fn the_words_are_those_of_kube_scheduler() {
        let nodes = ["a", "b", "c"].map(|name| NodeInfo { name: name.into(), ..NodeInfo::default() });
        let why = BTreeMap::from([
            (vec![Reason::fixed("node(s) had untolerated taint {dedicated: db}")], 1),
            (vec![Reason::crowded("Insufficient cpu")], 1),
            (vec![Reason::crowded("Insufficient cpu"), Reason::crowded("Insufficient memory")], 1),
        ]);
        let left = Left { unit: UnitId(0), why, expected: None };
        let alone = Snapshot::new(nodes.clone(), [(PodView::default(), None)]);
        assert_eq!(
            unschedulable(&left, &alone, PodId(0)),
            "0/3 nodes are available: 1 Insufficient memory, 1 node(s) had untolerated taint {dedicated: db}, \
             2 Insufficient cpu. preemption: 0/3 nodes are available: 1 Preemption is not helpful for scheduling, \
             2 No preemption victims found for incoming pod."
        );
        let victim = PodView::new("victim", Shape { priority: -1, ..Shape::default() });
        let crowded = Snapshot::new(nodes, [(PodView::default(), None), (victim, Some("a".into()))]);
        assert!(!unschedulable(&left, &crowded, PodId(0)).contains("preemption"));
        let empty = Snapshot::new([], [(PodView::default(), None)]);
        assert_eq!(unschedulable(&left, &empty, PodId(0)), "no nodes available to schedule pods");
    }
}
