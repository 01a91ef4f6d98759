//! JSON patch, RFC 6902, with the bounds and the one leniency of Kubernetes.

use std::slice;

use json_patch::{PatchOperation, jsonptr::Pointer};
use serde_json::Value;

use super::{COPIED_BYTES_MAX, PatchError};

/// Applies the operations in order; after an error `value` is half done.
pub(super) fn apply(value: &mut Value, operations: &[PatchOperation]) -> Result<(), PatchError> {
    let mut copied_bytes = 0;
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
        json_patch::patch_unsafe(value, slice::from_ref(operation)).map_err(|_| PatchError::Operation)?;
    }
    Ok(())
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
