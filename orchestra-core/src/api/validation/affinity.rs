//! The rules of where a pod may and would run: affinity, tolerations, spread.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Affinity, NodeAffinity, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, Toleration,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};

use super::metadata::invalid;
use super::names;
use super::selector::label_selector;
use super::values::{one_of, one_of_or_absent, required};
use super::{FieldError, Path};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
const WEIGHT: &str = "must be in the range 1-100";
/// What a taint can do to a pod that does not tolerate it.
pub(super) const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Checks what a pod tolerates.
pub(super) fn tolerations(tolerations: &[Toleration], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for (index, toleration) in tolerations.iter().enumerate() {
        let path = path.index(index);
        let key = toleration.key.as_deref().unwrap_or_default();
        let value = toleration.value.as_deref().unwrap_or_default();
        let operator = toleration.operator.as_deref().unwrap_or_default();
        if !key.is_empty() {
            invalid(&path.field("key"), key, names::qualified_name(key), errors);
        } else if operator != "Exists" {
            let detail = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errors.push(FieldError::invalid(&path.field("operator"), operator, detail));
        }
        let effect = toleration.effect.as_deref();
        if toleration.toleration_seconds.is_some() && effect != Some("NoExecute") {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errors.push(FieldError::invalid(&path.field("effect"), effect.unwrap_or_default(), detail));
        }
        match operator {
            "" | "Equal" => invalid(&path.field("operator"), value, names::label_value(value), errors),
            "Exists" if !value.is_empty() => {
                let detail = "value must be empty when `operator` is 'Exists'";
                errors.push(FieldError::invalid(&path.field("operator"), value, detail));
            }
            "Exists" | "Lt" | "Gt" => {}
            other => {
                errors.push(FieldError::not_supported(&path.field("operator"), other, &["Equal", "Exists"]));
            }
        }
        one_of_or_absent(effect, &EFFECTS, &path.field("effect"), errors);
    }
}

/// Checks what a pod would be near to, and far from.
pub(super) fn affinity(affinity: &Affinity, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(node) = &affinity.node_affinity {
        node_affinity(node, &path.field("nodeAffinity"), errors);
    }
    if let Some(pods) = &affinity.pod_affinity {
        let path = path.field("podAffinity");
        pod_terms(pods.required_during_scheduling_ignored_during_execution.as_deref(), &path, errors);
        weighted_terms(pods.preferred_during_scheduling_ignored_during_execution.as_deref(), &path, errors);
    }
    if let Some(pods) = &affinity.pod_anti_affinity {
        let path = path.field("podAntiAffinity");
        pod_terms(pods.required_during_scheduling_ignored_during_execution.as_deref(), &path, errors);
        weighted_terms(pods.preferred_during_scheduling_ignored_during_execution.as_deref(), &path, errors);
    }
}

/// Checks how pods are to be spread.
pub(super) fn spread(constraints: &[TopologySpreadConstraint], path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let mut seen = BTreeSet::new();
    for (index, constraint) in constraints.iter().enumerate() {
        let path = path.index(index);
        if constraint.max_skew <= 0 {
            let detail = "must be greater than zero";
            errors.push(FieldError::invalid(&path.field("maxSkew"), constraint.max_skew, detail));
        }
        let key = path.field("topologyKey");
        match constraint.topology_key.as_str() {
            "" => errors.push(FieldError::required(&key, "can not be empty")),
            text => invalid(&key, text, names::qualified_name(text), errors),
        }
        let when = constraint.when_unsatisfiable.as_str();
        one_of(Some(when), &["DoNotSchedule", "ScheduleAnyway"], &path.field("whenUnsatisfiable"), errors);
        if !seen.insert((&constraint.topology_key, when)) {
            let value = format!("{{{}, {when}}}", constraint.topology_key);
            errors.push(FieldError::duplicate(&path.field("{topologyKey, whenUnsatisfiable}"), value));
        }
        if let Some(domains) = constraint.min_domains {
            let path = path.field("minDomains");
            if domains <= 0 {
                errors.push(FieldError::invalid(&path, domains, "must be greater than zero"));
            }
            if when != "DoNotSchedule" {
                let detail = "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway";
                errors.push(FieldError::invalid(&path, domains, detail));
            }
        }
        for (field, policy) in [
            ("nodeAffinityPolicy", &constraint.node_affinity_policy),
            ("nodeTaintsPolicy", &constraint.node_taints_policy),
        ] {
            one_of_or_absent(policy.as_deref(), &["Honor", "Ignore"], &path.field(field), errors);
        }
        if let Some(selector) = &constraint.label_selector {
            label_selector(selector, &path.field("labelSelector"), errors);
        }
    }
}

fn node_affinity(affinity: &NodeAffinity, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if let Some(selector) = &affinity.required_during_scheduling_ignored_during_execution {
        let path = path.field(REQUIRED);
        let path = path.field("nodeSelectorTerms");
        if selector.node_selector_terms.is_empty() {
            errors.push(FieldError::required(&path, "must have at least one node selector term"));
        }
        for (index, term) in selector.node_selector_terms.iter().enumerate() {
            node_term(term, &path.index(index), errors);
        }
    }
    let path = path.field(PREFERRED);
    let preferred = affinity.preferred_during_scheduling_ignored_during_execution.iter().flatten();
    for (index, term) in preferred.enumerate() {
        let path = path.index(index);
        weight(term.weight, &path, errors);
        node_term(&term.preference, &path.field("preference"), errors);
    }
}

fn node_term(term: &NodeSelectorTerm, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let expressions = path.field("matchExpressions");
    for (index, requirement) in term.match_expressions.iter().flatten().enumerate() {
        let path = expressions.index(index);
        node_requirement(requirement, &path, errors);
        invalid(&path.field("key"), &requirement.key, names::qualified_name(&requirement.key), errors);
    }
    let fields = path.field("matchFields");
    for (index, requirement) in term.match_fields.iter().flatten().enumerate() {
        let path = fields.index(index);
        if requirement.key != "metadata.name" {
            let detail = "not a valid field selector key";
            errors.push(FieldError::invalid(&path.field("key"), &requirement.key, detail));
        }
        let values = requirement.values.as_deref().unwrap_or_default();
        match requirement.operator.as_str() {
            "In" | "NotIn" if values.len() == 1 => {}
            "In" | "NotIn" => {
                let detail = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                errors.push(FieldError::required(&path.field("values"), detail));
            }
            operator => {
                let detail = "not a valid selector operator";
                errors.push(FieldError::invalid(&path.field("operator"), operator, detail));
            }
        }
    }
}

fn node_requirement(requirement: &NodeSelectorRequirement, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let values = requirement.values.as_deref().unwrap_or_default();
    let values_path = path.field("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&values_path, detail));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&values_path, detail));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errors.push(FieldError::required(&values_path, detail));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        operator => {
            let detail = "not a valid selector operator";
            errors.push(FieldError::invalid(&path.field("operator"), operator, detail));
        }
    }
}

fn pod_terms(terms: Option<&[PodAffinityTerm]>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let path = path.field(REQUIRED);
    for (index, term) in terms.into_iter().flatten().enumerate() {
        pod_term(term, &path.index(index), errors);
    }
}

fn weighted_terms(terms: Option<&[WeightedPodAffinityTerm]>, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let path = path.field(PREFERRED);
    for (index, term) in terms.into_iter().flatten().enumerate() {
        let path = path.index(index);
        weight(term.weight, &path, errors);
        pod_term(&term.pod_affinity_term, &path.field("podAffinityTerm"), errors);
    }
}

fn pod_term(term: &PodAffinityTerm, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    for (field, selector) in [("labelSelector", &term.label_selector), ("namespaceSelector", &term.namespace_selector)]
    {
        if let Some(selector) = selector {
            label_selector(selector, &path.field(field), errors);
        }
    }
    for namespace in term.namespaces.iter().flatten() {
        invalid(&path.field("namespaces"), namespace, names::dns_1123_label(namespace), errors);
    }
    required(Some(&term.topology_key), &path.field("topologyKey"), errors);
    if !term.topology_key.is_empty() {
        let key = &term.topology_key;
        invalid(&path.field("topologyKey"), key, names::qualified_name(key), errors);
    }
}

fn weight(weight: i32, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if !(1..=100).contains(&weight) {
        errors.push(FieldError::invalid(&path.field("weight"), weight, WEIGHT));
    }
}
