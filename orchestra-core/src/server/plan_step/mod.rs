//! Steps of plans (`PlanStep`): re-checked on the cluster as it is, and committed in one transaction.
//!
//! A step is judged by what the watch cache shows, and committed on condition that the pods and the guards of the nodes are still at
//! the revisions that it showed ([`guard`]): nothing that takes room can have come between. If something has, the step is
//! judged again, so that whoever is refused is refused for what is so, and not for having been slower.

mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::DeleteOptions;
use serde_json::{Value, json};

use crate::{
    api::{
        plan_step::{
            EACH, EVICT, NOMINATE, NodeRead, Operation, OperationStatus, PLACE, PlanStep, PlanStepStatus, VERSION,
        },
        validation::{FieldError, FieldErrorKind},
    },
    scheduler::{
        Commit, Detect, NodeId, Op as Planned, PodId, PodView, Step, Trial, UnitId, Version, judge, looks_around,
    },
    server::{
        Call, Inner, UserInfo,
        cache::Item,
        error::{Failure, Result},
        object::{self, Object, is_terminating},
        occupancy::{self, Ground, Kinds},
        registry::Kind,
        respond::Answer,
        route::{Query, Target},
        subresource::{bound, field_of, set_condition},
        write::{CONFLICT_TRIES, Terms, guard, now_text},
    },
    store::{Check, Key, Op, Revision, TXN_OPS_MAX, Txn},
};

use verdict::{Refused, check_pod};

/// What of a transaction is not the step's own: the check of what is around, and the fence of a leader.
const CHECKS_BESIDE: usize = 2;

/// An operation, the pod that it is about, and what becomes of it.
struct Subject<'a> {
    operation: &'a Operation,
    key: Key,
    /// The pod as it is; `None` if it isn't there.
    pod: Option<(Object, Revision)>,
    item: Option<Arc<Item>>,
    verdict: Result<(), Refused>,
    /// The pod on the ground that it is judged on, if it waits.
    id: Option<PodId>,
}

/// When each guard was last written that a step has to do with; `None` if never.
type Guards = BTreeMap<Key, Option<Revision>>;

/// What becomes of a step by what the cache shows, and the transaction that makes it so if that still stands.
struct Draft {
    verdicts: Vec<Result<(), Refused>>,
    txn: Txn,
}

impl Inner {
    /// Commits a step, or says what is in the way.
    pub(super) async fn plan_step(&self, kind: &Kind, mut call: Call) -> Result<Answer> {
        let body = call.body().await?;
        let (object, warnings) = self.read_body(kind, &call, &body)?;
        let terms = call.terms()?;
        let errors = kind.validate(&object, None).map_err(Failure::internal)?;
        if !errors.is_empty() {
            return Err(Failure::invalid(kind, "", &errors));
        }
        let mut step: PlanStep = serde_json::from_value(Value::Object(object)).map_err(Failure::internal)?;
        self.authorize_operations(&call.user, &step).await?;
        for _ in 0..CONFLICT_TRIES {
            let Some(status) = self.try_step(kind, &step, &terms).await? else {
                self.metrics.plan_step_retried();
                continue;
            };
            step.status = Some(status);
            let encoded = serde_json::to_vec(&step).map_err(Failure::internal)?.into();
            return Ok(Answer::Object { code: StatusCode::CREATED, kind_of: None, encoded, warnings });
        }
        Err(Failure::modified(kind, ""))
    }

    /// A step gives nobody what they may not do one by one.
    async fn authorize_operations(&self, user: &UserInfo, step: &PlanStep) -> Result<()> {
        let mut asked = BTreeSet::new();
        for Operation { type_, pod, .. } in &step.spec.operations {
            let (verb, subresource) = match &**type_ {
                PLACE => ("create", Some("binding")),
                NOMINATE => ("patch", Some("status")),
                _ => ("delete", None),
            };
            if !asked.insert((verb, &pod.namespace)) {
                continue;
            }
            let target = Target {
                group: String::new(),
                version: "v1".into(),
                plural: "pods".into(),
                namespace: Some(pod.namespace.clone()),
                name: Some(pod.name.clone()),
                subresource: subresource.map(Into::into),
                watched: false,
            };
            self.authorize(user, verb, &target, &Query::default()).await?;
        }
        Ok(())
    }

    /// Judges a step and commits it; `None` if what it was judged by has changed meanwhile.
    async fn try_step(&self, kind: &Kind, step: &PlanStep, terms: &Terms) -> Result<Option<PlanStepStatus>> {
        self.reach(self.store.revision().await?).await?;
        let Draft { verdicts, txn } = self.draft(step)?;
        let refused = verdicts.iter().enumerate().find_map(|(at, verdict)| Some((at, verdict.as_ref().err()?)));
        if let Some((at, refused)) = refused.filter(|_| step.spec.commit != EACH) {
            self.count(step, &verdicts, false);
            return Err(self.refusal(step, at, refused));
        }
        check_size(kind, &txn)?;
        let mut resource_version = String::new();
        if !terms.dry_run && !txn.ops.is_empty() {
            let Ok(revision) = self.commit(txn, terms).await? else { return Ok(None) };
            resource_version = revision.0.to_string();
        }
        self.count(step, &verdicts, true);
        let operations = verdicts.into_iter().map(|verdict| match verdict {
            Ok(()) => OperationStatus { committed: true, ..OperationStatus::default() },
            Err(Refused { reason, message, .. }) => {
                OperationStatus { committed: false, reason: reason.into(), message }
            }
        });
        Ok(Some(PlanStepStatus { resource_version, operations: operations.collect() }))
    }

    /// Counts the refusals, and what was committed.
    fn count(&self, step: &PlanStep, verdicts: &[Result<(), Refused>], is_committed: bool) {
        for (operation, verdict) in step.spec.operations.iter().zip(verdicts) {
            match verdict {
                Ok(()) if is_committed => self.metrics.planned(&operation.type_, "Committed"),
                Ok(()) => {}
                Err(refused) => self.metrics.planned(&operation.type_, refused.reason),
            }
        }
    }

    /// What a step that is committed whole is refused with: which node, or which pod, is in the way of which operation.
    fn refusal(&self, step: &PlanStep, at: usize, refused: &Refused) -> Failure {
        let find = |plural| self.registry.find("", "v1", plural).expect("built in");
        let Some(Operation { pod, node, .. }) = step.spec.operations.get(at) else { return Failure::timeout() };
        let (kind, name) = if refused.is_of_node { (find("nodes"), node) } else { (find("pods"), &pod.name) };
        let field = format!("spec.operations[{at}]");
        Failure::conflict(kind, name, &refused.message).because_of(&field, refused.reason, &refused.message)
    }

    /// Judges a step by what the cache shows, with no wait in between.
    fn draft(&self, step: &PlanStep) -> Result<Draft> {
        let find = |plural| self.registry.find("", "v1", plural).expect("built in");
        let kinds = Kinds { pods: find("pods"), nodes: find("nodes"), namespaces: find("namespaces") };
        // Before the pods: of what comes in between, the pods tell, and the guards do not.
        let guards = self.guards(step);
        let mut subjects = self.subjects(kinds.pods, step)?;
        let waiting = subjects.iter().filter(|subject| subject.is_to_go_somewhere());
        let waiting: Vec<PodView> = waiting.map(Subject::view).collect();
        let looking = waiting.iter().any(|view| looks_around(view));
        if step.spec.commit == EACH || subjects.iter().all(|subject| subject.verdict.is_ok()) {
            let judge = |ground: Ground<'_>| self.judge(step, &mut subjects, &ground, &guards);
            self.occupancy.look(&self.cache, kinds, waiting, judge)?;
        }
        let txn = self.transaction(kinds.pods, &subjects, &guards, looking)?;
        Ok(Draft { verdicts: subjects.into_iter().map(|subject| subject.verdict).collect(), txn })
    }

    fn guards(&self, step: &PlanStep) -> Guards {
        let nodes = step.spec.operations.iter().filter_map(|one| guard::guard_key(&one.node));
        let all = nodes.chain([guard::surroundings_key()]);
        all.map(|key| (key.clone(), self.cache.get(&key).map(|item| item.revision))).collect()
    }

    fn subjects<'a>(&self, pods: &Kind, step: &'a PlanStep) -> Result<Vec<Subject<'a>>> {
        let subject = |operation: &'a Operation| {
            let key = object::key(pods, &operation.pod.namespace, &operation.pod.name)?;
            let item = self.cache.get(&key);
            let pod = match &item {
                Some(item) => Some((object::decode(&item.encoded, item.revision)?, item.revision)),
                None => None,
            };
            let verdict = check_pod(operation, pod.as_ref().map(|(pod, _)| pod));
            Ok(Subject { operation, key, pod, item, verdict, id: None })
        };
        step.spec.operations.iter().map(subject).collect()
    }

    /// Judges those operations about whose pods there is nothing to say.
    fn judge(&self, step: &PlanStep, subjects: &mut [Subject<'_>], ground: &Ground<'_>, guards: &Guards) -> Result<()> {
        let pods = self.registry.find("", "v1", "pods").expect("built in");
        let (mut planned, mut ops) = (Vec::new(), Vec::new());
        let waiting = subjects.iter_mut().filter(|subject| subject.is_to_go_somewhere());
        waiting.zip(ground.waiting).for_each(|(subject, id)| subject.id = Some(*id));
        for subject in subjects.iter_mut().filter(|subject| subject.verdict.is_ok()) {
            let op = match subject.id {
                Some(pod) => match ground.snapshot.find_node(&subject.operation.node) {
                    Some(node) if subject.operation.type_ == NOMINATE => Planned::Nominate { pod, node },
                    Some(node) => Planned::Place { pod, place: node.into() },
                    None => {
                        subject.verdict = Err(Refused::no_node(subject.operation));
                        continue;
                    }
                },
                // What stays for its grace makes no room yet.
                None => match (ground.placed(&subject.key), self.evicted(pods, subject)?) {
                    (Some(pod), None) => Planned::Evict { pod, preemptor: None },
                    _ => continue,
                },
            };
            planned.push(subject);
            ops.push(op);
        }
        let commit = if step.spec.commit == EACH { Commit::Each } else { Commit::Whole };
        let detect = if step.spec.detect == VERSION { Detect::Version } else { Detect::Fit };
        let reads = reads(step, ground, guards);
        let judged = Step { unit: UnitId(0), ops, reads, commit, cost: Duration::ZERO };
        let verdicts = judge(&mut Trial::new(ground.snapshot), &judged, detect);
        for (subject, verdict) in planned.into_iter().zip(verdicts) {
            subject.verdict = verdict.map_err(|refusal| Refused::judged(subject.operation, &refusal));
        }
        Ok(())
    }

    /// A pod as it stays for now once it is evicted; `None` if it goes at once.
    fn evicted(&self, kind: &Kind, subject: &Subject<'_>) -> Result<Option<Object>> {
        let Some((pod, _)) = &subject.pod else { return Ok(None) };
        let mut pod = pod.clone();
        if is_terminating(&pod) {
            return Ok(Some(pod));
        }
        let condition = json!({ "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": subject.operation.message, "lastTransitionTime": now_text(self.clock.now()) });
        set_condition(&mut pod, condition);
        self.mark_deleted(kind, pod, &DeleteOptions::default())
    }

    /// The writes of the operations that are taken, on condition that all that they rest on still stands.
    fn transaction(&self, kind: &Kind, subjects: &[Subject<'_>], guards: &Guards, looking: bool) -> Result<Txn> {
        let (mut txn, mut nodes) = (Txn::default(), BTreeSet::new());
        let now = now_text(self.clock.now());
        for subject in subjects.iter().filter(|subject| subject.verdict.is_ok()) {
            let Some((pod, seen)) = &subject.pod else { continue };
            let node = &*subject.operation.node;
            let new = match &*subject.operation.type_ {
                EVICT => self.evicted(kind, subject)?,
                NOMINATE => {
                    let mut pod = pod.clone();
                    field_of(&mut pod, "status").insert("nominatedNodeName".into(), node.into());
                    Some(pod)
                }
                _ => {
                    nodes.extend(guard::guard_key(node));
                    Some(bound(pod, node, &now))
                }
            };
            txn.checks.push(Check::Unchanged(subject.key.clone(), *seen));
            txn.ops.push(match new {
                Some(mut new) => Op::Put(subject.key.clone(), object::encode(&mut new)?),
                None => Op::Delete(subject.key.clone()),
            });
        }
        if nodes.is_empty() {
            return Ok(txn);
        }
        let around = guard::surroundings_key();
        let seen = |key: &Key| guards.get(key).copied().flatten();
        // Who doesn't look around doesn't get in the way of one another.
        if looking {
            guard::write_seen(around.clone(), seen(&around), &mut txn);
        } else {
            guard::check_seen(around.clone(), seen(&around), &mut txn);
        }
        for key in nodes {
            let seen = seen(&key);
            guard::write_seen(key, seen, &mut txn);
        }
        Ok(txn)
    }
}

impl Subject<'_> {
    /// Whether its pod waits for a node, and may get this one.
    fn is_to_go_somewhere(&self) -> bool {
        self.verdict.is_ok() && self.operation.type_ != EVICT
    }

    /// The pod as one that waits; one that is not there was refused before.
    fn view(&self) -> PodView {
        self.item.as_deref().and_then(occupancy::view).map(|view| view.unbound().0).unwrap_or_default()
    }
}

/// The nodes that the decision rested on, at the versions that they have, if their guards have not been written since, and else at
/// one that they never have.
fn reads(step: &PlanStep, ground: &Ground<'_>, guards: &Guards) -> Vec<(NodeId, Version)> {
    let read = |read: &NodeRead| {
        let node = ground.snapshot.find_node(&read.node)?;
        let written = guards.get(&guard::guard_key(&read.node)?).copied().flatten();
        let seen = Revision(read.resource_version.parse().unwrap_or(0));
        let stands = written.is_none_or(|written| written <= seen);
        Some((node, if stands { ground.snapshot.node(node).version } else { Version(u64::MAX) }))
    };
    step.spec.reads.iter().filter_map(read).collect()
}

/// Refuses what no store commits in one transaction.
fn check_size(kind: &Kind, txn: &Txn) -> Result<()> {
    let (count, count_max) = (txn.ops.len(), TXN_OPS_MAX - CHECKS_BESIDE);
    if count <= count_max {
        return Ok(());
    }
    let detail = format!(
        "one transaction writes at most {count_max} keys: each pod is one, and each node that gets pods another"
    );
    let (path, kind_of) = ("spec.operations".into(), FieldErrorKind::TooMany);
    Err(Failure::invalid(kind, "", &[FieldError { path, kind: kind_of, value: Some(count.into()), detail }]))
}
