//! The priority of new pods: that of the class they name, or of the cluster's default.

use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

use crate::server::{
    Inner,
    error::{Failure, Result},
    object::{self, Object, meta},
    registry::Kind,
};

/// The priority policy of pods without a class, where no class is the default.
const PREEMPTION: &str = "PreemptLowerPriority";

impl Inner {
    /// Gives a new pod the priority of its class; one without a class gets the default.
    ///
    /// # Errors
    ///
    /// 403 if there is no such class, or if the pod says another priority itself.
    pub(super) async fn prioritize(&self, kind: &Kind, pod: &mut Object) -> Result<()> {
        if kind.kind != "Pod" {
            return Ok(());
        }
        let name = meta(pod, "name").to_owned();
        let refuse = |why: String| Failure::forbidden("pods", &name, format!("pods \"{name}\" is forbidden: {why}"));
        let Some(spec) = pod.get_mut("spec").and_then(Value::as_object_mut) else { return Ok(()) };
        let wanted = spec.get("priorityClassName").and_then(Value::as_str).unwrap_or_default();
        let class = if wanted.is_empty() {
            self.default_priority_class().await?
        } else {
            let class = self.priority_class(wanted).await?;
            Some(class.ok_or_else(|| refuse(format!("no PriorityClass with name {wanted} was found")))?)
        };
        let class = class.unwrap_or_default();
        let priority = Value::from(class.value.unwrap_or(0));
        let preemption = Value::from(class.preemption_policy.as_deref().unwrap_or(PREEMPTION));
        for (field, what, value) in [
            ("priority", "the integer value of priority", &priority),
            ("preemptionPolicy", "the string value of PreemptionPolicy", &preemption),
        ] {
            if let Some(given) = spec.get(field).filter(|given| !given.is_null() && *given != value) {
                let (given, value) = (shown(given), shown(value));
                return Err(refuse(format!(
                    "{what} ({given}) must not be provided in pod spec; priority admission controller computed {value} from \
                     the given PriorityClass name"
                )));
            }
            spec.insert(field.into(), value.clone());
        }
        if let Some(name) = class.metadata.name {
            spec.insert("priorityClassName".into(), name.into());
        }
        Ok(())
    }

    /// Refuses a second class that is the cluster's default.
    ///
    /// # Errors
    ///
    /// 403 if another class is the default already.
    pub(super) async fn admit_default_class(&self, kind: &Kind, class: &Object) -> Result<()> {
        if kind.kind != "PriorityClass" || class.get("globalDefault") != Some(&Value::Bool(true)) {
            return Ok(());
        }
        let name = meta(class, "name");
        let other = self.default_priority_class().await?.and_then(|class| class.metadata.name);
        let Some(other) = other.filter(|other| other != name) else { return Ok(()) };
        let message = format!(
            "{} \"{name}\" is forbidden: PriorityClass {other} is already marked as default. Only one default can exist",
            kind.qualified()
        );
        Err(Failure::forbidden(kind.plural, name, message))
    }

    async fn priority_class(&self, name: &str) -> Result<Option<PriorityClass>> {
        let key = object::key(self.priority_classes(), "", name)?;
        let entry = self.store.get(&key).await?;
        entry.map(|entry| serde_json::from_slice(&entry.value).map_err(Failure::internal)).transpose()
    }

    /// The class of pods that name none; the lowest, if several were made the default at the same time.
    async fn default_priority_class(&self) -> Result<Option<PriorityClass>> {
        self.reach(self.store.revision().await?).await?;
        let kind = self.priority_classes();
        let view = self.cache.view(&kind.shelf(), &object::prefix(kind, None)?);
        let classes = view.items.iter().filter_map(|item| serde_json::from_slice::<PriorityClass>(&item.encoded).ok());
        Ok(classes.filter(|class| class.global_default == Some(true)).min_by_key(|class| class.value))
    }

    fn priority_classes(&self) -> &Kind {
        self.registry.find("scheduling.k8s.io", "v1", "priorityclasses").expect("built in")
    }
}

/// A value as it stands in a sentence.
fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
