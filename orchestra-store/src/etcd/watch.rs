//! Watches that go on where they were when a member or a connection is lost.
//!
//! A task reads each of etcd's watch streams, so that a slow reader never blocks the connection that it shares with
//! others; it keeps a bounded number of batches, and ends when there are more. Whatever ended a stream, the reader drains
//! what is there and opens another after the last batch it was given (SEMANTICS 11, 14).
//!
//! A stream of the past is asked for from the last revision seen, not from the one after it, and repeats are dropped: etcd
//! 3.4 has lost a deletion at exactly the compacted revision, and refuses to begin before it (SEMANTICS 15). One from now
//! on has nothing to lose, and is told of each commit as it happens; etcd looks after those of the past only every 100 ms.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use etcd_client::{Client, Error as ClientError, GetOptions, WatchOptions, WatchResponse, WatchStream};
use futures::{StreamExt as _, stream};
use orchestra_core::store::{Batch, Change, Error, Prefix, Result, Revision, Watch};
use tokio::{
    sync::mpsc::{self, error::TryRecvError},
    task::JoinSet,
    time::sleep,
};

use super::{
    EtcdStore,
    batches::Batches,
    error::{Fault, fault},
    keyspace::{number, revision},
    members::Repeat,
    unexpected,
};

/// How many batches wait for a slow reader, and how many bytes of values.
const WAITING_BATCHES_MAX: usize = 1_024;
const WAITING_BYTES_MAX: usize = 8 << 20;
/// The largest message that is taken: etcd sends none that is larger. Fragments have no more than the etcd's
/// `--max-request-bytes` and 512 KiB, unless it is one event; an etcd that knows no fragments sends all of it at once.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;
const RETRY_MIN: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// Follows the commits after `after` to keys under `prefix`, for ever.
///
/// It tries once to open a stream before it returns: opened when it is read, it would be one of the past.
pub(super) async fn watch(store: EtcdStore, prefix: &Prefix, after: Revision) -> Watch {
    let range = store.keyspace.at(prefix.as_str());
    let is_whole = *prefix == Prefix::all();
    let mut follower = Follower { store, range, is_whole, after, feed: None, retry: RETRY_MIN };
    // A refusal is the watch's to tell, which asks again.
    follower.feed = follower.open().await.unwrap_or_default();
    stream::try_unfold(follower, |mut follower| async {
        let batch = follower.next().await?;
        Ok(Some((batch, follower)))
    })
    .boxed()
}

/// How far one watch has come.
struct Follower {
    store: EtcdStore,
    range: Vec<u8>,
    /// Whether it is of the whole store, so that what somebody waits for concerns it.
    is_whole: bool,
    /// Everything up to here has been yielded.
    after: Revision,
    feed: Option<Feed>,
    retry: Duration,
}

impl Follower {
    async fn next(&mut self) -> Result<Batch> {
        loop {
            if self.feed.is_none() {
                self.feed = self.open().await?;
            }
            if let Some(feed) = &mut self.feed {
                if let Some(item) = feed.next().await {
                    let batch = match item {
                        Err(Error::Unavailable(_)) => {
                            self.feed = None;
                            self.may_read().await?;
                            continue;
                        }
                        item => item?,
                    };
                    self.after = batch.revision;
                    self.retry = RETRY_MIN;
                    return Ok(batch);
                }
                self.feed = None;
            }
            sleep(self.retry).await;
            self.retry = RETRY_MAX.min(self.retry * 2);
        }
    }

    /// Refuses if etcd does; a watch whose token was lost in a restart is refused too, but a read asks for a new one.
    async fn may_read(&self) -> Result<()> {
        let options = GetOptions::new().with_prefix().with_count_only();
        let call = |mut client: Client| {
            let (range, options) = (self.range.clone(), options.clone());
            async move { client.get(range, Some(options)).await }
        };
        self.store.members.call(Repeat::Safe, call).await?.map(drop).map_err(unexpected)
    }

    /// Opens a stream, if a member is there to give one.
    async fn open(&self) -> Result<Option<Feed>> {
        match self.store.members.open(|client| self.stream(client)).await {
            Ok((member, stream)) => {
                let mut feed = Feed::start(&self.store, member, stream, self.after);
                if self.is_whole {
                    feed.drive(&self.store);
                }
                Ok(Some(feed))
            }
            Err(error) if fault(&error) == Fault::Refused => Err(Error::Unavailable(error.into())),
            Err(error) => {
                tracing::debug!(%error, "no watch could be opened");
                Ok(None)
            }
        }
    }

    /// The stream from now on, if it is certain that nothing has happened since; otherwise that of the past.
    async fn stream(&self, client: Client) -> Result<Stream, ClientError> {
        let last = number(self.after);
        if self.store.newest.load(Ordering::Relaxed) <= self.after.0 {
            let stream = Stream::open(&client, &self.range, last.saturating_add(1)).await?;
            // It was there before the read: what that does not see, the stream will tell.
            if stream.as_of() <= self.after && self.is_newest(client.clone()).await? {
                return Ok(stream);
            }
        }
        Stream::open(&client, &self.range, last.max(1)).await
    }

    /// Whether there was no later commit at some moment during the call.
    async fn is_newest(&self, mut client: Client) -> Result<bool, ClientError> {
        let answer = client.get(self.store.keyspace.marker(), Some(GetOptions::new().with_keys_only())).await?;
        Ok(revision(answer.header().map_or(0, |header| header.revision())) <= self.after)
    }
}

/// One of etcd's watch streams, and what it said first.
struct Stream {
    first: WatchResponse,
    rest: WatchStream,
}

impl Stream {
    async fn open(client: &Client, range: &[u8], from: i64) -> Result<Self, ClientError> {
        let options =
            WatchOptions::new().with_prefix().with_start_revision(from).with_fragment().with_progress_notify();
        let mut client = client.watch_client().max_decoding_message_size(MESSAGE_BYTES_MAX);
        let mut rest = client.watch(range, Some(options)).await?;
        match rest.message().await? {
            Some(first) => Ok(Self { first, rest }),
            None => Err(ClientError::WatchError("the stream ended".into())),
        }
    }

    /// The revision at which it was opened, or one a little before.
    fn as_of(&self) -> Revision {
        revision(self.first.header().map_or(0, |header| header.revision()))
    }
}

/// The batches of one stream that were not taken yet.
struct Feed {
    batches: mpsc::Receiver<Result<Batch>>,
    bytes: Arc<AtomicUsize>,
    /// Up to where the stream has told everything.
    reached: Arc<AtomicU64>,
    tasks: JoinSet<()>,
}

impl Feed {
    fn start(store: &EtcdStore, member: usize, stream: Stream, after: Revision) -> Self {
        let (sender, receiver) = mpsc::channel(WAITING_BATCHES_MAX);
        let (bytes, reached) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(after.0)));
        let buffer = Buffer { sender, bytes: Arc::clone(&bytes), reached: Arc::clone(&reached) };
        let (members, batches) = (Arc::clone(&store.members), Batches::new(store.keyspace.clone(), after));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            if let Err(lost) = read(stream, batches, &buffer).await {
                tracing::debug!(reason = lost, "a watch is opened anew");
                members.broke(member);
            }
        });
        Self { batches: receiver, bytes, reached, tasks }
    }

    /// Brings the stream on to what readers have been told.
    fn drive(&mut self, store: &EtcdStore) {
        let (members, keyspace) = (Arc::clone(&store.members), store.keyspace.clone());
        self.tasks.spawn(store.asked.clone().drive(members, keyspace, Arc::clone(&self.reached)));
    }

    /// The next batch; `None` when the stream has ended.
    async fn next(&mut self) -> Option<Result<Batch>> {
        let item = match self.batches.try_recv() {
            Ok(item) => Some(item),
            Err(TryRecvError::Disconnected) => None,
            Err(TryRecvError::Empty) => self.batches.recv().await,
        };
        if let Some(Ok(batch)) = &item {
            self.bytes.fetch_sub(size(batch), Ordering::Relaxed);
        }
        item
    }
}

/// Where a reader puts batches, bounded in number and bytes.
struct Buffer {
    sender: mpsc::Sender<Result<Batch>>,
    bytes: Arc<AtomicUsize>,
    reached: Arc<AtomicU64>,
}

impl Buffer {
    /// Whether there was room; one batch of any size has it.
    fn push(&self, batch: Batch) -> bool {
        let size = size(&batch);
        let held = self.bytes.fetch_add(size, Ordering::Relaxed);
        (held == 0 || held + size <= WAITING_BYTES_MAX) && self.sender.try_send(Ok(batch)).is_ok()
    }
}

/// Reads `stream` into `buffer` until that is full, or history is compacted; the error is why the member was lost.
async fn read(stream: Stream, mut batches: Batches, buffer: &Buffer) -> Result<(), String> {
    let Stream { first, mut rest } = stream;
    let mut first = Some(first);
    loop {
        let response = match first.take() {
            Some(response) => response.0,
            None => match rest.message().await {
                Ok(Some(response)) => response.0,
                Ok(None) => return Err("the stream ended".into()),
                Err(error) => return Err(error.to_string()),
            },
        };
        if response.canceled {
            if response.cancel_reason.contains("permission denied") {
                // Without a reader nobody is told.
                let _ = buffer.sender.try_send(Err(Error::Unavailable(response.cancel_reason.into())));
                return Ok(());
            }
            if response.compact_revision == 0 {
                return Err(response.cancel_reason);
            }
            let floor = revision(response.compact_revision);
            // Without room or a reader nobody is told: who opens the next stream is.
            let _ = buffer.sender.try_send(Err(Error::Compacted { floor }));
            return Ok(());
        }
        let whole = match response.events.is_empty() && !response.created {
            true => {
                batches.progress(revision(response.header.map_or(0, |header| header.revision))).into_iter().collect()
            }
            false => batches.push(response.events, response.fragment),
        };
        for batch in whole {
            if !buffer.push(batch) {
                return Ok(());
            }
        }
        buffer.reached.store(batches.reached().0, Ordering::Relaxed);
    }
}

fn size(batch: &Batch) -> usize {
    let of = |change: &Change| match change {
        Change::Put(entry) => entry.key.as_str().len() + entry.value.len(),
        Change::Delete(key) => key.as_str().len(),
    };
    batch.changes.iter().map(of).sum()
}
