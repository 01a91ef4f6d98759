//! The paths under which the kinds are served, and what can be done there.

use serde_json::{Map, Value, json};

use super::{Form, Served};
use crate::api::validation::metadata::Scope;

/// The paths of the kinds, each with its operations.
pub(super) fn paths(served: &[&Served], form: Form) -> Map<String, Value> {
    let mut paths = Map::new();
    for one in served {
        let base = format!("/{}", one.group_version_path());
        let namespaced = one.scope == Scope::Namespaced;
        let collection = match namespaced {
            true => format!("{base}/namespaces/{{namespace}}/{}", one.resource),
            false => format!("{base}/{}", one.resource),
        };
        let writer = Writer { served: one, form };
        if !one.verbs.contains(&"list") {
            let post = writer.operation("post", &["dryRun", "fieldManager", "fieldValidation"]);
            let common = writer.path_parameters(&["namespace"][..usize::from(namespaced)]);
            paths.insert(collection, json!({ "parameters": common, "post": post }));
            continue;
        }
        if namespaced {
            let everywhere = json!({"get": writer.operation("list", &[])});
            paths.insert(format!("{base}/{}", one.resource), everywhere);
        }
        let common = writer.path_parameters(&["namespace"][..usize::from(namespaced)]);
        let mut all = json!({
            "parameters": common,
            "get": writer.operation("list", &["continue", "fieldSelector", "labelSelector", "limit", "watch"]),
            "post": writer.operation("post", &["dryRun", "fieldManager", "fieldValidation"]),
        });
        if one.verbs.contains(&"deletecollection") {
            all["delete"] = writer.operation("deletecollection", &["dryRun", "fieldSelector", "labelSelector"]);
        }
        paths.insert(collection.clone(), all);
        let names: &[&str] = if namespaced { &["name", "namespace"] } else { &["name"] };
        let common = writer.path_parameters(names);
        let mut object = writer.object(&common);
        for subresource in one.subresources {
            paths.insert(format!("{collection}/{{name}}/{subresource}"), object.clone());
        }
        object["delete"] = writer.operation("delete", &["dryRun", "gracePeriodSeconds", "propagationPolicy"]);
        paths.insert(format!("{collection}/{{name}}"), object);
    }
    paths
}

struct Writer<'a> {
    served: &'a Served,
    form: Form,
}

impl Writer<'_> {
    fn object(&self, common: &Value) -> Value {
        json!({
            "parameters": common,
            "get": self.operation("get", &[]),
            "put": self.operation("put", &["dryRun", "fieldManager", "fieldValidation"]),
            "patch": self.operation("patch", &["dryRun", "fieldManager", "fieldValidation", "force"]),
        })
    }

    fn operation(&self, action: &str, query: &[&str]) -> Value {
        let parameters: Vec<Value> = query.iter().map(|name| self.parameter(name, "query")).collect();
        let mut operation = json!({
            "parameters": parameters,
            "responses": {"200": {"description": "OK"}, "401": {"description": "Unauthorized"}},
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": self.served.group_version_kind(),
        });
        let body = matches!(action, "post" | "put");
        let definition = self.served.definition.name();
        match self.form {
            Form::V3 if body => {
                let schema = json!({"$ref": format!("#/components/schemas/{definition}")});
                operation["requestBody"] = json!({"required": true, "content": {"*/*": {"schema": schema}}});
            }
            Form::V2 if body => {
                let schema = json!({"$ref": format!("#/definitions/{definition}")});
                let body = json!({"name": "body", "in": "body", "required": true, "schema": schema});
                if let Some(parameters) = operation["parameters"].as_array_mut() {
                    parameters.push(body);
                }
            }
            _ => {}
        }
        operation
    }

    fn path_parameters(&self, names: &[&str]) -> Value {
        names.iter().map(|name| self.parameter(name, "path")).collect()
    }

    fn parameter(&self, name: &str, place: &str) -> Value {
        let value_type = match name {
            "force" | "watch" => "boolean",
            "gracePeriodSeconds" | "limit" => "integer",
            _ => "string",
        };
        let mut parameter = json!({"name": name, "in": place, "description": description(name)});
        if place == "path" {
            parameter["required"] = true.into();
        } else {
            parameter["uniqueItems"] = true.into();
        }
        match self.form {
            Form::V2 => parameter["type"] = value_type.into(),
            Form::V3 => {
                if let Some(parameter) = parameter.as_object_mut() {
                    parameter.remove("uniqueItems");
                }
                parameter["schema"] = json!({"type": value_type, "uniqueItems": true});
            }
        }
        parameter
    }
}

fn description(parameter: &str) -> &'static str {
    match parameter {
        "continue" => "Where a list that was cut off goes on.",
        "dryRun" => "`All`: do everything but store.",
        "fieldManager" => "Who makes this change.",
        "fieldSelector" => "Select objects by their fields.",
        "fieldValidation" => "What to do about unknown and duplicate fields: `Ignore`, `Warn` or `Strict`.",
        "force" => "Take over the fields of other managers on apply.",
        "gracePeriodSeconds" => "How long the object has to end by itself.",
        "labelSelector" => "Select objects by their labels.",
        "limit" => "The most objects to list at once.",
        "name" => "name of the object",
        "namespace" => "object name and auth scope, such as for teams and projects",
        "propagationPolicy" => "What becomes of the objects that this one owns.",
        "watch" => "Stream changes instead of a list.",
        _ => "",
    }
}
