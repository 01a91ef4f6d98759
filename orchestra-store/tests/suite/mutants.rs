//! The suite itself on trial: each of these stores breaks one law, and the case made for it has to say so.

mod reopened;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::{
    StreamExt as _, future,
    stream::{self, Peekable},
};
use orchestra_core::store::{
    Batch, Change, Check, Entry, Error, Key, Listing, Prefix, Result, Revision, Store, Txn, Watch,
    conformance::{self, compaction, concurrency, expiry, order, reads, watch},
};
use orchestra_store::MemoryStore;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// What a [`Mutant`] does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// Commits although a check fails.
    IgnoresChecks,
    /// Answers a conflict as if the commit had happened.
    HidesConflicts,
    /// Tells of a conflict that a key is absent when it is not.
    HidesActual,
    /// Lists under `/p/a` what is under `/p/ab`.
    CutsSegments,
    /// Lists with the revision of a commit before.
    ListsAsOfBefore,
    /// Lists in the wrong order.
    ListsBackwards,
    /// Begins a watch with what the watcher has.
    RepeatsTheStart,
    /// Begins a watch one commit late.
    SkipsTheStart,
    /// Yields each change of a commit by itself.
    SplitsCommits,
    /// Sends a bookmark before the changes it covers.
    RunsAhead,
    /// Begins a watch on a future revision with a bookmark ahead of what is to come.
    PromisesTheFuture,
    /// Says on a watch of a future revision that it has come there.
    ClaimsTheFuture,
    /// Begins a watch with what was before the watcher asked for it.
    TellsThePast,
    /// Lets a watch go on only when all others have asked for more than they were given.
    WaitsForTheSlow,
    /// Deletes by itself what is a day old.
    Expires,
    /// Yields no deletions.
    ForgetsDeletions,
    /// Goes on from the floor as if nothing were missing.
    HidesCompaction,
}

/// A memory store with a fault.
#[derive(Debug)]
struct Mutant {
    inner: Arc<MemoryStore>,
    fault: Fault,
    /// Whose watch may go on.
    turn: Arc<Semaphore>,
}

impl Mutant {
    fn new(fault: Fault) -> Self {
        Self { inner: Arc::default(), fault, turn: Arc::new(Semaphore::new(1)) }
    }

    fn has(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    /// Deletes what `txn` wrote at `at` when a day has passed.
    fn expire(&self, txn: Txn, at: Revision) {
        let inner = Arc::clone(&self.inner);
        tokio::spawn(async move {
            tokio::time::sleep(DAY).await;
            for op in txn.ops {
                // Whoever was faster may have it.
                let _: Result<Revision> = inner.commit(Txn::delete(op.key().clone(), at)).await;
            }
        });
    }

    /// Makes every check of `txn` hold.
    async fn soften(&self, txn: &mut Txn) -> Result<()> {
        for check in &mut txn.checks {
            let key = check.key().clone();
            *check = match self.inner.get(&key).await? {
                Some(entry) => Check::Unchanged(key, entry.modified),
                None => Check::Absent(key),
            };
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Mutant {
    async fn get(&self, key: &Key) -> Result<Option<Entry>> {
        self.inner.get(key).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Listing> {
        let mut listing = self.inner.list(prefix).await?;
        match self.fault {
            Fault::CutsSegments => {
                listing.entries = self.inner.list(&Prefix::all()).await?.entries;
                let start = prefix.as_str().trim_end_matches('/');
                listing.entries.retain(|entry| entry.key.as_str().starts_with(start));
            }
            Fault::ListsAsOfBefore => listing.revision.0 -= 1,
            Fault::ListsBackwards => listing.entries.reverse(),
            _ => {}
        }
        Ok(listing)
    }

    async fn revision(&self) -> Result<Revision> {
        self.inner.revision().await
    }

    async fn commit(&self, mut txn: Txn) -> Result<Revision> {
        txn.validate()?;
        if self.has(Fault::IgnoresChecks) {
            self.soften(&mut txn).await?;
        }
        let expired = txn.clone();
        let result = self.inner.commit(txn).await;
        if self.has(Fault::Expires)
            && let Ok(at) = result
        {
            self.expire(expired, at);
        }
        match result {
            Err(Error::Conflict { .. }) if self.has(Fault::HidesConflicts) => self.revision().await,
            Err(Error::Conflict { key, .. }) if self.has(Fault::HidesActual) => {
                Err(Error::Conflict { key, actual: None })
            }
            result => result,
        }
    }

    async fn watch(&self, prefix: &Prefix, after: Revision) -> Result<Watch> {
        let after = match self.fault {
            Fault::RepeatsTheStart => Revision(after.0 - 1),
            Fault::SkipsTheStart => Revision(after.0 + 1),
            _ => after,
        };
        let inner = self.inner.watch(prefix, after).await?;
        Ok(match self.fault {
            Fault::SplitsCommits => inner.flat_map(|item| stream::iter(split(item))).boxed(),
            Fault::ForgetsDeletions => inner.map(without_deletions).boxed(),
            Fault::RunsAhead => {
                let bookmark = Batch { revision: self.revision().await?, changes: Vec::new() };
                stream::once(future::ready(Ok(bookmark))).chain(inner).boxed()
            }
            Fault::PromisesTheFuture if after > self.revision().await? => {
                // It comes with the first news, and not before.
                let news = inner.peekable();
                let promise = Batch { revision: Revision(after.0 + 2), changes: Vec::new() };
                let begin = |mut news: Peekable<Watch>| async move {
                    Pin::new(&mut news).peek().await;
                    stream::once(future::ready(Ok(promise))).chain(news)
                };
                stream::once(begin(news)).flatten().boxed()
            }
            Fault::ClaimsTheFuture => {
                let claim = Batch { revision: after, changes: Vec::new() };
                stream::iter((after > self.revision().await?).then_some(Ok(claim))).chain(inner).boxed()
            }
            Fault::TellsThePast => {
                let key = Key::new(["p", "gone"])?;
                let past = Batch { revision: after, changes: vec![Change::Delete(key)] };
                stream::once(future::ready(Ok(past))).chain(inner).boxed()
            }
            Fault::WaitsForTheSlow => {
                let state = (inner, Arc::clone(&self.turn), None);
                let in_turn = |(mut inner, turn, last): (Watch, Arc<Semaphore>, Option<OwnedSemaphorePermit>)| async move {
                    drop(last);
                    let item = inner.next().await?;
                    let permit = Arc::clone(&turn).acquire_owned().await.expect("it is never closed");
                    Some((item, (inner, turn, Some(permit))))
                };
                stream::unfold(state, in_turn).boxed()
            }
            Fault::HidesCompaction => match self.inner.watch(prefix, after).await?.next().await {
                Some(Err(Error::Compacted { floor })) => self.inner.watch(prefix, floor).await?,
                _ => inner,
            },
            _ => inner,
        })
    }

    async fn compact(&self, floor: Revision) -> Result<()> {
        self.inner.compact(floor).await
    }
}

fn split(item: Result<Batch>) -> Vec<Result<Batch>> {
    match item {
        Ok(Batch { revision, changes }) if changes.len() > 1 => {
            changes.into_iter().map(|change| Ok(Batch { revision, changes: vec![change] })).collect()
        }
        item => vec![item],
    }
}

fn without_deletions(item: Result<Batch>) -> Result<Batch> {
    item.map(|mut batch| {
        batch.changes.retain(|change| matches!(change, Change::Put(_)));
        batch
    })
}

/// Runs a case on a store with `fault` and returns whether the case failed.
macro_rules! is_caught {
    ($fault:expr, $case:path) => {
        catch_unwind(AssertUnwindSafe(|| {
            conformance::run(|| async { Mutant::new($fault) }, $case);
        }))
        .is_err()
    };
}

#[test]
fn the_suite_catches_a_store_that_commits_what_it_should_not() {
    assert!(is_caught!(Fault::IgnoresChecks, order::a_failed_check_applies_nothing));
    assert!(is_caught!(Fault::IgnoresChecks, concurrency::of_many_creates_of_one_key_one_wins));
    assert!(is_caught!(Fault::HidesConflicts, order::a_create_of_a_present_key_conflicts));
    assert!(is_caught!(Fault::HidesConflicts, concurrency::no_compare_and_swap_is_lost));
    assert!(is_caught!(Fault::HidesActual, order::a_conflict_names_the_first_failed_check));
}

#[test]
fn the_suite_catches_a_store_that_lists_what_is_not_so() {
    assert!(is_caught!(Fault::CutsSegments, reads::a_prefix_ends_at_a_segment));
    assert!(is_caught!(Fault::ListsAsOfBefore, reads::a_listing_is_as_of_the_last_commit));
    assert!(is_caught!(Fault::ListsBackwards, reads::a_listing_is_in_key_order));
}

#[test]
fn the_suite_catches_a_store_whose_watches_repeat_skip_or_tear() {
    assert!(is_caught!(Fault::RepeatsTheStart, watch::a_watch_does_not_repeat_what_it_starts_after));
    assert!(is_caught!(Fault::SplitsCommits, watch::a_batch_holds_one_whole_commit_in_key_order));
    assert!(is_caught!(Fault::RunsAhead, watch::a_bookmark_is_not_ahead_of_the_changes));
    assert!(is_caught!(Fault::TellsThePast, watch::a_watch_does_not_repeat_what_it_starts_after));
    assert!(is_caught!(Fault::PromisesTheFuture, watch::a_watch_on_a_future_revision_waits_for_what_follows_it));
    assert!(is_caught!(Fault::ClaimsTheFuture, watch::a_watch_on_a_future_revision_waits_for_what_follows_it));
    assert!(is_caught!(Fault::HidesCompaction, compaction::a_watch_from_before_the_floor_fails_as_its_last_item));
    assert!(is_caught!(Fault::HidesCompaction, compaction::the_floor_told_is_one_to_watch_from));
}

/// Its absence is noticed by the change that comes in place of the one that is missing.
#[test]
fn the_suite_catches_a_store_whose_watches_lose_changes() {
    assert!(is_caught!(Fault::SkipsTheStart, watch::a_watch_from_a_listing_yields_every_later_commit));
    assert!(is_caught!(Fault::ForgetsDeletions, watch::a_deletion_is_yielded));
}

#[test]
fn the_suite_catches_a_store_where_one_watch_waits_for_another() {
    assert!(is_caught!(Fault::WaitsForTheSlow, concurrency::a_quiet_watch_is_not_starved));
}

/// What follows the watches of such a store is no cache of it.
#[test]
fn the_suite_catches_a_store_whose_watches_do_not_add_up_to_its_listings() {
    assert!(is_caught!(Fault::ForgetsDeletions, concurrency::a_cache_holds_at_each_revision_what_is_listed));
    assert!(is_caught!(Fault::ListsAsOfBefore, concurrency::a_cache_holds_at_each_revision_what_is_listed));
}

#[test]
fn the_suite_catches_a_store_that_lets_a_renewed_lease_expire() {
    assert!(is_caught!(Fault::IgnoresChecks, expiry::an_expiry_of_what_was_renewed_conflicts));
    assert!(is_caught!(Fault::IgnoresChecks, expiry::of_a_renewal_and_an_expiry_one_wins));
    assert!(is_caught!(Fault::ForgetsDeletions, expiry::an_expiry_is_an_ordinary_deletion));
    let expires = catch_unwind(|| expiry::check(|| async { Mutant::new(Fault::Expires) }));
    assert!(expires.is_err());
}

/// Whatever is wrong with a store, callers who get in each other's way run into it.
#[test]
fn generated_histories_catch_what_the_cases_were_made_for() {
    for fault in [
        Fault::IgnoresChecks,
        Fault::HidesConflicts,
        Fault::HidesActual,
        Fault::ListsAsOfBefore,
        Fault::ListsBackwards,
        Fault::RepeatsTheStart,
        Fault::SplitsCommits,
        Fault::RunsAhead,
        Fault::TellsThePast,
        Fault::ForgetsDeletions,
    ] {
        assert!(is_caught!(fault, concurrency::generated_histories_are_as_the_laws_allow), "{fault:?}");
    }
}

#[test]
fn the_suite_passes_the_store_under_the_mutants() {
    conformance::run(|| async { MemoryStore::new() }, watch::a_batch_holds_one_whole_commit_in_key_order);
}
