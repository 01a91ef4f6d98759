//! The plan over simulated replica sets.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet, ReplicaSetStatus};
use proptest::prelude::*;
use serde_json::json;

use super::{Change, Timestamp, Update, bounds, plan, size};

fn deployment(replicas: i32, surge: &str, unavailable: &str, image: &str) -> Deployment {
    serde_json::from_value(json!({
        "metadata": { "name": "web", "namespace": "a", "uid": "d" },
        "spec": { "replicas": replicas, "selector": { "matchLabels": { "app": "web" } },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxSurge": surge, "maxUnavailable": unavailable } },
            "template": { "metadata": { "labels": { "app": "web" } },
                "spec": { "containers": [{ "name": "web", "image": image }] } } } }))
    .expect("a deployment")
}

/// Applies a plan's changes, as the API would.
fn apply(sets: &mut Vec<Arc<ReplicaSet>>, changes: &[Change]) {
    for change in changes {
        match change {
            Change::Create(set) => sets.push(Arc::new((**set).clone())),
            Change::Update(Update { name, replicas, min_ready_seconds, annotations, .. }) => {
                let set = sets.iter_mut().find(|set| set.metadata.name.as_ref() == Some(name)).expect("there");
                let set = Arc::make_mut(set);
                if let Some((_, to)) = replicas {
                    set.spec.replicas = Some(*to);
                }
                set.spec.min_ready_seconds = min_ready_seconds.or(set.spec.min_ready_seconds);
                set.metadata.annotations.get_or_insert_default().extend(annotations.clone());
            }
            Change::Delete { name, .. } => sets.retain(|set| set.metadata.name.as_ref() != Some(name)),
        }
    }
}

/// Lets each set have the pods it asks for, of which at most `ready` new ones are available at once.
fn settle(sets: &mut [Arc<ReplicaSet>], ready: i32) {
    for set in sets {
        let set = Arc::make_mut(set);
        let wanted = set.spec.replicas.unwrap_or(0);
        let available = set.status.as_ref().and_then(|status| status.available_replicas).unwrap_or(0);
        let available = wanted.min(available + ready);
        set.status =
            Some(ReplicaSetStatus { replicas: wanted, available_replicas: Some(available), ..Default::default() });
    }
}

fn available(sets: &[Arc<ReplicaSet>]) -> i32 {
    sets.iter().filter_map(|set| set.status.as_ref()?.available_replicas).sum()
}

#[test]
fn a_template_that_comes_back_is_a_new_revision_of_its_old_set() {
    let (first, second) = (deployment(2, "1", "0", "a"), deployment(2, "1", "0", "b"));
    let mut sets = Vec::new();
    for wanted in [&first, &second, &first] {
        for _ in 0..20 {
            let plan = plan(wanted, &sets, false, Timestamp::UNIX_EPOCH);
            apply(&mut sets, &plan.changes);
            settle(&mut sets, 1);
        }
    }
    assert_eq!(sets.len(), 2);
    assert_eq!(plan(&first, &sets, false, Timestamp::UNIX_EPOCH).revision, Some(3));
}

proptest! {
    /// SEMANTICS 50: a rolling update keeps within its bounds at every step, ends, and then changes nothing.
    #[test]
    fn a_rolling_update_keeps_its_bounds_and_ends(
        replicas in 0..12_i32,
        surge in 0..120_u32,
        unavailable in 0..100_u32,
        ready in 1..4_i32,
    ) {
        let (surge, unavailable) = (format!("{surge}%"), format!("{unavailable}%"));
        let (old, new) = (deployment(replicas, &surge, &unavailable, "a"), deployment(replicas, &surge, &unavailable, "b"));
        let (max_surge, max_unavailable) = bounds(&new.spec);
        let mut sets = Vec::new();
        let first = plan(&old, &sets, false, Timestamp::UNIX_EPOCH);
        apply(&mut sets, &first.changes);
        settle(&mut sets, replicas);
        for _ in 0..60 {
            let next = plan(&new, &sets, false, Timestamp::UNIX_EPOCH);
            apply(&mut sets, &next.changes);
            let total: i32 = sets.iter().map(|set| size(set)).sum();
            prop_assert!(total <= replicas + max_surge, "{total} pods of {replicas} + {max_surge}");
            settle(&mut sets, 0);
            prop_assert!(available(&sets) >= replicas - max_unavailable, "{} of {replicas}", available(&sets));
            settle(&mut sets, ready);
        }
        let last = plan(&new, &sets, false, Timestamp::UNIX_EPOCH);
        prop_assert_eq!(last.changes, vec![]);
        prop_assert_eq!(last.status.updated_replicas.unwrap_or(0), replicas);
        prop_assert_eq!(sets.iter().map(|set| size(set)).sum::<i32>(), replicas);
    }
}
