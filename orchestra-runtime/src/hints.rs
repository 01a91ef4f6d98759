//! The event streams of runtimes.

use futures::stream::{self, BoxStream, StreamExt as _};
use orchestra_core::runtime::SandboxId;
use tokio::sync::broadcast;

/// Makes a stream of what is sent from now on; what a slow reader misses is left out, as events are only hints.
pub(crate) fn hints(events: &broadcast::Sender<SandboxId>) -> BoxStream<'static, SandboxId> {
    stream::unfold(events.subscribe(), |mut events| async {
        loop {
            match events.recv().await {
                Ok(id) => return Some((id, events)),
                Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => return None,
            }
        }
    })
    .boxed()
}
