//! Create, update, patch and delete: each a read, a decision, and a commit on condition that what was read still stands.

use crate::{clock::Timestamp, server::error::Failure};

mod body;
mod create;
mod delete;
pub(crate) mod guard;
mod terms;
mod update;

pub(crate) use body::{FieldValidation, is_dry_run};
pub(crate) use create::CreateError;
pub(crate) use terms::Terms;
pub(crate) use update::{check_seen, check_uid};

/// How often a write that reads first is tried, if others are always faster: each time one of them has been done, so that
/// this many writers of one object all come to their end.
pub(crate) const CONFLICT_TRIES: usize = 256;

/// Which part of an object a write is for; the other keeps its value (SEMANTICS 25).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// All but the status.
    Spec,
    /// The status alone.
    Status,
    /// The spec's finalizers, of a namespace.
    Finalize,
    /// The node and the condition that says so, of a pod.
    Binding,
}

/// A time as `metav1.Time` has it: whole seconds.
pub(crate) fn now_text(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// An object that conforms to its schema decodes, but for what the schema can't say.
fn bad_object(error: &serde_json::Error) -> Failure {
    Failure::bad_request(format!("the object can't be decoded: {error}"))
}
