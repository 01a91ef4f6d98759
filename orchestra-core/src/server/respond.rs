//! From what a handler found to a response, in the form the client accepts.

use std::convert::Infallible;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use http::{HeaderValue, Response, StatusCode, header, request::Parts};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, Full, StreamBody};
use serde_json::{Value, json};

use crate::{
    server::{
        Body, Inner,
        error::{Failure, Result},
        object::Object,
        registry::Kind,
        route::Query,
        table::{Headings, Include, partial, scale_table, table},
    },
    store::Revision,
};

/// How much of a warning is sent.
const WARNING_CHARS_MAX: usize = 256;
/// How much is sent of all the warnings of a request.
const WARNINGS_CHARS_MAX: usize = 4 * 1024;

/// The form of objects that a client asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Whole objects.
    Full,
    /// `meta.k8s.io/v1` `Table`, what `kubectl get` prints.
    Table(Include),
    /// `meta.k8s.io/v1` `PartialObjectMetadata`.
    Partial,
}

/// What a client accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accept {
    pub(crate) form: Form,
    /// The aggregated form of discovery.
    pub(crate) aggregated: bool,
}

impl Accept {
    /// Whole objects as JSON.
    pub(crate) const ANYTHING: Self = Self { form: Form::Full, aggregated: false };
}

/// Reads `Accept` (SEMANTICS 65): the form preferred most of those that can be had; JSON where protobuf is only preferred.
///
/// # Errors
///
/// 406 if nothing can be had of what is accepted.
pub(crate) fn accepts(parts: &Parts) -> Result<Accept> {
    let values = parts.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    let mut accepted: Vec<_> = values.flat_map(|list| list.split(',')).map(Media::parse).collect();
    if accepted.is_empty() {
        return Ok(Accept::ANYTHING);
    }
    accepted.sort_by(|one, other| other.weight.total_cmp(&one.weight));
    let include = Include::parse(Query::parse(parts.uri.query().unwrap_or_default()).value("includeObject"))?;
    accepted.iter().find_map(|media| media.can_be_had(include)).ok_or_else(Failure::not_acceptable)
}

/// One media type of an `Accept` header.
struct Media<'a> {
    name: &'a str,
    parameters: Vec<&'a str>,
    /// How much it is preferred, from 0, not at all, to 1.
    weight: f32,
}

impl<'a> Media<'a> {
    fn parse(text: &'a str) -> Self {
        let mut parts = text.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let parameters: Vec<_> = parts.collect();
        let weight = parameters.iter().find_map(|parameter| parameter.strip_prefix("q=")?.parse().ok());
        Self { name, parameters, weight: weight.unwrap_or(1.0) }
    }

    fn can_be_had(&self, include: Include) -> Option<Accept> {
        if !matches!(self.name, "application/json" | "application/*" | "*/*") || self.weight <= 0.0 {
            return None;
        }
        let is = |wanted: &str| self.parameters.contains(&wanted);
        let of_meta = is("v=v1") && is("g=meta.k8s.io");
        let form = match self.parameters.iter().find_map(|parameter| parameter.strip_prefix("as=")) {
            None => Form::Full,
            Some("Table") if of_meta => Form::Table(include),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") if of_meta => Form::Partial,
            Some("APIGroupDiscoveryList") if is("v=v2") && is("g=apidiscovery.k8s.io") => {
                return Some(Accept { form: Form::Full, aggregated: true });
            }
            Some(_) => return None,
        };
        Some(Accept { form, aggregated: false })
    }
}

/// What a handler found.
pub(crate) enum Answer {
    /// An object, encoded.
    Object { code: StatusCode, kind_of: Option<KindRef>, encoded: Bytes, warnings: Vec<String> },
    /// Some objects of a kind, encoded, as of one revision.
    List { kind_of: KindRef, revision: Revision, items: Vec<Bytes>, next: Option<Next> },
    /// Encoded events, one a frame.
    Watch(futures::stream::BoxStream<'static, Bytes>),
    /// A `Scale`.
    Scale(Value),
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

    /// The kind itself.
    pub(crate) fn find<'a>(&self, inner: &'a Inner) -> &'a Kind {
        inner.registry.find(self.group, self.version, self.plural).expect("references are to registered kinds")
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

pub(crate) fn render(inner: &Inner, accept: Accept, answer: Answer) -> Response<Body> {
    match answer {
        Answer::Raw(response) => response,
        Answer::Json(value) => json_response(StatusCode::OK, value.to_string().into()),
        Answer::Scale(scale) => {
            let encoded = Bytes::from(scale.to_string());
            let encoded = match accept.form {
                Form::Full => encoded,
                Form::Table(include) => scale_table(&encoded, include, inner.clock.now()),
                Form::Partial => partial(&encoded),
            };
            json_response(StatusCode::OK, encoded)
        }
        Answer::Watch(events) => stream(events),
        Answer::Object { code, kind_of, encoded, warnings } => {
            let encoded = match kind_of {
                Some(kind) => transform(inner, kind.find(inner), accept.form, &encoded, Headings::Told),
                None => encoded,
            };
            let mut response = json_response(code, encoded);
            for value in warning_headers(&warnings) {
                response.headers_mut().append(header::WARNING, value);
            }
            response
        }
        Answer::List { kind_of, revision, items, next } => {
            let mut meta = json!({ "resourceVersion": revision.0.to_string() });
            if let Some(next) = next {
                meta["continue"] = next.token.into();
                meta["remainingItemCount"] = next.remaining.into();
            }
            let kind = kind_of.find(inner);
            let body = match accept.form {
                Form::Full => list(&kind.api_version(), &format!("{}List", kind.kind), &meta, &items),
                Form::Table(include) => table(kind, &meta, &items, (include, Headings::Told), inner.clock.now()),
                Form::Partial => {
                    let items: Vec<_> = items.iter().map(|item| partial(item)).collect();
                    list("meta.k8s.io/v1", "PartialObjectMetadataList", &meta, &items)
                }
            };
            json_response(StatusCode::OK, body)
        }
    }
}

/// Warnings as headers, within what Kubernetes allows them: clients refuse an answer whose headers are too long.
fn warning_headers(warnings: &[String]) -> impl Iterator<Item = HeaderValue> {
    let mut left = WARNINGS_CHARS_MAX;
    warnings.iter().map_while(move |warning| {
        let warning: String = warning.chars().take(WARNING_CHARS_MAX).collect();
        left = left.checked_sub(warning.chars().count())?;
        HeaderValue::try_from(format!("299 - {}", Value::from(warning))).ok()
    })
}

/// One object in the form asked for.
pub(crate) fn transform(inner: &Inner, kind: &Kind, form: Form, encoded: &Bytes, headings: Headings) -> Bytes {
    match form {
        Form::Full => encoded.clone(),
        Form::Partial => partial(encoded),
        Form::Table(include) => {
            let object: Value = serde_json::from_slice(encoded).unwrap_or_default();
            let meta = json!({ "resourceVersion": object["metadata"]["resourceVersion"] });
            table(kind, &meta, std::slice::from_ref(encoded), (include, headings), inner.clock.now())
        }
    }
}

fn list(api_version: &str, kind: &str, meta: &Value, items: &[Bytes]) -> Bytes {
    let head = format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{meta},\"items\":[");
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

/// The answer to a request for the head alone. Over HTTP/2, nobody else takes the body away.
pub(crate) fn without_body(response: Response<Body>) -> Response<Body> {
    let length = response.body().size_hint().exact();
    let mut response = response.map(|_| Body::default());
    response.headers_mut().extend(length.map(|length| (header::CONTENT_LENGTH, HeaderValue::from(length))));
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

#[cfg(test)]
mod tests {
    use http::Request;
    use proptest::prelude::*;

    use super::*;

    fn accepted(header: &str) -> Option<Accept> {
        let request = Request::builder().uri("/api/v1/pods?includeObject=Object").header(header::ACCEPT, header);
        accepts(&request.body(()).expect("a request").into_parts().0).ok()
    }

    /// SEMANTICS 65.
    #[test]
    fn accept_decides_the_form_and_json_stands_in_for_what_cannot_be_had() {
        let form = |header: &str| accepted(header).map(|accept| accept.form);
        let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
        for (header, expected) in [
            ("application/json", Some(Form::Full)),
            ("*/*", Some(Form::Full)),
            ("application/vnd.kubernetes.protobuf,application/json", Some(Form::Full)),
            ("application/vnd.kubernetes.protobuf", None),
            ("text/html", None),
            (table, Some(Form::Table(Include::Object))),
            (
                &format!("{table},application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json"),
                Some(Form::Table(Include::Object)),
            ),
            ("application/json;as=Table;v=v9;g=meta.k8s.io", None),
            ("application/json;as=Table;v=v9;g=meta.k8s.io, application/json", Some(Form::Full)),
            ("application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1", Some(Form::Partial)),
            (&format!("application/json;q=0.5,{table}"), Some(Form::Table(Include::Object))),
            ("application/json;q=0", None),
        ] {
            assert_eq!(form(header), expected, "{header}");
        }
        let aggregated = accepted("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
        assert!(aggregated.is_some_and(|accept| accept.aggregated));
    }

    proptest! {
        #[test]
        fn no_accept_header_panics(header in "[ -~]*") {
            accepted(&header);
        }
    }
}
