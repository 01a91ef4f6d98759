//! Proof under concurrency: what many callers asked and were told, and whether a store that keeps the laws can have said so.
//!
//! [`Recorded`] writes a [`History`] down, [`Workload`] makes callers who get in each other's way, and three checkers look
//! at what came of it:
//!
//! - [`check_by_revision`] takes the revisions at their word, and so orders everything in O(n log n);
//! - [`check_linearizable`] takes them for mere names, and searches for an order, key by key;
//! - [`check_watches`] holds each watch to six properties: ordered, unique, reliable, atomic, resumable, bookmarkable.
//!
//! Nothing else may write to the store meanwhile, and each value should be written once: two that are the same can hide
//! which of two commits without an answer has happened.
//!
//! # Examples
//!
//! ```
//! # use std::sync::Arc;
//! # use orchestra_core::store::{Store, conformance::history::{Log, Recorded, Workload}};
//! # use orchestra_store::MemoryStore;
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
//! let log = Log::start(&*store).await?;
//! let recorded: Arc<dyn Store> = Arc::new(Recorded::new(store, log.clone()));
//! Workload::seeded(1).run(&recorded).await;
//! log.history().check()?;
//! # Ok(())
//! # }
//! ```

mod by_revision;
mod linearizable;
mod recorded;
mod timeline;
mod versions;
mod watches;
mod workload;

use std::fmt;

use super::super::{Batch, Entry, Key, Listing, Prefix, Revision, Txn};

pub use self::{
    by_revision::check_by_revision,
    linearizable::check_linearizable,
    recorded::{Log, Recorded},
    watches::check_watches,
    workload::Workload,
};

/// A place in the order of all that was recorded.
pub type Moment = u64;

/// What was asked of a store, and what it told, from a moment on at which nobody else wrote to it.
#[derive(Clone, Debug)]
pub struct History {
    /// What was there before.
    pub start: Listing,
    /// The calls, in the order in which they were made.
    pub operations: Vec<Operation>,
    /// The watches, in the order in which they were opened.
    pub watches: Vec<Watched>,
}

impl History {
    /// Runs all three checkers.
    ///
    /// # Errors
    ///
    /// The first violation.
    pub fn check(&self) -> Result<(), Violation> {
        check_by_revision(self)?;
        check_linearizable(self)?;
        check_watches(self)
    }
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Just before it was made.
    pub invoked: Moment,
    /// Just after it was answered; `None` while its outcome is unknown, so that it may take effect at any later time.
    pub returned: Option<Moment>,
    /// What was asked and told.
    pub call: Call,
}

/// What was asked, and told. Calls that tell nothing are in no history: reads without an answer, and what was invalid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A read of one key.
    Get {
        /// The key.
        key: Key,
        /// What it held.
        entry: Option<Entry>,
    },
    /// A read of a prefix.
    List {
        /// The prefix.
        prefix: Prefix,
        /// What was under it.
        listing: Listing,
    },
    /// A read of the revision.
    Revision(Revision),
    /// A write.
    Commit {
        /// The transaction.
        txn: Txn,
        /// What came of it.
        outcome: Outcome,
    },
}

/// What came of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It happened, and this is the revision that was told.
    Committed(Revision),
    /// It did not happen, because of this key.
    Conflict {
        /// The first key whose check failed.
        key: Key,
        /// When it was last written.
        actual: Option<Revision>,
    },
    /// It was dropped or unavailable: it may have happened, or happen yet, or never.
    Unknown,
}

/// A watch, as far as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// What was watched.
    pub prefix: Prefix,
    /// From where on.
    pub after: Revision,
    /// What it yielded, in order.
    pub told: Vec<Told>,
    /// The floor, if it ended with one.
    pub compacted: Option<Revision>,
}

/// A batch, and when it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Just after it was yielded.
    pub at: Moment,
    /// The batch.
    pub batch: Batch,
}

/// What a history breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Property {
    /// Each commit takes the next revision (law 1).
    Order,
    /// A commit applies if its checks hold, whole, and what it wrote is what is read (laws 2 and 3).
    Atomicity,
    /// What was answered before a call is true for the call (law 3, SEMANTICS 2 and 5).
    RealTime,
    /// There is an order of all calls of a key that explains every answer (SEMANTICS 2).
    Linearizable,
    /// Watches: revisions rise.
    Ordered,
    /// Watches: no change comes twice.
    Unique,
    /// Watches: no change is missing, and each is what was written.
    Reliable,
    /// Watches: all changes of a commit come in one batch.
    Atomic,
    /// Watches: a watch goes on where it is told to, or says that it can't.
    Resumable,
    /// Watches: a bookmark comes after all that it covers, and never goes back.
    Bookmarkable,
}

/// How a history breaks a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What is broken.
    pub property: Property,
    /// How, with the operations and batches that it shows in.
    pub detail: String,
}

impl Violation {
    fn new(property: Property, detail: impl Into<String>) -> Self {
        Self { property, detail: detail.into() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is broken: {}", self.property, self.detail)
    }
}

impl std::error::Error for Violation {}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.returned {
            Some(returned) => write!(f, "[{}..{returned}] ", self.invoked)?,
            None => write!(f, "[{}..] ", self.invoked)?,
        }
        match &self.call {
            Call::Get { key, entry } => write!(f, "get {key} = {}", Shown(entry.as_ref())),
            Call::List { prefix, listing } => {
                write!(f, "list {prefix} = {}:", listing.revision)?;
                listing.entries.iter().try_for_each(|entry| write!(f, " {}={}", entry.key, Shown(Some(entry))))
            }
            Call::Revision(revision) => write!(f, "revision = {revision}"),
            Call::Commit { txn, outcome } => write!(f, "commit {txn:?} = {outcome:?}"),
        }
    }
}

/// An entry without its key.
struct Shown<'a>(Option<&'a Entry>);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(entry) => write!(f, "{:?}@{}", entry.value, entry.modified),
            None => f.write_str("nothing"),
        }
    }
}
