//! Who may use a service that asks no one else: those whom its list names, by their client certificates.

use std::{
    future::{Ready, ready},
    sync::Arc,
    task::{Context, Poll},
};

use futures::future::Either;
use http::{Request, Response, StatusCode};
use tower::Service;

use orchestra_core::server::PeerCertificate;

use crate::pki::Subject;

/// Lets `subjects` use `service`, and answers 403 to everybody else.
///
/// What a kubelet wants: any certificate of the cluster's authority would do for TLS, another node's for one, but only the
/// API server asks on behalf of someone whom it has authorized (SEMANTICS 33, 34).
#[must_use]
pub fn only<S>(service: S, subjects: impl IntoIterator<Item = Subject>) -> Guard<S> {
    let users = subjects.into_iter().map(|subject| subject.user).collect();
    Guard { service, users }
}

/// A service for some: see [`only`].
#[derive(Clone, Debug)]
pub struct Guard<S> {
    service: S,
    users: Arc<[String]>,
}

impl<S> Guard<S> {
    fn admits<B>(&self, request: &Request<B>) -> bool {
        let certificate = request.extensions().get::<PeerCertificate>();
        let user = certificate.and_then(|PeerCertificate(der)| user_of(der));
        user.is_some_and(|user| self.users.contains(&user))
    }
}

/// The user that a certificate names, as Kubernetes reads it.
fn user_of(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let name = certificate.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

impl<S, A, B> Service<Request<A>> for Guard<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    B: Default,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = Either<S::Future, Ready<Result<Response<B>, S::Error>>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        if self.admits(&request) {
            return Either::Left(self.service.call(request));
        }
        let mut refusal = Response::new(B::default());
        *refusal.status_mut() = StatusCode::FORBIDDEN;
        Either::Right(ready(Ok(refusal)))
    }
}
