//! How far a cache has come, for those who wait until it has come further.

use std::{
    pin::pin,
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::sync::Notify;

/// A number that only rises.
///
/// Whoever waits is woken in the order in which they came, so that a run can be repeated; those of a
/// [`tokio::sync::watch`] are woken in an order that is drawn by chance.
#[derive(Debug, Default)]
pub(crate) struct Watermark {
    value: AtomicU64,
    raised: Notify,
}

impl Watermark {
    pub(crate) fn get(&self) -> u64 {
        self.value.load(Ordering::Acquire)
    }

    /// Raises it to `value`, if it is lower, and wakes all who wait in any case.
    pub(crate) fn raise(&self, value: u64) {
        self.value.fetch_max(value, Ordering::AcqRel);
        self.raised.notify_waiters();
    }

    /// Waits until it has come to `value`.
    pub(crate) async fn reach(&self, value: u64) {
        self.until(|| self.get() >= value).await;
    }

    /// Waits until `holds`, which is asked now and whenever it is raised.
    pub(crate) async fn until(&self, holds: impl Fn() -> bool) {
        loop {
            let mut raised = pin!(self.raised.notified());
            // From here on no wake-up is missed.
            raised.as_mut().enable();
            if holds() {
                return;
            }
            raised.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::Watermark;

    #[tokio::test]
    async fn those_who_wait_are_woken_in_the_order_in_which_they_came() {
        let (mark, woken) = (Arc::new(Watermark::default()), Arc::new(Mutex::new(Vec::new())));
        let waiters: Vec<_> = (0..50)
            .map(|n| {
                let (mark, woken) = (Arc::clone(&mark), Arc::clone(&woken));
                tokio::spawn(async move {
                    mark.reach(1).await;
                    woken.lock().expect("no holder panics").push(n);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        mark.raise(1);
        for waiter in waiters {
            waiter.await.expect("it is woken");
        }
        assert_eq!(*woken.lock().expect("no holder panics"), (0..50).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_mark_never_falls() {
        let mark = Watermark::default();
        mark.raise(7);
        mark.raise(3);
        mark.reach(7).await;
        assert_eq!(mark.get(), 7);
    }
}
