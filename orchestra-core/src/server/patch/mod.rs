//! Patches: JSON (RFC 6902), merge (RFC 7396) and strategic merge, as pure functions from an object to another.

use std::fmt;

use serde_json::Value;

use crate::{
    api::schema,
    server::{
        error::{Failure, Result},
        registry::Kind,
    },
};

mod json;
mod strategic;

/// The most operations of one JSON patch, as in Kubernetes.
const OPERATIONS_MAX: usize = 10_000;
/// The most that the copies of one JSON patch may add up to: as much as a request body, as in Kubernetes.
const COPIED_BYTES_MAX: usize = 3 * 1024 * 1024;
const ACCEPTED: &str =
    "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json";

/// A patch, parsed.
#[derive(Debug)]
pub(crate) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

/// Why a patch can't be applied to an object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PatchError {
    /// An operation of a JSON patch fails: its path is absent, its test is untrue, or it copies or nests too much.
    #[error("the server rejected our request due to an error in our request")]
    Operation,
    /// The directive `$retainKeys` is no list, or leaves out a key that the patch sets.
    #[error("invalid patch format of retainKeys")]
    RetainKeys,
    /// A directive `$setElementOrder/…` is no list, or leaves out an item that the patch sets.
    #[error("invalid patch format of setElementOrder list")]
    ElementOrder,
    /// A directive `$deleteFromPrimitiveList/…` is no list.
    #[error("invalid patch format of primitive list")]
    PrimitiveList,
    /// A directive `$patch` asks for what there isn't.
    #[error("unknown patch type: {0}")]
    Directive(String),
    /// An item of a list lacks the field that tells which item it is.
    #[error("map: {item} does not contain declared merge key: {key}")]
    NoMergeKey {
        /// The item, as JSON.
        item: String,
        /// The field it lacks.
        key: &'static str,
    },
}

impl From<PatchError> for Failure {
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::Operation | PatchError::NoMergeKey { .. } => Self::unprocessable(error.to_string()),
            _ => Self::bad_request(error.to_string()),
        }
    }
}

/// Reads the body of a patch request; what it names twice comes beside.
///
/// # Errors
///
/// 415 for a content type that is no patch, 400 for a body that is not what its type says, 413 for too many operations.
pub(crate) fn parse(content_type: &str, body: &[u8]) -> Result<(Patch, Vec<String>)> {
    if !ACCEPTED.split(", ").any(|accepted| accepted == content_type) {
        return Err(Failure::unsupported_media_type(content_type, ACCEPTED));
    }
    let (value, duplicates) = schema::parse_strict(body).map_err(|error| malformed(&error))?;
    let patch = match content_type {
        "application/json-patch+json" => {
            let operations = value.as_array().map_or(0, Vec::len);
            if operations > OPERATIONS_MAX {
                return Err(Failure::too_large(format!(
                    "The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {operations}"
                )));
            }
            Patch::Json(serde_json::from_value(value).map_err(|error| malformed(&error))?)
        }
        _ if !value.is_object() => return Err(malformed(&"the patch is no JSON object")),
        "application/merge-patch+json" => Patch::Merge(value),
        _ => Patch::Strategic(value),
    };
    Ok((patch, duplicates))
}

fn malformed(why: &dyn fmt::Display) -> Failure {
    Failure::bad_request(format!("error decoding patch: {why}"))
}

impl Patch {
    /// The object as patched; it may not be an object any more.
    ///
    /// # Errors
    ///
    /// What a [`PatchError`] says.
    pub(crate) fn apply(&self, kind: &Kind, mut value: Value) -> Result<Value> {
        match self {
            Self::Json(patch) => json::apply(&mut value, patch)?,
            Self::Merge(patch) => json_patch::merge(&mut value, patch),
            Self::Strategic(patch) => strategic::apply(&mut value, patch, kind.schema().root())?,
        }
        Ok(value)
    }
}
