//! Which pods are due: plain data. A pod that found no place waits for its backoff, and for something to change.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

/// What a pod waits after its first failure, and at most; kube-scheduler's defaults.
const BACKOFF: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// After this long a pod is tried again although nothing seems to have changed; kube-scheduler's own safety net.
const PARKED_MAX: Duration = Duration::from_secs(300);
/// How many failures of a pod are told as they come, and how often after that; as client-go limits the events of an object.
const TOLD_AT_ONCE_MAX: u32 = 25;
const TOLD_EVERY: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug)]
struct Failed {
    attempts: u32,
    /// When a failure was last to be told.
    told_at: Instant,
    /// Not tried before.
    not_before: Instant,
    /// Not tried before something changes, or this moment comes.
    parked_until: Option<Instant>,
}

/// The pods that have failed, by uid; all others are due.
#[derive(Debug, Default)]
pub(super) struct Queue {
    failed: BTreeMap<String, Failed>,
}

impl Queue {
    /// Whether a pod is to be tried at `now`.
    pub(super) fn is_due(&self, uid: &str, now: Instant) -> bool {
        self.failed.get(uid).is_none_or(|failed| failed.due_at() <= now)
    }

    /// Notes that a pod found no place: it waits for a change. Returns whether that is to be told, not too often.
    pub(super) fn found_no_place(&mut self, uid: &str, now: Instant) -> bool {
        self.fail(uid, now, Some(now + PARKED_MAX)) == now
    }

    /// Notes that a pod's place was refused: it is tried again soon, whatever changes.
    pub(super) fn refused(&mut self, uid: &str, now: Instant) {
        let _ = self.fail(uid, now, None);
    }

    /// Something changed that could make a place: nobody waits for that any longer.
    pub(super) fn wake(&mut self) {
        self.failed.values_mut().for_each(|failed| failed.parked_until = None);
    }

    /// A pod itself changed: it waits for nothing but its backoff.
    pub(super) fn wake_one(&mut self, uid: &str) {
        if let Some(failed) = self.failed.get_mut(uid) {
            failed.parked_until = None;
        }
    }

    /// How many pods wait for their backoff alone, and how many for a change.
    pub(super) fn counts(&self) -> (usize, usize) {
        let parked = self.failed.values().filter(|failed| failed.parked_until.is_some()).count();
        (self.failed.len() - parked, parked)
    }

    /// Forgets the pods that don't wait any more.
    pub(super) fn retain(&mut self, waits: impl Fn(&str) -> bool) {
        self.failed.retain(|uid, _| waits(uid));
    }

    /// When the next pod is due; `None` if none waits.
    pub(super) fn next_at(&self) -> Option<Instant> {
        self.failed.values().map(Failed::due_at).min()
    }

    /// Returns when a failure of the pod was last to be told.
    fn fail(&mut self, uid: &str, now: Instant, parked_until: Option<Instant>) -> Instant {
        let (attempts, told_at) = self.failed.get(uid).map_or((0, now), |failed| (failed.attempts, failed.told_at));
        let backoff = BACKOFF.saturating_mul(2_u32.saturating_pow(attempts)).min(BACKOFF_MAX);
        let told_at = if attempts < TOLD_AT_ONCE_MAX || now >= told_at + TOLD_EVERY { now } else { told_at };
        let attempts = attempts.saturating_add(1);
        self.failed.insert(uid.to_owned(), Failed { attempts, told_at, not_before: now + backoff, parked_until });
        told_at
    }
}

impl Failed {
    fn due_at(&self) -> Instant {
        self.parked_until.map_or(self.not_before, |parked| parked.max(self.not_before))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use tokio::time::Instant;

    use super::{BACKOFF_MAX, Queue, TOLD_AT_ONCE_MAX, TOLD_EVERY};

    /// As client-go limits the events of an object.
    #[tokio::test(start_paused = true)]
    async fn what_fails_again_and_again_is_told_at_once_and_then_now_and_then() {
        let (mut queue, mut now) = (Queue::default(), Instant::now());
        let mut tells = |wait: Duration| {
            now += wait;
            queue.found_no_place("p", now)
        };
        assert!((0..TOLD_AT_ONCE_MAX).all(|_| tells(BACKOFF_MAX)));
        let told = (0..90).filter(|_| tells(BACKOFF_MAX)).count();
        assert_eq!(told, 3, "in a quarter of an hour");
        assert!(tells(TOLD_EVERY) && !tells(BACKOFF_MAX));
    }

    proptest! {
        /// SEMANTICS 49: whatever fails how often, once something changes each pod is due within the longest backoff.
        #[test]
        fn every_pod_is_due_in_time_after_a_change(failures in proptest::collection::vec((0..4_u8, any::<bool>(), 0..20_u64), 0..50)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            let mut now = runtime.block_on(async { Instant::now() });
            let mut queue = Queue::default();
            for (pod, refused, wait) in failures {
                now += Duration::from_secs(wait);
                if refused {
                    queue.refused(&pod.to_string(), now);
                } else {
                    queue.found_no_place(&pod.to_string(), now);
                }
                prop_assert!(!queue.is_due(&pod.to_string(), now));
            }
            queue.wake();
            for pod in 0..4_u8 {
                prop_assert!(queue.is_due(&pod.to_string(), now + BACKOFF_MAX));
            }
        }
    }
}
