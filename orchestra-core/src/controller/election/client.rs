//! A client whose requests say under which lease they are made.

use http::{HeaderValue, Request};
use kube::{Client, client::Body};

use crate::{
    api::fence::{FENCE_HEADER, Fence},
    store::BoxError,
};

/// A client over `inner` whose requests carry the fence of the moment in which they are sent.
pub(super) fn fenced(inner: Client, fence: impl Fn() -> Fence + Clone + Send + 'static) -> Client {
    let namespace = inner.default_namespace().to_owned();
    let service = tower::service_fn(move |mut request: Request<Body>| {
        let (inner, fence) = (inner.clone(), fence().to_string());
        async move {
            request.headers_mut().insert(FENCE_HEADER, HeaderValue::from_bytes(fence.as_bytes())?);
            Ok::<_, BoxError>(inner.send(request).await?)
        }
    });
    Client::new(service, namespace)
}
