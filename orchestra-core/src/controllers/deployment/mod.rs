//! Moves a deployment's replica sets, one for each template it has had, towards the newest.

mod plan;
mod status;

use std::sync::Arc;

use async_trait::async_trait;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions},
};
use serde_json::json;

use super::{Parts, replica_set::controlled};
use crate::{
    clock::Clock,
    controller::{Action, Controller, Error, ObjectKey, Recorder, Runner, Severity},
    informer::Lister,
};

pub use plan::{Change, Plan, plan};

struct Deployments {
    client: Client,
    deployments: Lister<Deployment>,
    sets: Lister<ReplicaSet>,
    clock: Arc<dyn Clock>,
    recorder: Recorder,
}

/// Makes the controller, ready to run.
#[must_use]
pub fn runner(parts: &Parts) -> Runner {
    let (deployments, sets) = (parts.informers.of::<Deployment>(), parts.informers.of::<ReplicaSet>());
    let controller = Deployments {
        client: parts.client.clone(),
        deployments: deployments.clone(),
        sets: sets.clone(),
        clock: Arc::clone(&parts.clock),
        recorder: parts.recorder("deployment-controller"),
    };
    Runner::new(controller, parts.entropy.fork()).reconciles(&deployments).owns::<Deployment, ReplicaSet>(&sets)
}

#[async_trait]
impl Controller for Deployments {
    fn name(&self) -> &str {
        "deployment"
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Action, Error> {
        self.sets.synced().await;
        let Some(deployment) = self.deployments.get(key) else { return Ok(Action::AwaitChange) };
        let sets = controlled(self.sets.list_namespace(&key.namespace), &deployment.uid().unwrap_or_default());
        let plan = plan(&deployment, &sets, self.clock.now());
        for change in &plan.changes {
            self.carry_out(&deployment, change).await?;
        }
        self.write_status(key, &deployment, &plan).await?;
        Ok(plan.look_again_after.map_or(Action::AwaitChange, Action::RequeueAfter))
    }
}

impl Deployments {
    async fn carry_out(&self, deployment: &Deployment, change: &Change) -> Result<(), Error> {
        let namespace = deployment.namespace().unwrap_or_default();
        let api = Api::<ReplicaSet>::namespaced(self.client.clone(), &namespace);
        let key = |name: &str| ObjectKey::new(namespace.as_str(), name);
        match change {
            Change::Create(set) => {
                let (name, replicas) = (set.name_any(), set.spec.replicas.unwrap_or(0));
                match api.create(&PostParams::default(), set).await {
                    Ok(_) => self.tell_scaled(deployment, &name, 0, replicas).await,
                    // Made by an earlier try whose answer was lost; or another's, which the next look decides.
                    Err(kube::Error::Api(status)) if status.code == 409 => {}
                    Err(error) => return Err(error.into()),
                }
                self.sets.until(&key(&name), |set| set.is_some()).await;
            }
            Change::Update { name, version, replicas, revision } => {
                let mut patch = json!({ "metadata": { "resourceVersion": version } });
                if let Some((_, to)) = replicas {
                    patch["spec"]["replicas"] = (*to).into();
                }
                if let Some(revision) = revision {
                    patch["metadata"]["annotations"][plan::REVISION_ANNOTATION] = revision.to_string().into();
                }
                let written = api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await?;
                if let Some((from, to)) = replicas {
                    self.tell_scaled(deployment, name, *from, *to).await;
                }
                self.sets.shows(&written).await;
            }
            Change::Delete { name, uid } => {
                let params = DeleteParams {
                    preconditions: Some(Preconditions { uid: Some(uid.clone()), resource_version: None }),
                    ..Default::default()
                };
                match api.delete(name, &params).await {
                    Ok(_) => {}
                    Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                    Err(error) => return Err(error.into()),
                }
                self.sets.until(&key(name), |set| set.is_none_or(|set| set.uid().as_deref() != Some(uid))).await;
            }
        }
        Ok(())
    }

    async fn tell_scaled(&self, deployment: &Deployment, name: &str, from: i32, to: i32) {
        let direction = if to > from { "up" } else { "down" };
        let message = format!("Scaled {direction} replica set {name} from {from} to {to}");
        self.recorder.record(deployment, Severity::Normal, "ScalingReplicaSet", message).await;
    }

    async fn write_status(&self, key: &ObjectKey, deployment: &Deployment, plan: &Plan) -> Result<(), Error> {
        let api = Api::<Deployment>::namespaced(self.client.clone(), &key.namespace);
        let mut written = None;
        let current = deployment.annotations().get(plan::REVISION_ANNOTATION);
        if let Some(revision) = plan.revision.map(|revision| revision.to_string()).filter(|new| current != Some(new)) {
            let patch = json!({ "metadata": { "uid": deployment.uid(), "annotations": { plan::REVISION_ANNOTATION: revision } } });
            written = Some(api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?);
        }
        if deployment.status.as_ref() != Some(&plan.status) {
            let patch = json!({ "metadata": { "uid": deployment.uid() }, "status": plan.status });
            written = Some(api.patch_status(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await?);
        }
        if let Some(written) = written {
            self.deployments.shows(&written).await;
        }
        Ok(())
    }
}
