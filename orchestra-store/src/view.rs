//! What the readers and watchers of an embedded store see.
//!
//! There is one lock, held for no longer than a read or an apply takes, and no buffer for a watcher: a watch is a
//! cursor over the shared history, so that a thousand slow ones cost a writer nothing (SEMANTICS 14).

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::{StreamExt as _, stream};
use orchestra_core::store::{Batch, Change, Entry, Error, Key, Listing, Prefix, Result, Revision, Watch};
use tokio::sync::Notify;

use crate::state::{Commit, FIRST, State};

/// How many commits a watch looks at before it lets go of the lock.
const SCAN_COMMITS_MAX: usize = 256;
/// After how many commits that did not concern it a watch that has caught up tells how far it is, at the latest twice.
const BOOKMARK_COMMITS: u64 = 1_000;

/// A [`State`] that can be read and watched while one writer applies commits.
#[derive(Debug)]
pub(crate) struct View {
    state: RwLock<State>,
    /// One for each prefix that is watched. Locked after `state` by whoever locks both.
    topics: Mutex<BTreeMap<Prefix, Watched>>,
}

/// A prefix that is watched.
#[derive(Debug)]
struct Watched {
    topic: Arc<Topic>,
    /// How many watches there are; never 0.
    watches: usize,
}

/// What the watches of one prefix share, so that a commit wakes only those it concerns.
#[derive(Debug)]
struct Topic {
    /// No commit after this revision concerned the prefix. Written under the write lock of the state.
    last: AtomicU64,
    /// No forgotten commit after this revision concerned the prefix. Written under the write lock of the state.
    forgotten: AtomicU64,
    /// Wakes the watches in the order in which they began to wait: runs repeat under a seed.
    changed: Notify,
}

impl View {
    pub(crate) fn new(state: State) -> Self {
        Self { state: RwLock::new(state), topics: Mutex::default() }
    }

    /// The state, locked against writers.
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn topics(&self) -> MutexGuard<'_, BTreeMap<Prefix, Watched>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies the commits that `decide` makes of the state, and wakes the watches that they concern; returns the revision.
    pub(crate) fn commit(&self, decide: impl FnOnce(&State) -> Result<Vec<Commit>>) -> Result<Revision> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let commits = decide(&state)?;
        let before = state.revision();
        let mut woken = note(&self.topics(), &commits, |topic| &topic.last);
        for commit in commits {
            let forgotten = state.apply(commit);
            note(&self.topics(), &forgotten, |topic| &topic.forgotten);
        }
        let now = state.revision();
        if now.0 / BOOKMARK_COMMITS > before.0 / BOOKMARK_COMMITS {
            woken = self.topics().values().map(|watched| Arc::clone(&watched.topic)).collect();
        }
        drop(state);
        for topic in woken {
            topic.changed.notify_waiters();
        }
        Ok(now)
    }

    /// Forgets the history before `floor`; see [`State::compact`].
    pub(crate) fn compact(&self, floor: Revision) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        let forgotten = state.compact(floor);
        note(&self.topics(), &forgotten, |topic| &topic.forgotten);
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Entry> {
        self.state().get(key).cloned()
    }

    pub(crate) fn list(&self, prefix: &Prefix) -> Listing {
        let state = self.state();
        Listing { revision: state.revision(), entries: state.under(prefix).cloned().collect() }
    }

    /// Follows the commits after `after` to keys under `prefix`.
    pub(crate) fn watch(self: &Arc<Self>, prefix: Prefix, after: Revision) -> Watch {
        stream::try_unfold(self.cursor(prefix, after), |mut cursor| async {
            let batch = cursor.next().await?;
            Ok(Some((batch, cursor)))
        })
        .boxed()
    }

    fn cursor(self: &Arc<Self>, prefix: Prefix, after: Revision) -> Cursor {
        let topic = {
            let state = self.state();
            let new = || Topic {
                last: AtomicU64::new(state.revision().0),
                forgotten: AtomicU64::new(state.floor().0),
                changed: Notify::new(),
            };
            let mut topics = self.topics();
            let watched =
                topics.entry(prefix.clone()).or_insert_with(|| Watched { topic: Arc::new(new()), watches: 0 });
            watched.watches += 1;
            Arc::clone(&watched.topic)
        };
        let position = Position { prefix, after: after.max(FIRST), told: None };
        Cursor { view: Arc::clone(self), topic, position }
    }
}

/// Notes at each topic the last of `commits`, which are in order, that concerns it; returns the topics there are such for.
fn note(
    topics: &BTreeMap<Prefix, Watched>,
    commits: &[Commit],
    field: impl Fn(&Topic) -> &AtomicU64,
) -> Vec<Arc<Topic>> {
    let Some(first) = commits.first() else { return Vec::new() };
    let mut concerned = Vec::new();
    for commit in commits {
        for prefix in commit.changes.iter().flat_map(|change| prefixes_of(change.key())) {
            let Some(Watched { topic, .. }) = topics.get(prefix) else { continue };
            if field(topic).swap(commit.revision.0, Ordering::Relaxed) < first.revision.0 {
                concerned.push(Arc::clone(topic));
            }
        }
    }
    concerned
}

/// The paths of all prefixes that `key` is under.
fn prefixes_of(key: &Key) -> impl Iterator<Item = &str> {
    let path = key.as_str();
    path.match_indices('/').map(|(slash, _)| &path[..=slash])
}

/// One watch.
struct Cursor {
    view: Arc<View>,
    topic: Arc<Topic>,
    position: Position,
}

/// How far one watch has come.
///
/// A bookmark follows the first time the cursor has caught up with the present, and then when it has caught up and passed
/// [`BOOKMARK_COMMITS`] without a word.
struct Position {
    prefix: Prefix,
    /// No commit up to this one is still to be yielded.
    after: Revision,
    /// The last revision the watcher was told, once it was told one.
    told: Option<Revision>,
}

impl Cursor {
    async fn next(&mut self) -> Result<Batch> {
        loop {
            match self.position.advance(&self.view, &self.topic)? {
                Advance::Yield(batch) => return Ok(batch),
                Advance::More => {}
                Advance::CaughtUp => self.changed().await,
            }
        }
    }

    /// Waits, unless there has been a commit since the position was advanced: who is behind finds something without standing
    /// in line for it, which all watches of a topic share.
    async fn changed(&self) {
        let mut changed = pin!(self.topic.changed.notified());
        changed.as_mut().enable();
        if self.view.state().revision() <= self.position.after {
            changed.await;
        }
    }
}

impl Position {
    fn advance(&mut self, view: &View, topic: &Topic) -> Result<Advance> {
        let state = view.state();
        if self.after.0 < topic.forgotten.load(Ordering::Relaxed) {
            return Err(Error::Compacted { floor: state.floor() });
        }
        // What was forgotten since, or all if the prefix is at rest, is not this watch's business.
        let at_rest = self.after.0 >= topic.last.load(Ordering::Relaxed);
        let skipped = if at_rest { state.revision() } else { state.floor() };
        let mut seen = self.after.max(skipped);
        for commit in state.after(seen)?.take(SCAN_COMMITS_MAX) {
            seen = commit.revision;
            let changes = changes_under(&self.prefix, commit);
            if !changes.is_empty() {
                (self.after, self.told) = (seen, Some(seen));
                return Ok(Advance::Yield(Batch { revision: seen, changes }));
            }
        }
        self.after = seen;
        if seen < state.revision() {
            return Ok(Advance::More);
        }
        // A watch on a future revision says nothing before the store has come there (SEMANTICS 11).
        let due = self.told.is_none_or(|told| seen.0 - told.0 >= BOOKMARK_COMMITS);
        if seen == state.revision() && due {
            self.told = Some(seen);
            return Ok(Advance::Yield(Batch { revision: seen, changes: Vec::new() }));
        }
        Ok(Advance::CaughtUp)
    }
}

impl Drop for Cursor {
    /// The last watch of a prefix takes the topic with it.
    fn drop(&mut self) {
        let mut topics = self.view.topics();
        let Some(watched) = topics.get_mut(&self.position.prefix) else { return };
        watched.watches -= 1;
        if watched.watches == 0 {
            topics.remove(&self.position.prefix);
        }
    }
}

/// What a look at the history came to.
enum Advance {
    Yield(Batch),
    More,
    CaughtUp,
}

fn changes_under(prefix: &Prefix, commit: &Commit) -> Vec<Change> {
    commit.changes.iter().filter(|change| prefix.contains(change.key())).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        task::{Context, Wake, Waker},
        thread,
    };

    use bytes::Bytes;
    use futures::{FutureExt as _, StreamExt as _};
    use orchestra_core::store::{Key, Prefix, Revision, Txn, Watch};
    use proptest::prelude::*;

    use super::{Advance, BOOKMARK_COMMITS, View};
    use crate::state::{HistoryLimits, State, stage};

    fn view(commits_max: usize) -> Arc<View> {
        Arc::new(View::new(State::new(HistoryLimits { commits_max, ..HistoryLimits::default() })))
    }

    fn create(view: &View, folder: &str, name: &str) -> Revision {
        let key = Key::new([folder, name]).expect("a valid key");
        let commit = |state: &State| {
            let next = Revision(state.revision().0 + 1);
            let commit = stage(Txn::create(key, Bytes::new()), next, |key| state.stamp(key))?;
            Ok(Vec::from_iter(commit))
        };
        view.commit(commit).expect("no conflict")
    }

    fn watch(view: &Arc<View>, after: Revision) -> Watch {
        view.watch(Prefix::new(["p"]).expect("a valid prefix"), after)
    }

    #[derive(Default)]
    struct Wakes(AtomicU64);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The revision of the next batch and how many changes it holds; `None` if there is nothing yet.
    fn next(watch: &mut Watch) -> Option<(Revision, usize)> {
        let item = watch.next().now_or_never()?;
        let batch = item.expect("a watch does not end").expect("the watch goes on");
        Some((batch.revision, batch.changes.len()))
    }

    /// Rule 11: history that does not concern a watch may go.
    #[test]
    fn a_watch_of_a_prefix_at_rest_outlives_any_amount_of_other_history() {
        let view = view(3);
        let mut watch = watch(&view, Revision(1));
        for index in 0..50 {
            create(&view, "q", &index.to_string());
        }
        let at = create(&view, "p", "a");
        assert_eq!(next(&mut watch), Some((at, 1)));
        assert_eq!(next(&mut watch), None);
    }

    proptest! {
        /// Rules 10, 11, 14 and 15: a watch yields every commit that concerns it, in order, or fails when the next one is
        /// forgotten, and only then.
        #[test]
        fn a_watch_fails_exactly_when_it_would_skip_something(
            steps in prop::collection::vec((0_u8..8, 0_u64..60), 1..80),
            commits_max in 0_usize..6,
        ) {
            let view = view(commits_max);
            let mut watch = watch(&view, Revision(0));
            let mut due = VecDeque::new();
            for (index, (step, revision)) in steps.into_iter().enumerate() {
                match step {
                    0..3 => due.push_back(create(&view, "p", &index.to_string())),
                    3..6 => { create(&view, "q", &index.to_string()); }
                    6 => view.compact(Revision(revision)),
                    _ => match watch.next().now_or_never().flatten() {
                        Some(Ok(batch)) if batch.changes.is_empty() => prop_assert!(due.is_empty()),
                        Some(Ok(batch)) => prop_assert_eq!(Some(batch.revision), due.pop_front()),
                        Some(Err(_)) => {
                            prop_assert!(due.front().is_some_and(|next| *next <= view.state().floor()));
                            return Ok(());
                        }
                        None => prop_assert!(due.is_empty()),
                    },
                }
            }
        }
    }

    /// Rule 14: a watch that lags behind the history of its own prefix is told.
    #[test]
    fn a_watch_behind_the_history_of_its_prefix_is_compacted() {
        let view = view(3);
        let mut watch = watch(&view, Revision(1));
        for index in 0..5 {
            create(&view, "p", &index.to_string());
        }
        let item = watch.next().now_or_never().flatten().expect("an item");
        assert!(item.is_err());
        assert!(watch.next().now_or_never().expect("ready").is_none());
    }

    #[test]
    fn a_watch_sends_a_bookmark_when_it_has_caught_up_and_then_rarely() {
        let view = view(10);
        let mut watch = watch(&view, Revision(1));
        assert_eq!(next(&mut watch), Some((Revision(1), 0)));
        assert_eq!(next(&mut watch), None);
        let bookmarks: Vec<_> = (0..3 * BOOKMARK_COMMITS)
            .filter_map(|index| {
                create(&view, "q", &index.to_string());
                next(&mut watch)
            })
            .collect();
        assert!(!bookmarks.is_empty() && bookmarks.len() <= 3, "got {bookmarks:?}");
        assert!(bookmarks.iter().all(|(_, changes)| *changes == 0));
    }

    #[test]
    fn a_commit_elsewhere_wakes_no_watch() {
        let view = view(10);
        let mut watch = watch(&view, Revision(1));
        next(&mut watch);
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut context = Context::from_waker(&waker);
        assert!(watch.poll_next_unpin(&mut context).is_pending());
        create(&view, "q", "a");
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
        create(&view, "p", "a");
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
    }

    /// Rule 14: between its last look at the history and its wait a watch misses no commit.
    #[test]
    fn a_watch_that_goes_to_sleep_misses_no_commit() {
        let view = view(10);
        let mut cursor = view.cursor(Prefix::new(["p"]).expect("a valid prefix"), Revision(1));
        cursor.next().now_or_never().expect("a bookmark").expect("a bookmark");
        let looked = cursor.position.advance(&view, &cursor.topic);
        assert!(matches!(looked, Ok(Advance::CaughtUp)));
        assert!(cursor.changed().now_or_never().is_none(), "there is nothing to see");
        create(&view, "p", "a");
        assert!(cursor.changed().now_or_never().is_some(), "it sleeps though there is a commit");
        let future = view.cursor(Prefix::new(["p"]).expect("a valid prefix"), Revision(9));
        assert!(future.changed().now_or_never().is_none(), "there is nothing to see");
    }

    #[test]
    fn watches_that_are_dropped_beside_commits_leave_nothing_behind() {
        let view = view(10);
        let other = Arc::clone(&view);
        thread::scope(|scope| {
            let writer = scope.spawn(move || {
                for index in 0..20_000 {
                    create(&other, "p", &index.to_string());
                }
            });
            while !writer.is_finished() {
                drop(watch(&view, Revision(1)));
            }
        });
        assert!(view.topics().is_empty());
    }

    #[test]
    fn dropped_watches_leave_nothing_behind() {
        let view = view(10);
        let watches = [watch(&view, Revision(1)), watch(&view, Revision(1))];
        assert_eq!(view.topics().len(), 1);
        drop(watches);
        assert!(view.topics().is_empty());
    }
}
