//! Subresources: status, scale, binding, eviction, finalize, token, and what goes to the node.

use http::{Method, StatusCode};
use k8s_openapi::{
    api::{authentication::v1::TokenRequest, autoscaling::v1::Scale, core::v1::Binding},
    apimachinery::pkg::apis::meta::v1::LabelSelector as LabelSelectorFields,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{
    api::selector::LabelSelector,
    server::{
        Call, Inner,
        error::{Failure, Result},
        object::{self, Object, is_terminating, meta, meta_mut},
        patch,
        registry::Kind,
        respond::{Answer, json_response},
        route::Target,
        write::{Part, check_seen, check_uid, now_text},
    },
};

impl Inner {
    pub(super) async fn subresource(
        &self,
        kind: &Kind,
        target: &Target,
        subresource: &str,
        call: Call,
    ) -> Result<Answer> {
        if !kind.has(subresource) {
            return Err(Failure::no_such_path());
        }
        match (subresource, &call.parts.method) {
            ("status", &Method::GET) => self.get(kind, target, &call.query).await,
            ("status", &Method::PUT) => self.update(kind, target, call, Part::Status).await,
            ("status", &Method::PATCH) => self.patch(kind, target, call, Part::Status).await,
            ("scale", &Method::GET) => self.scale(kind, target).await,
            ("scale", &Method::PUT | &Method::PATCH) => self.set_scale(kind, target, call).await,
            ("finalize", &Method::PUT) => self.finalize(kind, target, call).await,
            ("binding", &Method::POST) => self.bind(kind, target, call).await,
            ("eviction", &Method::POST) => self.evict(kind, target, call).await,
            ("token", &Method::POST) => self.token(kind, target, call).await,
            ("log", &Method::GET) => self.proxy(kind, target, "containerLogs", call).await,
            ("exec", &Method::GET | &Method::POST) => self.proxy(kind, target, subresource, call).await,
            ("attach", &Method::GET | &Method::POST) => {
                Err(Failure::not_implemented("this server does not attach to containers; use logs or exec"))
            }
            ("portforward", &Method::GET | &Method::POST) => Err(Failure::not_implemented(
                "this server does not forward ports; use the address of the pod or a Service",
            )),
            _ => Err(Failure::method_not_allowed()),
        }
    }

    pub(super) async fn current(&self, kind: &Kind, target: &Target) -> Result<Object> {
        let name = target.name.as_deref().unwrap_or_default();
        let key = object::key(kind, target.namespace.as_deref().unwrap_or_default(), name)?;
        let entry = self.store.get(&key).await?.ok_or_else(|| Failure::not_found(kind, name))?;
        object::decode(&entry.value, entry.modified)
    }

    async fn scale(&self, kind: &Kind, target: &Target) -> Result<Answer> {
        Ok(Answer::Scale(scale_of(&self.current(kind, target).await?)))
    }

    async fn set_scale(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let body = call.body().await?;
        let patching = call.parts.method == Method::PATCH;
        let terms = call.terms()?;
        let name = target.name.clone().unwrap_or_default();
        let patch = if patching { Some(patch::parse(&call.content_type(), &body)?.0) } else { None };
        let change = |old: &Object| {
            let scale: Scale = match &patch {
                Some(patch) => decode(patch.apply(kind, scale_of(old))?.to_string().as_bytes())?,
                None => decode(&body)?,
            };
            if scale.metadata.name.as_ref().is_some_and(|given| !given.is_empty() && *given != name) {
                let given = scale.metadata.name.unwrap_or_default();
                let message = format!("the name of the object ({given}) does not match the name on the URL ({name})");
                return Err(Failure::bad_request(message));
            }
            check_uid(kind, old, scale.metadata.uid.as_deref().unwrap_or_default())?;
            let seen = scale.metadata.resource_version.as_deref().unwrap_or_default();
            check_seen(kind, &name, seen, old)?;
            let replicas = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
            let mut new = old.clone();
            field_of(&mut new, "spec").insert("replicas".into(), replicas.into());
            Ok(new)
        };
        let written = self.modify(kind, target, Part::Spec, &terms, false, change).await?;
        Ok(Answer::Scale(scale_of(&written)))
    }

    /// Replaces a namespace's own finalizers; without any, and with nothing else to wait for, it is gone.
    async fn finalize(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let body = call.body().await?;
        let (given, _) = self.read_body(kind, &call, &body)?;
        let terms = call.terms()?;
        let name = target.name.clone().unwrap_or_default();
        let held = given.get("spec").and_then(|spec| spec.get("finalizers")).cloned().unwrap_or_else(|| json!([]));
        let change = |old: &Object| {
            check_uid(kind, old, meta(&given, "uid"))?;
            check_seen(kind, &name, meta(&given, "resourceVersion"), old)?;
            let mut new = old.clone();
            field_of(&mut new, "spec").insert("finalizers".into(), held.clone());
            Ok(new)
        };
        let written = self.modify(kind, target, Part::Finalize, &terms, false, change).await?;
        Ok(Answer::object(kind, &written))
    }

    /// Binds a pod to a node, once (SEMANTICS 49).
    async fn bind(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let body = call.body().await?;
        let binding: Binding = decode(&body)?;
        let node = binding.target.name.clone().unwrap_or_default();
        let name = target.name.clone().unwrap_or_default();
        if binding.metadata.name.as_deref().is_some_and(|given| !given.is_empty() && given != name) {
            return Err(Failure::bad_request("name in URL does not match name in Binding object"));
        }
        if node.is_empty() {
            return Err(Failure::unprocessable("Binding \"\" is invalid: target.name: Required value"));
        }
        if !matches!(binding.target.kind.as_deref(), None | Some("" | "Node")) {
            let message =
                "Binding \"\" is invalid: target.kind: Unsupported value: supported values: \"Node\", \"<empty>\"";
            return Err(Failure::unprocessable(message));
        }
        let now = now_text(self.clock.now());
        let terms = call.terms()?;
        let wanted_uid = binding.metadata.uid.unwrap_or_default();
        self.modify(kind, target, Part::Binding, &terms, false, |old| {
            let refuse = |why: String| Err(Failure::conflict(kind, &name, &why));
            check_uid(kind, old, &wanted_uid)?;
            if is_terminating(old) {
                return refuse(format!("pod {name} is being deleted, cannot be assigned to a host"));
            }
            let spec = old.get("spec").cloned().unwrap_or_default();
            if let Some(bound) = spec["nodeName"].as_str().filter(|bound| !bound.is_empty()) {
                return refuse(format!("pod {name} is already assigned to node \"{bound}\""));
            }
            if spec["schedulingGates"].as_array().is_some_and(|gates| !gates.is_empty()) {
                return refuse(format!("pod {name} has non-empty .spec.schedulingGates"));
            }
            let mut new = bound(old, &node, &now);
            for (key, value) in binding.metadata.annotations.iter().flatten() {
                let annotations = meta_mut(&mut new).entry("annotations").or_insert_with(|| json!({}));
                annotations[key] = value.as_str().into();
            }
            Ok(new)
        })
        .await?;
        Ok(created_status())
    }

    async fn token(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let body = call.body().await?;
        let request: TokenRequest = decode(&body)?;
        let account = self.current(kind, target).await?;
        let _ = (request, account);
        Err(Failure::unavailable("service account tokens are not issued by this server"))
    }
}

/// The answer to what creates nothing to show.
pub(super) fn created_status() -> Answer {
    let status = json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 });
    Answer::Raw(json_response(StatusCode::CREATED, status.to_string().into()))
}

pub(super) fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("the body of the request is malformed: {error}")))
}

/// A field that is an object, made if it is absent or no object.
pub(super) fn field_of<'a>(object: &'a mut Object, name: &str) -> &'a mut Object {
    let field = object.entry(name).or_insert_with(|| json!({}));
    if !field.is_object() {
        *field = json!({});
    }
    field.as_object_mut().expect("just made one")
}

fn scale_of(object: &Object) -> Value {
    let selector = &object["spec"]["selector"];
    let selector = if selector.get("matchLabels").is_some() || selector.get("matchExpressions").is_some() {
        let selector = serde_json::from_value::<LabelSelectorFields>(selector.clone()).ok();
        selector.and_then(|selector| LabelSelector::try_from(&selector).ok()).unwrap_or_default().to_string()
    } else {
        // A replication controller's is a map.
        let labels = selector.as_object().into_iter().flatten();
        labels.filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect::<Vec<_>>().join(",")
    };
    let status = object.get("status").and_then(|status| status.get("replicas")).and_then(Value::as_i64).unwrap_or(0);
    let source = &object["metadata"];
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": { "name": source["name"], "namespace": source["namespace"], "uid": source["uid"],
            "resourceVersion": source["resourceVersion"], "creationTimestamp": source["creationTimestamp"] },
        "spec": { "replicas": object["spec"].get("replicas").and_then(Value::as_i64).unwrap_or(0) },
        "status": { "replicas": status, "selector": selector },
    })
}

/// A pod with its node, and the condition that says that it has one.
pub(super) fn bound(pod: &Object, node: &str, now: &str) -> Object {
    let mut pod = pod.clone();
    field_of(&mut pod, "spec").insert("nodeName".into(), node.into());
    let condition =
        json!({ "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now });
    set_condition(&mut pod, condition);
    pod
}

/// Replaces the condition of the same type, or adds one.
pub(super) fn set_condition(object: &mut Object, condition: Value) {
    let status = object.entry("status").or_insert_with(|| json!({}));
    if !status.get("conditions").is_some_and(Value::is_array) {
        status["conditions"] = json!([]);
    }
    let conditions = status["conditions"].as_array_mut().expect("just made one");
    conditions.retain(|old| old["type"] != condition["type"]);
    conditions.push(condition);
}
