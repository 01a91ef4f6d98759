//! Group commit: whoever waits for the disk shares the next sync.
//!
//! Commits queue. The first to find nobody at work starts a leader on a blocking thread; it takes all that wait, decides
//! them one after the other, writes and syncs them as one frame, applies them to what readers see, and answers them. While
//! it syncs, the next group gathers. When none waits it ends, so an idle store costs nothing.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use orchestra_core::store::{Error, Listing, Op, Prefix, Result, Revision, Txn};
use tokio::{runtime::Handle, sync::oneshot, task::spawn_blocking};

use super::{
    checkpoint,
    codec::{DELETION_BYTES, ENTRY_BYTES, FileKind},
    disk::Disk,
    error::WriteError,
    files::{create_log, file_name, remove_before},
    group::{Staged, stage_group},
    jobs::{Jobs, Running},
    log::{End, Log},
    reserve::Reserve,
};
use crate::{state::Size, view::View};

/// The most commits that may wait for the disk; more are refused as unavailable.
const WAITING_COMMITS_MAX: usize = 65_536;
/// How many bytes of keys and values they may have; one that comes alone may have more.
const WAITING_BYTES_MAX: usize = 256 << 20;
/// The most commits that share one sync.
const GROUP_COMMITS_MAX: usize = 4_096;
/// How many bytes of values a group gathers before it is full.
const GROUP_BYTES_MAX: usize = 8 << 20;

/// The one writer of a durable store.
#[derive(Debug)]
pub(super) struct Committer {
    view: Arc<View>,
    disk: Arc<dyn Disk>,
    /// A log shorter than this is not worth a checkpoint.
    log_bytes_min: u64,
    /// Locked by the leader, and when there is none any more.
    log: Mutex<Log>,
    /// Locked by the leader, and by a job that has written a checkpoint.
    reserve: Mutex<Reserve>,
    queue: Mutex<Queue>,
    checkpointing: AtomicBool,
    /// How many bytes of older logs wait for a checkpoint.
    older_bytes: AtomicU64,
    /// How many of them were there when the store was opened, until a checkpoint is tried.
    inherited_bytes: AtomicU64,
    /// How many bytes the last checkpoint needed, if it failed.
    failed_bytes: AtomicU64,
    jobs: Jobs,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    /// Of all that wait.
    bytes: usize,
    /// Invariant: if any wait, there is a leader.
    led: bool,
}

#[derive(Debug)]
struct Waiting {
    txn: Txn,
    /// Of its keys and values.
    bytes: usize,
    answer: oneshot::Sender<Result<Revision>>,
}

impl Committer {
    pub(super) fn new(view: Arc<View>, disk: Arc<dyn Disk>, log: Log, reserve: Reserve, log_bytes_min: u64) -> Self {
        Self {
            view,
            disk,
            log_bytes_min,
            log: Mutex::new(log),
            reserve: Mutex::new(reserve),
            queue: Mutex::default(),
            checkpointing: AtomicBool::new(false),
            older_bytes: AtomicU64::new(0),
            inherited_bytes: AtomicU64::new(0),
            failed_bytes: AtomicU64::new(u64::MAX),
            jobs: Jobs::default(),
        }
    }

    /// The same, with so many bytes of logs before the one it was given.
    pub(super) fn after(self, older_bytes: u64) -> Self {
        let older = || AtomicU64::new(older_bytes);
        Self { older_bytes: older(), inherited_bytes: older(), ..self }
    }

    /// Queues a transaction at once, and resolves when it is durable and visible, or refused.
    pub(super) fn commit(self: &Arc<Self>, txn: Txn) -> impl Future<Output = Result<Revision>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        if Handle::try_current().is_ok() {
            let bytes = txn.ops.iter().map(op_bytes).sum();
            self.enqueue(Waiting { txn, bytes, answer });
        }
        async { answered.await.unwrap_or_else(|_| Err(Error::Unavailable(WriteError::Abandoned.into()))) }
    }

    fn enqueue(self: &Arc<Self>, waiting: Waiting) {
        let mut queue = lock(&self.queue);
        let is_full = queue.waiting.len() >= WAITING_COMMITS_MAX || queue.bytes + waiting.bytes > WAITING_BYTES_MAX;
        if is_full && !queue.waiting.is_empty() {
            drop(queue);
            answer(waiting.answer, Err(Error::Unavailable(WriteError::Overloaded.into())));
            return;
        }
        queue.bytes += waiting.bytes;
        queue.waiting.push_back(waiting);
        if !std::mem::replace(&mut queue.led, true) {
            drop(queue);
            let leader = Leader { committer: Arc::clone(self), job: None, leads: true };
            spawn_blocking(move || leader.run());
        }
    }

    /// Gives up what can wait, and returns when no job is at work on the files any more and the store is sealed.
    ///
    /// It blocks, for about as long as a few syncs take. Commits that wait are left: nobody waits for their answers.
    pub(super) fn close(&self) {
        self.jobs.close();
        lock(&self.queue).clear();
        self.jobs.wait();
        let Some(seal) = lock(&self.log).seal() else { return };
        if let Err(error) = seal.write(&*self.disk) {
            tracing::debug!(%error, "a store stays unsealed");
        }
    }

    /// Decides, writes and applies one group; returns a result for each.
    ///
    /// If there is no space, those that only delete get the reserve, and are decided as if there were no others.
    fn commit_group(&self, txns: Vec<Txn>) -> Vec<Result<Revision>> {
        let mut reserve = lock(&self.reserve);
        let deletions: Vec<Option<Txn>> = txns.iter().map(|txn| only_deletes(txn).then(|| txn.clone())).collect();
        let writes_values = deletions.iter().any(Option::is_none);
        let may_write = if writes_values { self.make_room(&mut reserve, &txns) } else { Ok(()) };
        let refused = match may_write {
            Ok(()) => match self.write_group(&mut reserve, txns) {
                Ok(results) => {
                    reserve.short &= !writes_values;
                    return results;
                }
                Err(error) => error,
            },
            Err(source) => Arc::new(WriteError::refused(self.disk.path(), source)),
        };
        let is_full = matches!(*refused, WriteError::Full { .. });
        reserve.short |= is_full;
        if !is_full || deletions.iter().all(Option::is_none) {
            return deletions.iter().map(|_| Err(unavailable(&refused))).collect();
        }
        let mut deleted = self.delete_group(&mut reserve, &deletions).map(Vec::into_iter);
        let result_of = |deletion: Option<Txn>| match &mut deleted {
            Ok(results) if deletion.is_some() => results.next().expect("there is a result for each"),
            Err(error) if deletion.is_some() => Err(unavailable(error)),
            _ => Err(unavailable(&refused)),
        };
        deletions.into_iter().map(result_of).collect()
    }

    /// Writes what only deletes, with as much of the reserve as that takes: others may want what is given up, too.
    fn delete_group(
        &self,
        reserve: &mut Reserve,
        deletions: &[Option<Txn>],
    ) -> std::result::Result<Vec<Result<Revision>>, Arc<WriteError>> {
        let keys = deletions.iter().flatten().flat_map(|txn| &txn.ops).map(|op| op.key().as_str().len() as u64);
        let bytes = keys.map(|len| len + DELETION_BYTES).sum();
        let mut deleted = self.write_group(reserve, deletions.iter().flatten().cloned());
        while matches!(&deleted, Err(error) if matches!(**error, WriteError::Full { .. })) && reserve.release(bytes) {
            deleted = self.write_group(reserve, deletions.iter().flatten().cloned());
        }
        deleted
    }

    /// Holds back what it takes to delete all there will be; on a full disk a checkpoint comes first, which frees space.
    fn make_room(&self, reserve: &mut Reserve, txns: &[Txn]) -> io::Result<()> {
        if reserve.short && self.checkpointing.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let put = |op: &Op| matches!(op, Op::Put(..)).then(|| op.key().as_str().len() as u64);
        let keys = txns.iter().flat_map(|txn| &txn.ops).filter_map(put);
        let more: u64 = keys.map(|len| len + DELETION_BYTES).sum();
        reserve.hold(deletion_bytes(self.view.state().size()) + more)
    }

    /// Decides, writes and applies one group; returns a result for each, or the error for all.
    ///
    /// The conflicts fail with the rest: they were decided beside commits that did not happen.
    fn write_group(
        &self,
        reserve: &mut Reserve,
        txns: impl IntoIterator<Item = Txn>,
    ) -> std::result::Result<Vec<Result<Revision>>, Arc<WriteError>> {
        let Staged { commits, results } = stage_group(&self.view.state(), txns);
        if !commits.is_empty() {
            let mut log = lock(&self.log);
            let before = log.file_len();
            log.append(&commits)?;
            reserve.used(log.file_len() - before);
            self.view.commit(|_| Ok(commits)).expect("the commits are decided");
        }
        Ok(results)
    }

    /// Whether a checkpoint should replace a log of so many bytes.
    ///
    /// On a full disk it should if that brings more space than it needs, and leaves what deletions need; after a failure,
    /// once it needs half as much.
    fn is_checkpoint_due(&self, log_bytes: u64) -> bool {
        let size = self.view.state().size();
        let mut reserve = lock(&self.reserve);
        let needed = checkpoint_bytes(size);
        if !reserve.short {
            let inherited_bytes = self.inherited_bytes.load(Ordering::Relaxed);
            return log_bytes + inherited_bytes >= self.log_bytes_min.max(needed);
        }
        let replaceable = log_bytes + self.older_bytes.load(Ordering::Relaxed);
        let spare = reserve.bytes().saturating_sub(deletion_bytes(size));
        let is_due = replaceable > needed.max(reserve.min())
            && needed < spare.min(self.failed_bytes.load(Ordering::Relaxed) / 2);
        if is_due {
            let min = reserve.min();
            reserve.release(needed.saturating_add(min / 2));
        }
        is_due
    }

    /// Starts a new log and a checkpoint of what came before, if one is due.
    fn checkpoint_if_due(self: &Arc<Self>) {
        let mut log = lock(&self.log);
        if log.end() == End::Empty
            || !self.is_checkpoint_due(log.file_len())
            || self.checkpointing.swap(true, Ordering::Relaxed)
        {
            return;
        }
        let checkpointing = Checkpointing(Arc::clone(self));
        // Only this leader commits, so the log ends where this listing does.
        let listing = self.view.list(&Prefix::all());
        if let Err(error) = self.begin_log(&mut log, listing.revision) {
            tracing::warn!(%error, path = %self.disk.path().display(), "can't begin a log; going on with the old");
            return;
        }
        spawn_blocking(move || {
            let Checkpointing(committer) = &checkpointing;
            if let Some(_running) = committer.jobs.begin() {
                committer.checkpoint(&listing);
            }
        });
    }

    /// Replaces `log` by a new one after `revision`, of which the old tells from then on.
    fn begin_log(&self, log: &mut Log, revision: Revision) -> std::result::Result<(), Arc<WriteError>> {
        let refused = |source| Arc::new(WriteError::refused(self.disk.path(), source));
        let next = create_log(&self.disk, revision, &[]).map_err(refused)?;
        log.continue_in(revision)?;
        self.older_bytes.fetch_add(log.file_len(), Ordering::Relaxed);
        self.inherited_bytes.store(0, Ordering::Relaxed);
        *log = next;
        Ok(())
    }

    /// Writes a checkpoint and removes what it replaces; a failure leaves the older files, which say the same.
    fn checkpoint(&self, listing: &Listing) {
        let stop = || self.jobs.is_closing();
        let (disk, revision) = (&*self.disk, listing.revision);
        match checkpoint::write(disk, &file_name(FileKind::Checkpoint, revision), listing, stop) {
            Ok(()) => {
                self.older_bytes.store(0, Ordering::Relaxed);
                self.failed_bytes.store(u64::MAX, Ordering::Relaxed);
                if let Err(error) = remove_before(disk, revision) {
                    tracing::warn!(%error, "can't remove files that a checkpoint replaced");
                }
                let needed = deletion_bytes(self.view.state().size());
                if let Err(error) = lock(&self.reserve).trim(needed) {
                    tracing::warn!(%error, "can't give back space that deletions don't need");
                }
            }
            Err(_) if stop() => {}
            Err(error) => {
                self.failed_bytes.store(checkpoint_bytes(self.view.state().size()), Ordering::Relaxed);
                tracing::warn!(%error, %revision, "can't write a checkpoint; the log stays longer");
            }
        }
    }
}

impl Queue {
    fn clear(&mut self) {
        self.waiting.clear();
        self.bytes = 0;
    }
}

/// Says that there is a checkpoint under way, until it has ended or was left by its runtime.
struct Checkpointing(Arc<Committer>);

impl Drop for Checkpointing {
    fn drop(&mut self) {
        self.0.checkpointing.store(false, Ordering::Relaxed);
    }
}

/// The one job that commits; there is none while no commit waits.
struct Leader {
    committer: Arc<Committer>,
    /// From when it begins to run.
    job: Option<Running>,
    /// Whether the lead is still this one's.
    leads: bool,
}

impl Leader {
    fn run(mut self) {
        self.job = self.committer.jobs.begin();
        if self.job.is_none() {
            return;
        }
        while let Some(group) = self.next_group() {
            let (txns, senders): (Vec<Txn>, Vec<_>) =
                group.into_iter().map(|waiting| (waiting.txn, waiting.answer)).unzip();
            let results = self.committer.commit_group(txns);
            for (sender, result) in senders.into_iter().zip(results) {
                answer(sender, result);
            }
            self.committer.checkpoint_if_due();
        }
    }

    /// Takes what waits, up to the limits of a group; with nothing there, gives up the lead.
    fn next_group(&mut self) -> Option<Vec<Waiting>> {
        let mut queue = lock(&self.committer.queue);
        if queue.waiting.is_empty() {
            (self.leads, queue.led) = (false, false);
            return None;
        }
        let mut bytes = 0;
        let mut group = Vec::new();
        while group.len() < GROUP_COMMITS_MAX && bytes < GROUP_BYTES_MAX {
            let Some(waiting) = queue.waiting.pop_front() else { break };
            queue.bytes -= waiting.bytes;
            bytes += waiting.bytes;
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
            lock(&self.committer.log).poison(io::Error::other("the writer panicked"));
        }
        let mut queue = lock(&self.committer.queue);
        queue.led = false;
        queue.clear();
    }
}

/// Whether `txn` writes no value, so that it makes the store no larger but for a record.
fn only_deletes(txn: &Txn) -> bool {
    !txn.ops.is_empty() && txn.ops.iter().all(|op| matches!(op, Op::Delete(_)))
}

/// About how many bytes of log it takes to delete so many entries, each by itself.
pub(super) fn deletion_bytes(size: Size) -> u64 {
    size.key_bytes + size.entries * DELETION_BYTES
}

/// About how many bytes a checkpoint of so many entries takes.
fn checkpoint_bytes(size: Size) -> u64 {
    size.key_bytes + size.value_bytes + size.entries * ENTRY_BYTES
}

fn unavailable(error: &Arc<WriteError>) -> Error {
    Error::Unavailable(Box::new(Arc::clone(error)))
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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use bytes::Bytes;
    use futures::future::join_all;
    use orchestra_core::store::{Error, Key, Revision, Txn};

    use super::{Committer, WAITING_BYTES_MAX};
    use crate::{
        durable::{disk::Disk, files::create_log, reserve::Reserve, simulated::SimulatedDisk},
        state::{FIRST, HistoryLimits, State},
        view::View,
    };

    fn committer() -> (Arc<Committer>, Arc<View>) {
        let disk: Arc<dyn Disk> = Arc::new(SimulatedDisk::default());
        let view = Arc::new(View::new(State::new(HistoryLimits::default())));
        let log = create_log(&disk, FIRST, &[]).expect("a log");
        let reserve = Reserve::open(Arc::clone(&disk), 0, 0).expect("no reserve");
        (Arc::new(Committer::new(Arc::clone(&view), disk, log, reserve, u64::MAX)), view)
    }

    fn create(name: &str) -> Txn {
        Txn::create(Key::new([name]).expect("a valid name"), Bytes::new())
    }

    fn with_one_blocking_thread(run: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().max_blocking_threads(1).build().expect("a runtime").block_on(run);
    }

    /// Commits that are queued before the leader has run share its first sync.
    #[tokio::test]
    async fn commits_that_wait_together_all_get_their_own_answer() {
        let (committer, _) = committer();
        let names = ["a", "b", "a", "c"];
        let results = join_all(names.map(|name| committer.commit(create(name)))).await;
        assert!(matches!(results[2], Err(Error::Conflict { actual: Some(Revision(2)), .. })));
        let revisions: Vec<_> = results.into_iter().filter_map(Result::ok).collect();
        assert_eq!(revisions, [Revision(2), Revision(3), Revision(4)]);
    }

    /// The only blocking thread may be the one that drops the store.
    #[test]
    fn closing_does_not_wait_for_what_has_not_begun() {
        let (committer, _) = committer();
        with_one_blocking_thread(async {
            let closing = Arc::clone(&committer);
            let (begin, begun) = std::sync::mpsc::channel();
            let closed = tokio::task::spawn_blocking(move || {
                begun.recv().expect("it is told");
                closing.close();
            });
            let pending = committer.commit(create("a"));
            begin.send(()).expect("it waits");
            let closed = tokio::time::timeout(Duration::from_secs(20), closed);
            closed.await.expect("it waits for a thread of its own").expect("it does not panic");
            assert!(matches!(pending.await, Err(Error::Unavailable(_))));
        });
    }

    /// What waits is held in memory.
    #[test]
    fn commits_that_are_too_large_together_are_refused() {
        let (committer, _) = committer();
        with_one_blocking_thread(async {
            let (begin, begun) = std::sync::mpsc::channel::<()>();
            let busy = tokio::task::spawn_blocking(move || begun.recv().expect("it is told"));
            let value = Bytes::from(vec![0; WAITING_BYTES_MAX / 4]);
            let put = |name: &str| Txn::create(Key::new([name]).expect("a valid name"), value.clone());
            let waiting: Vec<_> = ["a", "b", "c"].into_iter().map(|name| committer.commit(put(name))).collect();
            let refused = committer.commit(put("d")).await;
            assert!(matches!(&refused, Err(Error::Unavailable(source)) if source.to_string().contains("too many")));
            begin.send(()).expect("it waits");
            busy.await.expect("it does not panic");
            assert!(join_all(waiting).await.iter().all(Result::is_ok));
            committer.commit(put("d")).await.expect("there is room again");
        });
    }

    #[test]
    fn a_commit_left_by_its_runtime_is_answered_and_the_next_one_works() {
        let (committer, _) = committer();
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
}
