//! Kinds that show what another kind stores: the same objects, but for the names of some fields (SEMANTICS 73).
//!
//! A request for a view is carried out as one for the stored kind, with names changed on the way in and on the way out.

use bytes::Bytes;
use futures::StreamExt as _;
use http::Method;
use serde_json::Value;

use crate::server::{
    Call, Inner,
    error::Result,
    object::Object,
    registry::Kind,
    respond::{Answer, Form, KindRef, accepts, whole},
    route::Target,
};

/// How the fields of a view are called where they are stored.
#[derive(Debug)]
pub(crate) struct View {
    /// The stored kind: group, version, plural.
    pub(crate) of: (&'static str, &'static str, &'static str),
    /// Each field of the object that has two names: the view's, and the stored one.
    pub(crate) names: &'static [(&'static str, &'static str)],
}

/// `events.k8s.io/v1` over the events of the core group.
pub(crate) const EVENTS: View = View {
    of: ("", "v1", "events"),
    names: &[
        ("deprecatedCount", "count"),
        ("deprecatedFirstTimestamp", "firstTimestamp"),
        ("deprecatedLastTimestamp", "lastTimestamp"),
        ("deprecatedSource", "source"),
        ("note", "message"),
        ("regarding", "involvedObject"),
        ("reportingController", "reportingComponent"),
    ],
};

impl Inner {
    /// Carries out a request for a view.
    pub(super) async fn viewed(&self, kind: &Kind, view: &View, target: &Target, mut call: Call) -> Result<Answer> {
        let (group, version, plural) = view.of;
        let stored = self.registry.find(group, version, plural).expect("views are of built-in kinds");
        let form = accepts(&call.parts)?.form;
        if matches!(call.parts.method, Method::POST | Method::PUT | Method::PATCH) {
            let body = call.body().await?;
            call.body = whole(view.stored_body(kind, stored, &body));
        }
        call.query.change("fieldSelector", |selector| view.stored_selector(selector));
        let target = Target { group: group.into(), version: version.into(), plural: plural.into(), ..target.clone() };
        let answer = self.resource(stored, &target, call).await?;
        Ok(if form == Form::Full { view.shown(kind, answer) } else { answer })
    }
}

impl View {
    /// An object or a patch as it is to be applied to what is stored. What is no JSON stays for its handler to refuse.
    fn stored_body(&self, kind: &Kind, stored: &Kind, body: &Bytes) -> Bytes {
        match serde_json::from_slice(body) {
            Ok(Value::Object(mut object)) => {
                rename(&mut object, self.names.iter().copied());
                if object.get("apiVersion").and_then(Value::as_str) == Some(&kind.api_version()) {
                    object.insert("apiVersion".into(), stored.api_version().into());
                }
                Value::Object(object).to_string().into()
            }
            Ok(Value::Array(mut operations)) => {
                for operation in &mut operations {
                    for pointer in ["path", "from"] {
                        if let Some(Value::String(path)) = operation.get_mut(pointer) {
                            *path = self.stored_path(path, '/');
                        }
                    }
                }
                Value::Array(operations).to_string().into()
            }
            _ => body.clone(),
        }
    }

    fn stored_selector(&self, selector: &str) -> String {
        let terms: Vec<_> = selector.split(',').map(|term| self.stored_path(term, '.')).collect();
        terms.join(",")
    }

    /// A path whose first segment has the stored name.
    fn stored_path(&self, path: &str, separator: char) -> String {
        let (lead, rest) = if path.starts_with(separator) { path.split_at(separator.len_utf8()) } else { ("", path) };
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (first, rest) = rest.split_at(end);
        let stored = self.names.iter().find(|(viewed, _)| *viewed == first).map_or(first, |(_, stored)| stored);
        format!("{lead}{stored}{rest}")
    }

    /// What a handler of the stored kind answered, as the view has it.
    fn shown(&self, kind: &Kind, answer: Answer) -> Answer {
        let shown = |encoded: &Bytes| match serde_json::from_slice(encoded) {
            Ok(Value::Object(object)) => {
                Value::Object(self.shown_object(&kind.api_version(), object)).to_string().into()
            }
            _ => encoded.clone(),
        };
        match answer {
            Answer::Object { code, kind_of: Some(_), encoded, warnings } => {
                Answer::Object { code, kind_of: Some(KindRef::of(kind)), encoded: shown(&encoded), warnings }
            }
            Answer::List { revision, items, next, .. } => {
                let items = items.iter().map(shown).collect();
                Answer::List { kind_of: KindRef::of(kind), revision, items, next }
            }
            Answer::Watch(frames) => {
                let (names, api_version, kind) = (self.names, kind.api_version(), kind.kind);
                let view = View { of: self.of, names };
                Answer::Watch(frames.map(move |frame| view.shown_frame(&api_version, kind, &frame)).boxed())
            }
            other => other,
        }
    }

    fn shown_frame(&self, api_version: &str, kind: &str, frame: &Bytes) -> Bytes {
        let Ok(mut event) = serde_json::from_slice::<Value>(frame) else { return frame.clone() };
        // An error carries a `Status`.
        if let Some(Value::Object(object)) = event.get_mut("object")
            && object.get("kind").and_then(Value::as_str) == Some(kind)
        {
            *object = self.shown_object(api_version, std::mem::take(object));
        }
        format!("{event}\n").into()
    }

    fn shown_object(&self, api_version: &str, mut object: Object) -> Object {
        rename(&mut object, self.names.iter().map(|(viewed, stored)| (*stored, *viewed)));
        object.insert("apiVersion".into(), api_version.into());
        object
    }
}

/// Renames fields from the first name to the second; a field that has the second already is none of this form.
fn rename(object: &mut Object, names: impl Iterator<Item = (&'static str, &'static str)>) {
    for (from, to) in names {
        object.remove(to);
        if let Some(value) = object.remove(from) {
            object.insert(to.into(), value);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_field_of_two_names_goes_in_and_comes_out_again() {
        let mut object =
            json!({ "apiVersion": "events.k8s.io/v1", "note": "n", "regarding": { "name": "a" }, "type": "Normal" })
                .as_object()
                .expect("an object")
                .clone();
        let viewed = object.clone();
        rename(&mut object, EVENTS.names.iter().copied());
        assert_eq!((&object["message"], &object["involvedObject"]), (&json!("n"), &json!({ "name": "a" })));
        assert_eq!(EVENTS.shown_object("events.k8s.io/v1", object), viewed);
    }

    #[test]
    fn selectors_and_pointers_have_their_first_segment_renamed() {
        assert_eq!(EVENTS.stored_selector("regarding.kind=Pod,type!=note"), "involvedObject.kind=Pod,type!=note");
        assert_eq!(EVENTS.stored_path("/note", '/'), "/message");
        assert_eq!(EVENTS.stored_path("/metadata/labels/note", '/'), "/metadata/labels/note");
    }
}
