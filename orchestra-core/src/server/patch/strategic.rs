//! Strategic merge: like a merge patch, but lists whose items have a key are merged item by item, and directives say
//! what merging can't (SEMANTICS 68).
//!
//! What happens to a list is told by the tags of its field in the Go struct, so it goes by the place in the schema;
//! where the schema says nothing, a list is one value. The order of a merged list, too, is upstream's
//! (`k8s.io/apimachinery/pkg/util/strategicpatch`): items the patch names are in its order, others keep their places
//! between them.

use serde_json::{Map, Value};

use crate::{
    api::schema::Position,
    server::openapi::merge_keys::{self, MergeKey},
};

use super::PatchError;

#[cfg(test)]
mod tests;

type Object = Map<String, Value>;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_FROM_LIST: &str = "$deleteFromPrimitiveList/";

/// Applies a patch to the value at a place; after an error the value is half done.
pub(super) fn apply(value: &mut Value, patch: &Value, at: Position<'_>) -> Result<(), PatchError> {
    match (value, patch) {
        (Value::Object(object), Value::Object(patch)) => merge_object(object, patch, at),
        (value, patch) => {
            *value = without_directives(patch).unwrap_or_default();
            Ok(())
        }
    }
}

fn merge_object(object: &mut Object, patch: &Object, at: Position<'_>) -> Result<(), PatchError> {
    match directive(patch) {
        None | Some("merge") => {}
        Some("replace") => {
            *object = fields_without_directives(patch);
            return Ok(());
        }
        Some("delete") => {
            object.clear();
            return Ok(());
        }
        Some(other) => return Err(PatchError::Directive(other.into())),
    }
    retain_keys(object, patch)?;
    for (field, value) in patch.iter().filter(|(field, _)| !is_directive(field)) {
        merge_field(object, field, value, patch, at)?;
    }
    for (key, order) in patch {
        if let Some(field) = key.strip_prefix(ELEMENT_ORDER).filter(|field| !patch.contains_key(*field)) {
            let order = order.as_array().ok_or(PatchError::ElementOrder)?;
            if let Some(Value::Array(list)) = object.get_mut(field) {
                let key = tags(at, field).and_then(|tags| tags.key);
                *list = ordered(list, list, order, key);
            }
        } else if let Some(field) = key.strip_prefix(DELETE_FROM_LIST) {
            let gone = order.as_array().ok_or(PatchError::PrimitiveList)?;
            if let Some(Value::Array(list)) = object.get_mut(field) {
                list.retain(|item| !gone.contains(item));
            }
        }
    }
    Ok(())
}

/// Merges one field; `patch` is the object that has it, whose directives may concern it.
fn merge_field(
    object: &mut Object,
    field: &str,
    value: &Value,
    patch: &Object,
    at: Position<'_>,
) -> Result<(), PatchError> {
    let tags = tags(at, field);
    match (object.get_mut(field), value) {
        (_, Value::Null) => drop(object.remove(field)),
        (Some(Value::Object(old)), Value::Object(new)) if !tags.is_some_and(|tags| has(tags, "replace")) => {
            merge_object(old, new, at.field(field))?;
        }
        (Some(Value::Array(old)), Value::Array(new)) if tags.is_some_and(|tags| has(tags, "merge")) => {
            let key = tags.and_then(|tags| tags.key);
            let mut merged = match key {
                Some(key) => merge_list(old, new, key, at.field(field).item())?,
                None => union(old, new),
            };
            // What the patch doesn't order is in the order of the patch.
            let order = match patch.get(&format!("{ELEMENT_ORDER}{field}")) {
                Some(order) => order.as_array().ok_or(PatchError::ElementOrder)?,
                None => new,
            };
            if !covers(order, new, key) {
                return Err(PatchError::ElementOrder);
            }
            merged = ordered(&merged, old, order, key);
            *old = merged;
        }
        (_, new) => match without_directives(new) {
            Some(new) => drop(object.insert(field.to_owned(), new)),
            None => drop(object.remove(field)),
        },
    }
    Ok(())
}

/// Removes the fields that a patch with `$retainKeys` doesn't list.
fn retain_keys(object: &mut Object, patch: &Object) -> Result<(), PatchError> {
    let Some(kept) = patch.get(RETAIN_KEYS) else { return Ok(()) };
    let kept = kept.as_array().ok_or(PatchError::RetainKeys)?;
    let is_kept = |field: &str| kept.iter().any(|kept| kept == field);
    if patch.iter().any(|(field, value)| !value.is_null() && !is_directive(field) && !is_kept(field)) {
        return Err(PatchError::RetainKeys);
    }
    object.retain(|field, _| is_kept(field));
    Ok(())
}

/// The items of a list of objects, merged by their key; new ones are last.
fn merge_list(old: &[Value], patch: &[Value], key: &'static str, at: Position<'_>) -> Result<Vec<Value>, PatchError> {
    let mut merged = old.to_vec();
    if patch.iter().any(|item| directive_of(item) == Some("replace")) {
        merged.clear();
    }
    for item in patch {
        if directive_of(item) == Some("replace") {
            continue;
        }
        let id = item.get(key).ok_or_else(|| PatchError::NoMergeKey { item: item.to_string(), key })?;
        let known = merged.iter_mut().find(|old| old.get(key) == Some(id));
        match (directive_of(item), known) {
            (Some("delete"), _) => merged.retain(|old| old.get(key) != Some(id)),
            (None, Some(old)) => apply(old, item, at)?,
            (None, None) => merged.extend(without_directives(item)),
            (Some(other), _) => return Err(PatchError::Directive(other.into())),
        }
    }
    Ok(merged)
}

/// The values of both lists, each once.
fn union(old: &[Value], patch: &[Value]) -> Vec<Value> {
    let mut union: Vec<Value> = Vec::with_capacity(old.len() + patch.len());
    for value in old.iter().chain(patch) {
        if !union.contains(value) {
            union.push(value.clone());
        }
    }
    union
}

/// Whether an order has a place for every item that the patch adds or changes.
fn covers(order: &[Value], patch: &[Value], key: Option<&str>) -> bool {
    let ordered = patch.iter().filter(|item| directive_of(item).is_none());
    ordered.into_iter().all(|item| place(order, item, key).is_some())
}

/// A list in the order wanted; items it doesn't name stay before those they were before.
fn ordered(list: &[Value], before: &[Value], order: &[Value], key: Option<&str>) -> Vec<Value> {
    let (mut named, others): (Vec<_>, Vec<_>) =
        list.iter().cloned().partition(|item| place(order, item, key).is_some());
    named.sort_by_key(|item| place(order, item, key));
    let mut named = named.into_iter().peekable();
    let mut result = Vec::with_capacity(list.len());
    for other in others {
        let at = place(before, &other, key);
        let stays_behind = |named: &Value| place(before, named, key).is_none_or(|named| at.is_none_or(|at| named < at));
        while let Some(next) = named.next_if(stays_behind) {
            result.push(next);
        }
        result.push(other);
    }
    result.extend(named);
    result
}

/// Where in a list an item is, by its key, or by its value if the list's items have none.
fn place(list: &[Value], item: &Value, key: Option<&str>) -> Option<usize> {
    match key {
        Some(key) => list.iter().position(|other| other.get(key).is_some_and(|id| Some(id) == item.get(key))),
        None => list.iter().position(|other| other == item),
    }
}

fn tags(at: Position<'_>, field: &str) -> Option<&'static MergeKey> {
    merge_keys::of(at.definition()?, field)
}

fn has(tags: &MergeKey, strategy: &str) -> bool {
    tags.strategy.split(',').any(|one| one == strategy)
}

fn directive(patch: &Object) -> Option<&str> {
    patch.get(PATCH).map(|directive| directive.as_str().unwrap_or_default())
}

fn directive_of(item: &Value) -> Option<&str> {
    item.as_object().and_then(directive)
}

fn is_directive(field: &str) -> bool {
    field == PATCH || field == RETAIN_KEYS || field.starts_with(ELEMENT_ORDER) || field.starts_with(DELETE_FROM_LIST)
}

/// What a patch says about something that isn't there yet; nothing if it is to go.
fn without_directives(patch: &Value) -> Option<Value> {
    match patch {
        Value::Object(patch) if directive(patch) == Some("delete") => None,
        Value::Object(patch) => Some(Value::Object(fields_without_directives(patch))),
        Value::Array(items) => {
            let items = items.iter().filter(|item| directive_of(item) != Some("replace"));
            Some(items.filter_map(without_directives).collect())
        }
        other => Some(other.clone()),
    }
}

fn fields_without_directives(patch: &Object) -> Object {
    let fields = patch.iter().filter(|(field, value)| !is_directive(field) && !value.is_null());
    fields.filter_map(|(field, value)| Some((field.clone(), without_directives(value)?))).collect()
}
