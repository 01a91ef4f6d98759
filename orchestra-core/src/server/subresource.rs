//! Subresources: status, scale, binding, eviction, finalize, token, and what goes to the node.

use http::{Method, StatusCode};
use k8s_openapi::api::{
    authentication::v1::TokenRequest, autoscaling::v1::Scale, core::v1::Binding, policy::v1::Eviction,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::server::{
    Call, Inner,
    error::{Failure, Result},
    object::{self, Object, is_terminating, meta, meta_mut},
    patch,
    registry::Kind,
    respond::Answer,
    route::Target,
    write::{Part, now_text},
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
            ("exec" | "attach", &Method::GET | &Method::POST) => self.proxy(kind, target, subresource, call).await,
            _ => Err(Failure::method_not_allowed()),
        }
    }

    async fn current(&self, kind: &Kind, target: &Target) -> Result<Object> {
        let name = target.name.as_deref().unwrap_or_default();
        let key = object::key(kind, target.namespace.as_deref().unwrap_or_default(), name)?;
        let entry = self.store.get(&key).await?.ok_or_else(|| Failure::not_found(kind, name))?;
        object::decode(&entry.value, entry.modified)
    }

    async fn scale(&self, kind: &Kind, target: &Target) -> Result<Answer> {
        Ok(Answer::Json(scale_of(&self.current(kind, target).await?)))
    }

    async fn set_scale(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let body = call.body().await?;
        let patching = call.parts.method == Method::PATCH;
        let content_type = call.content_type();
        let dry_run = call.dry_run()?;
        let name = target.name.clone().unwrap_or_default();
        let change = |old: &Object| {
            let scale: Scale = if patching {
                let patched = patch::parse(&content_type, &body)?.apply(kind, scale_of(old))?;
                decode(patched.to_string().as_bytes())?
            } else {
                decode(&body)?
            };
            let seen = scale.metadata.resource_version.as_deref().unwrap_or_default();
            if !seen.is_empty() && seen != meta(old, "resourceVersion") {
                return Err(Failure::modified(kind, &name));
            }
            let replicas = scale.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(0);
            let mut new = old.clone();
            new.entry("spec").or_insert_with(|| json!({}))["replicas"] = replicas.into();
            Ok(new)
        };
        let written = self.modify(kind, target, Part::Spec, dry_run, false, change).await?;
        Ok(Answer::Json(scale_of(&written)))
    }

    /// Replaces a namespace's own finalizers; without any, and with nothing else to wait for, it is gone.
    async fn finalize(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let body = call.body().await?;
        let given: Value = decode(&body)?;
        let held = given["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
        let written = self
            .modify(kind, target, Part::Finalize, false, false, |old| {
                let mut new = old.clone();
                new.entry("spec").or_insert_with(|| json!({}))["finalizers"] = held.clone().into();
                Ok(new)
            })
            .await?;
        Ok(Answer::object(kind, &written))
    }

    /// Binds a pod to a node, once (SEMANTICS 49).
    async fn bind(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let body = call.body().await?;
        let binding: Binding = decode(&body)?;
        let node = binding.target.name.clone().unwrap_or_default();
        let name = target.name.clone().unwrap_or_default();
        if node.is_empty() {
            return Err(Failure::bad_request("Binding \"\" is invalid: target.name: Required value"));
        }
        let now = now_text(self.clock.now());
        let dry_run = call.dry_run()?;
        let wanted_uid = binding.metadata.uid.unwrap_or_default();
        self.modify(kind, target, Part::Binding, dry_run, false, |old| {
            if !wanted_uid.is_empty() && wanted_uid != meta(old, "uid") {
                let why = format!(
                    "Precondition failed: UID in precondition: {wanted_uid}, UID in object meta: {}",
                    meta(old, "uid")
                );
                return Err(Failure::conflict(kind, &name, &why));
            }
            if is_terminating(old) {
                return Err(Failure::conflict(
                    kind,
                    &name,
                    &format!("pod {name} is being deleted, cannot be assigned to a host"),
                ));
            }
            let mut new = old.clone();
            let bound = new["spec"]["nodeName"].as_str().unwrap_or_default();
            if !bound.is_empty() {
                let why = format!("pod {name} is already assigned to node \"{bound}\"");
                return Err(Failure::conflict(kind, &name, &why));
            }
            new["spec"]["nodeName"] = node.as_str().into();
            let condition =
                json!({ "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now });
            set_condition(&mut new, condition);
            for (key, value) in binding.metadata.annotations.iter().flatten() {
                let annotations = meta_mut(&mut new).entry("annotations").or_insert_with(|| json!({}));
                annotations[key] = value.as_str().into();
            }
            Ok(new)
        })
        .await?;
        Ok(Answer::Raw(crate::server::respond::json_response(
            StatusCode::CREATED,
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 })
                .to_string()
                .into(),
        )))
    }

    /// Deletes a pod as its disruption budgets allow (SEMANTICS 72).
    async fn evict(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let body = call.body().await?;
        let eviction: Eviction = decode(&body)?;
        let pod = self.current(kind, target).await?;
        let name = target.name.clone().unwrap_or_default();
        let options = eviction.delete_options.unwrap_or_default();
        let dry_run = call.dry_run()? || options.dry_run.as_ref().is_some_and(|all| !all.is_empty());
        let over =
            matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending")) || is_terminating(&pod);
        if !over {
            self.spend_budget(&pod, dry_run).await?;
        }
        self.delete_object(kind, target.namespace.as_deref().unwrap_or_default(), &name, &options, dry_run).await?;
        Ok(Answer::Raw(crate::server::respond::json_response(
            StatusCode::CREATED,
            json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201 })
                .to_string()
                .into(),
        )))
    }

    /// Takes one disruption off the budget that selects `pod`.
    async fn spend_budget(&self, pod: &Object, dry_run: bool) -> Result<()> {
        use crate::api::selector::LabelSelector;
        use k8s_openapi::api::policy::v1::PodDisruptionBudget;

        let budgets = self.registry.find("policy", "v1", "poddisruptionbudgets").expect("built in");
        let listing = self.store.list(&object::prefix(budgets, Some(meta(pod, "namespace")))?).await?;
        let labels: std::collections::BTreeMap<String, String> = pod["metadata"]
            .get("labels")
            .and_then(|labels| serde_json::from_value(labels.clone()).ok())
            .unwrap_or_default();
        for entry in listing.entries {
            let budget: PodDisruptionBudget = decode(&entry.value)?;
            let selector = budget.spec.as_ref().and_then(|spec| spec.selector.as_ref());
            let Some(Ok(selector)) = selector.map(LabelSelector::try_from) else { continue };
            if !selector.matches(&labels) {
                continue;
            }
            let name = budget.metadata.name.clone().unwrap_or_default();
            let allowed = budget.status.as_ref().and_then(|status| status.disruptions_allowed).unwrap_or(0);
            if allowed < 1 {
                let status = budget.status.unwrap_or_default();
                let message = format!(
                    "The disruption budget {name} needs {} healthy pods and has {} currently",
                    status.desired_healthy.unwrap_or(0),
                    status.current_healthy.unwrap_or(0)
                );
                return Err(Failure::too_many_requests(
                    "Cannot evict pod as it would violate the pod's disruption budget.",
                    None,
                )
                .because("DisruptionBudget", &message));
            }
            let target = Target {
                group: "policy".into(),
                version: "v1".into(),
                plural: "poddisruptionbudgets".into(),
                namespace: Some(meta(pod, "namespace").into()),
                name: Some(name),
                subresource: None,
            };
            let now = now_text(self.clock.now());
            self.modify(budgets, &target, Part::Status, dry_run, false, |old| {
                let mut new = old.clone();
                let allowed = new["status"]["disruptionsAllowed"].as_i64().unwrap_or(0);
                if allowed < 1 {
                    return Err(Failure::too_many_requests(
                        "Cannot evict pod as it would violate the pod's disruption budget.",
                        None,
                    ));
                }
                new["status"]["disruptionsAllowed"] = (allowed - 1).into();
                new["status"]["disruptedPods"][meta(pod, "name")] = now.as_str().into();
                Ok(new)
            })
            .await?;
        }
        Ok(())
    }

    async fn token(&self, kind: &Kind, target: &Target, mut call: Call) -> Result<Answer> {
        let body = call.body().await?;
        let request: TokenRequest = decode(&body)?;
        let account = self.current(kind, target).await?;
        let _ = (request, account);
        Err(Failure::unavailable("service account tokens are not issued by this server"))
    }
}

fn decode<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("the body of the request is malformed: {error}")))
}

fn scale_of(object: &Object) -> Value {
    let selector = &object["spec"]["selector"];
    let labels = selector.get("matchLabels").unwrap_or(selector).as_object().cloned().unwrap_or_default();
    let labels: Vec<_> = labels.iter().filter_map(|(key, value)| Some(format!("{key}={}", value.as_str()?))).collect();
    let status = object.get("status").and_then(|status| status.get("replicas")).and_then(Value::as_i64).unwrap_or(0);
    let source = &object["metadata"];
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": { "name": source["name"], "namespace": source["namespace"], "uid": source["uid"],
            "resourceVersion": source["resourceVersion"], "creationTimestamp": source["creationTimestamp"] },
        "spec": { "replicas": object["spec"].get("replicas").and_then(Value::as_i64).unwrap_or(0) },
        "status": { "replicas": status, "selector": labels.join(",") },
    })
}

/// Replaces the condition of the same type, or adds one.
fn set_condition(object: &mut Object, condition: Value) {
    let status = object.entry("status").or_insert_with(|| json!({}));
    if !status.get("conditions").is_some_and(Value::is_array) {
        status["conditions"] = json!([]);
    }
    let conditions = status["conditions"].as_array_mut().expect("just made one");
    conditions.retain(|old| old["type"] != condition["type"]);
    conditions.push(condition);
}
