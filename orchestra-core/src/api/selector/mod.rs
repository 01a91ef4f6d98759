//! Label and field selectors: which objects a request, a service or a controller means.

mod field;
mod label;
mod token;

pub use field::FieldSelector;
pub use label::LabelSelector;

/// Why a selector could not be read, in the words of Kubernetes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ParseError(String);
