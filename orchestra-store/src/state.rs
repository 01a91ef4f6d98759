//! What an embedded store holds: the live entries and the recent history, as plain data.
//!
//! Deciding and applying are apart, so that a durable store can write a commit down between the two: [`stage`] checks a
//! transaction and says what it would change, [`State::apply`] makes it so.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
};

use orchestra_core::store::{Change, Entry, Error, Key, Op, Prefix, Result, Revision, Txn};

/// The revision of a store that has never been written to, so that no change is made at it.
pub(crate) const FIRST: Revision = Revision(1);

/// How much history a store keeps for watches that lag; whichever limit is met first ends it.
///
/// A watch that falls behind fails with [`Error::Compacted`], and its owner lists again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryLimits {
    /// The most commits kept.
    pub commits_max: usize,
    /// The most bytes of keys and values kept; those that are still live count too, although they are shared.
    pub bytes_max: usize,
}

impl Default for HistoryLimits {
    /// 10,000 commits and 16 MiB: some seconds of a busy cluster.
    fn default() -> Self {
        Self { commits_max: 10_000, bytes_max: 16 << 20 }
    }
}

/// One commit: its revision and its changes, at least one, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) revision: Revision,
    pub(crate) changes: Vec<Change>,
}

impl Commit {
    fn bytes(&self) -> usize {
        self.changes.iter().map(change_bytes).sum()
    }
}

/// The revisions of a live entry, all that a check needs to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) created: Revision,
    pub(crate) modified: Revision,
}

/// Decides what `txn` changes if it commits at `next`, where `stamp_of` tells the state just before.
///
/// `None` means nothing. The transaction has been validated already.
///
/// # Errors
///
/// [`Error::Conflict`] for the first check, in order, that fails.
pub(crate) fn stage(txn: Txn, next: Revision, stamp_of: impl Fn(&Key) -> Option<Stamp>) -> Result<Option<Commit>> {
    for check in &txn.checks {
        check.hold(stamp_of(check.key()).map(|stamp| stamp.modified))?;
    }
    let mut changes: Vec<Change> = txn
        .ops
        .into_iter()
        .filter_map(|op| {
            let stamp = stamp_of(op.key());
            match op {
                Op::Put(key, value) => {
                    let created = stamp.map_or(next, |stamp| stamp.created);
                    Some(Change::Put(Entry { key, value, created, modified: next }))
                }
                Op::Delete(key) => stamp.map(|_| Change::Delete(key)),
            }
        })
        .collect();
    changes.sort_unstable_by(|a, b| a.key().cmp(b.key()));
    Ok((!changes.is_empty()).then_some(Commit { revision: next, changes }))
}

/// How much some entries are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) entries: u64,
    pub(crate) key_bytes: u64,
    pub(crate) value_bytes: u64,
}

impl Size {
    fn add(&mut self, entry: &Entry) {
        self.entries += 1;
        self.key_bytes += entry.key.as_str().len() as u64;
        self.value_bytes += entry.value.len() as u64;
    }

    fn take(&mut self, entry: &Entry) {
        self.entries -= 1;
        self.key_bytes -= entry.key.as_str().len() as u64;
        self.value_bytes -= entry.value.len() as u64;
    }
}

/// The live entries and the recent history.
///
/// Invariant: `history` holds exactly the commits of `floor + 1 ..= revision`, one for each revision.
#[derive(Debug)]
pub(crate) struct State {
    revision: Revision,
    floor: Revision,
    live: BTreeMap<Key, Entry>,
    size: Size,
    history: VecDeque<Commit>,
    history_bytes: usize,
    limits: HistoryLimits,
}

impl State {
    /// The state of a store that has never been written to.
    pub(crate) fn new(limits: HistoryLimits) -> Self {
        Self::restore(FIRST, BTreeMap::new(), limits)
    }

    /// The state as of `revision`, whose history is gone.
    pub(crate) fn restore(revision: Revision, live: BTreeMap<Key, Entry>, limits: HistoryLimits) -> Self {
        let mut size = Size::default();
        live.values().for_each(|entry| size.add(entry));
        let history = VecDeque::new();
        Self { revision, floor: revision, live, size, history, history_bytes: 0, limits }
    }

    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// The oldest revision that a watch can start after.
    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    /// How much there is alive.
    pub(crate) fn size(&self) -> Size {
        self.size
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Entry> {
        self.live.get(key)
    }

    pub(crate) fn stamp(&self, key: &Key) -> Option<Stamp> {
        self.live.get(key).map(|entry| Stamp { created: entry.created, modified: entry.modified })
    }

    /// The entries under `prefix`, in key order.
    pub(crate) fn under<'a>(&'a self, prefix: &'a Prefix) -> impl Iterator<Item = &'a Entry> {
        self.live
            .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
            .map(|(_, entry)| entry)
            .take_while(|entry| prefix.contains(&entry.key))
    }

    /// The commits after `after`, oldest first; none if it lies in the future.
    ///
    /// # Errors
    ///
    /// [`Error::Compacted`] if one of them is forgotten.
    pub(crate) fn after(&self, after: Revision) -> Result<impl Iterator<Item = &Commit>> {
        let skip = after.0.checked_sub(self.floor.0).ok_or(Error::Compacted { floor: self.floor })?;
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(self.history.len());
        Ok(self.history.range(skip..))
    }

    /// Makes `commit`, staged on this very state, part of it; forgets the history over the limits and returns it.
    ///
    /// # Panics
    ///
    /// If its revision is not the next one.
    pub(crate) fn apply(&mut self, commit: Commit) -> Vec<Commit> {
        assert_eq!(commit.revision.0, self.revision.0 + 1, "each commit takes the next revision");
        self.revision = commit.revision;
        for change in &commit.changes {
            let old = match change {
                Change::Put(entry) => {
                    self.size.add(entry);
                    self.live.insert(entry.key.clone(), entry.clone())
                }
                Change::Delete(key) => self.live.remove(key),
            };
            old.iter().for_each(|old| self.size.take(old));
        }
        self.history_bytes += commit.bytes();
        self.history.push_back(commit);
        let HistoryLimits { commits_max, bytes_max } = self.limits;
        self.forget_while(|state| state.history.len() > commits_max || state.history_bytes > bytes_max)
    }

    /// Forgets the commits before `floor`, or before the last one if it lies in the future, and returns them.
    ///
    /// The commit at `floor` stays, so that a deletion just there is not lost to a watch from before it.
    pub(crate) fn compact(&mut self, floor: Revision) -> Vec<Commit> {
        let floor = floor.min(self.revision);
        self.forget_while(|state| state.floor.0 + 1 < floor.0)
    }

    fn forget_while(&mut self, too_long: impl Fn(&Self) -> bool) -> Vec<Commit> {
        let mut forgotten = Vec::new();
        while too_long(self) {
            let commit = self.history.pop_front().expect("history reaches from the floor to the revision");
            self.history_bytes -= commit.bytes();
            self.floor = commit.revision;
            forgotten.push(commit);
        }
        forgotten
    }
}

fn change_bytes(change: &Change) -> usize {
    match change {
        Change::Put(entry) => entry_bytes(entry),
        Change::Delete(key) => key.as_str().len(),
    }
}

/// The bytes of an entry's key and value.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    entry.key.as_str().len() + entry.value.len()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use orchestra_core::store::{Error, Key, Prefix, Revision, Txn};
    use proptest::prelude::*;

    use super::{HistoryLimits, State, stage};

    fn put(state: &mut State, name: &str, value: &[u8]) {
        let key = Key::new([name]).expect("a valid name");
        let value = Bytes::copy_from_slice(value);
        let txn = match state.stamp(&key) {
            Some(stamp) => Txn::replace(key, stamp.modified, value),
            None => Txn::create(key, value),
        };
        let commit = stage(txn, Revision(state.revision().0 + 1), |key| state.stamp(key)).expect("no conflict");
        state.apply(commit.expect("a put is a change"));
    }

    #[test]
    fn history_over_its_limits_is_forgotten_oldest_first() {
        let mut state = State::new(HistoryLimits { commits_max: 2, bytes_max: usize::MAX });
        for name in ["a", "b", "c"] {
            put(&mut state, name, b"");
        }
        assert_eq!(state.floor(), Revision(2));
        assert!(matches!(state.after(Revision(1)).map(Iterator::count), Err(Error::Compacted { floor: Revision(2) })));
        assert_eq!(state.after(Revision(2)).map(Iterator::count).ok(), Some(2));
    }

    #[test]
    fn one_commit_larger_than_the_history_leaves_none() {
        let mut state = State::new(HistoryLimits { commits_max: 9, bytes_max: 4 });
        put(&mut state, "a", b"12345");
        assert_eq!(state.floor(), state.revision());
        assert_eq!(state.under(&Prefix::all()).count(), 1);
    }

    proptest! {
        /// Rules 14 and 15: whatever is written and compacted, the counters and the history stay true.
        #[test]
        fn the_invariants_hold_after_any_commits(
            writes in prop::collection::vec(("[a-d]", prop::collection::vec(any::<u8>(), 0..20)), 0..60),
            commits_max in 0_usize..10,
            bytes_max in 0_usize..200,
            floor in 0_u64..70,
        ) {
            let mut state = State::new(HistoryLimits { commits_max, bytes_max });
            for (name, value) in &writes {
                put(&mut state, name, value);
                let kept: Vec<_> = state.after(state.floor()).expect("the floor is kept").collect();
                prop_assert!(kept.len() <= commits_max);
                prop_assert!(kept.iter().map(|commit| commit.bytes()).sum::<usize>() <= bytes_max);
                let expected = state.floor().0 + 1..=state.revision().0;
                prop_assert!(kept.iter().map(|commit| commit.revision.0).eq(expected));
            }
            let bytes: usize = state.under(&Prefix::all()).map(super::entry_bytes).sum();
            prop_assert_eq!(state.size().key_bytes + state.size().value_bytes, bytes as u64);
            let before = state.floor();
            state.compact(Revision(floor));
            let oldest_kept = floor.min(state.revision().0).saturating_sub(1);
            prop_assert_eq!(state.floor(), before.max(Revision(oldest_kept)));
        }
    }
}
