//! Says of each disruption budget how many of its pods may be evicted now; the eviction itself spends it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet, StatefulSet},
        core::v1::{Pod, ReplicationController},
        policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus},
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, OwnerReference, Time},
        util::intstr::IntOrString,
    },
};
use kube::{Client, ResourceExt as _};

use super::{Parts, claim::controller_of, write_status};
use crate::{
    api::{
        pod::is_ready,
        selector::LabelSelector,
        share::{Rounding, share},
    },
    clock::{Clock, Timestamp},
    controller::{Action, Controller, Error, ObjectKey, Runner},
    informer::{Change, Lister},
};

/// How long an eviction that was granted may take to show in its pod, before it counts as not carried out; as upstream.
const EVICTION_SECONDS_MAX: i64 = 120;

/// What a budget's status should say, and when it has to be looked at again.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The status as it should read.
    pub status: PodDisruptionBudgetStatus,
    /// When the first granted eviction counts as not carried out.
    pub look_again_after: Option<Duration>,
}

/// Decides what the status of `budget` should say, given the pods that it selects and how many their controllers want;
/// pure.
#[must_use]
pub fn plan(budget: &PodDisruptionBudget, pods: &[Arc<Pod>], wanted: i32, now: Timestamp) -> Plan {
    let spec = budget.spec.clone().unwrap_or_default();
    let old = budget.status.clone().unwrap_or_default();
    let standing: BTreeSet<String> =
        pods.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).map(|pod| pod.name_any()).collect();
    let seconds_left = |granted: &Time| EVICTION_SECONDS_MAX - now.duration_since(granted.0).as_secs();
    let mut disrupted: BTreeMap<String, Time> = old.disrupted_pods.clone().unwrap_or_default();
    disrupted.retain(|pod, granted| standing.contains(pod) && seconds_left(granted) > 0);

    let selected = i32::try_from(pods.len()).unwrap_or(i32::MAX);
    let (expected_pods, desired_healthy) = match (&spec.max_unavailable, &spec.min_available) {
        (Some(unavailable), _) => (wanted, wanted - share(unavailable, wanted, Rounding::Up).min(wanted)),
        (None, Some(available @ IntOrString::String(_))) => (wanted, share(available, wanted, Rounding::Up)),
        (None, Some(IntOrString::Int(available))) => (selected, *available),
        (None, None) => (selected, 0),
    };
    let healthy = pods
        .iter()
        .filter(|pod| standing.contains(&pod.name_any()) && !disrupted.contains_key(&pod.name_any()) && is_ready(pod));
    let current_healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected_pods > 0 { (current_healthy - desired_healthy).max(0) } else { 0 };
    let look_again_after = disrupted.values().map(seconds_left).min();
    Plan {
        status: PodDisruptionBudgetStatus {
            conditions: Some(vec![condition(&old, allowed, budget.metadata.generation, now)]),
            current_healthy: Some(current_healthy),
            desired_healthy: Some(desired_healthy),
            disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
            disruptions_allowed: Some(allowed),
            expected_pods: Some(expected_pods),
            observed_generation: budget.metadata.generation,
        },
        look_again_after: look_again_after.map(|seconds| Duration::from_secs(seconds.unsigned_abs())),
    }
}

fn condition(old: &PodDisruptionBudgetStatus, allowed: i32, generation: Option<i64>, now: Timestamp) -> Condition {
    let (status, reason) = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let kept = old.conditions.iter().flatten().find(|kept| kept.type_ == "DisruptionAllowed" && kept.status == status);
    Condition {
        type_: "DisruptionAllowed".into(),
        status: status.into(),
        reason: reason.into(),
        message: String::new(),
        observed_generation: generation,
        last_transition_time: kept.map_or(Time(now), |kept| kept.last_transition_time.clone()),
    }
}

struct Disruption {
    client: Client,
    clock: Arc<dyn Clock>,
    budgets: Lister<PodDisruptionBudget>,
    pods: Lister<Pod>,
    replica_sets: Lister<ReplicaSet>,
    deployments: Lister<Deployment>,
    stateful_sets: Lister<StatefulSet>,
    replication_controllers: Lister<ReplicationController>,
}

/// Makes the controller, ready to run.
#[must_use]
pub fn runner(parts: &Parts) -> Runner {
    let (budgets, pods) = (parts.informers.of::<PodDisruptionBudget>(), parts.informers.of::<Pod>());
    let known = budgets.clone();
    let of_pod = move |change: &Change<Pod>| {
        let touches = |budget: &PodDisruptionBudget| {
            [&change.old, &change.new].into_iter().flatten().any(|pod| selects(budget, pod))
        };
        let budgets = known.list_namespace(&change.key.namespace);
        budgets.iter().filter(|budget| touches(budget)).map(|budget| ObjectKey::of(&**budget)).collect()
    };
    parts.runner(controller(parts)).reconciles(&budgets).watches(&pods, of_pod)
}

/// Makes the controller alone, for those who call it themselves.
#[must_use]
pub fn controller(parts: &Parts) -> impl Controller + use<> {
    Disruption {
        client: parts.client.clone(),
        clock: Arc::clone(&parts.clock),
        budgets: parts.informers.of(),
        pods: parts.informers.of(),
        replica_sets: parts.informers.of(),
        deployments: parts.informers.of(),
        stateful_sets: parts.informers.of(),
        replication_controllers: parts.informers.of(),
    }
}

/// A budget without a selector selects nothing; one with an empty selector, all of its namespace.
fn selects(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
    let selector = selector.and_then(|selector| LabelSelector::try_from(selector).ok());
    selector.is_some_and(|selector| selector.matches(pod.labels()))
}

#[async_trait]
impl Controller for Disruption {
    fn name(&self) -> &str {
        "disruption"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        self.synced().await;
        let Some(budget) = self.budgets.get(key) else { return Ok(Action::AwaitChange) };
        let pods = self.pods.list_namespace(&key.namespace);
        let pods: Vec<_> = pods.into_iter().filter(|pod| selects(&budget, pod)).collect();
        let Plan { status, look_again_after } = plan(&budget, &pods, self.wanted(key, &pods), self.clock.now());
        if budget.status.as_ref() != Some(&status) {
            let budget = PodDisruptionBudget { status: Some(status), ..PodDisruptionBudget::clone(&budget) };
            write_status(&self.client, &self.budgets, &budget).await?;
        }
        Ok(look_again_after.map_or(Action::AwaitChange, Action::RequeueAfter))
    }
}

impl Disruption {
    async fn synced(&self) {
        self.pods.synced().await;
        self.replica_sets.synced().await;
        self.deployments.synced().await;
        self.stateful_sets.synced().await;
        self.replication_controllers.synced().await;
    }

    /// How many pods the controllers of `pods` want, each counted once; a pod without one counts for itself.
    fn wanted(&self, key: &ObjectKey, pods: &[Arc<Pod>]) -> i32 {
        let mut alone = 0_i32;
        let mut scales = BTreeMap::new();
        for pod in pods {
            match controller_of(&**pod).and_then(|owner| self.scale(&key.namespace, owner)) {
                Some((uid, replicas)) => drop(scales.insert(uid, replicas)),
                None => alone = alone.saturating_add(1),
            }
        }
        scales.into_values().fold(alone, i32::saturating_add)
    }

    /// The uid and the replicas of a controller; of a deployment's replica set, those of the deployment.
    fn scale(&self, namespace: &str, owner: &OwnerReference) -> Option<(String, i32)> {
        let key = ObjectKey::new(namespace, owner.name.as_str());
        let (uid, replicas) = match owner.kind.as_str() {
            "ReplicaSet" => {
                let set = self.replica_sets.get(&key)?;
                let above = controller_of(&*set).filter(|above| above.kind == "Deployment");
                if let Some(scale) = above.and_then(|above| self.scale(namespace, above)) {
                    return (set.uid().as_deref() == Some(&owner.uid)).then_some(scale);
                }
                (set.uid(), set.spec.replicas)
            }
            "Deployment" => {
                let found = self.deployments.get(&key)?;
                (found.uid(), found.spec.replicas)
            }
            "StatefulSet" => {
                let set = self.stateful_sets.get(&key)?;
                (set.uid(), set.spec.replicas)
            }
            "ReplicationController" => {
                let found = self.replication_controllers.get(&key)?;
                (found.uid(), found.spec.as_ref().and_then(|spec| spec.replicas))
            }
            _ => return None,
        };
        (uid.as_deref() == Some(&owner.uid)).then(|| (owner.uid.clone(), replicas.unwrap_or(1)))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::api::{core::v1::Pod, policy::v1::PodDisruptionBudget};
    use proptest::prelude::*;
    use serde_json::{Value, from_value, json};

    use super::plan;
    use crate::clock::Timestamp;

    fn now() -> Timestamp {
        "2030-01-01T00:10:00Z".parse().expect("a time")
    }

    fn budget(spec: &Value, disrupted: &Value) -> PodDisruptionBudget {
        let object = json!({ "metadata": { "name": "web", "generation": 2 }, "spec": spec,
            "status": { "disruptedPods": disrupted, "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0,
                "expectedPods": 0 } });
        from_value(object).expect("a budget")
    }

    fn pods(ready: &[bool]) -> Vec<Arc<Pod>> {
        let pod = |(n, ready): (usize, &bool)| {
            let status = if *ready { "True" } else { "False" };
            let pod = json!({ "metadata": { "name": format!("web-{n}") }, "spec": { "containers": [] },
                "status": { "conditions": [{ "type": "Ready", "status": status }] } });
            Arc::new(from_value(pod).expect("a pod"))
        };
        ready.iter().enumerate().map(pod).collect()
    }

    #[test]
    fn a_share_is_rounded_up_against_the_disruption() {
        let cases = [
            (json!({ "minAvailable": 3 }), 1),
            (json!({ "minAvailable": "50%" }), 1),
            (json!({ "maxUnavailable": 1 }), 0),
            (json!({ "maxUnavailable": "40%" }), 1),
            (json!({ "minAvailable": 0 }), 4),
        ];
        for (spec, allowed) in cases {
            let plan = plan(&budget(&spec, &json!({})), &pods(&[true, true, true, true, false]), 5, now());
            assert_eq!(plan.status.disruptions_allowed, Some(allowed), "{spec}");
        }
    }

    #[test]
    fn an_eviction_that_was_granted_counts_until_it_shows_or_two_minutes_are_over() {
        let spec = json!({ "minAvailable": 1 });
        let granted = budget(&spec, &json!({ "web-0": "2030-01-01T00:09:00Z", "gone": "2030-01-01T00:09:59Z" }));
        let held = plan(&granted, &pods(&[true, true]), 2, now());
        assert_eq!(held.status.disruptions_allowed, Some(0));
        assert_eq!(held.look_again_after.map(|wait| wait.as_secs()), Some(60));
        assert_eq!(held.status.disrupted_pods.map(|pods| pods.len()), Some(1));

        let stale = budget(&spec, &json!({ "web-0": "2030-01-01T00:08:00Z" }));
        let over = plan(&stale, &pods(&[true, true]), 2, now());
        assert_eq!((over.status.disruptions_allowed, over.look_again_after), (Some(1), None));
    }

    proptest! {
        /// SEMANTICS 50: if all that is allowed happens at once, as many are healthy as are desired; and the plan is stable.
        #[test]
        fn what_is_allowed_leaves_enough(ready in prop::collection::vec(any::<bool>(), 0..12), bound in 0..12_i32, share in 0..=100_i32, kind in 0..4) {
            let spec = match kind {
                0 => json!({ "minAvailable": bound }),
                1 => json!({ "minAvailable": format!("{share}%") }),
                2 => json!({ "maxUnavailable": bound }),
                _ => json!({ "maxUnavailable": format!("{share}%") }),
            };
            let (mut budget, pods) = (budget(&spec, &json!({})), pods(&ready));
            let wanted = i32::try_from(ready.len()).expect("small");
            let first = plan(&budget, &pods, wanted, now());
            let allowed = first.status.disruptions_allowed.expect("always said");
            let healthy = first.status.current_healthy.expect("always said");
            prop_assert!(allowed >= 0 && allowed <= healthy);
            prop_assert!(allowed == 0 || healthy - allowed >= first.status.desired_healthy.expect("always said"));
            budget.status = Some(first.status.clone());
            prop_assert_eq!(plan(&budget, &pods, wanted, now()), first);
        }
    }
}
