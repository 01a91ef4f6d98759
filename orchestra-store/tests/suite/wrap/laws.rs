//! The suite on every wrapper over every store, with the delays and faults that it can bear.
//!
//! Some faults the suite has no room for, though a store may have them. It takes revisions by the next number and checks who
//! wrote what, so no rival writes, and so no conflict with one; it expects history to be there until it has compacted it itself;
//! and it asks once, so that a commit of which nobody knows whether it happened has no place. Those are met in
//! [`history`](crate::history), where everybody is ready for anything.

use std::time::Duration;

use orchestra_core::{
    rng::Entropy,
    store::{
        Store,
        conformance::history::{Log, Recorded},
    },
};
use orchestra_store::{
    Counted, Faulty, MemoryStore, Prefixed, Slow,
    wrap::{Delay, Delays, Faults, Metrics},
};

use super::{encrypted, patient::Patient, prefix};

/// How long things take: enough that they overlap and overtake each other.
const DELAY: Duration = Duration::from_millis(1);
/// How often each fault happens.
const RATE: f64 = 0.1;

fn prefixed<S: Store>(store: S) -> Prefixed<S> {
    Prefixed::new(store, prefix(&["a", "b"]))
}

fn slow<S: Store>(store: S) -> Slow<S> {
    let delay = Delay { min: Duration::ZERO, jitter: DELAY };
    Slow::new(store, Delays { reads: delay, writes: delay, batches: delay }, Entropy::seeded(1))
}

fn counted<S: Store>(store: S) -> Counted<S> {
    Counted::new(store, Metrics::default())
}

async fn recorded<S: Store>(store: S) -> Recorded<S> {
    let log = Log::start(&store).await.expect("a listing");
    Recorded::new(store, log)
}

/// Calls come late or are refused, watches are cut, and whoever asks again gets through.
fn faulty<S: Store>(store: S) -> Patient<Faulty<S>> {
    let faults =
        Faults { unavailable_before: RATE, watch_cut: RATE, delay: RATE, delay_max: DELAY, ..Faults::default() };
    Patient::new(Faulty::new(store, faults, Entropy::seeded(1)))
}

/// The suite on what a wrapper makes of a store that an expression opens, and maybe another opens again.
macro_rules! conformance_of {
    ($name:ident: $wrap:expr, $open:expr, [$($reopen:expr)?] $(, value_bytes_max: $value_bytes_max:expr)?) => {
        mod $name {
            use super::*;
            orchestra_core::store_conformance!(
                || async {
                    let (store, guard) = $open().await;
                    ($wrap(store).await, guard)
                }
                $(, value_bytes_max: $value_bytes_max)?
                $(, reopen: |guard| async move {
                    let (store, guard) = $reopen(guard).await;
                    ($wrap(store).await, guard)
                })?
            );
        }
    };
}

/// The suite on each wrapper.
macro_rules! wrapped_conformance {
    ($open:expr $(, reopen: $reopen:expr)?) => {
        use super::*;

        conformance_of!(prefixed: async |store| prefixed(store), $open, [$($reopen)?]);
        conformance_of!(slow: async |store| slow(store), $open, [$($reopen)?]);
        conformance_of!(counted: async |store| counted(store), $open, [$($reopen)?]);
        conformance_of!(recorded: recorded, $open, [$($reopen)?]);
        conformance_of!(faulty: async |store| faulty(store), $open, [$($reopen)?]);
        conformance_of!(
            encrypted: async |store| encrypted(store),
            $open,
            [$($reopen)?],
            value_bytes_max: encrypted(MemoryStore::new()).value_bytes_max()
        );
    };
}

mod on_memory {
    async fn open() -> (MemoryStore, ()) {
        (MemoryStore::new(), ())
    }

    wrapped_conformance!(open);

    // One over the other, as a user may put them.
    conformance_of!(
        all_at_once: async |store| faulty(counted(slow(prefixed(encrypted(store))))),
        open,
        [],
        value_bytes_max: encrypted(MemoryStore::new()).value_bytes_max()
    );
}

mod on_durable {
    use orchestra_store::DurableStore;
    use tempfile::TempDir;

    async fn open() -> (DurableStore, TempDir) {
        reopen(tempfile::tempdir().expect("a temporary directory")).await
    }

    async fn reopen(directory: TempDir) -> (DurableStore, TempDir) {
        (DurableStore::open(directory.path()).expect("a store opens"), directory)
    }

    wrapped_conformance!(open, reopen: reopen);
}

/// A wrapper holds nothing of what is to be there again: that it is not in the way is seen on disk, where it costs less time.
#[cfg(feature = "etcd")]
mod on_etcd {
    use crate::etcd::open;

    wrapped_conformance!(open);
}
