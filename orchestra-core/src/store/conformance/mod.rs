//! The laws of [`Store`] as tests, for every implementation.
//!
//! A case cites the rules of the project's semantics that it shows, by number. None sleeps: that a watch says nothing
//! is shown by what it says next. A store under test is empty and nobody else writes to it.

#![allow(clippy::missing_panics_doc, reason = "a case panics where the law is broken")]

pub mod compaction;
pub mod concurrency;
pub mod expiry;
pub mod history;
pub mod limits;
pub mod model;
pub mod order;
pub mod reads;
pub mod reopening;
pub mod scale;
pub mod watch;

mod steps;

use std::{any::Any, future::Future, sync::Arc, time::Duration};

use futures::future::LocalBoxFuture;

use self::reopening::Reopenable;
use super::Store;

/// How long one case may take before it counts as hung.
const CASE_SECONDS_MAX: u64 = 60;

/// A store under test, with whatever has to live as long as it does.
///
/// Made from a store, or from a pair of a store and its guard, for example a temporary directory.
pub struct Subject {
    store: Arc<dyn Store>,
    guard: Option<Box<dyn Any>>,
}

impl<S: Store> From<S> for Subject {
    fn from(store: S) -> Self {
        Self { store: Arc::new(store), guard: None }
    }
}

impl<S: Store, G: 'static> From<(S, G)> for Subject {
    fn from((store, guard): (S, G)) -> Self {
        Self { store: Arc::new(store), guard: Some(Box::new(guard)) }
    }
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("store", &self.store).finish_non_exhaustive()
    }
}

/// Runs `case` on the store that `open` makes, on a runtime of two threads; [`store_conformance!`](crate::store_conformance)
/// calls it.
///
/// # Panics
///
/// If the store breaks the law, or the case does not end within a minute.
pub fn run<T, F>(open: impl FnOnce() -> F, case: impl AsyncFnOnce(&Arc<dyn Store>))
where
    T: Into<Subject>,
    F: Future<Output = T>,
{
    let open = async { open().await.into() };
    let case = |subject: Subject| -> LocalBoxFuture<'_, Subject> {
        Box::pin(async move {
            case(&subject.store).await;
            subject
        })
    };
    run_boxed(Box::pin(open), Box::new(case));
}

/// The same for a case that closes the store and opens it again by `reopen`, which is given the guard when the store is gone.
///
/// # Panics
///
/// As [`run`].
pub fn run_reopened<S, G, F, R>(
    open: impl FnOnce() -> F,
    reopen: impl Fn(G) -> R,
    case: impl AsyncFnOnce(&mut Reopenable<'_>),
) where
    S: Store,
    G: 'static,
    F: Future<Output = (S, G)>,
    R: Future<Output = (S, G)>,
{
    let open = async { open().await.into() };
    let case = |subject: Subject| -> LocalBoxFuture<'_, Subject> {
        Box::pin(async move {
            let mut opened = Reopenable::new(subject, reopen);
            case(&mut opened).await;
            opened.into_subject()
        })
    };
    run_boxed(Box::pin(open), Box::new(case));
}

/// The part of [`run`] that needs no copy for each case: they are many.
fn run_boxed<'a>(
    open: LocalBoxFuture<'a, Subject>,
    case: Box<dyn FnOnce(Subject) -> LocalBoxFuture<'a, Subject> + 'a>,
) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("the machine has threads to spare");
    runtime.block_on(async {
        let subject = open.await;
        let limit = Duration::from_secs(CASE_SECONDS_MAX);
        let Subject { store, guard } = tokio::time::timeout(limit, case(subject)).await.expect("the case ends in time");
        drop(store);
        drop(guard);
    });
}

/// Makes one test of each law and rule, on the stores that an expression opens.
///
/// The expression is a closure that returns a future of a store, or of a pair of a store and a guard that is dropped
/// after it. Each test opens its own.
///
/// What more the suite should know of a store follows, in this order:
///
/// - `value_bytes_max: N`, of a wrapper that adds something to each value: how large the largest is. For all others it is
///   [`VALUE_BYTES_MAX`](crate::store::VALUE_BYTES_MAX).
/// - `reopen: F`, of a store that keeps its data when it is dropped: a closure that takes the guard, in which the data is, and
///   returns a future of such a pair again. It may kill what is still there of the store. Without it there are no tests of
///   what is left then.
///
/// # Examples
///
/// ```ignore
/// mod conformance {
///     orchestra_core::store_conformance!(|| async { MyStore::new() });
/// }
///
/// mod conformance_on_disk {
///     orchestra_core::store_conformance!(
///         || async {
///             let directory = tempfile::tempdir().expect("a temporary directory");
///             (MyDiskStore::open(directory.path()), directory)
///         },
///         reopen: |directory: tempfile::TempDir| async { (MyDiskStore::open(directory.path()), directory) }
///     );
/// }
/// ```
#[macro_export]
macro_rules! store_conformance {
    (@value_bytes_max) => { $crate::store::VALUE_BYTES_MAX };
    (@value_bytes_max $value_bytes_max:expr) => { $value_bytes_max };
    ($open:expr $(, value_bytes_max: $value_bytes_max:expr)? $(, reopen: $reopen:expr)? $(,)?) => {
        $crate::store_conformance!(@cases $open, order: [
            an_empty_store_has_a_revision,
            each_commit_takes_the_next_revision,
            a_create_stamps_the_entry_with_its_commit,
            a_replace_keeps_the_revision_of_creation,
            a_key_created_again_has_a_new_revision_of_creation,
            a_create_of_a_present_key_conflicts,
            a_replace_of_what_was_replaced_conflicts,
            a_replace_of_an_absent_key_conflicts,
            a_delete_of_what_was_replaced_conflicts,
            a_value_that_went_and_came_back_is_not_the_one_seen,
            a_failed_check_applies_nothing,
            a_failed_commit_takes_no_revision,
            a_conflict_names_the_first_failed_check,
            checks_see_the_state_before_the_commit,
            a_check_guards_the_writes_of_other_keys,
            the_largest_transaction_commits_at_one_revision,
            deleting_an_absent_key_changes_nothing,
            a_transaction_without_writes_changes_nothing,
            a_put_of_the_same_value_is_a_change,
        ]);
        $crate::store_conformance!(@cases $open, reads: [
            an_absent_key_holds_nothing,
            a_commit_is_read_at_once,
            a_deletion_is_read_at_once,
            a_listing_is_in_key_order,
            a_listing_is_as_of_the_last_commit,
            a_listing_of_nothing_has_a_revision_too,
            a_prefix_ends_at_a_segment,
            the_empty_prefix_lists_every_key,
            a_long_listing_is_whole,
            a_value_of_any_bytes_comes_back,
            a_key_of_any_script_comes_back,
        ]);
        $crate::store_conformance!(@cases $open, limits: [
            the_largest_value_is_stored($crate::store_conformance!(@value_bytes_max $($value_bytes_max)?)),
            too_large_a_value_is_refused($crate::store_conformance!(@value_bytes_max $($value_bytes_max)?)),
            too_many_operations_are_refused,
            a_key_written_twice_is_refused,
            a_long_key_is_stored,
            a_value_is_any_bytes,
            a_write_without_a_check_is_refused,
            what_is_refused_changes_nothing,
            all_else_goes_on_after_a_refusal,
        ]);
        $crate::store_conformance!(@cases $open, watch: [
            a_watch_from_a_listing_yields_every_later_commit,
            a_watch_does_not_repeat_what_it_starts_after,
            a_watch_from_the_past_yields_history_first,
            a_watch_from_before_everything_yields_everything,
            a_batch_holds_one_whole_commit_in_key_order,
            a_watch_yields_only_what_is_under_its_prefix,
            a_deletion_is_yielded,
            what_failed_or_changed_nothing_is_not_yielded,
            a_watch_resumes_after_any_batch,
            a_watch_on_a_future_revision_waits_for_what_follows_it,
            revisions_of_a_watch_only_rise,
            a_bookmark_is_not_ahead_of_the_changes,
            two_watches_yield_the_same,
            a_watch_that_lags_loses_nothing,
            dropping_a_watch_disturbs_no_other,
            what_a_watch_has_told_a_read_shows,
        ]);
        $crate::store_conformance!(@cases $open, scale: [
            a_watch_that_is_far_behind_loses_nothing,
            each_of_many_watches_yields_everything,
            the_largest_commit_is_one_batch,
            the_last_of_many_checks_counts,
            revision_zero_is_nobodys,
            a_deep_prefix_is_listed_and_watched,
            the_largest_values_are_watched_and_listed($crate::store_conformance!(@value_bytes_max $($value_bytes_max)?)),
            a_long_key_is_watched,
        ]);
        $crate::store_conformance!(@cases $open, compaction: [
            a_watch_from_before_the_floor_fails_as_its_last_item,
            a_watch_from_the_floor_loses_nothing,
            the_floor_told_is_one_to_watch_from,
            compaction_keeps_entries_and_revision,
            compaction_twice_is_as_once,
            a_lower_floor_brings_nothing_back,
            a_floor_in_the_future_is_the_present,
            a_watch_that_has_caught_up_outlives_compaction,
            a_deletion_at_the_floor_is_yielded_or_owned_up_to,
            a_watch_overtaken_by_compaction_leaves_no_gap,
        ]);
        $crate::store_conformance!(@cases $open, concurrency: [
            of_many_creates_of_one_key_one_wins,
            no_compare_and_swap_is_lost,
            concurrent_commits_take_distinct_revisions,
            no_listing_is_torn,
            a_watch_under_load_rebuilds_the_listing,
            a_cache_holds_at_each_revision_what_is_listed,
            a_quiet_watch_is_not_starved,
            a_dropped_commit_happens_whole_or_not_at_all,
            generated_histories_are_as_the_laws_allow,
        ]);
        $crate::store_conformance!(@cases $open, expiry: [
            an_expiry_is_an_ordinary_deletion,
            an_expiry_of_what_was_renewed_conflicts,
            of_a_renewal_and_an_expiry_one_wins,
        ]);
        $($crate::store_conformance!(@reopened $open, $reopen, [
            a_reopened_store_is_the_one_that_was_closed,
            the_revision_of_a_reopened_store_is_that_of_its_last_commit,
            a_revision_is_not_used_again_after_reopening,
            a_revision_is_not_used_again_after_compaction_and_reopening,
            a_revision_seen_before_reopening_is_good_after_it,
            a_watch_resumes_over_reopening,
            compaction_and_reopening_leave_no_gap_in_a_watch,
            a_watch_on_a_future_revision_waits_over_reopening,
            an_unanswered_commit_has_happened_whole_or_not_at_all,
            generated_histories_go_on_over_reopening,
        ]);)?
        #[test]
        fn time_alone_changes_nothing() {
            $crate::store::conformance::expiry::check($open);
        }
        #[test]
        fn random_transactions_match_a_plain_model() {
            $crate::store::conformance::model::check($open);
        }

        /// Runs every case in turn, for programs that are no tests, and returns how many there are.
        #[allow(dead_code, reason = "used by programs only")]
        pub(crate) fn all() -> usize {
            let mut cases = vec![order::all(), reads::all(), limits::all(), watch::all(), scale::all()];
            cases.extend([compaction::all(), concurrency::all(), expiry::all()]);
            $(cases.push($crate::store_conformance!(@all_reopened $reopen));)?
            $crate::store::conformance::expiry::check($open);
            $crate::store::conformance::model::check($open);
            cases.into_iter().sum::<usize>() + 2
        }
    };
    (@all_reopened $reopen:expr) => { reopening::all() };
    (@reopened $open:expr, $reopen:expr, [$($case:ident),* $(,)?]) => {
        mod reopening {
            #[allow(unused_imports, clippy::wildcard_imports, reason = "the expressions may name anything around them")]
            use super::*;
            $(
                #[test]
                fn $case() {
                    $crate::store::conformance::run_reopened($open, $reopen, $crate::store::conformance::reopening::$case);
                }
            )*

            #[allow(dead_code, reason = "used by programs only")]
            pub(super) fn all() -> usize {
                let cases: &[fn()] = &[
                    $(|| $crate::store::conformance::run_reopened($open, $reopen, $crate::store::conformance::reopening::$case)),*
                ];
                cases.iter().for_each(|case| case());
                cases.len()
            }
        }
    };
    (@cases $open:expr, $module:ident: [$($case:ident $(($argument:expr))?),* $(,)?]) => {
        mod $module {
            #[allow(unused_imports, clippy::wildcard_imports, reason = "the expression may name anything around it")]
            use super::*;
            $(
                #[test]
                fn $case() {
                    $crate::store_conformance!(@run $open, $module::$case $(, $argument)?);
                }
            )*

            #[allow(dead_code, reason = "used by programs only")]
            pub(super) fn all() -> usize {
                let cases: &[fn()] = &[$(|| $crate::store_conformance!(@run $open, $module::$case $(, $argument)?)),*];
                cases.iter().for_each(|case| case());
                cases.len()
            }
        }
    };
    (@run $open:expr, $module:ident::$case:ident $(, $argument:expr)?) => {
        $crate::store::conformance::run($open, async |store: &_| {
            $crate::store::conformance::$module::$case(store $(, $argument)?).await;
        })
    };
}
