//! What is served: discovery, version, health.

use std::collections::BTreeMap;

use http::{Method, StatusCode, request::Parts};
use serde_json::{Value, json};

use crate::server::{
    Inner, UserInfo,
    error::{Failure, Result},
    health, openapi,
    registry::Kind,
    respond::{Answer, accepts, whole},
    route::Query,
};

/// The Kubernetes version whose API types are served.
const MAJOR: &str = "1";
const MINOR: &str = "37";

impl Inner {
    /// Answers what is no resource of the API. Health and version are for anyone.
    pub(super) async fn path(&self, parts: &Parts, user: Option<&UserInfo>, segments: &[String]) -> Result<Answer> {
        let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
        if parts.method != Method::GET && parts.method != Method::HEAD {
            return Err(match user {
                None => Failure::unauthorized(),
                Some(_) if self.is_served(&segments) => Failure::method_not_allowed(),
                Some(_) => Failure::no_such_path(),
            });
        }
        match segments.as_slice() {
            [endpoint, check @ ..] if health::is_endpoint(endpoint) => {
                let query = Query::parse(parts.uri.query().unwrap_or_default());
                return self.health(endpoint, check, &query).await.map(Answer::Raw);
            }
            ["version"] => return Ok(Answer::Json(version())),
            _ => {}
        }
        let user = user.ok_or_else(Failure::unauthorized)?;
        // What has no name is nowhere.
        if segments.contains(&"") {
            return Err(Failure::no_such_path());
        }
        if segments == ["metrics"] {
            return self.metrics(user).map(Answer::Raw);
        }
        let discovers = matches!(segments.as_slice(), ["api" | "apis", ..]);
        let aggregated = discovers && accepts(parts)?.aggregated;
        match segments.as_slice() {
            [] => Ok(Answer::Json(self.index())),
            ["api"] if aggregated => Ok(Answer::Raw(aggregated_response(&self.aggregated(true)))),
            ["apis"] if aggregated => Ok(Answer::Raw(aggregated_response(&self.aggregated(false)))),
            ["api"] => {
                Ok(Answer::Json(json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })))
            }
            ["apis"] => Ok(Answer::Json(json!({ "kind": "APIGroupList", "apiVersion": "v1",
                "groups": self.groups().into_iter().filter(|(name, _)| !name.is_empty())
                    .map(|(name, versions)| group(name, &versions)).collect::<Vec<_>>() }))),
            ["apis", name] => {
                let versions = self.groups().remove(name).ok_or_else(Failure::no_such_path)?;
                let mut group = group(name, &versions);
                group["kind"] = "APIGroup".into();
                group["apiVersion"] = "v1".into();
                Ok(Answer::Json(group))
            }
            ["openapi", "v2"] if asks_for_protobuf(&parts.headers) => Ok(Answer::Raw(empty_protobuf_document())),
            ["openapi", path @ ..] => {
                let served: Vec<_> = self.registry.iter().map(Kind::served).collect();
                let answer = openapi::serve(&served, path, &parts.headers).ok_or_else(Failure::no_such_path)?;
                Ok(Answer::Raw(answer.map(whole)))
            }
            ["api", version] => self.resources("", version),
            ["apis", group, version] => self.resources(group, version),
            _ => Err(Failure::no_such_path()),
        }
    }

    /// Each group with its versions.
    fn groups(&self) -> BTreeMap<&'static str, Vec<&'static str>> {
        let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for kind in self.registry.iter() {
            let versions = groups.entry(kind.group).or_default();
            if !versions.contains(&kind.version) {
                versions.push(kind.version);
            }
        }
        groups
    }

    fn resources(&self, group: &str, version: &str) -> Result<Answer> {
        let kinds: Vec<_> =
            self.registry.iter().filter(|kind| kind.group == group && kind.version == version).collect();
        if kinds.is_empty() {
            return Err(Failure::no_such_path());
        }
        let mut resources = Vec::new();
        for kind in kinds {
            resources.push(json!({
                "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
                "verbs": kind.verbs(), "shortNames": kind.short_names, "categories": kind.categories,
            }));
            for subresource in kind.subresources {
                let Shape { group, version, kind: shape, verbs } = shape(kind, subresource);
                resources.push(json!({
                    "name": format!("{}/{subresource}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
                    "group": group, "version": version, "kind": shape, "verbs": verbs,
                }));
            }
        }
        let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
        Ok(Answer::Json(json!({ "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version,
            "resources": resources })))
    }

    /// Aggregated discovery (KEP-3352): the core group, or all others, in one document.
    fn aggregated(&self, core: bool) -> Value {
        let groups = self.groups().into_iter().filter(|(name, _)| name.is_empty() == core);
        let items: Vec<_> = groups
            .map(|(group, versions)| {
                let versions = versions.into_iter().map(|version| {
                    let kinds = self.registry.iter().filter(|kind| kind.group == group && kind.version == version);
                    json!({ "version": version, "freshness": "Current",
                        "resources": kinds.map(aggregated_resource).collect::<Vec<_>>() })
                });
                let versions: Vec<_> = versions.collect();
                let meta = if group.is_empty() { json!({}) } else { json!({ "name": group }) };
                json!({ "metadata": meta, "versions": versions })
            })
            .collect();
        json!({ "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items })
    }
}

/// What a subresource takes and gives.
struct Shape {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    verbs: &'static [&'static str],
}

fn shape(kind: &Kind, subresource: &str) -> Shape {
    let shape = |group, version, kind, verbs| Shape { group, version, kind, verbs };
    match subresource {
        "scale" => shape("autoscaling", "v1", "Scale", &["get", "patch", "update"]),
        "binding" => shape("", "v1", "Binding", &["create"]),
        "eviction" => shape("policy", "v1", "Eviction", &["create"]),
        "log" => shape("", "v1", "Pod", &["get"]),
        "exec" => shape("", "v1", "PodExecOptions", &["create", "get"]),
        "attach" => shape("", "v1", "PodAttachOptions", &["create", "get"]),
        "portforward" => shape("", "v1", "PodPortForwardOptions", &["create", "get"]),
        "token" => shape("authentication.k8s.io", "v1", "TokenRequest", &["create"]),
        "finalize" => shape(kind.group, kind.version, kind.kind, &["update"]),
        _ => shape(kind.group, kind.version, kind.kind, &["get", "patch", "update"]),
    }
}

fn aggregated_resource(kind: &Kind) -> Value {
    let scope = if kind.namespaced { "Namespaced" } else { "Cluster" };
    let subresources = kind.subresources.iter().map(|subresource| {
        let Shape { group, version, kind: shape, verbs } = shape(kind, subresource);
        json!({ "subresource": subresource, "verbs": verbs,
            "responseKind": { "group": group, "version": version, "kind": shape } })
    });
    json!({
        "resource": kind.plural, "singularResource": kind.singular, "scope": scope, "verbs": kind.verbs(),
        "responseKind": { "group": kind.group, "version": kind.version, "kind": kind.kind },
        "shortNames": kind.short_names, "categories": kind.categories,
        "subresources": subresources.collect::<Vec<_>>(),
    })
}

/// The only form in which `kubectl` 1.32 takes version 2 of the document, to which it turns for kinds that version 3 lacks.
const PROTOBUF_V2_ACCEPT: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// Its name in answers, as Kubernetes has it: `@` is no character of a media type, and clients written in Go refuse it.
const PROTOBUF_V2: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

fn asks_for_protobuf(headers: &http::HeaderMap) -> bool {
    let accept = headers.get(http::header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    (accept.contains(PROTOBUF_V2_ACCEPT) || accept.contains(PROTOBUF_V2)) && !accept.contains("application/json")
}

/// A document that knows no kind: field 1, `swagger`, and nothing else. What version 3 lacks, version 2 would lack too.
fn empty_protobuf_document() -> http::Response<crate::server::Body> {
    let mut response = crate::server::respond::json_response(StatusCode::OK, b"\x0a\x032.0".as_slice().into());
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(PROTOBUF_V2));
    response
}

fn aggregated_response(document: &Value) -> http::Response<crate::server::Body> {
    let mut response = crate::server::respond::json_response(StatusCode::OK, document.to_string().into());
    let media = http::HeaderValue::from_static("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    response.headers_mut().insert(http::header::CONTENT_TYPE, media);
    response
}

fn group(name: &str, versions: &[&str]) -> Value {
    let versions: Vec<_> = versions
        .iter()
        .map(|version| json!({ "groupVersion": format!("{name}/{version}"), "version": version }))
        .collect();
    json!({ "name": name, "versions": versions, "preferredVersion": versions.first() })
}

fn version() -> Value {
    json!({
        "major": MAJOR, "minor": MINOR, "gitVersion": format!("v{MAJOR}.{MINOR}.0+orchestra-{}", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "rust",
        "compiler": "rustc", "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}
