//! JSON patch, RFC 6902, with the bounds and the one leniency of Kubernetes.

use std::slice;

use json_patch::{PatchOperation, jsonptr::Pointer};
use serde_json::Value;

use crate::api::schema::DEPTH_MAX;

use super::{COPIED_BYTES_MAX, PatchError};

/// How deep a value may come to nest on the way, by an estimate that never falls; afterwards it is [`DEPTH_MAX`].
const DEPTH_BOUND_MAX: usize = 4 * DEPTH_MAX;

/// Applies the operations in order; after an error `value` is half done.
pub(super) fn apply(value: &mut Value, operations: &[PatchOperation]) -> Result<(), PatchError> {
    let mut copied_bytes = 0;
    // No less than how deep `value` nests: what walks it recurses, and moves and copies can nest without an end.
    let mut depth_bound = depth(value);
    for operation in operations {
        match operation {
            PatchOperation::Test(test) if test.value.is_null() => {
                // SEMANTICS 68: what isn't there is null, if there is a place for it.
                if !is_null(value, &test.path) {
                    return Err(PatchError::Operation);
                }
                continue;
            }
            PatchOperation::Copy(copy) => {
                copied_bytes += value.pointer(copy.from.as_str()).map_or(0, |source| source.to_string().len());
                if copied_bytes > COPIED_BYTES_MAX {
                    return Err(PatchError::Operation);
                }
            }
            _ => {}
        }
        depth_bound = depth_bound.max(match operation {
            PatchOperation::Add(add) => add.path.count() + depth(&add.value),
            PatchOperation::Replace(replace) => replace.path.count() + depth(&replace.value),
            PatchOperation::Move(one) => one.path.count() + depth_bound.saturating_sub(one.from.count()),
            PatchOperation::Copy(copy) => copy.path.count() + depth_bound.saturating_sub(copy.from.count()),
            PatchOperation::Remove(_) | PatchOperation::Test(_) => 0,
        });
        if depth_bound > DEPTH_BOUND_MAX {
            return Err(PatchError::Operation);
        }
        json_patch::patch_unsafe(value, slice::from_ref(operation)).map_err(|_| PatchError::Operation)?;
    }
    if depth(value) > DEPTH_MAX { Err(PatchError::Operation) } else { Ok(()) }
}

/// How many levels of objects and lists are in one another.
fn depth(value: &Value) -> usize {
    match value {
        Value::Object(object) => 1 + object.values().map(depth).max().unwrap_or(0),
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

fn is_null(value: &Value, path: &Pointer) -> bool {
    let Some((parent, last)) = path.split_back() else { return value.is_null() };
    match value.pointer(parent.as_str()) {
        Some(Value::Object(parent)) => parent.get(last.decoded().as_ref()).is_none_or(Value::is_null),
        Some(Value::Array(_)) => value.pointer(path.as_str()).is_some_and(Value::is_null),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::{PatchError, apply};

    fn patched(mut value: Value, patch: Value) -> Result<Value, PatchError> {
        let patch: json_patch::Patch = serde_json::from_value(patch).expect("a patch");
        apply(&mut value, &patch).map(|()| value)
    }

    /// SEMANTICS 68.
    #[test]
    fn what_is_absent_tests_as_null() {
        let null_at = |path: &str| {
            patched(json!({"a": {"b": null, "c": 1}}), json!([{"op": "test", "path": path, "value": null}]))
        };
        for path in ["/a/b", "/a/d", "/d"] {
            assert!(null_at(path).is_ok(), "{path}");
        }
        for path in ["/a/c", "/a/c/d", "/d/e", ""] {
            assert_eq!(null_at(path), Err(PatchError::Operation), "{path}");
        }
    }

    #[test]
    fn copies_do_not_grow_beyond_a_request() {
        let doubling: Vec<_> = (0..64).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
        assert_eq!(patched(json!({"a": ["x"]}), Value::Array(doubling)), Err(PatchError::Operation));
    }

    #[test]
    fn moves_do_not_nest_beyond_what_a_body_may() {
        let deeper = |rounds: usize| -> Vec<Value> {
            let round = [
                json!({"op": "add", "path": "/t", "value": {}}),
                json!({"op": "move", "from": "/a", "path": "/t/a"}),
                json!({"op": "move", "from": "/t", "path": "/a"}),
            ];
            round.iter().cycle().take(3 * rounds).cloned().collect()
        };
        assert!(patched(json!({"a": 1}), Value::Array(deeper(99))).is_ok());
        for rounds in [100, 3_000] {
            assert_eq!(patched(json!({"a": 1}), Value::Array(deeper(rounds))), Err(PatchError::Operation));
        }
    }

    #[test]
    fn any_number_of_moves_between_places_of_one_depth_is_fine() {
        let moves = [("/a/0", "/a/1"), ("/b/c", "/b/d"), ("/b/d", "/b/c")];
        let moves = moves.map(|(from, path)| json!({"op": "move", "from": from, "path": path}));
        let patch: Vec<_> = moves.iter().cycle().take(9_000).cloned().collect();
        let value = json!({"a": [1, 2], "b": {"c": {}}});
        assert_eq!(patched(value.clone(), Value::Array(patch)), Ok(value));
    }

    #[test]
    fn a_list_is_edited_by_position() {
        let patch = json!([
            {"op": "add", "path": "/a/-", "value": 3},
            {"op": "remove", "path": "/a/0"},
            {"op": "replace", "path": "/a/0", "value": 5},
            {"op": "move", "from": "/a/1", "path": "/b~1c"},
        ]);
        assert_eq!(patched(json!({"a": [1, 2]}), patch), Ok(json!({"a": [5], "b/c": 3})));
    }

    proptest! {
        #[test]
        fn no_path_panics(
            op in "add|remove|replace|move|copy|test",
            path in "(/(a|b|0|1|-|01|~0|99999999999999999999)){0,4}",
            from in "(/(a|b|0|-)){0,3}",
        ) {
            let patch = json!([{"op": op, "path": path, "from": from, "value": 1}]);
            let _ = patched(json!({"a": [{"b": 1}, []], "b": {}}), patch);
        }
    }
}
