//! Eviction: a pod is deleted as its disruption budget allows (SEMANTICS 50 and 72).

use k8s_openapi::api::policy::v1::{Eviction, PodDisruptionBudget, PodDisruptionBudgetStatus};
use serde_json::Value;

use crate::{
    api::{pod::is_final, selector::LabelSelector},
    server::{
        Call, Inner,
        error::{Failure, Result},
        object::{self, Object, is_terminating, meta},
        registry::Kind,
        respond::Answer,
        route::Target,
        subresource::{created_status, decode},
        write::{CONFLICT_TRIES, Terms, now_text},
    },
    store::{Entry, Txn},
};

/// How many pods a budget may wait for to be gone, as in Kubernetes.
const DISRUPTED_PODS_MAX: usize = 2_000;

/// When an eviction that a budget forbids may be asked for again; as in Kubernetes.
const RETRY_SECONDS: i32 = 10;

impl Inner {
    /// Deletes a pod, and takes one disruption off the budget that selects it.
    pub(super) async fn evict(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let body = call.body().await?;
        let eviction: Eviction = decode(&body)?;
        let name = target.name.as_deref().unwrap_or_default();
        if eviction.metadata.name.as_deref().is_some_and(|given| !given.is_empty() && given != name) {
            return Err(Failure::bad_request("name in URL does not match name in Eviction object"));
        }
        let mut options = eviction.delete_options.unwrap_or_default();
        let terms = call.deletion_terms(&options)?;
        let pod = self.current(kind, target).await?;
        let phase =
            pod.get("status").and_then(|status| status.get("phase")).and_then(Value::as_str).unwrap_or_default();
        // What doesn't run yet, or no more, is nobody's disruption.
        if !is_final(phase) && phase != "Pending" && !is_terminating(&pod) {
            self.spend_budget(&pod, &terms).await?;
        }
        // The budget was spent on this pod, not on the next of its name.
        let preconditions = options.preconditions.get_or_insert_default();
        preconditions.uid.get_or_insert_with(|| meta(&pod, "uid").into());
        let namespace = target.namespace.as_deref().unwrap_or_default();
        self.delete_object(kind, namespace, name, &options, &terms).await?;
        Ok(created_status())
    }

    /// Takes one disruption off the budget that selects `pod`, in one commit with the check that there is one to take.
    async fn spend_budget(&self, pod: &Object, terms: &Terms) -> Result<()> {
        let budgets = self.registry.find("policy", "v1", "poddisruptionbudgets").expect("built in");
        for _ in 0..CONFLICT_TRIES {
            let Some(entry) = self.budget_of(budgets, pod).await? else { return Ok(()) };
            let old = object::decode(&entry.value, entry.modified)?;
            let budget: PodDisruptionBudget = decode(&entry.value)?;
            if !counts(&budget, pod) {
                return Ok(());
            }
            let status = budget.status.clone().unwrap_or_default();
            refuse_if_spent(&budget, &status)?;
            let mut new = old.clone();
            new["status"]["disruptionsAllowed"] = (status.disruptions_allowed.unwrap_or(0) - 1).into();
            new["status"]["disruptedPods"][meta(pod, "name")] = now_text(self.clock.now()).into();
            let txn = Txn::replace(entry.key, entry.modified, object::encode(&mut new)?);
            if terms.dry_run {
                return Ok(());
            }
            if self.commit(txn, terms).await?.is_ok() {
                return Ok(());
            }
        }
        Err(too_many("the budget is under heavy change", Some(RETRY_SECONDS)))
    }

    /// The budget that selects `pod`.
    async fn budget_of(&self, budgets: &Kind, pod: &Object) -> Result<Option<Entry>> {
        let listing = self.store.list(&object::prefix(budgets, Some(meta(pod, "namespace")))?).await?;
        let labels = pod.get("metadata").and_then(|meta| meta.get("labels")).cloned().unwrap_or_default();
        let labels = serde_json::from_value(labels).unwrap_or_default();
        let mut selecting = Vec::new();
        for entry in listing.entries {
            let budget: PodDisruptionBudget = decode(&entry.value)?;
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            if selector.map(LabelSelector::try_from).is_some_and(|selector| selector.is_ok_and(|s| s.matches(&labels)))
            {
                selecting.push(entry);
            }
        }
        if selecting.len() > 1 {
            return Err(Failure::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
        Ok(selecting.pop())
    }
}

/// Whether a pod's eviction is a disruption: not if the pod is not ready and its budget has no use for it then.
fn counts(budget: &PodDisruptionBudget, pod: &Object) -> bool {
    let conditions = pod.get("status").and_then(|status| status.get("conditions")).and_then(Value::as_array);
    let is_ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    if conditions.is_some_and(|conditions| conditions.iter().any(is_ready)) {
        return true;
    }
    let policy = budget.spec.as_ref().and_then(|spec| spec.unhealthy_pod_eviction_policy.as_deref());
    let healthy = budget.status.as_ref().is_some_and(|status| {
        status.desired_healthy.unwrap_or(0) > 0 && status.current_healthy >= status.desired_healthy
    });
    policy != Some("AlwaysAllow") && !healthy
}

fn refuse_if_spent(budget: &PodDisruptionBudget, status: &PodDisruptionBudgetStatus) -> Result<()> {
    let name = budget.metadata.name.as_deref().unwrap_or_default();
    if status.observed_generation.unwrap_or(0) < budget.metadata.generation.unwrap_or(0) {
        let why = format!("The disruption budget {name} is still being processed by the server.");
        return Err(too_many(&why, Some(RETRY_SECONDS)));
    }
    if status.disrupted_pods.as_ref().is_some_and(|pods| pods.len() > DISRUPTED_PODS_MAX) {
        let message = "DisruptedPods map too big - too many evictions not confirmed by PDB controller";
        return Err(Failure::forbidden("poddisruptionbudgets", name, message.into()));
    }
    if status.disruptions_allowed.unwrap_or(0) < 1 {
        let why = format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            status.desired_healthy.unwrap_or(0),
            status.current_healthy.unwrap_or(0)
        );
        return Err(too_many(&why, None));
    }
    Ok(())
}

fn too_many(why: &str, retry_seconds: Option<i32>) -> Failure {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    Failure::too_many_requests(message, retry_seconds).because("DisruptionBudget", why)
}
