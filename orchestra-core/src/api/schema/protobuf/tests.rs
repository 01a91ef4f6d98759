use k8s_openapi::api::{
    apps::v1::Deployment,
    batch::v1::CronJob,
    core::v1::{Node, Pod, Secret, Service},
    discovery::v1::EndpointSlice,
    policy::v1::PodDisruptionBudget,
    rbac::v1::ClusterRole,
};
use proptest::prelude::*;
use schemars::JsonSchema;
use serde_json::json;

use super::*;
use crate::api::schema::random;

/// Writes messages, and takes out of the objects what no message can say.
struct Writer<'a>(&'a Arena);

impl Writer<'_> {
    fn object(&self, index: u32, message: &str, object: &mut Map<String, Value>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for known in numbers_of(message) {
            if known.name.starts_with('+') {
                bytes.extend(length_delimited(known.number, &self.object(index, known.name, object)));
            } else if let Some(of) = self.0.object(index).field(known.name)
                && let Some(value) = object.get_mut(known.name)
            {
                let empty =
                    value.as_array().is_some_and(Vec::is_empty) || matches!(of, Type::Map(_)) && *value == json!({});
                if empty || (is_zero(value) && !known.keeps_zero) {
                    object.remove(known.name);
                } else {
                    bytes.extend(self.field(of, known.number, value));
                }
            }
        }
        bytes
    }

    fn field(&self, of: Type, number: u32, value: &mut Value) -> Vec<u8> {
        match (of, value) {
            (Type::List(item), Value::Array(list)) => {
                list.iter_mut().flat_map(|value| self.field(self.0.item(item), number, value)).collect()
            }
            (Type::Map(item), Value::Object(map)) => map
                .iter_mut()
                .flat_map(|(key, value)| {
                    let key = length_delimited(1, key.as_bytes());
                    length_delimited(number, &[key, self.field(self.0.item(item), 2, value)].concat())
                })
                .collect(),
            (Type::Boolean, Value::Bool(flag)) => number_field(number, u64::from(*flag)),
            (Type::Int32 | Type::Int64, value) => {
                number_field(number, value.as_i64().expect("an integer").cast_unsigned())
            }
            (Type::String, Value::String(text)) => length_delimited(number, text.as_bytes()),
            (Type::Bytes, Value::String(text)) => length_delimited(number, &STANDARD.decode(text).expect("base64")),
            (Type::Quantity, Value::String(text)) => length_delimited(number, &length_delimited(1, text.as_bytes())),
            (Type::Time, Value::String(text)) => {
                let time: jiff::Timestamp = text.parse().expect("a time");
                length_delimited(number, &number_field(1, time.as_second().cast_unsigned()))
            }
            (Type::IntOrString, Value::String(text)) => {
                length_delimited(number, &[number_field(1, 1), length_delimited(3, text.as_bytes())].concat())
            }
            (Type::IntOrString, value) => {
                length_delimited(number, &number_field(2, value.as_i64().expect("an integer").cast_unsigned()))
            }
            (Type::Any, value) => length_delimited(number, &length_delimited(1, value.to_string().as_bytes())),
            (Type::Object(index), Value::Object(object)) => {
                let message = short_name(&self.0.object(index).definition);
                length_delimited(number, &self.object(index, message, object))
            }
            (_, value) => panic!("{value} is of no type"),
        }
    }
}

fn varint_of(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number > 0x7f {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
    bytes
}

fn number_field(number: u32, value: u64) -> Vec<u8> {
    [varint_of(u64::from(number) << 3), varint_of(value)].concat()
}

fn length_delimited(number: u32, bytes: &[u8]) -> Vec<u8> {
    [varint_of(u64::from(number) << 3 | 2), varint_of(bytes.len() as u64), bytes.to_vec()].concat()
}

fn enclosed(api_version: &str, kind: &str, message: &[u8]) -> Vec<u8> {
    let meta = [length_delimited(1, api_version.as_bytes()), length_delimited(2, kind.as_bytes())].concat();
    [PREFIX.to_vec(), length_delimited(1, &meta), length_delimited(2, message)].concat()
}

/// Without what the table of numbers lacks, which is newer than the table.
fn known_fields(arena: &Arena, of: Type, value: &mut Value) {
    match (of, value) {
        (Type::Object(index), Value::Object(object)) => {
            let message = short_name(&arena.object(index).definition).to_owned();
            let numbers: Vec<_> = numbers_of(&message)
                .flat_map(|known| match known.name.starts_with('+') {
                    true => numbers_of(known.name).collect(),
                    false => vec![known],
                })
                .collect();
            object.retain(|name, _| numbers.iter().any(|known| known.name == name));
            for (name, value) in object {
                known_fields(arena, arena.object(index).field(name).expect("it conforms"), value);
            }
        }
        (Type::List(item), Value::Array(list)) => {
            list.iter_mut().for_each(|value| known_fields(arena, arena.item(item), value));
        }
        (Type::Map(item), Value::Object(map)) => {
            map.values_mut().for_each(|value| known_fields(arena, arena.item(item), value));
        }
        _ => {}
    }
}

fn holds<T: JsonSchema>(seed: u64) {
    let schema = Schema::of::<T>();
    let mut expected = random::object(&schema, seed);
    known_fields(&schema.arena, schema.root, &mut expected);
    let (Type::Object(root), Value::Object(object)) = (schema.root, &mut expected) else { panic!("an object") };
    let message = short_name(&schema.arena.object(root).definition).to_owned();
    let message = Writer(&schema.arena).object(root, &message, object);
    let body = enclosed("a/v1", "A", &message);
    let envelope = Envelope::open(&body).expect("a body");
    let read = envelope.read(&schema).expect("what was written is read");
    object.extend([("apiVersion".to_owned(), "a/v1".into()), ("kind".to_owned(), "A".into())]);
    assert_eq!(read, expected);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn what_a_message_says_is_read(seed: u64) {
        holds::<Pod>(seed);
        holds::<Deployment>(seed);
        holds::<CronJob>(seed);
        holds::<Service>(seed);
        holds::<Secret>(seed);
        holds::<Node>(seed);
        holds::<EndpointSlice>(seed);
        holds::<PodDisruptionBudget>(seed);
        holds::<ClusterRole>(seed);
    }

    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Envelope::open(&bytes);
        let body = enclosed("v1", "Pod", &bytes);
        let _ = Envelope::open(&body).map(|envelope| envelope.read(&Schema::of::<Secret>()));
    }
}

#[test]
fn a_zero_counts_where_it_is_not_the_absence_of_a_value() {
    let replicas = number_field(1, 0);
    let min_ready = number_field(5, 0);
    let spec = length_delimited(2, &[replicas, min_ready].concat());
    let body = enclosed("apps/v1", "Deployment", &spec);
    let envelope = Envelope::open(&body).expect("a body");
    assert_eq!((envelope.api_version.as_str(), envelope.kind.as_str()), ("apps/v1", "Deployment"));
    let read = envelope.read(&Schema::of::<Deployment>()).expect("a message");
    assert_eq!(read["spec"], json!({ "replicas": 0 }));
}

#[test]
fn fields_of_messages_that_json_does_not_nest_are_the_object_s_own() {
    // spec.volumes[0] with the name `a` and an empty directory.
    let source = length_delimited(2, &length_delimited(2, &[]));
    let volume = [length_delimited(1, b"a"), source].concat();
    let body = enclosed("v1", "Pod", &length_delimited(2, &length_delimited(1, &volume)));
    let read = Envelope::open(&body).expect("a body").read(&Schema::of::<Pod>()).expect("a message");
    assert_eq!(read["spec"]["volumes"], json!([{ "name": "a", "emptyDir": {} }]));
}

#[test]
fn a_time_that_is_none_is_left_out_and_a_fraction_of_a_second_kept() {
    assert_eq!(time(&[]), Ok(Value::Null));
    assert_eq!(time(&number_field(1, 1_767_225_600)), Ok(json!("2026-01-01T00:00:00Z")));
    let fraction = [number_field(1, 1_767_225_600), number_field(2, 5_000)].concat();
    assert_eq!(time(&fraction), Ok(json!("2026-01-01T00:00:00.000005Z")));
}

#[test]
fn what_is_no_body_in_this_form_is_told_apart() {
    assert_eq!(Envelope::open(b"{}").err(), Some(ProtobufError::Prefix));
    assert_eq!(Envelope::open(b"k8s\0\x0a\x7f").err(), Some(ProtobufError::Malformed));
}
