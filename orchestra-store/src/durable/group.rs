//! A group of transactions that share a sync, decided before anything is written.

use std::collections::BTreeMap;

use orchestra_core::store::{Change, Key, Result, Revision, Txn};

use crate::state::{Commit, Stamp, State, stage};

/// What a group of transactions comes to, before it is written.
pub(super) struct Staged {
    pub(super) commits: Vec<Commit>,
    /// One for each transaction, in order.
    pub(super) results: Vec<Result<Revision>>,
}

/// Decides `txns` one after the other, as if each were applied before the next.
pub(super) fn stage_group(state: &State, txns: impl IntoIterator<Item = Txn>) -> Staged {
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use orchestra_core::store::{Key, Revision, Txn};
    use proptest::prelude::*;

    use super::stage_group;
    use crate::state::{HistoryLimits, State, stage};

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
