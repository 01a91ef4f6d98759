//! The body of a request, which is read to its end whatever is answered.
//!
//! Over HTTP/2, a client whose body is not taken sees the stream break off instead of the answer, so that it learns neither
//! that a path is wrong nor that it may not go there. A body is therefore lent to whoever answers, and what they leave of it
//! is read and thrown away before the answer is sent.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use crate::{server::Body, store::BoxError};

/// How much of a body is thrown away, in bytes, before the stream is cut on a client that goes on.
const BYTES_DRAINED_MAX: usize = 16 << 20;

/// What is left of a body that was lent, once its reader has dropped it.
pub(super) struct Rest(Option<oneshot::Receiver<Body>>);

/// Lends `body`; one that is empty is just given away.
pub(super) fn lend(body: Body) -> (Body, Rest) {
    if body.is_end_stream() {
        return (body, Rest(None));
    }
    let (back, rest) = oneshot::channel();
    (Lent { body, back: Some(back) }.boxed_unsync(), Rest(Some(rest)))
}

impl Rest {
    /// Reads what is left until `deadline`, if nobody reads it any more.
    pub(super) async fn drain(self, deadline: Instant) {
        let Some(Ok(body)) = self.0.map(|mut rest| rest.try_recv()) else { return };
        // Who sends too much, or too slowly, is answered all the same, but may not hear it.
        let _ = timeout_at(deadline, read_out(body)).await;
    }
}

struct Lent {
    body: Body,
    /// Invariant: there until the body has ended.
    back: Option<oneshot::Sender<Body>>,
}

impl http_body::Body for Lent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if matches!(frame, Poll::Ready(None | Some(Err(_)))) {
            self.back = None;
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(back) = self.back.take() {
            // Nobody waits for it any more if the client is gone.
            let _ = back.send(std::mem::take(&mut self.body));
        }
    }
}

async fn read_out(mut body: Body) {
    let mut bytes = 0;
    while bytes <= BYTES_DRAINED_MAX
        && !body.is_end_stream()
        && let Some(Ok(frame)) = body.frame().await
    {
        bytes += frame.data_ref().map_or(0, Bytes::len);
    }
}
