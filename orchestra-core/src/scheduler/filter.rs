//! The filters that look at a node alone, in Kubernetes' order and with its reasons.

use std::{borrow::Cow, collections::BTreeMap};

use k8s_openapi::api::core::v1::{NodeSelectorRequirement, NodeSelectorTerm, Taint, Toleration};

use super::{Filter, NodeView, Reads, Reason, Shape};

const UNSCHEDULABLE_TAINT: &str = "node.kubernetes.io/unschedulable";

/// The node takes new pods (`NodeUnschedulable`).
#[derive(Clone, Copy, Debug)]
pub struct NodeSchedulable;

impl Filter for NodeSchedulable {
    fn name(&self) -> &str {
        "NodeUnschedulable"
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }

    fn admit(&self, pod: &Shape, node: &NodeView) -> Result<(), Reason> {
        if !node.unschedulable {
            return Ok(());
        }
        let cordon = Taint { key: UNSCHEDULABLE_TAINT.into(), effect: "NoSchedule".into(), ..Taint::default() };
        if !pod.tolerations.iter().any(|toleration| tolerates(toleration, &cordon)) {
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

    fn reads(&self) -> Reads {
        Reads::Node
    }

    fn concerns(&self, pod: &Shape) -> bool {
        pod.node_name.is_some()
    }

    fn admit(&self, pod: &Shape, node: &NodeView) -> Result<(), Reason> {
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

    fn reads(&self) -> Reads {
        Reads::Node
    }

    fn admit(&self, pod: &Shape, node: &NodeView) -> Result<(), Reason> {
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

    fn reads(&self) -> Reads {
        Reads::Node
    }

    fn concerns(&self, pod: &Shape) -> bool {
        !pod.node_selector.is_empty() || pod.affinity.as_ref().is_some_and(|affinity| affinity.node_affinity.is_some())
    }

    fn admit(&self, pod: &Shape, node: &NodeView) -> Result<(), Reason> {
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

    fn concerns(&self, pod: &Shape) -> bool {
        !pod.host_ports.is_empty()
    }

    fn admit(&self, pod: &Shape, node: &NodeView) -> Result<(), Reason> {
        if pod.host_ports.is_empty() {
            return Ok(());
        }
        let everywhere = "0.0.0.0";
        let clash = pod.host_ports.iter().any(|(address, protocol, number)| {
            node.host_ports.keys().any(|(taken, taken_protocol, taken_number)| {
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

    fn needs_room(&self) -> bool {
        true
    }

    fn admit(&self, pod: &Shape, node: &NodeView) -> Result<(), Reason> {
        if node.allocatable.take(&pod.requests, &node.requested) {
            return Ok(());
        }
        insufficient(pod, node).next().map_or(Ok(()), Err)
    }

    fn reasons(&self, pod: &Shape, node: &NodeView) -> Vec<Reason> {
        if node.allocatable.take(&pod.requests, &node.requested) {
            return Vec::new();
        }
        insufficient(pod, node).collect()
    }
}

/// A reason for each resource of which not enough is left, in the order of names, other resources last.
fn insufficient(pod: &Shape, node: &NodeView) -> impl Iterator<Item = Reason> {
    let (wanted, taken, all) = (&pod.requests, &node.requested, &node.allocatable);
    let reason = |text: Cow<'static, str>, wanted: i64, taken: i64, all: i64| {
        let lacks = wanted > 0 && taken.saturating_add(wanted) > all;
        // What an empty node has not, nobody can make room for.
        lacks.then_some(Reason { text, crowded: wanted <= all })
    };
    let common = [
        reason("Insufficient cpu".into(), wanted.cpu, taken.cpu, all.cpu),
        reason(
            "Insufficient ephemeral-storage".into(),
            wanted.ephemeral_storage,
            taken.ephemeral_storage,
            all.ephemeral_storage,
        ),
        reason("Insufficient memory".into(), wanted.memory, taken.memory, all.memory),
        reason("Too many pods".into(), wanted.pods, taken.pods, all.pods),
    ];
    let others = wanted.others.iter().filter_map(move |(name, wanted)| {
        reason(format!("Insufficient {name}").into(), *wanted, taken.amount(name), all.amount(name))
    });
    common.into_iter().flatten().chain(others)
}

/// The node has as many devices as the pod needs, of a model it can do with.
#[derive(Clone, Copy, Debug)]
pub struct DevicesMatch;

impl Filter for DevicesMatch {
    fn name(&self) -> &str {
        "DevicesMatch"
    }

    fn reads(&self) -> Reads {
        Reads::Node
    }

    fn concerns(&self, pod: &Shape) -> bool {
        pod.devices.count > 0
    }

    fn admit(&self, pod: &Shape, node: &NodeView) -> Result<(), Reason> {
        let wanted = &pod.devices;
        if wanted.count > 0 && (node.devices < wanted.count || !wanted.allows(&node.device_model)) {
            return Err(Reason::fixed("node(s) didn't have the devices that the pod needs"));
        }
        Ok(())
    }
}

/// As many devices as the pod needs have enough left.
#[derive(Clone, Copy, Debug)]
pub struct DevicesFit;

impl Filter for DevicesFit {
    fn name(&self) -> &str {
        "DevicesFit"
    }

    fn concerns(&self, pod: &Shape) -> bool {
        pod.devices.count > 0
    }

    fn admit(&self, pod: &Shape, node: &NodeView) -> Result<(), Reason> {
        if pod.devices.fits(&node.devices_left) { Ok(()) } else { Err(Reason::crowded("Insufficient devices")) }
    }
}
