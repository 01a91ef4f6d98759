//! What is decided as one: a pod by itself, or the pods of a gang (KEP-4671).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::{core::v1::Pod, scheduling::v1beta1::PodGroup};
use kube::{Client, Resource as _, ResourceExt as _};
use tokio::time::{Instant, sleep};

use super::{
    super::{NodeId, PodId, Snapshot, Unit, UnitId},
    SchedulingLoop, scheduler_of,
};
use crate::{
    clock::Timestamp,
    informer::{Changes, Informers, Lister, ObjectKey},
};

/// How long to wait before an API that did not answer is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The pod groups of an API, if it has such: Kubernetes has them from 1.37 on, before that behind a gate.
#[derive(Clone, Debug, Default)]
pub(super) struct Groups(Option<Lister<PodGroup>>);

impl Groups {
    /// Asks an API whether it has groups, until it answers, and waits until they are known.
    pub(super) async fn discover(client: &Client, informers: &Informers) -> Self {
        let version = PodGroup::api_version(&());
        loop {
            match client.list_api_group_resources(&version).await {
                Ok(list) if list.resources.iter().any(|resource| resource.name == PodGroup::plural(&())) => {
                    let groups = informers.of();
                    groups.synced().await;
                    return Self(Some(groups));
                }
                Ok(_) => break,
                Err(kube::Error::Api(status)) if status.code == 404 => break,
                Err(error) => {
                    tracing::debug!(%error, "it is not known yet whether there are pod groups");
                    sleep(ASK_AGAIN).await;
                }
            }
        }
        tracing::info!(version = &*version, "the API has no pod groups: pods are placed one by one");
        Self(None)
    }

    /// Follows them; for ever silent if there are none.
    pub(super) fn subscribe(&self) -> Option<Changes<PodGroup>> {
        self.0.as_ref().map(Lister::subscribe)
    }

    /// The group that a pod starts with, together or not at all; `None` for a pod that starts by itself.
    fn gang_of(&self, pod: &Pod) -> Option<Membership> {
        let groups = self.0.as_ref()?;
        let name = pod.spec.as_ref()?.scheduling_group.as_ref()?.pod_group_name.as_deref()?;
        let key = ObjectKey::new(pod.namespace().unwrap_or_default(), name);
        let Some(group) = groups.get(&key) else { return Some(Membership { key, gang: None }) };
        let gang = Gang::of(&group)?;
        Some(Membership { key, gang: Some(gang) })
    }
}

/// Of which gang a pod is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Membership {
    /// The group.
    key: ObjectKey,
    /// What it says; `None` if it is not there yet.
    gang: Option<Gang>,
}

/// What a group says of the pods in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Gang {
    /// Fewer with a place than this, and none may have one.
    pods_min: usize,
    /// Its priority, if that is not its pods'.
    priority: Option<i32>,
    /// The labels that the nodes of its pods have to agree in.
    topology: Vec<Box<str>>,
}

impl Gang {
    /// `None` if the pods of the group start one by one.
    fn of(group: &PodGroup) -> Option<Self> {
        let pods_min = usize::try_from(group.spec.scheduling_policy.gang.as_ref()?.min_count).unwrap_or(0).max(1);
        let constraints = group.spec.scheduling_constraints.as_ref().and_then(|all| all.topology.as_deref());
        let topology =
            constraints.unwrap_or_default().iter().map(|constraint| constraint.key.as_str().into()).collect();
        Some(Self { pods_min, priority: group.spec.priority, topology })
    }
}

/// How a pod takes part in a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// It is to be placed now.
    Due,
    /// It has a place.
    Placed,
    /// Neither.
    Other,
}

/// What can be decided now.
#[derive(Debug, Default)]
pub(super) struct Units {
    /// Highest priority first, then the longest waiting.
    pub(super) units: Vec<Unit>,
    /// Those of gangs that are confined to one domain of a topology, in the same order.
    pub(super) confined: Vec<Confined>,
    /// The pods whose gang is not there yet, and what it lacks.
    pub(super) incomplete: Vec<(PodId, String)>,
}

/// A gang whose pods must be on nodes that agree in some labels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Confined {
    pub(super) unit: Unit,
    pub(super) topology: Vec<Box<str>>,
    /// Those of it that have a place, which says where the others have to be.
    pub(super) placed: Vec<PodId>,
}

/// The pods of one gang.
struct Members {
    gang: Option<Gang>,
    placed: Vec<PodId>,
    due: Vec<PodId>,
}

/// Gathers the pods that are due: each pod by itself, and of each gang as many as have come, once that is enough.
fn units(
    pods: &[Arc<Pod>],
    part: impl Fn(&Pod) -> Part,
    gang_of: impl Fn(&Pod) -> Option<Membership>,
    now: Timestamp,
) -> Units {
    let mut gathered = Units::default();
    let mut gangs: BTreeMap<ObjectKey, Members> = BTreeMap::new();
    for (id, pod) in (0..).map(PodId).zip(pods) {
        let part = part(pod);
        if part == Part::Other {
            continue;
        }
        match gang_of(pod) {
            Some(Membership { key, gang }) => {
                let members = gangs.entry(key).or_insert(Members { gang, placed: Vec::new(), due: Vec::new() });
                if part == Part::Placed { members.placed.push(id) } else { members.due.push(id) }
            }
            None if part == Part::Due => gathered.units.push(unit(pods, vec![id], 1, None, now)),
            None => {}
        }
    }
    for (key, Members { gang, placed, mut due }) in gangs.into_iter().filter(|(_, members)| !members.due.is_empty()) {
        due.sort_by_key(|id| (since(pod(pods, *id), now), *id));
        let Some(Gang { pods_min, priority, topology }) = gang else {
            let lacks = format!("waiting for pod group \"{}\" to be created", key.name);
            gathered.incomplete.extend(due.into_iter().map(|id| (id, lacks.clone())));
            continue;
        };
        let here = placed.len() + due.len();
        if here < pods_min {
            let lacks = format!("waiting for pod group \"{}\": {here} of {pods_min} pods are there", key.name);
            gathered.incomplete.extend(due.into_iter().map(|id| (id, lacks.clone())));
            continue;
        }
        let lacking = pods_min.saturating_sub(placed.len());
        // Once enough have started, the others may one by one.
        let parts = if lacking == 0 { due.into_iter().map(|id| vec![id]).collect() } else { vec![due] };
        let units = parts.into_iter().map(|ids| unit(pods, ids, lacking.max(1), priority, now));
        if topology.is_empty() {
            gathered.units.extend(units);
        } else {
            let confine = |unit| Confined { unit, topology: topology.clone(), placed: placed.clone() };
            gathered.confined.extend(units.map(confine));
        }
    }
    let rank = |unit: &Unit| (Reverse(unit.priority), unit.since, unit.id);
    gathered.units.sort_by_key(rank);
    gathered.confined.sort_by_key(|confined| rank(&confined.unit));
    gathered
}

/// The nodes of each domain that a gang may be confined to: one for each set of values that nodes have for all the labels;
/// only that of `placed`, if there are such.
pub(super) fn domains(snapshot: &Snapshot, topology: &[Box<str>], placed: &[PodId]) -> Vec<Vec<NodeId>> {
    let domain_of = |id: NodeId| {
        let labels = &snapshot.node(id).labels;
        topology.iter().map(|key| labels.get(&**key)).collect::<Option<Vec<_>>>()
    };
    let mut domains: BTreeMap<Vec<&String>, Vec<NodeId>> = BTreeMap::new();
    for id in snapshot.node_ids() {
        if let Some(domain) = domain_of(id) {
            domains.entry(domain).or_default().push(id);
        }
    }
    for place in placed.iter().filter_map(|pod| snapshot.place_of(*pod)) {
        let theirs = domain_of(place.node);
        domains.retain(|domain, _| theirs.as_ref() == Some(domain));
    }
    domains.into_values().collect()
}

impl SchedulingLoop {
    /// The pods that matter to a scheduler now, and what it has to decide of them.
    pub(super) fn gather(&self, pods: &[Arc<Pod>], planning: &str) -> (Vec<Arc<Pod>>, Units) {
        let now = Instant::now();
        let is_ours = |pod: &Pod| scheduler_of(pod) == planning && self.waits(pod);
        let is_due = |pod: &Pod| is_ours(pod) && self.queue.is_due(&pod.uid().unwrap_or_default(), now);
        let gang_of = |pod: &Pod| self.groups.gang_of(pod).map(|membership| membership.key);
        let gangs_due: BTreeSet<ObjectKey> =
            pods.iter().filter(|pod| is_due(pod)).filter_map(|pod| gang_of(pod)).collect();
        // A gang is tried whole, whichever of its pods is due.
        let with_gang = |pod: &Pod| gang_of(pod).is_some_and(|gang| gangs_due.contains(&gang));
        let part = |pod: &Pod| match self.place_of(pod) {
            Some(_) => Part::Placed,
            None if is_due(pod) || is_ours(pod) && with_gang(pod) => Part::Due,
            None => Part::Other,
        };
        let is_present = |pod: &&Arc<Pod>| part(pod) != Part::Other || self.nomination(pod).is_some();
        let present: Vec<Arc<Pod>> = pods.iter().filter(is_present).cloned().collect();
        let units = units(&present, part, |pod| self.groups.gang_of(pod), self.clock.now());
        (present, units)
    }
}

fn pod(pods: &[Arc<Pod>], id: PodId) -> &Pod {
    pods.get(id.0 as usize).expect("ids are places among the pods")
}

fn unit(pods: &[Arc<Pod>], ids: Vec<PodId>, pods_min: usize, priority: Option<i32>, now: Timestamp) -> Unit {
    let members = || ids.iter().map(|id| pod(pods, *id));
    let own = members().map(|pod| pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)).max();
    Unit {
        id: UnitId(ids.first().map_or(0, |first| first.0)),
        pods_min,
        priority: priority.or(own).unwrap_or(0),
        queue: members().next().and_then(Pod::namespace).unwrap_or_default().into(),
        since: members().map(|pod| since(pod, now)).min().unwrap_or(now),
        pods: ids,
    }
}

/// Since when a pod waits.
fn since(pod: &Pod, now: Timestamp) -> Timestamp {
    pod.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, sync::Arc};

    use k8s_openapi::api::core::v1::Pod;
    use kube::ResourceExt as _;
    use proptest::prelude::*;
    use serde_json::json;

    use super::{Gang, Membership, Part, units};
    use crate::{clock::Timestamp, informer::ObjectKey};

    fn pod(number: usize, group: Option<usize>, priority: i32) -> Arc<Pod> {
        let mut pod = json!({ "metadata": { "name": number.to_string(), "namespace": "default" },
            "spec": { "priority": priority, "containers": [] } });
        if let Some(group) = group {
            pod["spec"]["schedulingGroup"] = json!({ "podGroupName": group.to_string() });
        }
        Arc::new(serde_json::from_value(pod).expect("a pod"))
    }

    proptest! {
        /// Each pod that is due is in one unit, or told what its gang lacks; a gang is there with as many as it needs, and
        /// comes as one until so many have a place.
        #[test]
        fn each_pod_that_is_due_is_decided_or_told(
            drawn in prop::collection::vec((prop::option::of(0..3_usize), 0..3_i32, 0..3_u8), 0..20),
            gangs in prop::collection::vec(prop::option::of(1..5_usize), 3),
        ) {
            let pods: Vec<_> =
                drawn.iter().enumerate().map(|(n, (group, priority, _))| pod(n, *group, *priority)).collect();
            let number = |pod: &Pod| pod.name_any().parse::<usize>().expect("a number");
            let part = |pod: &Pod| [Part::Due, Part::Placed, Part::Other][usize::from(drawn[number(pod)].2)];
            let gang_of = |pod: &Pod| {
                let group = drawn[number(pod)].0?;
                let gang = gangs[group].map(|pods_min| Gang { pods_min, ..Gang::default() });
                Some(Membership { key: ObjectKey::new("default", group.to_string()), gang })
            };
            let gathered = units(&pods, part, gang_of, Timestamp::default());

            let decided: Vec<_> = gathered.units.iter().flat_map(|unit| unit.pods.clone()).collect();
            let told = gathered.incomplete.iter().map(|(id, _)| *id);
            let all: BTreeSet<_> = decided.iter().copied().chain(told).collect();
            let due = pods.iter().filter(|pod| part(pod) == Part::Due).count();
            prop_assert_eq!((all.len(), decided.len() + gathered.incomplete.len()), (due, due));
            for unit in &gathered.units {
                prop_assert!(unit.pods_min >= 1 && unit.pods_min <= unit.pods.len());
                let of: BTreeSet<_> = unit.pods.iter().map(|id| drawn[id.0 as usize].0).collect();
                let Some(group) = of.first().copied().flatten() else { continue };
                prop_assert_eq!(of.len(), 1);
                let placed = drawn.iter().filter(|(of, _, part)| *of == Some(group) && *part == 1).count();
                let pods_min = gangs[group].expect("a gang that is not there is not decided");
                prop_assert!(placed + unit.pods_min >= pods_min);
                prop_assert!(placed >= pods_min || unit.pods_min == pods_min - placed);
            }
            prop_assert!(gathered.units.is_sorted_by_key(|unit| std::cmp::Reverse(unit.priority)));
        }
    }

    #[test]
    fn a_pod_is_told_what_its_gang_lacks() {
        let pods = [pod(0, Some(0), 0), pod(1, Some(1), 0)];
        let gang_of = |pod: &Pod| {
            let name = pod.spec.as_ref()?.scheduling_group.as_ref()?.pod_group_name.clone()?;
            let gang = (name == "0").then_some(Gang { pods_min: 3, ..Gang::default() });
            Some(Membership { key: ObjectKey::new("default", name), gang })
        };
        let told = units(&pods, |_| Part::Due, gang_of, Timestamp::default()).incomplete;
        let messages: Vec<_> = told.into_iter().map(|(_, message)| message).collect();
        let expected =
            ["waiting for pod group \"0\": 1 of 3 pods are there", "waiting for pod group \"1\" to be created"];
        assert_eq!(messages, expected);
    }
}
