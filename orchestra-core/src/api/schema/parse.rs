//! Reading a JSON body, strictly.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use thiserror::Error;

/// The most levels of objects and lists in one another that a body may have; `serde_json` would stop at 127.
pub const DEPTH_MAX: usize = 100;

/// How many fields that are unknown, or given twice, are named of one body; as in Kubernetes.
pub(crate) const PROBLEMS_MAX: usize = 100;

/// Why a body is not JSON.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ParseError {
    /// The body ends in the middle of a value.
    #[error("unexpected end of JSON input")]
    Truncated,
    /// Objects and lists nest more than [`DEPTH_MAX`] levels deep.
    #[error("exceeded max depth of {DEPTH_MAX}")]
    TooDeep,
    /// The body is no JSON at the place the text names.
    #[error("{0}")]
    Syntax(String),
}

/// Reads one JSON value, and says which keys occur twice in their object: `duplicate field "spec.replicas"`. Of very many
/// it names the first hundred.
///
/// Of such keys the last value stands, as in Go.
///
/// # Errors
///
/// The body is not exactly one JSON value.
pub fn parse_strict(body: &[u8]) -> Result<(Value, Vec<String>), ParseError> {
    let mut reader = Reader { path: String::new(), duplicates: Vec::new(), depth: 0, too_deep: false };
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Seed(&mut reader).deserialize(&mut deserializer);
    let value = value.and_then(|value| deserializer.end().map(|()| value));
    match value {
        Ok(value) => Ok((value, reader.duplicates)),
        Err(_) if reader.too_deep => Err(ParseError::TooDeep),
        Err(error) if error.is_eof() => Err(ParseError::Truncated),
        Err(error) => Err(ParseError::Syntax(error.to_string())),
    }
}

/// How many brackets and braces a YAML document may have open at once: its reader takes time by the square of them.
#[cfg(feature = "client")]
const FLOW_DEPTH_MAX: usize = 1_000;

/// As [`parse_strict`], of one YAML document; keys that are no strings are taken as they are written.
///
/// # Errors
///
/// The body is not exactly one YAML document, or one that no JSON stands for.
#[cfg(feature = "client")]
pub fn parse_yaml(body: &[u8]) -> Result<(Value, Vec<String>), ParseError> {
    if flow_depth_max(body) > FLOW_DEPTH_MAX {
        return Err(ParseError::TooDeep);
    }
    let mut reader = Reader { path: String::new(), duplicates: Vec::new(), depth: 0, too_deep: false };
    let value = Seed(&mut reader).deserialize(serde_yaml_ng::Deserializer::from_slice(body));
    match value {
        Ok(value) => Ok((value, reader.duplicates)),
        Err(_) if reader.too_deep => Err(ParseError::TooDeep),
        Err(error) => Err(ParseError::Syntax(error.to_string())),
    }
}

/// How many brackets and braces are open at once, at most; those of texts count, too.
#[cfg(feature = "client")]
fn flow_depth_max(body: &[u8]) -> usize {
    let depths = body.iter().scan(0_usize, |depth, byte| {
        match byte {
            b'[' | b'{' => *depth += 1,
            b']' | b'}' => *depth = depth.saturating_sub(1),
            _ => {}
        }
        Some(*depth)
    });
    depths.max().unwrap_or(0)
}

struct Reader {
    path: String,
    duplicates: Vec<String>,
    depth: usize,
    too_deep: bool,
}

impl Reader {
    fn enter<E: serde::de::Error>(&mut self) -> Result<(), E> {
        self.depth += 1;
        self.too_deep |= self.depth > DEPTH_MAX;
        if self.too_deep { Err(E::custom("too deep")) } else { Ok(()) }
    }

    /// Runs `read` with `step` added to the path.
    fn at<T>(&mut self, step: fmt::Arguments<'_>, read: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.path.len();
        fmt::Write::write_fmt(&mut self.path, step).expect("writing to a string never fails");
        let result = read(self);
        self.path.truncate(length);
        result
    }
}

struct Seed<'a>(&'a mut Reader);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::from(value))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.0.enter()?;
        let mut list = Vec::new();
        while let Some(item) =
            self.0.at(format_args!("[{}]", list.len()), |reader| access.next_element_seed(Seed(reader)))?
        {
            list.push(item);
        }
        self.0.depth -= 1;
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.0.enter()?;
        let mut object = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            let dot = if self.0.path.is_empty() { "" } else { "." };
            let value = self.0.at(format_args!("{dot}{key}"), |reader| {
                if object.contains_key(&key) && reader.duplicates.len() < PROBLEMS_MAX {
                    reader.duplicates.push(format!("duplicate field \"{}\"", reader.path));
                }
                access.next_value_seed(Seed(reader))
            })?;
            object.insert(key, value);
        }
        self.0.depth -= 1;
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_key_given_twice_is_reported_with_its_path() {
        let (value, duplicates) = parse_strict(br#"{"a":{"b":1,"b":2},"c":[{"d":1,"d":2}]}"#).unwrap();
        assert_eq!(value, json!({"a": {"b": 2}, "c": [{"d": 2}]}));
        assert_eq!(duplicates, [r#"duplicate field "a.b""#, r#"duplicate field "c[0].d""#]);
    }

    #[test]
    fn a_body_cut_off_says_so() {
        for body in ["", "{", r#"{"a":"#, r#"{"a":1"#, "[1,", r#""a"#] {
            assert_eq!(parse_strict(body.as_bytes()), Err(ParseError::Truncated), "{body}");
        }
    }

    #[test]
    fn a_body_that_is_no_json_is_shown_by_its_beginning() {
        let body = br#"{"apiVersion":"v1","kind":"Pod","metadata""#;
        let error = parse_strict(body).unwrap_err();
        assert_eq!(
            crate::api::schema::unrecognized("Pod", &error, body),
            concat!(
                "the object provided is unrecognized (must be of type Pod): couldn't get version/kind; json parse ",
                r#"error: unexpected end of JSON input ({"apiVersion":"v1","kind":"Pod ...)"#
            )
        );
    }

    #[test]
    fn a_body_nested_too_deep_is_refused() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(parse_strict(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert_eq!(parse_strict(nested(DEPTH_MAX + 1).as_bytes()), Err(ParseError::TooDeep));
        assert_eq!(parse_strict("[".repeat(1 << 20).as_bytes()), Err(ParseError::TooDeep));
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let reference: Result<Value, _> = serde_json::from_slice(&body);
            let ours = parse_strict(&body);
            prop_assert_eq!(reference.is_ok(), ours.is_ok());
        }
    }
}
