//! A body in Kubernetes' protobuf form, read as the JSON that it stands for.
//!
//! Clients written in Go send built-in kinds so: `kubectl create deployment` is one. Which fields an object has is the
//! schema's to say; their numbers, which no schema has, are in `protobuf/fields.txt`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};
use thiserror::Error;

use super::{Arena, Schema, Type};

/// What every body in this form begins with.
const PREFIX: &[u8] = b"k8s\0";
const NUMBERS: &str = include_str!("protobuf/fields.txt");

/// The body is none in Kubernetes' protobuf form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ProtobufError {
    /// It begins otherwise.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    Prefix,
    /// It is cut off, or no message.
    #[error("proto: illegal or truncated message")]
    Malformed,
}

type Result<T> = std::result::Result<T, ProtobufError>;

/// A body, opened as far as to its kind.
#[derive(Clone, Debug)]
pub struct Envelope<'a> {
    /// The group and version it names, such as `apps/v1`.
    pub api_version: String,
    /// The kind it names.
    pub kind: String,
    message: &'a [u8],
}

impl<'a> Envelope<'a> {
    /// Opens a body.
    ///
    /// # Errors
    ///
    /// For what is no body in this form.
    pub fn open(body: &'a [u8]) -> Result<Self> {
        let body = body.strip_prefix(PREFIX).ok_or(ProtobufError::Prefix)?;
        let mut envelope = Self { api_version: String::new(), kind: String::new(), message: &[] };
        for field in Fields(body) {
            match field? {
                (1, wire) => {
                    for field in Fields(wire.bytes()?) {
                        match field? {
                            (1, wire) => envelope.api_version = wire.text()?,
                            (2, wire) => envelope.kind = wire.text()?,
                            _ => {}
                        }
                    }
                }
                (2, wire) => envelope.message = wire.bytes()?,
                _ => {}
            }
        }
        Ok(envelope)
    }

    /// The object in the body, whose kind is of this schema. Fields that the schema or the table of numbers lacks are left out.
    ///
    /// # Errors
    ///
    /// For a message that is cut off or of other types than the schema's.
    pub fn read(&self, schema: &Schema) -> Result<Value> {
        let mut object = Map::new();
        if let Type::Object(root) = schema.root {
            let message = short_name(&schema.arena.object(root).definition);
            Reader { arena: &schema.arena }.object(root, message, self.message, &mut object)?;
        }
        object.insert("apiVersion".into(), self.api_version.as_str().into());
        object.insert("kind".into(), self.kind.as_str().into());
        Ok(object.into())
    }
}

struct Reader<'a> {
    arena: &'a Arena,
}

impl Reader<'_> {
    /// Reads a message into `object`, whose type has the schema's `index`. The types of the API don't contain themselves,
    /// which bounds the depth.
    fn object(&self, index: u32, message: &str, bytes: &[u8], object: &mut Map<String, Value>) -> Result<()> {
        let numbers: Vec<_> = numbers_of(message).collect();
        for field in Fields(bytes) {
            let (number, wire) = field?;
            let Some(known) = numbers.iter().find(|known| known.number == number) else { continue };
            if known.name.starts_with('+') {
                self.object(index, known.name, wire.bytes()?, object)?;
            } else if let Some(of) = self.arena.object(index).field(known.name) {
                self.field(of, known, wire, object)?;
            }
        }
        Ok(())
    }

    fn field(&self, of: Type, known: &Number<'_>, wire: Wire<'_>, object: &mut Map<String, Value>) -> Result<()> {
        match of {
            Type::List(item) => {
                let list = object.entry(known.name).or_insert_with(|| Value::Array(Vec::new()));
                let list = list.as_array_mut().expect("just made one");
                self.items(self.arena.item(item), wire, list)?;
            }
            Type::Map(item) => {
                let map = object.entry(known.name).or_insert_with(|| Value::Object(Map::new()));
                let (key, value) = self.entry(self.arena.item(item), wire)?;
                map.as_object_mut().expect("just made one").insert(key, value);
            }
            of => {
                let value = self.value(of, wire)?;
                if !value.is_null() && (known.keeps_zero || !is_zero(&value)) {
                    object.insert(known.name.into(), value);
                }
            }
        }
        Ok(())
    }

    /// One item of a list, or several numbers that are packed.
    fn items(&self, item: Type, wire: Wire<'_>, list: &mut Vec<Value>) -> Result<()> {
        match (item, wire) {
            (Type::Int32 | Type::Int64, Wire::Bytes(mut packed)) => {
                while !packed.is_empty() {
                    list.push(varint(&mut packed)?.cast_signed().into());
                }
            }
            _ => list.push(self.value(item, wire)?),
        }
        Ok(())
    }

    fn entry(&self, item: Type, wire: Wire<'_>) -> Result<(String, Value)> {
        let (mut key, mut value) = (String::new(), Value::Null);
        for field in Fields(wire.bytes()?) {
            match field? {
                (1, wire) => key = wire.text()?,
                (2, wire) => value = self.value(item, wire)?,
                _ => {}
            }
        }
        Ok((key, value))
    }

    /// A value of this type; null for a time that is none.
    fn value(&self, of: Type, wire: Wire<'_>) -> Result<Value> {
        Ok(match of {
            Type::Boolean => (wire.number()? != 0).into(),
            Type::Int32 | Type::Int64 => wire.number()?.into(),
            Type::Float => wire.float()?.into(),
            Type::String => wire.text()?.into(),
            Type::Bytes => STANDARD.encode(wire.bytes()?).into(),
            Type::Time => time(wire.bytes()?)?,
            Type::Quantity => first(wire.bytes()?)?.map_or(Ok(Value::Null), |wire| wire.text().map(Value::from))?,
            Type::IntOrString => int_or_string(wire.bytes()?)?,
            Type::Any => match first(wire.bytes()?)? {
                // Carried as it is.
                Some(raw) => serde_json::from_slice(raw.bytes()?).unwrap_or_default(),
                None => Value::Null,
            },
            Type::Object(index) => {
                let mut object = Map::new();
                let message = short_name(&self.arena.object(index).definition);
                self.object(index, message, wire.bytes()?, &mut object)?;
                object.into()
            }
            // A list within a map is a message of its own, with the list for its one field.
            Type::List(item) => {
                let mut list = Vec::new();
                for field in Fields(wire.bytes()?) {
                    self.items(self.arena.item(item), field?.1, &mut list)?;
                }
                list.into()
            }
            Type::Map(_) => return Err(ProtobufError::Malformed),
        })
    }
}

/// Whether Go leaves a value out of JSON: the protobuf form has it all the same.
fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

/// A time in seconds, or in microseconds if it has a fraction of one.
fn time(bytes: &[u8]) -> Result<Value> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields(bytes) {
        match field? {
            (1, wire) => seconds = wire.number()?,
            (2, wire) => nanos = wire.number()?,
            _ => {}
        }
    }
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    let nanos = i32::try_from(nanos).map_err(|_| ProtobufError::Malformed)?;
    let time = jiff::Timestamp::new(seconds, nanos).map_err(|_| ProtobufError::Malformed)?;
    let format = if nanos == 0 { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
    Ok(time.strftime(format).to_string().into())
}

fn int_or_string(bytes: &[u8]) -> Result<Value> {
    let (mut is_text, mut number, mut text) = (false, 0, String::new());
    for field in Fields(bytes) {
        match field? {
            (1, wire) => is_text = wire.number()? != 0,
            (2, wire) => number = wire.number()?,
            (3, wire) => text = wire.text()?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// The first field of a message that has but one.
fn first(bytes: &[u8]) -> Result<Option<Wire<'_>>> {
    Fields(bytes).next().transpose().map(|field| field.map(|(_, wire)| wire))
}

/// The name of a definition in the table of numbers.
fn short_name(definition: &str) -> &str {
    ["io.k8s.api.", "io.k8s.apimachinery.pkg.apis."]
        .into_iter()
        .find_map(|prefix| definition.strip_prefix(prefix))
        .unwrap_or(definition)
}

/// A field in the table of numbers.
struct Number<'a> {
    name: &'a str,
    number: u32,
    /// Whether its zero is not its absence.
    keeps_zero: bool,
}

/// The fields of a message; none if the table lacks it.
fn numbers_of(message: &str) -> impl Iterator<Item = Number<'static>> {
    let line = NUMBERS.lines().find_map(|line| line.strip_prefix(message)?.strip_prefix(": "));
    line.unwrap_or_default().split(' ').filter_map(|field| {
        let (name, number) = field.split_once('=')?;
        let (number, keeps_zero) = number.strip_suffix('?').map_or((number, false), |number| (number, true));
        Some(Number { name, number: number.parse().ok()?, keeps_zero })
    })
}

/// The value of a field, as far as the encoding tells.
#[derive(Clone, Copy)]
enum Wire<'a> {
    Varint(u64),
    Fixed64([u8; 8]),
    Fixed32,
    Bytes(&'a [u8]),
}

impl<'a> Wire<'a> {
    fn number(self) -> Result<i64> {
        match self {
            Self::Varint(number) => Ok(number.cast_signed()),
            _ => Err(ProtobufError::Malformed),
        }
    }

    fn float(self) -> Result<f64> {
        match self {
            Self::Fixed64(bytes) => Ok(f64::from_le_bytes(bytes)),
            _ => Err(ProtobufError::Malformed),
        }
    }

    fn bytes(self) -> Result<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            _ => Err(ProtobufError::Malformed),
        }
    }

    fn text(self) -> Result<String> {
        String::from_utf8(self.bytes()?.to_vec()).map_err(|_| ProtobufError::Malformed)
    }
}

/// The fields of a message, by number.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = field(&mut self.0);
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

fn field<'a>(rest: &mut &'a [u8]) -> Result<(u32, Wire<'a>)> {
    let key = varint(rest)?;
    let number = u32::try_from(key >> 3).map_err(|_| ProtobufError::Malformed)?;
    let wire = match key & 7 {
        0 => Wire::Varint(varint(rest)?),
        1 => Wire::Fixed64(*rest.split_off(..8).and_then(|bytes| bytes.first_chunk()).ok_or(ProtobufError::Malformed)?),
        2 => {
            let length = usize::try_from(varint(rest)?).map_err(|_| ProtobufError::Malformed)?;
            Wire::Bytes(rest.split_off(..length).ok_or(ProtobufError::Malformed)?)
        }
        5 => rest.split_off(..4).map(|_| Wire::Fixed32).ok_or(ProtobufError::Malformed)?,
        _ => return Err(ProtobufError::Malformed),
    };
    Ok((number, wire))
}

fn varint(rest: &mut &[u8]) -> Result<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = rest.split_off_first().ok_or(ProtobufError::Malformed)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(ProtobufError::Malformed)
}

#[cfg(test)]
mod tests;
