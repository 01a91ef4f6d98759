//! How watches come to revisions that others have made.
//!
//! etcd counts the commits of all who share it, but tells a watch only of its own keys: who waits until a watch has come
//! to a revision that a read has shown might wait for ever. While there is somebody who may, a marker is written under the
//! watched prefix, whose event is a bookmark. etcd can be asked for its progress, too, but before 3.4.25 and 3.5.8 it
//! answers ahead of the events (etcd issue 15220), against SEMANTICS 12.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use etcd_client::Client;
use orchestra_core::store::Revision;
use tokio::{sync::watch::Sender, time::sleep};

use super::{
    keyspace::Keyspace,
    members::{Members, Repeat},
};

/// How long what has been asked for may be on its way by itself, and how often a marker is written at most; Kubernetes asks
/// for etcd's progress as often.
const PATIENCE: Duration = Duration::from_millis(100);
/// How long to wait after a marker could not be written, as for a user that may only read.
const RETRY: Duration = Duration::from_secs(1);

/// The newest revision that a reader was told; clones share it.
#[derive(Clone, Debug)]
pub(super) struct Asked(Sender<Revision>);

impl Asked {
    pub(super) fn new() -> Self {
        Self(Sender::new(Revision(0)))
    }

    /// A reader was told `revision`, and may wait for watches to come there.
    pub(super) fn raise(&self, revision: Revision) {
        self.0.send_if_modified(|asked| {
            let rises = revision > *asked;
            *asked = revision.max(*asked);
            rises
        });
    }

    /// Writes markers, for ever, as long as the watch that has come to `reached` is behind.
    pub(super) async fn drive(self, members: Arc<Members>, keyspace: Keyspace, reached: Arc<AtomicU64>) {
        let mut asked = self.0.subscribe();
        let marker = keyspace.marker();
        let is_behind = |asked: &Revision| asked.0 > reached.load(Ordering::Relaxed);
        // It does not fail, for this holds a sender.
        while asked.wait_for(is_behind).await.is_ok() {
            sleep(PATIENCE).await;
            if !is_behind(&self.0.borrow()) {
                continue;
            }
            let put = |mut client: Client| {
                let marker = marker.clone();
                async move { client.put(marker, "", None).await }
            };
            if let Err(error) = members.call(Repeat::Safe, put).await {
                tracing::debug!(error = &error as &dyn std::error::Error, "no marker could be written");
                sleep(RETRY).await;
            }
        }
    }
}
