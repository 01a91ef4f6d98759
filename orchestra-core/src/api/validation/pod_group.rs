//! The rules of pod groups.

use k8s_openapi::api::scheduling::v1beta1::{PodGroup, PodGroupSchedulingPolicy};

use super::metadata::{Scope, immutable, invalid, object_meta, object_meta_update};
use super::names::{self, NameRule};
use super::{FieldError, Path};

/// Checks a pod group, whose pods start one by one or as a gang.
pub fn pod_group(group: &PodGroup) -> Vec<FieldError> {
    let mut errors = object_meta(&group.metadata, Scope::Namespaced, NameRule::Subdomain);
    let spec = Path::root("spec");
    let PodGroupSchedulingPolicy { basic, gang } = &group.spec.scheduling_policy;
    let policy = spec.field("schedulingPolicy");
    match (basic, gang) {
        (None, None) => errors.push(FieldError::required(&policy, "must specify one of: `basic`, `gang`")),
        (Some(_), Some(_)) => {
            let detail = "exactly one of `basic`, `gang` is required, but multiple fields are set";
            errors.push(FieldError::invalid(&policy, &group.spec.scheduling_policy, detail));
        }
        (None, Some(gang)) if gang.min_count < 1 => {
            let path = policy.field("gang");
            let detail = "must be greater than or equal to 1";
            errors.push(FieldError::invalid(&path.field("minCount"), gang.min_count, detail));
        }
        _ => {}
    }
    if let Some(mode) = &group.spec.disruption_mode
        && mode.all.is_some() == mode.single.is_some()
    {
        let detail = "exactly one of `all`, `single` is required";
        errors.push(FieldError::invalid(&spec.field("disruptionMode"), mode, detail));
    }
    let topology = group.spec.scheduling_constraints.as_ref().and_then(|constraints| constraints.topology.as_deref());
    let constraints = spec.field("schedulingConstraints");
    for (index, constraint) in topology.unwrap_or_default().iter().enumerate() {
        let path = constraints.field("topology");
        let path = path.index(index);
        invalid(&path.field("key"), &constraint.key, names::qualified_name(&constraint.key), &mut errors);
    }
    errors
}

/// Checks what a write changes in a pod group, of whose spec only the size of a gang may change.
pub fn pod_group_update(new: &PodGroup, old: &PodGroup) -> Vec<FieldError> {
    let mut errors = object_meta_update(&new.metadata, &old.metadata);
    let mut allowed = old.spec.clone();
    if let (Some(allowed), Some(gang)) = (&mut allowed.scheduling_policy.gang, &new.spec.scheduling_policy.gang) {
        allowed.min_count = gang.min_count;
    }
    immutable(&new.spec, &allowed, &Path::root("spec"), &mut errors);
    errors
}
