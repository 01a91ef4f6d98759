//! Disruption budgets as a scheduler sees them.

use std::collections::BTreeSet;

use k8s_openapi::api::policy::v1::PodDisruptionBudget;

use super::PodView;
use crate::api::selector::LabelSelector;

/// How many more pods of a group may be disrupted (Kubernetes' `PodDisruptionBudget`). Preemption prefers to keep to it.
#[derive(Clone, Debug)]
pub struct Budget {
    /// The pods' namespace.
    pub namespace: Box<str>,
    /// Which pods.
    pub selector: LabelSelector,
    /// How many of them may be disrupted now.
    pub allowed: i64,
    /// The names of those whose disruption is counted already.
    pub disrupted: BTreeSet<Box<str>>,
}

impl Budget {
    /// Reads a budget; `None` if it selects nothing, or by what is no selector.
    #[must_use]
    pub fn of(budget: &PodDisruptionBudget) -> Option<Self> {
        let selector = budget.spec.as_ref()?.selector.as_ref()?;
        let status = budget.status.as_ref();
        let disrupted = status.and_then(|status| status.disrupted_pods.as_ref()).into_iter().flatten();
        Some(Self {
            namespace: budget.metadata.namespace.as_deref().unwrap_or_default().into(),
            selector: LabelSelector::try_from(selector).ok()?,
            allowed: status.and_then(|status| status.disruptions_allowed).unwrap_or(0).into(),
            disrupted: disrupted.map(|(name, _)| name.as_str().into()).collect(),
        })
    }

    /// Whether disrupting a pod would be one disruption more.
    #[must_use]
    pub fn covers(&self, pod: &PodView) -> bool {
        // As in kube-scheduler, a pod without labels belongs to nobody.
        let is_of = pod.namespace == self.namespace && !pod.labels.is_empty() && self.selector.matches(&pod.labels);
        is_of && !self.disrupted.contains(&pod.name)
    }
}
