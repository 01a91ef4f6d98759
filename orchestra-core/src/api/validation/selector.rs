//! The rules of label selectors, and whether one selects a template's pods.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::metadata::invalid;
use super::names;
use super::{FieldError, Path};

/// Checks a label selector.
pub(super) fn label_selector(selector: &LabelSelector, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let labels = path.field("matchLabels");
    for (key, value) in selector.match_labels.iter().flatten() {
        invalid(&labels, key, names::qualified_name(key), errors);
        invalid(&labels, value, names::label_value(value), errors);
    }
    let expressions = path.field("matchExpressions");
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
        requirement(expression, &expressions.index(index), errors);
    }
}

/// Whether a selector selects everything, for it demands nothing.
pub(super) fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether a selector selects what has these labels.
pub(super) fn matches(selector: &LabelSelector, labels: &BTreeMap<String, String>) -> bool {
    let equal = selector.match_labels.iter().flatten().all(|(key, value)| labels.get(key) == Some(value));
    let expressed = selector.match_expressions.iter().flatten().all(|expression| {
        let value = labels.get(&expression.key);
        let listed = value.is_some_and(|value| expression.values.iter().flatten().any(|one| one == value));
        match expression.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    });
    equal && expressed
}

fn requirement(requirement: &LabelSelectorRequirement, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    let values = requirement.values.as_deref().unwrap_or_default();
    let values_path = path.field("values");
    match requirement.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            let detail = "must be specified when `operator` is 'In' or 'NotIn'";
            errors.push(FieldError::required(&values_path, detail));
        }
        "In" | "NotIn" => {}
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errors.push(FieldError::forbidden(&values_path, detail));
        }
        "Exists" | "DoesNotExist" => {}
        operator => {
            let detail = "not a valid selector operator";
            errors.push(FieldError::invalid(&path.field("operator"), operator, detail));
        }
    }
    invalid(&path.field("key"), &requirement.key, names::qualified_name(&requirement.key), errors);
    for (index, value) in values.iter().enumerate() {
        invalid(&values_path.index(index), value, names::label_value(value), errors);
    }
}
