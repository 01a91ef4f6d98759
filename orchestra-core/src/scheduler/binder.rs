//! Whether a step holds in the cluster as it is, by all that pods and nodes require: what is asked before a step is committed that
//! somebody else has planned.

use super::{
    Detect, Filter as _, NodeAffinityMatches, NodeId, NodeSchedulable, PodAffinityMatches, PodId, Reason, Refusal,
    Relation, Shape, Step, TaintsTolerated, TopologySpreads, Trial, applier::verdicts, pod_affinity::repels,
};

/// Judges each operation of a step, in order, each after those before it: as the applier does ([`apply`](super::apply): room,
/// ports, devices, and whether the pod has a place already), and by what no scheduler may overlook: whether the node is cordoned, its
/// taints, the labels that the pod needs, the pods that it has to be near of or far from, and how it has to be spread.
///
/// The operations that are taken are applied to `trial`. Of a step that is committed whole, the first refusal is the last verdict,
/// and nothing is applied.
pub fn judge(trial: &mut Trial<'_>, step: &Step, detect: Detect) -> Vec<Result<(), Refusal>> {
    verdicts(trial, step, detect, admit)
}

/// Whether it depends on the pods of other nodes, too, where a pod of this shape may go, or on it where others may.
#[must_use]
pub fn looks_around(pod: &Shape) -> bool {
    let near = pod.affinity.as_ref().and_then(|affinity| affinity.pod_affinity.as_ref());
    let near = near.and_then(|near| near.required_during_scheduling_ignored_during_execution.as_ref());
    near.is_some_and(|terms| !terms.is_empty()) || repels(pod) || !pod.spread.is_empty()
}

/// The filters that every pod and every node is entitled to, beside those of the applier.
fn admit(trial: &Trial<'_>, pod: PodId, node: NodeId) -> Result<(), Reason> {
    let (view, current) = (trial.snapshot().pod(pod), trial.node(node));
    NodeSchedulable.admit(view, current)?;
    TaintsTolerated.admit(view, current)?;
    NodeAffinityMatches.admit(view, current)?;
    for relation in [&PodAffinityMatches as &dyn Relation, &TopologySpreads] {
        if let Some(around) = relation.around(pod, trial) {
            around.admit(view, current)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use k8s_openapi::{
        api::core::v1::{Affinity, PodAffinityTerm, PodAntiAffinity, Taint, Toleration, TopologySpreadConstraint},
        apimachinery::pkg::apis::meta::v1::LabelSelector,
    };
    use proptest::prelude::*;

    use super::{
        super::{Commit, NodeInfo, Op, PodView, Resources, Snapshot, UnitId},
        Detect, NodeId, PodId, Shape, Step, Trial, judge,
    };

    const APPS: [&str; 2] = ["a", "b"];
    const ZONES: [&str; 2] = ["y", "z"];

    #[derive(Clone, Debug)]
    struct Node {
        cpu: i64,
        zone: usize,
        is_cordoned: bool,
        is_tainted: bool,
    }

    #[derive(Clone, Debug)]
    struct Pod {
        cpu: i64,
        app: usize,
        zone: Option<usize>,
        tolerates: bool,
        /// The app whose pods it keeps out of its zone.
        repels: Option<usize>,
        /// Whether its app is to be spread over the zones.
        spreads: bool,
    }

    fn is_rare() -> impl Strategy<Value = bool> {
        prop::bool::weighted(0.2)
    }

    prop_compose! {
        fn node()(cpu in 1..5_i64, zone in 0..2_usize, is_cordoned in is_rare(), is_tainted in is_rare()) -> Node {
            Node { cpu, zone, is_cordoned, is_tainted }
        }
    }

    prop_compose! {
        fn pod()(
            cpu in 0..3_i64,
            app in 0..2_usize,
            zone in prop::option::weighted(0.2, 0..2_usize),
            tolerates in is_rare(),
            repels in prop::option::weighted(0.2, 0..2_usize),
            spreads in is_rare(),
        ) -> Pod {
            Pod { cpu, app, zone, tolerates, repels, spreads }
        }
    }

    fn labels(key: &str, value: &str) -> BTreeMap<String, String> {
        [(key.to_owned(), value.to_owned())].into()
    }

    fn selector(app: usize) -> Option<LabelSelector> {
        Some(LabelSelector { match_labels: Some(labels("app", APPS[app])), ..LabelSelector::default() })
    }

    fn info(at: usize, node: &Node) -> NodeInfo {
        let taint = Taint { key: "k".into(), effect: "NoSchedule".into(), ..Taint::default() };
        NodeInfo {
            name: format!("n{at}").into(),
            labels: labels("zone", ZONES[node.zone]),
            allocatable: Resources { cpu: node.cpu, pods: 9, ..Resources::default() },
            unschedulable: node.is_cordoned,
            taints: node.is_tainted.then_some(taint).into_iter().collect(),
            ..NodeInfo::default()
        }
    }

    fn view(at: usize, pod: &Pod) -> PodView {
        let anti = |app| PodAntiAffinity {
            required_during_scheduling_ignored_during_execution: Some(vec![PodAffinityTerm {
                topology_key: "zone".into(),
                label_selector: selector(app),
                ..PodAffinityTerm::default()
            }]),
            ..PodAntiAffinity::default()
        };
        let spread = TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "zone".into(),
            when_unsatisfiable: "DoNotSchedule".into(),
            label_selector: selector(pod.app),
            ..TopologySpreadConstraint::default()
        };
        let toleration = Toleration { key: Some("k".into()), operator: Some("Exists".into()), ..Toleration::default() };
        let affinity = pod.repels.map(|app| Affinity { pod_anti_affinity: Some(anti(app)), ..Affinity::default() });
        let shape = Shape {
            labels: labels("app", APPS[pod.app]),
            requests: Resources { cpu: pod.cpu, pods: 1, ..Resources::default() },
            node_selector: pod.zone.map(|zone| labels("zone", ZONES[zone])).unwrap_or_default(),
            tolerations: pod.tolerates.then_some(toleration).into_iter().collect(),
            affinity,
            spread: pod.spreads.then_some(spread).into_iter().collect(),
            ..Shape::default()
        };
        PodView::new(format!("p{at}"), shape)
    }

    /// Whether a pod may join those that are placed, told in another way than by filters.
    fn may_join(nodes: &[Node], placed: &[(Pod, usize)], pod: &Pod, on: usize) -> bool {
        let node = &nodes[on];
        let used: i64 = placed.iter().filter(|(_, at)| *at == on).map(|(pod, _)| pod.cpu).sum();
        let near = || placed.iter().filter(|(_, at)| nodes[*at].zone == node.zone).map(|(pod, _)| pod);
        // Only zones count that the pod may go to.
        let is_open = |zone: usize| pod.zone.is_none_or(|wanted| wanted == zone);
        let count = |zone| {
            let peers = placed.iter().filter(|(other, at)| other.app == pod.app && nodes[*at].zone == zone);
            i64::try_from(peers.count()).expect("few")
        };
        let open = nodes.iter().map(|node| node.zone).filter(|zone| is_open(*zone));
        let least = open.map(count).min().unwrap_or(0);
        (pod.cpu == 0 || used + pod.cpu <= node.cpu)
            && !node.is_cordoned
            && (!node.is_tainted || pod.tolerates)
            && is_open(node.zone)
            && near().all(|other| pod.repels != Some(other.app) && other.repels != Some(pod.app))
            && (!pod.spreads || count(node.zone) + 1 - least <= 1)
    }

    proptest! {
        /// Each place is taken if, and only if, it breaks nothing after those that were taken before it; of what is committed whole
        /// all are, or none.
        #[test]
        fn a_place_is_taken_if_and_only_if_it_breaks_nothing(
            nodes in prop::collection::vec(node(), 1..5),
            pods in prop::collection::vec((pod(), 0..5_usize), 1..9),
            is_whole: bool,
        ) {
            let pods: Vec<_> = pods.into_iter().map(|(pod, at)| (pod, at % nodes.len())).collect();
            let infos = nodes.iter().enumerate().map(|(at, node)| info(at, node));
            let snapshot = Snapshot::new(infos, pods.iter().enumerate().map(|(at, (pod, _))| (view(at, pod), None)));
            let id = |at: usize| u32::try_from(at).expect("few");
            let place = |(at, (_, on)): (usize, &(Pod, usize))| Op::Place { pod: PodId(id(at)), place: NodeId(id(*on)).into() };
            let step = Step {
                unit: UnitId(0),
                ops: pods.iter().enumerate().map(place).collect(),
                reads: Vec::new(),
                commit: if is_whole { Commit::Whole } else { Commit::Each },
                cost: Duration::ZERO,
            };
            let (mut expected, mut placed) = (Vec::new(), Vec::new());
            for (pod, on) in &pods {
                let is_taken = may_join(&nodes, &placed, pod, *on);
                expected.push(is_taken);
                if is_taken {
                    placed.push((pod.clone(), *on));
                } else if is_whole {
                    placed.clear();
                    break;
                }
            }
            let mut trial = Trial::new(&snapshot);
            let verdicts = judge(&mut trial, &step, Detect::Fit);
            prop_assert_eq!(verdicts.iter().map(Result::is_ok).collect::<Vec<_>>(), expected, "{:?}", verdicts);
            prop_assert_eq!(trial.placed().count(), placed.len());
        }
    }
}
