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

/// Plans, and carries it out.
fn step(deployment: &Deployment, sets: &mut Vec<Arc<ReplicaSet>>, old_pods_run: bool) {
    let plan = plan(deployment, sets, old_pods_run, Timestamp::UNIX_EPOCH);
    apply(sets, &plan.changes);
}

fn counted(set: &mut Arc<ReplicaSet>, replicas: i32, available: i32) {
    Arc::make_mut(set).status =
        Some(ReplicaSetStatus { replicas, available_replicas: Some(available), ..Default::default() });
}

#[test]
fn a_recreated_deployment_starts_only_when_the_last_old_pod_is_gone() {
    let recreate = |image: &str| {
        let mut deployment = deployment(3, "0", "0", image);
        deployment.spec.strategy = serde_json::from_value(json!({ "type": "Recreate" })).expect("a strategy");
        deployment
    };
    let mut sets = Vec::new();
    step(&recreate("a"), &mut sets, false);
    counted(&mut sets[0], 3, 3);
    step(&recreate("b"), &mut sets, true);
    counted(&mut sets[0], 0, 0);
    let sizes = |sets: &[Arc<ReplicaSet>]| sets.iter().map(|set| size(set)).collect::<Vec<_>>();
    // No set counts a pod that is on its way out, and yet it runs.
    step(&recreate("b"), &mut sets, true);
    assert_eq!(sizes(&sets), [0, 0]);
    step(&recreate("b"), &mut sets, false);
    assert_eq!(sizes(&sets), [0, 3]);
}

#[test]
fn a_paused_deployment_is_scaled_and_not_rolled() {
    let mut sets = Vec::new();
    step(&deployment(2, "1", "0", "a"), &mut sets, false);
    settle(&mut sets, 2);
    let mut paused = deployment(5, "1", "0", "b");
    paused.spec.paused = Some(true);
    step(&paused, &mut sets, false);
    assert_eq!(sets.iter().map(|set| size(set)).collect::<Vec<_>>(), [5]);
}

#[test]
fn history_is_kept_up_to_its_limit() {
    let mut sets = Vec::new();
    for image in ["a", "b", "c", "d", "e"] {
        let mut next = deployment(1, "1", "0", image);
        next.spec.revision_history_limit = Some(2);
        for _ in 0..6 {
            step(&next, &mut sets, false);
            settle(&mut sets, 1);
        }
    }
    let mut revisions: Vec<_> = sets.iter().map(|set| super::revision_of(set)).collect();
    revisions.sort_unstable();
    assert_eq!(revisions, [3, 4, 5]);
}

/// What a deployment says of its progress, as it goes.
#[test]
fn conditions_follow_a_rollout_from_its_start_to_its_deadline() {
    let mut web = deployment(1, "1", "0", "a");
    let mut sets = Vec::new();
    let at = |seconds: i64| Timestamp::from_second(1_000_000 + seconds).expect("in range");
    let look = |web: &mut Deployment, sets: &mut Vec<Arc<ReplicaSet>>, seconds: i64| {
        let plan = plan(web, sets, false, at(seconds));
        apply(sets, &plan.changes);
        let conditions = plan.status.conditions.clone().unwrap_or_default();
        web.status = Some(plan.status);
        let told = conditions.iter().map(|condition| {
            let [type_, status, reason] = [&condition.type_, &condition.status, &condition.reason].map(Clone::clone);
            format!("{}={} {}", type_.unwrap_or_default(), status.unwrap_or_default(), reason.unwrap_or_default())
        });
        (told.collect::<Vec<_>>().join(", "), plan.look_again_after.map(|wait| wait.as_secs()))
    };
    let unavailable = "Available=False MinimumReplicasUnavailable, Progressing";
    let available = "Available=True MinimumReplicasAvailable, Progressing";
    assert_eq!(look(&mut web, &mut sets, 0), (format!("{unavailable}=True NewReplicaSetCreated"), Some(600)));
    counted(&mut sets[0], 1, 0);
    assert_eq!(look(&mut web, &mut sets, 1), (format!("{unavailable}=True ReplicaSetUpdated"), Some(600)));
    assert_eq!(look(&mut web, &mut sets, 11), (format!("{unavailable}=True ReplicaSetUpdated"), Some(590)));
    assert_eq!(look(&mut web, &mut sets, 601), (format!("{unavailable}=False ProgressDeadlineExceeded"), None));
    counted(&mut sets[0], 1, 1);
    assert_eq!(look(&mut web, &mut sets, 602), (format!("{available}=True NewReplicaSetAvailable"), None));
    // A pod that is lost later is healed, not rolled out.
    counted(&mut sets[0], 1, 0);
    assert_eq!(look(&mut web, &mut sets, 9_000), (format!("{unavailable}=True NewReplicaSetAvailable"), None));
    web.spec.paused = Some(true);
    assert_eq!(look(&mut web, &mut sets, 9_001), (format!("{unavailable}=Unknown DeploymentPaused"), None));
    web.spec.paused = Some(false);
    assert_eq!(look(&mut web, &mut sets, 9_002).0, format!("{unavailable}=Unknown DeploymentResumed"));
}

proptest! {
    /// SEMANTICS 50: a deployment that is resized again and again while it rolls never has more pods than it may, shares
    /// them out whole, and comes to rest.
    #[test]
    fn a_rollout_resized_on_its_way_keeps_its_bounds_and_ends(
        resizes in proptest::collection::vec((1..20_i32, 1..6_usize), 1..6),
        surge in 1..60_u32,
        ready in 1..4_i32,
    ) {
        let of = |replicas: i32, image: &str| deployment(replicas, &format!("{surge}%"), "25%", image);
        let mut sets = Vec::new();
        step(&of(10, "a"), &mut sets, false);
        settle(&mut sets, 10);
        let mut last = 10;
        for (replicas, steps) in resizes {
            let wanted = of(replicas, "b");
            let most = replicas + bounds(&wanted.spec).0;
            for turn in 0..steps {
                let before: i32 = sets.iter().map(|set| size(set)).sum();
                step(&wanted, &mut sets, false);
                let total: i32 = sets.iter().map(|set| size(set)).sum();
                prop_assert!(total <= most.max(before), "{total} pods of at most {most}");
                if turn > 0 {
                    prop_assert!(total <= most, "{total} pods of at most {most}");
                }
                settle(&mut sets, ready);
            }
            last = replicas;
        }
        let wanted = of(last, "b");
        for _ in 0..80 {
            step(&wanted, &mut sets, false);
            settle(&mut sets, ready);
        }
        let end = plan(&wanted, &sets, false, Timestamp::UNIX_EPOCH);
        prop_assert_eq!(end.changes, vec![]);
        prop_assert_eq!(end.status.updated_replicas.unwrap_or(0), last);
        prop_assert_eq!(sets.iter().map(|set| size(set)).sum::<i32>(), last);
    }
}
