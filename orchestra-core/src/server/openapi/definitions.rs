//! The types of the kinds served, in the form of either document.

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use super::merge_keys::{self, MERGE_KEYS};
use super::{Form, Served};

const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// The definitions of the kinds, and of all that they consist of, by name.
pub(super) fn definitions(served: &[&Served], form: Form) -> Map<String, Value> {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = match form {
            Form::V2 => "/definitions".into(),
            Form::V3 => "/components/schemas".into(),
        };
    });
    let mut generator = settings.into_generator();
    for one in served {
        (one.definition.define)(&mut generator);
    }
    let mut definitions = generator.take_definitions(true);
    for one in served {
        let definition = definitions.get_mut(&*one.definition.name()).and_then(Value::as_object_mut);
        if let Some(definition) = definition {
            definition.insert("x-kubernetes-group-version-kind".to_owned(), json!([one.group_version_kind()]));
        }
    }
    merge_keys(&mut definitions);
    list_types(&mut definitions);
    any_of_two_types(&mut definitions, form);
    if form == Form::V3 {
        definitions.values_mut().for_each(wrap_references);
    }
    definitions
}

fn merge_keys(definitions: &mut Map<String, Value>) {
    for row in MERGE_KEYS {
        let properties = definitions.get_mut(row.definition).and_then(|definition| definition.get_mut("properties"));
        let field = properties.and_then(|properties| properties.get_mut(row.field)).and_then(Value::as_object_mut);
        let Some(field) = field else { continue };
        if let Some(key) = row.key {
            field.insert("x-kubernetes-patch-merge-key".to_owned(), key.into());
        }
        field.insert("x-kubernetes-patch-strategy".to_owned(), row.strategy.into());
    }
}

/// How apply takes each list: as a map by the keys of its items, as a set, or as a whole.
fn list_types(definitions: &mut Map<String, Value>) {
    for (definition, described) in definitions {
        let properties = described.get_mut("properties").and_then(Value::as_object_mut).into_iter().flatten();
        for (field, described) in properties {
            let Some(described) =
                described.as_object_mut().filter(|described| described.get("type").is_some_and(|of| of == "array"))
            else {
                continue;
            };
            let list_type = match merge_keys::of(definition, field) {
                Some(row) if row.key.is_some() => {
                    described.insert("x-kubernetes-list-map-keys".to_owned(), row.map_keys().into());
                    "map"
                }
                Some(row) if row.strategy == "merge" => "set",
                _ => "atomic",
            };
            described.insert("x-kubernetes-list-type".to_owned(), list_type.into());
        }
    }
}

/// The two types whose values are numbers or texts are said to be so in the way that clients look for.
fn any_of_two_types(definitions: &mut Map<String, Value>, form: Form) {
    for (name, said) in [
        (
            INT_OR_STRING,
            match form {
                Form::V2 => json!({"type": "string", "format": "int-or-string"}),
                Form::V3 => json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]}),
            },
        ),
        (
            QUANTITY,
            match form {
                Form::V2 => json!({"type": "string"}),
                Form::V3 => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
            },
        ),
    ] {
        let definition = definitions.get_mut(name).and_then(Value::as_object_mut);
        if let (Some(definition), Value::Object(said)) = (definition, said) {
            definition.remove("x-kubernetes-int-or-string");
            definition.extend(said);
        }
    }
}

/// In OpenAPI 3.0 nothing may stand beside a reference: it goes into an `allOf`.
fn wrap_references(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.values_mut().for_each(wrap_references);
            let reference = if map.len() > 1 { map.remove("$ref") } else { None };
            if let Some(reference) = reference {
                map.insert("allOf".to_owned(), json!([{"$ref": reference}]));
            }
        }
        Value::Array(list) => list.iter_mut().for_each(wrap_references),
        _ => {}
    }
}
