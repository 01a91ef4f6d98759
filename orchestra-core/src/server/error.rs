//! What a client is told when a request fails: a `metav1.Status`, worded as Kubernetes words it.

use http::StatusCode;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ListMeta, Status, StatusCause, StatusDetails};

use crate::{
    api::validation::FieldError,
    server::registry::Kind,
    store::{self, Revision},
};

/// A result of a handler.
pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// A request that failed, as its client is told.
#[derive(Debug)]
pub(crate) struct Failure(Box<Status>);

impl Failure {
    fn new(code: StatusCode, reason: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Status {
            code: Some(i32::from(code.as_u16())),
            details: None,
            message: Some(message.into()),
            metadata: ListMeta::default(),
            reason: Some(reason.into()),
            status: Some("Failure".into()),
        }))
    }

    fn about(mut self, kind: &Kind, name: &str) -> Self {
        let details = self.0.details.get_or_insert_default();
        details.group = (!kind.group.is_empty()).then(|| kind.group.into());
        details.kind = Some(kind.plural.into());
        details.name = (!name.is_empty()).then(|| name.into());
        self
    }

    fn retry_after(mut self, seconds: i32) -> Self {
        self.0.details.get_or_insert_default().retry_after_seconds = Some(seconds);
        self
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn forbidden(kind: &str, name: &str, message: String) -> Self {
        let mut failure = Self::new(StatusCode::FORBIDDEN, "Forbidden", message);
        let details = failure.0.details.get_or_insert_default();
        details.kind = Some(kind.into());
        details.name = (!name.is_empty()).then(|| name.into());
        failure
    }

    pub(crate) fn no_such_path() -> Self {
        let mut failure =
            Self::new(StatusCode::NOT_FOUND, "NotFound", "the server could not find the requested resource");
        failure.0.details = Some(StatusDetails::default());
        failure
    }

    pub(crate) fn not_found(kind: &Kind, name: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NotFound", format!("{} \"{name}\" not found", kind.qualified()))
            .about(kind, name)
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message)
    }

    pub(crate) fn already_exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.qualified());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).about(kind, name)
    }

    pub(crate) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", kind.qualified());
        Self::new(StatusCode::CONFLICT, "Conflict", message).about(kind, name)
    }

    pub(crate) fn modified(kind: &Kind, name: &str) -> Self {
        let why = "the object has been modified; please apply your changes to the latest version and try again";
        Self::conflict(kind, name, why)
    }

    pub(crate) fn invalid(kind: &Kind, name: &str, errors: &[FieldError]) -> Self {
        let full = if kind.group.is_empty() { kind.kind.to_owned() } else { format!("{}.{}", kind.kind, kind.group) };
        let mut failure = Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "Invalid",
            format!("{full} \"{name}\" is invalid: {}", joined(errors)),
        )
        .about(kind, name);
        let details = failure.0.details.get_or_insert_default();
        details.kind = Some(kind.kind.into());
        details.causes = Some(errors.iter().map(cause).collect());
        failure
    }

    /// What is wrong with the options of a request, such as `ListOptions`.
    pub(crate) fn invalid_options(options: &str, errors: &[FieldError]) -> Self {
        let message = format!("{options}.meta.k8s.io \"\" is invalid: {}", joined(errors));
        let mut failure = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message);
        let details = failure.0.details.get_or_insert_default();
        details.group = Some("meta.k8s.io".into());
        details.kind = Some(options.into());
        details.causes = Some(errors.iter().map(cause).collect());
        failure
    }

    pub(crate) fn unprocessable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
    }

    pub(crate) fn expired(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// The 410 for a list that goes on from a snapshot that is gone; `token` goes on with what is there now.
    pub(crate) fn expired_continue(token: String) -> Self {
        let mut failure = Self::expired(
            "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
             the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
             Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
             deleted between the time the first chunk was returned and now may show up in the list.",
        );
        failure.0.metadata.continue_ = Some(token);
        failure
    }

    pub(crate) fn too_old(asked: Revision, floor: Revision) -> Self {
        Self::expired(format!("too old resource version: {} ({})", asked.0, floor.0))
    }

    pub(crate) fn too_large_revision(asked: Revision, current: Revision) -> Self {
        let message = format!("Too large resource version: {}, current: {}", asked.0, current.0);
        let mut failure = Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message).retry_after(1);
        failure.0.details.get_or_insert_default().causes = Some(vec![StatusCause {
            field: None,
            message: Some("Too large resource version".into()),
            reason: Some("ResourceVersionTooLarge".into()),
        }]);
        failure
    }

    pub(crate) fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json, \
                       application/json;stream=watch, application/json;as=Table;g=meta.k8s.io;v=v1";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message)
    }

    pub(crate) fn unsupported_media_type(given: &str, accepted: &str) -> Self {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: {accepted} (got {given:?})"
        );
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message)
    }

    pub(crate) fn too_large(why: impl std::fmt::Display) -> Self {
        let message = format!("Request entity too large: {why}");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", message)
    }

    /// Without a time to try again the client tells its user instead of waiting by itself.
    pub(crate) fn too_many_requests(message: impl Into<String>, retry_seconds: Option<i32>) -> Self {
        let failure = Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message);
        retry_seconds.into_iter().fold(failure, Self::retry_after)
    }

    pub(crate) fn not_implemented(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_IMPLEMENTED, "NotImplemented", message)
    }

    pub(crate) fn timeout() -> Self {
        let message = "Timeout: request did not complete within the allotted timeout";
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", message).retry_after(1)
    }

    pub(crate) fn internal(message: impl std::fmt::Display) -> Self {
        let message = format!("Internal error occurred: {message}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", message)
    }

    /// Adds a cause, which a client may decide by.
    pub(crate) fn because(mut self, reason: &str, message: &str) -> Self {
        let cause = StatusCause { field: None, message: Some(message.into()), reason: Some(reason.into()) };
        self.0.details.get_or_insert_default().causes.get_or_insert_default().push(cause);
        self
    }

    /// As [`because`](Self::because), of a field.
    pub(crate) fn because_of(mut self, field: &str, reason: &str, message: &str) -> Self {
        self = self.because(reason, message);
        if let Some(cause) = self.0.details.as_mut().and_then(|details| details.causes.as_mut()?.last_mut()) {
            cause.field = Some(field.into());
        }
        self
    }

    pub(crate) fn status(&self) -> &Status {
        &self.0
    }

    pub(crate) fn code(&self) -> StatusCode {
        let code = self.0.code.and_then(|code| u16::try_from(code).ok());
        code.and_then(|code| StatusCode::from_u16(code).ok()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

/// What a handler doesn't expect of the store; conflicts, which it does, it handles itself.
impl From<store::Error> for Failure {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Compacted { floor } => {
                Self::expired(format!("The resourceVersion for the provided watch is too old ({}).", floor.0))
            }
            store::Error::Invalid(why) => Self::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "RequestEntityTooLarge",
                format!("the object can't be stored: {why}"),
            ),
            error @ store::Error::Unavailable(_) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "store unavailable");
                Self::unavailable("the store is unavailable; the request may have been carried out")
            }
            error => Self::internal(error),
        }
    }
}

fn joined(errors: &[FieldError]) -> String {
    let texts: Vec<_> = errors.iter().map(ToString::to_string).collect();
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

fn cause(error: &FieldError) -> StatusCause {
    let reason = error.kind.reason().into();
    StatusCause { field: Some(error.path.clone()), message: Some(error.body()), reason: Some(reason) }
}
