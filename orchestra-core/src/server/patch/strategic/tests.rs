//! Strategic merge against patches as `kubectl` writes them.

use fastrand::Rng;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    api::schema::{Position, Schema, random},
    server::openapi::merge_keys,
};

use super::{DELETE_FROM_LIST, ELEMENT_ORDER, Object, PatchError, RETAIN_KEYS, apply, has};

fn patched(mut value: Value, patch: &Value) -> Result<Value, PatchError> {
    apply(&mut value, patch, Schema::of::<Pod>().root()).map(|()| value)
}

fn with_containers(containers: Value) -> Value {
    let mut pod = json!({"spec": {}});
    pod["spec"]["containers"] = containers;
    pod
}

#[test]
fn containers_merge_by_name_and_others_keep_their_places() {
    let old = with_containers(json!([{"name": "proxy", "image": "p"}, {"name": "a", "image": "1"}, {"name": "log"}]));
    let patch = json!({"spec": {
        "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
        "containers": [{"name": "b", "image": "2"}, {"name": "a", "image": null, "tty": true}],
    }});
    let new = json!([{"name": "b", "image": "2"}, {"name": "proxy", "image": "p"}, {"name": "a", "tty": true}, {"name": "log"}]);
    assert_eq!(patched(old, &patch), Ok(with_containers(new)));
}

#[test]
fn an_item_is_deleted_by_its_key() {
    let old = with_containers(json!([{"name": "a", "ports": [{"containerPort": 80}, {"containerPort": 81}]}]));
    let patch = with_containers(json!([{"name": "a", "ports": [{"containerPort": 80, "$patch": "delete"}]}]));
    assert_eq!(patched(old, &patch), Ok(with_containers(json!([{"name": "a", "ports": [{"containerPort": 81}]}]))));
}

#[test]
fn a_list_is_replaced_when_the_patch_says_so() {
    let old = with_containers(json!([{"name": "a"}, {"name": "b"}]));
    let patch = with_containers(json!([{"$patch": "replace"}, {"name": "c"}]));
    assert_eq!(patched(old, &patch), Ok(with_containers(json!([{"name": "c"}]))));
}

#[test]
fn a_list_without_tags_is_one_value() {
    let old = json!({"spec": {"tolerations": [{"key": "a"}, {"key": "b"}]}});
    let patch = json!({"spec": {"tolerations": [{"key": "c"}]}});
    assert_eq!(patched(old, &patch), Ok(patch));
}

#[test]
fn a_volume_forgets_the_source_it_had() {
    let old = json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}});
    let patch =
        json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}});
    let new = json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}});
    assert_eq!(patched(old, &patch), Ok(new));
}

#[test]
fn finalizers_are_added_and_taken_away_one_by_one() {
    let old = json!({"metadata": {"finalizers": ["a", "b"]}});
    let added = patched(old.clone(), &json!({"metadata": {"finalizers": ["b", "c"]}}));
    assert_eq!(added, Ok(json!({"metadata": {"finalizers": ["a", "b", "c"]}})));
    let removed = patched(old, &json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}));
    assert_eq!(removed, Ok(json!({"metadata": {"finalizers": ["b"]}})));
}

#[test]
fn an_object_is_replaced_or_emptied_when_the_patch_says_so() {
    let old = json!({"metadata": {"labels": {"a": "1", "b": "2"}}});
    let replaced = patched(old.clone(), &json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}));
    assert_eq!(replaced, Ok(json!({"metadata": {"labels": {"c": "3"}}})));
    let emptied = patched(old, &json!({"metadata": {"labels": {"$patch": "delete"}}}));
    assert_eq!(emptied, Ok(json!({"metadata": {"labels": {}}})));
}

#[test]
fn a_patch_that_makes_no_sense_is_refused() {
    let old = json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}});
    let no_key = PatchError::NoMergeKey { item: json!({"image": "x"}).to_string(), key: "name" };
    for (patch, error) in [
        (with_containers(json!([{"image": "x"}])), no_key),
        (json!({"spec": {"$patch": "explode"}}), PatchError::Directive("explode".into())),
        (json!({"spec": {"$retainKeys": ["a"], "b": 1}}), PatchError::RetainKeys),
        (json!({"spec": {"$setElementOrder/containers": 1}}), PatchError::ElementOrder),
        (json!({"spec": {"$setElementOrder/containers": [], "containers": [{"name": "a"}]}}), PatchError::ElementOrder),
        (json!({"metadata": {"$deleteFromPrimitiveList/finalizers": "a"}}), PatchError::PrimitiveList),
    ] {
        assert_eq!(patched(old.clone(), &patch), Err(error), "{patch}");
    }
}

#[test]
fn what_others_added_survives_an_apply() {
    let applied = with_containers(json!([{"name": "a", "image": "1"}, {"name": "b"}]));
    let wanted = with_containers(json!([{"name": "c"}, {"name": "a", "image": "2"}]));
    let live = with_containers(json!([{"name": "a", "image": "1", "tty": true}, {"name": "b"}, {"name": "sidecar"}]));
    let patch = difference(&applied, &wanted, Schema::of::<Pod>().root());
    let new = json!([{"name": "c"}, {"name": "a", "image": "2", "tty": true}, {"name": "sidecar"}]);
    assert_eq!(patched(live, &patch), Ok(with_containers(new)));
}

proptest! {
    #[test]
    fn what_kubectl_writes_makes_of_the_old_the_new(seeds: [u64; 4]) {
        let schema = Schema::of::<Deployment>();
        let [one, other] = [seeds[0], seeds[1]].map(|seed| random::object(&schema, seed));
        let [old, new] = [seeds[2], seeds[3]].map(|seed| mixed(&one, &other, &mut Rng::with_seed(seed)));
        let [old, new] = [old, new].map(|value| keyed(&value, schema.root()));
        let patch = difference(&old, &new, schema.root());
        let mut once = old;
        prop_assert_eq!(apply(&mut once, &patch, schema.root()), Ok(()));
        prop_assert_eq!(&once, &new);
        // And applying it again changes nothing.
        prop_assert_eq!(apply(&mut once, &patch, schema.root()), Ok(()));
        prop_assert_eq!(&once, &new);
    }

    #[test]
    fn an_empty_patch_changes_nothing(seed: u64) {
        let schema = Schema::of::<Deployment>();
        let old = random::object(&schema, seed);
        let mut new = old.clone();
        prop_assert_eq!(apply(&mut new, &json!({}), schema.root()), Ok(()));
        prop_assert_eq!(new, old);
    }

    #[test]
    fn no_patch_panics(old: u64, patch: u64) {
        let schema = Schema::of::<Deployment>();
        let mut value = random::object(&schema, old);
        let _ = apply(&mut value, &random::object(&schema, patch), schema.root());
    }
}

/// A value made of parts of two others, its lists in any order: two of them have much in common, and much not.
fn mixed(one: &Value, other: &Value, rng: &mut Rng) -> Value {
    match (one, other) {
        (Value::Object(one), Value::Object(other)) => {
            let mut object = Object::new();
            for (field, value) in one.iter().chain(other) {
                let value = match (one.get(field), other.get(field)) {
                    (Some(one), Some(other)) => mixed(one, other, rng),
                    _ => value.clone(),
                };
                if rng.u8(0..8) > 0 {
                    object.insert(field.clone(), value);
                }
            }
            object.into()
        }
        (Value::Array(one), Value::Array(other)) => {
            let mut list: Vec<_> = one.iter().chain(other).cloned().collect();
            rng.shuffle(&mut list);
            list.truncate(rng.usize(0..=list.len()));
            list.into()
        }
        (one, other) => if rng.bool() { one } else { other }.clone(),
    }
}

/// A value whose merged lists have items that can be told apart, as validation would have it.
fn keyed(value: &Value, at: Position<'_>) -> Value {
    match value {
        Value::Object(object) => {
            let fields = object.iter().map(|(field, value)| {
                let tags = at.definition().and_then(|definition| merge_keys::of(definition, field));
                let mut value = keyed(value, at.field(field));
                if let (Some(tags), Value::Array(list)) = (tags, &mut value) {
                    let mut seen = Vec::new();
                    list.retain(|item| match tags.key.map_or(Some(item), |key| item.get(key)) {
                        Some(id) if !seen.contains(id) => {
                            seen.push(id.clone());
                            true
                        }
                        _ => false,
                    });
                }
                (field.clone(), value)
            });
            Value::Object(fields.collect())
        }
        Value::Array(list) => list.iter().map(|item| keyed(item, at.item())).collect(),
        other => other.clone(),
    }
}

/// The patch that `kubectl` writes to make `new` of `old` (`CreateTwoWayMergePatch` of client-go).
fn difference(old: &Value, new: &Value, at: Position<'_>) -> Value {
    let none = Object::new();
    let [old, new] = [old, new].map(|value| value.as_object().unwrap_or(&none));
    let mut patch = Object::new();
    for (field, after) in new {
        let tags = at.definition().and_then(|definition| merge_keys::of(definition, field));
        match (old.get(field), after) {
            (Some(before), after) if before == after => {}
            (Some(before @ Value::Object(_)), Value::Object(after_object)) => {
                let Value::Object(mut inner) = difference(before, after, at.field(field)) else { continue };
                if tags.is_some_and(|tags| has(tags, "retainKeys")) {
                    inner.insert(RETAIN_KEYS.into(), after_object.keys().cloned().collect());
                }
                patch.insert(field.clone(), inner.into());
            }
            (Some(Value::Array(before)), Value::Array(after)) if tags.is_some_and(|tags| has(tags, "merge")) => {
                let key = tags.and_then(|tags| tags.key);
                let retain = tags.is_some_and(|tags| has(tags, "retainKeys"));
                list_difference(&mut patch, field, (before, after), key, retain, at.field(field).item());
            }
            (_, after) => drop(patch.insert(field.clone(), after.clone())),
        }
    }
    for gone in old.keys().filter(|field| !new.contains_key(*field)) {
        patch.insert(gone.clone(), Value::Null);
    }
    patch.into()
}

fn list_difference(
    patch: &mut Object,
    field: &str,
    (before, after): (&[Value], &[Value]),
    key: Option<&str>,
    retain: bool,
    at: Position<'_>,
) {
    let Some(key) = key else {
        let [gone, added] = [(before, after), (after, before)]
            .map(|(of, not_in)| of.iter().filter(|item| !not_in.contains(item)).cloned().collect::<Vec<_>>());
        if !gone.is_empty() {
            patch.insert(format!("{DELETE_FROM_LIST}{field}"), gone.into());
        }
        if !added.is_empty() {
            patch.insert(field.into(), added.into());
        }
        patch.insert(format!("{ELEMENT_ORDER}{field}"), after.to_vec().into());
        return;
    };
    let find = |list: &[Value], item: &Value| list.iter().find(|other| other[key] == item[key]).cloned();
    let mut items = Vec::new();
    for item in after {
        match find(before, item) {
            Some(old) if old == *item => {}
            Some(old) => {
                let mut change = difference(&old, item, at);
                change[key] = item[key].clone();
                if retain {
                    let keys = item.as_object().map(|item| item.keys().cloned().collect());
                    change[RETAIN_KEYS] = keys.unwrap_or_default();
                }
                items.push(change);
            }
            None => items.push(item.clone()),
        }
    }
    let gone = before.iter().filter(|item| find(after, item).is_none());
    items.extend(gone.map(|item| json!({key: item[key], "$patch": "delete"})));
    if !items.is_empty() {
        patch.insert(field.into(), items.into());
    }
    let order: Value = after.iter().map(|item| json!({key: item[key]})).collect();
    patch.insert(format!("{ELEMENT_ORDER}{field}"), order);
}
