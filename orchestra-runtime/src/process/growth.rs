//! Which files have grown: inotify, one instance for a runtime.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::fs::inotify;
use tokio::{net::unix::pipe, sync::Notify};

/// How much is read at once, in bytes: some hundreds of events.
const EVENTS_BYTES: usize = 4_096;

/// Tells whoever watches a file when it has grown.
pub(super) struct Growth {
    events: pipe::Receiver,
    watchers: Mutex<HashMap<i32, Arc<Notify>>>,
}

/// A watch on files; it ends when dropped.
pub(super) struct Watch {
    growth: Arc<Growth>,
    descriptors: Vec<i32>,
}

impl Growth {
    pub(super) fn new() -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        // Not a pipe, but read like one: the type is tokio's safe way to wait for a descriptor.
        Ok(Self { events: pipe::Receiver::from_owned_fd_unchecked(fd)?, watchers: Mutex::default() })
    }

    /// Notifies `watcher` whenever one of the files grows.
    pub(super) fn watch(self: &Arc<Self>, paths: &[PathBuf], watcher: &Arc<Notify>) -> io::Result<Watch> {
        let mut watch = Watch { growth: self.clone(), descriptors: Vec::new() };
        for path in paths {
            let mut watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
            let descriptor = inotify::add_watch(&self.events, path, inotify::WatchFlags::MODIFY)?;
            watchers.insert(descriptor, watcher.clone());
            watch.descriptors.push(descriptor);
        }
        Ok(watch)
    }

    /// Passes events on, for ever.
    pub(super) async fn run(&self) -> io::Result<()> {
        let mut events = [0; EVENTS_BYTES];
        loop {
            self.events.readable().await?;
            match self.events.try_read(&mut events) {
                Ok(read) => self.tell(&events[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Notifies the watchers named by events; each event is 16 bytes, for files without a name: inotify(7).
    fn tell(&self, events: &[u8]) {
        const EVENT_BYTES: usize = 16;
        let watchers = self.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        for event in events.chunks_exact(EVENT_BYTES) {
            let descriptor = event.first_chunk().map(|bytes| i32::from_ne_bytes(*bytes));
            descriptor.and_then(|descriptor| watchers.get(&descriptor)).inspect(|watcher| watcher.notify_one());
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut watchers = self.growth.watchers.lock().unwrap_or_else(PoisonError::into_inner);
        for &descriptor in &self.descriptors {
            watchers.remove(&descriptor);
            // The kernel has dropped it already if the file is gone.
            let _gone = inotify::remove_watch(&self.growth.events, descriptor);
        }
    }
}
