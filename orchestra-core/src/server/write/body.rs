//! The body of a write: parsed, checked against its kind, and put where its path says.

use http::header;
use serde_json::Value;

use crate::{
    api::{
        schema,
        validation::{FieldError, Path},
    },
    server::{
        Call, Inner,
        error::{Failure, Result},
        object::{Object, meta, meta_mut},
        registry::Kind,
        route::Target,
    },
};

/// What a body may be, as errors say it; what is no JSON has become it before.
const ACCEPTED: &str = "application/json, application/yaml, application/vnd.kubernetes.protobuf";

impl Inner {
    /// Parses a body into an object of `kind`, strictly if asked; what a lenient client should know comes as warnings.
    pub(crate) fn read_body(&self, kind: &Kind, call: &Call, body: &[u8]) -> Result<(Object, Vec<String>)> {
        let content_type = call
            .parts
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("application/json");
        if content_type.split(';').next().map(str::trim) != Some("application/json") {
            return Err(Failure::unsupported_media_type(content_type, ACCEPTED));
        }
        let (value, mut problems) = schema::parse_strict(body)
            .map_err(|error| Failure::bad_request(schema::unrecognized(kind.kind, &error, body)))?;
        let Value::Object(mut object) = value else {
            let detail = "the body is no JSON object";
            return Err(Failure::bad_request(schema::cannot_handle(kind.kind, kind.version, detail)));
        };
        problems.extend(call.duplicates.iter().cloned());
        problems.extend(self.conform(kind, &mut object)?);
        let warnings = call.field_validation()?.judge(problems).map_err(|problems| {
            let detail = schema::strict_decoding_error(&problems);
            Failure::bad_request(schema::cannot_handle(kind.kind, kind.version, detail))
        })?;
        Ok((object, warnings))
    }

    /// Checks names and types; `apiVersion` and `kind` must be the kind's own.
    pub(crate) fn conform(&self, kind: &Kind, object: &mut Object) -> Result<Vec<String>> {
        for (field, expected) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())] {
            match object.get(field).unwrap_or(&Value::Null) {
                Value::Null => drop(object.insert(field.into(), expected.into())),
                Value::String(given) if given.is_empty() => drop(object.insert(field.into(), expected.into())),
                Value::String(given) if *given != expected => return Err(another_kind(kind, field, given)),
                // The right one, or of a type that the schema refuses.
                _ => {}
            }
        }
        let mut value = Value::Object(std::mem::take(object));
        let problems = kind
            .conform(&mut value)
            .map_err(|error| Failure::bad_request(schema::cannot_handle(kind.kind, kind.version, error)))?;
        if let Value::Object(conformed) = value {
            *object = conformed;
        }
        Ok(problems)
    }

    /// Puts an object where its path says; what it says itself must agree.
    pub(crate) fn place(&self, kind: &Kind, target: &Target, object: &mut Object) -> Result<()> {
        let given = meta(object, "namespace").to_owned();
        match (&target.namespace, kind.namespaced) {
            (Some(namespace), true) if given.is_empty() || given == *namespace => {
                meta_mut(object).insert("namespace".into(), namespace.as_str().into());
            }
            (Some(_), true) => {
                return Err(Failure::bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request",
                ));
            }
            (None, true) => return Err(Failure::bad_request("an empty namespace may not be set during creation")),
            (_, false) => drop(meta_mut(object).remove("namespace")),
        }
        if let Some(name) = &target.name {
            let given = meta(object, "name").to_owned();
            if !given.is_empty() && given != *name {
                let message = format!("the name of the object ({given}) does not match the name on the URL ({name})");
                return Err(Failure::bad_request(message));
            }
            meta_mut(object).insert("name".into(), name.as_str().into());
        }
        Ok(())
    }
}

/// What becomes of fields that a kind doesn't know, and of those given twice (SEMANTICS 36).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped, and the client is told.
    Warn,
    /// The request is refused.
    Strict,
}

impl FieldValidation {
    /// Reads it in options of the kind `options`.
    pub(crate) fn parse(options: &str, text: &str) -> Result<Self> {
        match text {
            "Ignore" => Ok(Self::Ignore),
            "" | "Warn" => Ok(Self::Warn),
            "Strict" => Ok(Self::Strict),
            other => {
                let supported = ["Ignore", "Strict", "Warn"];
                let error = FieldError::not_supported(&Path::root("fieldValidation"), other, &supported);
                Err(Failure::invalid_options(options, &[error]))
            }
        }
    }

    /// The warnings that such problems are worth.
    ///
    /// # Errors
    ///
    /// The problems, if there may be none.
    pub(crate) fn judge(self, problems: Vec<String>) -> Result<Vec<String>, Vec<String>> {
        match self {
            Self::Ignore => Ok(Vec::new()),
            Self::Strict if !problems.is_empty() => Err(problems),
            Self::Warn | Self::Strict => Ok(problems),
        }
    }
}

/// Whether a write is to be tried only; its options may say so more than once.
pub(crate) fn is_dry_run<'a>(options: &str, values: impl IntoIterator<Item = &'a str>) -> Result<bool> {
    let mut dry_run = false;
    for value in values {
        if !matches!(value, "" | "All") {
            let error = FieldError::not_supported(&Path::root("dryRun"), value, &["All"]);
            return Err(Failure::invalid_options(options, &[error]));
        }
        dry_run |= value == "All";
    }
    Ok(dry_run)
}

fn another_kind(kind: &Kind, field: &str, given: &str) -> Failure {
    let version = kind.api_version();
    Failure::bad_request(match field {
        "apiVersion" => {
            format!("the API version in the data ({given}) does not match the expected API version ({version})")
        }
        _ => format!(
            "{given} in version \"{}\" cannot be handled as a {}: kind: Invalid value: \"{given}\"",
            kind.version, kind.kind
        ),
    })
}
