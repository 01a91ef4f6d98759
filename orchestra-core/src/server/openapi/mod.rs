//! What the server serves, described for clients: `/openapi/v3` and `/openapi/v2`.
//!
//! A document is a pure function of the kinds served. It is written when it is asked for, and not kept: the one of
//! `/openapi/v3/api/v1` is half a megabyte, and clients keep it by its hash.

mod definitions;
pub mod merge_keys;
mod paths;
mod serve;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Write as _;

use bytes::Bytes;
use ring::digest;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::api::validation::metadata::Scope;

pub(super) use serve::{PATHS, serve};

/// A kind that is served, as far as its description goes.
#[derive(Clone, Debug)]
pub struct Served {
    /// The API group; empty for the core.
    pub group: &'static str,
    /// The version, such as `v1`.
    pub version: &'static str,
    /// The kind, such as `Pod`.
    pub kind: &'static str,
    /// The name in paths, such as `pods`.
    pub resource: &'static str,
    /// Whether objects live in namespaces.
    pub scope: Scope,
    /// The names of the subresources that are read and written like the object, such as `status`.
    pub subresources: &'static [&'static str],
    /// What can be done with objects, as RBAC names it.
    pub verbs: &'static [&'static str],
    /// The kind's type.
    pub definition: Definition,
}

/// The description of a type, which is written when it is needed.
#[derive(Clone, Copy, Debug)]
pub struct Definition {
    /// Adds the type to a generator, and with it all that it consists of.
    define: fn(&mut SchemaGenerator),
    name: fn() -> Cow<'static, str>,
}

impl Definition {
    /// The description of a type of `k8s_openapi`.
    pub fn of<T: JsonSchema>() -> Self {
        let define: fn(&mut SchemaGenerator) = |generator| {
            generator.subschema_for::<T>();
        };
        Self { define, name: T::schema_name }
    }

    /// The name of the type's definition, such as `io.k8s.api.core.v1.Pod`.
    fn name(self) -> Cow<'static, str> {
        (self.name)()
    }
}

impl Served {
    /// The path of the group and version below `/` and `/openapi/v3/`: `api/v1`, `apis/apps/v1`.
    pub fn group_version_path(&self) -> String {
        match self.group {
            "" => format!("api/{}", self.version),
            group => format!("apis/{group}/{}", self.version),
        }
    }

    fn group_version_kind(&self) -> Value {
        json!({"group": self.group, "kind": self.kind, "version": self.version})
    }
}

/// A document, and the hash by which clients keep it.
#[derive(Clone, Debug)]
pub struct Document {
    /// The document as JSON.
    pub body: Bytes,
    /// A quoted hash, as the `ETag` header has it.
    pub etag: String,
}

/// Which of the two forms of description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    V2,
    V3,
}

/// The index of `/openapi/v3`: for each group and version where its document is, by its hash.
pub fn index(served: &[Served]) -> Document {
    let groups: BTreeSet<String> = served.iter().map(Served::group_version_path).collect();
    let paths: Map<String, Value> = groups
        .into_iter()
        .map(|path| {
            let hash = hash(&of_group(served, &path));
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path, json!({"serverRelativeURL": url}))
        })
        .collect();
    document(&json!({"paths": paths}), &hash(&served.iter().collect::<Vec<_>>()))
}

/// The document of one group and version, such as `apis/apps/v1`; none if nothing of it is served.
///
/// Costs some milliseconds and megabytes for the largest group.
pub fn v3(served: &[Served], group_version_path: &str) -> Option<Document> {
    let served = of_group(served, group_version_path);
    if served.is_empty() {
        return None;
    }
    let body = json!({
        "openapi": "3.0.0",
        "info": info(),
        "paths": paths::paths(&served, Form::V3),
        "components": {"schemas": definitions::definitions(&served, Form::V3)},
    });
    Some(document(&body, &hash(&served)))
}

/// The hash in the [`index`] of one group and version, so that a request for it can be answered from the client's own
/// copy.
pub fn v3_hash(served: &[Served], group_version_path: &str) -> String {
    hash(&of_group(served, group_version_path))
}

/// The document of all kinds in the older form, of `/openapi/v2`.
///
/// Costs tens of milliseconds and some megabytes.
pub fn v2(served: &[Served]) -> Document {
    let served: Vec<&Served> = served.iter().collect();
    let body = json!({
        "swagger": "2.0",
        "info": info(),
        "paths": paths::paths(&served, Form::V2),
        "definitions": definitions::definitions(&served, Form::V2),
    });
    document(&body, &hash(&served))
}

fn of_group<'a>(served: &'a [Served], path: &str) -> Vec<&'a Served> {
    served.iter().filter(|one| one.group_version_path() == path).collect()
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": concat!("orchestra-", env!("CARGO_PKG_VERSION"))})
}

fn document(body: &Value, hash: &str) -> Document {
    Document { body: Bytes::from(body.to_string()), etag: format!("\"{hash}\"") }
}

/// A hash of what decides a document: the kinds, and the version of this crate.
fn hash(served: &[&Served]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(env!("CARGO_PKG_VERSION").as_bytes());
    for one in served {
        let line = format!(
            "{}/{}/{}/{:?}{:?}{:?}\n",
            one.group, one.version, one.resource, one.scope, one.subresources, one.verbs
        );
        context.update(line.as_bytes());
    }
    context.finish().as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02X}").expect("writing to a string never fails");
        text
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use k8s_openapi::api::core::v1::{Namespace, Pod};

    use super::*;

    fn served() -> Vec<Served> {
        vec![
            one::<Namespace>("namespaces", Scope::Cluster),
            one::<Pod>("pods", Scope::Namespaced),
            one::<Deployment>("deployments", Scope::Namespaced),
        ]
    }

    fn one<K: k8s_openapi::Resource + JsonSchema>(resource: &'static str, scope: Scope) -> Served {
        Served {
            group: K::GROUP,
            version: K::VERSION,
            kind: K::KIND,
            resource,
            scope,
            subresources: &["status"],
            verbs: &["create", "get", "list"],
            definition: Definition::of::<K>(),
        }
    }

    fn read(document: &Document) -> Value {
        serde_json::from_slice(&document.body).unwrap()
    }

    #[test]
    fn the_index_leads_to_each_group() {
        let index = read(&index(&served()));
        for path in ["api/v1", "apis/apps/v1"] {
            let url = index["paths"][path]["serverRelativeURL"].as_str().unwrap();
            assert_eq!(url, format!("/openapi/v3/{path}?hash={}", v3_hash(&served(), path)));
            assert!(v3(&served(), path).is_some());
        }
        assert!(v3(&served(), "apis/none/v1").is_none());
    }

    #[test]
    fn kubectl_finds_what_it_asks_the_document_for() {
        let apps = read(&v3(&served(), "apis/apps/v1").unwrap());
        let patch = &apps["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(
            patch["x-kubernetes-group-version-kind"],
            json!({"group": "apps", "kind": "Deployment", "version": "v1"})
        );
        let parameters: Vec<&str> =
            patch["parameters"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
        assert!(parameters.contains(&"fieldValidation") && parameters.contains(&"dryRun"), "{parameters:?}");
        let schemas = &apps["components"]["schemas"];
        let containers = &schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        let spec = &schemas["io.k8s.api.apps.v1.Deployment"]["properties"]["spec"];
        assert_eq!(spec["allOf"][0]["$ref"], "#/components/schemas/io.k8s.api.apps.v1.DeploymentSpec");
        assert!(spec["description"].is_string());
    }

    #[test]
    fn no_reference_leads_nowhere() {
        for (document, prefix, at) in [
            (v3(&served(), "apis/apps/v1").unwrap(), "#/components/schemas/", "/components/schemas"),
            (v2(&served()), "#/definitions/", "/definitions"),
        ] {
            let document = read(&document);
            let definitions = document.pointer(at).and_then(Value::as_object).unwrap();
            let mut references = Vec::new();
            collect_references(&document, &mut references);
            assert!(!references.is_empty());
            for reference in references {
                let name = reference.strip_prefix(prefix).unwrap();
                assert!(definitions.contains_key(name), "{name}");
            }
        }
    }

    fn collect_references(value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(map) => {
                into.extend(map.get("$ref").and_then(Value::as_str).map(str::to_owned));
                map.values().for_each(|value| collect_references(value, into));
            }
            Value::Array(list) => list.iter().for_each(|value| collect_references(value, into)),
            _ => {}
        }
    }
}
