//! Bodies of requests in Kubernetes' protobuf form and in YAML, which are taken as the JSON that they stand for.
//!
//! Answers are JSON: whoever sends another form accepts that too.

use bytes::Bytes;
use http::{HeaderValue, header};
use k8s_openapi::{
    api::{
        authentication::v1::{SelfSubjectReview, TokenRequest},
        authorization::v1::{
            LocalSubjectAccessReview, SelfSubjectAccessReview, SelfSubjectRulesReview, SubjectAccessReview,
        },
        autoscaling::v1::Scale,
        core::v1::Binding,
        policy::v1::Eviction,
    },
    apimachinery::pkg::apis::meta::v1::DeleteOptions,
};

use crate::{
    api::schema::{Envelope, ParseError, ProtobufError, Schema, parse_yaml},
    server::{
        Call, Inner,
        error::{Failure, Result},
        respond::whole,
    },
};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const YAML: &str = "application/yaml";

impl Inner {
    /// The call with a body in JSON.
    pub(super) async fn in_json(&self, mut call: Call) -> Result<Call> {
        let media = call.content_type();
        // A patch is of types of its own.
        if media != PROTOBUF && (media != YAML || call.verb == "patch") {
            return Ok(call);
        }
        let body = call.body().await?;
        // A request without a body may say of what type it isn't.
        let json = if body.is_empty() {
            body
        } else if media == PROTOBUF {
            self.json_of(&body)?
        } else {
            let (value, duplicates) = parse_yaml(&body).map_err(|error| bad_yaml(&error))?;
            call.duplicates = duplicates;
            value.to_string().into()
        };
        call.body = whole(json);
        call.parts.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok(call)
    }

    fn json_of(&self, body: &Bytes) -> Result<Bytes> {
        let unreadable = |error: ProtobufError| Failure::bad_request(error.to_string());
        let envelope = Envelope::open(body).map_err(unreadable)?;
        let (kind, version) = (&envelope.kind, &envelope.api_version);
        let served = self.registry.iter().find(|known| known.kind == *kind && known.api_version() == *version);
        let read = match (served, passing(kind)) {
            (Some(served), _) => envelope.read(served.schema()),
            (None, Some(schema)) => envelope.read(&schema),
            (None, None) => {
                return Err(Failure::bad_request(format!(
                    "no kind \"{kind}\" is registered for version \"{version}\""
                )));
            }
        };
        Ok(read.map_err(unreadable)?.to_string().into())
    }
}

fn bad_yaml(error: &ParseError) -> Failure {
    Failure::bad_request(format!("error converting YAML to JSON: yaml: {error}"))
}

/// The schema of a kind that is sent but not stored.
fn passing(kind: &str) -> Option<Schema> {
    Some(match kind {
        "Binding" => Schema::of::<Binding>(),
        "DeleteOptions" => Schema::of::<DeleteOptions>(),
        "Eviction" => Schema::of::<Eviction>(),
        "LocalSubjectAccessReview" => Schema::of::<LocalSubjectAccessReview>(),
        "Scale" => Schema::of::<Scale>(),
        "SelfSubjectAccessReview" => Schema::of::<SelfSubjectAccessReview>(),
        "SelfSubjectReview" => Schema::of::<SelfSubjectReview>(),
        "SelfSubjectRulesReview" => Schema::of::<SelfSubjectRulesReview>(),
        "SubjectAccessReview" => Schema::of::<SubjectAccessReview>(),
        "TokenRequest" => Schema::of::<TokenRequest>(),
        _ => return None,
    })
}
