//! The rules of disruption budgets.

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::metadata::{Scope, object_meta, object_meta_update};
use super::names::NameRule;
use super::selector::label_selector;
use super::values::{count_or_percent, not_more_than_all, one_of_or_absent};
use super::{FieldError, Path};

/// Checks a disruption budget, which says how many must stay or how many may go, not both.
pub fn pod_disruption_budget(budget: &PodDisruptionBudget) -> Vec<FieldError> {
    let mut errors = object_meta(&budget.metadata, Scope::Namespaced, NameRule::Subdomain);
    let Some(spec) = &budget.spec else { return errors };
    let path = Path::root("spec");
    if spec.min_available.is_some() && spec.max_unavailable.is_some() {
        let detail = "minAvailable and maxUnavailable cannot be both set";
        errors.push(FieldError::invalid(&path, spec, detail));
    }
    for (field, value) in [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)] {
        if let Some(value) = value {
            count_or_percent(value, &path.field(field), &mut errors);
            not_more_than_all(value, &path.field(field), &mut errors);
        }
    }
    if let Some(selector) = &spec.selector {
        label_selector(selector, &path.field("selector"), &mut errors);
    }
    let policy = spec.unhealthy_pod_eviction_policy.as_deref();
    let policies = ["AlwaysAllow", "IfHealthyBudget"];
    one_of_or_absent(policy, &policies, &path.field("unhealthyPodEvictionPolicy"), &mut errors);
    errors
}

/// Checks what a write changes in a disruption budget.
pub fn pod_disruption_budget_update(new: &PodDisruptionBudget, old: &PodDisruptionBudget) -> Vec<FieldError> {
    object_meta_update(&new.metadata, &old.metadata)
}
