//! From what a handler found to a response, in the form the client accepts.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use serde_json::{Value, json};

use crate::{
    server::{
        Body, Inner,
        error::{Failure, Result},
        object::Object,
        registry::Kind,
    },
    store::Revision,
};

/// The form of objects that a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Whole objects.
    Full,
    /// `meta.k8s.io/v1` `Table`, what `kubectl get` prints.
    Table,
    /// `meta.k8s.io/v1` `PartialObjectMetadata`.
    Partial,
}

/// What a client accepts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) form: Form,
    /// The aggregated form of discovery.
    pub(crate) aggregated: bool,
}

/// Reads `Accept` (SEMANTICS 65): the first form that can be had; JSON where protobuf is only preferred.
pub(crate) fn accepts(headers: &HeaderMap) -> Result<Accept> {
    let accepted: Vec<&str> = headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|list| list.split(','))
        .collect();
    if accepted.is_empty() {
        return Ok(Accept { form: Form::Full, aggregated: false });
    }
    for media in accepted {
        let mut parameters = media.split(';').map(str::trim);
        let name = parameters.next().unwrap_or_default();
        // OpenAPI's own media types are for its handler to tell apart.
        let known = matches!(name, "application/json" | "application/*" | "*/*" | "text/plain");
        if !known && !name.starts_with("application/com.github.proto-openapi") {
            continue;
        }
        let parameters: Vec<_> = parameters.collect();
        let is = |wanted: &str| parameters.contains(&wanted);
        let form = match parameters.iter().find_map(|parameter| parameter.strip_prefix("as=")) {
            None => Form::Full,
            Some("Table") if is("v=v1") && is("g=meta.k8s.io") => Form::Table,
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if is("v=v1") => Form::Partial,
            Some("APIGroupDiscoveryList") if is("v=v2") => return Ok(Accept { form: Form::Full, aggregated: true }),
            Some(_) => continue,
        };
        return Ok(Accept { form, aggregated: false });
    }
    Err(Failure::not_acceptable())
}

/// What a handler found.
pub(crate) enum Answer {
    /// An object, encoded.
    Object { code: StatusCode, kind_of: Option<KindRef>, encoded: Bytes, warnings: Vec<String> },
    /// Some objects of a kind, encoded, as of one revision.
    List { kind_of: KindRef, revision: Revision, items: Vec<Bytes>, next: Option<Next>, include_object: String },
    /// Encoded events, one a frame.
    Watch(futures::stream::BoxStream<'static, Bytes>),
    /// Any JSON.
    Json(Value),
    /// A response as it is.
    Raw(Response<Body>),
}

/// Where a list goes on.
pub(crate) struct Next {
    pub(crate) token: String,
    pub(crate) remaining: usize,
}

/// A kind by its place in the registry, so that an answer needs no borrow.
#[derive(Clone, Debug)]
pub(crate) struct KindRef {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
}

impl KindRef {
    pub(crate) fn of(kind: &Kind) -> Self {
        Self { group: kind.group, version: kind.version, plural: kind.plural }
    }
}

impl Answer {
    pub(crate) fn object(kind: &Kind, object: &Object) -> Self {
        Self::created(StatusCode::OK, kind, object, Vec::new())
    }

    pub(crate) fn created(code: StatusCode, kind: &Kind, object: &Object, warnings: Vec<String>) -> Self {
        let encoded = serde_json::to_vec(object).expect("JSON values encode").into();
        Self::Object { code, kind_of: Some(KindRef::of(kind)), encoded, warnings }
    }

    /// `Status` of a success, as a deletion ends.
    pub(crate) fn success(kind: &Kind, name: &str, uid: &str) -> Self {
        let mut details = json!({ "name": name, "kind": kind.plural, "uid": uid });
        if !kind.group.is_empty() {
            details["group"] = kind.group.into();
        }
        Self::Json(
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details }),
        )
    }
}

pub(crate) fn render(inner: &Inner, accept: &Accept, answer: Answer) -> Response<Body> {
    match answer {
        Answer::Raw(response) => response,
        Answer::Json(value) => json_response(StatusCode::OK, value.to_string().into()),
        Answer::Watch(events) => stream(events),
        Answer::Object { code, kind_of, encoded, warnings } => {
            let encoded = match (kind_of, accept.form) {
                (Some(kind), form) if form != Form::Full => {
                    let kind =
                        inner.registry.find(kind.group, kind.version, kind.plural).expect("answers are of known kinds");
                    transform(inner, kind, form, &encoded, "")
                }
                _ => encoded,
            };
            let mut response = json_response(code, encoded);
            for warning in warnings {
                let header = format!("299 - {}", Value::from(warning));
                response.headers_mut().extend(HeaderValue::from_str(&header).map(|value| (header::WARNING, value)));
            }
            response
        }
        Answer::List { kind_of, revision, items, next, include_object } => {
            let kind = inner
                .registry
                .find(kind_of.group, kind_of.version, kind_of.plural)
                .expect("answers are of known kinds");
            let mut meta = json!({ "resourceVersion": revision.0.to_string() });
            if let Some(next) = next {
                meta["continue"] = next.token.into();
                meta["remainingItemCount"] = next.remaining.into();
            }
            let body = match accept.form {
                Form::Full => list(kind, &meta, &items),
                Form::Table => table(inner, kind, meta, &items, &include_object),
                Form::Partial => {
                    let items: Vec<Value> = items.iter().map(|item| partial(item)).collect();
                    let list = json!({ "kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                        "metadata": meta, "items": items });
                    list.to_string().into()
                }
            };
            json_response(StatusCode::OK, body)
        }
    }
}

/// One object in another form than the whole.
pub(crate) fn transform(inner: &Inner, kind: &Kind, form: Form, encoded: &Bytes, include_object: &str) -> Bytes {
    match form {
        Form::Full => encoded.clone(),
        Form::Partial => partial(encoded).to_string().into(),
        Form::Table => {
            let object: Value = serde_json::from_slice(encoded).unwrap_or_default();
            let meta = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
            table(inner, kind, meta, std::slice::from_ref(encoded), include_object)
        }
    }
}

fn partial(encoded: &[u8]) -> Value {
    let object: Value = serde_json::from_slice(encoded).unwrap_or_default();
    json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"] })
}

fn list(kind: &Kind, meta: &Value, items: &[Bytes]) -> Bytes {
    let head = format!(
        "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{meta},\"items\":[",
        kind.kind,
        kind.api_version()
    );
    let length = head.len() + items.iter().map(|item| item.len() + 1).sum::<usize>() + 2;
    let mut body = Vec::with_capacity(length);
    body.extend_from_slice(head.as_bytes());
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            body.push(b',');
        }
        body.extend_from_slice(item);
    }
    body.extend_from_slice(b"]}");
    body.into()
}

fn table(inner: &Inner, kind: &Kind, meta: Value, items: &[Bytes], include_object: &str) -> Bytes {
    let objects = items.iter().filter_map(|item| serde_json::from_slice::<Value>(item).ok());
    kind.table(objects, meta, include_object, inner.clock.now()).to_string().into()
}

fn stream(events: impl Stream<Item = Bytes> + Send + 'static) -> Response<Body> {
    let frames = events.map(|event| Ok::<_, Infallible>(Frame::data(event)));
    let body = StreamBody::new(frames).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A body that is all there.
pub(crate) fn whole(body: Bytes) -> Body {
    Full::new(body).map_err(|never| match never {}).boxed_unsync()
}

pub(crate) fn json_response(code: StatusCode, body: Bytes) -> Response<Body> {
    let mut response = Response::new(whole(body));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(crate) fn text_response(code: StatusCode, body: String) -> Response<Body> {
    let mut response = json_response(code, body.into());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

pub(crate) fn failure(failure: &Failure) -> Response<Body> {
    let status = serde_json::to_vec(failure.status()).expect("a status encodes");
    let mut response = json_response(failure.code(), status.into());
    let retry = failure.status().details.as_ref().and_then(|details| details.retry_after_seconds);
    if let Some(seconds) = retry {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}
