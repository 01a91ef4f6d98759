//! Watch responses put together to batches.

use etcd_client::{EventType, proto::PbEvent};
use orchestra_core::store::{Batch, Change, Revision};

use super::keyspace::{Keyspace, revision};

/// Makes whole commits of events that come in responses, which may hold several commits or a part of one.
#[derive(Debug)]
pub(super) struct Batches {
    keyspace: Keyspace,
    /// Commits up to this one have been yielded.
    after: Revision,
    open: Option<Batch>,
}

impl Batches {
    pub(super) fn new(keyspace: Keyspace, after: Revision) -> Self {
        Self { keyspace, after, open: None }
    }

    /// Takes the events of one response, of which the rest is still to come if it is a fragment; returns what is whole.
    pub(super) fn push(&mut self, events: Vec<PbEvent>, is_fragment: bool) -> Vec<Batch> {
        let mut whole = Vec::new();
        for event in events {
            let Some(pair) = event.kv else { continue };
            let at = revision(pair.mod_revision);
            if at <= self.after {
                continue;
            }
            if self.open.as_ref().is_none_or(|open| open.revision != at) {
                whole.extend(self.close());
                self.open = Some(Batch { revision: at, changes: Vec::new() });
            }
            let change = match event.r#type == EventType::Delete as i32 {
                true => self.keyspace.key(&pair.key).map(Change::Delete),
                false => self.keyspace.entry(pair).map(Change::Put),
            };
            if let Some(open) = &mut self.open {
                open.changes.extend(change);
            }
        }
        if !is_fragment {
            whole.extend(self.close());
        }
        whole
    }

    /// Takes etcd's word that nothing is left to tell up to `at`; a bookmark, if that is news.
    pub(super) fn progress(&mut self, at: Revision) -> Option<Batch> {
        // A watch on a future revision is told of the past, too.
        if at <= self.after || self.open.is_some() {
            return None;
        }
        self.after = at;
        Some(Batch { revision: at, changes: Vec::new() })
    }

    /// Up to where everything has been returned.
    pub(super) fn reached(&self) -> Revision {
        self.after
    }

    fn close(&mut self) -> Option<Batch> {
        let mut batch = self.open.take()?;
        batch.changes.sort_by(|a, b| a.key().cmp(b.key()));
        self.after = batch.revision;
        Some(batch)
    }
}
