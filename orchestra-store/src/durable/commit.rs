//! Group commit: whoever waits for the disk shares the next sync.
//!
//! Commits queue. The first to find nobody at work starts a leader on a blocking thread; it takes all that wait, decides
//! them one after the other, writes and syncs them as one frame, applies them to what readers see, and answers them. While
//! it syncs, the next group gathers. When none waits it ends, so an idle store costs nothing.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use orchestra_core::store::{Change, Entry, Error, Key, Listing, Op, Prefix, Result, Revision, Txn};
use tokio::{sync::oneshot, task::spawn_blocking};

use super::{checkpoint, error::WriteError, files, log::Log};
use crate::{
    state::{Commit, Stamp, State, stage},
    view::View,
};

/// The most commits that may wait for the disk; more are refused as unavailable.
const WAITING_COMMITS_MAX: usize = 65_536;
/// The most commits that share one sync.
const GROUP_COMMITS_MAX: usize = 4_096;
/// How many bytes of values a group gathers before it is full.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// The one writer of a durable store.
#[derive(Debug)]
pub(super) struct Committer {
    view: Arc<View>,
    directory: PathBuf,
    /// A log shorter than this is not worth a checkpoint.
    log_bytes_min: u64,
    /// Locked by the leader only.
    log: Mutex<Log>,
    queue: Mutex<Queue>,
    checkpointing: AtomicBool,
    closing: AtomicBool,
    jobs: Jobs,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Invariant: if any wait, there is a leader.
    led: bool,
}

#[derive(Debug)]
struct Waiting {
    txn: Txn,
    answer: oneshot::Sender<Result<Revision>>,
}

impl Committer {
    pub(super) fn new(view: Arc<View>, log: Log, directory: PathBuf, log_bytes_min: u64) -> Self {
        Self {
            view,
            directory,
            log_bytes_min,
            log: Mutex::new(log),
            queue: Mutex::default(),
            checkpointing: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            jobs: Jobs::default(),
        }
    }

    /// Queues a transaction at once, and resolves when it is durable and visible, or refused.
    pub(super) fn commit(self: &Arc<Self>, txn: Txn) -> impl Future<Output = Result<Revision>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        self.enqueue(Waiting { txn, answer });
        async { answered.await.unwrap_or_else(|_| Err(Error::Unavailable(WriteError::Abandoned.into()))) }
    }

    fn enqueue(self: &Arc<Self>, waiting: Waiting) {
        let mut queue = lock(&self.queue);
        if queue.waiting.len() >= WAITING_COMMITS_MAX {
            drop(queue);
            answer(waiting.answer, Err(Error::Unavailable(WriteError::Overloaded.into())));
            return;
        }
        queue.waiting.push_back(waiting);
        if !std::mem::replace(&mut queue.led, true) {
            drop(queue);
            let leader = Leader { job: Job::begin(self), leads: true };
            spawn_blocking(move || leader.run());
        }
    }

    /// Gives up what can wait and returns when no job is at work on the files any more.
    ///
    /// It blocks, for about as long as one sync takes.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::Relaxed);
        self.jobs.wait();
    }

    /// Decides, writes and applies one group; returns a result for each.
    fn commit_group(&self, group: impl IntoIterator<Item = Txn>) -> Vec<Result<Revision>> {
        let Staged { commits, results } = stage_group(&self.view.state(), group);
        if commits.is_empty() {
            return results;
        }
        if let Err(error) = lock(&self.log).append(&commits) {
            // The conflicts too: they were decided beside commits that did not happen.
            return results.iter().map(|_| Err(Error::Unavailable(Box::new(Arc::clone(&error))))).collect();
        }
        self.view.commit(|_| Ok(commits)).expect("the commits are decided");
        results
    }

    /// Starts a new log and a checkpoint of what came before, if the log has outgrown the entries.
    fn checkpoint_if_due(self: &Arc<Self>) {
        let live_bytes = self.view.state().live_bytes() as u64;
        let mut log = lock(&self.log);
        if log.len() < self.log_bytes_min.max(live_bytes) || self.checkpointing.swap(true, Ordering::Relaxed) {
            return;
        }
        // Only this leader commits, so the log ends where this listing does.
        let Listing { revision, entries } = self.view.list(&Prefix::all());
        match files::create_log(&self.directory, revision) {
            Ok((path, file, len)) => *log = Log::new(file, path, len),
            Err(error) => {
                tracing::warn!(%error, directory = %self.directory.display(), "can't begin a log; going on with the old");
                self.checkpointing.store(false, Ordering::Relaxed);
                return;
            }
        }
        let job = Job::begin(self);
        spawn_blocking(move || job.0.checkpoint(revision, &entries));
    }

    /// Writes a checkpoint and removes what it replaces; a failure leaves the older files, which say the same.
    fn checkpoint(&self, revision: Revision, entries: &[Entry]) {
        let stop = || self.closing.load(Ordering::Relaxed);
        let written = checkpoint::write(&self.directory, revision, entries, stop);
        match written {
            Ok(()) => {
                if let Err(error) = files::remove_before(&self.directory, revision) {
                    tracing::warn!(%error, "can't remove files that a checkpoint replaced");
                }
            }
            Err(_) if stop() => {}
            Err(error) => tracing::warn!(%error, %revision, "can't write a checkpoint; the log stays longer"),
        }
        self.checkpointing.store(false, Ordering::Relaxed);
    }
}

/// The one job that commits; there is none while no commit waits.
struct Leader {
    job: Job,
    /// Whether the lead is still this one's.
    leads: bool,
}

impl Leader {
    fn run(mut self) {
        while let Some(group) = self.next_group() {
            let (txns, senders): (Vec<Txn>, Vec<_>) =
                group.into_iter().map(|waiting| (waiting.txn, waiting.answer)).unzip();
            let results = self.job.0.commit_group(txns);
            for (sender, result) in senders.into_iter().zip(results) {
                answer(sender, result);
            }
            self.job.0.checkpoint_if_due();
        }
    }

    /// Takes what waits, up to the limits of a group; with nothing there, gives up the lead.
    fn next_group(&mut self) -> Option<Vec<Waiting>> {
        let mut queue = lock(&self.job.0.queue);
        if queue.waiting.is_empty() {
            (self.leads, queue.led) = (false, false);
            return None;
        }
        let mut bytes = 0;
        let mut group = Vec::new();
        while group.len() < GROUP_COMMITS_MAX && bytes < GROUP_BYTES_MAX {
            let Some(waiting) = queue.waiting.pop_front() else { break };
            bytes += waiting.txn.ops.iter().map(op_bytes).sum::<usize>();
            group.push(waiting);
        }
        Some(group)
    }
}

impl Drop for Leader {
    /// If the leader never ran, because the runtime ended, or panicked, tells those that wait instead of leaving them.
    fn drop(&mut self) {
        if !self.leads {
            return;
        }
        if std::thread::panicking() {
            lock(&self.job.0.log).poison();
        }
        let mut queue = lock(&self.job.0.queue);
        queue.led = false;
        queue.waiting.clear();
    }
}

/// What a group of transactions comes to, before it is written.
struct Staged {
    commits: Vec<Commit>,
    /// One for each transaction, in order.
    results: Vec<Result<Revision>>,
}

/// Decides `txns` one after the other, as if each were applied before the next.
fn stage_group(state: &State, txns: impl IntoIterator<Item = Txn>) -> Staged {
    let mut changed: BTreeMap<Key, Option<Stamp>> = BTreeMap::new();
    let mut revision = state.revision();
    let mut commits = Vec::new();
    let mut stage_one = |txn| {
        let stamp_of = |key: &Key| changed.get(key).copied().unwrap_or_else(|| state.stamp(key));
        if let Some(commit) = stage(txn, Revision(revision.0 + 1), stamp_of)? {
            revision = commit.revision;
            for change in &commit.changes {
                changed.insert(change.key().clone(), stamp_after(change));
            }
            commits.push(commit);
        }
        Ok(revision)
    };
    let results = txns.into_iter().map(&mut stage_one).collect();
    Staged { commits, results }
}

fn stamp_after(change: &Change) -> Option<Stamp> {
    match change {
        Change::Put(entry) => Some(Stamp { created: entry.created, modified: entry.modified }),
        Change::Delete(_) => None,
    }
}

fn op_bytes(op: &Op) -> usize {
    match op {
        Op::Put(key, value) => key.as_str().len() + value.len(),
        Op::Delete(key) => key.as_str().len(),
    }
}

/// Whoever asked may have left; then the outcome is of no interest.
fn answer(sender: oneshot::Sender<Result<Revision>>, result: Result<Revision>) {
    let _: Result<(), _> = sender.send(result);
}

/// What a lock guards is left whole by every holder, or poisoned in its own way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Counts the jobs that may touch the files.
#[derive(Debug, Default)]
struct Jobs {
    count: Mutex<usize>,
    ended: Condvar,
}

impl Jobs {
    /// Blocks until there is none.
    fn wait(&self) {
        let mut count = lock(&self.count);
        while *count > 0 {
            count = self.ended.wait(count).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// One job, from when it is handed to the runtime until it has ended or was dropped unrun.
struct Job(Arc<Committer>);

impl Job {
    fn begin(committer: &Arc<Committer>) -> Self {
        *lock(&committer.jobs.count) += 1;
        Self(Arc::clone(committer))
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        *lock(&self.0.jobs.count) -= 1;
        self.0.jobs.ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        path::PathBuf,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
    };

    use bytes::Bytes;
    use futures::future::join_all;
    use orchestra_core::store::{Error, Key, Revision, Txn};
    use proptest::prelude::*;

    use super::{Committer, stage_group};
    use crate::{
        durable::log::{Log, Media},
        state::{HistoryLimits, State, stage},
        view::View,
    };

    /// A disk that can be told to fail.
    #[derive(Clone, Default)]
    struct Disk {
        full: Arc<AtomicBool>,
        broken: Arc<AtomicBool>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.full.load(Ordering::Relaxed) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(bytes.len()) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Media for Disk {
        fn sync(&mut self) -> io::Result<()> {
            if self.broken.load(Ordering::Relaxed) { Err(io::Error::other("a dead sector")) } else { Ok(()) }
        }

        fn truncate(&mut self, _: u64) -> io::Result<()> {
            Ok(())
        }
    }

    fn committer(disk: &Disk) -> (Arc<Committer>, Arc<View>) {
        let view = Arc::new(View::new(State::new(HistoryLimits::default())));
        let log = Log::new(disk.clone(), PathBuf::from("log"), 0);
        (Arc::new(Committer::new(Arc::clone(&view), log, PathBuf::from("."), u64::MAX)), view)
    }

    fn create(name: &str) -> Txn {
        Txn::create(Key::new([name]).expect("a valid name"), Bytes::new())
    }

    /// Rule 18.
    #[tokio::test]
    async fn commits_to_a_full_disk_fail_until_there_is_space() {
        let disk = Disk::default();
        let (committer, view) = committer(&disk);
        disk.full.store(true, Ordering::Relaxed);
        assert!(matches!(committer.commit(create("a")).await, Err(Error::Unavailable(_))));
        assert_eq!(view.state().revision(), Revision(1));
        disk.full.store(false, Ordering::Relaxed);
        assert_eq!(committer.commit(create("a")).await.ok(), Some(Revision(2)));
    }

    /// Rule 3: the next sync may succeed without having written what the failed one was to write.
    #[tokio::test]
    async fn a_failed_sync_poisons_the_store() {
        let disk = Disk::default();
        let (committer, view) = committer(&disk);
        disk.broken.store(true, Ordering::Relaxed);
        assert!(matches!(committer.commit(create("a")).await, Err(Error::Unavailable(_))));
        disk.broken.store(false, Ordering::Relaxed);
        assert!(matches!(committer.commit(create("b")).await, Err(Error::Unavailable(_))));
        assert_eq!(view.state().revision(), Revision(1));
    }

    /// Commits that are queued before the leader has run share its first sync.
    #[tokio::test]
    async fn commits_that_wait_together_all_get_their_own_answer() {
        let (committer, _) = committer(&Disk::default());
        let names = ["a", "b", "a", "c"];
        let results = join_all(names.map(|name| committer.commit(create(name)))).await;
        assert!(matches!(results[2], Err(Error::Conflict { actual: Some(Revision(2)), .. })));
        let revisions: Vec<_> = results.into_iter().filter_map(Result::ok).collect();
        assert_eq!(revisions, [Revision(2), Revision(3), Revision(4)]);
    }

    #[test]
    fn a_commit_left_by_its_runtime_is_answered_and_the_next_one_works() {
        let (committer, _) = committer(&Disk::default());
        let runtime = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let first = runtime();
        let pending = {
            let _entered = first.enter();
            committer.commit(create("a"))
        };
        drop(first);
        let outcome = runtime().block_on(pending);
        assert!(matches!(outcome, Ok(_) | Err(Error::Unavailable(_))));
        assert!(runtime().block_on(async { committer.commit(create("b")).await }).is_ok());
        committer.close();
    }

    proptest! {
        /// Law 2: sharing a sync shows in no answer.
        #[test]
        fn a_group_comes_to_the_same_as_one_by_one(
            steps in prop::collection::vec((0_usize..3, any::<bool>(), 0_u64..8), 0..12),
        ) {
            let txns: Vec<Txn> = steps.iter().map(|(index, delete, seen)| {
                let key = Key::new([["a", "b", "c"][*index]]).expect("a valid name");
                match (delete, seen) {
                    (true, seen) => Txn::delete(key, Revision(*seen)),
                    (false, 0..=1) => Txn::create(key, Bytes::new()),
                    (false, seen) => Txn::replace(key, Revision(*seen), Bytes::new()),
                }
            }).collect();
            let mut state = State::new(HistoryLimits::default());
            let group = stage_group(&state, txns.clone());
            let mut commits = Vec::new();
            for (txn, result) in txns.into_iter().zip(group.results) {
                let next = Revision(state.revision().0 + 1);
                let alone = stage(txn, next, |key| state.stamp(key)).map(|commit| {
                    if let Some(commit) = commit {
                        commits.push(commit.clone());
                        state.apply(commit);
                    }
                    state.revision()
                });
                prop_assert_eq!(format!("{alone:?}"), format!("{result:?}"));
            }
            prop_assert_eq!(commits, group.commits);
        }
    }
}
