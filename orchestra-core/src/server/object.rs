//! Objects as the store keeps them: JSON without a resource version, which is the store's revision and never stored.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Map, Value, value::RawValue};

use crate::{
    api::validation::names,
    server::{
        error::{Failure, Result},
        registry::Kind,
    },
    store::{Key, Prefix, Revision, VALUE_BYTES_MAX},
};

/// A decoded object.
pub(crate) type Object = Map<String, Value>;

/// Where an object of `kind` is kept.
///
/// # Errors
///
/// 400 for what can be no name; 404 for a name that no object has, because no store would keep it.
pub(crate) fn key(kind: &Kind, namespace: &str, name: &str) -> Result<Key> {
    let (group, plural) = kind.storage;
    check_parameter("Name", name)?;
    let key = if kind.namespaced {
        check_parameter("Namespace", namespace)?;
        Key::new([group, plural, namespace, name])
    } else {
        Key::new([group, plural, name])
    };
    key.map_err(|_| Failure::not_found(kind, name))
}

/// Refuses what can be no segment of a path, as Kubernetes does wherever it came from.
fn check_parameter(parameter: &str, value: &str) -> Result<()> {
    if value.is_empty() {
        return Err(Failure::bad_request(format!("{parameter} parameter required.")));
    }
    match names::path_segment(value) {
        problems if problems.is_empty() => Ok(()),
        problems => Err(invalid_parameter(parameter, value, &problems)),
    }
}

fn invalid_parameter(parameter: &str, value: &str, problems: &[String]) -> Failure {
    Failure::bad_request(format!("{parameter} parameter invalid: {value:?}: {}", problems.join(";")))
}

/// Where all objects of `kind` are kept, or those of one namespace.
///
/// # Errors
///
/// 400 for what can be no namespace.
pub(crate) fn prefix(kind: &Kind, namespace: Option<&str>) -> Result<Prefix> {
    let (group, plural) = kind.storage;
    let prefix = match namespace {
        Some(namespace) => Prefix::new([group, plural, namespace]),
        None => Prefix::new([group, plural]),
    };
    prefix.map_err(|_| {
        let namespace = namespace.unwrap_or_default();
        invalid_parameter("Namespace", namespace, &names::dns_1123_label(namespace))
    })
}

/// Decodes what the store holds, with its resource version.
pub(crate) fn decode(value: &[u8], revision: Revision) -> Result<Object> {
    let mut object: Object = serde_json::from_slice(value).map_err(Failure::internal)?;
    set_revision(&mut object, revision);
    Ok(object)
}

/// An object as clients see it, made of what the store holds without decoding more than its outline.
#[derive(Debug)]
pub(crate) struct Rendered {
    /// What came before, and the object after it.
    pub(crate) buffer: Vec<u8>,
    /// Where in the object the digits of its resource version are.
    pub(crate) revision_at: usize,
    pub(crate) labels: BTreeMap<String, String>,
}

/// Appends to `buffer` what the store holds, with its resource version; `None` if that is no object.
pub(crate) fn render(mut buffer: Vec<u8>, value: &[u8], revision: Revision) -> Option<Rendered> {
    const FIELD: &[u8] = b"\"resourceVersion\":\"";
    // The digits, a quote and a comma, and what the end of a line takes.
    const REVISION_BYTES_MAX: usize = 24;
    let Outline { metadata } = serde_json::from_slice(value).ok()?;
    let fields: MetadataOutline = serde_json::from_str(metadata.get()).ok()?;
    let labels = fields.labels.unwrap_or_default();
    if fields.resource_version.is_some() {
        // Not written by this server: what it says is of no account (SEMANTICS 61), and may not stand twice.
        let mut object = decode(value, revision).ok()?;
        return render(buffer, &encode(&mut object).ok()?, revision);
    }
    // The outline borrows from the value, so it is a part of it.
    let after_brace = metadata.get().as_ptr().addr() - value.as_ptr().addr() + 1;
    let (head, rest) = value.split_at_checked(after_brace)?;
    let start = buffer.len();
    buffer.reserve_exact(value.len() + FIELD.len() + REVISION_BYTES_MAX);
    buffer.extend_from_slice(head);
    buffer.extend_from_slice(FIELD);
    let revision_at = buffer.len() - start;
    buffer.extend_from_slice(revision.0.to_string().as_bytes());
    buffer.push(b'"');
    if rest.trim_ascii_start().first() != Some(&b'}') {
        buffer.push(b',');
    }
    buffer.extend_from_slice(rest);
    Some(Rendered { buffer, revision_at, labels })
}

#[derive(Deserialize)]
struct Outline<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

#[derive(Deserialize)]
struct MetadataOutline {
    labels: Option<BTreeMap<String, String>>,
    #[serde(rename = "resourceVersion")]
    resource_version: Option<IgnoredAny>,
}

/// Encodes an object for the store, without its resource version.
///
/// # Errors
///
/// 413 for an object that no store would take.
pub(crate) fn encode(object: &mut Object) -> Result<Bytes> {
    let revision = meta_mut(object).remove("resourceVersion");
    let encoded = serde_json::to_vec(object).expect("JSON values encode");
    if let Some(revision) = revision {
        meta_mut(object).insert("resourceVersion".into(), revision);
    }
    if encoded.len() > VALUE_BYTES_MAX {
        return Err(Failure::too_large(format!("limit is {VALUE_BYTES_MAX}")));
    }
    Ok(encoded.into())
}

/// Says at which revision an object was written.
pub(crate) fn set_revision(object: &mut Object, revision: Revision) {
    meta_mut(object).insert("resourceVersion".into(), revision.0.to_string().into());
}

/// `metadata`, made if it is absent or no object.
pub(crate) fn meta_mut(object: &mut Object) -> &mut Object {
    let meta = object.entry("metadata").or_insert_with(|| Value::Object(Object::new()));
    if !meta.is_object() {
        *meta = Value::Object(Object::new());
    }
    meta.as_object_mut().expect("just made one")
}

/// A string of `metadata`; empty if absent.
pub(crate) fn meta<'a>(object: &'a Object, field: &str) -> &'a str {
    object.get("metadata").and_then(|meta| meta.get(field)).and_then(Value::as_str).unwrap_or_default()
}

/// The finalizers of an object.
pub(crate) fn finalizers(object: &Object) -> Vec<&str> {
    let list = object.get("metadata").and_then(|meta| meta.get("finalizers")).and_then(Value::as_array);
    list.into_iter().flatten().filter_map(Value::as_str).collect()
}

/// Whether an object has been asked to go.
pub(crate) fn is_terminating(object: &Object) -> bool {
    !meta(object, "deletionTimestamp").is_empty()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Revision, render};

    /// SEMANTICS 61.
    #[test]
    fn an_object_shows_the_revision_of_the_store_whatever_it_says_itself() {
        for metadata in [json!({}), json!({"name": "a", "labels": {"a": "b"}}), json!({"resourceVersion": "9"})] {
            let value = json!({ "kind": "Pod", "metadata": metadata, "spec": { "metadata": { "x": 1 } } });
            let rendered = render(b"head".to_vec(), value.to_string().as_bytes(), Revision(41)).expect("an object");
            let object = rendered.buffer.strip_prefix(b"head").expect("what came before");
            let mut expected = value.clone();
            expected["metadata"]["resourceVersion"] = "41".into();
            assert_eq!(serde_json::from_slice::<Value>(object).expect("JSON"), expected);
            assert!(object[rendered.revision_at..].starts_with(b"41\""));
        }
        assert!(render(Vec::new(), b"default/web", Revision(1)).is_none());
    }
}
