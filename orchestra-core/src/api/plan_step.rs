//! `PlanStep`, a kind of our own: a step of a scheduler's plan, which the API server commits whole, in one transaction, or refuses.
//!
//! It is created and never stored: `POST /apis/scheduling.orchestra.dev/v1alpha1/plansteps`. The server re-checks that each pod
//! still waits, that its node has room for it, and all that both require; it tells which of them is in the way. So several
//! schedulers that plan on what may be out of date, ours or anybody's, can't over-commit a node or split a gang between them.

use k8s_openapi::{
    ClusterResourceScope, Metadata, Resource, api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde::{Deserialize, Serialize};

/// The group of orchestra's own kinds of scheduling.
pub const SCHEDULING_GROUP: &str = "scheduling.orchestra.dev";

/// Binds a pod to a node.
pub const PLACE: &str = "Place";
/// Keeps room on a node for a pod that waits for others to leave it (`status.nominatedNodeName`).
pub const NOMINATE: &str = "Nominate";
/// Deletes a pod, in its grace, for the pod that is to have its room.
pub const EVICT: &str = "Evict";

/// All of a step's operations are committed, or none.
pub const WHOLE: &str = "Whole";
/// Those are committed that can be.
pub const EACH: &str = "Each";

/// A node has changed if a pod has been bound to it since, or one there, or the node itself, asks for more or other than it did.
pub const VERSION: &str = "Version";
/// What counts is whether an operation fits.
pub const FIT: &str = "Fit";

/// A step of a plan, to be committed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "server", schemars(rename = "dev.orchestra.scheduling.v1alpha1.PlanStep"))]
#[serde(rename_all = "camelCase")]
pub struct PlanStep {
    /// `scheduling.orchestra.dev/v1alpha1`.
    pub api_version: String,
    /// `PlanStep`.
    pub kind: String,
    /// Of no account: a step is not stored.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is to be done.
    #[serde(default)]
    pub spec: PlanStepSpec,
    /// What became of it; set by the server.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "server", schemars(with = "PlanStepStatus"))]
    pub status: Option<PlanStepStatus>,
}

/// What a step asks for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "server", schemars(rename = "dev.orchestra.scheduling.v1alpha1.PlanStepSpec"))]
#[serde(default, rename_all = "camelCase")]
pub struct PlanStepSpec {
    /// In order: each is checked after those before it. A pod is named once.
    pub operations: Vec<Operation>,
    /// `Whole` (unless it says otherwise) or `Each`: whether the operations stand or fall together.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub commit: String,
    /// `Fit` (unless it says otherwise) or `Version`: whether an operation is refused only if it no longer fits, or already if its
    /// node, one of `reads`, has changed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub detect: String,
    /// What the decision rested on. A node once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub reads: Vec<NodeRead>,
}

/// One change.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "server", schemars(rename = "dev.orchestra.scheduling.v1alpha1.Operation"))]
#[serde(default, rename_all = "camelCase")]
pub struct Operation {
    /// `Place`, `Nominate` or `Evict`.
    #[serde(rename = "type")]
    pub type_: String,
    /// Whom it is about.
    pub pod: PodReference,
    /// Where the pod is to go; not of an eviction.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub node: String,
    /// Of an eviction: what the condition `DisruptionTarget` tells the pod's owner.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A pod as the scheduler saw it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "server", schemars(rename = "dev.orchestra.scheduling.v1alpha1.PodReference"))]
#[serde(default, rename_all = "camelCase")]
pub struct PodReference {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid, if another pod of its name is not meant.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Its version, if no other is meant.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
}

/// A node that a decision rested on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "server", schemars(rename = "dev.orchestra.scheduling.v1alpha1.NodeRead"))]
#[serde(default, rename_all = "camelCase")]
pub struct NodeRead {
    /// Its name.
    pub node: String,
    /// As of when it, and the pods on it, were read: the resource version of a list or of a watch's latest event.
    pub resource_version: String,
}

/// What became of a step.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "server", schemars(rename = "dev.orchestra.scheduling.v1alpha1.PlanStepStatus"))]
#[serde(default, rename_all = "camelCase")]
pub struct PlanStepStatus {
    /// The resource version of everything that was written; absent if nothing was.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    /// What became of each operation, in order.
    pub operations: Vec<OperationStatus>,
}

/// What became of an operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "server", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "server", schemars(rename = "dev.orchestra.scheduling.v1alpha1.OperationStatus"))]
#[serde(default, rename_all = "camelCase")]
pub struct OperationStatus {
    /// Whether it was committed.
    pub committed: bool,
    /// If it was not: `PodGone`, `PodChanged`, `PodBound`, `PodHeld`, `NodeGone`, `NodeChanged` or `Unfit`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// If it was not: why, for people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
}

impl Resource for PlanStep {
    const API_VERSION: &'static str = "scheduling.orchestra.dev/v1alpha1";
    const GROUP: &'static str = SCHEDULING_GROUP;
    const KIND: &'static str = "PlanStep";
    const VERSION: &'static str = "v1alpha1";
    const URL_PATH_SEGMENT: &'static str = "plansteps";
    type Scope = ClusterResourceScope;
}

impl Metadata for PlanStep {
    type Ty = ObjectMeta;

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

impl PlanStep {
    /// A step of these operations, committed whole, refused only if one no longer fits.
    #[must_use]
    pub fn new(operations: Vec<Operation>) -> Self {
        Self {
            api_version: Self::API_VERSION.into(),
            kind: Self::KIND.into(),
            metadata: ObjectMeta::default(),
            spec: PlanStepSpec { operations, ..PlanStepSpec::default() },
            status: None,
        }
    }

    /// The step committed as far as it can be.
    #[must_use]
    pub fn each(mut self) -> Self {
        self.spec.commit = EACH.into();
        self
    }
}

impl Operation {
    /// Binds `pod`, and no other of its name, to `node`.
    #[must_use]
    pub fn place(pod: &Pod, node: &str) -> Self {
        Self { type_: PLACE.into(), pod: PodReference::of(pod), node: node.into(), message: String::new() }
    }

    /// Keeps room for `pod` on `node`.
    #[must_use]
    pub fn nominate(pod: &Pod, node: &str) -> Self {
        Self { type_: NOMINATE.into(), pod: PodReference::of(pod), node: node.into(), message: String::new() }
    }

    /// Deletes `pod`, and tells its owner why.
    #[must_use]
    pub fn evict(pod: &Pod, message: &str) -> Self {
        Self { type_: EVICT.into(), pod: PodReference::of(pod), node: String::new(), message: message.into() }
    }
}

impl PodReference {
    /// This very pod, at whatever version.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let metadata = pod.metadata.clone();
        Self {
            namespace: metadata.namespace.unwrap_or_default(),
            name: metadata.name.unwrap_or_default(),
            uid: metadata.uid.unwrap_or_default(),
            resource_version: String::new(),
        }
    }
}
