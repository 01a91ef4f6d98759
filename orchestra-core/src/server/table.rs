//! Objects as a `Table`: what `kubectl get` prints.

use std::io::Write as _;

use bytes::Bytes;
use k8s_openapi::api::autoscaling::v1::Scale;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use crate::{
    api::columns::{self, Row},
    clock::Timestamp,
    server::{
        error::{Failure, Result},
        registry::Kind,
    },
};

/// What a row carries of its object beside the cells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Include {
    /// Its metadata.
    #[default]
    Metadata,
    /// All of it.
    Object,
    /// Nothing.
    Nothing,
}

/// Whether a table says what its columns are: in a watch only the first one does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Headings {
    /// It does.
    Told,
    /// It has been said before.
    LeftOut,
}

impl Include {
    /// Reads the parameter `includeObject`.
    ///
    /// # Errors
    ///
    /// For anything but the three words and nothing.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        match text {
            "" | "Metadata" => Ok(Self::Metadata),
            "Object" => Ok(Self::Object),
            "None" => Ok(Self::Nothing),
            other => Err(Failure::bad_request(format!(
                "includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }
}

/// The table of some encoded objects of a kind.
pub(crate) fn table(
    kind: &Kind,
    meta: &Value,
    items: &[Bytes],
    (include, headings): (Include, Headings),
    now: Timestamp,
) -> Bytes {
    let columns = match headings {
        Headings::Told => kind.columns(),
        Headings::LeftOut => "null",
    };
    let rows = items.iter().map(|item| (kind.row(item, now), item));
    of_rows(columns, meta, rows, include)
}

/// The table of an encoded scale, which is of no kind in the registry.
pub(crate) fn scale_table(encoded: &Bytes, include: Include, now: Timestamp) -> Bytes {
    let scale: Scale = serde_json::from_slice(encoded).unwrap_or_default();
    let meta = json!({ "resourceVersion": scale.metadata.resource_version });
    let row = (columns::SCALE.row)(&scale, now);
    of_rows(&columns::SCALE.describe().to_string(), &meta, std::iter::once((row, encoded)), include)
}

fn of_rows<'a>(columns: &str, meta: &Value, rows: impl Iterator<Item = (Row, &'a Bytes)>, include: Include) -> Bytes {
    let head = format!(
        "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{meta},\"columnDefinitions\":{columns},\"rows\":["
    );
    let mut body = head.into_bytes();
    for (at, (row, item)) in rows.enumerate() {
        if at > 0 {
            body.push(b',');
        }
        write_row(&mut body, &row, item, include);
    }
    body.extend_from_slice(b"]}");
    body.into()
}

/// An encoded object as `PartialObjectMetadata`.
pub(crate) fn partial(encoded: &[u8]) -> Bytes {
    let mut body = Vec::with_capacity(encoded.len());
    write_partial(&mut body, encoded);
    body.into()
}

fn write_row(body: &mut Vec<u8>, row: &Row, encoded: &[u8], include: Include) {
    write!(body, "{{\"cells\":{}", Value::from(row.cells.as_slice())).expect("writing to memory never fails");
    if let Some(completed) = row.completed {
        let condition = json!([{ "type": "Completed", "status": "True", "reason": completed.reason,
            "message": completed.message }]);
        write!(body, ",\"conditions\":{condition}").expect("writing to memory never fails");
    }
    body.extend_from_slice(b",\"object\":");
    match include {
        Include::Metadata => write_partial(body, encoded),
        Include::Object => body.extend_from_slice(encoded),
        Include::Nothing => body.extend_from_slice(b"null"),
    }
    body.push(b'}');
}

fn write_partial(body: &mut Vec<u8>, encoded: &[u8]) {
    /// An object of which only the metadata is read, and that not further.
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let metadata = serde_json::from_slice::<Head<'_>>(encoded).map_or("{}", |head| head.metadata.get());
    let written = write!(
        body,
        "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{metadata}}}"
    );
    written.expect("writing to memory never fails");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::registry::Registry;

    fn one(object: &Value, include: Include, headings: Headings) -> Value {
        let registry = Registry::built_in();
        let pods = registry.find("", "v1", "pods").expect("built in");
        let now = "2026-01-01T00:00:00Z".parse().expect("a time");
        let items = [Bytes::from(object.to_string())];
        serde_json::from_slice(&table(pods, &json!({ "resourceVersion": "7" }), &items, (include, headings), now))
            .expect("a table is JSON")
    }

    fn pod() -> Value {
        json!({ "kind": "Pod", "apiVersion": "v1", "metadata": { "name": "web", "labels": { "a": "b" } },
            "spec": { "containers": [] }, "status": { "phase": "Succeeded" } })
    }

    /// SEMANTICS 65.
    #[test]
    fn a_row_carries_as_much_of_its_object_as_was_asked_for() {
        let object = |include| one(&pod(), include, Headings::Told)["rows"][0]["object"].clone();
        let metadata = object(Include::Metadata);
        assert_eq!((&metadata["kind"], &metadata["spec"]), (&json!("PartialObjectMetadata"), &Value::Null));
        assert_eq!(metadata["metadata"], pod()["metadata"]);
        assert_eq!(object(Include::Object), pod());
        assert_eq!(object(Include::Nothing), Value::Null);
    }

    #[test]
    fn headings_are_told_or_left_out() {
        let told = one(&pod(), Include::Nothing, Headings::Told);
        assert_eq!(told["columnDefinitions"][0]["name"], "Name");
        assert_eq!(told["metadata"]["resourceVersion"], "7");
        assert_eq!(one(&pod(), Include::Nothing, Headings::LeftOut)["columnDefinitions"], Value::Null);
    }

    #[test]
    fn what_is_over_says_so() {
        let row = one(&pod(), Include::Nothing, Headings::Told)["rows"][0].clone();
        assert_eq!(row["conditions"][0]["reason"], "Succeeded");
    }

    #[test]
    fn an_object_that_is_none_of_its_kind_has_a_row_all_the_same() {
        let broken = json!({ "metadata": { "name": "web" }, "spec": 7 });
        let table = one(&broken, Include::Metadata, Headings::Told);
        let cells = table["rows"][0]["cells"].as_array().expect("cells").clone();
        assert_eq!(cells.len(), table["columnDefinitions"].as_array().expect("columns").len());
        assert_eq!((&cells[0], &cells[1]), (&json!("web"), &Value::Null));
    }
}
