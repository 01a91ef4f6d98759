//! Reviews: questions about who may do what, which are answered and not stored.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    api::schema,
    server::{
        Call, Inner, UserInfo,
        error::{Failure, Result},
        registry::Kind,
        respond::Answer,
        route::{Query, Target},
    },
};

/// What everyone who is known may get beside resources; with everything below it.
const OPEN_PATHS: [&str; 7] = ["/api", "/apis", "/healthz", "/livez", "/openapi", "/readyz", "/version"];

/// What a review asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Review {
    /// Who am I?
    Oneself,
    /// May I do this?
    OwnAccess,
    /// What may I do?
    OwnRules,
    /// May that user do this?
    Access,
    /// Can this step of a plan be committed? If so, it is.
    PlanStep,
}

impl Review {
    /// Whether everyone who is known may ask it.
    pub(crate) fn is_of_oneself(self) -> bool {
        !matches!(self, Self::Access | Self::PlanStep)
    }
}

impl Inner {
    pub(super) async fn review(&self, kind: &Kind, review: Review, target: &Target, mut call: Call) -> Result<Answer> {
        if call.parts.method != Method::POST || target.name.is_some() {
            return Err(Failure::method_not_allowed());
        }
        if review == Review::PlanStep {
            return self.plan_step(kind, call).await;
        }
        let body = call.body().await?;
        let mut object = decode(kind, &body)?;
        object["apiVersion"] = kind.api_version().into();
        object["kind"] = kind.kind.into();
        let spec = &object["spec"];
        object["status"] = match review {
            Review::Oneself => user_info(&call.user),
            Review::OwnAccess => json!({ "allowed": self.is_allowed(&call.user, spec).await? }),
            Review::OwnRules => rules(&call.user),
            Review::Access | Review::PlanStep => {
                let groups = spec["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let user = UserInfo::new(text(&spec["user"]), groups);
                json!({ "allowed": self.is_allowed(&user, spec).await? })
            }
        };
        let encoded = object.to_string().into();
        Ok(Answer::Object { code: StatusCode::CREATED, kind_of: None, encoded, warnings: Vec::new() })
    }

    /// Whether a user may do what the spec of a review names.
    async fn is_allowed(&self, user: &UserInfo, spec: &Value) -> Result<bool> {
        match (&spec["resourceAttributes"], &spec["nonResourceAttributes"]) {
            (Value::Object(_), Value::Null) => {
                let of = |field: &str| text(&spec["resourceAttributes"][field]);
                let some = |field: &str| Some(of(field)).filter(|text| !text.is_empty());
                let target = Target {
                    group: of("group"),
                    version: of("version"),
                    plural: of("resource"),
                    namespace: some("namespace"),
                    name: some("name"),
                    subresource: some("subresource"),
                    watched: false,
                };
                self.may_access(user, &of("verb"), &target).await
            }
            (Value::Null, Value::Object(attributes)) => {
                let path = attributes.get("path").map(text).unwrap_or_default();
                let verb = attributes.get("verb").map(text).unwrap_or_default();
                let is_open = OPEN_PATHS.iter().any(|open| {
                    path.strip_prefix(open).is_some_and(|below| below.is_empty() || below.starts_with('/'))
                });
                Ok(user.is_master() || (is_open && verb == "get"))
            }
            _ => Err(Failure::bad_request(
                "exactly one of nonResourceAttributes or resourceAttributes must be specified in spec",
            )),
        }
    }

    async fn may_access(&self, user: &UserInfo, verb: &str, target: &Target) -> Result<bool> {
        match self.authorize(user, verb, target, &Query::default()).await {
            Ok(()) => Ok(true),
            Err(failure) if failure.code() == StatusCode::FORBIDDEN => Ok(false),
            Err(failure) => Err(failure),
        }
    }
}

/// What a user may do, as rules; those of components and nodes are not written as such, and left out.
fn rules(user: &UserInfo) -> Value {
    if user.is_master() {
        return json!({ "incomplete": false,
            "resourceRules": [{ "verbs": ["*"], "apiGroups": ["*"], "resources": ["*"] }],
            "nonResourceRules": [{ "verbs": ["*"], "nonResourceURLs": ["*"] }] });
    }
    let open: Vec<_> = OPEN_PATHS.iter().flat_map(|path| [(*path).to_owned(), format!("{path}/*")]).collect();
    json!({ "incomplete": true,
        "resourceRules": [
            { "verbs": ["create"], "apiGroups": ["authorization.k8s.io"],
                "resources": ["selfsubjectaccessreviews", "selfsubjectrulesreviews"] },
            { "verbs": ["create"], "apiGroups": ["authentication.k8s.io"], "resources": ["selfsubjectreviews"] }],
        "nonResourceRules": [{ "verbs": ["get"], "nonResourceURLs": open }] })
}

fn user_info(user: &UserInfo) -> Value {
    let mut info = json!({ "username": user.name, "groups": user.groups, "extra": user.extra });
    if !user.uid.is_empty() {
        info["uid"] = user.uid.as_str().into();
    }
    json!({ "userInfo": info })
}

fn decode(kind: &Kind, body: &Bytes) -> Result<Value> {
    let (mut object, _) = schema::parse_strict(body)
        .map_err(|error| Failure::bad_request(schema::unrecognized(kind.kind, &error, body)))?;
    let refused = |error: &dyn std::fmt::Display| {
        Failure::bad_request(schema::cannot_handle(kind.kind, kind.version, error.to_string()))
    };
    if !object.is_object() {
        return Err(refused(&"the body is no JSON object"));
    }
    kind.conform(&mut object).map_err(|error| refused(&error))?;
    Ok(object)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
