//! What changed in a cache, for those who act on it.

use std::{fmt, sync::Arc};

use futures::{Stream, stream};

use super::{Cached, Lister, ObjectKey, cache::Pending};

/// One object that changed since a subscriber last looked.
#[derive(Clone, Debug)]
pub struct Change<K> {
    /// Which object.
    pub key: ObjectKey,
    /// The object that the subscriber was shown last; `None` if it is new to it.
    pub old: Option<Arc<K>>,
    /// The object as it is; `None` if it is gone.
    pub new: Option<Arc<K>>,
}

/// A subscription to a cache: at most one change for each object waits, however often it changed.
pub struct Changes<K> {
    lister: Lister<K>,
    pending: Arc<Pending<K>>,
}

impl<K> fmt::Debug for Changes<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Changes")
    }
}

impl<K: Cached> Changes<K> {
    pub(super) fn new(lister: Lister<K>, pending: Arc<Pending<K>>) -> Self {
        Self { lister, pending }
    }

    /// Waits for the next change; in the order of keys among those that wait.
    ///
    /// # Cancellation
    ///
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Change<K> {
        let (key, old) = self.pending.next().await;
        let new = self.lister.get(&key);
        Change { key, old, new }
    }

    /// The changes as a stream, which never ends.
    pub fn into_stream(self) -> impl Stream<Item = Change<K>> + Send {
        stream::unfold(self, |mut changes| async move { Some((changes.next().await, changes)) })
    }
}
