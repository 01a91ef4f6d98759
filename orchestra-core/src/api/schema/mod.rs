//! What fields a kind has, and whether a JSON object keeps to them, as a Kubernetes API server decodes it.
//!
//! A [`Schema`] is built from the JSON schema that `k8s_openapi` gives for a type, but holds names and types only: about
//! 50 KiB for a kind with a pod template. [`parse_strict`] reads a body; [`Schema::conform`] checks and cleans what it read.

mod build;
mod conform;
mod parse;
mod position;
mod protobuf;
#[cfg(test)]
pub(crate) mod random;

use std::sync::Arc;

use schemars::JsonSchema;

pub use conform::DecodeError;
#[cfg(feature = "client")]
pub use parse::parse_yaml;
pub use parse::{DEPTH_MAX, ParseError, parse_strict};
pub use position::Position;
pub use protobuf::{Envelope, ProtobufError};

/// How much of a body that is no JSON its error repeats.
const SHOWN_BYTES_MAX: usize = 30;

/// The fields and types of a kind; cloning is cheap.
#[derive(Clone, Debug)]
pub struct Schema {
    arena: Arc<Arena>,
    root: Type,
}

impl Schema {
    /// Builds the schema of a type of `k8s_openapi`.
    ///
    /// Costs a millisecond or so for the largest kinds: build it when it is first needed, and keep it.
    pub fn of<T: JsonSchema>() -> Self {
        build::schema_of::<T>()
    }
}

/// The message of the 400 for a body that is no object of the kind it says: `Pod in version "v1" cannot be handled as
/// a Pod: …`.
pub fn cannot_handle(kind: &str, version: &str, detail: impl std::fmt::Display) -> String {
    format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {detail}")
}

/// The message of the 400 for a body that is no JSON, with its beginning, as Kubernetes writes it.
pub fn unrecognized(kind: &str, error: &ParseError, body: &[u8]) -> String {
    let shown = body.get(..SHOWN_BYTES_MAX).unwrap_or(body);
    let cut = if shown.len() < body.len() { " ..." } else { "" };
    let shown = match shown.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => String::from_utf8_lossy(shown).into_owned(),
        Some(_) => shown.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let problem = format!("couldn't get version/kind; json parse error: {error}");
    format!("the object provided is unrecognized (must be of type {kind}): {problem} ({shown}{cut})")
}

/// The detail of the 400 under strict field validation: `strict decoding error: unknown field "spec.foo"`.
///
/// The problems are those of [`Schema::conform`] and [`parse_strict`]; each alone is also the text of a warning.
pub fn strict_decoding_error(problems: &[String]) -> String {
    format!("strict decoding error: {}", problems.join(", "))
}

/// All types of a schema; types refer to one another by index.
#[derive(Debug, Default)]
struct Arena {
    objects: Vec<Object>,
    items: Vec<Type>,
}

/// An object with known fields.
#[derive(Debug, Default)]
struct Object {
    /// The whole name, such as `io.k8s.api.core.v1.PodSpec`.
    definition: Box<str>,
    /// The Go name without its package, such as `PodSpec`.
    name: Box<str>,
    /// The Go package, such as `v1`.
    package: Box<str>,
    /// Invariant: sorted by name.
    fields: Box<[(Box<str>, Type)]>,
    /// The times among the fields that have to be given: unlike all else they have no value that stands for none.
    required_times: Box<[Box<str>]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Type {
    Any,
    Boolean,
    Int32,
    Int64,
    Float,
    String,
    Bytes,
    Time,
    IntOrString,
    Quantity,
    List(u32),
    Map(u32),
    Object(u32),
}

impl Arena {
    fn object(&self, index: u32) -> &Object {
        &self.objects[index as usize]
    }

    fn item(&self, index: u32) -> Type {
        self.items[index as usize]
    }
}

impl Object {
    fn field(&self, name: &str) -> Option<Type> {
        let found = self.fields.binary_search_by(|(field, _)| (**field).cmp(name)).ok()?;
        self.fields.get(found).map(|(_, field_type)| *field_type)
    }
}
