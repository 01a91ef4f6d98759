//! Who wrote each revision.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Bound, RangeInclusive},
};

use super::{
    super::super::{Batch, Change, Check, Entry, Key, Listing, Op, Prefix, Revision, Txn},
    Call, History, Operation, Outcome, Property, Violation,
};

/// How many choices between commits without an answer are taken back before the history counts as broken.
const RETRIES_MAX: usize = 10_000;

/// The commits of a history in the order of their revisions.
#[derive(Debug)]
pub(super) struct Timeline {
    start: Revision,
    /// What was there at the start, by when it was written.
    left: BTreeMap<Revision, Vec<Change>>,
    /// Those at `start + 1` and on, without a hole.
    commits: Vec<Written>,
}

/// A commit that changed something.
#[derive(Clone, Debug)]
pub(super) struct Written {
    /// Its place among the operations.
    pub(super) operation: usize,
    /// What it changed, in key order.
    pub(super) changes: Vec<Change>,
}

impl Timeline {
    /// Finds the writer of every revision that `history` tells of.
    ///
    /// That of a commit with an answer is told. The others must have been written by commits without one; which, what was
    /// read and watched of them decides, and where that leaves a choice, whether all later commits hold.
    pub(super) fn of(history: &History) -> Result<Self, Violation> {
        let start = history.start.revision;
        let commits = Replay::new(history)?.run()?;
        let mut left: BTreeMap<Revision, Vec<Change>> = BTreeMap::new();
        for entry in &history.start.entries {
            left.entry(entry.modified).or_default().push(Change::Put(entry.clone()));
        }
        Ok(Self { start, left, commits })
    }

    pub(super) fn start(&self) -> Revision {
        self.start
    }

    pub(super) fn last(&self) -> Revision {
        Revision(self.start.0 + self.commits.len() as u64)
    }

    /// The commits with their revisions.
    pub(super) fn commits(&self) -> impl Iterator<Item = (Revision, &Written)> {
        (self.start.0 + 1..).map(Revision).zip(&self.commits)
    }

    /// Each change with its revision, in order.
    pub(super) fn changes(&self) -> impl Iterator<Item = (Revision, &Change)> {
        self.commits().flat_map(|(revision, written)| written.changes.iter().map(move |change| (revision, change)))
    }

    /// The commit that took `revision`, if that is after the start.
    pub(super) fn at(&self, revision: Revision) -> Option<&Written> {
        let place = revision.0.checked_sub(self.start.0 + 1)?;
        self.commits.get(usize::try_from(place).ok()?)
    }

    /// The first commit after `after`, and up to `until`, that changes something under `prefix`. Of one before the start
    /// only what is left of it.
    pub(super) fn next(&self, prefix: &Prefix, after: Revision, until: Revision) -> Option<Batch> {
        let skip = usize::try_from(after.0.saturating_sub(self.start.0)).unwrap_or(usize::MAX);
        let later = self.commits().skip(skip).take_while(|(revision, _)| *revision <= until);
        let earlier = self.left.range((Bound::Excluded(after), Bound::Unbounded));
        let earlier = earlier.take_while(|(revision, _)| **revision <= until);
        earlier
            .map(|(revision, changes)| (*revision, changes))
            .chain(later.map(|(revision, written)| (revision, &written.changes)))
            .map(|(revision, changes)| Batch { revision, changes: under(prefix, changes) })
            .find(|batch| !batch.changes.is_empty())
    }
}

/// The part of `changes` that is under `prefix`.
pub(super) fn under(prefix: &Prefix, changes: &[Change]) -> Vec<Change> {
    changes.iter().filter(|change| prefix.contains(change.key())).cloned().collect()
}

/// Whether `txn`, if it commits, takes a revision: whoever deletes a key that must be absent changes nothing.
pub(super) fn changes_something(txn: &Txn) -> bool {
    txn.ops.iter().any(|op| match op {
        Op::Put(..) => true,
        Op::Delete(key) => txn.checks.iter().any(|check| matches!(check, Check::Unchanged(of, _) if of == key)),
    })
}

/// What is known of the revisions, for finding their writers.
struct Replay<'a> {
    history: &'a History,
    last: Revision,
    known: BTreeMap<Revision, usize>,
    /// The commits without an answer, in the order in which they were made.
    unknown: Vec<usize>,
    entries: BTreeMap<Revision, Vec<&'a Entry>>,
    listings: BTreeMap<Revision, Vec<(usize, &'a Prefix, &'a Listing)>>,
    batches: BTreeMap<Revision, Vec<(&'a Prefix, &'a Batch)>>,
    /// From where to where each watch was read.
    read: Vec<(&'a Prefix, RangeInclusive<Revision>)>,
}

/// The state after a beginning of the commits.
#[derive(Clone, Default)]
struct State {
    live: BTreeMap<Key, Entry>,
    commits: Vec<Written>,
    used: BTreeSet<usize>,
}

impl<'a> Replay<'a> {
    fn new(history: &'a History) -> Result<Self, Violation> {
        let mut replay = Self {
            history,
            last: history.start.revision,
            known: BTreeMap::new(),
            unknown: Vec::new(),
            entries: BTreeMap::new(),
            listings: BTreeMap::new(),
            batches: BTreeMap::new(),
            read: Vec::new(),
        };
        for (index, operation) in history.operations.iter().enumerate() {
            replay.note(index, operation)?;
        }
        for watched in &history.watches {
            watched.told.iter().for_each(|told| replay.heard(told.batch.revision));
            let last = watched.told.last().map(|told| told.batch.revision);
            replay.read.extend(last.map(|last| (&watched.prefix, Revision(watched.after.0 + 1)..=last)));
            for told in watched.told.iter().filter(|told| !told.batch.changes.is_empty()) {
                replay.batches.entry(told.batch.revision).or_default().push((&watched.prefix, &told.batch));
            }
        }
        replay.count_holes()?;
        Ok(replay)
    }

    fn note(&mut self, index: usize, operation: &'a Operation) -> Result<(), Violation> {
        match &operation.call {
            Call::Get { entry, .. } => entry.iter().for_each(|entry| self.saw(entry)),
            Call::List { prefix, listing } => {
                self.heard(listing.revision);
                listing.entries.iter().for_each(|entry| self.saw(entry));
                self.listings.entry(listing.revision).or_default().push((index, prefix, listing));
            }
            Call::Revision(revision) => self.heard(*revision),
            Call::Commit { txn, outcome } => match outcome {
                Outcome::Committed(revision) => {
                    self.heard(*revision);
                    if changes_something(txn) {
                        self.wrote(index, *revision)?;
                    }
                }
                Outcome::Conflict { actual, .. } => actual.iter().for_each(|actual| self.heard(*actual)),
                Outcome::Unknown if changes_something(txn) => self.unknown.push(index),
                Outcome::Unknown => {}
            },
        }
        Ok(())
    }

    fn heard(&mut self, revision: Revision) {
        self.last = self.last.max(revision);
    }

    fn saw(&mut self, entry: &'a Entry) {
        self.heard(entry.modified);
        self.entries.entry(entry.modified).or_default().push(entry);
    }

    fn wrote(&mut self, index: usize, revision: Revision) -> Result<(), Violation> {
        let operation = &self.history.operations[index];
        if revision <= self.history.start.revision {
            let start = self.history.start.revision;
            let detail = format!("the history begins at {start}, and after it there is {operation}");
            return Err(Violation::new(Property::Order, detail));
        }
        if let Some(other) = self.known.insert(revision, index) {
            let other = &self.history.operations[other];
            return Err(Violation::new(Property::Order, format!("one revision for {other} and {operation}")));
        }
        Ok(())
    }

    /// Refuses more revisions than there can be writers, before they are looked for one by one.
    fn count_holes(&self) -> Result<(), Violation> {
        let revisions = self.last.0 - self.history.start.revision.0;
        let writers = self.known.len() + self.unknown.len();
        if revisions > writers as u64 {
            let detail = format!("{} is told of, but {writers} commits at most have happened", self.last);
            return Err(Violation::new(Property::Order, detail));
        }
        Ok(())
    }

    fn run(&self) -> Result<Vec<Written>, Violation> {
        let live = self.history.start.entries.iter().map(|entry| (entry.key.clone(), entry.clone())).collect();
        let mut state = State { live, ..State::default() };
        self.compare_listings(&state)?;
        let mut branches: Vec<(State, Vec<usize>)> = Vec::new();
        let (mut deepest, mut retries) = (None, 0);
        while self.revision(&state) < self.last {
            let mut candidates = self.candidates(&state);
            let taken = candidates.pop();
            if !candidates.is_empty() {
                branches.push((state.clone(), candidates));
            }
            let mut step = self.step(&mut state, taken);
            while let Err(violation) = step {
                let depth = state.commits.len();
                if deepest.as_ref().is_none_or(|(at, _)| *at < depth) {
                    deepest = Some((depth, violation));
                }
                retries += 1;
                let branch = branches.last_mut().filter(|_| retries < RETRIES_MAX);
                let Some((before, untried)) = branch else { return Err(deepest.expect("one was just found").1) };
                state = before.clone();
                let next = untried.pop();
                if untried.is_empty() {
                    branches.pop();
                }
                step = self.step(&mut state, next);
            }
        }
        Ok(state.commits)
    }

    /// The revision that `state` has come to.
    fn revision(&self, state: &State) -> Revision {
        Revision(self.history.start.revision.0 + state.commits.len() as u64)
    }

    fn nobody(&self, state: &State) -> Violation {
        let revision = Revision(self.revision(state).0 + 1);
        let detail = format!("no commit can have taken {revision}, but {} is told of", self.last);
        Violation::new(Property::Order, detail)
    }

    /// Who can have written the next revision, the best last.
    fn candidates(&self, state: &State) -> Vec<usize> {
        let next = Revision(self.revision(state).0 + 1);
        if let Some(&known) = self.known.get(&next) {
            return vec![known];
        }
        let mut fitting: Vec<(usize, Vec<Change>)> = Vec::new();
        for &index in self.unknown.iter().filter(|index| !state.used.contains(index)) {
            let txn = txn(&self.history.operations[index]);
            if broken_check(txn, &state.live).is_some() {
                continue;
            }
            let changes = changes(txn, next, &state.live);
            // Of two with the same effect the one that was made first explains whatever the other does.
            if self.is_as_seen(next, &changes) && fitting.iter().all(|(_, of_other)| *of_other != changes) {
                fitting.push((index, changes));
            }
        }
        // Of those that fit, one of which no watch was told that should have been is the last to think of.
        let (silent, heard): (Vec<_>, Vec<_>) =
            fitting.into_iter().rev().partition(|(_, changes)| self.is_missed(next, changes));
        silent.into_iter().chain(heard).map(|(index, _)| index).collect()
    }

    /// Whether a watch was read past `revision` and not told of `changes`.
    fn is_missed(&self, revision: Revision, changes: &[Change]) -> bool {
        let is_told = self.batches.contains_key(&revision);
        let mut past = self.read.iter().filter(|(_, read)| !is_told && read.contains(&revision));
        past.any(|(prefix, _)| !under(prefix, changes).is_empty())
    }

    /// Whether `changes` at `revision` are what was read and watched of it.
    fn is_as_seen(&self, revision: Revision, changes: &[Change]) -> bool {
        let batches = self.batches.get(&revision).into_iter().flatten();
        let entries = self.entries.get(&revision).into_iter().flatten();
        let puts = |entry: &Entry| changes.iter().any(|change| matches!(change, Change::Put(put) if put == entry));
        batches.into_iter().all(|(prefix, batch)| under(prefix, changes) == batch.changes) && entries.copied().all(puts)
    }

    /// Lets `writer`, if there is one, write the next revision.
    fn step(&self, state: &mut State, writer: Option<usize>) -> Result<(), Violation> {
        let Some(index) = writer else { return Err(self.nobody(state)) };
        let next = Revision(self.revision(state).0 + 1);
        let operation = &self.history.operations[index];
        let txn = txn(operation);
        if let Some((check, actual)) = broken_check(txn, &state.live) {
            let detail = format!("{check:?} failed, as the key was at {actual:?}, but there is {operation}");
            return Err(Violation::new(Property::Atomicity, detail));
        }
        let changes = changes(txn, next, &state.live);
        for change in &changes {
            match change {
                Change::Put(entry) => state.live.insert(entry.key.clone(), entry.clone()),
                Change::Delete(key) => state.live.remove(key),
            };
        }
        state.used.insert(index);
        state.commits.push(Written { operation: index, changes });
        self.compare_listings(state)
    }

    /// Holds the listings as of the revision of `state` against it.
    fn compare_listings(&self, state: &State) -> Result<(), Violation> {
        for (index, prefix, listing) in self.listings.get(&self.revision(state)).into_iter().flatten() {
            let live = state
                .live
                .range::<str, _>((Bound::Included(prefix.as_str()), Bound::Unbounded))
                .map(|(_, entry)| entry);
            let live = live.take_while(|entry| prefix.contains(&entry.key));
            if !live.clone().eq(&listing.entries) {
                let is: Vec<_> = live.map(|entry| (entry.key.as_str(), &entry.value, entry.modified)).collect();
                let detail = format!("there was {is:?} at that revision, but {}", self.history.operations[*index]);
                return Err(Violation::new(Property::Atomicity, detail));
            }
        }
        Ok(())
    }
}

fn txn(operation: &Operation) -> &Txn {
    match &operation.call {
        Call::Commit { txn, .. } => txn,
        call => unreachable!("only commits write, not {call:?}"),
    }
}

/// The first check that does not hold, and when its key was last written.
fn broken_check<'a>(txn: &'a Txn, live: &BTreeMap<Key, Entry>) -> Option<(&'a Check, Option<Revision>)> {
    let checks = txn.checks.iter().map(|check| (check, live.get(check.key()).map(|entry| entry.modified)));
    checks.into_iter().find(|(check, actual)| check.hold(*actual).is_err())
}

/// What `txn` changes if it commits at `revision`, in key order.
fn changes(txn: &Txn, revision: Revision, live: &BTreeMap<Key, Entry>) -> Vec<Change> {
    let mut changes: Vec<Change> = txn
        .ops
        .iter()
        .filter_map(|op| match op {
            Op::Put(key, value) => {
                let created = live.get(key).map_or(revision, |entry| entry.created);
                Some(Change::Put(Entry { key: key.clone(), value: value.clone(), created, modified: revision }))
            }
            Op::Delete(key) => live.contains_key(key).then(|| Change::Delete(key.clone())),
        })
        .collect();
    changes.sort_by(|a, b| a.key().cmp(b.key()));
    changes
}
