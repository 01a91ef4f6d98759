//! Which objects of a kind a request selects, by its label and field selectors.

use serde_json::Value;

use crate::{
    api::selector::{FieldSelector, LabelSelector},
    server::{
        cache::Item,
        error::{Failure, Result},
        registry::Kind,
        route::Query,
    },
};

/// The selectors of a request.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
    /// Selects one object by name, as a watch on a single object does.
    name: Option<String>,
}

impl Selection {
    pub(crate) fn parse(kind: &Kind, query: &Query, name: Option<&str>) -> Result<Self> {
        let labels = LabelSelector::parse(query.value("labelSelector"))
            .map_err(|error| Failure::bad_request(error.to_string()))?;
        let fields = FieldSelector::parse(query.value("fieldSelector"))
            .map_err(|error| Failure::bad_request(error.to_string()))?;
        for field in fields.fields() {
            if !matches!(field, "metadata.name" | "metadata.namespace") && !kind.fields.contains(&field) {
                return Err(Failure::bad_request(format!("field label not supported: {field}")));
            }
        }
        Ok(Self { labels, fields, name: name.map(str::to_owned) })
    }

    pub(crate) fn matches(&self, item: &Item) -> bool {
        if self.name.as_ref().is_some_and(|name| item.key.segments().last() != Some(name)) {
            return false;
        }
        if !self.labels.matches(&item.labels) {
            return false;
        }
        if self.fields.is_empty() {
            return true;
        }
        let object: Value = serde_json::from_slice(&item.encoded).unwrap_or_default();
        self.fields.matches(|field| field_of(&object, field))
    }
}

/// The text of a field by its path; an absent one reads as empty, and as `false` where it is a flag.
fn field_of(object: &Value, path: &str) -> String {
    let value = path.split('.').try_fold(object, |value, segment| value.get(segment));
    match value {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Bool(flag)) => flag.to_string(),
        Some(Value::Number(number)) => number.to_string(),
        _ if matches!(path, "spec.unschedulable" | "spec.hostNetwork") => "false".into(),
        _ => String::new(),
    }
}
