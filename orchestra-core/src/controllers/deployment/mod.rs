//! Moves a deployment's replica sets, one for each template it has had, towards the newest.

mod plan;
mod sizes;
mod status;

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
    core::v1::Pod,
};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;

use super::{
    Parts,
    claim::{claim, controller_of},
    replica_set::selecting,
    write_status,
};
use crate::{
    api::{pod::has_ended, selector::LabelSelector},
    clock::Clock,
    controller::{Action, Controller, Error, ObjectKey, Recorder, Runner, Severity},
    informer::{self, Lister},
};

pub use plan::{Change, Plan, Update, plan};

struct Deployments {
    client: Client,
    deployments: Lister<Deployment>,
    sets: Lister<ReplicaSet>,
    pods: Lister<Pod>,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
}

/// Makes the controller, ready to run.
#[must_use]
pub fn runner(parts: &Parts) -> Runner {
    let informers = &parts.informers;
    let (deployments, sets) = (informers.of::<Deployment>(), informers.of::<ReplicaSet>());
    let adopters = selecting(&deployments, |deployment: &Deployment| &deployment.spec.selector);
    let owners = sets.clone();
    // One that recreates its pods waits until the last old one is gone, which no set's status tells.
    let ended = move |change: &informer::Change<Pod>| {
        let set = change.old.as_ref().filter(|_| change.new.as_ref().is_none_or(|pod| has_ended(pod)));
        let set = set.and_then(|pod| controller_of(&**pod)).map(|owner| owner.name.as_str());
        let set = set.and_then(|name| owners.get(&ObjectKey::new(change.key.namespace.clone(), name)));
        let owner = set.as_ref().and_then(|set| controller_of(&**set));
        owner.map(|owner| ObjectKey::new(change.key.namespace.clone(), owner.name.as_str())).into_iter().collect()
    };
    parts
        .runner(controller(parts))
        .reconciles(&deployments)
        .owns::<Deployment, ReplicaSet>(&sets)
        .watches(&sets, move |change: &informer::Change<ReplicaSet>| adopters(change))
        .watches(&informers.of::<Pod>(), ended)
}

/// Makes the controller alone, for those who call it themselves.
#[must_use]
pub fn controller(parts: &Parts) -> impl Controller + use<> {
    Deployments {
        client: parts.client.clone(),
        deployments: parts.informers.of(),
        sets: parts.informers.of(),
        pods: parts.informers.of(),
        clock: Arc::clone(&parts.clock),
        recorder: parts.recorder("deployment-controller"),
    }
}

#[async_trait]
impl Controller for Deployments {
    fn name(&self) -> &str {
        "deployment"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        self.deployments.synced().await;
        self.sets.synced().await;
        self.pods.synced().await;
        let Some(deployment) = self.deployments.get(key) else { return Ok(Action::AwaitChange) };
        let selector =
            LabelSelector::try_from(&deployment.spec.selector).map_err(|error| Error::Terminal(error.into()))?;
        let sets = claim(&self.client, &self.sets, &*deployment, &selector).await?;
        let plan = plan(&deployment, &sets, self.old_pods_run(&deployment, &sets), self.clock.now());
        for change in &plan.changes {
            match change {
                Change::Create(set) => {
                    if !self.create(&deployment, set).await? {
                        return Ok(Action::AwaitChange);
                    }
                }
                Change::Update(update) => self.update(&deployment, update).await?,
                Change::Delete { name, uid, version } => self.delete(key, name, uid, version).await?,
            }
        }
        self.write(key, &deployment, &plan).await?;
        Ok(plan.look_again_after.map_or(Action::AwaitChange, Action::RequeueAfter))
    }
}

impl Deployments {
    /// Whether pods of old sets have not ended: those that are on their way out count too.
    fn old_pods_run(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> bool {
        let is_old = |set: &&Arc<ReplicaSet>| !plan::is_of(set, &deployment.spec.template);
        let old: Vec<_> = sets.iter().filter(is_old).filter_map(|set| set.uid()).collect();
        let pods = self.pods.list_namespace(&deployment.namespace().unwrap_or_default());
        let is_of_old = |pod: &Arc<Pod>| controller_of(&**pod).is_some_and(|owner| old.contains(&owner.uid));
        pods.iter().any(|pod| is_of_old(pod) && !has_ended(pod))
    }

    /// Creates a set; if its name turns out to be taken by another, has the next try draw another one, and answers no.
    async fn create(&self, deployment: &Deployment, set: &ReplicaSet) -> Result<bool, Error> {
        let api = Api::<ReplicaSet>::namespaced(self.client.clone(), &deployment.namespace().unwrap_or_default());
        let name = set.name_any();
        match api.create(&PostParams::default(), set).await {
            Ok(written) => {
                self.tell_scaled(deployment, &name, 0, set.spec.replicas.unwrap_or(0)).await;
                self.sets.shows(&written).await;
                return Ok(true);
            }
            Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {}
            Err(error) => return Err(error.into()),
        }
        // Made by an earlier try, whose answer was lost; or by someone else (SEMANTICS 42).
        let Some(live) = api.get_opt(&name).await? else { return Ok(false) };
        let own = controller_of(&live).is_some_and(|owner| Some(&owner.uid) == deployment.metadata.uid.as_ref());
        if own && plan::is_of(&live, &deployment.spec.template) {
            self.sets.shows(&live).await;
            return Ok(true);
        }
        let mut next = deployment.clone();
        let status = next.status.get_or_insert_with(DeploymentStatus::default);
        status.collision_count = Some(status.collision_count.unwrap_or(0).saturating_add(1));
        write_status(&self.client, &self.deployments, &next).await?;
        Ok(false)
    }

    async fn update(&self, deployment: &Deployment, update: &Update) -> Result<(), Error> {
        let Update { name, version, replicas, min_ready_seconds, annotations } = update;
        let mut patch = json!({ "metadata": { "resourceVersion": version, "annotations": annotations } });
        if let Some((_, to)) = replicas {
            patch["spec"]["replicas"] = (*to).into();
        }
        if let Some(seconds) = min_ready_seconds {
            patch["spec"]["minReadySeconds"] = (*seconds).into();
        }
        let api = Api::<ReplicaSet>::namespaced(self.client.clone(), &deployment.namespace().unwrap_or_default());
        let written = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
        if let Some((from, to)) = replicas {
            self.tell_scaled(deployment, name, *from, *to).await;
        }
        self.sets.shows(&written).await;
        Ok(())
    }

    async fn delete(&self, key: &ObjectKey, name: &str, uid: &str, version: &str) -> Result<(), Error> {
        let params = DeleteParams {
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: Some(version.to_owned()),
            }),
            ..Default::default()
        };
        match Api::<ReplicaSet>::namespaced(self.client.clone(), &key.namespace).delete(name, &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            Err(error) => return Err(error.into()),
        }
        let gone = |set: Option<&ReplicaSet>| {
            set.is_none_or(|set| set.uid().as_deref() != Some(uid) || set.metadata.deletion_timestamp.is_some())
        };
        self.sets.until(&ObjectKey::new(key.namespace.clone(), name), gone).await;
        Ok(())
    }

    async fn tell_scaled(&self, deployment: &Deployment, name: &str, from: i32, to: i32) {
        let direction = if to > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
        self.recorder.record(deployment, Severity::Normal, "ScalingReplicaSet", message).await;
    }

    /// Writes the revision and the status, where they differ.
    async fn write(&self, key: &ObjectKey, deployment: &Deployment, plan: &Plan) -> Result<(), Error> {
        let mut current = deployment.clone();
        let reads = deployment.annotations().get(plan::REVISION_ANNOTATION);
        if let Some(revision) = plan.revision.map(|revision| revision.to_string()).filter(|new| reads != Some(new)) {
            let patch = json!({ "metadata": { "resourceVersion": deployment.resource_version(),
                "annotations": { plan::REVISION_ANNOTATION: revision } } });
            let api = Api::<Deployment>::namespaced(self.client.clone(), &key.namespace);
            current = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?;
            self.deployments.shows(&current).await;
        }
        if current.status.as_ref() == Some(&plan.status) {
            return Ok(());
        }
        let next = Deployment { status: Some(plan.status.clone()), ..current };
        write_status(&self.client, &self.deployments, &next).await
    }
}
