//! Clients whose network misbehaves: cut off, or slow to tell what happened.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::StreamExt as _;
use http::{Method, Request};
use http_body_util::{BodyStream, StreamBody};
use kube::{Client, client::Body};

/// What a client is put through; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Network {
    cut: Arc<AtomicBool>,
    created: Arc<AtomicUsize>,
    refusals: Arc<AtomicUsize>,
    lag: Duration,
    /// What paths begin with that nobody serves.
    absent: Option<&'static str>,
    delay: Duration,
}

impl Network {
    /// A network behind which is an API server that knows no kinds of our own.
    pub(crate) fn foreign() -> Self {
        Self::without("/apis/scheduling.orchestra.dev")
    }

    /// A network on which watches tell everything this much later.
    pub(crate) fn lagging(lag: Duration) -> Self {
        Self { lag, ..Self::default() }
    }

    /// A network to an API without what is under a path.
    pub(crate) fn without(path: &'static str) -> Self {
        Self { absent: Some(path), ..Self::default() }
    }

    /// A network on which what binds pods is under way for so long.
    pub(crate) fn slow_to_bind(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// The network with watches that tell everything this much later.
    pub(crate) fn slower(self, lag: Duration) -> Self {
        Self { lag, ..self }
    }

    /// From now on, or until healed, nothing gets through, and nobody is told so.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.store(cut, Ordering::Relaxed);
    }

    /// The next so many bindings are lost on their way.
    pub(crate) fn refuse_bindings(&self, count: usize) {
        self.refusals.store(count, Ordering::Relaxed);
    }

    fn loses_binding(&self) -> bool {
        self.refusals.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
    }

    /// How many pods were created over it.
    pub(crate) fn pods_created(&self) -> usize {
        self.created.load(Ordering::Relaxed)
    }

    /// A client over this network.
    pub(crate) fn client(&self, inner: &Client) -> Client {
        let (network, inner) = (self.clone(), inner.clone());
        let service = tower::service_fn(move |mut request: Request<Body>| {
            let (network, inner) = (network.clone(), inner.clone());
            async move {
                if network.cut.load(Ordering::Relaxed) {
                    std::future::pending::<()>().await;
                }
                if let Some(absent) = network.absent
                    && let Some(rest) = request.uri().path().strip_prefix(absent)
                {
                    *request.uri_mut() = format!("/apis/absent.example/v1{rest}").parse()?;
                }
                let path = request.uri().path();
                if path.ends_with("/binding") || path.ends_with("/plansteps") {
                    if network.loses_binding() {
                        return Err(tower::BoxError::from("lost"));
                    }
                    if !network.delay.is_zero() {
                        tokio::time::sleep(network.delay).await;
                    }
                }
                if request.method() == Method::POST && request.uri().path().ends_with("/pods") {
                    network.created.fetch_add(1, Ordering::Relaxed);
                }
                let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
                let lag = if watches { network.lag } else { Duration::ZERO };
                let response = inner.send(request).await?;
                Ok::<_, tower::BoxError>(response.map(|body| {
                    StreamBody::new(BodyStream::new(body).then(move |frame| async move {
                        if !lag.is_zero() {
                            tokio::time::sleep(lag).await;
                        }
                        frame
                    }))
                }))
            }
        });
        Client::new(service, "default")
    }
}
