//! Objects as the store keeps them: JSON without a resource version, which is the store's revision and never stored.

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    server::{
        error::{Failure, Result},
        registry::Kind,
    },
    store::{Key, Prefix, Revision},
};

/// A decoded object.
pub(crate) type Object = Map<String, Value>;

/// Where an object of `kind` is kept.
pub(crate) fn key(kind: &Kind, namespace: &str, name: &str) -> Result<Key> {
    let (group, plural) = kind.storage;
    let key =
        if kind.namespaced { Key::new([group, plural, namespace, name]) } else { Key::new([group, plural, name]) };
    key.map_err(|error| Failure::bad_request(format!("invalid name {name:?}: {error}")))
}

/// Where all objects of `kind` are kept, or those of one namespace.
pub(crate) fn prefix(kind: &Kind, namespace: Option<&str>) -> Result<Prefix> {
    let (group, plural) = kind.storage;
    let prefix = match namespace {
        Some(namespace) => Prefix::new([group, plural, namespace]),
        None => Prefix::new([group, plural]),
    };
    prefix.map_err(|error| Failure::bad_request(format!("invalid namespace {namespace:?}: {error}")))
}

/// Decodes what the store holds, with its resource version.
pub(crate) fn decode(value: &[u8], revision: Revision) -> Result<Object> {
    let mut object: Object = serde_json::from_slice(value).map_err(Failure::internal)?;
    meta_mut(&mut object).insert("resourceVersion".into(), revision.0.to_string().into());
    Ok(object)
}

/// Encodes an object for the store, without its resource version.
pub(crate) fn encode(object: &mut Object) -> Bytes {
    let revision = meta_mut(object).remove("resourceVersion");
    let encoded = serde_json::to_vec(object).expect("JSON values encode");
    if let Some(revision) = revision {
        meta_mut(object).insert("resourceVersion".into(), revision);
    }
    encoded.into()
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
