//! The way from a node to the API, which can be cut.

use futures::StreamExt as _;
use http::Request;
use http_body_util::{BodyStream, StreamBody};
use kube::{Client, client::Body};
use tokio::sync::watch;

/// A way to the API; clones are handles on one.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    cut: watch::Sender<bool>,
}

impl Default for Link {
    fn default() -> Self {
        Self { cut: watch::Sender::new(false) }
    }
}

impl Link {
    /// From now on, or until healed, requests fail, those under way too, and watches end.
    pub(crate) fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }

    /// A client over this link.
    pub(crate) fn client(&self, inner: &Client) -> Client {
        let (link, inner) = (self.clone(), inner.clone());
        let service = tower::service_fn(move |request: Request<Body>| {
            let (link, inner) = (link.clone(), inner.clone());
            async move {
                let response = tokio::select! {
                    biased;
                    () = link.is_cut() => return Err(tower::BoxError::from("no route to the API")),
                    response = inner.send(request) => response?,
                };
                Ok(response.map(|body| StreamBody::new(BodyStream::new(body).take_until(Box::pin(link.is_cut())))))
            }
        });
        Client::new(service, "default")
    }

    fn is_cut(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut cut = self.cut.subscribe();
        async move {
            // Its sender is kept by the link, whose end is no cut.
            if cut.wait_for(|cut| *cut).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
