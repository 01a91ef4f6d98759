//! What is peculiar to a kind's life: how its objects begin, and how they end.

use k8s_openapi::api::{batch::v1::Job, core::v1::Pod};
use serde_json::{Value, json};

use crate::api::{
    defaults,
    pod::{is_final, quality_of_service},
};
use crate::server::object::{Object, finalizers, is_terminating, meta_mut};

/// How the objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// They are, until they are deleted.
    Plain,
    /// They are ended by a kubelet.
    Pod,
    /// They select their pods by their own uid.
    Job,
    /// They end with all that is in them.
    Namespace,
}

/// The finalizer in a namespace's spec, removed once the namespace is empty.
const NAMESPACE_FINALIZER: &str = "kubernetes";
/// The namespaces that nobody may delete, as in Kubernetes.
const IMMORTAL_NAMESPACES: [&str; 3] = ["default", "kube-system", "kube-public"];
/// How long a pod stays on a node that is not ready or unreachable, unless it says itself.
const NODE_LOSS_TOLERATION_SECONDS: i64 = 300;

impl Strategy {
    /// Sets what the server knows better than a new object's author.
    pub(crate) fn prepare_create(self, object: &mut Object) {
        match self {
            Self::Plain => {}
            Self::Pod => prepare_pod(object),
            Self::Job => prepare_job(object),
            Self::Namespace => {
                object.insert("spec".into(), json!({ "finalizers": [NAMESPACE_FINALIZER] }));
                object.insert("status".into(), json!({ "phase": "Active" }));
            }
        }
    }

    /// Keeps what an update may not change silently.
    pub(crate) fn prepare_update(self, new: &mut Object, old: &Object) {
        // A namespace's finalizers change by `finalize` only.
        if self == Self::Namespace
            && let Some(spec) = old.get("spec")
        {
            new.insert("spec".into(), spec.clone());
        }
    }

    /// How long an object that is deleted may take to end; 0 if nobody has to end it.
    pub(crate) fn grace_seconds(self, object: &Object, asked: Option<i64>) -> i64 {
        if self != Self::Pod {
            return 0;
        }
        let spec = object.get("spec");
        let text = |value: Option<&Value>, field: &str| {
            value.and_then(|value| value.get(field)).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let placed = !text(spec, "nodeName").is_empty();
        let over = is_final(&text(object.get("status"), "phase"));
        let own = spec.and_then(|spec| spec.get("terminationGracePeriodSeconds")).and_then(Value::as_i64);
        if !placed || over { 0 } else { asked.or(own).unwrap_or(30) }
    }

    /// Whether the object of this name may not be deleted.
    pub(crate) fn is_immortal(self, name: &str) -> bool {
        self == Self::Namespace && IMMORTAL_NAMESPACES.contains(&name)
    }

    /// Whether a deleted object stays although no finalizer and no grace holds it.
    pub(crate) fn outlives_deletion(self, object: &Object) -> bool {
        let held = object.get("spec").and_then(|spec| spec.get("finalizers")).and_then(Value::as_array);
        self == Self::Namespace && held.is_some_and(|held| !held.is_empty())
    }

    /// Whether a terminating object is gone once its last finalizer is.
    pub(crate) fn ends_with_finalizers(self, object: &Object) -> bool {
        let grace =
            object.get("metadata").and_then(|meta| meta.get("deletionGracePeriodSeconds")).and_then(Value::as_i64);
        is_terminating(object)
            && finalizers(object).is_empty()
            && !self.outlives_deletion(object)
            && (self != Self::Pod || grace == Some(0))
    }

    /// Says in the status that the object is on its way out.
    pub(crate) fn mark_terminating(self, object: &mut Object) {
        if self == Self::Namespace {
            let status = object.entry("status").or_insert_with(|| json!({}));
            status["phase"] = "Terminating".into();
        }
    }
}

fn prepare_job(object: &mut Object) {
    // What is no job is refused by validation, with a message.
    let Ok(mut job) = serde_json::from_value::<Job>(Value::Object(object.clone())) else { return };
    defaults::job_selector(&mut job);
    object.insert("spec".into(), serde_json::to_value(&job.spec).expect("a job is JSON"));
}

fn prepare_pod(object: &mut Object) {
    let Some(spec) = object.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let account = spec.entry("serviceAccountName").or_insert_with(|| "".into());
    if account == "" {
        *account = "default".into();
    }
    let account = account.clone();
    spec.insert("serviceAccount".into(), account);
    let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
    if let Some(tolerations) = tolerations.as_array_mut() {
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let tolerated = |toleration: &Value| {
                let covers = toleration["key"] == key || toleration.get("key").is_none_or(|key| key == "");
                covers && toleration.get("effect").is_none_or(|effect| effect == "NoExecute" || effect == "")
            };
            if !tolerations.iter().any(tolerated) {
                tolerations.push(json!({ "key": key, "operator": "Exists", "effect": "NoExecute",
                    "tolerationSeconds": NODE_LOSS_TOLERATION_SECONDS }));
            }
        }
    }
    let pod = serde_json::from_value::<Pod>(Value::Object(object.clone())).unwrap_or_default();
    let spec = pod.spec.unwrap_or_default();
    let mut status = json!({ "phase": "Pending", "qosClass": quality_of_service(&spec) });
    if spec.scheduling_gates.is_some_and(|gates| !gates.is_empty()) {
        status["conditions"] = json!([{ "type": "PodScheduled", "status": "False", "reason": "SchedulingGated",
            "message": "Scheduling is blocked due to non-empty scheduling gates" }]);
    }
    object.insert("status".into(), status);
    meta_mut(object);
}
