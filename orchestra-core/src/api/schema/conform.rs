//! A decoded object against its schema.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use thiserror::Error;

use super::{Arena, Object, Schema, Type, parse::PROBLEMS_MAX};

/// Why an object can't be one of its kind, as Go's decoder says it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A value of another type than the field's.
    #[error("json: cannot unmarshal {found} into Go struct field {object}.{path} of type {expected}")]
    Type {
        /// What was there: `string`, `number 1.5`, `object`, ….
        found: String,
        /// The type the field belongs to, such as `DeploymentSpec`.
        object: String,
        /// The names of the fields from the root, without indices: `spec.template.spec.containers.image`.
        path: String,
        /// The Go type of the field, such as `int32` or `[]v1.Container`.
        expected: String,
    },
    /// A time that has to be given is not.
    #[error("{path}: Required value")]
    Missing {
        /// The place of the field.
        path: String,
    },
    /// A string that is not of the field's format.
    #[error("{path}: {message}")]
    Format {
        /// The place of the value, such as `spec.containers[0].resources.limits.cpu`.
        path: String,
        /// What is wrong with it.
        message: String,
    },
}

impl Schema {
    /// Checks the types of an object, removes what its kind does not have, and returns that as
    /// `unknown field "spec.containers[0].imag"`, in the order of the keys; of very many, the first hundred.
    ///
    /// Afterwards the object decodes into the type the schema is of. As on Kubernetes, fields that are null are removed, and
    /// so are maps without entries and lists of `metadata` without items, which are the same as none; quantities given as
    /// numbers become strings.
    ///
    /// # Errors
    ///
    /// The first value whose type or format is wrong; the object is then half done.
    pub fn conform(&self, object: &mut Value) -> Result<Vec<String>, DecodeError> {
        let mut walk = Walk { arena: &self.arena, path: Vec::new(), unknown: Vec::new() };
        walk.value(self.root, object, "")?;
        Ok(walk.unknown)
    }
}

enum Step {
    Field(String),
    Index(usize),
}

struct Walk<'a> {
    arena: &'a Arena,
    path: Vec<Step>,
    unknown: Vec<String>,
}

impl Walk<'_> {
    /// Checks a value; `holder` is the name of the type whose field it is in.
    fn value(&mut self, expected: Type, value: &mut Value, holder: &str) -> Result<(), DecodeError> {
        match (expected, value) {
            (Type::Any, _)
            | (_, Value::Null)
            | (Type::Boolean, Value::Bool(_))
            | (Type::String, Value::String(_))
            | (Type::Float, Value::Number(_)) => Ok(()),
            (Type::Int32, Value::Number(number)) if number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) => Ok(()),
            (Type::Int64, Value::Number(number)) if number.is_i64() => Ok(()),
            (Type::IntOrString, Value::String(_)) => Ok(()),
            (Type::IntOrString, value @ Value::Number(_)) => self.value(Type::Int32, value, holder),
            (Type::Bytes, Value::String(text)) => self.bytes(text),
            (Type::Time, Value::String(text)) => self.time(text),
            (Type::Quantity, value @ (Value::String(_) | Value::Number(_))) => self.quantity(value),
            (Type::List(item), Value::Array(list)) => self.list(self.arena.item(item), list, holder),
            (Type::Map(item), Value::Object(map)) => self.map(self.arena.item(item), map, holder),
            (Type::Object(index), Value::Object(map)) => self.object(index, map),
            (expected, value) => Err(self.wrong_type(expected, value, holder)),
        }
    }

    fn object(&mut self, index: u32, map: &mut Map<String, Value>) -> Result<(), DecodeError> {
        let arena = self.arena;
        let object = arena.object(index);
        for (name, value) in map.iter_mut() {
            self.path.push(Step::Field(name.clone()));
            match object.field(name) {
                Some(field) => self.value(field, value, &object.name)?,
                None if self.unknown.len() < PROBLEMS_MAX => {
                    self.unknown.push(format!("unknown field \"{}\"", self.place()));
                }
                None => {}
            }
            self.path.pop();
        }
        map.retain(|name, value| object.field(name).is_some_and(|field| !is_none(object, field, value)));
        for name in &object.required_times {
            if !map.contains_key(&**name) {
                self.path.push(Step::Field(name.to_string()));
                return Err(DecodeError::Missing { path: self.place() });
            }
        }
        Ok(())
    }

    fn map(&mut self, item: Type, map: &mut Map<String, Value>, holder: &str) -> Result<(), DecodeError> {
        for (key, value) in map.iter_mut() {
            self.path.push(Step::Field(key.clone()));
            self.value(item, value, holder)?;
            self.path.pop();
            if value.is_null() {
                *value = self.zero(item);
            }
        }
        Ok(())
    }

    fn list(&mut self, item: Type, list: &mut [Value], holder: &str) -> Result<(), DecodeError> {
        for (index, value) in list.iter_mut().enumerate() {
            self.path.push(Step::Index(index));
            self.value(item, value, holder)?;
            self.path.pop();
            if value.is_null() {
                *value = self.zero(item);
            }
        }
        Ok(())
    }

    fn bytes(&self, text: &str) -> Result<(), DecodeError> {
        match STANDARD.decode(text) {
            Ok(_) => Ok(()),
            Err(error) => {
                let offset = match error {
                    base64::DecodeError::InvalidByte(offset, _) | base64::DecodeError::InvalidLastSymbol(offset, _) => {
                        offset
                    }
                    _ => text.len() / 4 * 4,
                };
                Err(self.wrong_format(format!("illegal base64 data at input byte {offset}")))
            }
        }
    }

    fn time(&self, text: &str) -> Result<(), DecodeError> {
        match text.parse::<jiff::Timestamp>() {
            Ok(_) => Ok(()),
            Err(_) => {
                let layout = "2006-01-02T15:04:05Z07:00";
                let message = format!("parsing time \"{text}\" as \"{layout}\": cannot parse \"{text}\" as \"2006\"");
                Err(self.wrong_format(message))
            }
        }
    }

    fn quantity(&self, value: &mut Value) -> Result<(), DecodeError> {
        let text = match &*value {
            Value::String(text) => text.clone(),
            number => number.to_string(),
        };
        if !is_quantity(&text) {
            let grammar = "^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$";
            return Err(self.wrong_format(format!("quantities must match the regular expression '{grammar}'")));
        }
        *value = Value::String(text);
        Ok(())
    }

    /// What Go's decoder leaves where a list or a map has a null.
    fn zero(&self, item: Type) -> Value {
        match item {
            Type::Any | Type::Time => Value::Null,
            Type::Boolean => Value::Bool(false),
            Type::Int32 | Type::Int64 | Type::Float | Type::IntOrString => Value::from(0),
            Type::String | Type::Bytes => Value::from(""),
            Type::Quantity => Value::from("0"),
            Type::List(_) => Value::Array(Vec::new()),
            Type::Map(_) | Type::Object(_) => Value::Object(Map::new()),
        }
    }

    fn wrong_type(&self, expected: Type, value: &Value, holder: &str) -> DecodeError {
        let found = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(number) if matches!(expected, Type::Int32 | Type::Int64) => format!("number {number}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let names: Vec<&str> = self.path.iter().filter_map(Step::name).collect();
        DecodeError::Type { found, object: holder.to_owned(), path: names.join("."), expected: self.go_type(expected) }
    }

    fn wrong_format(&self, message: String) -> DecodeError {
        DecodeError::Format { path: self.place(), message }
    }

    fn go_type(&self, of: Type) -> String {
        match of {
            Type::Any => "interface {}".to_owned(),
            Type::Boolean => "bool".to_owned(),
            Type::Int32 => "int32".to_owned(),
            Type::Int64 => "int64".to_owned(),
            Type::Float => "float64".to_owned(),
            Type::String => "string".to_owned(),
            Type::Bytes => "[]uint8".to_owned(),
            Type::Time => "v1.Time".to_owned(),
            Type::IntOrString => "intstr.IntOrString".to_owned(),
            Type::Quantity => "resource.Quantity".to_owned(),
            Type::List(item) => format!("[]{}", self.go_type(self.arena.item(item))),
            Type::Map(item) => format!("map[string]{}", self.go_type(self.arena.item(item))),
            Type::Object(index) => {
                let object = self.arena.object(index);
                format!("{}.{}", object.package, object.name)
            }
        }
    }

    /// The path walked so far, with indices.
    fn place(&self) -> String {
        let mut place = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) if place.is_empty() => place.push_str(name),
                Step::Field(name) => {
                    place.push('.');
                    place.push_str(name);
                }
                Step::Index(index) => place.push_str(&format!("[{index}]")),
            }
        }
        place
    }
}

/// Whether a field of `holder` is as good as absent, so that Go leaves it out when it writes it: it would a map or a list
/// with `omitempty`, which all maps have; of lists only those of `ObjectMeta` are known to. A struct without fields stays,
/// for an `emptyDir: {}` or a selector of everything is something.
fn is_none(holder: &Object, field: Type, value: &Value) -> bool {
    match (field, value) {
        (_, Value::Null) => true,
        (Type::Map(_), Value::Object(map)) => map.is_empty(),
        (Type::List(_), Value::Array(list)) => list.is_empty() && &*holder.name == "ObjectMeta",
        _ => false,
    }
}

impl Step {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Field(name) => Some(name),
            Self::Index(_) => None,
        }
    }
}

fn is_quantity(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let suffix = unsigned.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = &unsigned[..unsigned.len() - suffix.len()];
    let exponent = suffix.strip_prefix(['e', 'E']).filter(|digits| !digits.is_empty());
    let known = ["", "n", "u", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    number.bytes().any(|byte| byte.is_ascii_digit())
        && number.matches('.').count() <= 1
        && (known.contains(&suffix) || exponent.is_some_and(|exponent| exponent.parse::<i16>().is_ok()))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::authorization::v1::SubjectAccessReview;
    use k8s_openapi::api::core::v1::{Pod, Secret};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::api::schema::{cannot_handle, strict_decoding_error};

    #[test]
    fn an_unknown_field_is_named_and_removed() {
        let mut pod = json!({"spec": {"foo": 1, "containers": [{"name": "a", "imag": "b"}]}});
        let unknown = Schema::of::<Pod>().conform(&mut pod).unwrap();
        assert_eq!(unknown, [r#"unknown field "spec.containers[0].imag""#, r#"unknown field "spec.foo""#]);
        assert_eq!(pod, json!({"spec": {"containers": [{"name": "a"}]}}));
        assert_eq!(
            cannot_handle("Pod", "v1", strict_decoding_error(&unknown[1..])),
            r#"Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.foo""#
        );
    }

    #[test]
    fn a_wrong_type_is_refused_in_the_words_of_go() {
        let deployment = Schema::of::<Deployment>();
        for (mut object, text) in [
            (
                json!({"spec": {"replicas": "3"}}),
                "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"replicas": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field DeploymentSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"template": {"spec": {"containers": "x"}}}}),
                "json: cannot unmarshal string into Go struct field PodSpec.spec.template.spec.containers of type \
                 []v1.Container",
            ),
            (
                json!({"metadata": {"labels": {"a": 1}}}),
                "json: cannot unmarshal number into Go struct field ObjectMeta.metadata.labels.a of type string",
            ),
        ] {
            assert_eq!(deployment.conform(&mut object).unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn nulls_go_and_quantities_become_strings() {
        let limits = |cpu: Value, memory: &str| json!({"resources": {"limits": {"cpu": cpu, "memory": memory}}});
        let mut pod = json!({
            "metadata": {"creationTimestamp": null},
            "spec": {"containers": [limits(json!(0.5), "1024Mi")]},
        });
        assert!(Schema::of::<Pod>().conform(&mut pod).unwrap().is_empty());
        assert_eq!(pod, json!({"metadata": {}, "spec": {"containers": [limits(json!("0.5"), "1024Mi")]}}));
    }

    #[test]
    fn maps_without_entries_go_and_structs_without_fields_stay() {
        let mut deployment = json!({
            "metadata": { "labels": {}, "annotations": {}, "finalizers": [], "ownerReferences": [] },
            "spec": {
                "selector": {"matchLabels": {}, "matchExpressions": []},
                "template": {
                    "metadata": {"labels": {}},
                    "spec": {
                        "nodeSelector": {},
                        "securityContext": {},
                        "containers": [{"resources": {"limits": {}}}],
                        "volumes": [{"emptyDir": {}}],
                        "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                            {"podAffinityTerm": {"labelSelector": {}, "namespaceSelector": {}}},
                        ]}},
                    },
                },
            },
        });
        assert!(Schema::of::<Deployment>().conform(&mut deployment).unwrap().is_empty());
        let wanted = json!({
            "metadata": {},
            "spec": {
                "selector": {"matchExpressions": []},
                "template": {
                    "metadata": {},
                    "spec": {
                        "securityContext": {},
                        "containers": [{"resources": {}}],
                        "volumes": [{"emptyDir": {}}],
                        "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                            {"podAffinityTerm": {"labelSelector": {}, "namespaceSelector": {}}},
                        ]}},
                    },
                },
            },
        });
        assert_eq!(deployment, wanted);
        // What is in a map is no field.
        let mut review = json!({"spec": {"extra": {"a": []}}});
        let kept = review.clone();
        assert!(Schema::of::<SubjectAccessReview>().conform(&mut review).unwrap().is_empty());
        assert_eq!(review, kept);
    }

    #[test]
    fn a_wrong_format_is_refused_with_its_place() {
        let mut secret = json!({"data": {"a": "no base64!"}});
        let error = Schema::of::<Secret>().conform(&mut secret).unwrap_err();
        assert_eq!(error.to_string(), "data.a: illegal base64 data at input byte 2");
        let mut pod = json!({"metadata": {"creationTimestamp": "yesterday"}});
        assert!(Schema::of::<Pod>().conform(&mut pod).is_err());
        let mut pod = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "much"}}}]}});
        assert!(Schema::of::<Pod>().conform(&mut pod).is_err());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z0-9]{0,3}".prop_map(Value::from),
        ];
        let name = "(metadata|spec|status|containers|name|labels|template|resources|limits|volumes|[a-c])";
        leaf.prop_recursive(6, 64, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map(name, inner, 0..4).prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_conforms_decodes_and_conforms_again(mut value in any_json()) {
            let schema = Schema::of::<Pod>();
            prop_assume!(value.is_object());
            if schema.conform(&mut value).is_ok() {
                let once = value.clone();
                prop_assert_eq!(schema.conform(&mut value), Ok(Vec::new()));
                prop_assert_eq!(&once, &value);
                let mut object = value;
                object["apiVersion"] = "v1".into();
                object["kind"] = "Pod".into();
                let decoded: Result<Pod, _> = serde_json::from_value(object);
                prop_assert!(decoded.is_ok(), "{:?}", decoded);
            }
        }
    }
}
