//! Requests below `/openapi`.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};

use super::{Document, Served};

/// Where the documents are, or, of version 3, the list of them.
pub(in crate::server) const PATHS: [&str; 2] = ["/openapi/v2", "/openapi/v3"];

/// Answers a request for `/openapi/…`, given what follows; none if nothing is there.
///
/// A client that still has the document gets a 304, for which nothing is written.
pub(in crate::server) fn serve(served: &[Served], path: &[&str], headers: &HeaderMap) -> Option<Response<Bytes>> {
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    match path {
        ["v2"] => Some(respond(&super::v2(served), known)),
        ["v3"] => Some(respond(&super::index(served), known)),
        ["v3", group_version @ ..] => {
            let group_version = group_version.join("/");
            let etag = format!("\"{}\"", super::v3_hash(served, &group_version));
            if known == Some(etag.as_str()) {
                return Some(respond(&Document { body: Bytes::new(), etag }, known));
            }
            super::v3(served, &group_version).map(|document| respond(&document, known))
        }
        _ => None,
    }
}

fn respond(document: &Document, known: Option<&str>) -> Response<Bytes> {
    let unchanged = known == Some(document.etag.as_str());
    let mut response = Response::new(if unchanged { Bytes::new() } else { document.body.clone() });
    if unchanged {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::VARY, HeaderValue::from_static("Accept"));
    let etag = HeaderValue::try_from(&document.etag).expect("a hash is a header's value");
    headers.insert(header::ETAG, etag);
    response
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Namespace;

    use super::*;
    use crate::api::validation::metadata::Scope;
    use crate::server::openapi::Definition;

    #[test]
    fn a_client_that_has_the_document_gets_none() {
        let served = [Served {
            group: "",
            version: "v1",
            kind: "Namespace",
            resource: "namespaces",
            scope: Scope::Cluster,
            subresources: &[],
            verbs: &["create", "get", "list"],
            definition: Definition::of::<Namespace>(),
        }];
        for path in [&["v2"][..], &["v3"], &["v3", "api", "v1"]] {
            let first = serve(&served, path, &HeaderMap::new()).unwrap();
            assert_eq!(first.status(), StatusCode::OK);
            let mut headers = HeaderMap::new();
            headers.insert(header::IF_NONE_MATCH, first.headers()[header::ETAG].clone());
            let second = serve(&served, path, &headers).unwrap();
            assert_eq!((second.status(), second.body().len()), (StatusCode::NOT_MODIFIED, 0));
        }
        assert!(serve(&served, &["v3", "apis", "none"], &HeaderMap::new()).is_none());
    }
}
