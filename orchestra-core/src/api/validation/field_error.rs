//! What is wrong with one field, in Kubernetes' own words.

use std::fmt;

use serde::Serialize;
use serde_json::Value;

use super::Path;

/// One thing wrong with one field; `Display` is the text Kubernetes writes for it.
///
/// A server answers 422 with all of an object's errors: each is a cause (reason, message, field) of the `Status`, and
/// their texts joined are its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// The place of the field, such as `spec.containers[0].name`.
    pub path: String,
    /// What sort of thing is wrong.
    pub kind: FieldErrorKind,
    /// The value that is wrong; absent where it says nothing or must not be repeated.
    pub value: Option<Value>,
    /// What would be right; may be empty.
    pub detail: String,
}

/// The sorts of field errors Kubernetes knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FieldErrorKind {
    /// The field has to be given.
    Required,
    /// The value is malformed or breaks a rule.
    Invalid,
    /// The value is none of a fixed set.
    NotSupported,
    /// The value has to be unique and is not.
    Duplicate,
    /// The value might be fine, but not here and now.
    Forbidden,
    /// The value is too long.
    TooLong,
    /// The list has too many items.
    TooMany,
    /// The value refers to something that is not there.
    NotFound,
}

impl FieldErrorKind {
    /// The reason of a `Status` cause for errors of this kind, such as `FieldValueRequired`.
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::NotFound => "FieldValueNotFound",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Required => "Required value",
            Self::Invalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Duplicate => "Duplicate value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::NotFound => "Not found",
        }
    }
}

impl FieldError {
    /// The error of a field that has to be given.
    pub fn required(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::new(path, FieldErrorKind::Required, None, detail.into())
    }

    /// The error of a value that is malformed or breaks a rule.
    pub fn invalid(path: &Path<'_>, value: impl Serialize, detail: impl Into<String>) -> Self {
        Self::new(path, FieldErrorKind::Invalid, Some(encode(&value)), detail.into())
    }

    /// The error of a value that is none of `supported`.
    pub fn not_supported(path: &Path<'_>, value: &str, supported: &[&str]) -> Self {
        let quoted: Vec<String> = supported.iter().map(|one| format!("\"{one}\"")).collect();
        let detail = format!("supported values: {}", quoted.join(", "));
        Self::new(path, FieldErrorKind::NotSupported, Some(Value::from(value)), detail)
    }

    /// The error of a value that has to be unique and is not.
    pub fn duplicate(path: &Path<'_>, value: impl Serialize) -> Self {
        Self::new(path, FieldErrorKind::Duplicate, Some(encode(&value)), String::new())
    }

    /// The error of a value that is not allowed here and now.
    pub fn forbidden(path: &Path<'_>, detail: impl Into<String>) -> Self {
        Self::new(path, FieldErrorKind::Forbidden, None, detail.into())
    }

    /// The error of a value of more than `bytes_max` bytes.
    pub fn too_long(path: &Path<'_>, bytes_max: usize) -> Self {
        let detail = format!("may not be more than {bytes_max} bytes");
        Self::new(path, FieldErrorKind::TooLong, None, detail)
    }

    /// The error of a list of `count` items where `count_max` are allowed.
    pub fn too_many(path: &Path<'_>, count: usize, count_max: usize) -> Self {
        let detail = format!("must have at most {count_max} items");
        Self::new(path, FieldErrorKind::TooMany, Some(Value::from(count)), detail)
    }

    /// The error of a reference to something that is not there.
    pub fn not_found(path: &Path<'_>, value: impl Serialize) -> Self {
        Self::new(path, FieldErrorKind::NotFound, Some(encode(&value)), String::new())
    }

    /// The text without the path, which is the message of a `Status` cause.
    pub fn body(&self) -> String {
        let mut body = self.kind.text().to_owned();
        if let Some(value) = &self.value {
            body.push_str(": ");
            match value {
                Value::Null => body.push_str("\"null\""),
                value => body.push_str(&value.to_string()),
            }
        }
        if !self.detail.is_empty() {
            body.push_str(": ");
            body.push_str(&self.detail);
        }
        body
    }

    fn new(path: &Path<'_>, kind: FieldErrorKind, value: Option<Value>, detail: String) -> Self {
        Self { path: path.to_string(), kind, value, detail }
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

impl std::error::Error for FieldError {}

fn encode(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_kubernetes() {
        let path = Path::root("spec");
        let path = path.field("type");
        let cases = [
            (FieldError::required(&path, ""), "spec.type: Required value"),
            (FieldError::invalid(&path, -1, "too small"), "spec.type: Invalid value: -1: too small"),
            (FieldError::invalid(&path, "a\"b", "bad"), r#"spec.type: Invalid value: "a\"b": bad"#),
            (
                FieldError::not_supported(&path, "X", &["A", "B"]),
                r#"spec.type: Unsupported value: "X": supported values: "A", "B""#,
            ),
            (FieldError::duplicate(&path, "x"), r#"spec.type: Duplicate value: "x""#),
            (FieldError::forbidden(&path, "not now"), "spec.type: Forbidden: not now"),
            (FieldError::too_long(&path, 63), "spec.type: Too long: may not be more than 63 bytes"),
            (FieldError::too_many(&path, 3, 2), "spec.type: Too many: 3: must have at most 2 items"),
            (FieldError::not_found(&path, "v"), r#"spec.type: Not found: "v""#),
        ];
        for (error, text) in cases {
            assert_eq!(error.to_string(), text);
        }
    }
}
