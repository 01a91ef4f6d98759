//! Ways to make of a history one that can't have been.
//!
//! Each picks, by chance, a place where the change surely breaks a law: a batch is lost only where a later one came, an
//! old value is read only where it was known to be gone before the read was made.

use bytes::Bytes;
use orchestra_core::{
    rng::Entropy,
    store::{
        Batch, Change, Check, Entry, Key, Listing, Op, Prefix, Revision, Txn,
        conformance::history::{Call, History, Operation, Outcome, Told, Watched},
    },
};

/// What is done to a history in one place.
type Edit = Box<dyn FnOnce(&mut History)>;

/// One way: all places for it, and the checkers that reject it everywhere.
pub(super) struct Mutation {
    pub(super) name: &'static str,
    pub(super) edits: fn(&History) -> Vec<Edit>,
    pub(super) rejected_by: &'static [&'static str],
}

const REVISION: &str = "by revision";
const ORDER: &str = "linearizable";
const WATCH: &str = "watches";

pub(super) const MUTATIONS: &[Mutation] = &[
    Mutation { name: "listing without an entry", edits: listing_without_an_entry, rejected_by: &[REVISION] },
    Mutation {
        name: "listing with a strange value",
        edits: listing_with_a_strange_value,
        rejected_by: &[REVISION, ORDER],
    },
    Mutation { name: "listing of two instants", edits: listing_of_two_instants, rejected_by: &[REVISION] },
    Mutation { name: "listing dated back", edits: listing_dated_back, rejected_by: &[REVISION] },
    Mutation { name: "read of what was replaced", edits: read_of_what_was_replaced, rejected_by: &[REVISION, ORDER] },
    Mutation { name: "read of nothing", edits: read_of_nothing, rejected_by: &[REVISION, ORDER] },
    Mutation { name: "read of the future", edits: read_of_the_future, rejected_by: &[REVISION, ORDER] },
    Mutation { name: "revision that goes back", edits: revision_that_goes_back, rejected_by: &[REVISION] },
    Mutation { name: "commits in the wrong order", edits: commits_in_the_wrong_order, rejected_by: &[REVISION] },
    Mutation { name: "one revision twice", edits: one_revision_twice, rejected_by: &[REVISION] },
    Mutation { name: "revision left out", edits: revision_left_out, rejected_by: &[REVISION] },
    Mutation { name: "conflict told as a commit", edits: conflict_told_as_a_commit, rejected_by: &[REVISION] },
    Mutation { name: "commit told as a conflict", edits: commit_told_as_a_conflict, rejected_by: &[REVISION] },
    Mutation { name: "conflict with a stranger", edits: conflict_with_a_stranger, rejected_by: &[REVISION, ORDER] },
    Mutation { name: "write of nobody", edits: write_of_nobody, rejected_by: &[REVISION] },
    Mutation { name: "lost batch", edits: lost_batch, rejected_by: &[WATCH] },
    Mutation { name: "repeated batch", edits: repeated_batch, rejected_by: &[WATCH] },
    Mutation { name: "swapped batches", edits: swapped_batches, rejected_by: &[WATCH] },
    Mutation { name: "split batch", edits: split_batch, rejected_by: &[WATCH] },
    Mutation { name: "torn batch", edits: torn_batch, rejected_by: &[WATCH] },
    Mutation { name: "strange change", edits: strange_change, rejected_by: &[WATCH] },
    Mutation { name: "bookmark ahead", edits: bookmark_ahead, rejected_by: &[WATCH] },
    Mutation { name: "bookmark behind", edits: bookmark_behind, rejected_by: &[WATCH] },
    Mutation { name: "bookmark of the future", edits: bookmark_of_the_future, rejected_by: &[REVISION, WATCH] },
    Mutation { name: "bookmark before its time", edits: bookmark_before_its_time, rejected_by: &[REVISION, WATCH] },
    Mutation { name: "news from before the start", edits: news_from_before_the_start, rejected_by: &[WATCH] },
    Mutation { name: "watch that repeats its start", edits: watch_that_repeats_its_start, rejected_by: &[WATCH] },
    Mutation { name: "news before its time", edits: news_before_its_time, rejected_by: &[REVISION] },
];

/// Changes `history` in one place, if there is one.
pub(super) fn mutate(history: &mut History, mutation: &Mutation, entropy: &Entropy) -> bool {
    let mut edits = (mutation.edits)(history);
    if edits.is_empty() {
        return false;
    }
    let chosen = entropy.next_u64() as usize % edits.len();
    edits.swap_remove(chosen)(history);
    true
}

fn edit(change: impl FnOnce(&mut History) + 'static) -> Edit {
    Box::new(change)
}

/// A commit that was answered and wrote some value.
struct Commit<'a> {
    index: usize,
    operation: &'a Operation,
    returned: u64,
    txn: &'a Txn,
    revision: Revision,
}

fn commits(history: &History) -> impl Iterator<Item = Commit<'_>> {
    history.operations.iter().enumerate().filter_map(|(index, operation)| match &operation.call {
        Call::Commit { txn, outcome: Outcome::Committed(revision) }
            if txn.ops.iter().any(|op| matches!(op, Op::Put(..))) =>
        {
            Some(Commit { index, operation, returned: operation.returned?, txn, revision: *revision })
        }
        _ => None,
    })
}

fn listings(history: &History) -> impl Iterator<Item = (usize, &Operation, &Listing)> {
    history.operations.iter().enumerate().filter_map(|(index, operation)| match &operation.call {
        Call::List { listing, .. } => Some((index, operation, listing)),
        _ => None,
    })
}

fn gets(history: &History) -> impl Iterator<Item = (usize, &Operation, &Key, Option<&Entry>)> {
    history.operations.iter().enumerate().filter_map(|(index, operation)| match &operation.call {
        Call::Get { key, entry } => Some((index, operation, key, entry.as_ref())),
        _ => None,
    })
}

/// All entries that reads have shown.
fn entries(history: &History) -> impl Iterator<Item = &Entry> {
    let listed = listings(history).flat_map(|(_, _, listing)| &listing.entries);
    listed.chain(gets(history).filter_map(|(_, _, _, entry)| entry))
}

/// Batches that hold changes, with the number of the watch and the place in it.
fn batches(history: &History) -> impl Iterator<Item = (usize, usize, &Batch)> {
    history.watches.iter().enumerate().flat_map(|(watch, watched)| {
        let changes = watched.told.iter().enumerate().filter(|(_, told)| !told.batch.changes.is_empty());
        changes.map(move |(place, told)| (watch, place, &told.batch))
    })
}

fn listing_mut(history: &mut History, index: usize) -> &mut Listing {
    match &mut history.operations[index].call {
        Call::List { listing, .. } => listing,
        call => panic!("{call:?} is no listing"),
    }
}

fn answer_get(index: usize, answer: Option<Entry>) -> Edit {
    edit(move |history| match &mut history.operations[index].call {
        Call::Get { entry, .. } => *entry = answer,
        call => panic!("{call:?} is no read"),
    })
}

fn answer_commit(index: usize, answer: Outcome) -> Edit {
    edit(move |history| match &mut history.operations[index].call {
        Call::Commit { outcome, .. } => *outcome = answer,
        call => panic!("{call:?} is no commit"),
    })
}

fn told_mut(history: &mut History, watch: usize) -> &mut Vec<Told> {
    &mut history.watches[watch].told
}

/// Whether `commit` put an end to the version of `key` that was written at `seen`.
fn ends(commit: &Commit<'_>, key: &Key, seen: Revision) -> bool {
    commit.txn.checks.contains(&Check::Unchanged(key.clone(), seen)) && commit.txn.ops.iter().any(|op| op.key() == key)
}

fn listing_without_an_entry(history: &History) -> Vec<Edit> {
    let all = listings(history).flat_map(|(index, _, listing)| (0..listing.entries.len()).map(move |at| (index, at)));
    all.map(|(index, at)| edit(move |history| drop(listing_mut(history, index).entries.remove(at)))).collect()
}

fn listing_with_a_strange_value(history: &History) -> Vec<Edit> {
    let all = listings(history).flat_map(|(index, _, listing)| (0..listing.entries.len()).map(move |at| (index, at)));
    let strange = Bytes::from_static(b"strange");
    all.map(|(index, at)| {
        let value = strange.clone();
        edit(move |history| listing_mut(history, index).entries[at].value = value)
    })
    .collect()
}

fn listing_of_two_instants(history: &History) -> Vec<Edit> {
    let mut edits = Vec::new();
    for (index, _, listing) in listings(history) {
        for (at, entry) in listing.entries.iter().enumerate() {
            let older =
                entries(history).find(|older| older.key == entry.key && older.modified < entry.modified).cloned();
            edits.extend(older.map(|older| edit(move |history| listing_mut(history, index).entries[at] = older)));
        }
    }
    edits
}

fn listing_dated_back(history: &History) -> Vec<Edit> {
    let newest = |listing: &Listing| listing.entries.iter().any(|entry| entry.modified == listing.revision);
    let all = listings(history).filter(|(_, _, listing)| newest(listing));
    all.map(|(index, ..)| edit(move |history| listing_mut(history, index).revision.0 -= 1)).collect()
}

fn read_of_what_was_replaced(history: &History) -> Vec<Edit> {
    let mut edits = Vec::new();
    for (index, get, key, _) in gets(history) {
        let gone = |older: &&Entry| {
            older.key == *key
                && commits(history).any(|commit| commit.returned < get.invoked && ends(&commit, key, older.modified))
        };
        edits.extend(entries(history).find(gone).map(|older| answer_get(index, Some(older.clone()))));
    }
    edits
}

fn read_of_nothing(history: &History) -> Vec<Edit> {
    let mut edits = Vec::new();
    for (index, get, key, _) in gets(history) {
        let writes = history.operations.iter().filter_map(|operation| match &operation.call {
            Call::Commit { txn, .. } => Some(txn),
            _ => None,
        });
        let deleted = writes.into_iter().any(|txn| txn.ops.contains(&Op::Delete(key.clone())));
        let there = commits(history)
            .any(|commit| commit.returned < get.invoked && commit.txn.ops.iter().any(|op| op.key() == key));
        edits.extend((there && !deleted).then(|| answer_get(index, None)));
    }
    edits
}

fn read_of_the_future(history: &History) -> Vec<Edit> {
    let mut edits = Vec::new();
    for (index, get, key, _) in gets(history) {
        let later = entries(history).find(|entry| {
            let wrote = |commit: &Commit<'_>| commit.revision == entry.modified;
            entry.key == *key
                && commits(history).find(wrote).is_some_and(|commit| Some(commit.operation.invoked) > get.returned)
        });
        edits.extend(later.map(|later| answer_get(index, Some(later.clone()))));
    }
    edits
}

fn revision_that_goes_back(history: &History) -> Vec<Edit> {
    let mut edits = Vec::new();
    for (index, operation) in history.operations.iter().enumerate() {
        if !matches!(operation.call, Call::Revision(_)) {
            continue;
        }
        let before = commits(history).filter(|commit| commit.returned < operation.invoked);
        edits.extend(before.map(|commit| {
            let earlier = Revision(commit.revision.0 - 1);
            edit(move |history| history.operations[index].call = Call::Revision(earlier))
        }));
    }
    edits
}

fn commits_in_the_wrong_order(history: &History) -> Vec<Edit> {
    let mut edits = Vec::new();
    for first in commits(history) {
        for second in commits(history).filter(|second| first.returned < second.operation.invoked) {
            let swap = [(first.index, second.revision), (second.index, first.revision)];
            edits.push(edit(move |history| {
                swap.into_iter().for_each(|(index, at)| answer_commit(index, Outcome::Committed(at))(history));
            }));
        }
    }
    edits
}

fn one_revision_twice(history: &History) -> Vec<Edit> {
    let pairs = commits(history).zip(commits(history).skip(1));
    pairs.map(|(one, other)| answer_commit(other.index, Outcome::Committed(one.revision))).collect()
}

/// The commit of the fence is the last, and told to every watcher.
fn revision_left_out(history: &History) -> Vec<Edit> {
    let last = commits(history).max_by_key(|commit| commit.revision);
    let told = last.filter(|last| batches(history).any(|(_, _, batch)| batch.revision == last.revision));
    let edits = told.map(|last| answer_commit(last.index, Outcome::Committed(Revision(last.revision.0 + 1))));
    edits.into_iter().collect()
}

fn conflict_told_as_a_commit(history: &History) -> Vec<Edit> {
    let Some(last) = commits(history).max_by_key(|commit| commit.revision) else { return Vec::new() };
    let next = Revision(last.revision.0 + 1);
    let conflicts = history.operations.iter().enumerate().filter(|(_, operation)| match &operation.call {
        Call::Commit { txn, outcome: Outcome::Conflict { .. } } => {
            operation.returned < Some(last.operation.invoked) && txn.ops.iter().any(|op| matches!(op, Op::Put(..)))
        }
        _ => false,
    });
    conflicts.map(|(index, _)| answer_commit(index, Outcome::Committed(next))).collect()
}

/// As where a store tries a commit again that has happened already.
fn commit_told_as_a_conflict(history: &History) -> Vec<Edit> {
    let told = |revision| batches(history).any(|(_, _, batch)| batch.revision == revision);
    let mut edits = Vec::new();
    for commit in commits(history).filter(|commit| told(commit.revision)) {
        let key = commit.txn.checks[0].key();
        let puts = commit.txn.ops.iter().any(|op| matches!(op, Op::Put(of, _) if of == key));
        let conflict = Outcome::Conflict { key: key.clone(), actual: Some(commit.revision) };
        edits.extend(puts.then(|| answer_commit(commit.index, conflict)));
    }
    edits
}

/// A revision at which the key was not written, but another was.
fn conflict_with_a_stranger(history: &History) -> Vec<Edit> {
    let mut edits = Vec::new();
    for (index, operation) in history.operations.iter().enumerate() {
        let Call::Commit { outcome: Outcome::Conflict { key, .. }, .. } = &operation.call else { continue };
        let strangers = commits(history).filter(|commit| commit.txn.ops.iter().all(|op| op.key() != key));
        edits.extend(strangers.map(|stranger| {
            answer_commit(index, Outcome::Conflict { key: key.clone(), actual: Some(stranger.revision) })
        }));
    }
    edits
}

fn write_of_nobody(history: &History) -> Vec<Edit> {
    let told = |revision| batches(history).any(|(_, _, batch)| batch.revision == revision);
    let all = commits(history).filter(|commit| told(commit.revision));
    all.map(|commit| {
        let index = commit.index;
        edit(move |history| drop(history.operations.remove(index)))
    })
    .collect()
}

fn lost_batch(history: &History) -> Vec<Edit> {
    let followed = batches(history).filter(|(watch, place, _)| place + 1 < history.watches[*watch].told.len());
    followed.map(|(watch, place, _)| edit(move |history| drop(told_mut(history, watch).remove(place)))).collect()
}

fn repeated_batch(history: &History) -> Vec<Edit> {
    let repeat = |watch: usize, place: usize| {
        move |history: &mut History| {
            let again = told_mut(history, watch)[place].clone();
            told_mut(history, watch).insert(place, again);
        }
    };
    batches(history).map(|(watch, place, _)| edit(repeat(watch, place))).collect()
}

fn swapped_batches(history: &History) -> Vec<Edit> {
    let swap = |watch: usize, place: usize| {
        move |history: &mut History| {
            let told = told_mut(history, watch);
            let first = told[place].batch.clone();
            told[place].batch = std::mem::replace(&mut told[place + 1].batch, first);
        }
    };
    let pairs = batches(history).zip(batches(history).skip(1));
    let together = pairs.filter(|(one, other)| one.0 == other.0 && one.1 + 1 == other.1);
    together.map(|((watch, place, _), _)| edit(swap(watch, place))).collect()
}

fn split_batch(history: &History) -> Vec<Edit> {
    let split = |watch: usize, place: usize| {
        move |history: &mut History| {
            let told = told_mut(history, watch);
            let mut rest = told[place].clone();
            told[place].batch.changes.truncate(1);
            rest.batch.changes.remove(0);
            told.insert(place + 1, rest);
        }
    };
    let several = batches(history).filter(|(_, _, batch)| batch.changes.len() > 1);
    several.map(|(watch, place, _)| edit(split(watch, place))).collect()
}

fn torn_batch(history: &History) -> Vec<Edit> {
    let several = batches(history).filter(|(_, _, batch)| batch.changes.len() > 1);
    several
        .map(|(watch, place, _)| edit(move |history| drop(told_mut(history, watch)[place].batch.changes.pop())))
        .collect()
}

fn strange_change(history: &History) -> Vec<Edit> {
    let puts = batches(history).filter(|(_, _, batch)| matches!(batch.changes[0], Change::Put(_)));
    puts.map(|(watch, place, _)| {
        edit(move |history| {
            if let Change::Put(entry) = &mut told_mut(history, watch)[place].batch.changes[0] {
                entry.value = Bytes::from_static(b"strange");
            }
        })
    })
    .collect()
}

/// Puts a bookmark of `revision` into a watch at `place`.
fn bookmark(watch: usize, place: usize, revision: Revision) -> Edit {
    edit(move |history| {
        let told = told_mut(history, watch);
        let at = told[place.min(told.len() - 1)].at;
        told.insert(place, Told { at, batch: Batch { revision, changes: Vec::new() } });
    })
}

fn bookmark_ahead(history: &History) -> Vec<Edit> {
    batches(history).map(|(watch, place, batch)| bookmark(watch, place, batch.revision)).collect()
}

fn bookmark_behind(history: &History) -> Vec<Edit> {
    batches(history).map(|(watch, place, batch)| bookmark(watch, place + 1, Revision(batch.revision.0 - 1))).collect()
}

fn bookmark_of_the_future(history: &History) -> Vec<Edit> {
    let Some(last) = commits(history).map(|commit| commit.revision).max() else { return Vec::new() };
    let read = history.watches.iter().enumerate().filter(|(_, watched)| !watched.told.is_empty());
    // No more commits can have happened than were made.
    let never = Revision(last.0 + history.operations.len() as u64);
    read.map(|(watch, watched)| bookmark(watch, watched.told.len(), never)).collect()
}

/// On a watch of a revision to come, which says that it has come there before anyone took it.
fn bookmark_before_its_time(history: &History) -> Vec<Edit> {
    let all = commits(history).map(|commit| {
        let (after, at) = (commit.revision, commit.operation.invoked - 1);
        let told = vec![Told { at, batch: Batch { revision: after, changes: Vec::new() } }];
        let watched = Watched { prefix: Prefix::all(), after, told, compacted: None };
        edit(move |history| history.watches.push(watched))
    });
    all.collect()
}

fn news_from_before_the_start(history: &History) -> Vec<Edit> {
    let first = batches(history).filter(|(_, place, _)| *place == 0);
    first
        .map(|(watch, _, batch)| {
            let (key, revision) = (batch.changes[0].key().clone(), history.start.revision);
            edit(move |history| {
                let told = told_mut(history, watch);
                let news = Batch { revision, changes: vec![Change::Delete(key)] };
                told.insert(0, Told { at: told[0].at, batch: news });
            })
        })
        .collect()
}

fn watch_that_repeats_its_start(history: &History) -> Vec<Edit> {
    let first = batches(history).filter(|(_, place, _)| *place == 0);
    first
        .map(|(watch, _, batch)| {
            let after = batch.revision;
            edit(move |history| history.watches[watch].after = after)
        })
        .collect()
}

fn news_before_its_time(history: &History) -> Vec<Edit> {
    let mut edits = Vec::new();
    for (watch, place, batch) in batches(history) {
        let writer = commits(history).find(|commit| commit.revision == batch.revision);
        edits.extend(writer.map(|writer| {
            let before = writer.operation.invoked - 1;
            edit(move |history| told_mut(history, watch)[place].at = before)
        }));
    }
    edits
}
