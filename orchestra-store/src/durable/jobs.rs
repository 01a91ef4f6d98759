//! The work on the files that goes on beside the calls of a store.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The jobs of one store: closing waits for those that have begun, and none begins later.
///
/// What was handed to a runtime and has not begun is not waited for: it may never begin.
#[derive(Clone, Debug, Default)]
pub(super) struct Jobs(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct State {
    running: usize,
    closing: bool,
}

impl Jobs {
    /// Begins a job; `None` if it is too late for that.
    pub(super) fn begin(&self) -> Option<Running> {
        let mut state = self.0.lock();
        if state.closing {
            return None;
        }
        state.running += 1;
        Some(Running(self.clone()))
    }

    /// Whether no job begins any more, and those that run should come to an end.
    pub(super) fn is_closing(&self) -> bool {
        self.0.lock().closing
    }

    /// Lets no job begin from now on.
    pub(super) fn close(&self) {
        self.0.lock().closing = true;
    }

    /// Blocks until none runs.
    pub(super) fn wait(&self) {
        let mut state = self.0.lock();
        while state.running > 0 {
            state = self.0.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A job that runs until this is dropped.
#[derive(Debug)]
pub(super) struct Running(Jobs);

impl Drop for Running {
    fn drop(&mut self) {
        let Self(Jobs(shared)) = self;
        shared.lock().running -= 1;
        shared.ended.notify_all();
    }
}
