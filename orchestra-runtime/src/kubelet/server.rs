//! The kubelet's HTTP API: `/healthz`, `/pods`, `/containerLogs/NS/POD/CONTAINER`, `/exec/NS/POD/CONTAINER`.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use http::{Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::upgrade::OnUpgrade;
use k8s_openapi::api::core::v1::{ContainerStatus as ApiStatus, Pod};
use orchestra_core::runtime::{ContainerId, ContainerStatus, SandboxId};
use serde_json::json;

use super::{Shared, exec, logs};
use crate::causes::chain;

/// The body of a response.
pub type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A refusal: the status code, and why.
#[derive(Debug)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

/// Answers a request.
pub(super) async fn answer(shared: &Arc<Shared>, parts: &Parts, upgrade: Option<OnUpgrade>) -> Response<Body> {
    let path: Vec<&str> = parts.uri.path().trim_matches('/').split('/').collect();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let answered = match path.as_slice() {
        ["healthz"] => Ok(Response::new(full("ok"))),
        ["pods"] => Ok(pods(shared)),
        ["containerLogs", namespace, pod, container] => match place(shared, namespace, pod, container).await {
            Ok(place) => logs::open(shared, &place, &query).await,
            Err(refused) => Err(refused),
        },
        ["exec", namespace, pod, container] => match place(shared, namespace, pod, container).await {
            Ok(place) => exec::open(shared, &place, &query, parts, upgrade).await,
            Err(refused) => Err(refused),
        },
        ["attach" | "portForward", ..] => Err(Refused(
            StatusCode::NOT_IMPLEMENTED,
            "this kubelet can neither attach nor forward ports; use exec".into(),
        )),
        _ => Err(Refused(StatusCode::NOT_FOUND, "the kubelet has no such path".into())),
    };
    answered.unwrap_or_else(|Refused(code, message)| refusal(code, &message))
}

/// A container that a request names.
pub(super) struct Place {
    pub(super) pod: Arc<Pod>,
    pub(super) container: String,
    /// What the runtime has of it, attempts by number.
    pub(super) attempts: Vec<ContainerStatus>,
}

impl Place {
    /// The last attempt, if it runs.
    pub(super) fn running(&self) -> Option<&ContainerId> {
        self.attempts.last().filter(|status| status.state.is_running()).map(|status| &status.id)
    }

    /// The attempt that its status calls the last one: the latest that has exited, if another follows or is to.
    pub(super) fn previous(&self) -> Option<&ContainerStatus> {
        let waits = self.told().and_then(|told| told.state.as_ref()).is_some_and(|state| state.waiting.is_some());
        let back = usize::from(!waits || self.running().is_some());
        let index = self.attempts.len().checked_sub(1 + back)?;
        self.attempts.get(index).filter(|status| status.state.exit_code().is_some())
    }

    /// Why the container hasn't started.
    pub(super) fn waits_for(&self) -> &str {
        let waiting = self.told().and_then(|told| told.state.as_ref()?.waiting.as_ref());
        waiting.and_then(|waiting| waiting.reason.as_deref()).unwrap_or("ContainerCreating")
    }

    /// What the API was told of it.
    fn told(&self) -> Option<&ApiStatus> {
        let status = self.pod.status.as_ref()?;
        let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
        all.into_iter().find(|status| status.name == self.container)
    }
}

async fn place(shared: &Shared, namespace: &str, pod: &str, container: &str) -> Result<Place, Refused> {
    let known = shared.pods().get(&(namespace.to_owned(), pod.to_owned())).cloned();
    let not_found = || Refused(StatusCode::NOT_FOUND, format!("pod \"{pod}\" is not on this node"));
    let pod = known.ok_or_else(not_found)?;
    let id = SandboxId(pod.metadata.uid.as_deref().unwrap_or_default().into());
    let unavailable = |error: orchestra_core::runtime::Error| Refused(StatusCode::SERVICE_UNAVAILABLE, chain(&error));
    let all = shared.runtime.list().await.map_err(unavailable)?;
    let sandbox = all.into_iter().find(|sandbox| sandbox.id == id);
    // Sorted by id, hence by attempt.
    let attempts = sandbox.map(|sandbox| sandbox.containers).unwrap_or_default().into_iter();
    let attempts = attempts.filter(|status| *status.id.name == *container);
    Ok(Place { pod, container: container.into(), attempts: attempts.collect() })
}

fn pods(shared: &Shared) -> Response<Body> {
    let items: Vec<_> = shared.pods().values().cloned().collect();
    let items: Vec<&Pod> = items.iter().map(AsRef::as_ref).collect();
    let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
    let mut response = Response::new(full(list.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// A refusal as Kubernetes writes it.
fn refusal(code: StatusCode, message: &str) -> Response<Body> {
    let reason = match code {
        StatusCode::NOT_FOUND => "NotFound",
        StatusCode::BAD_REQUEST => "BadRequest",
        StatusCode::SERVICE_UNAVAILABLE => "ServiceUnavailable",
        StatusCode::NOT_IMPLEMENTED => "NotImplemented",
        _ => "InternalError",
    };
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    });
    let mut response = Response::new(full(status.to_string()));
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// A body that is there already.
pub(super) fn full(text: impl Into<Bytes>) -> Body {
    Full::new(text.into()).boxed_unsync()
}

/// The parameters of a request, decoded, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads `a=b&c=d`.
    pub(super) fn parse(text: &str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).map(|(k, v)| (decode(k), decode(v))).collect(),
        )
    }

    /// The first value of a name.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).next().filter(|value| !value.is_empty())
    }

    /// All values of a name, in order.
    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether a flag is set.
    pub(super) fn is_set(&self, name: &str) -> bool {
        matches!(self.value(name), Some("true" | "1"))
    }

    /// A number, if there is one.
    pub(super) fn number(&self, name: &str) -> Result<Option<u64>, Refused> {
        let wrong = |_| Refused(StatusCode::BAD_REQUEST, format!("{name} must be a number that is not negative"));
        self.value(name).map(|value| value.parse::<u64>().map_err(wrong)).transpose()
    }
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |byte: u8| char::from(byte).to_digit(16);
        let mut ahead = bytes.clone();
        match (byte, ahead.next().and_then(hex), ahead.next().and_then(hex)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'));
                bytes = ahead;
            }
            (b'+', ..) => out.push(b' '),
            (byte, ..) => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::Query;

    #[test]
    fn a_query_is_decoded_and_keeps_its_order() {
        let query = Query::parse("command=sh&command=-c&command=echo+a%20b%26&tty=true&x=%zz");
        assert_eq!(query.values("command").collect::<Vec<_>>(), ["sh", "-c", "echo a b&"]);
        assert!(query.is_set("tty") && !query.is_set("stdin"));
        assert_eq!(query.value("x"), Some("%zz"));
    }
}
