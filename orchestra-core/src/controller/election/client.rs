//! A client whose requests say under which lease they are made.

use http::{HeaderValue, Request};
use kube::{Client, client::Body};

use crate::{
    api::fence::{FENCE_HEADER, Fence},
    store::BoxError,
};

/// A client over `inner` whose requests carry `fence`.
pub(super) fn fenced(inner: Client, fence: &Fence) -> Client {
    let namespace = inner.default_namespace().to_owned();
    let fence = HeaderValue::from_bytes(fence.to_string().as_bytes()).map_err(|error| error.to_string());
    let service = tower::service_fn(move |mut request: Request<Body>| {
        let (inner, fence) = (inner.clone(), fence.clone());
        async move {
            request.headers_mut().insert(FENCE_HEADER, fence?);
            Ok::<_, BoxError>(inner.send(request).await?)
        }
    });
    Client::new(service, namespace)
}
