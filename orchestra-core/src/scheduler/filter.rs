//! The filters that look at a node alone, in Kubernetes' order and with its reasons.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};

use super::{Filter, NodeView, PodView, Reason};

const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// The node takes new pods (`NodeUnschedulable`).
#[derive(Clone, Copy, Debug)]
pub struct NodeSchedulable;

impl Filter for NodeSchedulable {
    fn name(&self) -> &str {
        "NodeUnschedulable"
    }

    fn admit(&self, pod: &PodView, node: &NodeView) -> Result<(), Reason> {
        let cordon = Taint { key: UNSCHEDULABLE_TAINT.into(), effect: "NoSchedule".into(), ..Taint::default() };
        if node.unschedulable && !pod.tolerations.iter().any(|toleration| tolerates(toleration, &cordon)) {
            return Err(Reason::fixed("node(s) were unschedulable"));
        }
        Ok(())
    }
}

/// The pod names this node, or none (`NodeName`).
#[derive(Clone, Copy, Debug)]
pub struct NodeNameMatches;

impl Filter for NodeNameMatches {
    fn name(&self) -> &str {
        "NodeName"
    }

    fn admit(&self, pod: &PodView, node: &NodeView) -> Result<(), Reason> {
        match &pod.node_name {
            Some(name) if *name != node.name => Err(Reason::fixed("node(s) didn't match the requested node name")),
            _ => Ok(()),
        }
    }
}

/// The pod puts up with the node's taints (`TaintToleration`).
#[derive(Clone, Copy, Debug)]
pub struct TaintsTolerated;

impl Filter for TaintsTolerated {
    fn name(&self) -> &str {
        "TaintToleration"
    }

    fn admit(&self, pod: &PodView, node: &NodeView) -> Result<(), Reason> {
        let hard = node.taints.iter().filter(|taint| matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute"));
        for taint in hard {
            if !pod.tolerations.iter().any(|toleration| tolerates(toleration, taint)) {
                let value = taint.value.as_deref().unwrap_or_default();
                return Err(Reason::fixed(format!("node(s) had untolerated taint {{{}: {value}}}", taint.key)));
            }
        }
        Ok(())
    }
}

/// Whether a toleration is for a taint.
pub(super) fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let value = |text: &Option<String>| text.clone().unwrap_or_default();
    given(&toleration.effect).is_none_or(|effect| effect == taint.effect)
        && match toleration.operator.as_deref() {
            Some("Exists") => given(&toleration.key).is_none_or(|key| key == taint.key),
            _ => toleration.key.as_ref() == Some(&taint.key) && value(&toleration.value) == value(&taint.value),
        }
}

/// The node has the labels that the pod needs (`NodeAffinity`).
#[derive(Clone, Copy, Debug)]
pub struct NodeAffinityMatches;

impl Filter for NodeAffinityMatches {
    fn name(&self) -> &str {
        "NodeAffinity"
    }

    fn admit(&self, pod: &PodView, node: &NodeView) -> Result<(), Reason> {
        let selected = pod.node_selector.iter().all(|(key, value)| node.labels.get(key) == Some(value));
        let affinity = pod.affinity.as_ref().and_then(|affinity| affinity.node_affinity.as_ref());
        let required =
            affinity.and_then(|affinity| affinity.required_during_scheduling_ignored_during_execution.as_ref());
        let matched =
            required.is_none_or(|required| required.node_selector_terms.iter().any(|term| term_matches(term, node)));
        if selected && matched {
            Ok(())
        } else {
            Err(Reason::fixed("node(s) didn't match Pod's node affinity/selector"))
        }
    }
}

/// Whether all of a term's requirements hold; an empty term matches nothing.
pub(super) fn term_matches(term: &NodeSelectorTerm, node: &NodeView) -> bool {
    let expressions = term.match_expressions.as_deref().unwrap_or_default();
    let fields = term.match_fields.as_deref().unwrap_or_default();
    let name = BTreeMap::from([("metadata.name".to_owned(), node.name.to_string())]);
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|requirement| holds(requirement, &node.labels))
        && fields.iter().all(|requirement| holds(requirement, &name))
}

fn holds(requirement: &NodeSelectorRequirement, labels: &BTreeMap<String, String>) -> bool {
    let value = labels.get(&requirement.key);
    let values = requirement.values.as_deref().unwrap_or_default();
    let listed = value.is_some_and(|value| values.contains(value));
    let numbers = || Some((value?.parse::<i64>().ok()?, values.first()?.parse::<i64>().ok()?));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => numbers().is_some_and(|(value, bound)| value > bound),
        "Lt" => numbers().is_some_and(|(value, bound)| value < bound),
        _ => false,
    }
}

/// The node's ports that the pod takes are free (`NodePorts`).
#[derive(Clone, Copy, Debug)]
pub struct HostPortsFree;

impl Filter for HostPortsFree {
    fn name(&self) -> &str {
        "NodePorts"
    }

    fn admit(&self, pod: &PodView, node: &NodeView) -> Result<(), Reason> {
        let everywhere = "0.0.0.0";
        let clash = pod.host_ports.iter().any(|(address, protocol, number)| {
            node.host_ports.iter().any(|(taken, taken_protocol, taken_number)| {
                number == taken_number
                    && protocol == taken_protocol
                    && (address == taken || &**address == everywhere || &**taken == everywhere)
            })
        });
        if clash { Err(Reason::crowded("node(s) didn't have free ports for the requested pod ports")) } else { Ok(()) }
    }
}

/// The pod's requests fit into what is left (`NodeResourcesFit`).
#[derive(Clone, Copy, Debug)]
pub struct ResourcesFit;

impl Filter for ResourcesFit {
    fn name(&self) -> &str {
        "NodeResourcesFit"
    }

    fn admit(&self, pod: &PodView, node: &NodeView) -> Result<(), Reason> {
        insufficient(pod, node).next().map_or(Ok(()), Err)
    }

    fn reasons(&self, pod: &PodView, node: &NodeView) -> Vec<Reason> {
        insufficient(pod, node).collect()
    }
}

/// A reason for each resource of which not enough is left.
fn insufficient(pod: &PodView, node: &NodeView) -> impl Iterator<Item = Reason> {
    pod.requests.0.iter().filter(|(_, wanted)| **wanted > 0).filter_map(|(resource, wanted)| {
        let allocatable = node.allocatable.amount(resource);
        if node.requested.amount(resource).saturating_add(*wanted) <= allocatable {
            return None;
        }
        let text = match &**resource {
            "pods" => "Too many pods".to_owned(),
            other => format!("Insufficient {other}"),
        };
        // What an empty node has not, nobody can make room for.
        Some(if *wanted <= allocatable { Reason::crowded(text) } else { Reason::fixed(text) })
    })
}
