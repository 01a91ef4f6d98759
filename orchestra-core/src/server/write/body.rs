//! The body of a write: parsed, checked against its kind, and put where its path says.

use http::header;
use serde_json::Value;

use crate::{
    api::schema,
    server::{
        Call, Inner,
        error::{Failure, Result},
        object::{Object, meta, meta_mut},
        registry::Kind,
        route::Target,
    },
};

impl Inner {
    /// Parses a body into an object of `kind`, strictly if asked; what a lenient client should know comes as warnings.
    pub(super) fn read_body(&self, kind: &Kind, call: &Call, body: &[u8]) -> Result<(Object, Vec<String>)> {
        let content_type = call
            .parts
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .unwrap_or("application/json");
        if content_type.split(';').next().map(str::trim) != Some("application/json") {
            return Err(Failure::unsupported_media_type(content_type, "application/json"));
        }
        let (value, mut problems) = schema::parse_strict(body)
            .map_err(|error| Failure::bad_request(schema::unrecognized(kind.kind, &error, body)))?;
        let Value::Object(mut object) = value else {
            let detail = "the body is no JSON object";
            return Err(Failure::bad_request(schema::cannot_handle(kind.kind, kind.version, detail)));
        };
        problems.extend(self.conform(kind, &mut object)?);
        let warnings = match call.query.value("fieldValidation") {
            "Ignore" => Vec::new(),
            "Warn" => problems,
            "" | "Strict" if problems.is_empty() => problems,
            "" => problems,
            "Strict" => {
                let detail = schema::strict_decoding_error(&problems);
                return Err(Failure::bad_request(schema::cannot_handle(kind.kind, kind.version, detail)));
            }
            other => return Err(Failure::bad_request(format!("fieldValidation: Unsupported value: {other:?}"))),
        };
        Ok((object, warnings))
    }

    /// Checks names and types; `apiVersion` and `kind` must be the kind's own.
    pub(super) fn conform(&self, kind: &Kind, object: &mut Object) -> Result<Vec<String>> {
        for (field, expected) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())] {
            match object.get(field).and_then(Value::as_str) {
                None | Some("") => drop(object.insert(field.into(), expected.into())),
                Some(given) if given == expected => {}
                Some(given) => {
                    return Err(Failure::bad_request(format!(
                        "the {field} in the data ({given}) does not match the expected {field} ({expected})"
                    )));
                }
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
    pub(super) fn place(&self, kind: &Kind, target: &Target, object: &mut Object) -> Result<()> {
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
