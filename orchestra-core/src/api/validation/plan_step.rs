//! The rules of the steps of plans.

use std::collections::BTreeSet;

use super::values::{one_of, one_of_or_absent, required};
use super::{FieldError, Path};
use crate::api::plan_step::{EACH, EVICT, FIT, NOMINATE, Operation, PLACE, PlanStep, VERSION, WHOLE};

/// Checks a step: it does something, each operation says all it needs, and no pod and no node read is named twice.
pub fn plan_step(step: &PlanStep) -> Vec<FieldError> {
    let (mut errors, path) = (Vec::new(), Path::root("spec"));
    one_of_or_absent(Some(&step.spec.commit), &[EACH, WHOLE], &path.field("commit"), &mut errors);
    one_of_or_absent(Some(&step.spec.detect), &[FIT, VERSION], &path.field("detect"), &mut errors);
    let operations = path.field("operations");
    if step.spec.operations.is_empty() {
        errors.push(FieldError::required(&operations, ""));
    }
    let mut pods = BTreeSet::new();
    for (at, one) in step.spec.operations.iter().enumerate() {
        let path = operations.index(at);
        operation(one, &path, &mut errors);
        if !pods.insert((&one.pod.namespace, &one.pod.name)) {
            errors.push(FieldError::duplicate(&path.field("pod"), format!("{}/{}", one.pod.namespace, one.pod.name)));
        }
    }
    let reads = path.field("reads");
    let mut nodes = BTreeSet::new();
    for (at, read) in step.spec.reads.iter().enumerate() {
        let path = reads.index(at);
        required(Some(&read.node), &path.field("node"), &mut errors);
        version(&read.resource_version, &path.field("resourceVersion"), &mut errors);
        required(Some(&read.resource_version), &path.field("resourceVersion"), &mut errors);
        if !nodes.insert(&read.node) {
            errors.push(FieldError::duplicate(&path.field("node"), &read.node));
        }
    }
    errors
}

fn operation(operation: &Operation, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    one_of(Some(&operation.type_), &[EVICT, NOMINATE, PLACE], &path.field("type"), errors);
    let (pod, node) = (path.field("pod"), path.field("node"));
    required(Some(&operation.pod.namespace), &pod.field("namespace"), errors);
    required(Some(&operation.pod.name), &pod.field("name"), errors);
    version(&operation.pod.resource_version, &pod.field("resourceVersion"), errors);
    match (&*operation.type_, &*operation.node) {
        (EVICT, "") => {}
        (EVICT, _) => errors.push(FieldError::forbidden(&node, "a pod is evicted from where it is")),
        (_, node_name) => required(Some(node_name), &node, errors),
    }
}

/// Checks that a text, if it is given, is a resource version.
fn version(text: &str, path: &Path<'_>, errors: &mut Vec<FieldError>) {
    if !text.is_empty() && text.parse::<u64>().is_err() {
        errors.push(FieldError::invalid(path, text, "must be a number that the server has given out"));
    }
}
