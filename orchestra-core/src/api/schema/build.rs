//! JSON schema to the compact form.

use std::collections::BTreeMap;
use std::sync::Arc;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::{Arena, Object, Schema, Type};

const DEFINITIONS: &str = "#/$defs/";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

pub(super) fn schema_of<T: JsonSchema>() -> Schema {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let root = generator.root_schema_for::<T>();
    let no_definitions = Map::new();
    let definitions = root.get("$defs").and_then(Value::as_object).unwrap_or(&no_definitions);
    let mut builder = Builder { definitions, arena: Arena::default(), known: BTreeMap::new() };
    let root_type = match root.as_object() {
        Some(object) if object.contains_key("properties") => builder.object(&T::schema_name(), object),
        _ => Type::Any,
    };
    Schema { arena: Arc::new(builder.arena), root: root_type }
}

struct Builder<'a> {
    definitions: &'a Map<String, Value>,
    arena: Arena,
    known: BTreeMap<String, Type>,
}

impl Builder<'_> {
    fn type_of(&mut self, schema: &Value) -> Type {
        if let Some(name) = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix(DEFINITIONS)) {
            return self.definition(name);
        }
        let format = schema.get("format").and_then(Value::as_str);
        match schema.get("type").and_then(Value::as_str) {
            Some("boolean") => Type::Boolean,
            Some("integer") if format == Some("int32") => Type::Int32,
            Some("integer") => Type::Int64,
            Some("number") => Type::Float,
            Some("string") if format == Some("byte") => Type::Bytes,
            Some("string") if format == Some("date-time") => Type::Time,
            Some("string") => Type::String,
            Some("array") => {
                let item = schema.get("items").map_or(Type::Any, |items| self.type_of(items));
                Type::List(self.item(item))
            }
            Some("object") => match schema.get("additionalProperties") {
                Some(values @ Value::Object(_)) => {
                    let item = self.type_of(values);
                    Type::Map(self.item(item))
                }
                _ => Type::Any,
            },
            _ => Type::Any,
        }
    }

    fn definition(&mut self, name: &str) -> Type {
        match name {
            QUANTITY => return Type::Quantity,
            INT_OR_STRING => return Type::IntOrString,
            _ => {}
        }
        if let Some(known) = self.known.get(name) {
            return *known;
        }
        match self.definitions.get(name) {
            Some(Value::Object(object)) if object.contains_key("properties") => self.object(name, object),
            Some(schema) => {
                let found = self.type_of(schema);
                self.known.insert(name.to_owned(), found);
                found
            }
            None => Type::Any,
        }
    }

    fn object(&mut self, name: &str, schema: &Map<String, Value>) -> Type {
        let index = self.arena.objects.len();
        self.arena.objects.push(Object::default());
        let object_type = Type::Object(index_u32(index));
        self.known.insert(name.to_owned(), object_type);
        let mut fields: Vec<(Box<str>, Type)> = Vec::new();
        for (field, value) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
            fields.push((field.as_str().into(), self.type_of(value)));
        }
        fields.sort();
        let required = schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        let is_time = |name: &&str| fields.iter().any(|(field, of)| **field == **name && *of == Type::Time);
        let required_times = required.filter(is_time).map(Into::into).collect();
        let (path, last) = name.rsplit_once('.').unwrap_or(("", name));
        let package = path.rsplit('.').next().unwrap_or_default();
        self.arena.objects[index] = Object {
            definition: name.into(),
            name: last.into(),
            package: package.into(),
            fields: fields.into(),
            required_times,
        };
        object_type
    }

    fn item(&mut self, item: Type) -> u32 {
        let found = self.arena.items.iter().position(|known| *known == item);
        index_u32(found.unwrap_or_else(|| {
            self.arena.items.push(item);
            self.arena.items.len() - 1
        }))
    }
}

fn index_u32(index: usize) -> u32 {
    u32::try_from(index).expect("a schema has fewer than 2^32 types")
}
