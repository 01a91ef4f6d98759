//! Objects of a kind made up from a seed, for properties that hold for whatever users may write.

use fastrand::Rng;
use serde_json::{Map, Value};

use super::{Arena, Schema, Type};

const TEXTS: [&str; 16] = [
    "",
    "a",
    "b",
    "Bad_Name",
    "-",
    "10%",
    "0",
    "1Gi",
    "None",
    "TCP",
    "Always",
    "Exists",
    "In",
    "ClusterIP",
    "127.0.0.1",
    "metadata.name",
];
const DEPTH_MAX: u32 = 12;

/// An object that conforms to `schema`; its texts are right for their fields by chance only.
pub(crate) fn object(schema: &Schema, seed: u64) -> Value {
    value(&schema.arena, schema.root, &mut Rng::with_seed(seed), 0)
}

fn value(arena: &Arena, of: Type, rng: &mut Rng, depth: u32) -> Value {
    match of {
        Type::Any => Value::Object(Map::new()),
        Type::Boolean => Value::Bool(rng.bool()),
        Type::Int32 | Type::Int64 => Value::from([-1, 0, 1, 80, 70_000, i32::MAX][rng.usize(0..6)]),
        Type::Float => Value::from(rng.f64()),
        Type::String => Value::from(TEXTS[rng.usize(0..TEXTS.len())]),
        Type::Bytes => Value::from("AA=="),
        Type::Time => Value::from("2026-01-01T00:00:00Z"),
        Type::IntOrString if rng.bool() => Value::from(rng.i32(-1..100)),
        Type::IntOrString => Value::from(["", "http", "10%", "200%", "99999999999%"][rng.usize(0..5)]),
        Type::Quantity => Value::from(["0", "-1", "1500m", "1Gi", "1e3", "99E"][rng.usize(0..6)]),
        Type::List(item) => (0..rng.usize(0..3)).map(|_| value(arena, arena.item(item), rng, depth + 1)).collect(),
        Type::Map(item) => (0..rng.usize(0..3))
            .map(|_| (TEXTS[rng.usize(0..4)].to_owned(), value(arena, arena.item(item), rng, depth + 1)))
            .collect::<Map<_, _>>()
            .into(),
        Type::Object(index) => {
            let mut map = Map::new();
            let object = arena.object(index);
            // An object within an object may name its type, but then the right one.
            let is_typed = object.field("metadata").is_some() && object.field("kind").is_some();
            for (name, field) in &object.fields {
                // Shallow fields are likely, so that what is deep is reached.
                let chosen = depth < DEPTH_MAX && rng.u32(0..10) > depth / 2 + 3;
                if is_typed && matches!(&**name, "apiVersion" | "kind") {
                    continue;
                }
                if chosen || object.required_times.contains(name) {
                    map.insert(name.to_string(), value(arena, *field, rng, depth + 1));
                }
            }
            map.into()
        }
    }
}
