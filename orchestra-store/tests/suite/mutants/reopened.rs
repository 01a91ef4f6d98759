//! Stores that are not, when they are opened again, what they were.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use async_trait::async_trait;
use orchestra_core::store::{
    Entry, Key, Listing, Prefix, Result, Revision, Store, Txn, Watch,
    conformance::{self, reopening},
};
use orchestra_store::MemoryStore;

/// What is wrong when it is opened again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Nothing,
    /// It is empty.
    Forgets,
    /// It counts again from where its entries end, as if the rest had not been.
    ReusesRevisions,
    /// Watches go on from there, without what came before.
    SkipsHistory,
    /// Watches of the future are told of the present.
    HurriesWatches,
}

/// A store whose data lives on in its guard.
#[derive(Debug)]
struct Kept {
    inner: Arc<MemoryStore>,
    fault: Fault,
    opened_at: Revision,
}

#[async_trait]
impl Store for Kept {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        self.inner.list(prefix).await
    }

    async fn revision(&self) -> Result<Revision> {
        self.inner.revision().await
    }

    async fn commit(&self, txn: Txn) -> Result<Revision> {
        self.inner.commit(txn).await
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch> {
        let after = match self.fault {
            Fault::SkipsHistory => after.max(self.opened_at),
            Fault::HurriesWatches => after.min(self.revision().await?),
            _ => after,
        };
        self.inner.watch(prefix, after).await
    }

    async fn compact(&self, floor: Revision) -> Result<()> {
        self.inner.compact(floor).await
    }
}

async fn open(fault: Fault) -> (Kept, Arc<MemoryStore>) {
    reopen(fault, Arc::new(MemoryStore::new())).await
}

async fn reopen(fault: Fault, kept: Arc<MemoryStore>) -> (Kept, Arc<MemoryStore>) {
    let inner = match fault {
        Fault::Forgets => Arc::new(MemoryStore::new()),
        Fault::ReusesRevisions => Arc::new(without_the_end(&kept).await),
        _ => kept,
    };
    let opened_at = inner.revision().await.expect("a revision");
    (Kept { inner: Arc::clone(&inner), fault, opened_at }, inner)
}

/// A store with the entries of another, at the revision of the last of them.
async fn without_the_end(kept: &MemoryStore) -> MemoryStore {
    let mut entries = kept.list(&Prefix::all()).await.expect("a listing").entries;
    entries.sort_by_key(|entry| entry.modified);
    let store = MemoryStore::new();
    let filler = Key::new(["filler"]).expect("a valid key");
    for entry in entries {
        while store.revision().await.expect("a revision").0 + 1 < entry.modified.0 {
            let txn = match store.get(&filler).await.expect("a read") {
                Some(seen) => Txn::delete(filler.clone(), seen.modified),
                None => Txn::create(filler.clone(), entry.value.clone()),
            };
            store.commit(txn).await.expect("a commit");
        }
        store.commit(Txn::create(entry.key, entry.value)).await.expect("a commit");
    }
    store
}

/// Runs a case on a store with `fault` and returns whether the case failed.
macro_rules! is_caught {
    ($fault:expr, $case:path) => {
        catch_unwind(AssertUnwindSafe(|| {
            conformance::run_reopened(|| open($fault), |kept| reopen($fault, kept), $case);
        }))
        .is_err()
    };
}

#[test]
fn the_suite_catches_a_store_that_comes_back_without_what_it_acknowledged() {
    assert!(is_caught!(Fault::Forgets, reopening::a_reopened_store_is_the_one_that_was_closed));
    assert!(is_caught!(Fault::Forgets, reopening::a_revision_seen_before_reopening_is_good_after_it));
    assert!(is_caught!(Fault::Forgets, reopening::an_unanswered_commit_has_happened_whole_or_not_at_all));
    assert!(is_caught!(Fault::Forgets, reopening::generated_histories_go_on_over_reopening));
}

#[test]
fn the_suite_catches_a_store_that_uses_a_revision_again() {
    assert!(is_caught!(Fault::Forgets, reopening::the_revision_of_a_reopened_store_is_that_of_its_last_commit));
    assert!(is_caught!(Fault::ReusesRevisions, reopening::a_revision_is_not_used_again_after_reopening));
    assert!(is_caught!(Fault::ReusesRevisions, reopening::a_revision_is_not_used_again_after_compaction_and_reopening));
}

#[test]
fn the_suite_catches_a_store_whose_watches_skip_what_was_before_it_was_opened() {
    assert!(is_caught!(Fault::SkipsHistory, reopening::a_watch_resumes_over_reopening));
    assert!(is_caught!(Fault::SkipsHistory, reopening::compaction_and_reopening_leave_no_gap_in_a_watch));
    assert!(is_caught!(Fault::HurriesWatches, reopening::a_watch_on_a_future_revision_waits_over_reopening));
}

mod conformance_of_the_store_under_them {
    use super::{Arc, Fault, MemoryStore, open, reopen};

    orchestra_core::store_conformance!(
        || open(Fault::Nothing),
        reopen: |kept: Arc<MemoryStore>| reopen(Fault::Nothing, kept)
    );
}
